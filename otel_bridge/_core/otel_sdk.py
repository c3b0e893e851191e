"""OpenTelemetry's privates: no other file of the package uses them.

Each use has a public way beside it, or says that there is none; `tests/core/test_otel_sdk.py`
fails when the installed SDK no longer has one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry.attributes import BoundedAttributes

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope


def span_predicate(
    verdicts: Mapping[int, bool | None],
    judge_scope: Callable[[InstrumentationScope | None], bool | None],
    rejects: Callable[[Mapping[str, Any]], bool],
    judge_span: Callable[[ReadableSpan, Mapping[str, Any]], bool],
) -> Callable[[ReadableSpan], bool]:
    """Build a function that accepts or rejects spans, fast enough to be called for each.

    `verdicts` maps ids of scopes to what `judge_scope` returned for them: True or False for all
    spans of a scope, None where each span decides. Then `rejects` gets the span's attributes, and
    `judge_span` the span and its attributes if they are not rejected. The attributes are not
    copied, and may change while the span is open. The SDK's properties, which are used where the
    privates are missing, take three times as long.
    """

    def accepts(span: ReadableSpan) -> bool:
        try:
            scope = span._instrumentation_scope  # noqa: SLF001 - as said above
        except AttributeError:
            scope = span.instrumentation_scope
        try:
            verdict = verdicts[id(scope)]
        except KeyError:
            verdict = judge_scope(scope)
        if verdict is not None:
            return verdict
        try:
            attributes = span._attributes._dict  # type: ignore[union-attr]  # noqa: SLF001
        except AttributeError:
            attributes = span.attributes or {}
        return not rejects(attributes) and judge_span(span, attributes)

    return accepts


def sdk_provider(provider: Any) -> Any:
    """Return the SDK's provider behind one that wraps it, as logfire's does; others unchanged."""
    for _ in range(5):
        if hasattr(provider, "_active_span_processor") or hasattr(provider, "_metric_readers"):
            return provider
        inner = getattr(provider, "provider", None)
        if inner is None:
            break
        provider = inner
    return provider


def unwrap_tracer(tracer: trace.Tracer) -> trace.Tracer:
    """Return the tracer behind the API's proxy, made before set-up; any other unchanged."""
    return getattr(tracer, "_tracer", tracer)


def exports_spans(provider: Any, but: str) -> bool:
    """Whether a provider has processors other than those of the package `but`."""
    if isinstance(provider, (trace.NoOpTracerProvider, trace.ProxyTracerProvider)):
        return False
    if not hasattr(provider, "_active_span_processor"):
        return True  # a provider of an unknown kind
    modules = (type(each).__module__ for each in span_processors(provider))
    return any(not module.startswith(f"{but}.") for module in modules)


def span_processors(provider: Any) -> tuple[Any, ...]:
    """Return the processors of an SDK tracer provider, an empty tuple for any other."""
    active = getattr(provider, "_active_span_processor", None)
    return tuple(getattr(active, "_span_processors", ()))


def put_first(provider: Any, processor: SpanProcessor) -> None:
    """Add a processor before all others, or in the provider's own way where there is no order."""
    provider.add_span_processor(processor)
    active = getattr(provider, "_active_span_processor", None)
    processors = span_processors(provider)
    if active is not None and processor in processors:
        others = tuple(each for each in processors if each is not processor)
        active._span_processors = (processor, *others)  # noqa: SLF001 - there is no public way


def add_attributes(span: ReadableSpan, attributes: Mapping[str, Any]) -> None:
    """Add attributes to an ended span, for the processors and exporters after this one.

    The SDK has no way for it: it refuses attributes once a span ends, in `_on_ending` too.
    """
    present = span._attributes  # noqa: SLF001 - there is no public way
    added = BoundedAttributes(attributes={**(present or {}), **attributes})
    added.dropped = span.dropped_attributes
    span._attributes = added  # noqa: SLF001


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    """Copy a span's attributes; reading each through the span takes ten times as long."""
    attributes = span.attributes
    return attributes.copy() if isinstance(attributes, MappingProxyType) else dict(attributes or {})


def smallest_queue(provider: Any, default: int) -> int:
    """Return the size in spans of the smallest queue of a provider's batch processors."""
    batching = (getattr(each, "_batch_processor", None) for each in span_processors(provider))
    sizes = [getattr(each, "_max_queue_size", default) for each in batching if each is not None]
    return min(sizes, default=default)


def has_metric_readers(provider: Any) -> bool:
    """Whether a meter provider has readers; True for a provider of an unknown kind."""
    if isinstance(provider, metrics.NoOpMeterProvider) or provider is metrics.get_meter_provider():
        return bool(getattr(provider, "_metric_readers", ()))
    return bool(getattr(provider, "_metric_readers", True))


def record_many(
    histogram: Histogram,
    values: Sequence[float],
    attributes: Mapping[str, str],
    context: Context,
) -> None:
    """Record each value, ten times faster than by `record` where the SDK has the privates used.

    `record` cleans, sorts and hashes the same attributes again for each value, which for a batch
    costs more than all else. Only the first value becomes an exemplar of `context`'s span.
    """
    if not values:
        return
    histogram.record(values[0], attributes, context)
    aggregations = _aggregations(histogram, dict(attributes))
    if aggregations is None:
        for value in values[1:]:
            histogram.record(value, attributes, context)
        return
    for lock, find in aggregations:
        measurement = SimpleNamespace(attributes=attributes, context=context)
        # A reader of deltas discards its aggregations as it collects them, under the same lock.
        with lock:
            aggregate = find().aggregate
            for value in values[1:]:
                measurement.value = value
                aggregate(measurement, False)


def _aggregations(
    histogram: Any, attributes: dict[str, str]
) -> list[tuple[Any, Callable[[], Any]]] | None:
    """Return the lock and the finder of each reader's and view's aggregation, None without them."""
    try:
        from opentelemetry.sdk.metrics._internal._view_instrument_match import (  # noqa: PLC0415
            _hash_attributes,
        )

        found: list[tuple[Any, Callable[[], Any]]] = []
        for storage in histogram._measurement_consumer._reader_storages.values():  # noqa: SLF001
            for match in storage._get_or_init_view_instrument_match(histogram):  # noqa: SLF001
                kept = match._view._attribute_keys  # noqa: SLF001
                seen = {k: v for k, v in attributes.items() if kept is None or k in kept}
                find = partial(match._get_or_create_aggregation, _hash_attributes(seen), seen)  # noqa: SLF001
                found.append((match._lock, find))  # noqa: SLF001
    except (AttributeError, ImportError, TypeError):
        return None
    return found
