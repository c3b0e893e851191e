"""Batches are paid for once, read whole, and never in telemetry's hands."""

from __future__ import annotations

import itertools
import logging
import threading
from pathlib import Path
from typing import Any

import anthropic
import anyio
import pytest
from anyio import to_thread
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from support import CREATE, Cost, MakeRequests, Service

from otel_bridge import (
    BatchError,
    BatchExecutor,
    BatchNotFoundError,
    ConfigurationError,
    RequestsError,
    Settings,
    SubmissionAmbiguousError,
)
from otel_bridge.batches import engine_of, handles, reconciling
from otel_bridge.batches.flows import AsyncIo, SyncIo, drive_async
from otel_bridge.simulator import Action, MessageBatchesServer


def creations(service: Service) -> int:
    return sum(each.method == "POST" for each in service.api.requests)


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciling, "_LOOKS", (0.01, 0.01))


def test_results_are_the_apis(service: Service, make_requests: MakeRequests) -> None:
    results = service.executor().run(make_requests(60))
    truth = {line["custom_id"]: line["result"] for line in service.api.results(*results.batch_ids)}
    assert len(results) == 60
    assert results.succeeded.keys() | results.failed.keys() == truth.keys()
    for custom_id, result in results.items():
        assert result.type == truth[custom_id]["type"]
        assert result.succeeded == (result.type == "succeeded")
        if result.message is not None:
            assert result.message.id == truth[custom_id]["message"]["id"]
            assert result.usage.output_tokens == result.message.usage.output_tokens
        sdk = result.to_sdk()
        assert (sdk.custom_id, sdk.result.type) == (custom_id, result.type)
    assert "BatchResult(custom_id=" in repr(result)


def test_a_generator_of_requests_is_sent_whole(
    service: Service, make_requests: MakeRequests
) -> None:
    assert len(service.executor().run(iter(make_requests(5)))) == 5


@pytest.mark.parametrize("action", ["accept_then_close", "close"])
def test_a_lost_answer_never_makes_a_second_batch(
    service: Service, make_requests: MakeRequests, action: Action
) -> None:
    service.api.fail_next(**CREATE, action=action)
    executor = service.executor()
    if action == "accept_then_close":
        assert len(executor.run(make_requests(4))) == 4
    else:
        with pytest.raises(SubmissionAmbiguousError, match="lists no new batch of 4 requests"):
            executor.submit(make_requests(4))
    assert creations(service) == 1


def test_two_batches_that_fit_are_not_guessed_between(
    service: Service, make_requests: MakeRequests
) -> None:
    executor = service.executor()
    service.api.add_batch(make_requests(4))
    service.api.fail_next(**CREATE, action="accept_then_close")
    with pytest.raises(SubmissionAmbiguousError, match="more than one recent batch fits"):
        executor.submit(make_requests(4))


def test_a_server_error_is_reconciled_too(service: Service, make_requests: MakeRequests) -> None:
    service.api.fail_next(**CREATE, status=500)
    with pytest.raises(SubmissionAmbiguousError, match="500"):
        service.executor().submit(make_requests(4))
    assert creations(service) == 1


@pytest.mark.parametrize("status", [429, 529])
def test_a_busy_api_is_tried_again(
    service: Service, make_requests: MakeRequests, status: int
) -> None:
    service.api.fail_next(**CREATE, status=status, headers={"retry-after": "0"})
    assert len(service.executor().run(make_requests(2))) == 2
    assert creations(service) == 2


def test_a_busy_api_that_asks_for_a_day_is_tried_sooner(
    service: Service, make_requests: MakeRequests
) -> None:
    pauses: list[float] = []
    executor = service.executor()
    engine_of(executor).api.io = SyncIo(pauses.append)
    service.api.fail_next(**CREATE, status=429, headers={"retry-after": "86400"})
    executor.submit(make_requests(2))
    assert pauses == [120.0]


@pytest.mark.parametrize(
    ("status", "fix"),
    [
        (400, "mend what it names"),
        (401, "check ANTHROPIC_API_KEY"),
        (403, "a key of ANTHROPIC_API_KEY whose workspace"),
        (404, "check ANTHROPIC_BASE_URL"),
        (408, "submit again, or in smaller parts"),
        (413, "in smaller parts"),
    ],
)
def test_a_refusal_is_told_with_its_reason_and_the_fix(
    service: Service, make_requests: MakeRequests, status: int, fix: str
) -> None:
    service.api.fail_next(**CREATE, status=status)
    told = f"the API refused the batch: {status} simulated {status}; .*{fix}"
    with pytest.raises(BatchError, match=told):
        service.executor().submit(make_requests(1))
    assert creations(service) == 1


