"""Anthropic Message Batches in OpenTelemetry and LangSmith.

Names are imported when they are first used: `opentelemetry-instrument` loads this package in
every process, whether or not it uses the anthropic SDK.
"""

import typing as _typing

from otel_bridge.version import __version__

if _typing.TYPE_CHECKING:
    from otel_bridge.batches import (
        AsyncBatchExecutor,
        AsyncBatchRun,
        AsyncProgress,
        Backfilled,
        BatchExecutor,
        BatchHandle,
        BatchResult,
        BatchResults,
        BatchRun,
        Estimate,
        Failure,
        Progress,
        Request,
        StructuredMethod,
        StructuredRequest,
        StructuredResult,
        StructuredResults,
    )
    from otel_bridge.config import Settings
    from otel_bridge.domain.batch import BatchInfo
    from otel_bridge.domain.pricing import Cost
    from otel_bridge.domain.usage import TokenUsage
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
    from otel_bridge.instrumentation import instrument, uninstrument
    from otel_bridge.langsmith import LangSmithSpanExporter, LangSmithSpanProcessor
    from otel_bridge.propagation.nesting import nest_traceable
else:
    _HOMES = {
        "batches": (
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
        ),
        "config": ("Settings",),
        "domain.batch": ("BatchInfo",),
        "domain.pricing": ("Cost",),
        "domain.usage": ("TokenUsage",),
        "errors": (
            "BatchError",
            "BatchNotFoundError",
            "BridgeError",
            "ConfigurationError",
            "CostLimitError",
            "PartialSubmissionError",
            "RequestsError",
            "SubmissionAmbiguousError",
        ),
        "instrumentation": ("instrument", "uninstrument"),
        "langsmith": ("LangSmithSpanExporter", "LangSmithSpanProcessor"),
        "propagation.nesting": ("nest_traceable",),
    }

    def __getattr__(name: str) -> object:
        from importlib import import_module  # noqa: PLC0415 - no public name of this package

        for home, names in _HOMES.items():
            if name in names:
                value = getattr(import_module(f"{__name__}.{home}"), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "AsyncBatchExecutor",
    "AsyncBatchRun",
    "AsyncProgress",
    "Backfilled",
    "BatchError",
    "BatchExecutor",
    "BatchHandle",
    "BatchInfo",
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
    "Progress",
    "Request",
    "RequestsError",
    "Settings",
    "StructuredMethod",
    "StructuredRequest",
    "StructuredResult",
    "StructuredResults",
    "SubmissionAmbiguousError",
    "TokenUsage",
    "__version__",
    "instrument",
    "nest_traceable",
    "uninstrument",
]
