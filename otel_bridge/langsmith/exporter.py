"""The mirror as a span exporter, for pipelines set up by OTEL_TRACES_EXPORTER=otlp,langsmith."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_bridge._core.lifecycle import close_with_process
from otel_bridge._core.shield import warn_once
from otel_bridge.config import Settings
from otel_bridge.langsmith.connecting import NOT_MIRRORED
from otel_bridge.langsmith.delivery import Delivery
from otel_bridge.langsmith.mirroring import Mirror
from otel_bridge.langsmith.ordering import Ordering

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

logger = logging.getLogger(__name__)


class LangSmithSpanExporter(SpanExporter):
    """Sends ended spans as runs, parents first, except those that a `LangSmithSpanProcessor` sent.

    An exporter sees nothing of a span while it is open: no run is shown before it ends, and the
    `@traceable` runs and remote parents that were active around a span are unknown, so that it
    begins a trace of its own in LangSmith. `patience` in seconds and `limit` in spans bound the
    wait for a parent. LANGSMITH_TRACING=false turns the exporter off; so does the route by a
    collector, for which spans have to be stamped before they are exported.
    """

    def __init__(
        self,
        delivery: Delivery | None = None,
        settings: Settings | None = None,
        *,
        patience: float = 60.0,
        limit: int = 20_000,
    ) -> None:
        settings = settings or Settings.from_env()
        self._mirror: Mirror | None = None
        self._delivery = delivery
        self._ordering = Ordering(self._send, patience=patience, limit=limit)
        if settings.langsmith_tracing is False:
            return
        if settings.langsmith_route == "collector":
            logger.warning(
                "OTEL_TRACES_EXPORTER=langsmith sends nothing with "
                "OTEL_BRIDGE_LANGSMITH_ROUTE=collector; use LANGSMITH_TRACING=true instead"
            )
            return
        try:
            self._delivery = delivery or Delivery(state_dir=settings.state_dir)
        except Exception as error:  # noqa: BLE001 - other exporters go on without it
            warn_once(logger, NOT_MIRRORED, error)
            return
        self._mirror = Mirror(settings, self._delivery)
        close_with_process(self)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._mirror is not None:
            self._ordering.take(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.close()

    def close(self) -> None:
        """Send what waits for a parent, too."""
        self._ordering.drain()
        if self._delivery is not None:
            self._delivery.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        self._ordering.drain()
        return self._delivery is None or self._delivery.flush(timeout_millis / 1000, patient=False)

    def _send(self, spans: Sequence[ReadableSpan]) -> None:
        if self._mirror is not None:
            with self._mirror.shield:
                self._mirror.close_all(spans)
