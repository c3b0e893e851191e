"""OpenTelemetry's privates do what its public ways do, and each has a canary.

A canary fails when the installed SDK no longer has what `otel_sdk` uses. The package works without
it, but for `add_attributes`: the tests of other implementations of the API show the way it takes.
"""

from __future__ import annotations

import contextlib
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, NoReturn

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
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_bridge._core.otel_sdk import (
    add_attributes,
    attributes_of,
    has_metric_readers,
    put_first,
    record_many,
    sdk_provider,
    smallest_queue,
    span_predicate,
    span_processors,
    unwrap_tracer,
)

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


def assert_present(present: object, private: str) -> None:
    """Fail with the name of the private that is gone."""
    sdk = f"opentelemetry-sdk {version('opentelemetry-sdk')}"
    assert present, f"{sdk} has no `{private}`, or another one; see otel_bridge/_core/otel_sdk.py"


def record_predicate(rejected: set[str]) -> tuple[Any, list[str]]:
    """A predicate that decides by a span's name, and the names of scopes that it judged."""
    verdicts: dict[int, bool | None] = {}
    judged: list[str] = []

    def judge_scope(scope: InstrumentationScope | None) -> bool | None:
        name = scope.name if scope else ""
        judged.append(name)
        verdicts[id(scope)] = {"all": True, "none": False}.get(name)
        return verdicts[id(scope)]

    def judge_span(span: ReadableSpan, attributes: Any) -> bool:
        return span.name == "chosen" and attributes["a"] == 1

    return span_predicate(verdicts, judge_scope, rejected.issuperset, judge_span), judged


CASES = [
    ("all", "any", {}, True),
    ("none", "chosen", {"a": 1}, False),
    ("mixed", "chosen", {"a": 1}, True),
    ("mixed", "other", {"a": 1}, False),
    ("mixed", "chosen", {"known": 1}, False),
]


def sdk_span(scope: str = "mixed", name: str = "chosen", **attributes: Any) -> Any:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer(scope)
    return tracer.start_span(name, attributes=attributes)


@pytest.mark.parametrize(("scope", "name", "attributes", "expected"), CASES)
def test_spans_without_the_privates_are_judged_like_those_of_the_sdk(
    scope: str, name: str, attributes: dict[str, Any], expected: bool
) -> None:
    other = SimpleNamespace(
        name=name, attributes=attributes, instrumentation_scope=InstrumentationScope(scope)
    )
    for span in (sdk_span(scope, name, **attributes), other):
        accepts, judged = record_predicate({"known"})
        assert [accepts(span), accepts(span)] == [expected, expected]
        assert set(judged) == {scope}


@pytest.mark.parametrize(
    ("slow", "private"),
    [
        ("instrumentation_scope", "ReadableSpan._instrumentation_scope"),
        ("attributes", "ReadableSpan._attributes._dict"),
    ],
)
def test_canary_of_reading_spans(monkeypatch: pytest.MonkeyPatch, slow: str, private: str) -> None:
    accepts, _ = record_predicate(set())
    span = sdk_span(a=1)
    assert accepts(span)  # from here on its scope is known
    slow_reads = []

    def read_slowly(_: ReadableSpan) -> NoReturn:
        slow_reads.append(slow)
        raise RuntimeError("the slow way")

    monkeypatch.setattr(ReadableSpan, slow, property(read_slowly))
    with contextlib.suppress(RuntimeError):
        accepts(span)
    assert_present(not slow_reads, private)


def test_canary_of_the_tracer_behind_a_proxy() -> None:
    proxy = trace.ProxyTracer("test")
    assert_present(unwrap_tracer(proxy) is not proxy, "ProxyTracer._tracer")
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    assert unwrap_tracer(tracer) is tracer


def test_canary_of_adding_attributes_to_an_ended_span() -> None:
    span = sdk_span(a=1)
    span.end()
    add_attributes(span, {"b": 2})
    assert_present(span.attributes == {"a": 1, "b": 2}, "ReadableSpan._attributes")


def test_canary_of_copying_attributes() -> None:
    span = sdk_span(a=1)
    assert attributes_of(span) == {"a": 1}
    assert_present(type(span.attributes).__name__ == "mappingproxy", "ReadableSpan.attributes")


def test_attributes_of_any_mapping_are_copied() -> None:
    for attributes in ({"a": 1}, None):
        span: Any = SimpleNamespace(attributes=attributes)
        copied = attributes_of(span)
        assert copied == (attributes or {})
        assert copied is not attributes


def test_canary_of_the_order_of_processors() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    first, second = SpanProcessor(), SpanProcessor()
    provider.add_span_processor(second)
    put_first(provider, first)
    private = "TracerProvider._active_span_processor._span_processors"
    assert_present(span_processors(provider) == (first, second), private)
    assert sdk_provider(SimpleNamespace(provider=provider)) is provider


def test_a_provider_without_an_order_gets_the_processor_all_the_same() -> None:
    added: list[SpanProcessor] = []
    provider = SimpleNamespace(add_span_processor=added.append)
    put_first(provider, SpanProcessor())
    assert len(added) == 1
    assert span_processors(provider) == ()


def test_canary_of_the_queue_of_a_batch_processor() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    assert smallest_queue(provider, 7) == 7
    for size in (900, 600):
        exporter = InMemorySpanExporter()
        provider.add_span_processor(
            BatchSpanProcessor(exporter, max_queue_size=size, max_export_batch_size=1)
        )
    private = "BatchSpanProcessor._batch_processor._max_queue_size"
    assert_present(smallest_queue(provider, 7) == 600, private)
    provider.shutdown()


def test_canary_of_metric_readers() -> None:
    silent = MeterProvider(shutdown_on_exit=False)
    assert_present(not has_metric_readers(silent), "MeterProvider._metric_readers")
    assert has_metric_readers(MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False))
    assert has_metric_readers(object()), "a provider of another kind may have readers"


def test_canary_of_recording_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    histogram = provider.get_meter("test").create_histogram("tokens")
    recorded: list[float] = []
    monkeypatch.setattr(histogram, "record", lambda value, *_: recorded.append(value))
    record_many(histogram, [1, 2, 3], ATTRIBUTES, context.get_current())
    private = (
        "Histogram._measurement_consumer._reader_storages, _get_or_init_view_instrument_match, "
        "_view._attribute_keys, _get_or_create_aggregation, _lock or _hash_attributes"
    )
    assert_present(recorded == [1], private)
    provider.shutdown()
