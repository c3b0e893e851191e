"""Metrics of the bridge itself: what waits, what was lost, what it would have cost otherwise."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
from langsmith import Client
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from support import MakeRequests, Service
from urllib3 import Retry

from otel_bridge import BatchExecutor, LangSmithSpanProcessor, Settings, semconv
from otel_bridge.domain.batch import BatchInfo
from otel_bridge.domain.pricing import price
from otel_bridge.domain.usage import TokenUsage
from otel_bridge.langsmith import Delivery
from otel_bridge.langsmith.processor import observe
from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer
from otel_bridge.telemetry.backpressure import export_errors


def points(reader: InMemoryMetricReader, name: str) -> dict[str, float]:
    """The values of a metric by the value of their one attribute that tells them apart."""
    data = reader.get_metrics_data()
    return {
        str(
            (point.attributes or {}).get(
                semconv.LANGSMITH_OUTCOME,
                (point.attributes or {}).get(semconv.GEN_AI_REQUEST_MODEL),
            )
        ): point.value
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
        if hasattr(point, "value")
    }


def deliver(server: LangSmithCapture, state_dir: Path | None = None) -> Delivery:
    client = Client(
        api_url=server.url,
        api_key="test",
        tracing_mode="langsmith",
        auto_batch_tracing=False,
        retry_config=Retry(total=0),
    )
    return Delivery(client, state_dir=state_dir)


WAITING = (
    semconv.METRIC_BATCH_OLDEST_AGE,
    semconv.METRIC_BATCH_NEXT_EXPIRY,
    semconv.METRIC_BATCH_ACTIVE,
)


def test_a_batch_that_is_waited_for_shows_its_age_and_its_expiry(
    service: Service, api: MessageBatchesServer, make_requests: MakeRequests
) -> None:
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    seen: list[dict[str, Any]] = []

    def look(batch: BatchInfo) -> None:
        seen.append({name: points(reader, name) for name in WAITING})
        if len(seen) == 3:
            api.end(batch.id)

    executor = BatchExecutor(
        service.client,
        tracer_provider=service.tracers,
        meter_provider=meters,
        settings=service.settings(langsmith_tracing=False),
        on_progress=look,
    )
    api.batch_seconds = 60
    (handle,) = executor.submit(make_requests(3))
    submitted = {name: points(reader, name) for name in WAITING}
    assert submitted == {name: {} for name in WAITING}, "who only submits does not wait"
    assert points(reader, semconv.METRIC_BATCH_SUBMITTED) == {"None": 1}
    list(executor.collect(handle))
    age, expiry, active = (seen[2][name]["None"] for name in WAITING)
    assert active == 1
    assert -1 <= age < 600
    assert age + expiry == pytest.approx(24 * 3600, abs=60)
    assert points(reader, semconv.METRIC_BATCH_ACTIVE) == {"None": 0}
    assert points(reader, semconv.METRIC_BATCH_OLDEST_AGE) == {}
    meters.shutdown()


def _plain(usage: TokenUsage) -> TokenUsage:
    return TokenUsage(
        usage.total_input_tokens,
        output_tokens=usage.output_tokens,
        web_search_requests=usage.web_search_requests,
    )


def test_what_a_batch_would_have_cost_otherwise_adds_up_over_its_requests(
    service: Service, api: MessageBatchesServer, make_requests: MakeRequests
) -> None:
    executor = service.executor()
    (handle,) = executor.submit(make_requests(40))
    list(executor.collect(handle))
    service.flush()
    answers = [
        (TokenUsage.from_api(message["usage"]), message["model"])
        for line in api.results(handle.id)
        if (message := line["result"].get("message"))
    ]
    uncached = math.fsum(
        cost.total_cost for usage, model in answers if (cost := price(_plain(usage), model))
    )
    listed = math.fsum(
        cost.total_cost for each in answers if (cost := price(*each, tier="standard"))
    )
    assert service.otlp.metric_sum(semconv.METRIC_COST_AT_LIST) == pytest.approx(listed)
    assert service.otlp.metric_sum(semconv.METRIC_COST_UNCACHED) == pytest.approx(uncached)
    assert uncached != pytest.approx(service.otlp.metric_sum(semconv.METRIC_COST))


def test_runs_are_counted_by_what_became_of_them(
    langsmith: LangSmithCapture, tmp_path: Path
) -> None:
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    delivery = deliver(langsmith, tmp_path)
    tracers = TracerProvider()
    settings = Settings(langsmith_tracing=True, state_dir=tmp_path)
    tracers.add_span_processor(LangSmithSpanProcessor(delivery, settings, meters))
    observe(delivery, meters)
    tracer = tracers.get_tracer("scope")

    def chat() -> None:
        tracer.start_span("chat", attributes={"gen_ai.operation.name": "chat"}).end()

    chat()
    assert delivery.flush()
    counted = points(reader, semconv.METRIC_LANGSMITH_RUNS)
    assert counted["sent"] == delivery.report.sent == 1
    langsmith.fail_next(path="multipart", status=422)
    chat()
    delivery.flush()
    langsmith.refuse_all(503)
    chat()
    delivery.flush(1, patient=False)
    report = delivery.report
    counted = points(reader, semconv.METRIC_LANGSMITH_RUNS)
    assert {name: counted[name] for name in ("sent", "refused", "dropped")} == {
        "sent": report.sent,
        "refused": 1,
        "dropped": 0,
    }
    assert points(reader, semconv.METRIC_LANGSMITH_WAITING) == {"None": 1}
    assert points(reader, semconv.METRIC_LANGSMITH_SPOOLED) == {"None": 1}
    size = points(reader, semconv.METRIC_LANGSMITH_SPOOL_SIZE)["None"]
    files = [file for file in tmp_path.rglob("*.json") if file.is_file()]
    assert size == sum(file.stat().st_size for file in files) > 0
    langsmith.recover()
    assert delivery.flush(5)
    assert points(reader, semconv.METRIC_LANGSMITH_WAITING) == {"None": 0}
    tracers.shutdown()
    meters.shutdown()


def test_spans_that_opentelemetry_says_it_lost_are_counted(
    service: Service, make_requests: MakeRequests
) -> None:
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    executor = BatchExecutor(
        service.client,
        tracer_provider=service.tracers,
        meter_provider=meters,
        settings=service.settings(langsmith_tracing=False),
    )
    executor.submit(make_requests(1))
    before = export_errors.spans
    assert points(reader, semconv.METRIC_SPANS_DROPPED) == {"None": before}
    complaint = logging.LogRecord(
        "opentelemetry.sdk._shared_internal",
        logging.WARNING,
        "",
        0,
        "Queue full, dropping Span.",
        (),
        None,
    )
    export_errors.count(complaint)
    assert points(reader, semconv.METRIC_SPANS_DROPPED) == {"None": before + 1}
    meters.shutdown()
