"""Results as they are read: decoded once, each request once, counted against what must be there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from otel_bridge.batches.faults import READ_FAULTS
from otel_bridge.batches.flows import Give, Stream
from otel_bridge.batches.results import BatchResult
from otel_bridge.domain.reader import ReadPass

if TYPE_CHECKING:
    from otel_bridge.batches.api import AsyncApi, SyncApi
    from otel_bridge.batches.handle import BatchHandle
    from otel_bridge.domain.batch import BatchInfo
    from otel_bridge.telemetry import BatchRecording

logger = logging.getLogger(__name__)

READS = 3


class Collector:
    """Takes lines of one batch over one or more reads of its results.

    It gives each result once; recorded is one only if no earlier collector of the batch had it.
    """

    def __init__(self, handle: BatchHandle, facts: BatchInfo, recording: BatchRecording) -> None:
        self._facts = facts
        self._recording = recording
        self._tracker = recording.track(handle.params)
        self._since = self._tracker.passes
        self.begin()

    @property
    def complete(self) -> bool:
        """Whether every request of the batch has its result."""
        return not self._tracker.missing

    def begin(self) -> None:
        """The results are read from their start."""
        self._pass = ReadPass(self._tracker)

    def parse(self, lines: Iterable[bytes]) -> list[BatchResult]:
        """Read lines, but for those that are blank, cut or repeats; `record` records them."""
        return [result for result in map(self._parse, lines) if result is not None]

    def _parse(self, raw: bytes) -> BatchResult | None:
        try:
            result = self._pass.parse(raw)
        except ValueError:
            logger.warning("A line of batch %s's results is cut or no JSON", self._facts.id)
            return None
        if result is None:
            return None
        if not result.earlier_pass:
            self._tracker.unrecorded.append(result)
        elif result.earlier_pass > self._since:
            return None
        return BatchResult(result.outcome, result.line, raw.rstrip(b"\r"))

    def record(self) -> None:
        """Record what was read, which may wait for a slow backend."""
        waiting = self._tracker.unrecorded
        while waiting:
            self._recording.add_result(waiting.popleft())

    def finish(self) -> None:
        """All was read that can be."""
        self.record()
        self._recording.end(
            self._facts, duplicates=self._pass.duplicates, missing=self._tracker.missing
        )


def read_all(
    collector: Collector,
    api: SyncApi | AsyncApi,
    batch_id: str,
    chosen: Callable[[list[BatchResult]], list[BatchResult]],
    given: Callable[[], None],
) -> Stream[BatchResult]:
    """Every result once; a short or broken stream is read again from its start.

    Of what arrives together the `chosen` results are given, then `given` is called, and all are
    recorded. Raises READ_FAULTS when the last reading fails.
    """
    for attempt in range(READS):
        if attempt:
            yield partial(api.sleep, 2.0 ** (attempt - 1))
            collector.begin()
        lines: Any = api.lines(batch_id)
        try:
            while (arrived := (yield partial(api.next_of, lines))) is not None:
                yield Give(chosen(collector.parse(arrived)))
                given()
                yield lambda: api.run_in_thread(collector.record)
        except READ_FAULTS as error:
            if attempt + 1 == READS and not collector.complete:
                raise
            logger.warning("Reading results broke off (%s)", type(error).__name__)
        finally:
            yield partial(api.close, lines)
            yield lambda: api.run_in_thread(
                collector.record
            )  # the last ones, where the reader goes away
        if collector.complete:
            return
