"""Across processes: paid once, counted once, and never in the way."""

from __future__ import annotations

import json
import logging
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import SpanProcessor

from otel_bridge import SubmissionAmbiguousError, identity, journal_file, semconv
from otel_bridge._core.process_lock import ProcessLock
from otel_bridge.batches import engine_of, reconciling, submitting
from otel_bridge.journal import Journal, Part, Submission
from otel_bridge.journal_file import KEPT_SECONDS

Make = Callable[[int], list[dict[str, Any]]]
OUTPUT = "gen_ai.client.inference.usage.output_tokens"


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciling, "_LOOKS", (0.01, 0.01))


def creations(service: Any) -> int:
    return sum(each.method == "POST" for each in service.api.requests)


def abandoned(state: Path, requests: list[dict[str, Any]]) -> None:
    """What a process leaves that is killed while it creates a batch of the requests."""
    program = (
        "import json, os, sys, pathlib\n"
        "from otel_bridge.batches import reconciling, submitting\n"
        "from otel_bridge.journal import Journal\n"
        "parts = [json.loads(sys.stdin.read())]\n"
        "journal = Journal(pathlib.Path(sys.argv[1]))\n"
        "planned = [submitting.journal_entry(part) for part in parts]\n"
        "journal.intend(submitting.fingerprint(parts), planned, {})\n"
        "os._exit(9)\n"
    )
    command = [sys.executable, "-c", program, str(state)]
    subprocess.run(command, input=json.dumps(requests), text=True, check=False)


def unfinished(state: Path, requests: list[dict[str, Any]]) -> list[Submission]:
    return Journal(state).unfinished(submitting.fingerprint([requests]))


def test_a_batch_that_was_told_whole_is_told_no_more(
    service: Any, make_requests: Make, tmp_path: Path
) -> None:
    results = service.executor(state_dir=tmp_path).run(make_requests(40))
    (batch_id,) = results.batch_ids
    service.flush()
    spans, operations = len(service.otlp.spans), len(service.langsmith.history)
    told = service.otlp.metric_sum(OUTPUT)
    again = service.executor(state_dir=tmp_path)
    assert len(list(again.collect(batch_id))) == 40
    service.flush()
    assert len(service.otlp.spans) == spans
    assert len(service.langsmith.history) == operations
    assert service.langsmith.conflicts == []
    assert service.otlp.metric_sum(OUTPUT) == told == service.api.truth(batch_id)["output_tokens"]


def test_what_was_counted_but_not_told_is_told_and_not_counted(
    service: Any, make_requests: Make, tmp_path: Path
) -> None:
    batch_id = service.api.add_batch(make_requests(12))
    journal = Journal(tmp_path)
    assert journal.claim_count(batch_id)
    journal.counted([batch_id])
    list(service.executor(state_dir=tmp_path).collect(batch_id))
    service.flush()
    assert len(service.otlp.unique_spans()) == 13
    assert len(service.langsmith.runs) == 13
    assert service.otlp.metric_sum(OUTPUT) == 0


def test_what_another_batch_exports_proves_nothing_of_what_came_later(
    service: Any, make_requests: Make, tmp_path: Path
) -> None:
    executor = service.executor(state_dir=tmp_path)
    first, second = (executor.submit(make_requests(count))[0] for count in (10, 20))
    service.otlp.fail_next("POST", "metrics", delay=1.5)
    reader = threading.Thread(target=lambda: list(executor.collect(first)))
    reader.start()
    while not any(each.path == "/v1/metrics" for each in service.otlp.requests):
        time.sleep(0.01)
    list(executor.collect(second))
    known = Journal(tmp_path).recall(second.id)
    assert known is not None
    assert known.counted
    assert service.otlp.metric_sum(semconv.METRIC_BATCH_REQUESTS) == 30
    reader.join()


def test_metrics_that_a_backend_refuses_are_proven_by_a_later_export(
    service: Any, make_requests: Make, tmp_path: Path
) -> None:
    def counted() -> list[bool]:
        known = [Journal(tmp_path).recall(batch_id) for batch_id in service.api.batch_ids]
        return [each is not None and each.counted for each in known]

    executor = service.executor(state_dir=tmp_path)
    service.otlp.fail_next("POST", "metrics", status=400)
    executor.run(make_requests(10))
    assert counted() == [False]
    executor.run(make_requests(20))
    assert counted() == [True, True]
    assert service.otlp.metric_sum(semconv.METRIC_BATCH_REQUESTS) == 30


def test_spans_that_a_backend_refuses_are_told_again(
    service: Any, make_requests: Make, tmp_path: Path
) -> None:
    def told() -> bool:
        known = Journal(tmp_path).recall(batch_id)
        return known is not None and known.spans

    service.otlp.fail_next("POST", "traces", status=400)
    executor = service.executor(state_dir=tmp_path)
    (batch_id,) = executor.run(make_requests(4)).batch_ids
    assert service.otlp.spans == []
    assert not told()
    list(executor.collect(batch_id))
    assert len(service.otlp.spans) == 5
    assert told()


