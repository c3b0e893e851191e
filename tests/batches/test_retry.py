"""What failed by no fault of its own goes into another batch; what was answered never does."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support import CREATE, Command, Cost, MakeRequests, Service, eventually

from otel_bridge import BatchExecutor, BatchHandle
from otel_bridge.batches.results import BatchResult
from otel_bridge.batches.run import Attempts, may_be_retried
from otel_bridge.domain.outcome import ResultOutcome
from otel_bridge.simulator import MessageBatchesServer, OtlpCapture
from otel_bridge.simulator.answers import result_of
from otel_bridge.telemetry import Attempt


def errored(kind: str) -> dict[str, Any]:
    error = {"type": kind, "message": "simulated"}
    return {"type": "errored", "error": {"type": "error", "error": error}}


FIRST: dict[str, dict[str, Any]] = {
    "item-00001": {"type": "expired"},
    "item-00002": errored("overloaded_error"),
    "item-00003": errored("api_error"),
    "item-00004": errored("rate_limit_error"),
    "item-00005": errored("invalid_request_error"),
    "item-00006": {"type": "canceled"},
}
AGAIN = ["item-00001", "item-00002", "item-00003", "item-00004"]


def failing(
    times: int = 1, outcomes: Mapping[str, dict[str, Any]] = FIRST
) -> Callable[[Mapping[str, Any], dict[str, Any]], dict[str, Any]]:
    """A responder: requests fail as `outcomes` says the first `times` times, else succeed."""
    asked: Counter[str] = Counter()

    def respond(request: Mapping[str, Any], _: dict[str, Any]) -> dict[str, Any]:
        custom_id = request["custom_id"]
        asked[custom_id] += 1
        if custom_id in outcomes and asked[custom_id] <= times:
            return outcomes[custom_id]
        return result_of(f"ok-{custom_id}", request["params"], 0)

    return respond


def submitted(service: Service) -> list[list[str]]:
    return [
        [each["custom_id"] for each in request.json()["requests"]]
        for request in service.api.requests
        if request.method == "POST"
    ]


def test_only_what_may_succeed_is_tried_again(
    service: Service, make_requests: MakeRequests
) -> None:
    service.api.responder = failing()
    results = service.executor(max_attempts=3).run(make_requests(10))
    assert submitted(service)[1:] == [AGAIN]
    assert len(results) == 10
    assert {key: each.type for key, each in results.failed.items()} == {
        "item-00005": "errored",
        "item-00006": "canceled",
    }
    assert len(results.batch_ids) == 2


def test_by_default_nothing_is(service: Service, make_requests: MakeRequests) -> None:
    service.api.responder = failing()
    results = service.executor().run(make_requests(10))
    assert len(submitted(service)) == 1
    assert len(results.failed) == 6


@pytest.mark.parametrize("journal", [False, True], ids=["no journal", "journal"])
def test_attempts_are_bounded(
    service: Service, make_requests: MakeRequests, tmp_path: Path, journal: bool
) -> None:
    service.api.responder = failing(times=9)
    state = tmp_path if journal else None
    results = service.executor(max_attempts=3, state_dir=state).run(make_requests(10))
    assert [len(each) for each in submitted(service)] == [10, 4, 4]
    assert len(results) == 10
    assert len(results.failed) == 6


@pytest.mark.parametrize("below", [False, True], ids=["alone", "below a span"])
def test_attempts_share_a_trace_and_are_linked(
    service: Service, make_requests: MakeRequests, below: bool, cost_of: Cost
) -> None:
    service.api.responder = failing(times=2)
    executor = service.executor(max_attempts=3)
    if below:
        with service.tracers.get_tracer("service").start_as_current_span("workflow"):
            results = executor.run(make_requests(10))
    else:
        results = executor.run(make_requests(10))
    service.flush()
    first, second, third = results.batch_ids
    spans = service.otlp.unique_spans()
    batches = {
        span.attributes["anthropic.message.batch.id"]: span
        for span in spans
        if span.attributes.get("gen_ai.operation.name") == "batch"
    }
    assert len({span.trace_id for span in spans}) == 1
    assert batches.keys() == {first, second, third}
    links = {
        each: [(link.trace_id, link.span_id) for link in batches[each].links] for each in batches
    }
    assert links[first] == []
    assert links[second] == [(batches[first].trace_id, batches[first].span_id)]
    assert links[third] == [(batches[second].trace_id, batches[second].span_id)]
    assert batches[third].attributes["anthropic.message.batch.attempt"] == 3
    assert batches[third].attributes["anthropic.message.batch.previous_ids"] == [second]
    assert "anthropic.message.batch.attempt" not in batches[first].attributes

    truths = [service.api.truth(each) for each in results.batch_ids]
    output = sum(truth["output_tokens"] for truth in truths)
    name = "gen_ai.client.inference.usage.output_tokens"
    assert service.otlp.metric_sum(name) == output
    assert sum(s.attributes.get("gen_ai.usage.output_tokens", 0) for s in spans) == output
    assert sum(each.usage.output_tokens for each in results.values()) == output
    cost = sum(cost_of(line) for each in results.batch_ids for line in service.api.results(each))
    assert service.otlp.metric_sum("gen_ai.usage.cost") == pytest.approx(cost, abs=1e-9)
    assert service.langsmith.usage_totals()["total_cost"] == pytest.approx(cost, abs=1e-9)
    runs = {run["id"]: run for run in service.langsmith.runs.values()}
    assert len({run["trace_id"] for run in runs.values()}) == 1 or below
    assert service.langsmith.refusals == []
    assert service.langsmith.orphans() == []


def test_a_batch_that_failed_whole_is_tried_again(
    service: Service, make_requests: MakeRequests, tmp_path: Path
) -> None:
    service.api.responder = failing(outcomes={"item-00000": {"type": "expired"}})
    executor = service.executor(max_attempts=2, state_dir=tmp_path)
    results = executor.run(make_requests(1))
    assert len(set(results.batch_ids)) == 2, "the same requests, and yet another batch"
    assert results["item-00000"].succeeded


def test_each_result_is_streamed_once_and_final(
    service: Service, make_requests: MakeRequests
) -> None:
    service.api.responder = failing()
    run = service.executor(max_attempts=2).start(make_requests(10))
    ids = [result.custom_id for result in run]
    assert len(ids) == len(set(ids)) == 10
    assert set(ids[-4:]) == set(AGAIN)
    assert run.outcomes == {"succeeded": 8, "errored": 1, "canceled": 1}
    assert run.attempts == 2


def test_a_follow_up_that_is_refused_leaves_the_earlier_results(
    service: Service, make_requests: MakeRequests, caplog: pytest.LogCaptureFixture
) -> None:
    service.api.responder = failing()
    run = service.executor(max_attempts=2).start(make_requests(10))
    service.api.fail_next(**CREATE, status=403)
    with caplog.at_level(logging.ERROR):
        results = {result.custom_id: result for result in run}
    assert "4 failed requests are not tried again: the API refused the batch" in caplog.text
    assert len(results) == 10
    assert results["item-00001"].type == "expired"


def test_a_run_whose_follow_up_was_refused_is_gone_on_with(
    service: Service, make_requests: MakeRequests, tmp_path: Path
) -> None:
    service.api.responder = failing()
    executor = service.executor(max_attempts=2, state_dir=tmp_path)
    run = executor.start(make_requests(10))
    service.api.fail_next(**CREATE, status=400)
    assert len(list(run)) == 10
    again = executor.run(make_requests(10))
    assert again.batch_ids[0] == run.handles[0].id, "it is not paid for twice"
    assert [len(each) for each in submitted(service)] == [10, 4, 4]
    assert set(again.failed) == {"item-00005", "item-00006"}


def test_a_follow_up_that_loses_a_result_leaves_the_earlier_one(
    service: Service, make_requests: MakeRequests
) -> None:
    service.api.responder = failing()
    results: dict[str, BatchResult] = {}
    run = service.executor(max_attempts=2).start(make_requests(10))
    for result in run:
        if len(results) == 5:
            service.api.fail_next("GET", "results$", action="cut_line", times=3)
        results[result.custom_id] = result
    assert len(results) == 10
    assert Counter(results[each].type for each in AGAIN)["succeeded"] == 2


def test_a_run_killed_between_attempts_goes_on_where_it_was(
    bridge: Command, make_requests: MakeRequests, api: MessageBatchesServer, otlp: OtlpCapture
) -> None:
    api.responder = failing()
    bridge.environment["OTEL_BRIDGE_MAX_ATTEMPTS"] = "2"
    file = bridge.write(make_requests(10))
    running = bridge.start("run", file, "-o", "out.jsonl")
    eventually(lambda: api.batch_ids)
    api.batch_seconds = 60.0
    eventually(lambda: len(api.batch_ids) == 2)
    running.kill()
    running.communicate()
    api.end(api.batch_ids[1])
    ran = bridge("run", file, "-o", "out.jsonl", "--json")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["batches"] == api.batch_ids
    assert len(api.batch_ids) == 2, "nothing was paid for again"
    assert (told["requests"], told["attempts"]) == (10, 2)
    assert (told["succeeded"], told["errored"], told["canceled"], told["expired"]) == (8, 1, 1, 0)
    lines = (bridge.folder / "out.jsonl").read_text().splitlines()
    assert len({json.loads(line)["custom_id"] for line in lines}) == len(lines) == 10
    output = sum(api.truth(each)["output_tokens"] for each in api.batch_ids)
    spans = otlp.unique_spans()
    assert sum(s.attributes.get("gen_ai.usage.output_tokens", 0) for s in spans) == output
    assert otlp.metric_sum("gen_ai.client.inference.usage.output_tokens") == output
    assert told["usage"]["output_tokens"] == output


async def test_the_async_twin_does_the_same(service: Service, make_requests: MakeRequests) -> None:
    service.api.responder = failing()
    told: list[str] = []

    async def progress(batch: Any) -> None:
        told.append(batch.id)

    executor = service.async_executor(progress, max_attempts=2)
    run = await executor.start(make_requests(10))
    results = [result async for result in run]
    assert len(results) == 10
    assert run.outcomes["succeeded"] == 8
    assert set(told) == {handle.id for handle in run.handles}
    await service.aclose()


def test_what_may_be_retried() -> None:
    def of(result: dict[str, Any]) -> BatchResult:
        line = {"custom_id": "a", "result": result}
        return BatchResult(ResultOutcome.from_line(line), line, b"")

    for kind in ("overloaded_error", "api_error", "rate_limit_error", "timeout_error"):
        assert may_be_retried(of(errored(kind)))
    assert may_be_retried(of({"type": "expired"}))
    for never in (
        errored("invalid_request_error"),
        errored("request_too_large"),
        errored("billing_error"),
        {"type": "canceled"},
        {"type": "succeeded", "message": {}},
        {"type": "novel"},
        {"type": "errored", "error": None},
    ):
        assert not may_be_retried(of(never))


def test_a_stranger_is_never_submitted() -> None:
    attempts = Attempts([], 3)
    assert attempts.is_final(BatchResult(ResultOutcome("b", "expired"), {}, b""))
    assert attempts.next_attempt() == []


def test_an_attempt_travels_with_the_handle(service: Service, make_requests: MakeRequests) -> None:
    service.api.responder = failing()
    run = service.executor(max_attempts=2).start(make_requests(10))
    list(run)
    first, second = run.handles
    stored = BatchHandle.from_dict(second.to_dict())
    attempt = Attempt.from_carrier(stored.carrier)
    assert (attempt.number, [each for each, _ in attempt.previous]) == (2, [first.id])
    assert Attempt.from_carrier({}) == Attempt()
    assert Attempt.from_carrier({"otel-bridge-attempt": "2,nonsense"}) == Attempt()
    service.flush()
    service.otlp.spans.clear()
    elsewhere = BatchExecutor(
        service.client,
        tracer_provider=service.tracers,
        settings=service.settings(langsmith_tracing=False),
    )
    list(elsewhere.collect(stored))
    service.flush()
    (span,) = [
        s for s in service.otlp.spans if s.attributes.get("gen_ai.operation.name") == "batch"
    ]
    assert len(span.links) == 1
