"""The scaled-out form: gateways, a Kafka broker, and writers that share its partitions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import MakeRequests, Service, eventually
from support.programs import Collector, Kafka, needs_kafka, needs_otelcol

from otel_bridge import semconv
from otel_bridge.simulator import MessageBatchesServer, OtlpCapture

pytestmark = [needs_otelcol, needs_kafka]


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[Kafka]:
    with Kafka(tmp_path / "kafka") as broker:
        yield broker


@pytest.fixture
def backend() -> Iterator[OtlpCapture]:
    """Tempo and the metrics' backend in one."""
    with OtlpCapture() as server:
        yield server


@pytest.fixture
def otlp(tmp_path: Path, kafka: Kafka) -> Iterator[Collector]:
    """The gateway, which takes what the service sends over OTLP."""
    with Collector(
        tmp_path / "gateway", "gateway-kafka.yaml", KAFKA_BROKERS=kafka.broker
    ) as gateway:
        yield gateway


@pytest.fixture
def writers(tmp_path: Path, kafka: Kafka, backend: OtlpCapture) -> Iterator[list[Collector]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                Collector(
                    tmp_path / name,
                    "gateway.yaml",
                    "writer-kafka.yaml",
                    KAFKA_BROKERS=kafka.broker,
                    TEMPO_ENDPOINT=backend.url,
                    METRICS_ENDPOINT=backend.url,
                )
            )
            for name in ("writer-1", "writer-2")
        ]


def test_what_gateways_write_to_kafka_reaches_the_backends_though_a_writer_is_killed(
    service: Service,
    api: MessageBatchesServer,
    writers: list[Collector],
    backend: OtlpCapture,
    make_requests: MakeRequests,
) -> None:
    def tokens() -> int:
        return sum(
            span.attributes.get(semconv.GEN_AI_USAGE_OUTPUT_TOKENS, 0)
            for span in backend.unique_spans()
        )

    handles = [
        handle
        for size in (40, 50, 60, 70)
        for handle in service.executor().submit(make_requests(size))
    ]
    executor = service.executor()
    for number, handle in enumerate(handles):
        list(executor.collect(handle))
        service.flush()
        if number == 1:
            writers[0].kill()
    truths = [api.truth(handle.id) for handle in handles]
    expected = sum(truth["output_tokens"] for truth in truths)
    eventually(lambda: tokens() == expected, "all spans reach Tempo", 120)
    eventually(
        lambda: backend.metric_sum(semconv.METRIC_USAGE_OUTPUT) == expected,
        "all metrics reach their backend",
    )
    assert backend.refusals == []


def test_a_broker_that_is_away_loses_nothing(
    service: Service,
    kafka: Kafka,
    writers: list[Collector],
    backend: OtlpCapture,
    make_requests: MakeRequests,
) -> None:
    assert writers
    kafka.kill()
    (handle,) = service.executor().submit(make_requests(30))
    list(service.executor().collect(handle))
    service.flush()
    assert backend.spans == []
    kafka.start()
    eventually(
        lambda: sum(span.name.startswith("chat") for span in backend.unique_spans()) == 30,
        "all spans reach Tempo",
        120,
    )
