"""Where a process's telemetry of batches goes: its providers, its instruments and the journal."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from opentelemetry import metrics, trace

from otel_bridge._core.otel_sdk import exports_spans, sdk_provider
from otel_bridge.config import Settings
from otel_bridge.journal import journal_in
from otel_bridge.telemetry.backpressure import export_errors
from otel_bridge.telemetry.metrics import BatchMetrics
from otel_bridge.telemetry.spans import chosen_id_tracer
from otel_bridge.version import __version__


class Backends:
    """A tracer and a meter provider, the global ones by default, and the journal of `settings`."""

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings.from_env()
        self.journal = journal_in(self.settings.state_dir)
        self.runs_lost: Callable[[], int] = lambda: 0
        """Returns how many run updates the mirror has lost; who adds a mirror sets it."""
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        export_errors.watch()

    @property
    def provider(self) -> Any:
        """The tracer provider: a service may set the global one after this was made."""
        return sdk_provider(self._tracer_provider or trace.get_tracer_provider())

    @property
    def tracer(self) -> trace.Tracer:
        """A tracer that can start spans with chosen ids."""
        return chosen_id_tracer(self.provider, __version__)

    @cached_property
    def metrics(self) -> BatchMetrics:
        """The instruments, made when the first batch needs them."""
        return BatchMetrics(
            sdk_provider(self._meter_provider or metrics.get_meter_provider()),
            __version__,
            legacy=not self.settings.latest_semconv_only,
        )

    @property
    def exports_spans(self) -> bool:
        """Whether spans go anywhere but to our own mirror."""
        return exports_spans(self.provider, but="otel_bridge")

    def is_exported(self, batch_id: str) -> bool:
        """Whether every backend that is configured has all of the batch."""
        known = self.journal.get(batch_id)
        return (
            known is not None
            and (known.spans_exported or not self.exports_spans)
            and (known.runs_exported or not self.settings.langsmith_tracing)
        )
