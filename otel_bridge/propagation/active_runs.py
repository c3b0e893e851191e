"""Which LangSmith run is active: of a span, under `@traceable`, or extracted from headers."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID
from weakref import ref

from opentelemetry import context as otel_context

from otel_bridge._core.lifecycle import renew_after_fork

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan

THREAD_KEYS = ("session_id", "thread_id", "conversation_id")
"""Metadata by which LangSmith groups traces into a thread; every run of it has to carry them."""
_START_FORMAT = "%Y%m%dT%H%M%S%fZ"
_TRIES = 8
"""Number of open spans that are kept in a row where one run is to be forgotten."""
_REMOTE = otel_context.create_key("otel-bridge-langsmith-run")


@dataclass(slots=True)
class RunContext:
    """A run that can be the parent of others; `dotted_order` ends with its own segment."""

    id: str
    trace_id: str
    dotted_order: str
    start_ns: int
    project: str | None = None
    trace_shards: int = 1
    """Number of LangSmith traces that the runs below a batch are spread over."""
    span: ref[ReadableSpan] | None = None
    """The span while it is open; the reference dies when the program drops the span."""
    parent: RunContext | None = None
    span_id: int = 0
    thread: Mapping[str, str] = field(default_factory=dict)
    """Which thread the trace belongs to, by `THREAD_KEYS`."""
    counts_calls: bool = False
    """Whether the run counts a model call itself, as those of `wrap_anthropic` do."""

    @property
    def is_open(self) -> bool:
        """Whether the span is open and the program still holds it."""
        return self.span is not None and self.span() is not None

    @classmethod
    def from_dotted_order(cls, dotted_order: str, project: str | None = None) -> RunContext | None:
        """Read a `langsmith-trace` header; None when it is malformed."""
        try:
            segments = [segment.split("Z", 1) for segment in dotted_order.split(".")]
            ids = [str(UUID(run)) for _, run in segments]
            start = datetime.strptime(f"{segments[-1][0]}Z", _START_FORMAT).replace(tzinfo=UTC)
        except (ValueError, IndexError):
            return None
        since = start - datetime(1970, 1, 1, tzinfo=UTC)
        start_ns = ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
        return cls(ids[-1], ids[0], dotted_order, start_ns, project)


def traceable_parent() -> RunContext | None:
    """Return a copy of the active `@traceable` run, None where there is none."""
    if "langsmith.run_trees" not in sys.modules:
        return None  # without the SDK there is no run, and loading it takes 0.25 s
    from langsmith import get_current_run_tree, get_tracing_context  # noqa: PLC0415

    tree = get_current_run_tree()
    if tree is None or not tree.dotted_order:
        return None
    run = RunContext.from_dotted_order(tree.dotted_order, tree.session_name)
    if run is not None:
        run.thread = thread_of({**(get_tracing_context()["metadata"] or {}), **tree.metadata})
        run.counts_calls = tree.run_type == "llm" and "ls_provider" in tree.metadata
    return run


def thread_of(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the items of a run's metadata that name its thread."""
    return {name: str(metadata[name]) for name in THREAD_KEYS if metadata.get(name)}


def nearest(known: RunContext | None, active: RunContext | None) -> RunContext | None:
    """Return the nearer of two open runs: the one below the other, else the later one."""
    if known is None or active is None:
        return known or active
    if known.trace_id == active.trace_id:
        return active if len(active.dotted_order) > len(known.dotted_order) else known
    return active if active.start_ns > known.start_ns else known


def remote_parent(context: Context | None) -> RunContext | None:
    """Return the run that was extracted from headers into `context`."""
    run = otel_context.get_value(_REMOTE, context)
    return run if isinstance(run, RunContext) else None


def with_remote_parent(run: RunContext, context: Context) -> Context:
    """Return `context` with a run that was extracted from headers."""
    return otel_context.set_value(_REMOTE, run, context)


class ActiveRuns:
    """Runs by span id, kept while spans may still be started below them.

    The run of an open span is kept for as long as the program holds the span: a batch may take 24
    hours, and the spans of its requests are its children. Of the others, `size` are kept.
    """

    def __init__(self, size: int = 10_000) -> None:
        self._runs: OrderedDict[int, RunContext] = OrderedDict()
        self.peek = self._runs.get
        """As `get`, but the run does not count as used."""
        self._size = size
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Make a new lock: one that another thread held at the fork is never released."""
        self._lock = threading.Lock()

    def get(self, span_id: int) -> RunContext | None:
        """Return the run of a span, and count it as used."""
        run = self._runs.get(span_id)
        if run is not None:
            with self._lock:
                if span_id in self._runs:
                    self._runs.move_to_end(span_id)
        return run

    def add(self, span_id: int, run: RunContext) -> None:
        """Keep the run of a span; where there are too many, the least recently used one goes."""
        with self._lock:
            self._runs[span_id] = run
            for _ in range(_TRIES):
                if len(self._runs) <= self._size:
                    break
                oldest, oldest_run = self._runs.popitem(last=False)
                if oldest_run.is_open:
                    self._runs[oldest] = oldest_run


active_runs = ActiveRuns()
"""The process's."""