def test_spans_whose_flush_fails_are_not_known_as_told(
    service: Any, make_requests: Make, tmp_path: Path
) -> None:
    class Failing(SpanProcessor):
        def force_flush(self, *_: Any, **__: Any) -> bool:
            raise RuntimeError

    executor = service.executor(state_dir=tmp_path)
    service.tracers.add_span_processor(Failing())
    (batch_id,) = executor.run(make_requests(4)).batch_ids
    known = Journal(tmp_path).recall(batch_id)
    assert known is not None
    assert (known.spans, known.runs, known.counted) == (False, True, True)


def test_runs_that_did_not_arrive_are_told_again(
    service: Any, make_requests: Make, tmp_path: Path
) -> None:
    service.langsmith.refuse_all(503)
    (batch_id,) = service.executor(state_dir=tmp_path).run(make_requests(4)).batch_ids
    known = Journal(tmp_path).recall(batch_id)
    assert known is not None
    assert (known.counted, known.spans, known.runs) == (True, True, False)
    service.langsmith.recover()
    assert service.delivery.flush(5)
    list(service.executor(state_dir=tmp_path).collect(batch_id))
    service.flush()
    assert len(service.langsmith.runs) == 5
    known = Journal(tmp_path).recall(batch_id)
    assert known is not None
    assert known.runs
    assert service.otlp.metric_sum(OUTPUT) == service.api.truth(batch_id)["output_tokens"]


def test_a_batch_collected_by_its_id_alone_finds_its_parent(
    service: Any, make_requests: Make, tmp_path: Path
) -> None:
    with service.tracers.get_tracer("t").start_as_current_span("caller") as caller:
        (handle,) = service.executor(state_dir=tmp_path).submit(make_requests(2))
    list(service.executor(state_dir=tmp_path).collect(handle.id))
    service.flush()
    batch = {span.span_id: span for span in service.otlp.spans}[
        f"{identity.batch_span_id(handle.id):016x}"
    ]
    assert batch.parent_span_id == f"{caller.get_span_context().span_id:016x}"


def test_a_batch_of_a_killed_process_is_found_and_not_paid_twice(
    service: Any, make_requests: Make, tmp_path: Path
) -> None:
    requests = make_requests(6)
    abandoned(tmp_path, requests)
    created = service.client.messages.batches.create(requests=requests).id
    (handle,) = service.executor(state_dir=tmp_path).submit(requests)
    assert handle.id == created
    assert creations(service) == 1
    (deliberate,) = service.executor(state_dir=tmp_path).submit(requests)
    assert deliberate.id != created, "submitting the same requests again is the caller's right"


def test_an_intent_that_came_to_nothing_is_submitted_again(
    service: Any, make_requests: Make, tmp_path: Path
) -> None:
    requests = make_requests(6)
    abandoned(tmp_path, requests)
    service.executor(state_dir=tmp_path).submit(requests)
    assert creations(service) == 1
    assert unfinished(tmp_path, requests) == []


def test_the_intent_of_a_living_process_is_its_own(
    service: Any, make_requests: Make, tmp_path: Path
) -> None:
    requests = make_requests(6)
    parts = [requests]
    other = Journal(tmp_path)
    other.intend(submitting.fingerprint(parts), [submitting.journal_entry(requests)], {})
    service.client.messages.batches.create(requests=requests)
    service.executor(state_dir=tmp_path).submit(requests)
    assert creations(service) == 2


def test_a_lost_answer_is_followed_up_by_the_next_try(
    service: Any, make_requests: Make, tmp_path: Path
) -> None:
    requests = make_requests(5)
    service.api.fail_next("POST", "batches$", action="accept_then_close")
    service.api.fail_next("GET", "batches$", status=503, times=2)
    with pytest.raises(SubmissionAmbiguousError, match="list cannot be read"):
        service.executor(state_dir=tmp_path).submit(requests)
    (handle,) = service.executor(state_dir=tmp_path).submit(requests)
    assert [handle.id] == service.api.batch_ids
    assert creations(service) == 1


def test_batches_that_the_journal_knows_are_no_candidates(
    service: Any, make_requests: Make, tmp_path: Path
) -> None:
    executor = service.executor(state_dir=tmp_path)
    (first,) = executor.submit(make_requests(5))
    service.api.fail_next("POST", "batches$", action="accept_then_close")
    (second,) = executor.submit(make_requests(5))
    assert first.id != second.id
    assert creations(service) == 2


def test_a_refused_batch_leaves_no_intent(
    service: Any, make_requests: Make, tmp_path: Path
) -> None:
    requests = make_requests(5)
    service.api.fail_next("POST", "batches$", status=400)
    executor = service.executor(state_dir=tmp_path)
    with pytest.raises(Exception, match="400"):
        executor.submit(requests)
    whole = submitting.fingerprint([requests])
    assert engine_of(executor).recorder.journal.unfinished(whole, awaited=True) == []


def test_one_of_many_claims_is_granted(tmp_path: Path) -> None:
    journals = [Journal(tmp_path) for _ in range(8)]
    assert [journal.claim_count("b") for journal in journals].count(True) == 1


