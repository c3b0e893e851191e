"""The span over a structured run: outcomes of validation, and totals under its own names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from otel_bridge import semconv
from otel_bridge._core.shield import Shield
from otel_bridge.domain.pricing import Cost
from otel_bridge.domain.usage import TokenUsage
from otel_bridge.telemetry.spans import span_over
from otel_bridge.telemetry.totals import batch_totals

if TYPE_CHECKING:
    from otel_bridge.telemetry.recorder import BatchRecorder

VALID = "valid"


@dataclass(frozen=True, slots=True)
class Structured:
    """Totals of a structured run; `outcomes` counts requests by `valid` or their failure."""

    batch_ids: tuple[str, ...]
    outcomes: Mapping[str, int]
    usage: TokenUsage
    cost: Cost | None


@contextlib.contextmanager
def structured_span(
    recorder: BatchRecorder, schema: str, models: tuple[str, ...], request_count: int
) -> Iterator[Callable[[Structured], None]]:
    """Have a span `batch_structured_output` over what is done within.

    Yields a function that takes the run's totals and puts them on the span.
    """
    attributes: dict[str, Any] = {
        semconv.GEN_AI_PROVIDER_NAME: "anthropic",
        semconv.STRUCTURED_SCHEMA: schema,
        semconv.STRUCTURED_REQUEST_COUNT: request_count,
    }
    if len(models) == 1:
        attributes[semconv.GEN_AI_REQUEST_MODEL] = models[0]
    with span_over(lambda: recorder.tracer, "batch_structured_output", attributes) as span:
        yield lambda structured: _set_totals(span, structured)


def _set_totals(span: trace.Span, structured: Structured) -> None:
    with Shield("The span of structured output is incomplete"):
        span.set_attributes(_totals(structured))
        if not structured.outcomes.get(VALID):
            span.set_attribute(semconv.ERROR_TYPE, "no_valid_answer")
            span.set_status(Status(StatusCode.ERROR, "no request has a valid answer"))


def _totals(structured: Structured) -> dict[str, Any]:
    # The batches' own totals under names of this span's: a sum over batch spans counts once.
    totals = {
        semconv.structured_name(name): value
        for name, value in batch_totals({}, structured.usage, structured.cost).items()
    }
    totals[semconv.STRUCTURED_SUCCEEDED_COUNT] = structured.outcomes.get(VALID, 0)
    totals[semconv.STRUCTURED_BATCH_IDS] = list(structured.batch_ids)
    if structured.batch_ids:
        totals[semconv.STRUCTURED_BATCH_ID] = structured.batch_ids[0]
    for kind, count in structured.outcomes.items():
        totals[f"{semconv.STRUCTURED_OUTCOME_PREFIX}{kind}"] = count
    return totals
