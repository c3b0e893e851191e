"""After a lost answer or an interruption: our batch and nobody else's, and none twice."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anthropic
import pytest
from support import CREATE, LIST, MakeRequests, Service
from support.journal import intend, unfinished

from otel_bridge import (
    BatchExecutor,
    ConfigurationError,
    PartialSubmissionError,
    RequestsError,
    Settings,
    SubmissionAmbiguousError,
)
from otel_bridge.batches import engine, engine_of, reconciling
from otel_bridge.batches.flows import stream
from otel_bridge.domain.requests import split_requests
from otel_bridge.journal import Journal

OUTPUT = "gen_ai.client.inference.usage.output_tokens"


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciling, "_LOOKS", (0.01, 0.01))
    monkeypatch.setattr(reconciling, "_CANCELING_SECONDS", 0.02)


@pytest.fixture
def in_twos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests fill a batch."""
    small = functools.partial(split_requests, max_requests=2)
    monkeypatch.setattr(engine, "split_requests", small)


def others(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**each, "custom_id": f"other-{each['custom_id']}"} for each in requests]


def ago(**time: float) -> datetime:
    return datetime.now(UTC) - timedelta(**time)


def interrupted(state: Path, requests: list[dict[str, Any]]) -> None:
    """What a process leaves that ended while it created a batch of the requests."""
    intend(Journal(state), requests, awaits_collection=True)


def test_no_batch_from_before_the_submission_is_taken_for_it(
    service: Service, make_requests: MakeRequests, tmp_path: Path
) -> None:
    requests = make_requests(3)
    service.api.add_batch(requests, created_at=ago(minutes=2))
    service.api.fail_next(**CREATE, status=500)
    with pytest.raises(SubmissionAmbiguousError, match=r"failed \(500.*run the same again"):
        service.executor(state_dir=tmp_path).run(requests)
    results = service.executor(state_dir=tmp_path).run(requests)
    assert list(results.batch_ids) == service.api.batch_ids[1:]


def test_a_strangers_batch_that_has_ended_is_told_by_its_results(
    service: Service, make_requests: MakeRequests, tmp_path: Path
) -> None:
    requests = make_requests(3)
    service.api.add_batch(others(requests), seconds=0)
    ours = service.api.add_batch(requests, seconds=0)
    service.api.add_batch(others(requests), seconds=60)
    service.api.fail_next(**CREATE, action="close")
    results = service.executor(state_dir=tmp_path).run(requests)
    assert results.batch_ids == (ours,)


def test_a_strangers_batch_that_runs_is_found_out_at_its_end(
    service: Service, make_requests: MakeRequests, tmp_path: Path
) -> None:
    """Nothing of it is given or told, and the next try creates ours."""
    requests = make_requests(3)
    theirs = service.api.add_batch(others(requests), seconds=60)
    service.api.fail_next(**CREATE, status=500)
    executor = service.executor(lambda _: service.api.end(theirs), state_dir=tmp_path)
    given: list[Any] = []
    run = executor.start(requests)
    with pytest.raises(SubmissionAmbiguousError, match=f"batch {theirs}, .* run the same again"):
        given.extend(run)
    service.flush()
    assert (given, service.otlp.spans, service.langsmith.runs) == ([], [], {})
    results = executor.run(requests)
    (ours,) = results.batch_ids
    assert ours != theirs
    assert results.keys() == {each["custom_id"] for each in requests}
    service.flush()
    assert service.otlp.metric_sum(OUTPUT) == service.api.truth(ours)["output_tokens"]


async def test_the_async_twin_finds_a_stranger_out_too(
    service: Service, make_requests: MakeRequests, tmp_path: Path
) -> None:
    requests = make_requests(3)
    theirs = service.api.add_batch(others(requests), seconds=60)
    service.api.fail_next(**CREATE, status=500)
    executor = service.async_executor(lambda _: service.api.end(theirs), state_dir=tmp_path)
    with pytest.raises(SubmissionAmbiguousError, match=theirs):
        await executor.run(requests)
    assert theirs not in (await executor.run(requests)).batch_ids
    await service.aclose()


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_batch_that_two_submissions_may_have_made_goes_to_whose_it_is(
    service: Service, make_requests: MakeRequests, tmp_path: Path, first: str
) -> None:
    """Both broke off, and one batch runs; whoever follows up first takes it for its own."""
    mine, yours = make_requests(3), others(make_requests(3))
    interrupted(tmp_path, mine)
    interrupted(tmp_path, yours)
    batch_id = service.api.add_batch(mine, seconds=0.5)
    executor = service.executor(state_dir=tmp_path)
    order = (mine, yours) if first == "ours" else (yours, mine)
    runs = {each[0]["custom_id"]: executor.start(each) for each in order}
    assert len(list(runs[mine[0]["custom_id"]])) == 3
    with pytest.raises(SubmissionAmbiguousError, match=batch_id):
        list(runs[yours[0]["custom_id"]])
    (anew,) = executor.run(yours).batch_ids
    assert service.api.batch_ids == [batch_id, anew]
    known = Journal(tmp_path).get(batch_id)
    assert known is not None
    assert known.runs_exported
    assert not known.tentative
    (later,) = executor.run(mine).batch_ids
    assert later not in (batch_id, anew), "a deliberate second run is one of its own"


