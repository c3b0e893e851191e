"""The wait for a batch's end, and its results: each given once, and none too few."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anthropic

from otel_bridge.batches.faults import (
    CALL_FAULTS,
    READ_FAULTS,
    misconfigured,
    no_batch,
    unreadable,
)
from otel_bridge.batches.flows import Emit, Flow, Stream
from otel_bridge.batches.results import BatchResult
from otel_bridge.domain.batch import BatchInfo
from otel_bridge.domain.reader import ReadPass

if TYPE_CHECKING:
    from otel_bridge.batches.api import Api
    from otel_bridge.batches.handles import BatchHandle
    from otel_bridge.config import Settings
    from otel_bridge.telemetry import BatchRecording

logger = logging.getLogger(__name__)

_READS = 3
_FAULTS_IN_A_ROW = 20
_NOT_FOUND_IN_A_ROW = 3
_FINAL = frozenset(range(400, 429)) - {408, 409}
"""Answers that waiting does not change."""


def wait(
    api: Api,
    handle: BatchHandle,
    settings: Settings,
    on_described: Callable[[BatchInfo], Flow[None]],
) -> Flow[BatchInfo]:
    """Poll until the batch ended; `on_described` gets each answer.

    A batch that was created just now is not asked for before the poll interval is over. Faults
    that pass (no connection, 429, 5xx) do not end the wait for a batch that the API has described
    before; nor do the first 404s, which are reported right after a batch's creation.
    """
    batch_id, shift = handle.id, handle.shift
    pause = settings.poll_interval
    faults = not_found = 0
    exists = handle.recording is not None or handle.tentative
    if handle.recording is not None:
        recorded = handle.recording.batch
        handle.recording.update(recorded)  # no news, but somebody waits from here on
        age = (datetime.now(UTC) - recorded.created_at).total_seconds()
        if recorded.status != "ended" and 0 <= age < pause:
            yield from api.io.sleep(pause - age)
    while True:
        try:
            facts = BatchInfo.from_api((yield from api.retrieve(batch_id)), shift)
        except anthropic.NotFoundError as error:
            not_found += 1
            if not_found >= _NOT_FOUND_IN_A_ROW:
                raise no_batch(batch_id) from error
            yield from api.io.sleep(min(1.0, settings.poll_interval))
            continue
        except anthropic.APIStatusError as error:
            faults += 1
            if faults >= _FAULTS_IN_A_ROW or error.status_code in _FINAL:
                raise unreadable(f"batch {batch_id}", error) from error
        except CALL_FAULTS as error:
            faults += 1
            passing = exists and isinstance(error, anthropic.APIConnectionError)
            if not passing or faults >= _FAULTS_IN_A_ROW:
                raise misconfigured(error) or unreadable(f"batch {batch_id}", error) from error
        else:
            faults = not_found = 0
            exists = True
            yield from on_described(facts)
            if facts.status == "ended":
                return facts
        yield from api.io.sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311 - jitter
        pause = min(pause * 1.5, max(settings.poll_max_interval, settings.poll_interval))


class Collector:
    """Makes lines of one batch into results, over one or more reads.

    Each result is given once. It is recorded only if no earlier collector of the batch had it.
    """

    def __init__(self, handle: BatchHandle, facts: BatchInfo, recording: BatchRecording) -> None:
        self._facts = facts
        self._recording = recording
        self._tracker = recording.track(handle.params)
        self._since = self._tracker.passes
        self.restart()

    @property
    def complete(self) -> bool:
        """Whether every request of the batch has its result."""
        return not self._tracker.missing

    def restart(self) -> None:
        """The results are read from their start."""
        self._pass = ReadPass(self._tracker)

    def parse(self, lines: Iterable[bytes]) -> list[BatchResult]:
        """The results of lines, but for those that are blank, cut or repeats."""
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
        """Record what was parsed, which may wait for a slow backend."""
        waiting = self._tracker.unrecorded
        while waiting:
            self._recording.add_result(waiting.popleft())

    def finish(self) -> None:
        """Record the end: all was read that can be."""
        self.record()
        self._recording.end(
            self._facts, duplicates=self._pass.duplicates, missing=self._tracker.missing
        )


def read_all(
    collector: Collector,
    api: Api,
    batch_id: str,
    select: Callable[[list[BatchResult]], list[BatchResult]],
    on_emitted: Callable[[], None],
) -> Stream[BatchResult]:
    """Every result once; a short or broken stream is read again from its start.

    Of what arrives together, the results that `select` returns are emitted, then `on_emitted` is
    called, and all are recorded. Raises READ_FAULTS when the last read fails.
    """
    for attempt in range(_READS):
        if attempt:
            yield from api.io.sleep(2.0 ** (attempt - 1))
            collector.restart()
        lines = api.results(batch_id)
        try:
            while (arrived := (yield from lines.next())) is not None:
                yield Emit(select(collector.parse(arrived)))
                on_emitted()
                yield from api.io.run_in_thread(collector.record)
        except READ_FAULTS as error:
            if attempt + 1 == _READS and not collector.complete:
                raise
            logger.warning("Reading results broke off (%s)", type(error).__name__)
        finally:
            yield from lines.close()
            # The last ones, where the reader goes away.
            yield from api.io.run_in_thread(collector.record)
        if collector.complete:
            return
