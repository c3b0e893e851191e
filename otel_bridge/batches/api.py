"""The calls of the Message Batches API, as flows, with the SDK's traps taken out."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import anthropic
import orjson

from otel_bridge._core.display import safe_endpoint
from otel_bridge._core.json import as_object, as_text
from otel_bridge._core.own_clients import mark_own_client
from otel_bridge.batches.faults import (
    CALL_FAULTS,
    CLIENT_FAULTS,
    NotMessageBatchesError,
    failure,
    no_batch,
    no_client,
)
from otel_bridge.batches.flows import Flow, Io
from otel_bridge.domain.batch import BatchInfo
from otel_bridge.domain.reader import LineBuffer
from otel_bridge.errors import BatchError, ConfigurationError

if TYPE_CHECKING:
    import httpx2
    from anthropic.pagination import AsyncPage, SyncPage
    from anthropic.types.messages import MessageBatch

    _Page = SyncPage[MessageBatch] | AsyncPage[MessageBatch]
    _Stream = anthropic.Stream[object] | anthropic.AsyncStream[object]
    _Answer = anthropic.APIResponse[Any] | anthropic.AsyncAPIResponse[Any]

T = TypeVar("T")
Client = anthropic.Anthropic | anthropic.AsyncAnthropic

_READ_TIMEOUT = 600.0
_PROBE_TIMEOUT = 5.0


class Api:
    """The API through a client of the SDK.

    With `own_client` the client is closed with this. Every call after `close` raises BatchError.
    """

    def __init__(self, client: Client, io: Io, *, own_client: bool = False) -> None:
        self.io = io
        self._own_client = client if own_client else None
        self._closed = False
        self._submitting = _without_retries(client)
        self._polling = _without_spans(client)

    def close(self) -> Flow[None]:
        """Make no more calls. It may be called again."""
        self._closed = True
        if self._own_client is not None:
            yield self._own_client.close

    def create(self, requests: Sequence[Any]) -> Flow[MessageBatch]:
        """Create a batch, in one call that is never repeated."""
        create = self._submitting.messages.batches.create
        return _batch(self._call(lambda: create(requests=requests)))

    def retrieve(self, batch_id: str) -> Flow[MessageBatch]:
        """The batch as it is now."""
        return _batch(self._call(lambda: self._polling.messages.batches.retrieve(batch_id)))

    def created_since(self, moment: datetime) -> Flow[list[MessageBatch]]:
        """Batches created at `moment` or later, the newest first."""
        found: list[MessageBatch] = []
        following: Callable[[], _Page | Awaitable[_Page]] = self._first_page
        while True:
            call: Flow[_Page] = self._call(following)
            try:
                page = yield from call
            except AttributeError as error:  # the SDK's, where an answer is no object
                raise NotMessageBatchesError from error
            if not isinstance(page.data, list):
                raise NotMessageBatchesError
            for batch in map(_checked, page.data):
                if batch.created_at < moment:
                    return found
                found.append(batch)
            if not page.has_next_page():
                return found
            following = page.get_next_page

    def _first_page(self) -> _Page | Awaitable[_Page]:
        return self._polling.messages.batches.list(limit=100)

    def date(self) -> Flow[str]:
        """What the API's clock says, by the header of an answer; empty where there is none."""
        answer = yield from self._call(self._raw_list)
        return answer.headers.get("date", "")

    def _raw_list(self) -> _Answer | Awaitable[_Answer]:
        return self._polling.messages.batches.with_raw_response.list(limit=1)

    def cancel(self, batch_id: str) -> Flow[MessageBatch]:
        """Have a batch canceled."""
        return _batch(self._call(lambda: self._polling.messages.batches.cancel(batch_id)))

    def count_tokens(self, requests: Sequence[Mapping[str, Any]]) -> Flow[list[int]]:
        """The input tokens of each request's parameters, counted some requests at a time."""
        self._require_open()
        count = self._polling.messages.count_tokens
        calls = [partial(count, **params) for params in requests]
        answers = yield from self.io.gather(calls)
        counts = [getattr(each, "input_tokens", None) for each in answers]
        tokens = [each for each in counts if isinstance(each, int)]
        if len(tokens) < len(counts):
            raise NotMessageBatchesError
        return tokens

    def results(self, batch_id: str) -> ResultLines:
        """The results of a batch, which are asked for when the first is read."""
        # results() of the SDK follows the absolute results_url, past a gateway's base_url and with
        # the key in its headers; this path stays with the client's own host.
        path = f"/v1/messages/batches/{quote(batch_id, safe='')}/results"
        get: Callable[..., _Stream | Awaitable[_Stream]] = self._polling.get
        call = partial(
            get,
            path,
            cast_to=object,
            options={"headers": {"Accept": "application/binary"}, "timeout": _READ_TIMEOUT},
            stream=True,
            stream_cls=self.io.stream_cls,
        )
        return ResultLines(self.io, self._call(call))

    def _call(self, call: Callable[[], T | Awaitable[T]]) -> Flow[T]:
        self._require_open()
        value: T = yield call
        return value

    def _require_open(self) -> None:
        # The SDK's closed client says that there is no connection, which is waited out.
        if self._closed:
            raise BatchError("the executor is closed; make another")


class ResultLines:
    """The raw lines of a batch's results as they arrive, the last one possibly cut."""

    def __init__(self, io: Io, opening: Flow[_Stream]) -> None:
        self._io = io
        self._opening = opening
        self._response: httpx2.Response | None = None
        self._chunks: Iterator[bytes] | AsyncIterator[bytes] = iter(())
        self._buffer: LineBuffer | None = LineBuffer()

    def next(self) -> Flow[list[bytes] | None]:
        """The lines that arrive next, None after the last."""
        if self._response is None:
            self._response = (yield from self._opening).response
            self._chunks = self._io.chunks(self._response)
        if self._buffer is None:
            return None
        chunk = yield from self._io.next_chunk(self._chunks)
        if chunk is not None:
            return self._buffer.feed(chunk)
        rest, self._buffer = self._buffer.rest(), None
        return [rest]

    def close(self) -> Flow[None]:
        """Read no more."""
        if self._response is not None:
            yield from self._io.close(self._response)


