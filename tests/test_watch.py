"""While a batch runs: progress, watching several at once, and Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from otel_bridge import BatchError, BatchExecutor, BatchNotFoundError, ConfigurationError
from otel_bridge.simulator import MessageBatchesServer

Make = Callable[[int], list[dict[str, Any]]]


def test_progress_has_state_times_and_counts(service: Any, make_requests: Make) -> None:
    told: list[tuple[Any, ...]] = []
    executor = service.executor(
        lambda batch: told.append(
            (batch.status, batch.elapsed, batch.expires_at - batch.created_at, batch.counts)
        )
    )
    executor.run(make_requests(5))
    first, last = told[0], told[-1]
    assert (first[0], last[0]) == ("in_progress", "ended")
    assert timedelta(0) < first[1] < last[1] + timedelta(minutes=1)
    assert first[2] == timedelta(hours=24)
    assert first[3]["processing"] == 5
    assert last[3]["processing"] == 0


async def test_progress_may_be_awaited(service: Any, make_requests: Make, caplog: Any) -> None:
    told: list[str] = []

    async def progress(batch: Any) -> None:
        told.append(batch.status)
        raise KeyError

    executor = service.async_executor(progress)
    assert len(await executor.run(make_requests(2))) == 2
    assert told[-1] == "ended"
    assert "on_progress failed; the batch goes on: KeyError" in caplog.text
    await service.aclose()


def test_batches_can_be_described_listed_and_canceled(
    service: Any, make_requests: Make, api: MessageBatchesServer
) -> None:
    executor = service.executor()
    ids = [api.add_batch(make_requests(3), seconds=60) for _ in range(2)]
    assert executor.describe(ids[0]).status == "in_progress"
    listed = executor.since(datetime.now(UTC) - timedelta(hours=1))
    assert [batch.id for batch in listed] == ids[::-1]
    assert executor.cancel(ids[0]).status == "canceling"
    with pytest.raises(BatchNotFoundError, match="msgbatch_none"):
        executor.describe("msgbatch_none")
    api.end(ids[1])
    with pytest.raises(BatchError, match=f"batch {ids[1]}: 400 Message Batch has already ended"):
        executor.cancel(ids[1])
    for status in (401, 404):
        api.fail_next(status=status)
        with pytest.raises(BatchError, match=f"the list of batches: {status}"):
            executor.since(datetime.now(UTC))


async def test_the_async_twin_does_the_same(
    service: Any, make_requests: Make, api: MessageBatchesServer
) -> None:
    executor = service.async_executor()
    batch_id = api.add_batch(make_requests(3), seconds=60)
    assert (await executor.describe(batch_id)).request_count == 3
    listed = await executor.since(datetime.now(UTC) - timedelta(hours=1))
    assert [batch.id for batch in listed] == [batch_id]
    assert (await executor.cancel(batch_id)).status == "canceling"
    await service.aclose()


def test_watch_shows_several_until_they_end(
    bridge: Any, make_requests: Make, api: MessageBatchesServer
) -> None:
    done = api.add_batch(make_requests(2), seconds=0)
    slow = api.add_batch(make_requests(3), seconds=60)
    running = bridge.start("watch", done, slow, "--json")
    while sum(request.path.endswith(slow) for request in api.requests) < 2:
        time.sleep(0.02)
    api.end(slow)
    out, err = running.communicate(timeout=30)
    told = json.loads(out)["batches"]
    assert [(each["id"], each["status"], each["requests"]) for each in told] == [
        (done, "ended", 2),
        (slow, "ended", 3),
    ]
    assert told[1]["created_at"] < told[1]["ended_at"]
    assert f"{slow}: in_progress, 3 requests" in err
    assert f"{slow}: ended, 3 requests" in err
    assert sum(request.path.endswith(done) for request in api.requests) == 1
    assert bridge("watch").stderr == "otel-bridge: no batch is in progress\n"
    other = api.add_batch(make_requests(4), seconds=60)
    running = bridge.start("watch")
    while not any(request.path.endswith(other) for request in api.requests):
        time.sleep(0.02)
    api.end(other)
    assert f"{other}: ended, 4 requests" in running.communicate(timeout=30)[1]
    assert bridge("watch", "msgbatch_none").returncode == 1


class Terminal:
    """The command on a terminal of its own, as someone sees it."""

    def __init__(self, bridge: Any, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "otel_bridge.cli", *arguments],
            cwd=bridge.folder,
            env=bridge.environment,
            stdin=slave,
            stdout=subprocess.DEVNULL,
            stderr=slave,
        )
        os.close(slave)
        self.seen = ""

    def until(self, text: str) -> None:
        while text not in self.seen:
            self.seen += os.read(self.master, 4096).decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self) -> int:
        status = self.process.wait(30)
        while True:
            try:
                data = os.read(self.master, 4096)
            except OSError:
                break
            if not data:
                break
            self.seen += data.decode(errors="replace")
        os.close(self.master)
        return status


@pytest.fixture
def running(bridge: Any, make_requests: Make, api: MessageBatchesServer) -> Terminal:
    api._seconds = 60
    terminal = Terminal(bridge, "run", bridge.write(make_requests(2)), "-o", "out.jsonl")
    while not any(request.method == "GET" for request in api.requests):
        time.sleep(0.05)
    terminal.until("expires in")
    return terminal


def test_the_first_ctrl_c_leaves_the_batch_running(
    running: Terminal, api: MessageBatchesServer
) -> None:
    running.interrupt()
    running.until("Ctrl-C again to cancel it")
    running.type("\n")
    assert running.end() == 1
    (batch_id,) = api.batch_ids
    assert f"the batch goes on, `otel-bridge collect {batch_id}` reads it" in running.seen
    assert "Traceback" not in running.seen
    assert not any(request.path.endswith("cancel") for request in api.requests)


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_second_ctrl_c_offers_to_cancel(
    running: Terminal, api: MessageBatchesServer, answer: str
) -> None:
    running.interrupt()
    running.until("Ctrl-C again to cancel it")
    running.interrupt()
    running.until("Cancel the batch? What is done is billed")
    running.type(f"{answer}\n")
    assert running.end() == 1
    canceled = any(request.path.endswith("cancel") for request in api.requests)
    assert canceled == (answer == "y")
    said = "reads what was done" if canceled else "otel-bridge: the batch goes on"
    assert said in running.seen


def test_sigterm_asks_nobody(running: Terminal, api: MessageBatchesServer) -> None:
    running.process.terminate()
    assert running.end() == 1
    assert "again to cancel" not in running.seen
    assert f"`otel-bridge collect {api.batch_ids[0]}` reads it" in running.seen


def test_the_sync_executor_takes_no_callback_that_it_cannot_await(service: Any) -> None:
    async def progress(_: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="use AsyncBatchExecutor"):
        BatchExecutor(service.client, on_progress=progress)  # type: ignore[arg-type]