def test_bad_requests_are_refused_before_anything_is_sent(
    service: Service, make_requests: MakeRequests
) -> None:
    good, other = make_requests(2)
    cases: list[tuple[list[Any], str]] = [
        ([], "there are no requests"),
        ([good, {**other, "custom_id": good["custom_id"]}], r"requests\[1\]: .*already used in"),
        ([{**good, "custom_id": "no spaces"}], "1 to 64 letters"),
        ([{**good, "custom_id": None}], "custom_id is missing"),
        ([{"custom_id": "a"}], "params is missing"),
        ([{**good, "params": {**good["params"], "model": ""}}], "params.model is missing"),
        ([{**good, "params": {**good["params"], "stream": True}}], "params.stream cannot"),
        (["text"], "not an object"),
    ]
    for bad, reason in cases:
        with pytest.raises(RequestsError, match=reason):
            service.executor().submit(bad)
    assert service.api.requests == []


def test_no_key_is_a_configuration_error(
    make_requests: MakeRequests, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    executor = BatchExecutor(settings=Settings(state_dir=None))
    for act in (
        lambda: executor.submit(make_requests(1)),
        lambda: list(executor.collect("msgbatch_x")),
    ):
        with pytest.raises(ConfigurationError, match="ANTHROPIC_API_KEY"):
            act()
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
    with pytest.raises(ConfigurationError, match="set ANTHROPIC_API_KEY"):
        BatchExecutor(settings=Settings(state_dir=None))


def test_an_api_that_is_not_there_was_sent_nothing(make_requests: MakeRequests) -> None:
    client = anthropic.Anthropic(base_url="http://127.0.0.1:9", api_key="test")
    with pytest.raises(BatchError, match=r"nothing was submitted: 127.0.0.1.*ANTHROPIC_BASE_URL"):
        BatchExecutor(client, settings=Settings(state_dir=None)).submit(make_requests(1))
    client.close()


def test_an_unknown_batch_is_named(service: Service) -> None:
    with pytest.raises(BatchNotFoundError, match="msgbatch_none"):
        list(service.executor().collect("msgbatch_none"))


def test_faults_that_pass_do_not_end_the_wait(
    service: Service, make_requests: MakeRequests
) -> None:
    executor = service.executor()
    (handle,) = executor.submit(make_requests(3))
    service.api.fail_next("GET", f"{handle.id}$", status=404)
    service.api.fail_next("GET", f"{handle.id}$", status=503, times=2)
    service.api.fail_next("GET", f"{handle.id}$", status=408, times=2)
    assert len(list(executor.collect(handle))) == 3


def test_a_long_wait_outlives_any_number_of_faults_and_polls_as_often_as_ever(
    service: Service, make_requests: MakeRequests
) -> None:
    service.api.batch_seconds = 3600
    polls = itertools.count()
    pauses: list[float] = []

    def next_poll_fails(facts: Any) -> None:
        if next(polls) < 25:
            service.api.fail_next("GET", f"{facts.id}$", status=503)
        else:
            service.api.end(facts.id)

    executor = service.executor(next_poll_fails, poll_interval=1.0, poll_max_interval=4.0)
    engine_of(executor).api.io = SyncIo(pauses.append)
    assert len(executor.run(make_requests(2))) == 2
    assert len(pauses) > 50
    assert max(pauses) < 5.0


@pytest.mark.parametrize("action", ["cut_line", "cut_mid_line", "cut_connection"])
def test_a_short_stream_is_read_again(
    service: Service, make_requests: MakeRequests, action: Action, caplog: pytest.LogCaptureFixture
) -> None:
    executor = service.executor()
    (handle,) = executor.submit(make_requests(9))
    service.api.fail_next("GET", "results$", action=action)
    with caplog.at_level(logging.WARNING):
        results = list(executor.collect(handle))
    assert len({result.custom_id for result in results}) == len(results) == 9
    service.flush()
    assert len(service.otlp.unique_spans()) == len(service.otlp.spans) == 10
    told = service.otlp.metric_sum("gen_ai.client.inference.usage.output_tokens")
    assert told == service.api.truth(handle.id)["output_tokens"]


def test_results_that_cannot_be_read_are_an_error_and_count_nothing(
    service: Service, make_requests: MakeRequests
) -> None:
    executor = service.executor()
    (handle,) = executor.submit(make_requests(3))
    service.api.fail_next("GET", "results$", status=500, times=3)
    with pytest.raises(BatchError, match=f"results of batch {handle.id} cannot be read: 500"):
        list(executor.collect(handle))
    service.flush()
    assert service.otlp.metric_sum("gen_ai.client.inference.usage.output_tokens") == 0
    assert service.otlp.metric_sum("anthropic.message.batch.active") == 0
    assert len(list(executor.collect(handle))) == 3


def test_results_are_read_from_the_clients_own_host(make_requests: MakeRequests) -> None:
    with MessageBatchesServer() as elsewhere, MessageBatchesServer() as here:
        here.results_host = elsewhere.url
        client = anthropic.Anthropic(base_url=here.url, api_key="test")
        executor = BatchExecutor(client, settings=Settings(poll_interval=0.02, state_dir=None))
        assert len(executor.run(make_requests(2))) == 2
        assert elsewhere.requests == []
        client.close()


class Broken(SpanProcessor):
    """A processor of the user's that raises."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:  # noqa: ARG002
        raise RuntimeError("broken processor")

    def on_end(self, span: ReadableSpan) -> None:  # noqa: ARG002
        raise RuntimeError("broken processor")


def test_a_fault_of_telemetry_reaches_nobody(
    service: Service, make_requests: MakeRequests, caplog: pytest.LogCaptureFixture
) -> None:
    service.tracers.add_span_processor(Broken())
    with caplog.at_level(logging.WARNING, "otel_bridge"):
        results = service.executor().run(make_requests(30))
    assert len(results) == 30
    assert len([each for each in caplog.records if "Telemetry" in each.message]) == 1
    service.meters.force_flush()
    assert service.otlp.metric_sum("anthropic.message.batch.active") == 0
    told = service.otlp.metric_sum("gen_ai.client.inference.usage.output_tokens")
    assert told == service.api.truth(results.batch_ids[0])["output_tokens"]


def test_results_read_in_several_goes_count_once(
    service: Service, make_requests: MakeRequests
) -> None:
    executor = service.executor(max_request_spans=4)
    (handle,) = executor.submit(make_requests(450))
    first = next(iter(executor.collect(handle)))
    again = list(executor.collect(handle))
    assert len(again) == 450
    assert first.custom_id in {result.custom_id for result in again}
    assert len(list(executor.collect(handle))) == 450
    service.flush()
    truth = service.api.truth(handle.id)
    otlp = service.otlp
    name = "gen_ai.client.inference.usage.output_tokens"
    assert otlp.metric_sum(name) == truth["output_tokens"]
    assert otlp.metric_count("gen_ai.usage.cost") == truth["succeeded"]
    assert otlp.metric_count("anthropic.message.batch.duration") == 1
    assert otlp.metric_sum("anthropic.message.batch.active") == 0
    spans = sum(span.attributes.get("gen_ai.usage.output_tokens", 0) for span in otlp.spans)
    assert spans == service.langsmith.usage_totals()["output_tokens"] == truth["output_tokens"]


def test_a_service_that_only_submits_keeps_a_bounded_number_of_requests(
    service: Service, make_requests: MakeRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handles, "MAX_REQUESTS", 10)
    executor = service.executor(langsmith_tracing=False)
    ids = [executor.submit(make_requests(4))[0].id for _ in range(5)]
    (large,) = executor.submit(make_requests(30))
    known = [bool(engine_of(executor).resolve(each).params) for each in [*ids, large.id]]
    assert known == [False] * 5 + [True]
    assert len(list(executor.collect(ids[0]))) == 4


def test_a_progress_display_that_fails_loses_no_batch(
    service: Service, make_requests: MakeRequests, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise KeyError

    executor = BatchExecutor(
        service.client, settings=service.settings(langsmith_tracing=False), on_progress=fail
    )
    with caplog.at_level(logging.WARNING):
        assert len(executor.run(make_requests(2))) == 2
    assert "on_progress failed; the batch goes on: KeyError" in caplog.text


def test_progress_is_told_each_time_the_api_describes_the_batch(
    service: Service, make_requests: MakeRequests
) -> None:
    told: list[str] = []
    executor = BatchExecutor(
        service.client,
        settings=service.settings(langsmith_tracing=False),
        on_progress=lambda batch: told.append(batch.status),
    )
    executor.run(make_requests(2))
    assert told[0] == "in_progress"
    assert told[-1] == "ended"


async def test_backends_that_hang_take_no_thread_of_the_services() -> None:
    released = threading.Event()
    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(drive_async, AsyncIo().run_in_thread(released.wait))
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(10):
            await to_thread.run_sync(released.set)
        in_time = released.is_set()
        released.set()
    assert in_time


async def test_the_async_twin_does_the_same(
    service: Service, make_requests: MakeRequests, cost_of: Cost
) -> None:
    executor = service.async_executor(max_request_spans=10)
    results = await executor.run(make_requests(60))
    (batch_id,) = results.batch_ids
    service.flush()
    truth = service.api.truth(batch_id)
    assert len(results) == 60
    assert service.langsmith.usage_totals()["output_tokens"] == truth["output_tokens"]
    assert (
        sum(span.attributes.get("gen_ai.usage.output_tokens", 0) for span in service.otlp.spans)
        == truth["output_tokens"]
    )
    cost = sum(map(cost_of, service.api.results(batch_id)))
    assert service.otlp.metric_sum("gen_ai.usage.cost") == pytest.approx(cost, rel=0, abs=1e-9)

    service.api.fail_next("GET", "results$", action="cut_mid_line")
    (handle,) = await executor.submit(make_requests(7))
    assert len([result async for result in executor.collect(handle)]) == 7
    with pytest.raises(BatchNotFoundError):
        [result async for result in executor.collect("msgbatch_none")]
    with pytest.raises(RequestsError):
        await executor.submit([])
    await service.aclose()
