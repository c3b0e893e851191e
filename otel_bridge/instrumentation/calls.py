"""Calls of the anthropic SDK, tracked: each does and returns what it always did."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from otel_bridge._core.own_clients import is_own_client
from otel_bridge._core.shield import Shield

if TYPE_CHECKING:
    from otel_bridge.instrumentation.tracker import BatchTracker


Arguments = tuple[Any, ...]
Options = dict[str, Any]
Wrapper = Callable[[Callable[..., Any], Any, Arguments, Options], Any]
Find = Callable[[], "BatchTracker | None"]
After = Callable[["BatchTracker", Any, Arguments, Options], None]
OnBatch = Callable[[Any], None]


def sync_calls(find: Find) -> Mapping[str, Wrapper]:
    """Wrappers for the methods of `Batches` by name; `find` returns the tracker, None while off."""

    def create(call: Callable[..., Any], resource: Any, args: Arguments, options: Options) -> Any:
        tracker = _tracker_for(resource, find)
        if tracker is None:
            return call(*args, **options)
        capture = tracker.capture_requests()
        answer = call(*args, **capture.wrap(options))
        _hand_over(answer, lambda batch: tracker.created(batch, capture))
        return answer

    def then(after: After) -> Wrapper:
        def wrapper(
            call: Callable[..., Any], resource: Any, args: Arguments, options: Options
        ) -> Any:
            answer = call(*args, **options)
            tracker = _tracker_for(resource, find)
            if tracker is not None:
                after(tracker, answer, args, options)
            return answer

        return wrapper

    return _by_name(create, then)


def async_calls(find: Find) -> Mapping[str, Wrapper]:
    """The same for `AsyncBatches`."""

    async def create(
        call: Callable[..., Any], resource: Any, args: Arguments, options: Options
    ) -> Any:
        tracker = _tracker_for(resource, find)
        if tracker is None:
            return await call(*args, **options)
        capture = tracker.capture_requests()
        answer = await call(*args, **capture.wrap(options))
        _hand_over(answer, lambda batch: tracker.created(batch, capture))
        return answer

    def then(after: After) -> Wrapper:
        async def wrapper(
            call: Callable[..., Any], resource: Any, args: Arguments, options: Options
        ) -> Any:
            answer = await call(*args, **options)
            tracker = _tracker_for(resource, find)
            if tracker is not None:
                after(tracker, answer, args, options)
            return answer

        return wrapper

    return _by_name(create, then)


def _by_name(create: Wrapper, then: Callable[[After], Wrapper]) -> Mapping[str, Wrapper]:
    describe = then(lambda tracker, answer, *_: _hand_over(answer, tracker.described))
    return {
        "create": create,
        "retrieve": describe,
        "cancel": describe,
        "results": then(_follow),
    }


def _tracker_for(resource: Any, find: Find) -> BatchTracker | None:
    return None if is_own_client(getattr(resource, "_client", None)) else find()


def _hand_over(answer: Any, on_batch: OnBatch) -> None:
    """Call `on_batch` with the batch in an answer: at once, or when its body was read."""
    with Shield("A batch is not recorded"):
        response = getattr(answer, "http_response", None)
        if response is None:
            on_batch(answer)
        elif response.is_closed:
            on_batch(_described(response.content))
        else:
            # Nobody need read the body where the call was made.
            context = contextvars.copy_context()
            _observe(
                response,
                lambda chunks: _gathering(chunks, context, on_batch),
                lambda chunks: _gathering_async(chunks, context, on_batch),
            )


def _follow(tracker: BatchTracker, answer: Any, args: Arguments, options: Options) -> None:
    """Have the results recorded as they are read, as typed objects or as bytes."""
    with Shield("Results are not recorded"):
        tee = tracker.tee_results(str(args[0] if args else options["message_batch_id"]))
        if tee is None:
            return
        chunks = getattr(answer, "_raw_iterator", None)
        if chunks is None:
            _observe(answer.http_response, tee.tee, tee.tee_async)
        else:
            wrap = tee.tee_async if hasattr(chunks, "__anext__") else tee.tee
            answer._raw_iterator = wrap(chunks)  # noqa: SLF001 - what its types are made from


def _observe(
    response: Any,
    tee: Callable[[Iterator[bytes]], Iterator[bytes]],
    tee_async: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]],
) -> None:
    """Have the body of one response go through a tee, however it is read.

    All ways of reading it, but for those that give what is compressed, come to these two. They
    are the response's own again as soon as one is called: a body is read but once.
    """
    own = vars(response)
    read, read_async = response.iter_bytes, response.aiter_bytes

    def restore() -> None:
        own.pop("iter_bytes", None)
        own.pop("aiter_bytes", None)

    def iter_bytes(*args: Any, **kwargs: Any) -> Iterator[bytes]:
        restore()
        return tee(read(*args, **kwargs))

    def aiter_bytes(*args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
        restore()
        return tee_async(read_async(*args, **kwargs))

    own |= {"iter_bytes": iter_bytes, "aiter_bytes": aiter_bytes}


def _gathering(
    chunks: Iterator[bytes], context: contextvars.Context, on_batch: OnBatch
) -> Iterator[bytes]:
    body = []
    for chunk in chunks:
        body.append(chunk)
        yield chunk
    with Shield("A batch is not recorded"):
        context.run(on_batch, _described(b"".join(body)))


async def _gathering_async(
    chunks: AsyncIterator[bytes], context: contextvars.Context, on_batch: OnBatch
) -> AsyncIterator[bytes]:
    body = []
    async for chunk in chunks:
        body.append(chunk)
        yield chunk
    with Shield("A batch is not recorded"):
        context.run(on_batch, _described(b"".join(body)))


def _described(body: bytes) -> Any:
    from anthropic.types.messages import MessageBatch  # noqa: PLC0415 - it is in use by now

    return MessageBatch.construct(**orjson.loads(body))
