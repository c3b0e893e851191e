"""The mirror: OpenTelemetry spans as LangSmith runs."""

from otel_bridge.langsmith.context import RunContext
from otel_bridge.langsmith.delivery import Delivery, DeliveryReport
from otel_bridge.langsmith.exporter import LangSmithSpanExporter
from otel_bridge.langsmith.processor import LangSmithSpanProcessor, mirror
from otel_bridge.langsmith.propagator import LangSmithPropagator

__all__ = [
    "Delivery",
    "DeliveryReport",
    "LangSmithPropagator",
    "LangSmithSpanExporter",
    "LangSmithSpanProcessor",
    "RunContext",
    "mirror",
]
