"""Calls of the anthropic SDK, watched: each does and returns what it always did."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from otel_bridge._core.own_clients import is_own_client
from otel_bridge._core.shield import Shield

if TYPE_CHECKING:
    from otel_bridge.instrumentation.watch import Watch


Arguments = tuple[Any, ...]
Options = dict[str, Any]
Wrapper = Callable[[Callable[..., Any], Any, Arguments, Options], Any]
Find = Callable[[], "Watch | None"]
After = Callable[["Watch", Any, Arguments, Options], None]
Take = Callable[[Any], None]


def sync_calls(find: Find) -> Mapping[str, Wrapper]:
    """Wrappers for the methods of `Batches` by name; `find` gives the watch, None while off."""

    def create(call: Callable[..., Any], resource: Any, args: Arguments, options: Options) -> Any:
        watch = _watch_for(resource, find)
        if watch is None:
            return call(*args, **options)
        sent = watch.sent()
        answer = call(*args, **sent.through(options))
        _hand_over(answer, lambda batch: watch.created(batch, sent))
        return answer

    def then(after: After) -> Wrapper:
        def wrapper(
            call: Callable[..., Any], resource: Any, args: Arguments, options: Options
        ) -> Any:
            answer = call(*args, **options)
            watch = _watch_for(resource, find)
            if watch is not None:
                after(watch, answer, args, options)
            return answer

        return wrapper

    return _by_name(create, then)


def async_calls(find: Find) -> Mapping[str, Wrapper]:
    """The same for `AsyncBatches`."""

    async def create(
        call: Callable[..., Any], resource: Any, args: Arguments, options: Options
    ) -> Any:
        watch = _watch_for(resource, find)
        if watch is None:
            return await call(*args, **options)
        sent = watch.sent()
        answer = await call(*args, **sent.through(options))
        _hand_over(answer, lambda batch: watch.created(batch, sent))
        return answer

    def then(after: After) -> Wrapper:
        async def wrapper(
            call: Callable[..., Any], resource: Any, args: Arguments, options: Options
        ) -> Any:
            answer = await call(*args, **options)
            watch = _watch_for(resource, find)
            if watch is not None:
                after(watch, answer, args, options)
            return answer

        return wrapper

    return _by_name(create, then)


def _by_name(create: Wrapper, then: Callable[[After], Wrapper]) -> Mapping[str, Wrapper]:
    describe = then(lambda watch, answer, *_: _hand_over(answer, watch.described))
    return {
        "create": create,
        "retrieve": describe,
        "cancel": describe,
        "results": then(_follow),
    }


def _watch_for(resource: Any, find: Find) -> Watch | None:
    return None if is_own_client(getattr(resource, "_client", None)) else find()


def _hand_over(answer: Any, take: Take) -> None:
    """Give `take` the batch that an answer tells of: at once, or when its body has been read."""
    with Shield("A batch is not recorded"):
        response = getattr(answer, "http_response", None)
        if response is None:
            take(answer)
        elif response.is_closed:
            take(_described(response.content))
        else:
            # Nobody need read the body where the call was made.
            context = contextvars.copy_context()
            _observe(
                response,
                lambda chunks: _gathering(chunks, context, take),
                lambda chunks: _gathering_async(chunks, context, take),
            )


def _follow(watch: Watch, answer: Any, args: Arguments, options: Options) -> None:
    """Have the results recorded as they are read, as typed objects or as bytes."""
    with Shield("Results are not recorded"):
        reading = watch.reading(str(args[0] if args else options["message_batch_id"]))
        if reading is None:
            return
        chunks = getattr(answer, "_raw_iterator", None)
        if chunks is None:
            _observe(answer.http_response, reading.tee, reading.tee_async)
        else:
            tee = reading.tee_async if hasattr(chunks, "__anext__") else reading.tee
            answer._raw_iterator = tee(chunks)  # noqa: SLF001 - what its types are made from


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
    chunks: Iterator[bytes], context: contextvars.Context, take: Take
) -> Iterator[bytes]:
    body = []
    for chunk in chunks:
        body.append(chunk)
        yield chunk
    with Shield("A batch is not recorded"):
        context.run(take, _described(b"".join(body)))


async def _gathering_async(
    chunks: AsyncIterator[bytes], context: contextvars.Context, take: Take
) -> AsyncIterator[bytes]:
    body = []
    async for chunk in chunks:
        body.append(chunk)
        yield chunk
    with Shield("A batch is not recorded"):
        context.run(take, _described(b"".join(body)))


def _described(body: bytes) -> Any:
    from anthropic.types.messages import MessageBatch  # noqa: PLC0415 - it is in use by now

    return MessageBatch.construct(**orjson.loads(body))
