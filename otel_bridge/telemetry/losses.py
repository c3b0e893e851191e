"""What OpenTelemetry says it lost.

Nothing public tells what became of a span: `force_flush` returns True where the exporter failed,
and a full queue drops in silence but for a log. So what the SDK and the OTLP exporters log is
counted. An exporter that fails and logs nothing there, or whose logger is disabled, is not seen.
"""

from __future__ import annotations

import logging

_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.metrics._internal.export",
    "opentelemetry.sdk.trace.export",
)
_WORDS = ("dropping", "ignoring")


class Losses:
    """Counts complaints about spans and about metrics since the process began."""

    def __init__(self) -> None:
        self.spans = 0
        self.metrics = 0

    def watch(self) -> None:
        """Look at each record before the SDK's own filters, which let repeats fall."""
        for name in _LOGGERS:
            filters = logging.getLogger(name).filters
            if self.note not in filters:
                filters.insert(0, self.note)

    def note(self, record: logging.LogRecord) -> bool:
        """Count a record, and let it pass."""
        text = f"{record.name.rpartition('.')[2]} {record.getMessage()}".lower()
        if record.levelno >= logging.ERROR or any(word in text for word in _WORDS):
            self.metrics += "metric" in text
            self.spans += "span" in text or "trace" in text
        return True


losses = Losses()
