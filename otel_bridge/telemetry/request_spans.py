"""The spans of a batch's requests: one for each, or the sum of those beyond the cap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from otel_bridge import content, identity, semconv
from otel_bridge._core.shield import Shield, shielded
from otel_bridge.config import Settings
from otel_bridge.pricing import Cost
from otel_bridge.telemetry.attributes import (
    inference_attributes,
    request_attributes,
    response_attributes,
)
from otel_bridge.telemetry.batch import SUCCEEDED, BatchFacts, Outcome
from otel_bridge.telemetry.pacing import Pacer
from otel_bridge.telemetry.spans import start_span
from otel_bridge.telemetry.sums import Sum
from otel_bridge.usage import TokenUsage

Params = Mapping[str, Any]


@dataclass(slots=True)
class Request:
    """A request whose span is not emitted yet."""

    outcome: Outcome
    model: str
    cost: Cost | None
    params: Params | None


class RequestSpans:
    """Emits them below a batch's span, at the batch's times: the API tells nothing finer."""

    def __init__(
        self,
        tracer: trace.Tracer,
        batch: BatchFacts,
        span: trace.Span,
        parent: otel_context.Context,
        settings: Settings,
        pacer: Pacer,
        shield: Shield,
    ) -> None:
        self.shield = shield
        self._tracer = tracer
        self.batch = batch
        """The batch as the API described it last."""
        self._span = span
        self._parent = parent
        self._settings = settings
        self._pacer = pacer

    @shielded
    def emit(self, request: Request) -> None:
        """The span of one request."""
        outcome = request.outcome
        span_id = identity.request_span_id(self.batch.id, outcome.custom_id)
        attributes = self._inference(request.model, outcome.kind, outcome.usage, request.cost)
        attributes[semconv.BATCH_CUSTOM_ID] = outcome.custom_id
        attributes |= request_attributes(request.params)
        attributes |= response_attributes(outcome)
        self._capture(request, span_id, attributes)
        self._span_of(span_id, request.model, attributes, self._failure(outcome))

    @shielded
    def _capture(self, request: Request, span_id: int, attributes: dict[str, Any]) -> None:
        """Content, as far as it is asked for; where it cannot be told, the rest is all the same."""
        settings, outcome, params = self._settings, request.outcome, request.params
        if settings.span_content:
            attributes |= content.span_content(params, outcome.message, settings.redaction)
        if settings.langsmith_tracing and settings.langsmith_content and self._span.is_recording():
            content.pending.put(
                span_id,
                content.langsmith_inputs(params) if params else None,
                content.langsmith_outputs(outcome.message) if outcome.message else None,
                outcome.error_message,
                content.stop_sequences((params or {}).get("stop_sequences")),
            )

    def _failure(self, outcome: Outcome) -> str | None:
        if outcome.kind == SUCCEEDED:
            return None
        said = None
        if self._settings.span_content:
            said = content.error_message(outcome.error_message, self._settings.redaction)
        return said or outcome.error_type

    @shielded
    def emit_rollup(self, model: str, kind: str, rolled: Sum) -> None:
        """The span of the sum of requests of one model and outcome."""
        attributes = self._inference(model, kind, rolled.usage, rolled.cost)
        attributes[semconv.BATCH_ROLLUP] = rolled.count
        if rolled.cost is not None:
            # Of one request the parts follow from its usage; of a sum, for its tiers, they do not.
            attributes |= rolled.cost.to_attributes(semconv.GEN_AI_USAGE_COST)
        span_id = identity.rollup_span_id(self.batch.id, model, kind)
        failure = None
        if kind != SUCCEEDED:
            failure = f"{rolled.count} requests {kind}"
            attributes[semconv.ERROR_TYPE] = kind
        self._span_of(span_id, model, attributes, failure)

    def _inference(
        self, model: str, kind: str, usage: TokenUsage, cost: Cost | None
    ) -> dict[str, Any]:
        legacy = not self._settings.latest_semconv_only
        return inference_attributes(self.batch.id, model, kind, usage, cost, legacy=legacy)

    def _span_of(
        self, span_id: int, model: str, attributes: dict[str, Any], failure: str | None
    ) -> None:
        span = start_span(
            self._tracer,
            f"chat {model}" if model else "chat",
            trace_id=self._span.get_span_context().trace_id,
            span_id=span_id,
            parent=self._parent,
            kind=SpanKind.CLIENT,
            start_ns=self.batch.start_ns,
            attributes=attributes,
        )
        if failure is not None:
            span.set_status(Status(StatusCode.ERROR, failure))
        span.end(self.batch.end_ns)
        self._pacer.emitted()
