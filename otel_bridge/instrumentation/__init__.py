"""Watches batches that other code runs with the anthropic SDK."""

from otel_bridge.instrumentation.instrumentor import (
    AnthropicBatchesInstrumentor,
    instrument,
    uninstrument,
)

__all__ = ["AnthropicBatchesInstrumentor", "instrument", "uninstrument"]
