"""The mirror: turns spans into runs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from weakref import ref

from opentelemetry.trace import StatusCode

from otel_bridge import semconv
from otel_bridge._core.json import as_text
from otel_bridge._core.lifecycle import renew_after_fork
from otel_bridge._core.otel_sdk import add_attributes
from otel_bridge._core.pending_content import Content, pending_content
from otel_bridge._core.shield import Shield, brief
from otel_bridge.domain import messages
from otel_bridge.langsmith import hierarchy, runs
from otel_bridge.langsmith.multipart import RunUpdate
from otel_bridge.langsmith.runs import Run, SpanView, stamps
from otel_bridge.langsmith.span_filter import SpanFilter, claim_span, is_claimed
from otel_bridge.propagation.active_runs import RunContext, active_runs

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span

    from otel_bridge.config import Settings
    from otel_bridge.langsmith.delivery import Delivery

_MAX_CALLS = 10_000


class UsageDeduplicator:
    """Selects one span of each model call, whose usage is counted, where libraries make several.

    The first span of a call to end is selected. It is the one nearest to the wire and has the most
    detail: the Anthropic SDK's own span has the service tier and the lifetime of caches, and
    libraries that wrap the SDK end their spans later. Two spans are of one call when one is an
    ancestor of the other, or when both have the same `gen_ai.response.id`, since some libraries do
    not make their span the parent.
    """

    def __init__(self) -> None:
        self._by_response: OrderedDict[Any, int] = OrderedDict()
        self._ancestors: OrderedDict[int, None] = OrderedDict()
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Renew the lock: one that a thread held during the fork is never released."""
        self._lock = threading.Lock()

    def claim(self, view: SpanView, ancestors: Iterable[int]) -> None:
        """Select an ended span for its call, unless another was; `ancestors` are span ids."""
        attributes, span = view.attributes, view.span
        has_usage = semconv.GEN_AI_USAGE_INPUT_TOKENS in attributes
        if not has_usage and span.status.status_code is not StatusCode.ERROR:
            return
        response_id = as_text(attributes.get(semconv.GEN_AI_RESPONSE_ID))
        with self._lock:
            if has_usage and response_id is not None:
                self._by_response.setdefault(response_id, span.context.span_id)
                _bound(self._by_response)
            for span_id in ancestors:
                self._ancestors[span_id] = None
            _bound(self._ancestors)

    def is_selected(self, view: SpanView) -> bool:
        """Whether the span was selected for its call."""
        span_id = view.span.context.span_id
        response_id = as_text(view.attributes.get(semconv.GEN_AI_RESPONSE_ID))
        with self._lock:
            return (
                span_id not in self._ancestors
                and self._by_response.get(response_id, span_id) == span_id
            )


_posted: dict[str, object] = {}
"""Ids of runs that were posted while they were open, for all mirrors of the process."""
_deduplicator = UsageDeduplicator()


