"""Runs Message Batches with the anthropic SDK."""

from otel_bridge.batches.backfilling import Backfilled
from otel_bridge.batches.estimating import SAMPLE, Estimate
from otel_bridge.batches.executor import AsyncBatchExecutor, BatchExecutor
from otel_bridge.batches.handle import BatchHandle
from otel_bridge.batches.results import BatchResult, BatchResults
from otel_bridge.batches.run import AsyncBatchRun, BatchRun
from otel_bridge.batches.structured import (
    Failure,
    StructuredRequest,
    StructuredResult,
    StructuredResults,
)
from otel_bridge.domain.requests import Request

__all__ = [
    "SAMPLE",
    "AsyncBatchExecutor",
    "AsyncBatchRun",
    "Backfilled",
    "BatchExecutor",
    "BatchHandle",
    "BatchResult",
    "BatchResults",
    "BatchRun",
    "Estimate",
    "Failure",
    "Request",
    "StructuredRequest",
    "StructuredResult",
    "StructuredResults",
]
