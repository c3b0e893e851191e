"""Results are given and written before telemetry is asked anything."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from support import Command, Instrument, MakeRequests, Service, eventually, present

from otel_bridge.batches import engine_of
from otel_bridge.simulator import MessageBatchesServer, OtlpCapture


class Witness(SpanProcessor):
    """Notes how many results were given when each request's span ended."""

    def __init__(self) -> None:
        self.given = 0
        self.flushed = 0
        self.at_span_end: list[tuple[int, int]] = []

    def on_end(self, span: ReadableSpan) -> None:
        if span.name.startswith("chat"):
            self.at_span_end.append((self.given, self.flushed))

    def flush(self) -> None:
        self.flushed = self.given


@pytest.fixture
def witness(service: Service) -> Witness:
    seen = Witness()
    service.tracers.add_span_processor(seen)
    return seen


def test_an_executor_gives_results_before_it_records_them(
    service: Service, make_requests: MakeRequests, witness: Witness
) -> None:
    executor = service.executor(langsmith_tracing=False)
    engine_of(executor).on_emitted = witness.flush
    (handle,) = executor.submit(make_requests(5))
    for _ in executor.collect(handle):
        witness.given += 1
    assert witness.at_span_end == [(5, 5)] * 5


async def test_so_does_the_async_twin(
    service: Service, make_requests: MakeRequests, witness: Witness
) -> None:
    executor = service.async_executor(langsmith_tracing=False)
    engine_of(executor).on_emitted = witness.flush
    (handle,) = await executor.submit(make_requests(5))
    async for _ in executor.collect(handle):
        witness.given += 1
    await service.aclose()
    assert witness.at_span_end == [(5, 5)] * 5


def test_other_code_has_its_results_before_they_are_recorded(
    service: Service, make_requests: MakeRequests, witness: Witness, instrument: Instrument
) -> None:
    instrument(langsmith_tracing=False)
    batch_id = service.api.add_batch(make_requests(5), seconds=0)
    for _ in service.client.messages.batches.results(batch_id):
        witness.given += 1
    # The SDK reads in chunks that are smaller than a line.
    assert [given for given, _ in witness.at_span_end] == [1, 2, 3, 4, 5]


def test_results_of_a_reading_that_is_left_are_recorded_and_the_next_completes_the_batch(
    service: Service, make_requests: MakeRequests
) -> None:
    executor = service.executor()
    (handle,) = executor.submit(make_requests(5))
    assert len(list(itertools.islice(executor.collect(handle), 3))) == 3
    service.flush()
    assert [span.name[:4] for span in service.otlp.spans] == ["chat"] * 5
    assert len(list(executor.collect(handle))) == 5
    service.flush()
    assert len(service.otlp.unique_spans()) == len(service.otlp.spans) == 6
    told = service.otlp.metric_sum("gen_ai.client.inference.usage.output_tokens")
    assert told == service.api.truth(handle.id)["output_tokens"]


async def test_so_are_those_of_an_async_reading(
    service: Service, make_requests: MakeRequests
) -> None:
    executor = service.async_executor()
    (handle,) = await executor.submit(make_requests(5))
    reading = executor.collect(handle)
    assert isinstance(reading, AsyncGenerator)
    await anext(reading)
    await reading.aclose()
    await service.aclose()
    service.flush()
    assert [span.name[:4] for span in service.otlp.spans] == ["chat"] * 5


@pytest.mark.parametrize("to_stdout", [False, True])
def test_results_are_on_disk_while_a_backend_hangs(
    bridge: Command,
    make_requests: MakeRequests,
    api: MessageBatchesServer,
    otlp: OtlpCapture,
    to_stdout: bool,
) -> None:
    otlp.hang_all()
    output = [] if to_stdout else ["-o", "out.jsonl"]
    running = bridge.start("run", bridge.write(make_requests(3)), *output)
    eventually(lambda: any(request.path.endswith("results") for request in api.requests))
    if to_stdout:
        assert len([present(running.stdout).readline() for _ in range(3)]) == 3
    else:
        eventually(lambda: (bridge.folder / "out.jsonl").read_bytes().count(b"\n") >= 3)
    assert running.poll() is None, "it still waits for the backend"
    running.kill()
    running.communicate()
