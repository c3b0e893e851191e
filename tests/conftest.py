"""Fixtures: the simulator's servers, a service wired to them, the command, and requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from support import Command, Cost, Instrument, ListCost, MakeRequests, Service, requests

import otel_bridge
from otel_bridge._core import shield
from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer, OtlpCapture

# Speed is measured in benchmarks; a slow machine must not fail a test.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")


@pytest.fixture(autouse=True)
def nothing_was_warned_of() -> None:
    """Each test is a process of its own for what is said once in a process."""
    shield.said.clear()


@pytest.fixture
def api() -> Iterator[MessageBatchesServer]:
    with MessageBatchesServer(batch_seconds=0.05) as server:
        yield server


@pytest.fixture
def otlp() -> Iterator[OtlpCapture]:
    with OtlpCapture() as server:
        yield server


@pytest.fixture
def langsmith() -> Iterator[LangSmithCapture]:
    with LangSmithCapture() as server:
        yield server


@pytest.fixture
def service(
    api: MessageBatchesServer, otlp: OtlpCapture, langsmith: LangSmithCapture
) -> Iterator[Service]:
    running = Service(api, otlp, langsmith)
    yield running
    running.close()


@pytest.fixture
def instrument(service: Service) -> Iterator[Instrument]:
    """`otel_bridge.instrument()` on a service, anew each time, as in a new process."""

    def call(on: Service = service, /, **changes: Any) -> None:
        otel_bridge.uninstrument()
        settings = on.settings(**changes)
        on.mirror(settings)
        otel_bridge.instrument(
            tracer_provider=on.tracers, meter_provider=on.meters, settings=settings
        )

    yield call
    otel_bridge.uninstrument()


@pytest.fixture
def make_requests() -> MakeRequests:
    return requests.make_requests


@pytest.fixture
def cost_of() -> Cost:
    return requests.cost_of


@pytest.fixture
def list_cost_of() -> ListCost:
    return requests.list_cost_of


@pytest.fixture
def bridge(
    tmp_path: Path, api: MessageBatchesServer, otlp: OtlpCapture, langsmith: LangSmithCapture
) -> Command:
    return Command(
        tmp_path,
        ANTHROPIC_BASE_URL=api.url,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url,
        LANGSMITH_TRACING="true",
        LANGSMITH_ENDPOINT=langsmith.url,
        LANGSMITH_API_KEY="test",
    )
