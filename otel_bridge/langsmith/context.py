"""Which run a span hangs below: within a process, under `@traceable`, and across processes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from langsmith import get_current_run_tree
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)

from otel_bridge.process import renew_after_fork

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

HEADER = "langsmith-trace"
PROJECT_HEADER = "langsmith-project"
_KEY = otel_context.create_key("otel-bridge-langsmith-run")
_START_FORMAT = "%Y%m%dT%H%M%S%fZ"


@dataclass(slots=True)
class RunContext:
    """A run that other runs can hang below; `dotted_order` ends with its own segment."""

    id: UUID
    trace_id: UUID
    dotted_order: str
    start_ns: int
    project: str | None = None
    parts: int = 1
    """Number of LangSmith traces that the runs below a batch are spread over."""
    span: ReadableSpan | None = None
    """The open span, while it lives in this process and is not posted yet."""
    parent: RunContext | None = None

    @classmethod
    def from_dotted_order(cls, dotted_order: str, project: str | None = None) -> RunContext | None:
        """Read a `langsmith-trace` header; None when it is malformed."""
        try:
            segments = [segment.split("Z", 1) for segment in dotted_order.split(".")]
            ids = [UUID(run) for _, run in segments]
            start = datetime.strptime(f"{segments[-1][0]}Z", _START_FORMAT).replace(tzinfo=UTC)
        except (ValueError, IndexError):
            return None
        since = start - datetime(1970, 1, 1, tzinfo=UTC)
        start_ns = ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
        return cls(ids[-1], ids[0], dotted_order, start_ns, project)


def traceable_parent() -> RunContext | None:
    """The `@traceable` run that is active here, copied since its holder keeps a weak reference."""
    tree = get_current_run_tree()
    if tree is None or not tree.dotted_order:
        return None
    return RunContext.from_dotted_order(tree.dotted_order, tree.session_name)


class Ancestry:
    """Runs by span id, kept while spans may still be started below them; bounded."""

    def __init__(self, size: int = 10_000) -> None:
        self._runs: OrderedDict[int, RunContext] = OrderedDict()
        self._size = size
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """A lock that a thread held while its process forked would be held for ever."""
        self._lock = threading.Lock()

    def get(self, span_id: int) -> RunContext | None:
        return self._runs.get(span_id)

    def note(self, span_id: int, run: RunContext) -> None:
        """Remember; the oldest goes when there are too many."""
        with self._lock:
            self._runs[span_id] = run
            if len(self._runs) > self._size:
                self._runs.popitem(last=False)


ancestry = Ancestry()


class LangSmithPropagator(TextMapPropagator):
    """Carries the LangSmith run across processes as `langsmith-trace`, beside W3C headers.

    The header is LangSmith's own (`RunTree.to_headers`); the project travels as
    `langsmith-project`, since LangSmith's use of `baggage` would overwrite W3C baggage.
    """

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        context = Context() if context is None else context
        header = getter.get(carrier, HEADER)
        project = getter.get(carrier, PROJECT_HEADER)
        run = (
            RunContext.from_dotted_order(header[0], project[0] if project else None)
            if (header)
            else None
        )
        return otel_context.set_value(_KEY, run, context) if run else context

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        span = trace.get_current_span(context).get_span_context()
        run = ancestry.get(span.span_id) if span.is_valid else None
        run = run or remote_parent(context) or traceable_parent()
        if run is None:
            return
        setter.set(carrier, HEADER, run.dotted_order)
        if run.project:
            setter.set(carrier, PROJECT_HEADER, run.project)

    @property
    def fields(self) -> set[str]:
        return {HEADER, PROJECT_HEADER}


def remote_parent(context: Context | None) -> RunContext | None:
    """The run that `LangSmithPropagator` extracted into `context`."""
    run = otel_context.get_value(_KEY, context)
    return run if isinstance(run, RunContext) else None
