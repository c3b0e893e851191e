"""Results as they are read: decoded once, each request once, counted against what must be there."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import orjson

from otel_bridge.batches.results import BatchResult

if TYPE_CHECKING:
    from otel_bridge.batches.handle import BatchHandle
    from otel_bridge.telemetry import BatchFacts, BatchRecording

logger = logging.getLogger(__name__)

READS = 3


class Collector:
    """Takes lines of one batch over one or more reads of its results."""

    def __init__(self, handle: BatchHandle, facts: BatchFacts, recording: BatchRecording) -> None:
        self._params = handle.params
        self._facts = facts
        self._recording = recording
        self._seen: set[str] = set()

    @property
    def complete(self) -> bool:
        """Whether every request of the batch has its result."""
        return len(self._seen) >= self._facts.request_count

    def take(self, lines: Iterable[bytes]) -> list[BatchResult]:
        """Decode and record lines, but for those that are blank, cut or repeats."""
        return [result for result in map(self._take, lines) if result is not None]

    def _take(self, raw: bytes) -> BatchResult | None:
        if not raw.strip():
            return None
        try:
            line = orjson.loads(raw)
        except orjson.JSONDecodeError:
            logger.warning("A line of batch %s's results is cut or malformed", self._facts.id)
            return None
        if not isinstance(line, dict):
            return None
        custom_id = str(line.get("custom_id"))
        if custom_id in self._seen:
            return None
        self._seen.add(custom_id)
        self._recording.result(line, self._params.get(custom_id))
        return BatchResult(line, raw.rstrip(b"\r"))

    def finish(self) -> None:
        """All was read that can be."""
        self._recording.end(self._facts)


def read_all(
    collector: Collector, lines: Any, faults: tuple[type[Exception], ...]
) -> Iterator[BatchResult]:
    """Every result once; a short or broken stream is read again from its start."""
    for attempt in range(READS):
        last = attempt + 1 == READS
        try:
            for arrived in lines():
                yield from collector.take(arrived)
        except faults as error:
            if last and not collector.complete:
                raise
            logger.warning("Reading results broke off (%s); reading again", type(error).__name__)
        if collector.complete:
            return
