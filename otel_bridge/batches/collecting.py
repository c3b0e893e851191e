"""Results as they are read: decoded once, each request once, counted against what must be there."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import anthropic
import httpx2
import orjson

from otel_bridge.batches.results import BatchResult
from otel_bridge.telemetry import DUPLICATE, MISSING, Tally

if TYPE_CHECKING:
    from otel_bridge.batches.api import SyncApi
    from otel_bridge.batches.handle import BatchHandle
    from otel_bridge.telemetry import BatchFacts, BatchRecording

logger = logging.getLogger(__name__)

READS = 3
READ_FAULTS = (anthropic.AnthropicError, httpx2.HTTPError)


class Collector:
    """Takes lines of one batch over one or more reads of its results.

    It gives each result once; recorded is one only if no earlier collector of the batch had it.
    """

    def __init__(self, handle: BatchHandle, facts: BatchFacts, recording: BatchRecording) -> None:
        self._params = handle.params
        self._facts = facts
        self._recording = recording
        if recording.tally is None:
            recording.tally = Tally(facts.request_count, handle.params)
        self._tally = recording.tally
        self._since = self._tally.current
        self._duplicates = 0

    @property
    def complete(self) -> bool:
        """Whether every request of the batch has its result."""
        return not self._tally.missing

    def begin(self) -> None:
        """The results are read from their start."""
        self._tally.current += 1
        self._duplicates = 0

    def take(self, lines: Iterable[bytes]) -> list[BatchResult]:
        """Decode and record lines, but for those that are blank, cut or repeats."""
        return [result for result in map(self._take, lines) if result is not None]

    def _take(self, raw: bytes) -> BatchResult | None:
        if not raw.strip():
            return None
        try:
            line = orjson.loads(raw)
        except orjson.JSONDecodeError:
            line = None
        if not isinstance(line, dict):
            logger.warning("A line of batch %s's results is cut or malformed", self._facts.id)
            return None
        custom_id = str(line.get("custom_id"))
        before = self._tally.take(custom_id)
        if not before:
            requested = self._tally.requested(custom_id)
            self._recording.result(line, self._params.get(custom_id), requested=requested)
        elif before > self._since:
            self._duplicates += before == self._tally.current
            return None
        return BatchResult(line, raw.rstrip(b"\r"), self._facts.created_at)

    def finish(self) -> None:
        """All was read that can be."""
        self._recording.unaccounted(DUPLICATE, self._duplicates, "repeated_custom_id")
        self._recording.unaccounted(MISSING, self._tally.missing, "missing_result")
        self._recording.end(self._facts)


def read_all(collector: Collector, api: SyncApi, batch_id: str) -> Iterator[BatchResult]:
    """Every result once; a short or broken stream is read again from its start."""
    for attempt in range(READS):
        collector.begin()
        try:
            for arrived in api.lines(batch_id):
                yield from collector.take(arrived)
        except READ_FAULTS as error:
            again_or_raise(collector, attempt, error)
        if collector.complete:
            return
        if attempt + 1 < READS:
            api.sleep(2.0**attempt)


def again_or_raise(collector: Collector, attempt: int, error: Exception) -> None:
    """A fault is one for another read, unless there was the last."""
    if attempt + 1 == READS and not collector.complete:
        raise error
    logger.warning("Reading results broke off (%s)", type(error).__name__)
