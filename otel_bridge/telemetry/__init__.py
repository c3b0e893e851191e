"""A batch's life as OpenTelemetry spans and metrics."""

from otel_bridge.telemetry.attempt import Attempt
from otel_bridge.telemetry.recorder import BatchRecorder
from otel_bridge.telemetry.recording import BatchRecording
from otel_bridge.telemetry.structured import VALID, Structured, structured_span

__all__ = [
    "VALID",
    "Attempt",
    "BatchRecorder",
    "BatchRecording",
    "Structured",
    "structured_span",
]
