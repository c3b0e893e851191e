"""What OpenTelemetry's providers do not tell in public."""

from __future__ import annotations

from typing import Any


def span_processors(provider: Any) -> tuple[Any, ...]:
    """The processors of an SDK tracer provider; none of any other."""
    active = getattr(provider, "_active_span_processor", None)
    return tuple(getattr(active, "_span_processors", ()))


def smallest_queue(provider: Any, default: int) -> int:
    """The number of spans that the smallest queue of a provider's batch processors takes."""
    batching = (getattr(each, "_batch_processor", None) for each in span_processors(provider))
    sizes = [getattr(each, "_max_queue_size", default) for each in batching if each is not None]
    return min(sizes, default=default)


def has_metric_readers(provider: Any) -> bool:
    """Whether anybody reads an SDK meter provider's metrics."""
    return bool(getattr(provider, "_metric_readers", ()))
