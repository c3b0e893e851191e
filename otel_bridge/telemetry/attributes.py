"""The attributes of batch, request and roll-up spans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from otel_bridge import content, semconv
from otel_bridge._core.json import as_text
from otel_bridge.pricing import Cost
from otel_bridge.telemetry.batch import SUCCEEDED, BatchFacts, Outcome, tier_of
from otel_bridge.usage import TokenUsage

Attributes = dict[str, Any]


def batch_attributes(batch: BatchFacts, model: str | None, span_count: int) -> Attributes:
    """What is known of a batch when it begins; `span_count` is the number of request spans."""
    attributes: Attributes = {
        semconv.GEN_AI_OPERATION_NAME: "batch",
        semconv.GEN_AI_PROVIDER_NAME: "anthropic",
        semconv.BATCH_ID: batch.id,
        semconv.BATCH_REQUEST_COUNT: batch.request_count,
        semconv.BATCH_REQUEST_SPAN_COUNT: span_count,
        semconv.BATCH_PROCESSING_STATUS: batch.status,
    }
    if model:
        attributes[semconv.GEN_AI_REQUEST_MODEL] = model
    if batch.shift:
        attributes[semconv.BATCH_CREATED_AT] = batch.created_at.isoformat()
        if batch.ended_at:
            attributes[semconv.BATCH_ENDED_AT] = batch.ended_at.isoformat()
    return attributes


def batch_totals(outcomes: Mapping[str, int], usage: TokenUsage, cost: Cost | None) -> Attributes:
    """What a batch came to, under names of its own."""
    attributes: Attributes = {
        f"anthropic.message.batch.{kind}_count": count for kind, count in outcomes.items()
    }
    attributes |= usage.to_batch_attributes()
    if cost is not None:
        attributes |= cost.to_attributes(semconv.BATCH_COST)
    return attributes


def inference_attributes(
    batch_id: str, model: str, kind: str, usage: TokenUsage, cost: Cost | None, *, legacy: bool
) -> Attributes:
    """What request and roll-up spans share; only what was answered has usage and cost."""
    attributes: Attributes = {
        semconv.GEN_AI_OPERATION_NAME: "chat",
        semconv.GEN_AI_PROVIDER_NAME: "anthropic",
        semconv.BATCH_ID: batch_id,
        semconv.BATCH_OUTCOME: kind,
    }
    if model:
        attributes[semconv.GEN_AI_REQUEST_MODEL] = model
    if kind == SUCCEEDED or usage:
        attributes |= usage.to_attributes(legacy=legacy)
        if cost is not None:
            attributes[semconv.GEN_AI_USAGE_COST] = cost.total_cost
    return attributes


_REQUEST_FIELDS = (
    (semconv.GEN_AI_REQUEST_MODEL, "model"),
    (semconv.GEN_AI_REQUEST_MAX_TOKENS, "max_tokens"),
    (semconv.GEN_AI_REQUEST_TEMPERATURE, "temperature"),
    (semconv.GEN_AI_REQUEST_TOP_K, "top_k"),
    (semconv.GEN_AI_REQUEST_TOP_P, "top_p"),
)


def request_attributes(params: Mapping[str, Any] | None) -> Attributes:
    """What a request asked for, as far as it is known and no content."""
    if not params:
        return {}
    return {name: params[field] for name, field in _REQUEST_FIELDS if params.get(field) is not None}


def response_attributes(outcome: Outcome) -> Attributes:
    """What became of a request, usage and cost aside."""
    message = outcome.message or {}
    values = {
        semconv.ERROR_TYPE: outcome.error_type,
        semconv.ANTHROPIC_REQUEST_ID: outcome.request_id,
        semconv.GEN_AI_RESPONSE_ID: as_text(message.get("id")),
        semconv.GEN_AI_RESPONSE_MODEL: as_text(message.get("model")),
        semconv.GEN_AI_RESPONSE_FINISH_REASONS: content.finish_reasons(message),
        semconv.ANTHROPIC_STOP_REASON: as_text(message.get("stop_reason")),
        semconv.ANTHROPIC_RESPONSE_SERVICE_TIER: tier_of(message),
    }
    return {name: value for name, value in values.items() if value}
