"""Steps written once, which sync and async drive alike.

A flow is a generator that yields a call to make and receives what it returned, or has thrown
into it what it raised. A stream is a flow that also yields what its caller is to be given.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Give(Generic[T_co]):
    """Values for whoever reads the stream."""

    values: Sequence[T_co]


class LeftError(BaseException):
    """Thrown into a stream whose reader goes away, so that it may still make calls to clean up.

    A GeneratorExit would have a generator that delegates close the other, which may yield no more.
    """


Flow = Generator[Call, Any, T]
Stream = Generator[Call | Give[T], Any, None]


def stream(flow: Stream[T]) -> Iterator[T]:
    """Make a stream's calls and give its values."""
    proceed: Callable[[], Call | Give[T]] = partial(next, flow)
    while True:
        try:
            step = proceed()
        except (StopIteration, LeftError):
            return
        try:
            if isinstance(step, Give):
                yield from step.values
                value = None
            else:
                value = step()
        except GeneratorExit:
            proceed = partial(flow.throw, LeftError())
        except BaseException as error:  # noqa: BLE001 - the flow decides
            proceed = partial(flow.throw, error)
        else:
            proceed = partial(flow.send, value)


async def stream_async(flow: Stream[T]) -> AsyncIterator[T]:
    """Await a stream's calls and give its values."""
    proceed: Callable[[], Callable[[], Awaitable[Any]] | Give[T]] = partial(next, flow)
    while True:
        try:
            step = proceed()
        except (StopIteration, LeftError):
            return
        try:
            if isinstance(step, Give):
                for each in step.values:
                    yield each
                value = None
            else:
                value = await step()
        except GeneratorExit:
            proceed = partial(flow.throw, LeftError())
        except BaseException as error:  # noqa: BLE001 - the flow decides
            proceed = partial(flow.throw, error)
        else:
            proceed = partial(flow.send, value)


def drive(flow: Flow[T]) -> T:
    """Make a flow's calls; what it returns."""
    (value,) = stream(_giving(flow))
    return value


async def drive_async(flow: Flow[T]) -> T:
    """Await a flow's calls; what it returns."""
    (value,) = [each async for each in stream_async(_giving(flow))]
    return value


def _giving(flow: Flow[T]) -> Stream[T]:
    value = yield from flow
    yield Give((value,))
