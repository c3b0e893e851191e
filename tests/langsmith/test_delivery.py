"""Delivery to LangSmith knows what became of each run, and a fault of it stays inside."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from langsmith import Client
from support import eventually
from urllib3 import Retry

from otel_bridge import identity
from otel_bridge.langsmith import Delivery, DeliveryReport, LeftBehind, spool
from otel_bridge.langsmith import delivery as delivery_module
from otel_bridge.langsmith.client import Sender
from otel_bridge.langsmith.multipart import RunUpdate, encode_body
from otel_bridge.simulator import LangSmithCapture

NOW = time.time_ns()
Connect = Callable[..., Delivery]


def run(number: int, **fields: Any) -> dict[str, Any]:
    run_id = identity.run_id(number, NOW)
    return {
        "id": run_id,
        "trace_id": run_id,
        "dotted_order": identity.dotted_order(run_id, NOW),
        "name": "x",
        "run_type": "llm",
        "start_time": datetime.fromtimestamp(NOW // 1000 / 1e6, UTC).isoformat(),
        "session_name": "p",
        **fields,
    }


def post(number: int, **fields: Any) -> RunUpdate:
    return RunUpdate.from_run("post", run(number, **fields))


def client_of(url: str, **options: Any) -> Client:
    """A client as the mirror makes it: no retries and no threads of its own."""
    defaults = {"api_key": "test", "timeout_ms": (3_000, 10_000)}
    return Client(
        api_url=url,
        tracing_mode="langsmith",
        auto_batch_tracing=False,
        retry_config=Retry(total=0),
        **defaults | options,
    )


@pytest.fixture
def connect(langsmith: LangSmithCapture) -> Iterator[Connect]:
    opened = []

    def make(**settings: Any) -> Delivery:
        names = ("api_key", "workspace_id", "timeout_ms")
        options = {name: settings.pop(name) for name in names if name in settings}
        client = client_of(settings.pop("url", langsmith.url), **options)
        opened.append(Delivery(client, **settings))
        return opened[-1]

    yield make
    for delivery in opened:
        delivery.close(0.1)


def counts(delivery: Delivery) -> tuple[int, int, int]:
    report = delivery.report
    return report.sent, report.held_back, report.refused


def test_what_is_taken_is_counted_as_sent(langsmith: LangSmithCapture, connect: Connect) -> None:
    delivery = connect()
    assert delivery.flush()
    for number in range(1, 1201):
        delivery.submit(post(number))
    assert delivery.flush()
    assert counts(delivery) == (1200, 0, 0)
    assert len(langsmith.runs) == 1200


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"status": 500}, "HTTP 500"),
        ({"status": 503}, "HTTP 503"),
        ({"status": 429}, "HTTP 429"),
        ({"action": "hang"}, "no answer in time"),
        ({"action": "close"}, "no connection"),
    ],
)
def test_what_passes_is_held_and_sent_again_byte_for_byte(
    langsmith: LangSmithCapture, connect: Connect, fault: dict[str, Any], reason: str
) -> None:
    langsmith.fail_next("POST", "multipart", times=float("inf"), **fault)
    delivery = connect(timeout_ms=(1_000, 1_000))
    delivery.submit(post(1))
    assert not delivery.flush(5)
    delivery.submit(RunUpdate.from_run("patch", run(1, outputs={"a": 1})))
    assert not delivery.flush(5)
    assert counts(delivery) == (0, 2, 0)
    assert (delivery.report.reason or "").startswith(reason)
    langsmith.recover()
    assert delivery.flush(5)
    assert counts(delivery) == (2, 0, 0)
    (taken,) = langsmith.runs.values()
    assert taken["outputs"] == {"a": 1}
    bodies = [each.body for each in langsmith.requests if each.path == "/runs/multipart"]
    assert bodies.count(bodies[0]) == len(bodies) - 1, "the post again and again, the patch once"


def test_it_recovers_by_itself(langsmith: LangSmithCapture, connect: Connect) -> None:
    langsmith.fail_next("POST", "multipart", status=503)
    delivery = connect()
    delivery.submit(post(1))
    eventually(lambda: counts(delivery) == (1, 0, 0))


def test_no_flush_is_sooner_than_langsmith_asked_for(
    langsmith: LangSmithCapture, connect: Connect
) -> None:
    langsmith.fail_next("POST", "multipart", status=429, headers={"retry-after": "300"})
    delivery = connect()
    delivery.submit(post(1))
    for _ in range(2):
        assert not delivery.flush(0.5)
    assert counts(delivery) == (0, 1, 0)


def test_a_langsmith_that_is_away_for_long_is_asked_every_minute(
    langsmith: LangSmithCapture,
) -> None:
    sender = Sender(client_of(langsmith.url))
    body = encode_body([post(1)], "1")
    langsmith.refuse_all(503)
    refusals = [sender.send(body) for _ in range(9)]
    assert [each and each.pause for each in refusals] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert sender.failing
    langsmith.recover()
    assert sender.send(body) is None
    assert not sender.failing
    langsmith.refuse_all(503)
    again = sender.send(body)
    assert again is not None
    assert again.pause == 1


def test_however_much_was_sent_what_comes_next_waits_in_memory(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "QUEUE_BYTES", 5_000)
    delivery = connect(state_dir=tmp_path)
    for number in range(10):
        delivery.submit(post(number, inputs={"a": "x" * 1_000}))
        assert delivery.report.spooled == 0
        assert delivery.flush(5)
    assert counts(delivery) == (10, 0, 0)


def test_what_an_ended_process_left_is_sent_by_one_that_idles(
    langsmith: LangSmithCapture,
    connect: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery_module, "IDLE_SECONDS", 0.1)
    living = connect(state_dir=tmp_path)
    living.submit(post(1))
    assert living.flush(5)
    langsmith.refuse_all(503)
    ending = connect(state_dir=tmp_path)
    ending.submit(post(2))
    ending.close(1)
    langsmith.recover()
    eventually(lambda: living.replayed.sent == 1)
    assert len(langsmith.runs) == 2


def test_what_is_under_way_at_the_close_is_on_disk(
    langsmith: LangSmithCapture, connect: Connect, tmp_path: Path
) -> None:
    delivery = connect(state_dir=tmp_path)
    delivery.submit(post(1))
    assert delivery.flush(5)
    langsmith.hang_all()
    asked = len(langsmith.requests)
    delivery.submit(post(2))
    eventually(lambda: len(langsmith.requests) > asked)
    delivery.close(0.1)
    assert delivery.report.spooled == 1
    assert len(list(tmp_path.glob("spool/*/*.json"))) == 1


def test_the_disk_is_bounded_and_the_oldest_are_kept(
    langsmith: LangSmithCapture,
    connect: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spool, "MEMORY_BYTES", 0)
    monkeypatch.setattr(spool, "DISK_BYTES", 50_000)
    langsmith.refuse_all(503)
    delivery = connect(state_dir=tmp_path)
    for number in range(10):
        delivery.submit(post(number, inputs={"a": secrets.token_hex(10_000)}))
        delivery.flush(5, patient=False)
    kept = delivery.report.spooled
    assert 3 <= kept <= 5
    assert delivery.report.dropped == 10 - kept
    assert delivery.spool_size <= 50_000
    assert delivery.flush(0.1, patient=False), "what is kept is safe; the report tells the rest"
    langsmith.recover()
    delivery.flush(5)
    assert set(langsmith.runs) == {str(identity.run_id(n, NOW)) for n in range(kept)}


def test_what_waits_on_disk_is_no_forked_processs_to_send(
    langsmith: LangSmithCapture, connect: Connect, tmp_path: Path
) -> None:
    langsmith.refuse_all(503)
    delivery = connect(state_dir=tmp_path)
    delivery.submit(post(1))
    assert delivery.flush(5, patient=False)
    assert delivery.report.spooled == 1
    delivery.after_fork()
    assert delivery.report == DeliveryReport()
    langsmith.recover()
    delivery.submit(post(2))
    assert delivery.flush(5)
    assert set(langsmith.runs) == {str(identity.run_id(2, NOW))}
    assert len(list(tmp_path.glob("spool/*/*.json"))) == 1


def test_what_comes_later_is_sent_without_a_flush_as_well(
    langsmith: LangSmithCapture, connect: Connect
) -> None:
    delivery = connect()
    for number in range(3):
        delivery.submit(post(number))
        eventually(lambda number=number: len(langsmith.runs) == number + 1)  # type: ignore[misc]


def test_retry_after_is_heeded(langsmith: LangSmithCapture, connect: Connect) -> None:
    langsmith.fail_next("POST", "multipart", status=429, headers={"retry-after": "2"})
    delivery = connect()
    delivery.submit(post(1))
    eventually(lambda: counts(delivery) == (1, 0, 0))
    refused, taken = (each for each in langsmith.requests if each.path.endswith("multipart"))
    assert taken.received - refused.received >= 2, "its own first pause is one second"


@pytest.mark.parametrize("status", [400, 401, 403, 413, 422])
def test_a_refusal_for_good_is_counted_and_said_once(
    langsmith: LangSmithCapture,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    langsmith.fail_next("POST", "multipart", status=status, times=2)
    delivery = connect()
    with caplog.at_level(logging.WARNING, "otel_bridge"):
        for number in (1, 2, 3):
            delivery.submit(post(number))
            assert delivery.flush(5)
    assert counts(delivery) == (1, 0, 2)
    (warning,) = [each for each in caplog.records if each.name.startswith("otel_bridge")]
    assert f"HTTP {status}" in warning.getMessage()
    assert len(langsmith.runs) == 1


def test_a_conflict_is_a_repeat_and_counts_as_sent(
    langsmith: LangSmithCapture, connect: Connect
) -> None:
    for _ in range(2):
        delivery = connect()
        delivery.submit(post(1))
        assert delivery.flush(5)
        assert counts(delivery) == (1, 0, 0)
    assert len(langsmith.conflicts) == 1


def test_a_run_that_may_conflict_takes_no_other_with_it(
    langsmith: LangSmithCapture, connect: Connect
) -> None:
    delivery = connect()
    langsmith.fail_next("POST", "multipart", delay=0.3)
    delivery.submit(post(1))
    delivery.submit(post(2))
    delivery.submit(RunUpdate.from_run("post", run(3), own_body=True))
    delivery.submit(post(4))
    assert delivery.flush(5)
    bodies = [each.body for each in langsmith.requests if each.path == "/runs/multipart"]
    (alone,) = [body for body in bodies if str(identity.run_id(3, NOW)).encode() in body]
    assert alone.count(b'name="post.') == 1


def test_after_close_nothing_is_lost_unsaid(connect: Connect) -> None:
    delivery = connect()
    delivery.submit(post(1))
    delivery.close(5)
    delivery.submit(post(2))
    assert counts(delivery) == (1, 1, 0)


def test_a_dead_endpoint_costs_the_caller_nothing(connect: Connect) -> None:
    delivery = connect(url="http://127.0.0.1:9")
    started = time.monotonic()
    for number in range(1, 1001):
        delivery.submit(post(number))
    assert time.monotonic() - started < 1
    delivery.flush(3)
    assert delivery.report == DeliveryReport(held_back=1000, reason="no connection")


def test_a_body_is_encoded_once_and_split_by_its_fields() -> None:
    body = encode_body([post(1, inputs={"a": 1}, error="bad", outputs=None)], "1")
    assert body.headers["Content-Encoding"] == "zstd"
    text = body.uncompressed().data.decode()
    assert body.updates == 1
    for part in ("", ".inputs", ".error"):
        assert f'name="post.{run(1)["id"]}{part}"' in text
    assert ".outputs" not in text
    assert "Content-Encoding" not in body.uncompressed().headers


def test_a_body_that_is_too_large_is_split_and_sent_within_the_flush(
    connect: Connect, tmp_path: Path
) -> None:
    with LangSmithCapture(max_body_bytes=100_000) as small:
        delivery = connect(url=small.url, state_dir=tmp_path)
        for number in range(1, 101):
            delivery.submit(post(number, inputs={"a": "x" * 10_000}))
        assert delivery.flush(patient=False)
        assert counts(delivery) == (100, 0, 0)
        assert all(len(each["inputs"]["a"]) == 10_000 for each in small.runs.values())
        assert delivery.report.reason is None, "nothing was lost"


def test_what_is_queued_while_langsmith_is_away_does_not_stay_in_memory_alone(
    langsmith: LangSmithCapture, connect: Connect, tmp_path: Path
) -> None:
    langsmith.fail_next("POST", "multipart", status=429, headers={"retry-after": "300"})
    delivery = connect(state_dir=tmp_path)
    for number in (1, 2):
        delivery.submit(post(number))
        eventually(lambda number=number: delivery.report.spooled == number)  # type: ignore[misc]
    assert len(list(tmp_path.glob("spool/*/*.json"))) == 2


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        ({"api_key": "another"}, "other_keys"),
        ({"workspace_id": "another"}, "other_keys"),
        ({"url": "http://127.0.0.1:9"}, "other_endpoints"),
    ],
)
def test_what_waits_is_for_its_endpoint_key_and_workspace_alone(
    langsmith: LangSmithCapture,
    connect: Connect,
    tmp_path: Path,
    other: dict[str, str],
    kind: str,
) -> None:
    langsmith.fail_next("POST", "multipart", status=403)
    first = connect(state_dir=tmp_path, api_key="sk-first")
    first.submit(post(1))
    assert first.flush(5)
    langsmith.refuse_all(503)
    first.submit(post(2))
    assert first.flush(5, patient=False)
    first.close(0.0)
    langsmith.recover()
    files = list(tmp_path.glob("spool/*/*.json"))
    assert len(files) == 2
    assert not any(b"sk-first" in file.read_bytes() for file in files)
    stranger = connect(state_dir=tmp_path, **{"api_key": "sk-first", **other})
    assert stranger.inherit(refused=True) == 0
    assert stranger.left == LeftBehind(**{kind: 2})
    stranger.close(0.0)
    assert langsmith.runs == {}
    again = connect(state_dir=tmp_path, api_key="sk-first")
    assert again.flush(5)
    assert again.replayed.sent == 1
    assert again.left == LeftBehind(refused=1)


def test_a_body_that_cannot_be_dealt_with_is_left_where_it_is(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "MEMORY_BYTES", 0)
    with LangSmithCapture(zstd=False) as plain:
        plain.refuse_all(503)
        first = connect(url=plain.url, state_dir=tmp_path)
        for number in (1, 2):
            first.submit(post(number))
            first.flush(5, patient=False)
        first.close(0.1)
        plain.recover()
        damaged, _ = sorted(tmp_path.glob("spool/*/*.json"))
        envelope = json.loads(damaged.read_text()) | {"body_base64": "AAAA"}
        damaged.write_text(json.dumps(envelope))
        second = connect(url=plain.url, state_dir=tmp_path)
        second.flush(5)
        assert (second.replayed.sent, second.replayed.dropped) == (1, 1)
        assert len(list(tmp_path.glob(f"spool/*/{damaged.name}"))) == 1
