"""The run of a span: its ids, its parent and the thread that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from otel_bridge import identity, semconv
from otel_bridge.propagation.active_runs import (
    RunContext,
    active_runs,
    nearest,
    remote_parent,
    traceable_parent,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan

RUNS_PER_TRACE = 20_000
"""LangSmith accepts 25,000 runs in one trace; requests are spread by hash, hence the margin."""

OnOpened = Callable[[RunContext, str, int, RunContext], None]


def parent_of(span: ReadableSpan, context: Context | None) -> RunContext | None:
    """Return the parent run of a starting span: its parent span's, or a nearer `@traceable` one."""
    run = active_runs.get(span.parent.span_id) if span.parent else None
    return nearest(run or remote_parent(context), traceable_parent())


def existing_parent(span: ReadableSpan) -> RunContext | None:
    """Return the run of an ended span's parent span, None for an unknown one."""
    return active_runs.get(span.parent.span_id) if span.parent else None


def build_context(
    span: ReadableSpan,
    parent: RunContext | None,
    attributes: Mapping[str, Any],
    on_opened: OnOpened | None,
) -> RunContext:
    """Build the run of a span below `parent`.

    A batch with more requests than LangSmith accepts in one trace is spread over several traces.
    `on_opened` is called with the root of each further trace when that is first needed. Without
    `on_opened`, the requests of further traces are roots themselves.
    """
    # LangSmith refuses a child that starts before its parent.
    start = max(span.start_time or 0, parent.start_ns if parent else 0)
    custom_id = attributes.get(semconv.BATCH_CUSTOM_ID)
    if parent and parent.trace_shards > 1 and custom_id is not None:
        parent = _continuation(parent, attributes, str(custom_id), start, on_opened)
    run_id = identity.run_id(span.context.span_id, start)
    run = RunContext(
        run_id,
        parent.trace_id if parent else run_id,
        identity.dotted_order(run_id, start, parent.dotted_order if parent else None),
        start,
        parent.project if parent else None,
        parent=parent,
        span_id=span.context.span_id,
        thread=_thread(parent, attributes),
    )
    requests = attributes.get(semconv.BATCH_REQUEST_SPAN_COUNT)
    if isinstance(requests, int):
        run.trace_shards = max(1, -(-requests // RUNS_PER_TRACE))
    return run


def ancestors(run: RunContext) -> Iterator[RunContext]:
    """Yield a run's ancestors, the nearest first."""
    node = run.parent
    while node is not None:
        yield node
        node = node.parent


def counted_by_traceable(run: RunContext) -> bool:
    """Whether LangSmith's own wrapper counts an ending model call.

    It counts a call that began below its run, and a stream that is read through it.
    """
    active = traceable_parent()
    return (active is not None and active.counts_calls) or any(
        node.counts_calls for node in ancestors(run)
    )


def _thread(parent: RunContext | None, attributes: Mapping[str, Any]) -> Mapping[str, str]:
    if parent is not None and parent.thread:
        return parent.thread
    conversation = attributes.get(semconv.GEN_AI_CONVERSATION_ID) or attributes.get("session.id")
    return {"conversation_id": str(conversation)} if conversation else {}


def _continuation(
    batch: RunContext,
    attributes: Mapping[str, Any],
    custom_id: str,
    start: int,
    on_opened: OnOpened | None,
) -> RunContext | None:
    batch_id = str(attributes[semconv.BATCH_ID])
    shard = identity.spread(batch_id, custom_id) % batch.trace_shards
    if shard == 0:
        return batch
    if on_opened is None:
        return None
    span_id = identity.continuation_span_id(batch_id, shard)
    existing = active_runs.get(span_id)
    if existing is not None:
        return existing
    run_id = identity.run_id(span_id, start)
    order = identity.dotted_order(run_id, start)
    root = RunContext(run_id, run_id, order, start, batch.project, thread=batch.thread)
    active_runs.add(span_id, root)
    on_opened(root, batch_id, shard, batch)
    return root
