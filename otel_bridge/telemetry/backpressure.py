"""Backpressure between a burst of spans and exporters, and what OpenTelemetry did not export.

OpenTelemetry has no public way to learn what became of a span: `force_flush` returns True where
the exporter failed, and a full queue drops spans without more than a log record. So the records
that the SDK and the OTLP exporters log are counted. An exporter that fails and logs nothing there,
or whose logger is disabled, is not noticed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import Any

from otel_bridge._core.lifecycle import renew_after_fork
from otel_bridge._core.otel_sdk import smallest_queue

_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.metrics._internal.export",
    "opentelemetry.sdk.trace.export",
)
_WORDS = ("dropping", "ignoring")
_DEFAULT_QUEUE = 2048


class ExportErrors:
    """Counts what OpenTelemetry logged about spans and metrics that it could not export."""

    def __init__(self) -> None:
        self.spans = 0
        """Number of log records about spans since the process began."""
        self.metrics = 0
        """Number of log records about metrics since the process began."""

    def watch(self) -> None:
        """See each log record before the SDK's own filters, which drop repeated ones."""
        for name in _LOGGERS:
            filters = logging.getLogger(name).filters
            if self.count not in filters:
                filters.insert(0, self.count)

    def count(self, record: logging.LogRecord) -> bool:
        """Count a log record, and let it pass."""
        text = f"{record.name.rpartition('.')[2]} {record.getMessage()}".lower()
        if record.levelno >= logging.ERROR or any(word in text for word in _WORDS):
            self.metrics += "metric" in text
            self.spans += "span" in text or "trace" in text
        return True


export_errors = ExportErrors()


class BoundedFlush:
    """Calls a provider's `force_flush`, which heeds no timeout, on a thread for a bounded time."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._thread: threading.Thread | None = None
        self._failed = False
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """A lock that a thread held while its process forked would be held for ever."""
        self._starting = threading.Lock()

    def __call__(self, seconds: float) -> bool:
        """Flush; True when `force_flush` returned in time and raised nothing.

        True proves no delivery. A flush that is already running began before the latest spans or
        metrics were recorded, so it is waited for and another one is started.
        """
        if not hasattr(self._provider, "force_flush"):
            return True
        deadline = time.monotonic() + seconds
        earlier = self._thread
        if not _ended(earlier, deadline):
            return False
        with self._starting:
            if self._thread is earlier:  # else another caller's began after this call
                self._thread = threading.Thread(
                    target=self._flush, name="otel-bridge-flush", daemon=True
                )
                self._thread.start()
            thread = self._thread
        return _ended(thread, deadline) and not self._failed

    def _flush(self) -> None:
        self._failed = True
        with contextlib.suppress(Exception):
            self._provider.force_flush()
            self._failed = False


def _ended(thread: threading.Thread | None, deadline: float) -> bool:
    """Whether a thread ends by the deadline, a time of the monotonic clock."""
    if thread is None:
        return True
    thread.join(max(deadline - time.monotonic(), 0.0))
    return not thread.is_alive()


class Pacer:
    """Flushes the provider whenever half of its smallest queue may be full.

    The other half is for spans that the service ends meanwhile. `patience` is the time in seconds
    that flushes of one batch may take which fail or do not return. After that, spans are emitted
    without flushing: a backend that hangs costs telemetry, never the caller's time. A backend that
    is only slow is waited for.
    """

    def __init__(self, provider: Any, patience: float = 20.0) -> None:
        self._flush = BoundedFlush(provider)
        self._patience = patience
        self._slice = max(1, smallest_queue(provider, _default_queue()) // 2)
        self._emitted = 0

    def emitted(self) -> None:
        """Count a span that was ended; flush when there are as many as half the queue."""
        self._emitted += 1
        if self._emitted >= self._slice:
            self._emitted = 0
            self.drain()

    def drain(self) -> bool:
        """Wait for the provider's processors; False when the patience ran out first."""
        started, errors = time.monotonic(), export_errors.spans
        drained = self._flush(self._patience)
        if not drained or export_errors.spans > errors:
            self._patience -= time.monotonic() - started
        return drained


def _default_queue() -> int:
    try:
        return int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", _DEFAULT_QUEUE))
    except ValueError:
        return _DEFAULT_QUEUE
