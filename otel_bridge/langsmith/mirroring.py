"""The mirror: spans in, runs out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from weakref import ref

from otel_bridge import semconv
from otel_bridge._core.otel_sdk import add_attributes
from otel_bridge._core.pending_content import Content, pending_content
from otel_bridge._core.shield import Shield, brief
from otel_bridge.domain import messages
from otel_bridge.langsmith import hierarchy, runs
from otel_bridge.langsmith.calls import Calls
from otel_bridge.langsmith.choice import Choice, first_to_take, taken
from otel_bridge.langsmith.multipart import Operation
from otel_bridge.langsmith.stamps import stamps
from otel_bridge.propagation.active_runs import RunContext, active_runs

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span

    from otel_bridge.config import Settings
    from otel_bridge.langsmith.delivery import Delivery

_posted: dict[str, object] = {}
"""Runs that were posted while they were open. All of these are the process's, not a mirror's."""
_calls = Calls()


class Mirror:
    """Makes a run of each chosen span, once, and sends it; without a delivery, stamps the span."""

    def __init__(self, settings: Settings, delivery: Delivery | None) -> None:
        self.settings = settings
        self.delivery = delivery
        self.choice = Choice(
            everything=settings.langsmith_spans == "all", rate=settings.langsmith_sampling_rate
        )
        self._opened = self._continue if delivery is not None else None
        self.shield = Shield("A span is not mirrored to LangSmith", self._drop)
        """Over what is done for each span; a fault is a run update that is lost."""

    def open(self, span: Span, parent_context: Context | None) -> None:
        """A chosen span starts: note its run for what will hang below it."""
        attributes = span.attributes or {}
        if semconv.BATCH_OUTCOME in attributes or not self.choice.samples(span):
            return  # nothing hangs below a batch's requests, and they hang below it alone
        parent = hierarchy.parent_of(span, parent_context)
        run = hierarchy.build_context(span, parent, attributes, self._opened)
        run.span = ref(span)
        active_runs.add(span.context.span_id, run)
        if attributes.get(semconv.GEN_AI_OPERATION_NAME) == "batch":
            self._post_open(run)

    def close(self, span: ReadableSpan) -> None:
        """A chosen span has ended: send its run, or stamp it."""
        if not self.choice.samples(span):
            pending_content.pop(span.context.span_id)
            return
        if not first_to_take(span):
            return
        view = runs.View(span)
        run = self._run_of(view)
        run.span = None
        if _is_foreign_call(view):
            _calls.claim(view, [node.span_id for node in hierarchy.ancestors(run)])
            if hierarchy.counted_by_traceable(run) or not _calls.counts(view):
                view.leave_count()
        completed = runs.completed_run(view, run, self._project, self._content(view))
        if self.delivery is None:
            add_attributes(span, stamps(completed, span.attributes or {}))
            return
        self._submit("patch" if _posted.pop(completed["id"], None) else "post", completed)

    def close_all(self, spans: Sequence[ReadableSpan]) -> None:
        """Spans that ended some time ago, parents first; the mirror saw none of them start."""
        chosen = [span for span in spans if self.choice.mirrors(span) and not taken(span)]
        parents = {span.context.span_id: span.parent for span in spans}
        # Calls are counted by the first span to end, which is no parent.
        for span in sorted(chosen, key=lambda each: each.end_time or 0):
            view = runs.View(span)
            if self.choice.samples(span) and _is_foreign_call(view):
                _calls.claim(view, _ancestors(span, parents))
        mirrored = {id(span) for span in chosen}
        for span in spans:
            with self.shield:
                if id(span) in mirrored:
                    self.close(span)
                else:
                    self.pass_over(span)

    def pass_over(self, span: ReadableSpan) -> None:
        """A span that is left out: what hangs below it hangs below its parent's run."""
        if run := hierarchy.known_parent(span):
            active_runs.add(span.context.span_id, run)

    def _drop(self, error: Exception) -> None:
        if self.delivery is not None:
            self.delivery.drop(brief(error))

    @property
    def _project(self) -> str:
        return self.settings.langsmith_project

    def _run_of(self, view: runs.View) -> RunContext:
        span, attributes = view.span, view.attributes
        run = active_runs.get(span.context.span_id)
        if run is not None and run.span_id == span.context.span_id:
            return run
        # It was left out when it started, or has not been seen.
        run = hierarchy.build_context(
            span, run or hierarchy.known_parent(span), attributes, self._opened
        )
        if semconv.BATCH_CUSTOM_ID not in attributes:
            active_runs.add(span.context.span_id, run)
        return run

    def _content(self, view: runs.View) -> Content | None:
        settings = self.settings
        captured = pending_content.pop(view.span.context.span_id)
        if self.delivery is None or not (settings.langsmith_content or settings.span_content):
            return None  # a stamped span carries what it carries
        redaction = settings.redaction
        told = captured or view.contents()
        if view.ours and captured is None:
            redaction = None  # what our own spans carry was redacted
        inputs = None if settings.langsmith_hide_inputs else told.inputs
        outputs = None if settings.langsmith_hide_outputs else told.outputs
        stops = None if settings.langsmith_hide_inputs else told.stops
        # What was said of a failure may quote either side.
        hidden = settings.langsmith_hide_inputs or settings.langsmith_hide_outputs
        error = None if hidden else told.error
        if redaction is not None:
            inputs = inputs and _object(redaction(inputs), "input")
            outputs = outputs and _object(redaction(outputs), "output")
        return Content(
            inputs,
            outputs,
            messages.error_message(error, redaction),
            messages.stop_sequences(stops, redaction),
        )

    def _continue(self, root: RunContext, batch_id: str, part: int, batch: RunContext) -> None:
        run = runs.continuation_run(root, self._project, batch_id, part, batch)
        self._submit("post", run, alone=True)

    def _post_open(self, run: RunContext) -> None:
        if self.delivery is None:
            return
        for node in reversed([run, *hierarchy.ancestors(run)]):
            span = node.span() if node.span is not None else None
            if span is None:
                continue
            me = object()
            if _posted.setdefault(node.id, me) is not me:
                continue
            pending = runs.pending_run(runs.View(span), node, self._project)
            self._submit("post", pending, alone=True)

    def _submit(
        self, verb: Literal["post", "patch"], run: runs.Run, *, alone: bool = False
    ) -> None:
        if self.delivery is not None:
            self.delivery.submit(Operation.of(verb, run, alone=alone))


def _is_foreign_call(view: runs.View) -> bool:
    return not view.ours and view.run_type == "llm"


def _ancestors(
    span: ReadableSpan, parents: Mapping[int, trace.SpanContext | None]
) -> Iterator[int]:
    above = span.parent
    while above is not None:
        yield above.span_id
        above = parents.get(above.span_id)


def _object(value: Any, key: str) -> dict[str, Any] | None:
    return value if isinstance(value, dict) or value is None else {key: value}
