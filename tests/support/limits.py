"""LangSmith's limits, made small enough for a test that is soon done."""

from __future__ import annotations

import pytest

from otel_bridge.langsmith import hierarchy
from otel_bridge.simulator import ingest


def limit_traces(monkeypatch: pytest.MonkeyPatch, scale: int) -> None:
    """Divide by `scale` the number of runs that a trace may have, on both sides."""
    for module in (hierarchy, ingest):
        monkeypatch.setattr(module, "RUNS_PER_TRACE", module.RUNS_PER_TRACE // scale)
