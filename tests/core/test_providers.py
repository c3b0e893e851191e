"""What is taken from inside the OpenTelemetry SDK does what its public ways do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import context, trace
from opentelemetry.metrics import Histogram, NoOpMeterProvider
from opentelemetry.sdk.metrics import Histogram as SdkHistogram
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExponentialBucketHistogramAggregation,
    SumAggregation,
    View,
)
from opentelemetry.sdk.trace import TracerProvider

from otel_bridge._core.otel_sdk import record_many

ATTRIBUTES = {"gen_ai.request.model": "claude", "gen_ai.token.type": "input"}
VIEWS: dict[str, list[View]] = {
    "default": [],
    "exponential": [
        View(instrument_name="tokens", aggregation=ExponentialBucketHistogramAggregation())
    ],
    "fewer attributes": [View(instrument_name="tokens", attribute_keys={"gen_ai.request.model"})],
    "two at once": [
        View(instrument_name="tokens"),
        View(instrument_name="tokens", name="sum", aggregation=SumAggregation()),
    ],
    "dropped": [View(instrument_name="tokens", aggregation=DropAggregation())],
}


def points(views: list[View], temporality: AggregationTemporality, record: Any) -> list[Any]:
    """What two readers read, twice over."""
    readers = [InMemoryMetricReader({SdkHistogram: temporality}), InMemoryMetricReader()]
    provider = MeterProvider(readers, views=views, shutdown_on_exit=False)
    histogram = provider.get_meter("test").create_histogram("tokens")
    found = []
    for _ in range(2):
        record(histogram)
        for reader in readers:
            data = reader.get_metrics_data()
            metrics = (
                [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
                if data
                else []
            )
            for metric in metrics:
                for point in metric.data.data_points:
                    figures = {
                        name: getattr(point, name, None)
                        for name in ("count", "sum", "min", "max", "bucket_counts", "value")
                    }
                    buckets = getattr(point, "positive", None)
                    found.append((metric.name, dict(point.attributes or {}), figures, buckets))
    provider.shutdown()
    return found


@pytest.mark.parametrize("temporality", list(AggregationTemporality)[1:])
@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
@given(values=st.lists(st.integers(0, 10**6), max_size=30))
def test_many_values_make_the_points_that_single_ones_make(
    views: list[View], temporality: AggregationTemporality, values: list[int]
) -> None:
    def one_by_one(histogram: Histogram) -> None:
        for value in values:
            histogram.record(value, ATTRIBUTES)

    def at_once(histogram: Histogram) -> None:
        record_many(histogram, values, ATTRIBUTES, context.get_current())

    assert points(views, temporality, at_once) == points(views, temporality, one_by_one)


def test_the_span_is_an_exemplar() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("batch")
    histogram = provider.get_meter("test").create_histogram("tokens")
    record_many(histogram, [5, 6, 7], ATTRIBUTES, trace.set_span_in_context(span))
    data = reader.get_metrics_data()
    assert data
    (point,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert {each.span_id for each in point.exemplars} == {span.get_span_context().span_id}
    provider.shutdown()


def test_another_implementation_of_the_api_gets_every_value() -> None:
    class Recording(Histogram):
        def __init__(self) -> None:
            self.values: list[float] = []

        def record(self, amount: float, *_: Any, **__: Any) -> None:
            self.values.append(amount)

    histogram = Recording()
    record_many(histogram, [1, 2, 3], ATTRIBUTES, context.get_current())
    assert histogram.values == [1, 2, 3]
    silent = NoOpMeterProvider().get_meter("test").create_histogram("tokens")
    record_many(silent, [1, 2], ATTRIBUTES, context.get_current())
