"""A batch's life as OpenTelemetry spans and metrics."""

from otel_bridge.telemetry.batch import BatchFacts
from otel_bridge.telemetry.recorder import BatchRecorder, BatchRecording

__all__ = ["BatchFacts", "BatchRecorder", "BatchRecording"]
