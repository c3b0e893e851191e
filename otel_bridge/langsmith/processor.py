"""The span processor that mirrors spans to LangSmith as runs, and the metrics of its delivery."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from otel_bridge import semconv
from otel_bridge._core.display import safe_text
from otel_bridge._core.otel_sdk import put_first, span_processors
from otel_bridge._core.shield import warn_once
from otel_bridge.config import Settings
from otel_bridge.langsmith.client import NOT_MIRRORED
from otel_bridge.langsmith.delivery import Delivery
from otel_bridge.langsmith.mirroring import Mirror
from otel_bridge.propagation.active_runs import active_runs
from otel_bridge.version import __version__

if TYPE_CHECKING:
    from typing import Any

    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider

    from otel_bridge.langsmith.delivery import DeliveryReport

Callback = Callable[[CallbackOptions], Iterable[Observation]]

_OUTCOMES = ("sent", "refused", "dropped")
_observed: WeakKeyDictionary[MeterProvider, WeakSet[Delivery]] = WeakKeyDictionary()
_observed_lock = threading.Lock()

logger = logging.getLogger(__name__)
_NO_PROVIDER = (
    "LANGSMITH_TRACING is on, but the tracer provider takes no span processors; set one of the "
    "OpenTelemetry SDK first"
)


class LangSmithSpanProcessor(SpanProcessor):
    """Mirrors each span once: registers its run when it starts, sends the run when it ends.

    With OTEL_BRIDGE_LANGSMITH_ROUTE=collector nothing is sent and `delivery` is None. Ended spans
    are stamped for LangSmith's OTLP endpoint instead, so this processor must come before those that
    export. Content that only LangSmith may see does not travel by that route.
    """

    def __init__(
        self,
        delivery: Delivery | None = None,
        settings: Settings | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self.settings = settings = settings or Settings.from_env()
        self.delivery = delivery
        if settings.langsmith_route == "collector":
            self.delivery = None
            if settings.langsmith_content and not settings.span_content:
                logger.warning(
                    "OTEL_BRIDGE_LANGSMITH_CONTENT has no effect with "
                    "OTEL_BRIDGE_LANGSMITH_ROUTE=collector, by which spans alone travel; "
                    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT puts content on them"
                )
        elif delivery is None:
            self.delivery = Delivery(state_dir=settings.state_dir)
        if self.delivery is not None:
            observe(self.delivery, meter_provider)
        self._mirror = Mirror(settings, self.delivery)
        self._matches = self._mirror.filter.matches

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        try:
            if self._matches(span):
                self._mirror.open(span, parent_context)
                return
            parent = span.parent
            if parent is not None and active_runs.peek(parent.span_id) is not None:
                self._mirror.skip(span)
        except Exception as error:  # noqa: BLE001 - no fault of telemetry reaches the caller
            self._mirror.shield.note(error)

    def on_end(self, span: ReadableSpan) -> None:
        try:
            if self._matches(span):
                self._mirror.close(span)
        except Exception as error:  # noqa: BLE001 - no fault of telemetry reaches the caller
            self._mirror.shield.note(error)

    def shutdown(self) -> None:
        if self.delivery is not None:
            self.delivery.close()

    def force_flush(self, timeout_millis: int = 15_000) -> bool:
        return self.delivery is None or self.delivery.flush(timeout_millis / 1000, patient=False)

    @property
    def lost(self) -> int:
        """Number of run updates that LangSmith does not have and that are not on disk."""
        return self._mirror.shield.faults if self.delivery is None else self.delivery.report.lost


_mirroring = threading.Lock()


def mirror(
    provider: Any,
    settings: Settings | None = None,
    meter_provider: MeterProvider | None = None,
) -> LangSmithSpanProcessor | None:
    """Add the mirror to an SDK tracer provider, unless the provider has one.

    Its metrics go to `meter_provider`, the global one by default. Returns the provider's mirror.
    Returns None where LANGSMITH_TRACING is off, and, with one warning, where a mirror cannot be
    made.
    """
    settings = settings or Settings.from_env()
    if settings.sdk_disabled or not settings.langsmith_tracing:
        return None
    if not hasattr(provider, "add_span_processor"):
        warn_once(logger, NOT_MIRRORED, _NO_PROVIDER)
        return None
    with _mirroring:
        existing = next(
            (
                each
                for each in span_processors(provider)
                if isinstance(each, LangSmithSpanProcessor)
            ),
            None,
        )
        if existing is None:
            try:
                existing = LangSmithSpanProcessor(None, settings, meter_provider)
            except Exception as error:  # noqa: BLE001 - the caller's batch goes on without it
                warn_once(logger, NOT_MIRRORED, safe_text(str(error), 500) or type(error).__name__)
                return None
            put_first(provider, existing)
        return existing


def observe(delivery: Delivery, provider: MeterProvider | None = None) -> None:
    """Have a meter provider's readers see a delivery, the global provider's by default.

    The instruments are made once per provider and show the sum over its deliveries.
    """
    provider = provider or metrics.get_meter_provider()
    with _observed_lock:
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
