"""One pass through a batch's results, as the caller reads them: nothing is held, nothing waits."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import orjson
from anyio import to_thread

from otel_bridge.telemetry.guard import Guarded, guarded

if TYPE_CHECKING:
    from otel_bridge.instrumentation.watch import Watch, Watched

_LINES_PER_HOP = 64
_BYTES_PER_HOP = 1_000_000


class Reading(Guarded):
    """Passes chunks of bytes on as they are, and records each whole line before it goes on."""

    def __init__(self, watch: Watch, watched: Watched) -> None:
        self._watch = watch
        self._watched = watched
        self._number = 0
        self._duplicates = 0

    def tee(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same chunks."""
        self._begin()
        whole, pieces = False, _Pieces()
        try:
            for chunk in chunks:
                if b"\n" in chunk:
                    self.take(pieces.lines(chunk))
                else:
                    pieces.append(chunk)
                yield chunk
            whole = True
        finally:
            self.close(pieces.lines(b"\n") if whole else [], whole=whole)

    async def tee_async(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same chunks; lines are recorded on a thread, some at a time.

        Recording may wait for a slow backend, and the event loop must not.
        """
        self._begin()
        whole, pieces = False, _Pieces()
        waiting: list[bytes] = []
        try:
            async for chunk in chunks:
                if b"\n" in chunk:
                    waiting += pieces.lines(chunk)
                    if len(waiting) >= _LINES_PER_HOP or sum(map(len, waiting)) > _BYTES_PER_HOP:
                        lines, waiting = waiting, []
                        await to_thread.run_sync(self.take, lines)
                else:
                    pieces.append(chunk)
                yield chunk
            whole = True
        finally:
            lines = waiting + (pieces.lines(b"\n") if whole else [])
            with anyio.CancelScope(shield=True):
                with contextlib.suppress(Exception):
                    await _close_async(chunks)
                await to_thread.run_sync(partial(self.close, lines, whole=whole))

    def _begin(self) -> None:
        self._watched.reads += 1
        self._number = self._watched.reads

    @guarded
    def take(self, lines: list[bytes]) -> None:
        """Record lines of the results."""
        with self._watched.lock:
            # Not below whatever is active where they are read: they belong below their batch.
            contextvars.Context().run(self._record, lines)

    @guarded
    def close(self, lines: list[bytes], *, whole: bool) -> None:
        """Record the last lines; `whole` tells whether the stream was read to its end."""
        with self._watched.lock:
            contextvars.Context().run(self._close, lines, whole)

    def _record(self, lines: list[bytes]) -> None:
        recording, tally = self._watched.recording, self._watched.tally
        if recording is None or tally is None:
            return  # all of it was told of meanwhile
        tally.current = self._number
        for raw in lines:
            line = _decoded(raw)
            if line is None:
                continue
            custom_id = str(line.get("custom_id"))
            before = tally.take(custom_id)
            if not before:
                params = self._watched.params.get(custom_id)
                recording.result(line, params, requested=tally.requested(custom_id))
            elif before == self._number:
                self._duplicates += 1

    def _close(self, lines: list[bytes], whole: bool) -> None:
        self._record(lines)
        self._watch.read(self._watched, self._duplicates, whole=whole)


async def _close_async(chunks: AsyncIterator[bytes]) -> None:
    # As it would be without a tee: a connection must not wait for telemetry.
    if isinstance(chunks, AsyncGenerator):
        await chunks.aclose()


class _Pieces:
    """The begin of a line that is not whole yet."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.append = self._pieces.append

    def lines(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk`, which has a line's end in it, makes whole."""
        self._pieces.append(chunk)
        *lines, rest = b"".join(self._pieces).split(b"\n")
        self._pieces.clear()
        self._pieces.append(rest)
        return lines


def _decoded(raw: bytes) -> dict[str, Any] | None:
    # The SDK decodes it, too, but its types cost more to take apart than the line to read again.
    try:
        line = orjson.loads(raw) if raw.strip() else None
    except orjson.JSONDecodeError:
        return None  # the caller gets the SDK's own error
    return line if isinstance(line, dict) else None