def test_a_batch_that_proved_ours_is_ours_alone(
    service: Service, make_requests: MakeRequests, tmp_path: Path
) -> None:
    """The other submission that may have made it is not followed up any more."""
    mine, yours = make_requests(3), others(make_requests(3))
    interrupted(tmp_path, yours)
    interrupted(tmp_path, mine)
    batch_id = service.api.add_batch(mine, seconds=0.3)
    executor = service.executor(state_dir=tmp_path)
    executor.start(yours)
    assert executor.run(mine).batch_ids == (batch_id,)
    reconciling.confirmed_batch_ids.discard(batch_id)  # as in another process
    assert batch_id not in executor.run(mine).batch_ids


def test_our_batch_that_runs_is_told_of_once_its_results_prove_it(
    service: Service, make_requests: MakeRequests, tmp_path: Path
) -> None:
    service.api.batch_seconds = 0.3
    service.api.fail_next(**CREATE, action="accept_then_close")
    with service.tracers.get_tracer("t").start_as_current_span("caller") as caller:
        results = service.executor(state_dir=tmp_path).run(make_requests(6))
    (batch_id,) = results.batch_ids
    assert len(results) == 6
    assert len(service.api.batch_ids) == 1
    service.flush()
    assert service.otlp.metric_sum(OUTPUT) == service.api.truth(batch_id)["output_tokens"]
    assert service.otlp.metric_sum("anthropic.message.batch.submitted") == 1
    assert len(service.langsmith.runs) == len(service.otlp.spans) - 1 == 7
    assert {each.trace_id for each in service.otlp.spans} == {
        f"{caller.get_span_context().trace_id:032x}"
    }
    known = Journal(tmp_path).get(batch_id)
    assert known is not None
    assert not known.tentative


