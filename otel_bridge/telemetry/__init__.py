"""A batch's life as OpenTelemetry spans and metrics."""

from otel_bridge.telemetry.batch import DUPLICATE, MISSING, BatchFacts
from otel_bridge.telemetry.recorder import BatchRecorder, BatchRecording
from otel_bridge.telemetry.tally import Tally

__all__ = [
    "DUPLICATE",
    "MISSING",
    "BatchFacts",
    "BatchRecorder",
    "BatchRecording",
    "Tally",
]
