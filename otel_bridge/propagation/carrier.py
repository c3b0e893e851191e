"""The current trace context and LangSmith run as headers, for another process."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import propagate
from opentelemetry.context import Context

from otel_bridge._core.shield import Shield
from otel_bridge.propagation.propagator import LangSmithPropagator

_langsmith = LangSmithPropagator()
_WITHOUT = "A batch is recorded without the trace context of its submission"


def current() -> dict[str, str]:
    """Return the current trace context and LangSmith run as headers."""
    carrier: dict[str, str] = {}
    with Shield(_WITHOUT):
        propagate.inject(carrier)
        _langsmith.inject(carrier)
    return carrier


def context_of(carrier: Mapping[str, str]) -> Context | None:
    """Return the context that `current` wrote as headers, None for no headers."""
    if carrier:
        with Shield(_WITHOUT):
            return _langsmith.extract(carrier, propagate.extract(carrier))
    return None
