"""Anthropic Message Batches in OpenTelemetry and LangSmith."""

from otel_bridge.batches import (
    AsyncBatchExecutor,
    AsyncBatchRun,
    Backfilled,
    BatchExecutor,
    BatchHandle,
    BatchResult,
    BatchResults,
    BatchRun,
    Estimate,
    Failure,
    StructuredRequest,
    StructuredResult,
    StructuredResults,
)
from otel_bridge.config import Settings
from otel_bridge.errors import (
    BatchError,
    BatchNotFoundError,
    BridgeError,
    ConfigurationError,
    CostLimitError,
    PartialSubmissionError,
    RequestsError,
    SubmissionAmbiguousError,
)
from otel_bridge.langsmith import LangSmithSpanExporter, LangSmithSpanProcessor
from otel_bridge.pricing import Cost
from otel_bridge.usage import TokenUsage
from otel_bridge.version import __version__

__all__ = [
    "AsyncBatchExecutor",
    "AsyncBatchRun",
    "Backfilled",
    "BatchError",
    "BatchExecutor",
    "BatchHandle",
    "BatchNotFoundError",
    "BatchResult",
    "BatchResults",
    "BatchRun",
    "BridgeError",
    "ConfigurationError",
    "Cost",
    "CostLimitError",
    "Estimate",
    "Failure",
    "LangSmithSpanExporter",
    "LangSmithSpanProcessor",
    "PartialSubmissionError",
    "RequestsError",
    "Settings",
    "StructuredRequest",
    "StructuredResult",
    "StructuredResults",
    "SubmissionAmbiguousError",
    "TokenUsage",
    "__version__",
]
