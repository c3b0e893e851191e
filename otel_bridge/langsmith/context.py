"""Which run a span hangs below: within this process, and under `@traceable`."""

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

from otel_bridge._core.lifecycle import renew_after_fork

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

THREAD_KEYS = ("session_id", "thread_id", "conversation_id")
"""Metadata by which LangSmith groups traces into a thread; every run of it has to carry them."""
_START_FORMAT = "%Y%m%dT%H%M%S%fZ"
_TRIES = 8
"""Open spans that are passed over, at most, for one to forget; the bound is passed then."""


@dataclass(slots=True)
class RunContext:
    """A run that other runs can hang below; `dotted_order` ends with its own segment."""

    id: str
    trace_id: str
    dotted_order: str
    start_ns: int
    project: str | None = None
    parts: int = 1
    """Number of LangSmith traces that the runs below a batch are spread over."""
    span: ref[ReadableSpan] | None = None
    """The open span, for as long as somebody in this process has it."""
    parent: RunContext | None = None
    span_id: int = 0
    thread: Mapping[str, str] = field(default_factory=dict)
    """Which thread the trace belongs to, by `THREAD_KEYS`."""
    counts_calls: bool = False
    """Whether the run counts a model call itself, as those of `wrap_anthropic` do."""

    @property
    def held(self) -> bool:
        """Whether somebody still has the open span."""
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
    """The `@traceable` run that is active here, copied since its holder keeps a weak reference."""
    if "langsmith.run_trees" not in sys.modules:
        return None  # nobody has a run, and loading the SDK takes a quarter of a second
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
    """What of a run's metadata names its thread."""
    return {name: str(metadata[name]) for name in THREAD_KEYS if metadata.get(name)}


def nearest(known: RunContext | None, active: RunContext | None) -> RunContext | None:
    """The nearer of two runs that are open here: the one below the other, else the later."""
    if known is None or active is None:
        return known or active
    if known.trace_id == active.trace_id:
        return active if len(active.dotted_order) > len(known.dotted_order) else known
    return active if active.start_ns > known.start_ns else known


class Ancestry:
    """Runs by span id, kept while spans may still be started below them.

    That of an open span is known for as long as somebody has the span: a batch may be waited for
    over 24 hours, and its requests belong below it. Others are remembered, up to a bound.
    """

    def __init__(self, size: int = 10_000) -> None:
        self._runs: OrderedDict[int, RunContext] = OrderedDict()
        self.peek = self._runs.get
        """Look a run up, in passing."""
        self._size = size
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """A lock that a thread held while its process forked would be held for ever."""
        self._lock = threading.Lock()

    def get(self, span_id: int) -> RunContext | None:
        run = self._runs.get(span_id)
        if run is not None:
            with self._lock:
                if span_id in self._runs:
                    self._runs.move_to_end(span_id)  # what spans are started below stays
        return run

    def note(self, span_id: int, run: RunContext) -> None:
        """Remember; what was asked for longest ago goes when there are too many."""
        with self._lock:
            self._runs[span_id] = run
            for _ in range(_TRIES):
                if len(self._runs) <= self._size:
                    break
                oldest, its = self._runs.popitem(last=False)
                if its.held:
                    self._runs[oldest] = its


ancestry = Ancestry()
