"""The mirror: OpenTelemetry spans as LangSmith runs."""

from otel_bridge.langsmith.context import RunContext
from otel_bridge.langsmith.delivery import Delivery, DeliveryReport
from otel_bridge.langsmith.exporter import LangSmithSpanExporter
from otel_bridge.langsmith.nesting import nest_traceable
from otel_bridge.langsmith.processor import LangSmithSpanProcessor, mirror
from otel_bridge.langsmith.propagator import LangSmithPropagator
from otel_bridge.langsmith.spool import LeftBehind

__all__ = [
    "Delivery",
    "DeliveryReport",
    "LangSmithPropagator",
    "LangSmithSpanExporter",
    "LangSmithSpanProcessor",
    "LeftBehind",
    "RunContext",
    "mirror",
    "nest_traceable",
]
