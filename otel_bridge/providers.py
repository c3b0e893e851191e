"""What OpenTelemetry's providers do not tell in public."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry.attributes import BoundedAttributes

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor


def span_processors(provider: Any) -> tuple[Any, ...]:
    """The processors of an SDK tracer provider; none of any other."""
    active = getattr(provider, "_active_span_processor", None)
    return tuple(getattr(active, "_span_processors", ()))


def put_first(provider: Any, processor: SpanProcessor) -> None:
    """Add a processor before all others, where the provider has an order; else as it adds them."""
    provider.add_span_processor(processor)
    active = getattr(provider, "_active_span_processor", None)
    processors = span_processors(provider)
    if active is not None and processor in processors:
        others = tuple(each for each in processors if each is not processor)
        active._span_processors = (processor, *others)  # noqa: SLF001 - there is no public way


def add_attributes(span: ReadableSpan, attributes: Mapping[str, Any]) -> None:
    """Add to an ended span what the processors and exporters after this one shall see.

    The SDK lets nobody set attributes when a span ends, `_on_ending` included.
    """
    told = span._attributes  # noqa: SLF001 - as above
    added = BoundedAttributes(attributes={**(told or {}), **attributes})
    added.dropped = span.dropped_attributes
    span._attributes = added  # noqa: SLF001


def smallest_queue(provider: Any, default: int) -> int:
    """The number of spans that the smallest queue of a provider's batch processors takes."""
    batching = (getattr(each, "_batch_processor", None) for each in span_processors(provider))
    sizes = [getattr(each, "_max_queue_size", default) for each in batching if each is not None]
    return min(sizes, default=default)


def has_metric_readers(provider: Any) -> bool:
    """Whether anybody reads an SDK meter provider's metrics."""
    return bool(getattr(provider, "_metric_readers", ()))
