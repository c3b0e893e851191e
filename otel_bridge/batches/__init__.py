"""Runs Message Batches with the anthropic SDK."""

from otel_bridge.batches.backfilling import Backfilled
from otel_bridge.batches.engine import AsyncProgress, Progress
from otel_bridge.batches.estimating import Estimate
from otel_bridge.batches.executor import AsyncBatchExecutor, BatchExecutor, engine_of
from otel_bridge.batches.handles import BatchHandle
from otel_bridge.batches.results import BatchResult, BatchResults
from otel_bridge.batches.run import AsyncBatchRun, BatchRun
from otel_bridge.batches.structured import (
    Failure,
    StructuredMethod,
    StructuredRequest,
    StructuredResult,
    StructuredResults,
)
from otel_bridge.domain.requests import Request, validate_requests

__all__ = [
    "AsyncBatchExecutor",
    "AsyncBatchRun",
    "AsyncProgress",
    "Backfilled",
    "BatchExecutor",
    "BatchHandle",
    "BatchResult",
    "BatchResults",
    "BatchRun",
    "Estimate",
    "Failure",
    "Progress",
    "Request",
    "StructuredMethod",
    "StructuredRequest",
    "StructuredResult",
    "StructuredResults",
    "engine_of",
    "validate_requests",
]