def _batch(call: Flow[MessageBatch]) -> Flow[MessageBatch]:
    return _checked((yield from call))


def _checked(answer: Any) -> MessageBatch:
    """Return a batch as the SDK read it; the SDK takes any JSON, and text, for one."""
    created_at = getattr(answer, "created_at", None)
    counts = getattr(answer, "request_counts", None)
    texts = (getattr(answer, "id", None), getattr(answer, "processing_status", None))
    if not (isinstance(created_at, datetime) and counts and all(map(as_text, texts))):
        raise NotMessageBatchesError
    batch: MessageBatch = answer
    return batch


class NoRedirects(anthropic.Middleware):
    """Have each request answered by the host that was asked: a redirect is an error status.

    The SDK's HTTP client follows redirects, and takes the header Authorization off for another
    host, but not `x-api-key`.
    """

    def handle(
        self, request: anthropic.APIRequest, call_next: anthropic.CallNext
    ) -> anthropic.APIResponse[Any]:
        request.options.follow_redirects = False
        return call_next(request)

    async def handle_async(
        self, request: anthropic.APIRequest, call_next: anthropic.AsyncCallNext
    ) -> anthropic.AsyncAPIResponse[Any]:
        request.options.follow_redirects = False
        return await call_next(request)


def _without_retries(client: Client) -> Client:
    """Copy a client without retries: a repeated create after a timeout is a second paid batch."""
    return mark_own_client(client.with_options(max_retries=0, middleware=_middleware(client)))


def _without_spans(client: Client) -> Client:
    """Copy a client whose calls make no spans of the SDK: polls are not the user's traces."""
    return mark_own_client(
        client.with_options(
            open_telemetry={**client.open_telemetry, "traces": False},
            middleware=_middleware(client),
        )
    )


def _middleware(client: Client) -> list[Any]:
    return [*client.middleware, NoRedirects()]


def make_client(make: Callable[[], T]) -> T:
    """Make a client of the SDK. Raises ConfigurationError where it cannot be made."""
    try:
        try:
            return make()
        except RuntimeError:  # there is no home directory, in which the SDK looks for its profiles
            os.environ.setdefault("ANTHROPIC_CONFIG_DIR", os.devnull)
            return make()
    except CLIENT_FAULTS as error:
        raise no_client(error) from error


def check_id(batch_id: str) -> None:
    """Raise ConfigurationError for an id that can be no batch's."""
    if not batch_id.strip():
        raise ConfigurationError("the batch id is empty; pass the id that submitting gave")


def explained(flow: Flow[T], batch_id: str | None = None) -> Flow[T]:
    """A call outside of any run, whose errors say what to do.

    Raises BatchNotFoundError for an unknown `batch_id`, ConfigurationError for an empty one, else
    BatchError.
    """
    if batch_id is not None:
        check_id(batch_id)
    try:
        return (yield from flow)
    except CALL_FAULTS as error:
        if batch_id is None:
            raise failure(error, "the list of batches") from error
        if isinstance(error, anthropic.NotFoundError):
            raise no_batch(batch_id) from error
        raise failure(error, f"batch {batch_id}") from error


def describe(api: Api, batch_id: str) -> Flow[BatchInfo]:
    """The batch as it is now. Raises what `explained` raises."""
    return BatchInfo.from_api((yield from explained(api.retrieve(batch_id), batch_id)))


def describe_since(api: Api, moment: datetime) -> Flow[list[BatchInfo]]:
    """Batches created at `moment` or later, the newest first. Raises what `explained` raises."""
    return [BatchInfo.from_api(each) for each in (yield from explained(api.created_since(moment)))]


def cancel(api: Api, batch_id: str) -> Flow[BatchInfo]:
    """Have a batch canceled. Raises what `explained` raises."""
    return BatchInfo.from_api((yield from explained(api.cancel(batch_id), batch_id)))


@dataclass(frozen=True, slots=True)
class Probed:
    """The API answered: where, after how many seconds, and how far ahead this clock is (s)."""

    endpoint: str
    seconds: float
    skew: float | None


def probe() -> Probed:
    """Ask for one batch of the list, to see whether the API answers, and to this key.

    Raises ConfigurationError without a key, else BatchError.
    """
    client = make_client(
        partial(
            anthropic.Anthropic,
            timeout=_PROBE_TIMEOUT,
            max_retries=0,
            open_telemetry={"traces": False},
            middleware=[NoRedirects()],
        )
    )
    started, endpoint = time.monotonic(), safe_endpoint(str(client.base_url))
    try:
        answer = client.messages.batches.with_raw_response.list(limit=1)
    except CALL_FAULTS as error:
        raise failure(error, endpoint) from error
    finally:
        client.close()
    if not isinstance(as_object(_json(answer.read())).get("data"), list):
        raise BatchError(f"{endpoint}: what answers is not the Message Batches API")
    return Probed(
        endpoint,
        time.monotonic() - started,
        skew(answer.headers.get("date", ""), datetime.now(UTC)),
    )


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def skew(date: str, now: datetime) -> float | None:
    """How many seconds `now` is ahead of an HTTP date, which has whole seconds; None if unknown."""
    try:
        api_time = parsedate_to_datetime(date)
    except ValueError:
        return None
    return (now - api_time).total_seconds()
