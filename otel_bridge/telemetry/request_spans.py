"""Spans of a batch's requests: one for each, and roll-up spans for those beyond the cap."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from otel_bridge import identity, semconv
from otel_bridge._core.json import as_text
from otel_bridge._core.pending_content import Content, pending_content
from otel_bridge._core.shield import Shield, shielded
from otel_bridge.config import Settings
from otel_bridge.domain import messages
from otel_bridge.domain.batch import SUCCEEDED, BatchInfo
from otel_bridge.domain.outcome import ResultOutcome
from otel_bridge.domain.pricing import Cost
from otel_bridge.domain.reader import Params, ReadResult
from otel_bridge.domain.usage import TokenUsage
from otel_bridge.telemetry.backpressure import Pacer
from otel_bridge.telemetry.spans import start_span
from otel_bridge.telemetry.totals import Sum

Attributes = dict[str, Any]


@dataclass(order=True, slots=True)
class _Ranked:
    rank: tuple[bool, int]
    result: ReadResult = field(compare=False)


class Selection:
    """Keeps the `cap` results of a batch that get a span of their own.

    Failures come before successes, and a hash decides among equals: which results are kept
    follows from ids and outcomes alone, so it is the same in whatever order they arrive.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._heap: list[_Ranked] = []

    def offer(self, result: ReadResult, *, spread: int) -> ReadResult | None:
        """Offer a result. Returns the one that is not kept, which may be itself, or None."""
        ranked = _Ranked((not result.outcome.succeeded, spread), result)
        if len(self._heap) < self._cap:
            heapq.heappush(self._heap, ranked)
            return None
        if not self._cap:
            return result
        return heapq.heappushpop(self._heap, ranked).result

    def drain(self) -> list[ReadResult]:
        """Return the kept results, and forget them."""
        kept = [ranked.result for ranked in self._heap]
        self._heap = []
        return kept


