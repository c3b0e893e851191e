"""One side of a comparison, run in a process of its own: `python -m benchmarks.sides NAME JSON`.

Prints CPU seconds (all threads), wall seconds and the peak resident memory of the process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anthropic
from langsmith import Client
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind

from otel_bridge import BatchExecutor, LangSmithSpanProcessor, Settings
from otel_bridge.identity import run_id
from otel_bridge.langsmith import Delivery

SLICE = 1000
"""Spans between two flushes, fewer than any queue takes: every side sends every span."""
ATTRIBUTES: dict[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "anthropic",
    "gen_ai.request.model": "claude-sonnet-4-5-20250929",
    "gen_ai.response.model": "claude-sonnet-4-5-20250929",
    "gen_ai.response.finish_reasons": ["stop"],
    "gen_ai.usage.input_tokens": 5200,
    "gen_ai.usage.output_tokens": 410,
    "gen_ai.usage.cache_read.input_tokens": 4000,
    "gen_ai.usage.cache_write.input_tokens": 200,
    "gen_ai.usage.reasoning.output_tokens": 30,
    "gen_ai.usage.cost": 0.0051,
    "anthropic.message.batch.id": "msgbatch_013Zva2CMHLNnXjNJJKqJ2EF",
    "anthropic.message.batch.outcome": "succeeded",
    "anthropic.response.service_tier": "batch",
    "anthropic.message.stop_reason": "end_turn",
}


def _provider(otlp: str) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{otlp}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _emit(provider: TracerProvider, count: int, more: Callable[[Any, int], None]) -> None:
    tracer = provider.get_tracer("otel_bridge")
    with tracer.start_as_current_span("batch", attributes={"gen_ai.operation.name": "batch"}):
        for number in range(count):
            attributes = {
                **ATTRIBUTES,
                "anthropic.message.batch.custom_id": f"item-{number}",
                "gen_ai.response.id": f"msg_{number:024x}",
            }
            span = tracer.start_span("chat", kind=SpanKind.CLIENT, attributes=attributes)
            span.end()
            more(span, number)
            if number % SLICE == SLICE - 1:
                provider.force_flush()
    provider.force_flush()


def otlp_alone(otlp: str, count: int, **_: Any) -> None:
    """Spans through a BatchSpanProcessor to OTLP."""
    _emit(_provider(otlp), count, lambda _span, _number: None)


def otlp_and_mirror(otlp: str, langsmith: str, count: int) -> None:
    """The same spans, mirrored by us as well."""
    provider = _provider(otlp)
    os.environ |= {"LANGSMITH_ENDPOINT": langsmith, "LANGSMITH_API_KEY": "test"}
    delivery = Delivery()
    settings = Settings(langsmith_tracing=True, state_dir=None)
    provider.add_span_processor(LangSmithSpanProcessor(delivery, settings))
    _emit(provider, count, lambda _span, _number: None)
    delivery.flush(60)
    assert delivery.report.sent >= count


def otlp_and_langsmith_processor(otlp: str, langsmith: str, count: int) -> None:
    """The same spans, and LangSmith's own processor, which sends them by OTLP again."""
    from langsmith.integrations.otel import OtelSpanProcessor  # noqa: PLC0415 - this side's alone

    provider = _provider(otlp)
    provider.add_span_processor(
        OtelSpanProcessor(  # type: ignore[arg-type]  # it has the methods, not the base class
            api_key="test", project="p", url=f"{langsmith}/v1/traces"
        )
    )
    _emit(provider, count, lambda _span, _number: None)


def otlp_and_create_run(otlp: str, langsmith: str, count: int) -> None:
    """The same spans, and `Client.create_run` for each."""
    client = Client(api_url=langsmith, api_key="test", tracing_mode="langsmith")

    def create(span: Any, number: int) -> None:
        context = span.get_span_context()
        client.create_run(
            "ChatAnthropic",
            {},
            "llm",
            id=run_id(context.span_id, span.start_time),
            outputs={},
            extra={"metadata": {**span.attributes, "ls_provider": "anthropic"}},
            start_time=_moment(span.start_time),
            end_time=_moment(span.end_time),
        )
        if number % SLICE == SLICE - 1:
            client.flush()

    _emit(_provider(otlp), count, create)
    client.flush()


def _moment(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)


def sdk_results(api: str, batch: str, **_: Any) -> None:
    """The SDK's own iterator over the results."""
    client = anthropic.Anthropic(base_url=api, api_key="test")
    assert sum(1 for _ in client.messages.batches.results(batch)) > 0


def collect(
    api: str, otlp: str, langsmith: str, batch: str, cap: int | None, content: bool = False
) -> None:
    """The executor with both backends, providers as a service has them."""
    os.environ |= {"LANGSMITH_ENDPOINT": langsmith, "LANGSMITH_API_KEY": "test"}
    provider = _provider(otlp)
    meters = MeterProvider(
        [PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=f"{otlp}/v1/metrics"))],
        shutdown_on_exit=False,
    )
    settings = Settings(
        langsmith_tracing=True,
        langsmith_content=content,
        span_content=content,
        max_request_spans=cap,
        state_dir=None,
    )
    executor = BatchExecutor(
        anthropic.Anthropic(base_url=api, api_key="test"),
        tracer_provider=provider,
        meter_provider=meters,
        settings=settings,
    )
    assert sum(1 for _ in executor.collect(batch)) > 0
    provider.force_flush()
    meters.force_flush()


class _Nothing(SpanProcessor):
    """What every span pays for in any case."""


def plain_spans(count: int, scope: str, **_: Any) -> None:
    """Spans of a scope that nobody mirrors, created and ended."""
    _plain(_Nothing(), count, scope)


def plain_spans_and_mirror(langsmith: str, count: int, scope: str) -> None:
    """The same, with our mirror, which leaves them out."""
    os.environ |= {"LANGSMITH_ENDPOINT": langsmith, "LANGSMITH_API_KEY": "test"}
    settings = Settings(langsmith_tracing=True, state_dir=None)
    _plain(LangSmithSpanProcessor(settings=settings), count, scope)


def _plain(processor: SpanProcessor, count: int, scope: str) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer(scope)
    attributes: dict[str, Any] = {
        "http.request.method": "GET",
        "server.address": "example.com",
        "server.port": 443,
        "url.full": "https://example.com/things/1",
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
    }
    with trace.use_span(tracer.start_span("GET /things")):
        for _ in range(count):
            tracer.start_span("GET", kind=SpanKind.CLIENT, attributes=attributes).end()


SIDES: dict[str, Callable[..., None]] = {
    side.__name__: side
    for side in (
        otlp_alone,
        otlp_and_mirror,
        otlp_and_langsmith_processor,
        otlp_and_create_run,
        sdk_results,
        collect,
        plain_spans,
        plain_spans_and_mirror,
    )
}


def _peak_mb() -> float:
    # Not getrusage: its peak begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    side, arguments = SIDES[sys.argv[1]], json.loads(sys.argv[2])
    cpu, wall = time.process_time(), time.perf_counter()
    side(**arguments)
    figures = {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "peak_mb": _peak_mb(),
    }
    print(json.dumps(figures), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
