"""The run of a span: its ids, its place below other runs, and the thread it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from otel_bridge import identity, semconv
from otel_bridge.langsmith.context import RunContext, ancestry, nearest, traceable_parent
from otel_bridge.langsmith.propagator import remote_parent

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan

RUNS_PER_TRACE = 20_000
"""LangSmith takes 25,000 runs in one trace; requests are spread by hash, so room is left."""

Opened = Callable[[RunContext, str, int, RunContext], None]


def parent_of(span: ReadableSpan, context: Context | None) -> RunContext | None:
    """The run that a starting span hangs below; a `@traceable` one inside its parent is nearer."""
    known = ancestry.get(span.parent.span_id) if span.parent else None
    return nearest(known or remote_parent(context), traceable_parent())


def known_parent(span: ReadableSpan) -> RunContext | None:
    """The run that an ended span hangs below, as far as its parent span tells."""
    return ancestry.get(span.parent.span_id) if span.parent else None


def place(
    span: ReadableSpan,
    parent: RunContext | None,
    attributes: Mapping[str, Any],
    opened: Opened | None,
) -> RunContext:
    """The run of a span below `parent`.

    A batch with more requests than LangSmith takes in one trace is spread over several; `opened`
    hears of each further trace's root when it is first needed. Without it, the requests beyond
    the first trace are roots themselves.
    """
    # LangSmith refuses a child that starts before its parent.
    start = max(span.start_time or 0, parent.start_ns if parent else 0)
    custom_id = attributes.get(semconv.BATCH_CUSTOM_ID)
    if parent and parent.parts > 1 and custom_id is not None:
        parent = _continuation(parent, attributes, str(custom_id), start, opened)
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
        run.parts = max(1, -(-requests // RUNS_PER_TRACE))
    return run


def above(run: RunContext) -> Iterator[RunContext]:
    """A run's ancestors, the nearest first."""
    node = run.parent
    while node is not None:
        yield node
        node = node.parent


def counted_by_traceable(run: RunContext) -> bool:
    """Whether LangSmith's own wrapper counts an ending model call.

    It does for one that began below its run, and for a stream that is being read through it.
    """
    active = traceable_parent()
    return (active is not None and active.counts_calls) or any(
        node.counts_calls for node in above(run)
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
    opened: Opened | None,
) -> RunContext | None:
    batch_id = str(attributes[semconv.BATCH_ID])
    part = identity.spread(batch_id, custom_id) % batch.parts
    if part == 0:
        return batch
    if opened is None:
        return None
    span_id = identity.continuation_span_id(batch_id, part)
    known = ancestry.get(span_id)
    if known is not None:
        return known
    run_id = identity.run_id(span_id, start)
    order = identity.dotted_order(run_id, start)
    root = RunContext(run_id, run_id, order, start, batch.project, thread=batch.thread)
    ancestry.note(span_id, root)
    opened(root, batch_id, part, batch)
    return root
