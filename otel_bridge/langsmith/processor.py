"""The span processor that mirrors spans to LangSmith as runs."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from otel_bridge import content, identity, semconv
from otel_bridge.config import Settings
from otel_bridge.langsmith import runs
from otel_bridge.langsmith.context import RunContext, ancestry, remote_parent, traceable_parent
from otel_bridge.langsmith.delivery import Delivery
from otel_bridge.langsmith.metrics import observe
from otel_bridge.langsmith.multipart import Operation
from otel_bridge.providers import span_processors

if TYPE_CHECKING:
    from typing import Any

    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider

logger = logging.getLogger(__name__)

RUNS_PER_TRACE = 20_000
"""LangSmith takes 25,000 runs in one trace; requests are spread by hash, so room is left."""


class LangSmithSpanProcessor(SpanProcessor):
    """Mirrors each span once: ancestry and pending runs on start, completed runs on end."""

    def __init__(
        self,
        delivery: Delivery | None = None,
        settings: Settings | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self.settings = settings or Settings.from_env()
        self.delivery = delivery or Delivery(state_dir=self.settings.state_dir)
        observe(self.delivery, meter_provider)
        self._all = self.settings.langsmith_spans == "all"
        self._project = self.settings.langsmith_project
        self._posted: set[str] = set()
        self._lock = threading.Lock()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        try:
            self._start(span, parent_context)
        except Exception as error:
            logger.debug("LangSmith mirror: %s", error, exc_info=True)

    def on_end(self, span: ReadableSpan) -> None:
        try:
            self._end(span)
        except Exception as error:
            logger.debug("LangSmith mirror: %s", error, exc_info=True)

    def shutdown(self) -> None:
        self.delivery.close()

    def force_flush(self, timeout_millis: int = 15_000) -> bool:
        return self.delivery.flush(timeout_millis / 1000, patient=False)

    def _start(self, span: Span, parent_context: Context | None) -> None:
        if not self._sampled(span):
            return
        attributes = span.attributes or {}
        if semconv.BATCH_CUSTOM_ID in attributes:
            return  # nothing hangs below a request, and it ends at once
        parent = self._parent(span, parent_context)
        if not self._mirrors(span, attributes):
            if parent is not None:
                ancestry.note(span.context.span_id, parent)
            return
        run = self._context(span, parent, attributes)
        run.span = span
        ancestry.note(span.context.span_id, run)
        if attributes.get(semconv.GEN_AI_OPERATION_NAME) == "batch":
            self._post_open(run)

    def _end(self, span: ReadableSpan) -> None:
        attributes = span.attributes or {}
        if not self._sampled(span) or not self._mirrors(span, attributes):
            return
        run = ancestry.get(span.context.span_id)
        if run is None or (
            run.span is not span
            and run.id != identity.run_id(span.context.span_id, span.start_time or 0)
        ):
            run = self._context(span, run or self._known_parent(span), attributes)
            if semconv.BATCH_CUSTOM_ID not in attributes:
                ancestry.note(span.context.span_id, run)
        run.span = None
        completed = runs.completed_run(
            span, run, self._project, content.pending.take(span.context.span_id)
        )
        self._hide(completed)
        with self._lock:
            posted = completed["id"] in self._posted
            self._posted.discard(completed["id"])
        self.delivery.submit(Operation.of("patch" if posted else "post", completed))

    def _hide(self, run: dict[str, Any]) -> None:
        if self.settings.langsmith_hide_inputs:
            run["inputs"] = {}
        if self.settings.langsmith_hide_outputs:
            run["outputs"] = {}

    def _sampled(self, span: ReadableSpan) -> bool:
        context = span.context
        if not context.trace_flags.sampled:
            return False
        rate = self.settings.langsmith_sampling_rate
        # By trace id, so that every process keeps or drops a trace whole.
        return rate >= 1 or (context.trace_id & (1 << 56) - 1) < rate * (1 << 56)

    def _mirrors(self, span: ReadableSpan, attributes: Any) -> bool:
        scope = span.instrumentation_scope
        if scope is not None and scope.name == semconv.LANGSMITH_SCOPE:
            return False
        return self._all or runs.is_genai(attributes)

    def _known_parent(self, span: ReadableSpan) -> RunContext | None:
        return ancestry.get(span.parent.span_id) if span.parent else None

    def _parent(self, span: Span, parent_context: Context | None) -> RunContext | None:
        # A @traceable run that was opened below the parent span is the nearer of the two.
        known = self._known_parent(span) or remote_parent(parent_context)
        active = traceable_parent()
        if known and active and len(active.dotted_order) <= len(known.dotted_order):
            return known
        return active or known

    def _context(
        self, span: ReadableSpan, parent: RunContext | None, attributes: Any
    ) -> RunContext:
        # LangSmith refuses a child that starts before its parent.
        start = max(span.start_time or 0, parent.start_ns if parent else 0)
        custom_id = attributes.get(semconv.BATCH_CUSTOM_ID)
        if parent and parent.parts > 1 and custom_id is not None:
            parent = self._continuation(parent, attributes, str(custom_id), start)
        run_id = identity.run_id(span.context.span_id, start)
        run = RunContext(
            run_id,
            parent.trace_id if parent else run_id,
            identity.dotted_order(run_id, start, parent.dotted_order if parent else None),
            start,
            parent.project if parent else None,
            parent=parent,
        )
        requests = attributes.get(semconv.BATCH_REQUEST_SPAN_COUNT)
        if isinstance(requests, int):
            run.parts = max(1, -(-requests // RUNS_PER_TRACE))
        return run

    def _continuation(
        self, batch: RunContext, attributes: Any, custom_id: str, start: int
    ) -> RunContext:
        batch_id = str(attributes[semconv.BATCH_ID])
        part = identity.spread(batch_id, custom_id) % batch.parts
        if part == 0:
            return batch
        span_id = identity.continuation_span_id(batch_id, part)
        known = ancestry.get(span_id)
        if known is not None:
            return known
        run_id = identity.run_id(span_id, start)
        root = RunContext(
            run_id, run_id, identity.dotted_order(run_id, start), start, batch.project
        )
        ancestry.note(span_id, root)
        self.delivery.submit(
            Operation.of(
                "post",
                runs.continuation_run(root, self._project, batch_id, part, batch),
                alone=True,
            )
        )
        return root

    def _post_open(self, run: RunContext) -> None:
        lineage = []
        node: RunContext | None = run
        while node is not None:
            lineage.append(node)
            node = node.parent
        for node in reversed(lineage):
            span = node.span
            if span is None or str(node.id) in self._posted:
                continue
            with self._lock:
                self._posted.add(str(node.id))
            pending = runs.pending_run(span, node, self._project)
            self.delivery.submit(Operation.of("post", pending, alone=True))


_mirroring = threading.Lock()


def mirror(
    provider: Any,
    settings: Settings | None = None,
    meter_provider: MeterProvider | None = None,
) -> LangSmithSpanProcessor | None:
    """Add the mirror to an SDK tracer provider, once however often it is asked for.

    Its metrics go to `meter_provider`, the global one by default. Returns the provider's mirror,
    None where LANGSMITH_TRACING is off or the provider takes no processors.
    """
    settings = settings or Settings.from_env()
    if not settings.langsmith_tracing or not hasattr(provider, "add_span_processor"):
        return None
    with _mirroring:
        known = next(
            (
                each
                for each in span_processors(provider)
                if isinstance(each, LangSmithSpanProcessor)
            ),
            None,
        )
        if known is None:
            try:
                known = LangSmithSpanProcessor(None, settings, meter_provider)
            except Exception as error:  # noqa: BLE001 - the caller's batch goes on without it
                logger.warning("Nothing is mirrored to LangSmith: %s", error)
                return None
            provider.add_span_processor(known)
        return known
