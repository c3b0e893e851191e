"""Batches that other code runs in this process; each is recorded once."""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from otel_bridge._core.lifecycle import renew_after_fork
from otel_bridge.domain.batch import BatchInfo
from otel_bridge.instrumentation.streams import RequestCapture, ResultsTee, TrackedBatch
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


class BatchTracker:
    """Records batches by what calls of the anthropic SDK send and receive."""

    def __init__(self, recorder: BatchRecorder, mirror: LangSmithSpanProcessor | None) -> None:
        self._recorder = recorder
        self._mirror = mirror
        if mirror is not None:
            recorder.runs_lost = lambda: mirror.lost
        self._batches: OrderedDict[str, TrackedBatch] = OrderedDict()
        self._requests = 0
        self.after_fork()
        renew_after_fork(self)
        # On its own, for it has to come before the provider's, which is older, shuts that down.
        atexit.register(_close_streams, weakref.ref(self))

    def after_fork(self) -> None:
        """A lock that a thread held while its process forked would be held for ever."""
        self._lock = threading.RLock()
        self._tees: weakref.WeakSet[ResultsTee] = weakref.WeakSet()
        for tracked in self._batches.values():
            tracked.lock = threading.RLock()

    def capture_requests(self) -> RequestCapture:
        """Make a capture for the requests of one `create`."""
        settings = self._recorder.settings
        mirrored = settings.langsmith_tracing and settings.langsmith_content
        return RequestCapture(keep_params=bool(settings.span_content or mirrored))

    def created(self, batch: Any, capture: RequestCapture) -> None:
        """Start to record a batch that was created in the current context."""
        facts = BatchInfo.from_api(batch)
        capture.finish()
        journal = self._recorder.journal
        planned = PlannedBatch(facts.request_count, capture.models)
        submission_ids = journal.begin_submission("", [planned], carriers.current())
        journal.bind_batch(submission_ids[0], facts.id)
        journal.release(submission_ids)
        with self._lock:
            tracked = self._tracked(facts)
            tracked.params = capture.params
            self._requests += len(capture.params)
            tracked.recording = self._recorder.start(facts, models=capture.models, created=True)
            self._forget_oldest()

    def described(self, batch: Any) -> None:
        """Update a batch as the API describes it, whoever created it."""
        facts = BatchInfo.from_api(batch)
        with self._lock:
            tracked = self._tracked(facts)
            tracked.facts = facts
            if tracked.recording is None and not tracked.ended and facts.status != "ended":
                self._begin_elsewhere(tracked, facts)
            self._forget_oldest()
            recording = tracked.recording
        if recording is not None and tracked.lock.acquire(blocking=False):
            try:
                recording.update(facts)
                if facts.status == "ended" and not tracked.reads:
                    recording.abandon()  # it is not waited for any more
            finally:
                tracked.lock.release()

    def tee_results(self, batch_id: str) -> ResultsTee | None:
        """Make a tee for one pass through a batch's results; None where all is recorded."""
        with self._lock:
            tracked = self._batches.get(batch_id)
            if tracked is None or tracked.ended:
                return None
            recording = tracked.recording or self._begin_elsewhere(tracked, tracked.facts)
            if tracked.tracker is None:
                complete = len(tracked.params) == tracked.facts.request_count
                tracked.tracker = recording.track(tracked.params, complete=complete)
            tee = ResultsTee(tracked, tracked.tracker, recording.shield, self.end_pass)
            self._tees.add(tee)
            return tee

    def close_streams(self) -> None:
        """Record what was read of streams that are still open: the process ends."""
        for tee in list(self._tees):
            tee.abandon()

    def end_pass(self, tracked: TrackedBatch, duplicates: int, reached_end: bool) -> None:
        """End a pass through the results; `reached_end`: the stream was read to its end.

        A stream can be cut without an error, so results that it does not have may come with the
        next pass. After as many passes as the executor makes, the batch ends with its missing
        results; a later pass that has them records the batch anew.
        """
        recording, tracker = tracked.recording, tracked.tracker
        if recording is None or tracker is None:
            return
        tracked.short_reads += bool(tracker.missing and reached_end)
        if not tracker.missing or tracked.short_reads >= _SHORT_READS:
            self._finish(tracked, recording, tracker, duplicates)
            return
        if reached_end:
            logger.warning(
                "The results of batch %s are short by %s requests; read them again for the rest",
                tracked.facts.id,
                tracker.missing,
            )
        recording.abandon()

    def _tracked(self, facts: BatchInfo) -> TrackedBatch:
        known = self._batches.get(facts.id)
        if known is None:
            known = self._batches[facts.id] = TrackedBatch(facts)
        return known

    def _begin_elsewhere(self, tracked: TrackedBatch, facts: BatchInfo) -> BatchRecording:
        """Begin the recording of a batch that another process created."""
        known = self._recorder.journal.get(facts.id)
        carrier, models = (known.carrier, known.models) if known else ({}, ())
        tracked.recording = self._recorder.start_from_carrier(facts, carrier, models)
        return tracked.recording

    def _finish(
        self,
        tracked: TrackedBatch,
        recording: BatchRecording,
        tracker: ResultTracker,
        duplicates: int,
    ) -> None:
        recording.end(tracked.facts, duplicates=duplicates, missing=tracker.missing)
        with self._lock:
            tracked.recording = tracked.tracker = None
            tracked.short_reads = 0
            if not tracker.missing:
                tracked.ended = True
                self._forget_params(tracked)
        self._recorder.journal.mark_collected(tracked.facts.id)
        if self._mirror is not None and self._mirror.force_flush():
            recording.mark_runs_exported()
        recording.abandon()  # whatever was lost or is missing may be exported again

    def _forget_oldest(self) -> None:
        while len(self._batches) > MAX_BATCHES:
            _, oldest = self._batches.popitem(last=False)
            self._forget_params(oldest)
            if oldest.recording is not None:
                oldest.recording.abandon()
        for tracked in self._batches.values():
            if self._requests <= MAX_REQUESTS:
                break
            self._forget_params(tracked)

    def _forget_params(self, tracked: TrackedBatch) -> None:
        self._requests -= len(tracked.params)
        tracked.params = {}


def _close_streams(reference: weakref.ref[BatchTracker]) -> None:
    tracker = reference()
    if tracker is not None:
        tracker.close_streams()
