"""The calls of the Message Batches API, sync and async, with the SDK's traps taken out."""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import anthropic
import anyio
from anthropic._decoders.jsonl import AsyncJSONLDecoder, JSONLDecoder

from otel_bridge._core.own_clients import mark_own_client
from otel_bridge._core.threads import run_in_thread
from otel_bridge.batches.flows import Stream, stream, stream_async
from otel_bridge.batches.redirects import without_redirects
from otel_bridge.domain.reader import LineBuffer

if TYPE_CHECKING:
    from anthropic.types.messages import MessageBatch

T = TypeVar("T")
ClientT = TypeVar("ClientT", anthropic.Anthropic, anthropic.AsyncAnthropic)

_READ_TIMEOUT = 600.0
_AT_A_TIME = 8


def _results_path(batch_id: str) -> str:
    # results() of the SDK follows the absolute results_url, past a gateway's base_url and with
    # the key in its headers; this path stays with the client's own host.
    return f"/v1/messages/batches/{quote(batch_id, safe='')}/results"


def _submitting(client: ClientT) -> ClientT:
    """A copy without retries: a repeated create after a timeout is a second batch to pay for."""
    return mark_own_client(without_redirects(client.with_options(max_retries=0)))


def _quiet(client: ClientT) -> ClientT:
    """A copy whose calls make no spans of the SDK: polls are not the user's traces."""
    quiet = client.with_options(open_telemetry={**client.open_telemetry, "traces": False})
    return mark_own_client(without_redirects(quiet))


class SyncApi:
    """The API through `anthropic.Anthropic`."""

    def __init__(self, client: anthropic.Anthropic) -> None:
        self._submitting = _submitting(client)
        self._polling = _quiet(client)

    def create(self, requests: Sequence[Any]) -> MessageBatch:
        return self._submitting.messages.batches.create(requests=requests)

    def retrieve(self, batch_id: str) -> MessageBatch:
        return self._polling.messages.batches.retrieve(batch_id)

    def since(self, moment: datetime) -> list[MessageBatch]:
        """Batches created at `moment` or later, the newest first."""
        page = self._polling.messages.batches.list(limit=100)
        return list(itertools.takewhile(lambda batch: batch.created_at >= moment, page))

    def date(self) -> str:
        """What the API's clock says, as its answers' header tells; empty where none does."""
        answer = self._polling.messages.batches.with_raw_response.list(limit=1)
        return answer.headers.get("date", "")

    def cancel(self, batch_id: str) -> MessageBatch:
        return self._polling.messages.batches.cancel(batch_id)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def count_tokens(self, requests: Sequence[Mapping[str, Any]]) -> list[int]:
        """The input tokens of each request's parameters, some requests at a time."""
        with ThreadPoolExecutor(_AT_A_TIME, "otel-bridge-count") as pool:
            return list(pool.map(self._count, requests))

    def _count(self, params: Mapping[str, Any]) -> int:
        return self._polling.messages.count_tokens(**params).input_tokens

    def notify(self, callback: Callable[[Any], Any], news: Any) -> None:
        """Tell a callback."""
        callback(news)

    def run_in_thread(self, work: Callable[[], T]) -> T:
        """Do what may take a while."""
        return work()

    def each(self, flow: Stream[T], take: Callable[[T], None]) -> int:
        """Have `take` get all values of a stream; how many these were."""
        count = 0
        for value in stream(flow):
            take(value)
            count += 1
        return count

    def lines(self, batch_id: str) -> Generator[list[bytes]]:
        """The raw lines of the results as they arrive, the last one possibly cut."""
        decoder = self._polling.get(
            _results_path(batch_id),
            cast_to=JSONLDecoder[Any],
            options={"headers": {"Accept": "application/binary"}, "timeout": _READ_TIMEOUT},
            stream=True,
        )
        response = decoder.http_response
        try:
            lines = LineBuffer()
            for chunk in response.iter_bytes():
                yield lines.feed(chunk)
            yield [lines.rest()]
        finally:
            response.close()

    def next_of(self, lines: Generator[list[bytes]]) -> list[bytes] | None:
        """What arrives next of `lines`, None after the last."""
        return next(lines, None)

    def close(self, lines: Generator[list[bytes]]) -> None:
        """No more of `lines` is wanted."""
        lines.close()


class AsyncApi:
    """The API through `anthropic.AsyncAnthropic`."""

    def __init__(self, client: anthropic.AsyncAnthropic) -> None:
        self._submitting = _submitting(client)
        self._polling = _quiet(client)

    async def create(self, requests: Sequence[Any]) -> MessageBatch:
        return await self._submitting.messages.batches.create(requests=requests)

    async def retrieve(self, batch_id: str) -> MessageBatch:
        return await self._polling.messages.batches.retrieve(batch_id)

    async def since(self, moment: datetime) -> list[MessageBatch]:
        """Batches created at `moment` or later, the newest first."""
        found: list[MessageBatch] = []
        async for batch in self._polling.messages.batches.list(limit=100):
            if batch.created_at < moment:
                break
            found.append(batch)
        return found

    async def date(self) -> str:
        """What the API's clock says, as its answers' header tells; empty where none does."""
        answer = await self._polling.messages.batches.with_raw_response.list(limit=1)
        return answer.headers.get("date", "")

    async def cancel(self, batch_id: str) -> MessageBatch:
        return await self._polling.messages.batches.cancel(batch_id)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def count_tokens(self, requests: Sequence[Mapping[str, Any]]) -> list[int]:
        """The input tokens of each request's parameters, some requests at a time."""
        counts = [0] * len(requests)
        turn = anyio.Semaphore(_AT_A_TIME)

        async def count(index: int, params: Mapping[str, Any]) -> None:
            async with turn:
                told = await self._polling.messages.count_tokens(**params)
                counts[index] = told.input_tokens

        try:
            async with anyio.create_task_group() as tasks:
                for index, params in enumerate(requests):
                    tasks.start_soon(count, index, params)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        return counts

    async def notify(self, callback: Callable[[Any], Any], news: Any) -> None:
        """Tell a callback, which may be a coroutine function."""
        told = callback(news)
        if inspect.isawaitable(told):
            await told

    async def run_in_thread(self, work: Callable[[], T]) -> T:
        """Do what may take a while on a thread: the event loop must not wait."""
        return await run_in_thread(work)

    async def each(self, flow: Stream[T], take: Callable[[T], None]) -> int:
        """Have `take` get all values of a stream; how many these were."""
        count = 0
        async for value in stream_async(flow):
            take(value)
            count += 1
        return count

    async def lines(self, batch_id: str) -> AsyncGenerator[list[bytes]]:
        """The raw lines of the results as they arrive, the last one possibly cut."""
        decoder = await self._polling.get(
            _results_path(batch_id),
            cast_to=AsyncJSONLDecoder[Any],
            options={"headers": {"Accept": "application/binary"}, "timeout": _READ_TIMEOUT},
            stream=True,
        )
        response = decoder.http_response
        try:
            lines = LineBuffer()
            async for chunk in response.aiter_bytes():
                yield lines.feed(chunk)
            yield [lines.rest()]
        finally:
            await response.aclose()

    async def next_of(self, lines: AsyncGenerator[list[bytes]]) -> list[bytes] | None:
        """What arrives next of `lines`, None after the last."""
        return await anext(lines, None)

    async def close(self, lines: AsyncGenerator[list[bytes]]) -> None:
        """No more of `lines` is wanted."""
        await lines.aclose()
