"""A service in miniature: real SDKs wired to the simulator."""

from __future__ import annotations

from typing import Any, Protocol

import anthropic
from langsmith import Client
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from urllib3 import Retry

from otel_bridge import AsyncBatchExecutor, BatchExecutor, LangSmithSpanProcessor, Settings
from otel_bridge._core.otel_sdk import span_processors
from otel_bridge.batches import AsyncProgress, Progress
from otel_bridge.langsmith import Delivery
from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer, OtlpCapture


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
        self.langsmith_client = Client(
            api_url=langsmith.url,
            api_key="test",
            tracing_mode="langsmith",
            auto_batch_tracing=False,
            retry_config=Retry(total=0),
            timeout_ms=(3_000, 10_000),
        )
        self.delivery = Delivery(self.langsmith_client)

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
        """Add the mirror, once, where the settings ask for it."""
        mirrored = any(
            isinstance(each, LangSmithSpanProcessor) for each in span_processors(self.tracers)
        )
        if settings.langsmith_tracing and not mirrored:
            self.tracers.add_span_processor(LangSmithSpanProcessor(self.delivery, settings))

    def executor(self, on_progress: Progress | None = None, /, **changes: Any) -> BatchExecutor:
        settings = self.settings(**changes)
        self.mirror(settings)
        return BatchExecutor(
            self.client,
            tracer_provider=self.tracers,
            meter_provider=self.meters,
            settings=settings,
            on_progress=on_progress,
        )

    def async_executor(
        self, on_progress: AsyncProgress | None = None, /, **changes: Any
    ) -> AsyncBatchExecutor:
        """Its client is closed by `aclose`."""
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

    async def aclose(self) -> None:
        """Close the clients of the async executors, in the event loop that used them."""
        for client in self.async_clients:
            await client.close()

    def flush(self) -> None:
        self.tracers.force_flush()
        self.delivery.flush(5)
        self.meters.force_flush()

    def close(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()
        self.delivery.close()
        self.client.close()


class Instrument(Protocol):
    """`otel_bridge.instrument()` on a service, anew each time, with changes to its settings."""

    def __call__(self, on: Service = ..., /, **changes: Any) -> None: ...
