"""What both executors share: the recorder, handles of what was submitted here, and the flows."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from opentelemetry import context as otel_context
from opentelemetry import trace

from otel_bridge import carrier as carriers
from otel_bridge.batches import flows
from otel_bridge.batches.api import AsyncApi, SyncApi
from otel_bridge.batches.collecting import Collector
from otel_bridge.batches.estimating import hold_to
from otel_bridge.batches.handle import BatchHandle
from otel_bridge.batches.requests import Request, split_requests
from otel_bridge.batches.submitting import submit
from otel_bridge.config import Settings
from otel_bridge.errors import BatchError, PartialSubmissionError
from otel_bridge.langsmith import mirror
from otel_bridge.telemetry import Attempt, BatchFacts, BatchRecorder

if TYPE_CHECKING:
    from anthropic.types.messages import MessageBatch
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from otel_bridge.batches.retrying import Attempts

logger = logging.getLogger(__name__)

ApiT = TypeVar("ApiT", SyncApi, AsyncApi)
Progress = Callable[[BatchFacts], None]
AsyncProgress = Callable[[BatchFacts], Awaitable[None] | None]


class ExecutorBase(Generic[ApiT]):
    """The steps of an executor, as flows that its sync or async API drives."""

    api: ApiT

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        settings: Settings | None,
        on_progress: AsyncProgress | None,
    ) -> None:
        self.settings = settings or Settings.from_env()
        self.recorder = BatchRecorder(tracer_provider, meter_provider, self.settings)
        self._on_progress = on_progress
        self.on_given: Callable[[], None] = lambda: None
        """Called when results that arrived together were given, before telemetry sees them."""
        self._submitted: dict[str, BatchHandle] = {}
        self._mirror = mirror(self.recorder.provider, self.settings)

    def submission(
        self, requests: list[Request], *, resume: bool, attempt: Attempt | None = None
    ) -> flows.Flow[list[BatchHandle]]:
        """Create the batches of checked requests; see `BatchExecutor.submit`."""
        if attempt is None:  # what failed cost nothing, so a follow-up is within the first bound
            yield from hold_to(self.settings.max_cost, self.api, requests)
        parts = split_requests(requests)
        handles: list[BatchHandle] = []
        with self.recorder.together(len(requests), len(parts)):
            carrier = carriers.current() | (attempt.to_carrier() if attempt else {})

            def created(batch: MessageBatch, part: Sequence[Request]) -> flows.Flow[None]:
                facts = BatchFacts.from_api(batch)
                handles.append(self._created(facts, part, carrier))
                yield from self._progress(facts)

            journal = self.recorder.journal
            try:
                intents = yield from submit(
                    self.api, journal, parts, carrier, created, resume=resume
                )
            except BatchError as error:
                if not handles:
                    raise
                rest = [each for part in parts[len(handles) :] for each in part]
                raise PartialSubmissionError(
                    f"{len(handles)} of {len(parts)} batches were created; {len(rest):,} requests "
                    f"are in none: {error}",
                    handles,
                    rest,
                ) from error
            if not resume:
                journal.leave(intents)
            for handle, intent in zip(handles, intents, strict=True):
                handle.intent = intent
        return handles

    def follow_up(
        self, attempts: Attempts, previous: Sequence[BatchHandle]
    ) -> flows.Flow[list[BatchHandle]]:
        """Submit what failed in `previous` and may be tried again; nothing where nothing may.

        A follow-up that cannot be submitted is logged: the earlier results stand then.
        """
        again = attempts.begin()
        if not again:
            return []
        first = previous[0].recording
        told = [
            (each.id, each.recording.span_context)
            for each in previous
            if each.recording is not None
        ]
        attempt = Attempt(attempts.number, tuple(told))
        with _in_trace(first.span_context if first else trace.INVALID_SPAN_CONTEXT):
            try:
                return (yield from self.submission(again, resume=True, attempt=attempt))
            except PartialSubmissionError as error:
                attempts.complete = False
                logger.error("%s", error)  # noqa: TRY400 - the message says it
                return list(error.handles)
            except BatchError as error:
                attempts.complete = False
                logger.error("%s failed requests are not tried again: %s", len(again), error)  # noqa: TRY400
                return []

    def received(self, handles: Sequence[BatchHandle]) -> None:
        """Nobody needs to go on with these batches: what they came to is in the caller's hands."""
        for handle in handles:
            self.recorder.journal.received(handle.id)

    def _created(
        self, facts: BatchFacts, requests: Sequence[Request], carrier: dict[str, str]
    ) -> BatchHandle:
        known = self.recorder.journal.recall(facts.id)
        params = {request["custom_id"]: request["params"] for request in requests}
        models = tuple(sorted({str(each["model"]) for each in params.values()}))
        handle = BatchHandle(facts.id, facts.request_count, carrier, models, params)
        parent = None
        if known is not None and known.carrier != carrier:  # another process began it
            handle.carrier = dict(known.carrier)
            parent = carriers.context_of(handle.carrier)
        attempt = Attempt.from_carrier(handle.carrier)
        handle.recording = self.recorder.start(
            facts, parent, models, attempt, created=parent is None
        )
        self._submitted[facts.id] = handle
        return handle

    def _handle(self, batch: BatchHandle | str) -> BatchHandle:
        handle = batch if isinstance(batch, BatchHandle) else BatchHandle(batch, 0)
        submitted = self._submitted.get(handle.id)
        if submitted is not None:
            return submitted
        known = self.recorder.journal.recall(handle.id)
        if known is not None and not handle.carrier:
            handle.request_count = known.request_count
            handle.carrier, handle.models = dict(known.carrier), known.models
        return handle

    def _seen(self, handle: BatchHandle) -> Callable[[BatchFacts], flows.Flow[None]]:
        def seen(facts: BatchFacts) -> flows.Flow[None]:
            if handle.recording is None or handle.recording.missing:
                handle.recording = self.recorder.start(
                    facts,
                    carriers.context_of(handle.carrier),
                    handle.models,
                    Attempt.from_carrier(handle.carrier),
                )
            else:
                handle.recording.update(facts)
            yield from self._progress(facts)

        return seen

    def _progress(self, facts: BatchFacts) -> flows.Flow[None]:
        callback = self._on_progress
        if callback is not None:
            with carriers.never_in_the_way():
                yield lambda: self.api.notify(callback, facts)

    def _collector(self, handle: BatchHandle, facts: BatchFacts) -> Collector:
        if handle.recording is None:
            raise AssertionError("a batch that was seen has a recording")
        return Collector(handle, facts, handle.recording)

    def _finish(self, collector: Collector, handle: BatchHandle) -> None:
        collector.finish()
        sent = self._mirror is not None and self._mirror.force_flush()
        if sent and collector.complete:
            self.recorder.journal.tell(handle.id, "runs")

    def _abandon(self, handle: BatchHandle) -> None:
        self.recorder.journal.leave([handle.intent])
        if handle.recording is not None:
            handle.recording.abandon()


@contextlib.contextmanager
def _in_trace(span: trace.SpanContext) -> Iterator[None]:
    """Below `span`, unless a span of the caller's is active already, which is its parent, too."""
    if trace.get_current_span().get_span_context().is_valid or not span.is_valid:
        yield
        return
    token = otel_context.attach(trace.set_span_in_context(trace.NonRecordingSpan(span)))
    try:
        yield
    finally:
        otel_context.detach(token)
