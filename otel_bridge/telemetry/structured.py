"""The span over a structured run: validation outcomes and totals, under names of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from otel_bridge import semconv
from otel_bridge.pricing import Cost
from otel_bridge.telemetry.attributes import batch_totals
from otel_bridge.telemetry.spans import span_over
from otel_bridge.usage import TokenUsage

if TYPE_CHECKING:
    from otel_bridge.telemetry.recorder import BatchRecorder

VALID = "valid"


@dataclass(slots=True)
class Structured:
    """A structured run: known at its start, and what it came to.

    `outcomes` counts requests by `valid` or why they have no value.
    """

    schema: str
    models: tuple[str, ...]
    request_count: int
    batch_ids: tuple[str, ...] = ()
    outcomes: Mapping[str, int] | None = None
    usage: TokenUsage = field(default_factory=TokenUsage)
    cost: Cost | None = None


@contextlib.contextmanager
def structured_span(recorder: BatchRecorder, told: Structured) -> Iterator[None]:
    """A span `batch_structured_output` over what is done within; `told` is read at its end."""
    attributes: dict[str, Any] = {
        semconv.GEN_AI_PROVIDER_NAME: "anthropic",
        semconv.STRUCTURED_SCHEMA: told.schema,
        semconv.STRUCTURED_REQUEST_COUNT: told.request_count,
    }
    if len(told.models) == 1:
        attributes[semconv.GEN_AI_REQUEST_MODEL] = told.models[0]
    with span_over(
        lambda: recorder.tracer,
        "batch_structured_output",
        attributes,
        lambda span: _close(span, told),
    ):
        yield


def _close(span: trace.Span, told: Structured) -> None:
    if told.outcomes is not None:
        span.set_attributes(_totals(told, told.outcomes))
        if not told.outcomes.get(VALID):
            span.set_attribute(semconv.ERROR_TYPE, "no_valid_answer")
            span.set_status(Status(StatusCode.ERROR, "no request has a valid answer"))


def _totals(told: Structured, outcomes: Mapping[str, int]) -> dict[str, Any]:
    # The batches' own totals under names of this span's: a sum over batch spans counts once.
    totals = {
        semconv.structured_name(name): value
        for name, value in batch_totals({}, told.usage, told.cost).items()
    }
    totals[semconv.STRUCTURED_SUCCEEDED_COUNT] = outcomes.get(VALID, 0)
    totals[semconv.STRUCTURED_BATCH_IDS] = list(told.batch_ids)
    if told.batch_ids:
        totals[semconv.STRUCTURED_BATCH_ID] = told.batch_ids[0]
    for kind, count in outcomes.items():
        totals[f"{semconv.STRUCTURED_OUTCOME_PREFIX}{kind}"] = count
    return totals
