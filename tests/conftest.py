"""A service in miniature: real SDKs wired to the simulator, and what the truth is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import anthropic
import hypothesis
import pytest
from genai_prices import Usage, calc_price
from langsmith import Client
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from urllib3 import Retry

import otel_bridge
from otel_bridge import AsyncBatchExecutor, BatchExecutor, LangSmithSpanProcessor, Settings
from otel_bridge.langsmith import Delivery
from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer, OtlpCapture

# Speed is measured in benchmarks; a slow machine must not fail a test.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

MODELS = ("claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001")


class Service:
    """A process of a service: its providers, its mirror and its executors."""

    def __init__(
        self, api: MessageBatchesServer, otlp: OtlpCapture, langsmith: LangSmithCapture
    ) -> None:
        self.api = api
        self.otlp = otlp
        self.langsmith = langsmith
        self.tracers = TracerProvider()
        self.meters = MeterProvider(
            [
                PeriodicExportingMetricReader(
                    OTLPMetricExporter(endpoint=f"{otlp.url}/v1/metrics"),
                    export_interval_millis=600_000,
                )
            ]
        )
        self.tracers.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{otlp.url}/v1/traces"))
        )
        self.client = anthropic.Anthropic(base_url=api.url, api_key="test", max_retries=0)
        self.async_clients: list[anthropic.AsyncAnthropic] = []
        self.delivery = Delivery(
            Client(
                api_url=langsmith.url,
                api_key="test",
                tracing_mode="langsmith",
                auto_batch_tracing=False,
                retry_config=Retry(total=0),
                timeout_ms=(3_000, 10_000),
            )
        )

    def settings(self, **changes: Any) -> Settings:
        return Settings(
            **{
                "poll_interval": 0.02,
                "poll_max_interval": 0.1,
                "langsmith_tracing": True,
                "state_dir": None,
            }
            | changes
        )

    def mirror(self, settings: Settings) -> None:
        processors = self.tracers._active_span_processor._span_processors
        if settings.langsmith_tracing and len(processors) == 1:
            self.tracers.add_span_processor(LangSmithSpanProcessor(self.delivery, settings))

    def executor(self, on_progress: Any = None, **changes: Any) -> BatchExecutor:
        settings = self.settings(**changes)
        self.mirror(settings)
        return BatchExecutor(
            self.client,
            tracer_provider=self.tracers,
            meter_provider=self.meters,
            settings=settings,
            on_progress=on_progress,
        )

    def async_executor(self, on_progress: Any = None, **changes: Any) -> AsyncBatchExecutor:
        settings = self.settings(**changes)
        self.mirror(settings)
        client = anthropic.AsyncAnthropic(base_url=self.api.url, api_key="test", max_retries=0)
        self.async_clients.append(client)
        return AsyncBatchExecutor(
            client,
            tracer_provider=self.tracers,
            meter_provider=self.meters,
            settings=settings,
            on_progress=on_progress,
        )

    def flush(self) -> None:
        self.tracers.force_flush()
        self.delivery.flush(5)
        self.meters.force_flush()

    async def aclose(self) -> None:
        """Close the clients of async executors, where they were used."""
        for client in self.async_clients:
            await client.close()

    def close(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()
        self.delivery.close()
        self.client.close()


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
def instrument(service: Any) -> Iterator[Callable[..., None]]:
    """`otel_bridge.instrument()` on a service, anew each time, as in a new process."""

    def call(on: Any = service, **changes: Any) -> None:
        otel_bridge.uninstrument()
        settings = on.settings(**changes)
        on.mirror(settings)
        otel_bridge.instrument(
            tracer_provider=on.tracers, meter_provider=on.meters, settings=settings
        )

    yield call
    otel_bridge.uninstrument()


@pytest.fixture
def make_requests() -> Callable[[int], list[dict[str, Any]]]:
    def make(count: int) -> list[dict[str, Any]]:
        return [
            {
                "custom_id": f"item-{number:05d}",
                "params": {
                    "model": MODELS[number % 2],
                    "max_tokens": 100,
                    "messages": [{"role": "user", "content": f"secret question {number}"}],
                },
            }
            for number in range(count)
        ]

    return make


@pytest.fixture
def cost_of() -> Callable[[dict[str, Any]], float]:
    """Cost of one line of results in USD: list price by `calc_price` itself, tokens halved."""
    return _cost


@pytest.fixture
def list_cost_of() -> Callable[..., float]:
    """Cost of a message in USD at list price; `split` tells of cache writes that live for 1 h."""
    return _list_cost


def _cost(line: dict[str, Any]) -> float:
    message = line["result"].get("message")
    if not message:
        return 0.0
    searches: int = (message["usage"].get("server_tool_use") or {}).get("web_search_requests", 0)
    return _list_cost(message) / 2 + searches * 0.01


def _list_cost(message: dict[str, Any], *, split: bool = True) -> float:
    usage = message["usage"]
    read, written = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
    return _list_price(
        message["model"],
        input_tokens=usage["input_tokens"] + read + written,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=split * usage["cache_creation"]["ephemeral_1h_input_tokens"],
        output_tokens=usage["output_tokens"],
    )


@cache
def _list_price(model: str, **tokens: int) -> float:
    price = calc_price(
        Usage(**tokens), model, provider_id="anthropic", genai_request_timestamp=datetime.now(UTC)
    )
    return float(price.total_price)


class Command:
    """`otel-bridge` in a folder and an environment of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "ANTHROPIC_API_KEY": "test",
            "OTEL_BRIDGE_POLL_INTERVAL": "0.05",
            "OTEL_BRIDGE_STATE_DIR": str(folder / "state"),
            **environment,
        }

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "otel_bridge.cli", *arguments],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it, for a test that kills it."""
        return subprocess.Popen(
            [sys.executable, "-m", "otel_bridge.cli", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def write(self, requests: list[dict[str, Any]]) -> str:
        (self.folder / "requests.jsonl").write_text("\n".join(map(json.dumps, requests)) + "\n")
        return "requests.jsonl"


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
