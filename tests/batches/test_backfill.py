"""Batches that ran without the bridge are told at their own times, once."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import Command, MakeRequests, Service, present

from otel_bridge import BatchNotFoundError
from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer, OtlpCapture

OUTPUT = "gen_ai.client.inference.usage.output_tokens"


def ago(**span: float) -> datetime:
    return datetime.now(UTC) - timedelta(**span)


def test_batches_of_before_are_told_at_their_own_times_once(
    bridge: Command,
    make_requests: MakeRequests,
    api: MessageBatchesServer,
    otlp: OtlpCapture,
    langsmith: LangSmithCapture,
) -> None:
    api.add_batch(make_requests(5), created_at=ago(days=9))
    created = ago(days=3)
    old = api.add_batch(make_requests(20), created_at=created, seconds=7200)
    new = api.add_batch(make_requests(10), created_at=ago(hours=2), seconds=60)
    going = api.add_batch(make_requests(3), seconds=600)
    ran = bridge("backfill", "--since", "7d", "--json")
    assert ran.returncode == 0, ran.stderr
    told = {
        each["id"]: (each["state"], each["requests"]) for each in json.loads(ran.stdout)["batches"]
    }
    assert told == {going: ("in_progress", 3), old: ("exported", 20), new: ("exported", 10)}
    assert f"{old}: exported, 20 requests" in ran.stderr
    output = sum(api.truth(each)["output_tokens"] for each in (old, new))
    spans = otlp.unique_spans()
    assert len(spans) == len(otlp.spans) == 32
    assert sum(s.attributes.get("gen_ai.usage.output_tokens", 0) for s in spans) == output
    assert langsmith.usage_totals()["output_tokens"] == output
    assert otlp.metric_sum(OUTPUT) == output
    (batch,) = [
        s
        for s in spans
        if s.attributes.get("anthropic.message.batch.id") == old and "batch" in s.name
    ]
    assert batch.start_ns // 1000 == int(created.timestamp() * 1e6)
    assert batch.end_ns - batch.start_ns == 7200 * 10**9
    assert "anthropic.message.batch.created_at" not in batch.attributes

    for arguments in (["--since", "7d"], [old, new]):
        again = json.loads(bridge("backfill", *arguments, "--json").stdout)["batches"]
        assert {each["state"] for each in again if each["id"] != going} == {"already_exported"}
    assert len(otlp.spans) == 32
    assert otlp.metric_sum(OUTPUT) == output


def test_a_long_list_is_read_page_by_page(
    service: Service, make_requests: MakeRequests, api: MessageBatchesServer, tmp_path: Path
) -> None:
    ids = [
        api.add_batch(make_requests(1), created_at=ago(hours=9, seconds=-number), seconds=1)
        for number in range(130)
    ]
    executor = service.executor(langsmith_tracing=False, state_dir=tmp_path)
    done = list(executor.backfill(since=ago(days=1)))
    assert [each.id for each in done] == ids, "the oldest first"
    assert sum(request.path.endswith("/batches") for request in api.requests) == 2
    assert {each.state for each in executor.backfill(since=ago(days=1))} == {"already_exported"}


def test_times_can_be_shifted_into_the_last_day(
    service: Service, make_requests: MakeRequests, api: MessageBatchesServer
) -> None:
    created = ago(days=12, hours=5)
    old = api.add_batch(make_requests(4), created_at=created, seconds=60)
    (done,) = service.executor().backfill([old], shift_times=True)
    assert (done.state, done.requests) == ("exported", 4)
    service.flush()
    for span in service.otlp.unique_spans():
        start = datetime.fromtimestamp(span.start_ns / 1e9, UTC)
        assert start - created == pytest.approx(timedelta(days=12), abs=timedelta(milliseconds=1))
        assert span.end_ns - span.start_ns == 60 * 10**9
    runs = list(service.langsmith.runs.values())
    assert all(datetime.fromisoformat(run["start_time"]) > ago(days=1) for run in runs)
    (batch,) = [run for run in runs if run["run_type"] != "llm"]
    metadata = batch["extra"]["metadata"]
    assert metadata["anthropic.message.batch.created_at"] == created.isoformat()
    assert service.langsmith.refusals == []


def test_what_cannot_be_read_is_said_and_the_rest_told(
    service: Service, make_requests: MakeRequests, api: MessageBatchesServer
) -> None:
    first, second = (api.add_batch(make_requests(2), created_at=ago(hours=2)) for _ in range(2))
    api.fail_next("GET", f"{first}/results$", status=404, times=3)
    failed, told = service.executor().backfill([first, second])
    assert (failed.state, told.state) == ("failed", "exported")
    assert "404" in present(failed.reason)
    with pytest.raises(BatchNotFoundError, match="msgbatch_none"):
        list(service.executor().backfill(["msgbatch_none"]))


async def test_the_async_twin_does_the_same(
    service: Service, make_requests: MakeRequests, api: MessageBatchesServer
) -> None:
    going = api.add_batch(make_requests(2), seconds=60)
    first, second = (api.add_batch(make_requests(2), created_at=ago(days=2)) for _ in range(2))
    api.fail_next("GET", f"{first}/results$", status=404, times=3)
    executor = service.async_executor()
    done = [
        (each.id, each.state)
        async for each in executor.backfill([going], since=ago(days=5), shift_times=True)
    ]
    assert done == [(going, "in_progress"), (first, "failed"), (second, "exported")]
    await service.aclose()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [([], "name batches, or --since 7d"), (["--since", "soon"], "'soon' is no age")],
)
def test_bad_usage_is_said(bridge: Command, arguments: list[str], reason: str) -> None:
    ran = bridge("backfill", *arguments)
    assert ran.returncode == 2
    assert reason in ran.stderr
