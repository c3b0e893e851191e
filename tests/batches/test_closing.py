"""An executor that is closed makes no more calls, and closes nothing that is not its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import pytest
from support import MakeRequests, Service

from otel_bridge import AsyncBatchExecutor, BatchError, BatchExecutor, Settings


@pytest.fixture
def made(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The clients that executors make for themselves."""
    clients: list[Any] = []
    monkeypatch.setenv("ANTHROPIC_BASE_URL", service.api.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test")
    for name in ("Anthropic", "AsyncAnthropic"):
        plain = getattr(anthropic, name)

        def make(plain: Any = plain) -> Any:
            clients.append(plain())
            return clients[-1]

        monkeypatch.setattr(anthropic, name, make)
    return clients


def test_its_own_client_is_closed_with_it(
    service: Service, make_requests: MakeRequests, made: Any
) -> None:
    with BatchExecutor(settings=Settings(poll_interval=0.02, state_dir=None)) as executor:
        assert len(executor.run(make_requests(2))) == 2
        assert not made[0].is_closed()
    assert made[0].is_closed()
    executor.close()
    asked = len(service.api.requests)
    for act in (
        lambda: executor.run(make_requests(2)),
        lambda: executor.estimate(make_requests(2)),
        lambda: executor.describe("msgbatch_x"),
        lambda: list(executor.collect("msgbatch_x")),
        lambda: list(executor.backfill(["msgbatch_x"])),
    ):
        with pytest.raises(BatchError, match="the executor is closed; make another"):
            act()
    assert len(service.api.requests) == asked


async def test_so_is_the_async_twins(make_requests: MakeRequests, made: Any) -> None:
    settings = Settings(poll_interval=0.02, state_dir=None)
    async with AsyncBatchExecutor(settings=settings) as executor:
        assert len(await executor.run(make_requests(2))) == 2
        assert not made[0].is_closed()
    assert made[0].is_closed()
    await executor.aclose()
    with pytest.raises(BatchError, match="the executor is closed"):
        await executor.run(make_requests(2))


async def test_what_was_passed_in_stays_open(service: Service, make_requests: MakeRequests) -> None:
    with service.executor() as executor:
        (handle,) = executor.submit(make_requests(3))
    async with service.async_executor() as other:
        assert (await other.describe(handle.id)).request_count == 3
    assert not service.client.is_closed()
    assert not service.async_clients[0].is_closed()
    assert len(list(service.executor().collect(handle))) == 3
    service.flush()
    assert len(service.otlp.unique_spans()) == 4, "the providers are the caller's"
    await service.aclose()


def test_a_reading_that_goes_on_ends_with_the_executor(
    service: Service, make_requests: MakeRequests
) -> None:
    service.api.batch_seconds = 60
    (handle,) = service.executor().submit(make_requests(2))

    def close(_: Any) -> None:
        executor.close()

    executor: BatchExecutor = service.executor(close)
    with pytest.raises(BatchError, match="the executor is closed"):
        list(executor.collect(handle))
    service.api.end(handle.id)
    assert len(list(service.executor().collect(handle))) == 2


def test_the_same_requests_go_on_with_what_a_closed_executor_left(
    service: Service, make_requests: MakeRequests, tmp_path: Path
) -> None:
    with service.executor(state_dir=tmp_path) as executor:
        executor.start(make_requests(3))
    assert len(service.executor(state_dir=tmp_path).run(make_requests(3))) == 3
    assert len(service.api.batch_ids) == 1
