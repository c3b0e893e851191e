"""Batches that other code runs in this process, each recorded once by the one recorder."""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from otel_bridge._core.lifecycle import renew_after_fork
from otel_bridge.domain.batch import BatchInfo
from otel_bridge.instrumentation.reading import Reading
from otel_bridge.instrumentation.sent import Params, Sent
from otel_bridge.journal import PlannedBatch
from otel_bridge.propagation import carrier as carriers
from otel_bridge.telemetry import BatchRecorder

if TYPE_CHECKING:
    from otel_bridge.domain.reader import ResultTracker
    from otel_bridge.langsmith import LangSmithSpanProcessor
    from otel_bridge.telemetry import BatchRecording

logger = logging.getLogger(__name__)

MAX_BATCHES = 2_000
MAX_REQUESTS = 200_000
_SHORT_READS = 3


@dataclass(slots=True)
class Watched:
    """A batch as this process knows it; it has a recording while it is being recorded."""

    facts: BatchInfo
    params: Mapping[str, Params] = field(default_factory=dict)
    recording: BatchRecording | None = None
    tracker: ResultTracker | None = None
    ended: bool = False
    reads: int = 0
    short_reads: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)
    """Held while results are recorded, which may wait for a backend; calls never wait for it."""


class Watch:
    """Records batches by what calls of the anthropic SDK send and return."""

    def __init__(self, recorder: BatchRecorder, mirror: LangSmithSpanProcessor | None) -> None:
        self._recorder = recorder
        self._mirror = mirror
        if mirror is not None:
            recorder.runs_dropped = lambda: mirror.dropped
        self._batches: OrderedDict[str, Watched] = OrderedDict()
        self._requests = 0
        self.after_fork()
        renew_after_fork(self)
        # The newest handler runs first: before the provider's own, which shuts the provider down.
        atexit.register(_leave, weakref.ref(self))

    def after_fork(self) -> None:
        """A lock that a thread held while its process forked would be held for ever."""
        self._lock = threading.RLock()
        self._readings: weakref.WeakSet[Reading] = weakref.WeakSet()
        for watched in self._batches.values():
            watched.lock = threading.RLock()

    def sent(self) -> Sent:
        """Make a note of requests that are about to be sent."""
        settings = self._recorder.settings
        mirrored = settings.langsmith_tracing and settings.langsmith_content
        return Sent(whole=bool(settings.span_content or mirrored))

    def created(self, batch: Any, sent: Sent) -> None:
        """Record that a batch was created, below the span of the current context."""
        facts = BatchInfo.from_api(batch)
        sent.done()
        journal = self._recorder.journal
        planned = PlannedBatch(facts.request_count, sent.models)
        submission_ids = journal.begin_submission("", [planned], carriers.current())
        journal.bind_batch(submission_ids[0], facts.id)
        journal.release(submission_ids)
        with self._lock:
            watched = self._known(facts)
            watched.params = sent.params
            self._requests += len(sent.params)
            watched.recording = self._recorder.start(facts, models=sent.models, created=True)
            self._forget_oldest()

    def described(self, batch: Any) -> None:
        """Record what the API says of a batch now, whoever created it."""
        facts = BatchInfo.from_api(batch)
        with self._lock:
            watched = self._known(facts)
            watched.facts = facts
            if watched.recording is None and not watched.ended and facts.status != "ended":
                self._begin_elsewhere(watched, facts)
            self._forget_oldest()
            recording = watched.recording
        if recording is not None and watched.lock.acquire(blocking=False):
            try:
                recording.update(facts)
                if facts.status == "ended" and not watched.reads:
                    recording.abandon()  # it is not waited for any more
            finally:
                watched.lock.release()

    def reading(self, batch_id: str) -> Reading | None:
        """Make the reading of one pass through a batch's results.

        Returns None for a batch that is unknown here or recorded to its end.
        """
        with self._lock:
            watched = self._batches.get(batch_id)
            if watched is None or watched.ended:
                return None
            recording = watched.recording or self._begin_elsewhere(watched, watched.facts)
            if watched.tracker is None:
                complete = len(watched.params) == watched.facts.request_count
                watched.tracker = recording.track(watched.params, complete=complete)
            reading = Reading(self, watched, watched.tracker, recording.shield)
            self._readings.add(reading)
            return reading

    def leave(self) -> None:
        """Record at the end of the process what streams that are still open have given."""
        for reading in list(self._readings):
            reading.leave()

    def read(self, watched: Watched, duplicates: int, *, whole: bool) -> None:
        """End a pass through the results; `whole` is True where the stream was read to its end.

        The batch ends when every request has its result. A stream may be cut without an error, so
        what one complete pass lacks may come with the next. After three complete passes it counts
        as missing, and a later pass that has it records the batch again.
        """
        recording, tracker = watched.recording, watched.tracker
        if recording is None or tracker is None:
            return
        watched.short_reads += bool(tracker.missing and whole)
        if not tracker.missing or watched.short_reads >= _SHORT_READS:
            self._finish(watched, recording, tracker, duplicates)
            return
        if whole:
            logger.warning(
                "The results of batch %s lack %s requests; read them again for the rest",
                watched.facts.id,
                tracker.missing,
            )
        recording.abandon()

    def _known(self, facts: BatchInfo) -> Watched:
        known = self._batches.get(facts.id)
        if known is None:
            known = self._batches[facts.id] = Watched(facts)
        return known

    def _begin_elsewhere(self, watched: Watched, facts: BatchInfo) -> BatchRecording:
        """Begin the recording of a batch that another process created."""
        known = self._recorder.journal.get(facts.id)
        carrier, models = (known.carrier, known.models) if known else ({}, ())
        watched.recording = self._recorder.start_from_carrier(facts, carrier, models)
        return watched.recording

    def _finish(
        self, watched: Watched, recording: BatchRecording, tracker: ResultTracker, duplicates: int
    ) -> None:
        recording.end(watched.facts, duplicates=duplicates, missing=tracker.missing)
        with self._lock:
            watched.recording = watched.tracker = None
            watched.short_reads = 0
            if not tracker.missing:
                watched.ended = True
                self._let_go(watched)
        self._recorder.journal.mark_collected(watched.facts.id)
        if self._mirror is not None and self._mirror.force_flush():
            recording.mark_runs_exported()
        recording.abandon()  # so that anybody may export what was lost or is missing

    def _forget_oldest(self) -> None:
        while len(self._batches) > MAX_BATCHES:
            _, oldest = self._batches.popitem(last=False)
            self._let_go(oldest)
            if oldest.recording is not None:
                oldest.recording.abandon()
        for watched in self._batches.values():
            if self._requests <= MAX_REQUESTS:
                break
            self._let_go(watched)

    def _let_go(self, watched: Watched) -> None:
        self._requests -= len(watched.params)
        watched.params = {}


def _leave(watch: weakref.ref[Watch]) -> None:
    known = watch()
    if known is not None:
        known.leave()
