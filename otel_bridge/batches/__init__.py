"""Runs Message Batches with the anthropic SDK."""

from otel_bridge.batches.executor import AsyncBatchExecutor, BatchExecutor
from otel_bridge.batches.handle import BatchHandle
from otel_bridge.batches.requests import Request, read_requests, validate_requests
from otel_bridge.batches.results import BatchResult, BatchResults

__all__ = [
    "AsyncBatchExecutor",
    "BatchExecutor",
    "BatchHandle",
    "BatchResult",
    "BatchResults",
    "Request",
    "read_requests",
    "validate_requests",
]
