"""Metrics that are read off when they are exported: batches that wait, and spans that were lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from otel_bridge import semconv
from otel_bridge.telemetry.losses import losses

if TYPE_CHECKING:
    from otel_bridge.telemetry.batch import BatchFacts

Waiting = dict[str, "BatchFacts"]

_LIFE = 24 * 3600.0
_watched: WeakKeyDictionary[Meter, Waiting] = WeakKeyDictionary()
_lock = threading.Lock()


def waiting_batches(meter: Meter) -> Waiting:
    """The batches that are waited for by id, of which the meter's readers see age and expiry.

    The SDK has one meter per provider and scope, so recorders on one provider share the batches.
    """
    with _lock:
        known = _watched.get(meter)
        if known is not None:
            return known
        waiting = _watched[meter] = Waiting()
    meter.create_observable_gauge(
        semconv.METRIC_BATCH_OLDEST_AGE,
        [_over(waiting, lambda batches: time.time() - min(map(_created, batches)))],
        "s",
        "Age of the oldest batch that this process waits for",
    )
    meter.create_observable_gauge(
        semconv.METRIC_BATCH_NEXT_EXPIRY,
        [_over(waiting, lambda batches: min(map(_expires, batches)) - time.time())],
        "s",
        "Time until the first batch that this process waits for expires",
    )
    meter.create_observable_counter(
        semconv.METRIC_SPANS_DROPPED,
        [lambda _: [Observation(losses.spans)]],
        "{report}",
        "Times that OpenTelemetry said that it lost spans",
    )
    return waiting


def _over(
    waiting: Waiting, figure: Callable[[list[BatchFacts]], float]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    """Observes nothing while no batch is waited for."""

    def callback(_: CallbackOptions) -> Iterable[Observation]:
        batches = list(waiting.values())
        return [Observation(figure(batches))] if batches else []

    return callback


def _created(batch: BatchFacts) -> float:
    return batch.created_at.timestamp()


def _expires(batch: BatchFacts) -> float:
    return batch.expires_at.timestamp() if batch.expires_at else _created(batch) + _LIFE