def test_who_reads_a_batch_by_id_before_it_was_proved_is_told(
    service: Service, make_requests: MakeRequests, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service.api.batch_seconds = 0.3
    service.api.fail_next(**CREATE, action="accept_then_close")
    (handle,) = service.executor(state_dir=tmp_path).submit(make_requests(2))
    assert len(list(service.executor(state_dir=tmp_path).collect(handle.id))) == 2
    assert "see that its custom ids are yours" in caplog.text


def test_without_a_journal_no_batch_of_this_process_is_taken_for_another(
    service: Service, make_requests: MakeRequests
) -> None:
    executor = service.executor()
    executor.run(make_requests(4))
    service.api.fail_next(**CREATE, status=500)
    with pytest.raises(SubmissionAmbiguousError, match="there is no journal"):
        executor.run(make_requests(4))


@pytest.mark.parametrize("minutes", [-10, 10])
def test_the_apis_clock_counts(
    service: Service,
    make_requests: MakeRequests,
    tmp_path: Path,
    minutes: int,
) -> None:
    """Ours is found though this clock is wrong, and a stranger's from before it is not."""
    service.api.clock_offset = timedelta(minutes=minutes)
    requests = make_requests(3)
    interrupted(tmp_path, requests)
    service.api.add_batch(requests, created_at=service.api.now() - timedelta(minutes=1))
    ours = service.api.add_batch(requests)
    service.api.end(ours)
    assert service.executor(state_dir=tmp_path).run(requests).batch_ids == (ours,)


async def test_a_call_that_is_cancelled_is_followed_up(
    service: Service, make_requests: MakeRequests, tmp_path: Path
) -> None:
    service.api.fail_next(**CREATE, action="accept_then_hang")
    executor = service.async_executor(state_dir=tmp_path)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(executor.run(make_requests(4)), 1)
    results = await executor.run(make_requests(4))
    assert list(results.batch_ids) == service.api.batch_ids
    await service.aclose()


def interrupt_when(reached: Callable[[], bool]) -> None:
    """Have the main thread interrupted as by Ctrl-C."""

    def watch() -> None:
        while not reached():
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def test_an_interrupted_call_is_followed_up(
    service: Service, make_requests: MakeRequests, tmp_path: Path
) -> None:
    service.api.fail_next(**CREATE, action="accept_then_hang")
    executor = service.executor(state_dir=tmp_path)
    interrupt_when(lambda: bool(service.api.batch_ids))
    try:
        executor.run(make_requests(4))
    except KeyboardInterrupt:
        # In its handler: what was interrupted is not garbage yet.
        results = executor.run(make_requests(4))
    assert list(results.batch_ids) == service.api.batch_ids


@pytest.mark.usefixtures("in_twos")
def test_an_interrupted_wait_leaves_every_batch_to_the_next_run(
    service: Service, make_requests: MakeRequests, tmp_path: Path
) -> None:
    service.api.batch_seconds = 60
    executor = service.executor(state_dir=tmp_path)
    interrupt_when(lambda: any("msgbatch" in each.path for each in service.api.requests))
    with pytest.raises(KeyboardInterrupt):
        executor.run(make_requests(4))
    for batch_id in service.api.batch_ids:
        service.api.end(batch_id)
    results = executor.run(make_requests(4))
    assert list(results.batch_ids) == service.api.batch_ids
    assert len(results) == 4


@pytest.mark.parametrize("below_a_span", [False, True])
@pytest.mark.parametrize("at", ["the call", "the wait"])
def test_whoever_goes_on_with_a_batch_it_was_submitted_once(
    service: Service, make_requests: MakeRequests, tmp_path: Path, at: str, *, below_a_span: bool
) -> None:
    if at == "the call":
        service.api.fail_next(**CREATE, action="accept_then_hang")
        interrupt_when(lambda: bool(service.api.batch_ids))
    else:
        service.api.batch_seconds = 60
        interrupt_when(lambda: any("msgbatch" in each.path for each in service.api.requests))
    executor = service.executor(state_dir=tmp_path)
    tracer = service.tracers.get_tracer("app")

    def run() -> None:
        with tracer.start_as_current_span("job") if below_a_span else contextlib.nullcontext():
            executor.run(make_requests(4))

    try:
        run()
    except KeyboardInterrupt:
        service.api.end(*service.api.batch_ids)
        run()
    service.flush()
    assert len(service.api.batch_ids) == 1
    assert service.otlp.metric_sum("anthropic.message.batch.submitted") == 1
    assert service.otlp.metric_sum("anthropic.message.batch.active") == 0


@pytest.mark.usefixtures("in_twos")
def test_parts_whose_fate_is_unknown_are_told_apart_from_those_in_no_batch(
    service: Service, make_requests: MakeRequests, tmp_path: Path
) -> None:
    requests = make_requests(6)
    service.api.fail_next(**LIST, status=500, times=float("inf"))
    service.api.fail_next(**CREATE, delay=0)
    service.api.fail_next(**CREATE, action="accept_then_close")
    executor = service.executor(state_dir=tmp_path)
    with pytest.raises(PartialSubmissionError, match="run the same again") as caught:
        executor.submit(requests)
    assert list(caught.value.unsubmitted) == requests[4:]
    assert list(caught.value.unknown) == requests[2:4]
    service.api.recover()
    results = executor.run(requests)
    assert len(results) == 6
    assert list(results.batch_ids) == service.api.batch_ids


@pytest.mark.usefixtures("in_twos")
def test_after_a_refusal_of_a_later_part_an_interrupted_run_goes_on(
    service: Service, make_requests: MakeRequests, tmp_path: Path
) -> None:
    requests = make_requests(6)
    service.api.fail_next(**CREATE, delay=0)
    service.api.fail_next(**CREATE, status=400)
    executor = service.executor(state_dir=tmp_path)
    run = executor.start(requests)
    assert list(run.unsubmitted) == requests[2:]
    assert run.submission_error is not None
    assert run.submission_error.unknown == ()
    next(iter(run))
    next(iter(executor.start(requests)))
    results = executor.run(requests)
    assert len(results) == 6
    assert list(results.batch_ids) == service.api.batch_ids


def test_of_several_batches_that_fit_one_may_be_collected_or_all_left(
    service: Service, make_requests: MakeRequests, tmp_path: Path
) -> None:
    requests = make_requests(4)
    for _ in range(2):
        service.api.add_batch(requests, seconds=60)
    service.api.fail_next(**CREATE, action="close")
    executor = service.executor(state_dir=tmp_path)
    for _ in range(2):
        with pytest.raises(SubmissionAmbiguousError, match=r"fits: msgbatch.*`--new`"):
            executor.run(requests)
    results = executor.run(requests, new=True)
    assert list(results.batch_ids) == service.api.batch_ids[2:]
    assert list(executor.run(requests).batch_ids) == service.api.batch_ids[3:]


def broken_off(service: Service, requests: list[dict[str, Any]], state: Path) -> str:
    """A batch that a run created and did not read."""
    (handle,) = service.executor(state_dir=state).submit(requests, resume=True)
    engine_of(service.executor(state_dir=state)).release([handle])
    return str(handle.id)


def test_a_batch_whose_results_are_archived_is_not_gone_on_with(
    service: Service, make_requests: MakeRequests, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    requests = make_requests(4)
    old = broken_off(service, requests, tmp_path)
    service.api.end(old)
    service.api.archive(old)
    results = service.executor(state_dir=tmp_path).run(requests)
    assert list(results.batch_ids) == service.api.batch_ids[1:]
    assert caplog.text.count(f"Batch {old} of these requests was archived") == 1
    assert len(results) == 4


def test_a_new_batch_in_place_of_one_that_was_told_is_told_too(
    service: Service, make_requests: MakeRequests, tmp_path: Path
) -> None:
    requests = make_requests(4)
    executor = service.executor(state_dir=tmp_path)
    old = broken_off(service, requests, tmp_path)
    list(stream(engine_of(executor).read(old)))
    service.api.archive(old)
    (new,) = executor.run(requests).batch_ids
    service.flush()
    truths = [service.api.truth(each)["output_tokens"] for each in (old, new)]
    assert service.otlp.metric_sum(OUTPUT) == sum(truths)
    assert Journal(tmp_path).totals().keys() == {old, new}


@pytest.mark.parametrize("some", [True, False])
def test_a_canceled_batch_is_gone_on_with_only_where_some_were_answered(
    service: Service,
    make_requests: MakeRequests,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    *,
    some: bool,
) -> None:
    requests = make_requests(4)
    service.api.batch_seconds = 60
    old = broken_off(service, requests, tmp_path)
    service.api.answered_before_cancel = 1.0 if some else 0.0
    service.executor(state_dir=tmp_path).cancel(old)
    service.api.batch_seconds = 0
    results = service.executor(state_dir=tmp_path).run(requests)
    assert (old in results.batch_ids) == some
    assert ("was canceled before any was answered" in caplog.text) != some
    assert results.succeeded


@pytest.mark.parametrize(
    ("client", "reason"),
    [
        ({"base_url": "foo"}, "ANTHROPIC_BASE_URL cannot be used"),
        ({"base_url": "ftp://127.0.0.1"}, "ANTHROPIC_BASE_URL cannot be used"),
        ({"api_key": "two\nlines"}, "ANTHROPIC_API_KEY cannot be sent"),
        ({"api_key": "\udcff"}, "ANTHROPIC_API_KEY has characters"),
    ],
)
def test_what_never_left_is_no_lost_answer(
    service: Service,
    make_requests: MakeRequests,
    tmp_path: Path,
    client: dict[str, str],
    reason: str,
) -> None:
    """One error at once, that names the variable and no key; nothing to follow up is left."""
    requests = make_requests(2)
    settings = Settings(state_dir=tmp_path)
    base = {"base_url": service.api.url, "api_key": "k"} | client
    with anthropic.Anthropic(base_url=base["base_url"], api_key=base["api_key"]) as wrong:
        executor = BatchExecutor(wrong, settings=settings)
        with pytest.raises(ConfigurationError, match=reason) as caught:
            executor.submit(requests)
        assert "lines" not in str(caught.value)
    assert service.api.requests == []
    assert unfinished(tmp_path, requests, include_uncollected=True) == []


def test_a_url_of_which_no_client_can_be_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://[::1")
    with pytest.raises(ConfigurationError, match="ANTHROPIC_BASE_URL cannot be used"):
        BatchExecutor(settings=Settings(state_dir=None))


def test_text_that_cannot_be_sent_is_named(service: Service, tmp_path: Path) -> None:
    request = {
        "custom_id": "a",
        "params": {
            "model": "claude-haiku-4-5",
            "max_tokens": 5,
            "messages": [{"role": "user", "content": "half a pair: \ud83d"}],
        },
    }
    with pytest.raises(RequestsError, match="text that cannot be sent"):
        service.executor(state_dir=tmp_path).submit([request])
