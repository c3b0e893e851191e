"""Batches that other code runs are recorded as the executor would, and no call is changed."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anthropic
import anyio
import pytest
from anthropic.resources.beta.messages import batches as beta_batches
from anthropic.resources.messages import batches
from langsmith.run_helpers import tracing_context
from opentelemetry.sdk.trace import SpanProcessor
from support import Instrument, MakeRequests, Service

import otel_bridge
from otel_bridge import identity, semconv
from otel_bridge.instrumentation import AnthropicBatchesInstrumentor
from otel_bridge.instrumentation import tracker as tracking
from otel_bridge.simulator import (
    CapturedSpan,
    LangSmithCapture,
    LoopbackServer,
    OtlpCapture,
    Request,
    Response,
)

CREATED = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)


def wait(client: anthropic.Anthropic, batch_id: str) -> None:
    while client.messages.batches.retrieve(batch_id).processing_status != "ended":
        pass


def told(service: Service) -> list[tuple[Any, ...]]:
    """Everything that reached the OTLP backend, in an order of its own."""
    service.flush()
    names = [value for name, value in vars(semconv).items() if name.startswith("METRIC_")]
    points = [
        (point.name, str(sorted(point.attributes.items())), point.value, point.count, point.buckets)
        for name in set(names)
        for point in service.otlp.metric_points(name)
    ]
    return sorted(map(_told_span, service.otlp.spans)) + sorted(points)


def _told_span(span: CapturedSpan) -> tuple[Any, ...]:
    ids = (span.trace_id, span.span_id, span.parent_span_id)
    times = (span.start_ns, span.end_ns)
    facts = (str(sorted(span.attributes.items())), str(span.events))
    return (span.name, *ids, span.kind, *times, *facts, span.status_code, span.status_message)


def runs_of(service: Service) -> dict[str, Any]:
    service.flush()
    assert service.langsmith.refusals == []
    assert service.langsmith.orphans() == []
    runs: dict[str, Any] = service.langsmith.runs
    return runs


def agrees_with_truth(service: Service, batch_id: str) -> None:
    """Spans, metrics and runs have the API's sums, once."""
    runs_of(service)
    assert service.langsmith.conflicts == []
    truth = service.api.truth(batch_id)
    read, written = truth["cache_read_input_tokens"], truth["cache_creation_input_tokens"]
    inputs = truth["input_tokens"] + read + written
    (batch,) = [s for s in the_batch(service) if s.attributes[semconv.BATCH_ID] == batch_id]
    assert "anthropic.message.batch.duplicate_count" not in batch.attributes
    mine = [s for s in service.otlp.spans if s.attributes.get(semconv.BATCH_ID) == batch_id]
    ours = [span for span in mine if span.scope == semconv.SCOPE]
    assert len({span.span_id for span in ours}) == len(ours)
    assert sum(s.attributes.get("gen_ai.usage.input_tokens", 0) for s in ours) == inputs
    assert service.otlp.metric_sum(semconv.METRIC_USAGE_INPUT) == inputs
    assert service.otlp.metric_sum(semconv.METRIC_USAGE_OUTPUT) == truth["output_tokens"]
    assert service.otlp.metric_sum(semconv.METRIC_BATCH_ACTIVE) == 0
    totals = service.langsmith.usage_totals()
    assert (totals["input_tokens"], totals["output_tokens"]) == (inputs, truth["output_tokens"])


def the_batch(service: Service) -> list[CapturedSpan]:
    service.flush()
    return [s for s in service.otlp.spans if s.attributes.get("gen_ai.operation.name") == "batch"]


@contextlib.contextmanager
def another(service: Service) -> Iterator[Any]:
    """A service with backends of its own, on the same API."""
    with OtlpCapture() as otlp, LangSmithCapture() as langsmith:
        running = type(service)(service.api, otlp, langsmith)
        try:
            yield running
        finally:
            running.close()


