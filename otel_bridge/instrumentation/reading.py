"""One pass through a batch's results, as the caller reads them: nothing is held, nothing waits."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from functools import partial
from typing import TYPE_CHECKING

import anyio

from otel_bridge._core.shield import Shield, shielded
from otel_bridge._core.threads import run_in_thread
from otel_bridge.domain.reader import LineBuffer, ReadPass

if TYPE_CHECKING:
    from otel_bridge.domain.reader import ReadResult, ResultTracker
    from otel_bridge.instrumentation.watch import Watch, Watched

_LINES_PER_HOP = 64
_BYTES_PER_HOP = 1_000_000


class Reading:
    """Passes chunks of bytes on as they are, and records the lines that each made whole."""

    def __init__(
        self, watch: Watch, watched: Watched, tracker: ResultTracker, shield: Shield
    ) -> None:
        self._watch = watch
        self._watched = watched
        self._pass = ReadPass(tracker)
        self._given: list[bytes] = []
        self.shield = shield
        """The recording's: what it does not get is missing from what it says of its batch."""

    def leave(self) -> None:
        """Nobody will read on: what was given is recorded."""
        if self._given:
            self.close(self._taken(), whole=False)

    def _taken(self) -> list[bytes]:
        lines, self._given = self._given, []
        return lines

    def tee(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same chunks; each is given before it is recorded, which may take time."""
        self._watched.reads += 1
        whole, lines = False, LineBuffer()
        try:
            for chunk in chunks:
                self._given += lines.feed(chunk)
                yield chunk
                if self._given:
                    self.take(self._taken())
            whole = True
        finally:
            self.close(self._taken() + ([lines.rest()] if whole else []), whole=whole)

    async def tee_async(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same chunks; lines are recorded on a thread, some at a time.

        Recording may wait for a slow backend, and the event loop must not.
        """
        self._watched.reads += 1
        whole, lines = False, LineBuffer()
        try:
            async for chunk in chunks:
                self._given += lines.feed(chunk)
                yield chunk
                given = self._given
                if len(given) >= _LINES_PER_HOP or sum(map(len, given)) > _BYTES_PER_HOP:
                    await run_in_thread(partial(self.take, self._taken()))
            whole = True
        finally:
            last = self._taken() + ([lines.rest()] if whole else [])
            with anyio.CancelScope(shield=True):
                with contextlib.suppress(Exception):
                    await _close_async(chunks)
                await run_in_thread(partial(self.close, last, whole=whole))

    @shielded
    def take(self, lines: list[bytes]) -> None:
        """Record lines of the results."""
        with self._watched.lock:
            # Not below whatever is active where they are read: they belong below their batch.
            contextvars.Context().run(self._record, lines)

    @shielded
    def close(self, lines: list[bytes], *, whole: bool) -> None:
        """Record the last lines; `whole` tells whether the stream was read to its end."""
        with self._watched.lock:
            contextvars.Context().run(self._close, lines, whole)

    def _record(self, lines: list[bytes]) -> None:
        recording = self._watched.recording
        if recording is None or self._pass.tracker is not self._watched.tracker:
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

    def _close(self, lines: list[bytes], whole: bool) -> None:
        self._record(lines)
        if self._pass.tracker is self._watched.tracker:
            self._watch.read(self._watched, self._pass.duplicates, whole=whole)


async def _close_async(chunks: AsyncIterator[bytes]) -> None:
    # As it would be without a tee: a connection must not wait for telemetry.
    if isinstance(chunks, AsyncGenerator):
        await chunks.aclose()
