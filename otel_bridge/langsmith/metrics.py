"""Metrics of delivery: what became of runs, read from each delivery's report when exported."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from otel_bridge import semconv
from otel_bridge.version import __version__

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

    from otel_bridge.langsmith.delivery import Delivery, DeliveryReport

Callback = Callable[[CallbackOptions], Iterable[Observation]]

_OUTCOMES = ("sent", "refused", "dropped")
_observed: WeakKeyDictionary[MeterProvider, WeakSet[Delivery]] = WeakKeyDictionary()
_lock = threading.Lock()


def observe(delivery: Delivery, provider: MeterProvider | None = None) -> None:
    """Have a meter provider's readers see a delivery, the global provider's by default.

    The instruments are made once per provider and show the sum over its deliveries.
    """
    provider = provider or metrics.get_meter_provider()
    with _lock:
        deliveries = _observed.get(provider)
        if deliveries is not None:
            deliveries.add(delivery)
            return
        deliveries = _observed[provider] = WeakSet([delivery])
    meter = provider.get_meter(semconv.SCOPE, __version__)
    meter.create_observable_counter(
        semconv.METRIC_LANGSMITH_RUNS,
        [_reported(deliveries, semconv.LANGSMITH_OUTCOME, _OUTCOMES)],
        "{run}",
        "Posts and patches of runs by what became of them",
    )
    meter.create_observable_gauge(
        semconv.METRIC_LANGSMITH_WAITING,
        [_reported(deliveries, None, ("held_back",))],
        "{run}",
        "Posts and patches of runs that wait, in memory or in the spool",
    )
    meter.create_observable_gauge(
        semconv.METRIC_LANGSMITH_SPOOLED,
        [_reported(deliveries, None, ("spooled",))],
        "{run}",
        "Posts and patches of runs that wait in the spool",
    )
    meter.create_observable_gauge(
        semconv.METRIC_LANGSMITH_SPOOL_SIZE,
        [lambda _: [Observation(max((each.spool_size for each in deliveries), default=0))]],
        "By",
        "Size of the spool on disk",
    )


def _reported(
    deliveries: WeakSet[Delivery], attribute: str | None, names: tuple[str, ...]
) -> Callback:
    def callback(_: CallbackOptions) -> Iterable[Observation]:
        reports: list[DeliveryReport] = [each.report for each in list(deliveries)]
        return [
            Observation(
                sum(getattr(report, name) for report in reports),
                {attribute: name} if attribute else {},
            )
            for name in names
        ]

    return callback
