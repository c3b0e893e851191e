"""Waits for a batch to end, then reads its results: each is given once, and none is left out."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anthropic

from otel_bridge.batches.faults import (
    CALL_FAULTS,
    PASSING_FAULTS,
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
"""Statuses that waiting does not change."""


def wait(
    api: Api,
    handle: BatchHandle,
    settings: Settings,
    on_described: Callable[[BatchInfo], Flow[None]],
) -> Flow[BatchInfo]:
    """Poll until the batch ended; `on_described` gets each answer.

    The first poll of a new batch comes one poll interval after its creation. Statuses that may
    change (408, 409, 429, 5xx) do not end the wait, nor does a lost connection once the API has
    described the batch, up to 20 faults in a row. The first 404s do not end it either: the API is
    reported to give them right after a batch's creation.

    Raises BatchNotFoundError for an unknown batch, ConfigurationError where a setting is wrong,
    else BatchError.
    """
    batch_id, shift = handle.id, handle.shift
    pause = settings.poll_interval
    faults = not_found = 0
    exists = handle.recording is not None or handle.tentative
    if handle.recording is not None:
        recorded = handle.recording.batch
        handle.recording.update(recorded)  # the same batch, which is waited for from now on
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
            passing = exists and isinstance(error, PASSING_FAULTS)
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
    """Turns the lines of one batch into results, over one or more passes.

    `parse` returns each result once. A result that an earlier collector of the same batch has
    parsed is not recorded again.
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
        """Begin another pass: the results are read from their start again."""
        self._pass = ReadPass(self._tracker)

    def parse(self, lines: Iterable[bytes]) -> list[BatchResult]:
        """Return the results in lines; blank, cut and repeated lines have none."""
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
        """Record the end of the batch: its results will not be read again."""
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
    """Emit each result once. A stream that is short or breaks off is read again from its start.

    For the results that arrive together, three steps follow: those that `select` returns are
    emitted, `on_emitted` is called, and all of them are recorded. Raises READ_FAULTS when the last
    of three reads fails.
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
            # Where the reader went away, the results that it got last are not recorded yet.
            yield from api.io.run_in_thread(collector.record)
        if collector.complete:
            return