@pytest.mark.parametrize("changes", [{}, {"max_request_spans": 7}, {"span_content": True}])
def test_a_batch_that_is_read_is_told_as_by_the_executor(
    service: Service, make_requests: MakeRequests, instrument: Instrument, changes: dict[str, Any]
) -> None:
    batch_id = service.api.add_batch(
        make_requests(40), batch_id="msgbatch_1", created_at=CREATED, seconds=60
    )
    list(service.executor(**changes).collect(batch_id))
    with another(service) as other:
        instrument(other, **changes)
        assert len(list(other.client.messages.batches.results(batch_id))) == 40
        assert told(other) == told(service)
        assert runs_of(other) == runs_of(service)


@pytest.mark.parametrize("changes", [{}, {"max_request_spans": 0}, {"langsmith_content": True}])
def test_a_batch_that_is_created_and_read_is_told_as_by_the_executor(
    service: Service, make_requests: MakeRequests, instrument: Instrument, changes: dict[str, Any]
) -> None:
    requests = make_requests(40)
    with service.tracers.get_tracer("test").start_as_current_span("caller"):
        service.executor(**changes).run(requests)
    with another(service) as other:
        instrument(other, **changes)
        batches_of = other.client.messages.batches
        with other.tracers.get_tracer("test").start_as_current_span("caller"):
            batch = batches_of.create(requests=requests)
            wait(other.client, batch.id)
            list(batches_of.results(batch.id))
        agrees_with_truth(other, batch.id)
        assert [
            each.otlp.metric_sum(semconv.METRIC_BATCH_SUBMITTED) for each in (other, service)
        ] == [1, 1]
        assert shapes(other) == shapes(service)
        assert run_shapes(other) == run_shapes(service)


def shapes(service: Service) -> Counter[Any]:
    """Spans without what differs from batch to batch: ids and times."""
    service.flush()
    names = {span.span_id: span.name for span in service.otlp.spans}
    return Counter(
        (
            span.name,
            names.get(span.parent_span_id),
            _steady(span.attributes),
            str([(name, attributes) for name, _, attributes in span.events]),
            span.status_code,
            span.status_message,
        )
        for span in service.otlp.spans
        if span.scope in (semconv.SCOPE, "test")
    )


def _steady(values: dict[str, Any]) -> str:
    """Without the batch's id, and with sums of floats whatever their order."""
    return str(
        sorted(
            (name, round(value, 9) if isinstance(value, float) else str(value))
            for name, value in values.items()
            if name not in (semconv.BATCH_ID, "input_cost_details", "output_cost_details")
        )
    )


def run_shapes(service: Service) -> Counter[Any]:
    runs = runs_of(service)
    return Counter(
        (
            run["name"],
            run["run_type"],
            runs[run["parent_run_id"]]["name"] if "parent_run_id" in run else None,
            json.dumps(run["inputs"], sort_keys=True),
            str(run.get("outputs", {}).get("content")),
            _steady(run["extra"]["metadata"].get("usage_metadata", {})),
            run.get("error"),
        )
        for run in runs.values()
    )


WAYS = [
    (beta, way)
    for beta in (False, True)
    for way in ("plain", "with_raw_response", "with_streaming_response")
]


@pytest.mark.parametrize(("beta", "way"), WAYS)
def test_every_way_to_call_is_watched(
    service: Service, make_requests: MakeRequests, instrument: Instrument, beta: bool, way: str
) -> None:
    instrument()
    of_client = service.client.beta.messages.batches if beta else service.client.messages.batches
    calls = of_client if way == "plain" else getattr(of_client, way)

    def call(method: str, *args: Any, **kwargs: Any) -> Any:
        answer = getattr(calls, method)(*args, **kwargs)
        if way == "plain":
            return answer
        if way == "with_raw_response":
            return answer.parse()
        with answer as response:
            return response.parse() if method != "results" else list(response.iter_lines())

    batch = call("create", requests=make_requests(30))
    while call("retrieve", batch.id).processing_status != "ended":
        pass
    assert len(list(call("results", batch.id))) == 30
    agrees_with_truth(service, batch.id)
    (span,) = the_batch(service)
    assert [event[0] for event in span.events] == [semconv.BATCH_STATE_EVENT]


