"""Anthropic Message Batches in OpenTelemetry and LangSmith."""

from otel_bridge.batches import (
    AsyncBatchExecutor,
    BatchExecutor,
    BatchHandle,
    BatchResult,
    BatchResults,
)
from otel_bridge.config import Settings
from otel_bridge.errors import (
    BatchError,
    BatchNotFoundError,
    BridgeError,
    ConfigurationError,
    PartialSubmissionError,
    RequestsError,
    SubmissionAmbiguousError,
)
from otel_bridge.instrumentation import instrument, uninstrument
from otel_bridge.langsmith import LangSmithSpanExporter, LangSmithSpanProcessor
from otel_bridge.pricing import Cost
from otel_bridge.usage import TokenUsage
from otel_bridge.version import __version__

__all__ = [
    "AsyncBatchExecutor",
    "BatchError",
    "BatchExecutor",
    "BatchHandle",
    "BatchNotFoundError",
    "BatchResult",
    "BatchResults",
    "BridgeError",
    "ConfigurationError",
    "Cost",
    "LangSmithSpanExporter",
    "LangSmithSpanProcessor",
    "PartialSubmissionError",
    "RequestsError",
    "Settings",
    "SubmissionAmbiguousError",
    "TokenUsage",
    "__version__",
    "instrument",
    "uninstrument",
]
