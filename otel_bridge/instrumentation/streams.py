"""Requests and results of other code, captured while the SDK sends and reads them."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from otel_bridge._core.shield import Shield, shielded
from otel_bridge._core.threads import run_in_thread
from otel_bridge.domain.reader import LineBuffer, ReadPass

if TYPE_CHECKING:
    from otel_bridge.domain.batch import BatchInfo
    from otel_bridge.domain.reader import ReadResult, ResultTracker
    from otel_bridge.telemetry import BatchRecording

Params = Mapping[str, Any]
OnEnd = Callable[["TrackedBatch", int, bool], None]
"""Gets the batch, the number of repeated results and whether the stream was read to its end."""

_KEPT = ("model", "max_tokens", "temperature", "top_k", "top_p")
_LINES_PER_HOP = 64
_BYTES_PER_HOP = 1_000_000


class RequestCapture:
    """Keeps what telemetry needs of the requests of one `create`, while they are sent.

    With `keep_params` the `params` are kept as they are, for their content. Otherwise the model
    and the numbers are kept, once for all requests that have the same.
    """

    def __init__(self, *, keep_params: bool) -> None:
        self.params: dict[str, Params] = {}
        """By custom id."""
        self._keep_params = keep_params
        self._shared: dict[str, Params] = {}
        self._again: Iterable[Any] = ()

    def wrap(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments for the call; an iterator is captured while the SDK reads it."""
        requests = arguments.get("requests")
        if isinstance(requests, list | tuple):
            self._again = requests
        elif isinstance(requests, Iterable) and not isinstance(requests, Mapping | str | bytes):
            return {**arguments, "requests": self._capturing(requests)}
        return dict(arguments)

    def finish(self) -> None:
        """Capture requests that can be read again, now that they were sent."""
        for request in self._again:
            self._capture(request)
        self._again = ()
        self._shared = {}

    @property
    def models(self) -> tuple[str, ...]:
        """The models of the requests, each once."""
        return tuple(
            sorted({str(each["model"]) for each in self.params.values() if "model" in each})
        )

    def _capturing(self, requests: Iterable[Any]) -> Iterator[Any]:
        for request in requests:
            self._capture(request)
            yield request

    def _capture(self, request: Any) -> None:
        # This runs amid the iteration of the caller or of the SDK: a fault must not stop it.
        with Shield("The parameters of a request are not recorded"):
            self._keep(request)

    def _keep(self, request: Any) -> None:
        params = request.get("params") if isinstance(request, Mapping) else None
        if not isinstance(params, Mapping):
            return  # the API will say what it thinks of it
        if not self._keep_params:
            kept = {name: params[name] for name in _KEPT if name in params}
            params = self._shared.setdefault(repr(kept), kept)
        self.params[str(request.get("custom_id"))] = params


@dataclass(slots=True)
class TrackedBatch:
    """A batch as this process knows it; `recording` is None before and after it is recorded."""

    facts: BatchInfo
    params: Mapping[str, Params] = field(default_factory=dict)
    recording: BatchRecording | None = None
    tracker: ResultTracker | None = None
    ended: bool = False
    reads: int = 0
    short_reads: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)
    """Held while results are recorded, which may wait for a backend: never waited for by calls."""


class ResultsTee:
    """Gives a reader the chunks of one pass through a batch's results, and records their lines."""

    def __init__(
        self,
        tracked: TrackedBatch,
        tracker: ResultTracker,
        shield: Shield,
        on_end: OnEnd,
    ) -> None:
        self._on_end = on_end
        self._tracked = tracked
        self._pass = ReadPass(tracker)
        self._unrecorded: list[bytes] = []
        self.shield = shield
        """The recording's: what it does not get is missing from what it says of its batch."""

    def abandon(self) -> None:
        """Record the lines that the reader has; nobody will read on."""
        if self._unrecorded:
            self.close(self._pop_lines(), reached_end=False)

    def _pop_lines(self) -> list[bytes]:
        lines, self._unrecorded = self._unrecorded, []
        return lines

    def tee(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same chunks; each is given before it is recorded, which may take time."""
        self._tracked.reads += 1
        reached_end, lines = False, LineBuffer()
        try:
            for chunk in chunks:
                self._unrecorded += lines.feed(chunk)
                yield chunk
                if self._unrecorded:
                    self.record(self._pop_lines())
            reached_end = True
        finally:
            self.close(
                self._pop_lines() + ([lines.rest()] if reached_end else []), reached_end=reached_end
            )

    async def tee_async(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same chunks; lines are recorded on a thread, some at a time.

        Recording may wait for a slow backend, and the event loop must not.
        """
        self._tracked.reads += 1
        reached_end, lines = False, LineBuffer()
        try:
            async for chunk in chunks:
                self._unrecorded += lines.feed(chunk)
                yield chunk
                given = self._unrecorded
                if len(given) >= _LINES_PER_HOP or sum(map(len, given)) > _BYTES_PER_HOP:
                    await run_in_thread(partial(self.record, self._pop_lines()))
            reached_end = True
        finally:
            last = self._pop_lines() + ([lines.rest()] if reached_end else [])
            with anyio.CancelScope(shield=True):
                with contextlib.suppress(Exception):
                    await _close_async(chunks)
                await run_in_thread(partial(self.close, last, reached_end=reached_end))

    @shielded
    def record(self, lines: list[bytes]) -> None:
        """Record lines of the results."""
        with self._tracked.lock:
            # Not below whatever is active where they are read: they belong below their batch.
            contextvars.Context().run(self._record, lines)

    @shielded
    def close(self, lines: list[bytes], *, reached_end: bool) -> None:
        """Record the last lines; `reached_end` tells whether the stream was read to its end."""
        with self._tracked.lock:
            contextvars.Context().run(self._close, lines, reached_end)

    def _record(self, lines: list[bytes]) -> None:
        recording = self._tracked.recording
        if recording is None or self._pass.tracker is not self._tracked.tracker:
            return  # all of it was recorded meanwhile
        for raw in lines:
            result = self._parsed(raw)
            if result is not None and not result.earlier_pass:
                recording.add_result(result)

    def _parsed(self, raw: bytes) -> ReadResult | None:
        # The SDK decodes it, too, but its types cost more to take apart than the line to read
        # again.
        try:
            return self._pass.parse(raw)
        except ValueError:
            return None  # the caller gets the SDK's own error

    def _close(self, lines: list[bytes], reached_end: bool) -> None:
        self._record(lines)
        if self._pass.tracker is self._tracked.tracker:
            self._on_end(self._tracked, self._pass.duplicates, reached_end)


async def _close_async(chunks: AsyncIterator[bytes]) -> None:
    # As it would be without a tee: a connection must not wait for telemetry.
    if isinstance(chunks, AsyncGenerator):
        await chunks.aclose()
