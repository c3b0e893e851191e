"""Steps that are written once run alike in sync and async code, on asyncio and on trio."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support import MakeRequests, Service

from otel_bridge.batches.flows import (
    Call,
    Emit,
    Flow,
    Stream,
    consume,
    drive,
    drive_async,
    stream,
    stream_async,
)

World = Callable[[Call], Call]


class Faulty(Exception):  # noqa: N818 - as an SDK's may be called
    pass


def sync(call: Call) -> Call:
    return call


def asynchronous(call: Call) -> Call:
    async def later() -> Any:
        await anyio.lowlevel.checkpoint()
        return call()

    return later


def fail() -> None:
    raise Faulty


def inner(world: World, told: list[str]) -> Stream[int]:
    try:
        first = yield world(lambda: 1)
        yield Emit([first, first + 1])
        yield Emit([])
        yield Emit([3])
    finally:
        yield world(lambda: told.append("closed"))


def outer(world: World, told: list[str]) -> Stream[int]:
    try:
        yield from inner(world, told)
    finally:
        told.append("left")


def answer(world: World) -> Flow[str]:
    try:
        yield world(fail)
    except Faulty:
        value: str = yield world(lambda: "answer")
        return value
    return "none"


def collected(values: Iterator[int] | AsyncIterator[int], most: int) -> list[int]:
    """The first values, after which the reader goes away."""
    if isinstance(values, AsyncIterator):
        return anyio.run(first_of, values, most)
    return [value for value, _ in zip(values, range(most), strict=False)]


async def first_of(values: AsyncIterator[int], most: int) -> list[int]:
    found = []
    async for value in values:
        found.append(value)
        if len(found) == most:
            break
    await values.aclose()  # type: ignore[attr-defined]  # an async generator
    return found


DRIVERS = [(stream, sync), (stream_async, asynchronous)]


@pytest.mark.parametrize(("driver", "world"), DRIVERS)
def test_a_stream_gives_its_values_in_order(driver: Any, world: World) -> None:
    told: list[str] = []
    assert collected(driver(outer(world, told)), 9) == [1, 2, 3]
    assert told == ["closed", "left"]


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize(("driver", "world"), DRIVERS)
def test_a_reader_that_goes_away_leaves_nothing_open(driver: Any, world: World, most: int) -> None:
    told: list[str] = []
    assert collected(driver(outer(world, told)), most) == [1, 2][:most]
    gc.collect()
    assert told == ["closed", "left"]


def test_a_flow_gets_what_its_calls_raise_and_returns_a_value() -> None:
    assert drive(answer(sync)) == "answer"
    assert anyio.run(drive_async, answer(asynchronous)) == "answer"


def consuming(world: World, told: list[str], take: Callable[[int], None]) -> Flow[int]:
    return (yield from consume(outer(world, told), take))


@pytest.mark.parametrize(("driver", "world"), [(drive, sync), (drive_async, asynchronous)])
def test_a_flow_may_run_a_stream_to_its_end(driver: Any, world: World) -> None:
    def run(take: Callable[[int], None]) -> Any:
        flow = consuming(world, told, take)
        return drive(flow) if driver is drive else anyio.run(driver, flow)

    told: list[str] = []
    found: list[int] = []
    assert run(found.append) == 3
    assert found == [1, 2, 3]
    assert told == ["closed", "left"]

    def refuse(_: int) -> None:
        raise Faulty

    told.clear()
    with pytest.raises(Faulty):
        run(refuse)
    assert told == ["closed", "left"], "what fails within it is cleaned up"


def test_what_a_flow_does_not_catch_reaches_the_caller() -> None:
    def flow(world: World) -> Flow[None]:
        yield world(fail)

    with pytest.raises(Faulty):
        drive(flow(sync))
    with pytest.raises(Faulty):
        anyio.run(drive_async, flow(asynchronous))


def test_the_async_executor_runs_on_trio(service: Service, make_requests: MakeRequests) -> None:
    async def run() -> int:
        executor = service.async_executor()
        assert (await executor.estimate(make_requests(30), sample=None)).counted == 30
        results = await executor.run(make_requests(30))
        await service.aclose()
        return len(results)

    assert anyio.run(run, backend="trio") == 30
    service.flush()
    assert len(service.otlp.unique_spans()) == 31