@pytest.mark.parametrize("fault", ["file in the way", "corrupt", "newer"])
def test_a_journal_that_cannot_be_used_stops_nothing(
    service: Any,
    make_requests: Make,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    state = tmp_path / "state"
    if fault == "file in the way":
        state.write_text("")
    else:
        state.mkdir()
        path = state / "journal.sqlite3"
        if fault == "corrupt":
            path.write_bytes(b"no database" * 1000)
        else:
            with sqlite3.connect(path) as db:
                db.execute("PRAGMA user_version = 99")
            db.close()
    with caplog.at_level(logging.WARNING, "otel_bridge"):
        results = service.executor(state_dir=state).run(make_requests(5))
    assert len(results) == 5
    warnings = [each for each in caplog.records if each.name.startswith("otel_bridge")]
    assert len(warnings) == 1
    assert "The journal in" in warnings[0].getMessage()
    service.flush()
    truth = service.api.truth(results.batch_ids[0])
    assert service.otlp.metric_sum(OUTPUT) == truth["output_tokens"]
    assert len(service.langsmith.runs) == 6


def test_the_journal_is_the_owners_alone_and_forgets_in_time(tmp_path: Path) -> None:
    state = tmp_path / "state"
    Journal(state).claim_count("old")
    path = state / "journal.sqlite3"
    assert path.stat().st_mode & 0o077 == 0
    assert state.stat().st_mode & 0o077 == 0
    with sqlite3.connect(path) as db:
        db.execute("UPDATE submissions SET made_at = ?", (time.time() - KEPT_SECONDS - 1,))
    db.close()
    assert Journal(state).recall("old") is None


async def test_the_async_twin_keeps_the_journal_too(
    service: Any, make_requests: Make, tmp_path: Path
) -> None:
    requests = make_requests(6)
    abandoned(tmp_path, requests)
    created = service.client.messages.batches.create(requests=requests).id
    executor = service.async_executor(state_dir=tmp_path)
    results = await executor.run(requests)
    assert results.batch_ids == (created,)
    known = Journal(tmp_path).recall(created)
    assert known is not None
    assert (known.counted, known.spans, known.runs) == (True, True, True)
    await service.aclose()


def test_a_journal_that_is_asked_while_it_works_neither_hangs_nor_breaks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a collection of garbage closes a reader of results amid the journal's own work."""
    journal = Journal(tmp_path)
    asked = journal._file.do(lambda _: journal.claim_telling("msgbatch_1"), None)
    assert asked
    assert journal.claim_telling("msgbatch_1")
    assert not journal.claim_telling("msgbatch_1")
    assert caplog.text == ""


def test_what_ended_owners_leave_goes(tmp_path: Path) -> None:
    program = "import os, pathlib, sys; from otel_bridge._core.process_lock import ProcessLock\n"
    program += "ProcessLock(pathlib.Path(sys.argv[1])).name; os._exit(9)"
    living = ProcessLock(tmp_path)
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    owners = tmp_path / "owners"
    (left,) = owners.iterdir()
    assert left.stem != living.name
    assert [each.stem for each in owners.iterdir()] == [living.name]


@pytest.mark.parametrize("opened", [False, True])
def test_a_lock_that_passes_costs_nothing_that_was_noted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    opened: bool,
) -> None:
    """Another program holds the file for longer than anybody waits, then lets it go."""
    monkeypatch.setattr(journal_file, "_BUSY_SECONDS", 0.02)
    Journal(tmp_path).recall("")
    journal = Journal(tmp_path)
    (intent,) = journal.intend("whole", [Part(1, ())], {}) if opened else [1]
    other = sqlite3.connect(tmp_path / "journal.sqlite3", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    journal.settle(intent, "msgbatch_1")
    journal.tell("msgbatch_2", "spans")
    assert journal.recall("msgbatch_1") is None
    assert len(caplog.records) == 1
    assert "locked by another process" in caplog.text
    other.rollback()
    other.close()
    told = journal.recall("msgbatch_2")
    assert told is not None
    assert told.spans
    assert (journal.recall("msgbatch_1") is not None) == opened
    assert len(caplog.records) == 1


@pytest.mark.parametrize("opened", [False, True])
def test_a_lock_is_waited_for_once_not_by_each_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, opened: bool
) -> None:
    """A call in a service makes several transactions, and may be on an event loop."""
    Journal(tmp_path).tell("msgbatch_1", "spans")
    journal = Journal(tmp_path)
    if opened:
        journal.recall("")
    monkeypatch.setattr(journal_file, "_BUSY_SECONDS", 0.02)
    file = tmp_path / "journal.sqlite3"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    journal.tell("msgbatch_2", "spans")
    monkeypatch.setattr(journal_file, "_BUSY_SECONDS", 60.0)
    release = threading.Timer(5, other.rollback)
    release.start()
    assert journal.recall("msgbatch_1") is None  # who waits for the release knows it
    release.join()
    other.close()
    assert journal.recall("msgbatch_1") is not None
    assert journal.recall("msgbatch_2") is not None