class RequestSpans:
    """Emits the spans of one batch's requests, as children of the batch's span.

    A span has the batch's start and end, since the API gives no times of a request. With a `cap`
    below the number of requests, results wait here until `finish`.
    """

    def __init__(
        self,
        tracer: trace.Tracer,
        batch: BatchInfo,
        parent: otel_context.Context,
        settings: Settings,
        pacer: Pacer,
        shield: Shield,
    ) -> None:
        self.shield = shield
        """Over each span that `finish` emits; `add` is called within it."""
        self.update(batch)
        self._tracer = tracer
        self._parent = parent
        self._span = trace.get_current_span(parent)
        self._settings = settings
        for_langsmith = settings.langsmith_tracing and settings.langsmith_content
        self._content_for_langsmith = bool(for_langsmith and self._span.is_recording())
        self._pacer = pacer
        cap = settings.max_request_spans
        capped = cap is not None and batch.request_count > cap
        self._selection = Selection(cap) if cap is not None and capped else None
        self._sums: defaultdict[tuple[str, str], Sum] = defaultdict(Sum)

    def update(self, batch: BatchInfo) -> None:
        """Use the batch as the API describes it now."""
        self._batch_id = batch.id
        self._start_ns, self._end_ns = batch.start_ns, batch.end_ns

    def add(self, result: ReadResult) -> None:
        """Emit the span of one request; beyond the cap, keep its result, or add one to a sum."""
        if self._selection is None:
            self._emit(result)
            return
        spread = identity.spread(self._batch_id, result.outcome.custom_id)
        displaced = self._selection.offer(result, spread=spread)
        if displaced is not None:
            outcome = displaced.outcome
            self._sums[outcome.model, outcome.kind].add(outcome.usage, outcome.cost)

    def finish(self) -> None:
        """After the last result, emit the spans of kept results and roll-up spans of the others."""
        if self._selection is not None:
            for result in self._selection.drain():
                with self.shield:
                    self._emit(result)
            for (model, kind), total in sorted(self._sums.items()):
                self._emit_rollup(model, kind, total)

    def _emit(self, result: ReadResult) -> None:
        outcome = result.outcome
        span_id = identity.request_span_id(self._batch_id, outcome.custom_id)
        attributes = self._inference(outcome.model, outcome.kind, outcome.usage, outcome.cost)
        attributes[semconv.BATCH_CUSTOM_ID] = outcome.custom_id
        attributes |= _request_attributes(result.params)
        attributes |= _response_attributes(outcome)
        if self._settings.span_content or self._content_for_langsmith:
            self._capture(result, span_id, attributes)
        self._end_span(span_id, outcome.model, attributes, self._failure(outcome))

    @shielded
    def _capture(self, result: ReadResult, span_id: int, attributes: Attributes) -> None:
        """Add the content that was asked for. If this fails, the span goes without content."""
        settings, outcome, params = self._settings, result.outcome, result.params
        if settings.span_content:
            attributes |= messages.span_content(params, outcome.message, settings.redaction)
        if self._content_for_langsmith:
            content = Content(
                messages.langsmith_inputs(params) if params else None,
                messages.langsmith_outputs(outcome.message) if outcome.message else None,
                outcome.error_message,
                messages.stop_sequences((params or {}).get("stop_sequences")),
            )
            pending_content.put(span_id, content)

    def _failure(self, outcome: ResultOutcome) -> str | None:
        """The description of a failure's status, None for a success."""
        if outcome.kind == SUCCEEDED:
            return None
        description = None
        if self._settings.span_content:
            description = messages.error_message(outcome.error_message, self._settings.redaction)
        return description or outcome.error_type

    @shielded
    def _emit_rollup(self, model: str, kind: str, total: Sum) -> None:
        """The span of the sum of requests of one model and outcome."""
        attributes = self._inference(model, kind, total.usage, total.cost)
        attributes[semconv.BATCH_ROLLUP] = total.count
        if total.cost is not None:
            # The parts of one request's cost follow from its usage. Those of a sum do not, since
            # requests differ in tier.
            attributes |= total.cost.to_attributes(semconv.GEN_AI_USAGE_COST)
        failure = None
        if kind != SUCCEEDED:
            failure = f"{total.count} requests {kind}"
            attributes[semconv.ERROR_TYPE] = kind
        self._end_span(
            identity.rollup_span_id(self._batch_id, model, kind), model, attributes, failure
        )

    def _inference(self, model: str, kind: str, usage: TokenUsage, cost: Cost | None) -> Attributes:
        """Attributes of request spans and roll-up spans; only an answer has usage and cost."""
        attributes: Attributes = {
            semconv.GEN_AI_OPERATION_NAME: "chat",
            semconv.GEN_AI_PROVIDER_NAME: "anthropic",
            semconv.BATCH_ID: self._batch_id,
            semconv.BATCH_OUTCOME: kind,
        }
        if model:
            attributes[semconv.GEN_AI_REQUEST_MODEL] = model
        if kind == SUCCEEDED or usage:
            attributes |= usage.to_attributes(legacy=not self._settings.latest_semconv_only)
            if cost is not None:
                attributes[semconv.GEN_AI_USAGE_COST] = cost.total_cost
        return attributes

    def _end_span(
        self, span_id: int, model: str, attributes: Attributes, failure: str | None
    ) -> None:
        span = start_span(
            self._tracer,
            f"chat {model}" if model else "chat",
            trace_id=self._span.get_span_context().trace_id,
            span_id=span_id,
            parent=self._parent,
            kind=SpanKind.CLIENT,
            start_ns=self._start_ns,
            attributes=attributes,
        )
        if failure is not None:
            span.set_status(Status(StatusCode.ERROR, failure))
        span.end(self._end_ns)
        self._pacer.emitted()


_REQUEST_FIELDS = (
    (semconv.GEN_AI_REQUEST_MODEL, "model"),
    (semconv.GEN_AI_REQUEST_MAX_TOKENS, "max_tokens"),
    (semconv.GEN_AI_REQUEST_TEMPERATURE, "temperature"),
    (semconv.GEN_AI_REQUEST_TOP_K, "top_k"),
    (semconv.GEN_AI_REQUEST_TOP_P, "top_p"),
)


def _request_attributes(params: Params | None) -> Attributes:
    """What a request asked for, as far as it is known and no content."""
    if not params:
        return {}
    return {name: params[key] for name, key in _REQUEST_FIELDS if params.get(key) is not None}


def _response_attributes(outcome: ResultOutcome) -> Attributes:
    """What became of a request, without usage and cost."""
    message: Mapping[str, Any] = outcome.message or {}
    values = {
        semconv.ERROR_TYPE: outcome.error_type,
        semconv.ANTHROPIC_REQUEST_ID: outcome.request_id,
        semconv.GEN_AI_RESPONSE_ID: as_text(message.get("id")),
        semconv.GEN_AI_RESPONSE_MODEL: as_text(message.get("model")),
        semconv.ANTHROPIC_STOP_REASON: as_text(message.get("stop_reason")),
        semconv.GEN_AI_RESPONSE_FINISH_REASONS: messages.finish_reasons(message),
        semconv.ANTHROPIC_RESPONSE_SERVICE_TIER: outcome.tier,
    }
    return {name: value for name, value in values.items() if value}
