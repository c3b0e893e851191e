"""OpenTelemetry set up from the environment, and what became of what was sent."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry.distro import OpenTelemetryConfigurator
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
)
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SpanExporter,
    SpanExportResult,
)

from otel_bridge._core.display import safe_endpoint, safe_text
from otel_bridge.cli.environment import check_exporters
from otel_bridge.errors import ConfigurationError
from otel_bridge.langsmith import LangSmithSpanProcessor, mirror
from otel_bridge.telemetry.backpressure import BoundedFlush

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from otel_bridge.config import Settings

_GIVE_UP_AFTER = 15.0
_END_PATIENCE = 12.0
_SESSION = "OTEL_PYTHON_EXPORTER_OTLP_HTTP_{}CREDENTIAL_PROVIDER"
"""Names the entry point that gives OTLP exporters over HTTP their session."""
_VARIABLES = {
    "OTLP": ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"),
    "LangSmith": ("LANGSMITH_ENDPOINT", "LANGSMITH_API_KEY"),
}
"""What to check when a backend is not there, and when it refuses."""


@dataclass(slots=True)
class BackendReport:
    """What became of what was handed to one backend."""

    name: str
    endpoint: str
    unit: str
    sent: int = 0
    held_back: int = 0
    refused: int = 0
    dropped: int = 0
    spooled: int = 0
    set_apart: int = 0
    reason: str | None = None
    metrics_lost: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "held_back": self.held_back,
            "refused": self.refused,
            "dropped": self.dropped,
            "endpoint": self.endpoint,
            "reason": self.reason,
        }

    @property
    def complaint(self) -> str | None:
        """One line about what did not arrive."""
        lost = self.held_back + self.refused + self.dropped
        what = [f"{lost} of {self.sent + lost} {self.unit}"] if lost else []
        if self.metrics_lost:
            what.append("the metrics")
        if not what:
            return None
        reason = f" ({self.reason})" if self.reason else ""
        refused = any(status in (self.reason or "") for status in (" 401", " 403"))
        remedy = "; check " + _VARIABLES[self.name][refused] if self.name in _VARIABLES else ""
        kept = f"; {self.spooled} wait on disk for `otel-bridge replay`" if self.spooled else ""
        if self.set_apart:
            kept += f"; {self.set_apart} are set apart for `otel-bridge replay --refused`"
        missing = f"{' and '.join(what)} did not reach {self.endpoint}"
        return f"{self.name}: {missing}{reason}{remedy}{kept}"


class CountingExporter(SpanExporter):
    """Counts what an exporter took; gives a backend up that fails for too long.

    A command ends soon after its batch, so it cannot wait for every slice to time out.
    """

    def __init__(self, exporter: SpanExporter, report: BackendReport) -> None:
        self._exporter = exporter
        self.report = report
        self._failing_since: float | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        now = time.monotonic()
        started = self._failing_since
        if started is not None and now - started > _GIVE_UP_AFTER:
            self.report.refused += len(spans)
            return SpanExportResult.FAILURE
        self.report.held_back += len(spans)
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - an exporter's fault is a failed export
            self.report.reason = _short(str(error))
            result = SpanExportResult.FAILURE
        self.report.held_back -= len(spans)
        if result is SpanExportResult.SUCCESS:
            self._failing_since = None
            self.report.sent += len(spans)
        else:
            self._failing_since = started or now
            self.report.refused += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class FirstErrorHandler(logging.Handler):
    """Keeps the first warning of each logger below some loggers, and shows none of them."""

    def __init__(self, *loggers: str) -> None:
        super().__init__(logging.WARNING)
        self.first: dict[str, str] = {}
        for name in loggers:
            logger = logging.getLogger(name)
            logger.addHandler(self)
            logger.propagate = False

    def about(self, part: str) -> str | None:
        """Give the first warning of a logger with `part` in its name."""
        return next((text for name, text in self.first.items() if part in name), None)

    def emit(self, record: logging.LogRecord) -> None:
        self.first.setdefault(record.name, _short(record.getMessage()))


class Telemetry:
    """The command's telemetry: a provider from the environment, or the one that is there."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.langsmith: LangSmithSpanProcessor | None = None
        self._errors = FirstErrorHandler()
        self._exporters: list[BackendReport] = []
        self._readers: list[PeriodicExportingMetricReader] = []
        self._finished = False

    def set_up(self) -> Telemetry:
        """Configure the SDK as opentelemetry-distro does, and add the mirror.

        A provider that is there already (opentelemetry-instrument) is used as it stands.
        """
        self._errors = FirstErrorHandler(
            "opentelemetry",
            "langsmith",
            "urllib3",
            "otel_bridge.langsmith.delivery",
            "otel_bridge.telemetry.recording",
        )
        if not self.settings.sdk_disabled:
            default_exporters()
            check_exporters(os.environ)
            set_up_sdk(export_span_processor=self._counted)
        self.langsmith = mirror(trace.get_tracer_provider(), self.settings)
        return self

    def _counted(self, span_exporter: SpanExporter, *_: Any, **__: Any) -> BatchSpanProcessor:
        kind = type(span_exporter).__name__
        otlp = kind.startswith("OTLP")
        report = BackendReport("OTLP" if otlp else kind, otlp_endpoint() if otlp else "", "spans")
        self._exporters.append(report)
        return BatchSpanProcessor(CountingExporter(span_exporter, report))

    def also_export(self, endpoint: str) -> None:
        """Send everything to one more OTLP endpoint, over HTTP, as well."""
        provider: Any = trace.get_tracer_provider()
        meters: Any = metrics.get_meter_provider()
        shown = safe_endpoint(endpoint)
        report = BackendReport(f"OTLP at {shown}", shown, "spans")
        self._exporters.append(report)
        spans = OTLPSpanExporter(f"{endpoint}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(CountingExporter(spans, report)))
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{endpoint}/v1/metrics"))
        meters.add_metric_reader(reader)
        # A provider flushes only the readers that it was made with.
        self._readers.append(reader)

    def finish(self, patience: float = _END_PATIENCE) -> list[BackendReport]:
        """Flush for a bounded time in seconds, and say what became of everything."""
        if self._finished:
            return self.reports()
        self._finished = True
        provider: Any = trace.get_tracer_provider()
        meters: Any = metrics.get_meter_provider()
        owners = [provider, meters, self.langsmith, *self._readers]
        flushes = [
            threading.Thread(target=BoundedFlush(owner), args=(patience,), daemon=True)
            for owner in owners
        ]
        try:
            for flush in flushes:
                flush.start()
            for flush in flushes:
                flush.join()
        finally:  # whoever interrupts the wait loses no run
            if self.langsmith is not None and self.langsmith.delivery is not None:
                self.langsmith.delivery.close(0.0)
        return self.reports()

    def reports(self) -> list[BackendReport]:
        """One report for each backend that is configured."""
        found = list(self._exporters)
        # A complaint names no endpoint: where there are two, the first is the demo's own.
        for report in [each for each in found if each.name.startswith("OTLP")][-1:]:
            report.metrics_lost = self._errors.about("metric_exporter") is not None
            reason = self._errors.about("trace_exporter") or self._errors.about("otlp")
            report.reason = reason if report.refused or report.metrics_lost else None
        delivery = self.langsmith.delivery if self.langsmith is not None else None
        if delivery is not None:
            fates = asdict(delivery.report)
            found.append(BackendReport("LangSmith", delivery.endpoint, "run updates", **fates))
        return found


def _short(text: str) -> str:
    """A complaint in a few words; the exporters' own have the whole chain of exceptions."""
    if "timeout" in text or "timed out" in text:
        return "no answer in time"
    if "onnection" in text or "UNAVAILABLE" in text:
        return "no connection"
    return safe_text(text)


def set_up_sdk(**options: Any) -> None:
    """Set the SDK up as opentelemetry-distro does, unless a provider is there already.

    Raises ConfigurationError.
    """
    try:
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            OpenTelemetryConfigurator().configure(**options)  # type: ignore[no-untyped-call]
    except Exception as error:
        reason = safe_text(str(error)) or type(error).__name__
        raise ConfigurationError(
            f"OpenTelemetry cannot be set up: {reason}; check the OTEL_* variables"
        ) from error


def default_exporters() -> None:
    """Export over OTLP where an endpoint is named, nowhere else; the environment may say more."""
    # A command without an endpoint has nobody to send to: opentelemetry-distro's default of
    # OTLP on localhost would only make it wait.
    wanted = any(
        os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT")
        for signal in ("", "TRACES_", "METRICS_")
    )
    default = "otlp" if wanted else "none"
    os.environ.setdefault("OTEL_TRACES_EXPORTER", default)
    os.environ.setdefault("OTEL_METRICS_EXPORTER", default)
    os.environ.setdefault("OTEL_LOGS_EXPORTER", "none")
    os.environ.setdefault(OTEL_EXPORTER_OTLP_PROTOCOL, "http/protobuf")
    os.environ.setdefault("OTEL_SERVICE_NAME", "otel-bridge")
    name_sessions()


def name_sessions() -> None:
    """Have OTLP exporters over HTTP follow no redirect, unless the environment names a session."""
    if not os.environ.get(_SESSION.format("")):  # which would come before those of each signal
        for signal in ("TRACES_", "METRICS_", "LOGS_"):
            os.environ.setdefault(_SESSION.format(signal), "otel-bridge")


def otlp_endpoint() -> str:
    """Where spans go, as the environment says, fit to be shown."""
    return safe_endpoint(
        os.environ.get(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)
        or os.environ.get(OTEL_EXPORTER_OTLP_ENDPOINT)
        or "the default endpoint"
    )