@pytest.mark.parametrize(("beta", "way"), WAYS)
async def test_every_way_to_call_the_async_client_is_watched(
    service: Service, make_requests: MakeRequests, instrument: Instrument, beta: bool, way: str
) -> None:
    instrument()
    async with anthropic.AsyncAnthropic(base_url=service.api.url, api_key="test") as client:
        of_client = client.beta.messages.batches if beta else client.messages.batches
        calls = of_client if way == "plain" else getattr(of_client, way)

        async def call(method: str, *args: Any, **kwargs: Any) -> Any:
            answer = getattr(calls, method)(*args, **kwargs)
            if way == "plain":
                return await answer
            if way == "with_raw_response":
                return await (await answer).parse()
            async with answer as response:
                if method == "results":
                    return [line async for line in response.iter_lines()]
                return await response.parse()

        batch = await call("create", requests=make_requests(200))
        while (await call("retrieve", batch.id)).processing_status != "ended":
            pass
        results = await call("results", batch.id)
        if way != "with_streaming_response":
            results = [result async for result in results]
        assert len(results) == 200
    agrees_with_truth(service, batch.id)
    assert len(the_batch(service)) == 1


def test_a_canceled_batch_is_told_as_such(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    instrument()
    batch_id = service.api.add_batch(make_requests(10), seconds=60)
    service.client.messages.batches.retrieve(batch_id)
    service.client.messages.batches.cancel(batch_id)
    wait(service.client, batch_id)
    list(service.client.messages.batches.results(batch_id))
    (span,) = the_batch(service)
    states = [attributes[semconv.BATCH_PROCESSING_STATUS] for *_, attributes in span.events]
    assert states == ["canceling", "ended"]
    assert span.attributes[semconv.BATCH_CANCELED_COUNT] > 0
    agrees_with_truth(service, batch_id)


def test_a_generator_of_requests_is_sent_whole_and_read_once(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    instrument()
    requests = make_requests(5)
    given: list[str] = []

    def generate() -> Iterator[Any]:
        for request in requests:
            given.append(request["custom_id"])
            yield request

    batch = service.client.messages.batches.create(requests=generate())
    assert given == [request["custom_id"] for request in requests]
    sent = [each for each in service.api.requests if each.method == "POST"]
    assert [each.json() for each in sent] == [{"requests": requests}]
    wait(service.client, batch.id)
    list(service.client.messages.batches.results(batch.id))
    service.flush()
    spans = [s for s in service.otlp.spans if semconv.BATCH_CUSTOM_ID in s.attributes]
    assert {s.attributes["gen_ai.request.max_tokens"] for s in spans} == {100}


def test_what_a_generator_raises_reaches_the_caller(
    service: Service, instrument: Instrument
) -> None:
    instrument()

    def broken() -> Iterator[Any]:
        raise LookupError("no such paper")
        yield {}

    with pytest.raises(LookupError, match="no such paper"):
        service.client.messages.batches.create(requests=broken())


def test_errors_are_the_sdks_own(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    batch_id = service.api.add_batch(make_requests(2), seconds=60)

    def errors() -> list[tuple[type[Exception], str]]:
        found = []
        batches: Any = service.client.messages.batches
        calls: list[Callable[[], Any]] = [
            lambda: batches.create(requests=[]),
            lambda: batches.create(requests=None),
            batches.create,
            lambda: batches.retrieve("msgbatch_0"),
            lambda: batches.retrieve(""),
            lambda: batches.results(batch_id),
            batches.results,
        ]
        for call in calls:
            with pytest.raises(Exception) as caught:  # noqa: PT011 - compared below
                call()
            found.append((caught.type, str(caught.value).split("request_id")[0]))
        return found

    before = errors()
    instrument()
    assert errors() == before
    assert service.api.batch_ids == [batch_id]


def test_a_partly_read_stream_is_no_end_and_reading_on_completes_it(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    instrument()
    batch = service.client.messages.batches.create(requests=make_requests(10))
    wait(service.client, batch.id)
    for number in (3, 5):
        results = service.client.messages.batches.results(batch.id)
        assert len(list(itertools.islice(results, number))) == number
        results.close()
        del results
        assert the_batch(service) == []
        assert len([s for s in service.otlp.spans if s.scope == semconv.SCOPE]) == number
        assert service.otlp.metric_points(semconv.METRIC_USAGE_INPUT) == []
    list(service.client.messages.batches.results(batch.id))
    agrees_with_truth(service, batch.id)
    assert len(the_batch(service)) == 1
    expected = {
        f"{identity.request_span_id(batch.id, each['custom_id']):016x}"
        for each in make_requests(10)
    }
    requests = [s for s in service.otlp.spans if semconv.BATCH_CUSTOM_ID in s.attributes]
    assert {span.span_id for span in requests} == expected


async def test_a_partly_read_async_stream_is_no_end(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    instrument()
    async with anthropic.AsyncAnthropic(base_url=service.api.url, api_key="test") as client:
        batch_id = service.api.add_batch(make_requests(200), seconds=0)
        read = 0
        async for _ in await client.messages.batches.results(batch_id):
            read += 1
            if read == 90:
                break
        assert the_batch(service) == []
        async for _ in await client.messages.batches.results(batch_id):
            pass
    agrees_with_truth(service, batch_id)


async def test_a_reader_that_is_canceled_leaves_the_batch_open(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    instrument()
    batch_id = service.api.add_batch(make_requests(200), seconds=0)
    async with anthropic.AsyncAnthropic(base_url=service.api.url, api_key="test") as client:
        reading = asyncio.Event()

        async def read() -> None:
            count = 0
            async for _ in await client.messages.batches.results(batch_id):
                count += 1
                if count == 150:
                    reading.set()
                    await asyncio.sleep(60)

        task = asyncio.create_task(read())
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert the_batch(service) == []
        assert len([each async for each in await client.messages.batches.results(batch_id)]) == 200
    agrees_with_truth(service, batch_id)


async def test_what_a_reader_was_given_is_told_though_its_scope_is_canceled(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    instrument()
    batch_id = service.api.add_batch(make_requests(40), seconds=0)
    async with anthropic.AsyncAnthropic(base_url=service.api.url, api_key="test") as client:
        with anyio.CancelScope() as scope:
            async for _ in await client.messages.batches.results(batch_id):
                scope.cancel()  # felt where the next bytes are waited for
        service.flush()
        assert [span for span in service.otlp.spans if semconv.BATCH_CUSTOM_ID in span.attributes]
        assert len([each async for each in await client.messages.batches.results(batch_id)]) == 40
    agrees_with_truth(service, batch_id)


def test_the_last_result_ends_the_batch_even_if_nobody_asks_for_more(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    instrument()
    batch_id = service.api.add_batch(make_requests(10), seconds=0)
    results = service.client.messages.batches.results(batch_id)
    assert len(list(itertools.islice(results, 10))) == 10
    del results
    agrees_with_truth(service, batch_id)
    assert len(the_batch(service)) == 1


def test_results_read_again_are_not_told_again_even_without_a_journal(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    instrument()
    batch_id = service.api.add_batch(make_requests(10), seconds=0)
    for _ in range(3):
        assert len(list(service.client.messages.batches.results(batch_id))) == 10
    agrees_with_truth(service, batch_id)


def test_results_read_again_by_another_process_are_not_counted_again(
    service: Service, make_requests: MakeRequests, instrument: Instrument, tmp_path: Path
) -> None:
    batch_id = service.api.add_batch(make_requests(10), seconds=0)
    for _ in range(2):
        instrument(state_dir=tmp_path)  # as if in another process
        for _ in range(2):
            assert len(list(service.client.messages.batches.results(batch_id))) == 10
    agrees_with_truth(service, batch_id)
    assert len(the_batch(service)) == 1


def test_two_readers_at_once_count_once(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    instrument()
    batch_id = service.api.add_batch(make_requests(20), seconds=0)
    one, two = (service.client.messages.batches.results(batch_id) for _ in range(2))
    assert len(list(itertools.chain(*zip(one, two, strict=True)))) == 40
    agrees_with_truth(service, batch_id)


def test_a_partly_read_batch_is_completed_by_another_process(
    service: Service, make_requests: MakeRequests, instrument: Instrument, tmp_path: Path
) -> None:
    batch_id = service.api.add_batch(make_requests(10), seconds=0)
    instrument(state_dir=tmp_path)
    results = service.client.messages.batches.results(batch_id)
    part = list(itertools.islice(results, 3))
    del results
    service.flush()
    (pending,) = [run for run in service.langsmith.runs.values() if "end_time" not in run]
    instrument(state_dir=tmp_path)
    assert len(list(service.client.messages.batches.results(batch_id))) == 10
    assert len(part) == 3
    assert len(the_batch(service)) == 1
    ours = [span for span in service.otlp.spans if span.scope == semconv.SCOPE]
    assert len({span.span_id for span in ours}) == 11
    assert len(ours) == 14  # three requests were told again, with the same ids
    assert "end_time" in runs_of(service)[pending["id"]]
    assert len(service.langsmith.runs) == 11


def test_a_repeated_result_counts_once_and_is_said(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    instrument()
    batch_id = service.api.add_batch(make_requests(4), seconds=0)
    lines = service.api.results(batch_id)
    service.api.replace_results(batch_id, [*lines[:3], lines[0]])
    for _ in range(3):
        assert len(list(service.client.messages.batches.results(batch_id))) == 4
    (span,) = the_batch(service)
    assert span.attributes["anthropic.message.batch.duplicate_count"] == 1
    assert span.attributes[semconv.BATCH_MISSING_COUNT] == 1
    assert len([s for s in service.otlp.spans if s.scope == semconv.SCOPE]) == 4


def test_results_cut_in_a_line_raise_as_ever_and_are_completed_later(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    instrument()
    batch_id = service.api.add_batch(make_requests(20), seconds=0)
    service.api.fail_next(path="/results", action="cut_mid_line")
    with pytest.raises(json.JSONDecodeError):
        list(service.client.messages.batches.results(batch_id))
    service.api.fail_next(path="/results", action="cut_line")
    assert len(list(service.client.messages.batches.results(batch_id))) == 10
    assert the_batch(service) == []
    list(service.client.messages.batches.results(batch_id))
    agrees_with_truth(service, batch_id)


def test_what_three_whole_reads_lack_is_missing(
    service: Service,
    make_requests: MakeRequests,
    instrument: Instrument,
    caplog: pytest.LogCaptureFixture,
) -> None:
    instrument()
    batch_id = service.api.add_batch(make_requests(4), seconds=0)
    service.api.replace_results(batch_id, service.api.results(batch_id)[:3])
    for number in range(3):
        assert the_batch(service) == []
        assert len(list(service.client.messages.batches.results(batch_id))) == 3, number
    (span,) = the_batch(service)
    assert span.attributes[semconv.BATCH_MISSING_COUNT] == 1
    assert "are short by 1 requests; read them again" in caplog.text


def test_a_service_of_many_batches_keeps_a_bounded_number_of_requests(
    service: Service,
    make_requests: MakeRequests,
    instrument: Instrument,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracking, "MAX_REQUESTS", 10)
    monkeypatch.setattr(tracking, "MAX_BATCHES", 6)
    instrument()
    batches = service.client.messages.batches

    def create() -> str:
        batch_id: str = batches.create(requests=make_requests(4)).id
        return batch_id

    read = []
    for _ in range(5):
        read.append(create())
        wait(service.client, read[-1])
        list(batches.results(read[-1]))
    unread = [create() for _ in range(3)]
    watch = AnthropicBatchesInstrumentor()._find()  # noqa: SLF001 - what it keeps in memory
    assert watch is not None
    assert list(watch._batches) == [*read, *unread][-6:]  # noqa: SLF001
    for batch_id in unread:
        wait(service.client, batch_id)
        list(batches.results(batch_id))
    service.flush()
    asked = Counter(
        span.attributes[semconv.BATCH_ID]
        for span in service.otlp.spans
        if semconv.GEN_AI_REQUEST_MAX_TOKENS in span.attributes
    )
    assert [asked[batch_id] for batch_id in [*read, *unread]] == [4] * 5 + [0, 4, 4]


def test_batches_that_others_read_are_waited_for_no_more_when_they_have_ended(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    def active() -> float:
        service.meters.force_flush()
        told: float = service.otlp.metric_sum(semconv.METRIC_BATCH_ACTIVE)
        return told

    service.api.batch_seconds = 60
    instrument()
    batches = service.client.messages.batches
    batch_id = batches.create(requests=make_requests(2)).id
    batches.retrieve(batch_id)
    assert active() == 1
    service.api.end(batch_id)
    batches.retrieve(batch_id)
    assert active() == 0


def test_the_executors_own_calls_are_not_told_twice(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    instrument()
    executor = service.executor()
    (handle,) = executor.submit(make_requests(10))
    service.flush()
    assert service.otlp.metric_sum(semconv.METRIC_BATCH_SUBMITTED) == 1
    list(executor.collect(handle))
    agrees_with_truth(service, handle.id)
    assert len(the_batch(service)) == 1


async def test_the_async_executors_own_calls_are_not_told_twice(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    instrument()
    executor = service.async_executor()
    (batch_id,) = (await executor.run(make_requests(10))).batch_ids
    await service.aclose()
    agrees_with_truth(service, batch_id)
    assert len(the_batch(service)) == 1


def test_a_batch_read_elsewhere_belongs_to_its_submitter_not_to_its_reader(
    service: Service, make_requests: MakeRequests, instrument: Instrument, tmp_path: Path
) -> None:
    tracer = service.tracers.get_tracer("test")
    instrument(state_dir=tmp_path)
    with tracer.start_as_current_span("submitter") as submitter:
        batch = service.client.messages.batches.create(requests=make_requests(3))
    wait(service.client, batch.id)
    instrument(state_dir=tmp_path)
    with tracer.start_as_current_span("reader"):
        list(service.client.messages.batches.results(batch.id))
    (span,) = the_batch(service)
    context = submitter.get_span_context()
    assert span.trace_id == f"{context.trace_id:032x}"
    assert span.parent_span_id == f"{context.span_id:016x}"


def test_a_batch_of_an_unknown_submitter_is_the_same_whoever_reads_it(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    batch_id = service.api.add_batch(make_requests(3), seconds=0)
    for _ in range(2):
        instrument()  # without a state directory
        with service.tracers.get_tracer("test").start_as_current_span("reader"):
            list(service.client.messages.batches.results(batch_id))
    one, two = the_batch(service)
    assert (one.trace_id, one.span_id) == (two.trace_id, two.span_id)
    assert one.trace_id == f"{identity.batch_trace_id(batch_id):032x}"
    assert one.parent_span_id == ""
    runs_of(service)


def test_what_is_read_in_a_deep_run_stays_below_its_batch(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    instrument(max_request_spans=0)
    batch = service.client.messages.batches.create(requests=make_requests(6))
    wait(service.client, batch.id)
    deep = None
    for span_id in range(1, 5):
        deep = identity.dotted_order(identity.run_id(span_id, 1), 1, deep)
    with tracing_context(parent={"langsmith-trace": deep}):
        list(service.client.messages.batches.results(batch.id))
    agrees_with_truth(service, batch.id)
    assert len({run["trace_id"] for run in runs_of(service).values()}) == 1


class Odd(LoopbackServer):
    """An API, or a proxy before it, that answers with something else."""

    def answer(self, request: Request) -> Response:
        assert request.path.startswith("/v1/messages/batches")
        return Response(200, b"hello", {"content-type": "text/plain"})


def test_an_answer_that_is_no_batch_reaches_the_caller(
    make_requests: MakeRequests, instrument: Instrument, caplog: pytest.LogCaptureFixture
) -> None:
    instrument()
    with Odd() as odd, anthropic.Anthropic(base_url=odd.url, api_key="test") as client:
        calls: Any = client.messages.batches
        assert calls.create(requests=make_requests(1)) == "hello"
        assert calls.with_raw_response.retrieve("msgbatch_1").parse() == "hello"
        with calls.with_streaming_response.cancel("msgbatch_1") as streamed:
            assert streamed.parse() == "hello"
    assert caplog.text.count("A batch is not recorded: ") == 2, "each fault is said once"


def test_a_fault_of_telemetry_reaches_no_call(
    service: Service,
    make_requests: MakeRequests,
    instrument: Instrument,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(SpanProcessor):
        def on_start(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("broken processor")

    service.tracers.add_span_processor(Broken())
    (tmp_path / "journal.sqlite3").write_text("not a database")
    instrument(state_dir=tmp_path)
    batch = service.client.messages.batches.create(requests=make_requests(3))
    wait(service.client, batch.id)
    assert len(list(service.client.messages.batches.results(batch.id))) == 3
    assert "broken processor" in caplog.text
    assert "cannot be used" in caplog.text


def test_uninstrumenting_gives_the_sdk_back(service: Service, instrument: Instrument) -> None:
    resources = (
        batches.Batches,
        batches.AsyncBatches,
        beta_batches.Batches,
        beta_batches.AsyncBatches,
    )
    methods = ("create", "retrieve", "cancel", "results")
    before = [vars(resource)[method] for resource in resources for method in methods]
    instrument()
    raw = service.client.messages.batches.with_raw_response  # keeps the watched methods
    for resource in resources:
        for method in methods:
            patched = getattr(resource, method)
            assert inspect.iscoroutinefunction(patched) == ("Async" in resource.__name__)
            assert "self" in inspect.signature(patched).parameters
    otel_bridge.uninstrument()
    otel_bridge.instrument()
    instrument()
    otel_bridge.uninstrument()
    after = [vars(resource)[method] for resource in resources for method in methods]
    assert after == before
    batch_id = service.api.add_batch([], seconds=0)
    raw.retrieve(batch_id)
    assert the_batch(service) == []


def test_a_disabled_sdk_leaves_everything_alone(instrument: Instrument) -> None:
    before = vars(batches.Batches)["create"]
    instrument(sdk_disabled=True)
    assert vars(batches.Batches)["create"] is before


def test_without_langsmith_nothing_goes_there(
    service: Service, make_requests: MakeRequests, instrument: Instrument
) -> None:
    instrument(langsmith_tracing=False)
    batch = service.client.messages.batches.create(requests=make_requests(3))
    wait(service.client, batch.id)
    list(service.client.messages.batches.results(batch.id))
    assert len(the_batch(service)) == 1
    assert service.langsmith.requests == []


def test_instrumenting_twice_is_once_and_says_nothing(
    service: Service,
    make_requests: MakeRequests,
    instrument: Instrument,
    caplog: pytest.LogCaptureFixture,
) -> None:
    instrument()
    with caplog.at_level(logging.WARNING):
        otel_bridge.instrument()
    assert caplog.text == ""
    batch_id = service.api.add_batch(make_requests(3), seconds=0)
    list(service.client.messages.batches.results(batch_id))
    agrees_with_truth(service, batch_id)


MIRRORED = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
import otel_bridge

trace.set_tracer_provider(TracerProvider())
otel_bridge.instrument()
with trace.get_tracer("test").start_as_current_span("x", attributes={"gen_ai.system": "other"}):
    pass
trace.get_tracer_provider().shutdown()
"""


def test_instrumenting_from_code_mirrors_any_genai_span(
    langsmith: LangSmithCapture, tmp_path: Path
) -> None:
    environment = {
        "LANGSMITH_TRACING": "true",
        "LANGSMITH_ENDPOINT": langsmith.url,
        "LANGSMITH_API_KEY": "test",
        "OTEL_BRIDGE_STATE_DIR": str(tmp_path),
    }
    subprocess.run([sys.executable, "-c", MIRRORED], env=environment, check=True, timeout=60)
    assert [run["name"] for run in langsmith.runs.values()] == ["x"]


def test_the_instrumentor_names_what_it_instruments() -> None:
    assert AnthropicBatchesInstrumentor().instrumentation_dependencies() == (
        "anthropic >= 2.12, < 3",
    )
    check = AnthropicBatchesInstrumentor()._check_dependency_conflicts  # noqa: SLF001 - OpenTelemetry's
    assert check() is None


class Unspeakable(str):
    """Text that can be sent and not be shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        raise RuntimeError("no words for it")


@pytest.mark.parametrize("as_generator", [True, False])
def test_a_request_that_cannot_be_noted_is_sent_all_the_same(
    service: Service, make_requests: MakeRequests, instrument: Instrument, *, as_generator: bool
) -> None:
    instrument()
    requests = make_requests(2)
    requests[0]["params"]["model"] = Unspeakable(requests[0]["params"]["model"])
    given: Any = (each for each in requests) if as_generator else requests
    batch = service.client.messages.batches.create(requests=given)
    wait(service.client, batch.id)
    assert len(list(service.client.messages.batches.results(batch.id))) == 2
    service.flush()
    ours = [span for span in service.otlp.spans if span.scope == semconv.SCOPE]
    assert len(ours) == 3
