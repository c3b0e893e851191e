"""Delivery to LangSmith knows what became of each run, and a fault of it stays inside."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from langsmith import Client
from urllib3 import Retry

from otel_bridge import identity
from otel_bridge.langsmith import Delivery, DeliveryReport
from otel_bridge.langsmith.multipart import Operation, encode
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


def post(number: int, **fields: Any) -> Operation:
    return Operation.of("post", run(number, **fields))


@pytest.fixture
def connect(langsmith: LangSmithCapture) -> Iterator[Connect]:
    opened = []

    def make(**settings: Any) -> Delivery:
        client = Client(
            api_url=settings.pop("url", langsmith.url),
            api_key="test",
            tracing_mode="langsmith",
            auto_batch_tracing=False,
            retry_config=Retry(total=0),
            timeout_ms=settings.pop("timeout_ms", (3_000, 10_000)),
        )
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
    delivery.submit(Operation.of("patch", run(1, outputs={"a": 1})))
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
    deadline = time.monotonic() + 8
    while counts(delivery) != (1, 0, 0):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_retry_after_is_heeded(langsmith: LangSmithCapture, connect: Connect) -> None:
    langsmith.fail_next("POST", "multipart", status=429, headers={"retry-after": "3"})
    delivery = connect()
    delivery.submit(post(1))
    time.sleep(2.2)
    assert counts(delivery) == (0, 1, 0)
    deadline = time.monotonic() + 5
    while counts(delivery) != (1, 0, 0):
        assert time.monotonic() < deadline
        time.sleep(0.05)


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
    delivery.submit(Operation.of("post", run(3), alone=True))
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
    body = encode([post(1, inputs={"a": 1}, error="bad", outputs=None)], "1")
    assert body.headers["Content-Encoding"] == "zstd"
    text = body.uncompressed().data.decode()
    assert body.runs == 1
    for part in ("", ".inputs", ".error"):
        assert f'name="post.{run(1)["id"]}{part}"' in text
    assert ".outputs" not in text
    assert "Content-Encoding" not in body.uncompressed().headers
