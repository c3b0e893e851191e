"""A batch's life as OpenTelemetry spans and metrics."""

from otel_bridge.telemetry.attempt import Attempt
from otel_bridge.telemetry.batch import (
    ERRORED,
    MISSING,
    OUTCOMES,
    SUCCEEDED,
    UNKNOWN,
    BatchFacts,
    error_of,
    kind_of,
    model_of,
    tier_of,
)
from otel_bridge.telemetry.lines import Lines
from otel_bridge.telemetry.recorder import BatchRecorder
from otel_bridge.telemetry.recording import BatchRecording
from otel_bridge.telemetry.structured import VALID, Structured, structured_span
from otel_bridge.telemetry.tally import Pass, Tally

__all__ = [
    "ERRORED",
    "MISSING",
    "OUTCOMES",
    "SUCCEEDED",
    "UNKNOWN",
    "VALID",
    "Attempt",
    "BatchFacts",
    "BatchRecorder",
    "BatchRecording",
    "Lines",
    "Pass",
    "Structured",
    "Tally",
    "error_of",
    "kind_of",
    "model_of",
    "structured_span",
    "tier_of",
]
