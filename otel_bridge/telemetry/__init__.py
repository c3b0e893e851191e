"""A batch's life as OpenTelemetry spans and metrics."""

from otel_bridge.telemetry.attempt import Attempt
from otel_bridge.telemetry.batch import DUPLICATE, MISSING, OUTCOMES, BatchFacts
from otel_bridge.telemetry.recorder import BatchRecorder, BatchRecording
from otel_bridge.telemetry.structured import Structured, structured_span
from otel_bridge.telemetry.tally import Tally

__all__ = [
    "DUPLICATE",
    "MISSING",
    "OUTCOMES",
    "Attempt",
    "BatchFacts",
    "BatchRecorder",
    "BatchRecording",
    "Structured",
    "Tally",
    "structured_span",
]
