"""The mirror: OpenTelemetry spans as LangSmith runs.

The names of `otel_bridge.propagation` are here at once. The mirror, with LangSmith's SDK, is loaded
when a name of it is first used, so that a process which does not use it does not pay for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_bridge.propagation.active_runs import RunContext
from otel_bridge.propagation.nesting import nest_traceable
from otel_bridge.propagation.propagator import LangSmithPropagator

if TYPE_CHECKING:
    from otel_bridge.langsmith.delivery import Delivery, DeliveryReport
    from otel_bridge.langsmith.exporter import LangSmithSpanExporter
    from otel_bridge.langsmith.processor import LangSmithSpanProcessor, mirror
    from otel_bridge.langsmith.spool import LeftBehind
else:
    _HOMES = {
        "Delivery": "delivery",
        "DeliveryReport": "delivery",
        "LangSmithSpanExporter": "exporter",
        "LangSmithSpanProcessor": "processor",
        "LeftBehind": "spool",
        "mirror": "processor",
    }

    def __getattr__(name: str) -> object:
        from importlib import import_module  # noqa: PLC0415 - no public name of this package

        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


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