class Mirror:
    """Makes one run of each matching span and sends it; without a delivery, stamps the span."""

    def __init__(self, settings: Settings, delivery: Delivery | None) -> None:
        self.settings = settings
        self.delivery = delivery
        self.filter = SpanFilter(
            everything=settings.langsmith_spans == "all", rate=settings.langsmith_sampling_rate
        )
        self._on_opened = self._post_continuation if delivery is not None else None
        self.shield = Shield("A span is not mirrored to LangSmith", self._drop)
        """Encloses the work for each span; a fault loses one run update."""

    def open(self, span: Span, parent_context: Context | None) -> None:
        """Register the run of a matching span that starts, as the parent of others."""
        attributes = span.attributes or {}
        if semconv.BATCH_OUTCOME in attributes or not self.filter.samples(span):
            return  # a request of a batch has no children
        parent = hierarchy.parent_of(span, parent_context)
        run = hierarchy.build_context(span, parent, attributes, self._on_opened)
        run.span = ref(span)
        active_runs.add(span.context.span_id, run)
        if attributes.get(semconv.GEN_AI_OPERATION_NAME) == "batch":
            self._post_open(run)

    def close(self, span: ReadableSpan) -> None:
        """Send the run of a matching span that has ended, or stamp the span."""
        if not self.filter.samples(span):
            pending_content.pop(span.context.span_id)
            return
        if not claim_span(span):
            return
        view = SpanView(span)
        run = self._run_of(view)
        run.span = None
        if _is_foreign_call(view):
            _deduplicator.claim(view, [node.span_id for node in hierarchy.ancestors(run)])
            if hierarchy.counted_by_traceable(run) or not _deduplicator.is_selected(view):
                view.demote_to_chain()
        completed = runs.completed_run(view, run, self._project, self._content(view))
        if self.delivery is None:
            add_attributes(span, stamps(completed, span.attributes or {}))
            return
        self._submit("patch" if _posted.pop(completed["id"], None) else "post", completed)

    def close_all(self, spans: Sequence[ReadableSpan]) -> None:
        """Send the runs of ended spans, parents first, none of which `open` was called for."""
        parents = {span.context.span_id: span.parent for span in spans}
        faulty, matching = set(), set()
        # The first span of a call to end is selected, and a parent ends last.
        for span in sorted(spans, key=lambda each: each.end_time or 0):
            faulty.add(id(span))
            with self.shield:
                if self.filter.matches(span) and not is_claimed(span):
                    view = SpanView(span)
                    if self.filter.samples(span) and _is_foreign_call(view):
                        _deduplicator.claim(view, _ancestors(span, parents))
                    matching.add(id(span))
                faulty.discard(id(span))
        for span in (each for each in spans if id(each) not in faulty):
            with self.shield:
                if id(span) in matching:
                    self.close(span)
                else:
                    self.skip(span)

    def skip(self, span: ReadableSpan) -> None:
        """Give a span that is not mirrored the run of its parent, as the parent of others."""
        if run := hierarchy.existing_parent(span):
            active_runs.add(span.context.span_id, run)

    def _drop(self, error: Exception) -> None:
        if self.delivery is not None:
            self.delivery.drop(brief(error))

    @property
    def _project(self) -> str:
        return self.settings.langsmith_project

    def _run_of(self, view: SpanView) -> RunContext:
        span, attributes = view.span, view.attributes
        is_request = semconv.BATCH_CUSTOM_ID in attributes and semconv.BATCH_OUTCOME in attributes
        # A batch's requests are many and never open: they are not among the active runs.
        run = None if is_request else active_runs.get(span.context.span_id)
        if run is not None and run.span_id == span.context.span_id:
            return run
        # The span did not match when it started, or started unseen.
        run = hierarchy.build_context(
            span, run or hierarchy.existing_parent(span), attributes, self._on_opened
        )
        if not is_request:
            active_runs.add(span.context.span_id, run)
        return run

    def _content(self, view: SpanView) -> Content | None:
        settings = self.settings
        captured = pending_content.pop(view.span.context.span_id)
        if self.delivery is None or not (settings.langsmith_content or settings.span_content):
            return None  # a stamped span keeps its own attributes
        redaction = settings.redaction
        content = captured or view.contents()
        if view.is_own and captured is None:
            redaction = None  # the content on our own spans is redacted
        inputs = None if settings.langsmith_hide_inputs else content.inputs
        outputs = None if settings.langsmith_hide_outputs else content.outputs
        stops = None if settings.langsmith_hide_inputs else content.stops
        # The message of an error may quote inputs and outputs.
        hidden = settings.langsmith_hide_inputs or settings.langsmith_hide_outputs
        error = None if hidden else content.error
        if redaction is not None:
            inputs = inputs and _object(redaction(inputs), "input")
            outputs = outputs and _object(redaction(outputs), "output")
        return Content(
            inputs,
            outputs,
            messages.error_message(error, redaction),
            messages.stop_sequences(stops, redaction),
        )

    def _post_continuation(
        self, root: RunContext, batch_id: str, shard: int, batch: RunContext
    ) -> None:
        run = runs.continuation_run(root, self._project, batch_id, shard, batch)
        self._submit("post", run, own_body=True)

    def _post_open(self, run: RunContext) -> None:
        if self.delivery is None:
            return
        for node in reversed([run, *hierarchy.ancestors(run)]):
            span = node.span() if node.span is not None else None
            if span is None:
                continue
            pending = runs.pending_run(SpanView(span), node, self._project)
            claim = object()
            if _posted.setdefault(node.id, claim) is claim:
                self._submit("post", pending, own_body=True)

    def _submit(self, verb: Literal["post", "patch"], run: Run, *, own_body: bool = False) -> None:
        if self.delivery is not None:
            self.delivery.submit(RunUpdate.from_run(verb, run, own_body=own_body))


def _is_foreign_call(view: SpanView) -> bool:
    return not view.is_own and view.run_type == "llm"


def _ancestors(
    span: ReadableSpan, parents: Mapping[int, trace.SpanContext | None]
) -> Iterator[int]:
    above = span.parent
    while above is not None:
        yield above.span_id
        above = parents.get(above.span_id)


def _object(value: Any, key: str) -> dict[str, Any] | None:
    return value if isinstance(value, dict) or value is None else {key: value}


def _bound(entries: OrderedDict[Any, Any]) -> None:
    while len(entries) > _MAX_CALLS:
        entries.popitem(last=False)
