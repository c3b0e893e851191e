"""Steps written once, which sync and async drive alike.

A flow is a generator that yields a call to make and receives what it returned, or has thrown
into it what it raised. A stream is a flow that also emits values for whoever reads it.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import anthropic
import anyio

from otel_bridge._core.threads import run_in_thread

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Call = Callable[[], Any]

_AT_A_TIME = 8


@dataclass(frozen=True, slots=True)
class Emit(Generic[T_co]):
    """Values for whoever reads the stream."""

    values: Sequence[T_co]


class StreamClosedError(BaseException):
    """Thrown into a stream whose reader goes away, so that it may still make calls to clean up.

    A GeneratorExit would have a generator that delegates close the other, which may yield no more.
    """


Flow = Generator[Call, Any, T]
Stream = Generator[Call | Emit[T], Any, None]


def stream(flow: Stream[T]) -> Iterator[T]:
    """Make a stream's calls and yield its values."""
    proceed: Callable[[], Call | Emit[T]] = partial(next, flow)
    while True:
        try:
            step = proceed()
        except (StopIteration, StreamClosedError):
            return
        try:
            if isinstance(step, Emit):
                yield from step.values
                value = None
            else:
                value = step()
        except GeneratorExit:
            proceed = partial(flow.throw, StreamClosedError())
        except BaseException as error:  # noqa: BLE001 - the flow decides
            proceed = partial(flow.throw, error)
        else:
            proceed = partial(flow.send, value)


async def stream_async(flow: Stream[T]) -> AsyncIterator[T]:
    """Await a stream's calls and yield its values."""
    proceed: Callable[[], Callable[[], Awaitable[Any]] | Emit[T]] = partial(next, flow)
    while True:
        try:
            step = proceed()
        except (StopIteration, StreamClosedError):
            return
        try:
            if isinstance(step, Emit):
                for each in step.values:
                    yield each
                value = None
            else:
                value = await step()
        except GeneratorExit:
            proceed = partial(flow.throw, StreamClosedError())
        except BaseException as error:  # noqa: BLE001 - the flow decides
            proceed = partial(flow.throw, error)
        else:
            proceed = partial(flow.send, value)


def consume(flow: Stream[T], take: Callable[[T], None]) -> Flow[int]:
    """Run a stream to its end within a flow: `take` gets each value. Returns their number."""
    count = 0
    proceed: Callable[[], Call | Emit[T]] = partial(next, flow)
    while True:
        try:
            step = proceed()
        except StopIteration:
            return count
        value = None
        try:
            if isinstance(step, Emit):
                for each in step.values:
                    take(each)
                    count += 1
            else:
                value = yield step
        except BaseException as error:  # noqa: BLE001 - the stream decides
            proceed = partial(flow.throw, error)
        else:
            proceed = partial(flow.send, value)


def drive(flow: Flow[T]) -> T:
    """Make a flow's calls. Returns what it returns."""
    (value,) = stream(_emitting(flow))
    return value


async def drive_async(flow: Flow[T]) -> T:
    """Await a flow's calls. Returns what it returns."""
    (value,) = [each async for each in stream_async(_emitting(flow))]
    return value


def _emitting(flow: Flow[T]) -> Stream[T]:
    value = yield from flow
    yield Emit((value,))


class Io(Protocol):
    """What a flow waits for. `SyncIo` blocks its thread, `AsyncIo` awaits."""

    @property
    def stream_cls(self) -> type[anthropic.Stream[object] | anthropic.AsyncStream[object]]:
        """The SDK's type for an answer that is read as it arrives."""

    def sleep(self, seconds: float) -> Flow[None]:
        """Wait."""

    def run_in_thread(self, work: Callable[[], T]) -> Flow[T]:
        """Do what may take a while. Returns what it returns."""

    def notify(self, callback: Callable[[T], object], news: T) -> Flow[None]:
        """Call a callback of the user's."""

    def gather(self, calls: Sequence[Callable[[], T | Awaitable[T]]]) -> Flow[list[T]]:
        """Make calls, some at a time. Returns their answers, in order; raises the first error."""

    def chunks(self, response: httpx2.Response) -> Iterator[bytes] | AsyncIterator[bytes]:
        """The body of a response as it arrives, for `next_chunk`."""

    def next_chunk(self, chunks: Any) -> Flow[bytes | None]:
        """The chunk that arrives next, None after the last."""

    def close(self, response: httpx2.Response) -> Flow[None]:
        """Give the response's connection up."""


class SyncIo:
    """The Io of sync code; `sleep` is how it waits."""

    stream_cls = anthropic.Stream[object]

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep

    def sleep(self, seconds: float) -> Flow[None]:
        """See Io."""
        yield partial(self._sleep, seconds)

    def run_in_thread(self, work: Callable[[], T]) -> Flow[T]:
        """Do it on this thread, which has nothing else to do."""
        value: T = yield work
        return value

    def notify(self, callback: Callable[[T], object], news: T) -> Flow[None]:
        """See Io."""
        yield partial(callback, news)

    def gather(self, calls: Sequence[Callable[[], T | Awaitable[T]]]) -> Flow[list[T]]:
        """See Io."""

        def on_threads() -> list[T | Awaitable[T]]:
            with ThreadPoolExecutor(_AT_A_TIME, "otel-bridge-count") as pool:
                return [each.result() for each in [pool.submit(call) for call in calls]]

        answers: list[T] = yield on_threads
        return answers

    def chunks(self, response: httpx2.Response) -> Iterator[bytes]:
        """See Io."""
        return response.iter_bytes()

    def next_chunk(self, chunks: Iterator[bytes]) -> Flow[bytes | None]:
        """See Io."""
        chunk: bytes | None = yield lambda: next(chunks, None)
        return chunk

    def close(self, response: httpx2.Response) -> Flow[None]:
        """See Io."""
        yield response.close


class AsyncIo:
    """The Io of async code, on asyncio or trio."""

    stream_cls = anthropic.AsyncStream[object]

    def sleep(self, seconds: float) -> Flow[None]:
        """See Io."""
        yield partial(anyio.sleep, seconds)

    def run_in_thread(self, work: Callable[[], T]) -> Flow[T]:
        """Do it on a thread: the event loop must not wait."""
        value: T = yield partial(run_in_thread, work)
        return value

    def notify(self, callback: Callable[[T], object], news: T) -> Flow[None]:
        """Call a callback, which may be a coroutine function."""

        async def call() -> None:
            answer = callback(news)
            if inspect.isawaitable(answer):
                await answer

        yield call

    def gather(self, calls: Sequence[Callable[[], T | Awaitable[T]]]) -> Flow[list[T]]:
        """See Io."""
        answers: dict[int, T] = {}
        turn = anyio.Semaphore(_AT_A_TIME)

        async def ask(index: int, call: Callable[[], Any]) -> None:
            async with turn:
                answers[index] = await call()

        async def in_tasks() -> None:
            try:
                async with anyio.create_task_group() as tasks:
                    for index, call in enumerate(calls):
                        tasks.start_soon(ask, index, call)
            except ExceptionGroup as group:
                raise group.exceptions[0] from None

        yield in_tasks
        return [answers[index] for index in range(len(calls))]

    def chunks(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        """See Io."""
        return response.aiter_bytes()

    def next_chunk(self, chunks: AsyncIterator[bytes]) -> Flow[bytes | None]:
        """See Io."""
        chunk: bytes | None = yield lambda: anext(chunks, None)
        return chunk

    def close(self, response: httpx2.Response) -> Flow[None]:
        """See Io."""
        yield response.aclose
