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
from otel_bridge.batches.reconciling import Found, known_here
from otel_bridge.batches.requests import Request, split_requests
from otel_bridge.batches.submitting import submit
from otel_bridge.config import Settings
from otel_bridge.errors import BatchError, PartialSubmissionError, SubmissionAmbiguousError
from otel_bridge.langsmith import mirror
from otel_bridge.telemetry import Attempt, BatchFacts, BatchRecorder

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from otel_bridge.batches.retrying import Attempts
    from otel_bridge.langsmith import LangSmithSpanProcessor

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
        self._meter_provider = meter_provider
        if not isinstance(self.recorder.provider, trace.ProxyTracerProvider):
            self._mirror()  # before any span that is to have a run

    def submission(
        self,
        requests: list[Request],
        *,
        resume: bool,
        new: bool = False,
        attempt: Attempt | None = None,
    ) -> flows.Flow[list[BatchHandle]]:
        """Create the batches of checked requests; see `BatchExecutor.submit`."""
        if attempt is None:  # what failed cost nothing, so a follow-up is within the first bound
            yield from hold_to(self.settings.max_cost, self.api, requests)
        parts = split_requests(requests)
        self._mirror()
        with self.recorder.together(len(requests), len(parts)):
            carrier = carriers.current() | (attempt.to_carrier() if attempt else {})

            def created(found: Found, part: Sequence[Request]) -> flows.Flow[BatchHandle]:
                facts = BatchFacts.from_api(found.batch)
                handle = self._created(facts, part, carrier, adopted=found.adopted)
                yield from self._progress(facts)
                return handle

            journal = self.recorder.journal
            return (
                yield from submit(
                    self.api,
                    journal,
                    parts,
                    carrier,
                    created,
                    after=[batch_id for batch_id, _ in attempt.previous] if attempt else (),
                    resume=resume,
                    new=new,
                )
            )

    def follow_up(
        self, attempts: Attempts, previous: Sequence[BatchHandle]
    ) -> flows.Flow[list[BatchHandle]]:
        """Submit what failed in `previous` and may be tried again; nothing where nothing may.

        A follow-up that cannot be submitted is logged: the earlier results stand then.
        """
        again = attempts.begin()
        if not again:
            return []
        told = [(each.id, _span_of(each)) for each in previous]
        attempt = Attempt(attempts.number, tuple(told))
        with _in_trace(_span_of(previous[0])):
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

    def leave(self, handles: Sequence[BatchHandle]) -> None:
        """Whoever submits the same requests again may go on with these batches."""
        self.recorder.journal.leave(handle.intent for handle in handles)

    def _created(
        self,
        facts: BatchFacts,
        requests: Sequence[Request],
        carrier: dict[str, str],
        *,
        adopted: bool,
    ) -> BatchHandle:
        known = self.recorder.journal.recall(facts.id)
        params = {request["custom_id"]: request["params"] for request in requests}
        models = tuple(sorted({str(each["model"]) for each in params.values()}))
        handle = BatchHandle(facts.id, facts.request_count, carrier, models, params)
        if known is not None and known.carrier != carrier:  # another process began it
            handle.carrier = dict(known.carrier)
        handle.adopted = adopted
        if not adopted:
            self._mirror()
            if handle.carrier is carrier:
                attempt = Attempt.from_carrier(carrier)
                handle.recording = self.recorder.start(facts, None, models, attempt, created=True)
            else:
                handle.recording = carriers.begin(self.recorder, facts, handle.carrier, models)
        self._submitted[facts.id] = handle
        return handle

    def _handle(self, batch: BatchHandle | str) -> BatchHandle:
        handle = batch if isinstance(batch, BatchHandle) else BatchHandle(batch, 0)
        if handle.adopted:  # by one of several submissions, perhaps
            return handle
        submitted = self._submitted.get(handle.id)
        if submitted is not None:
            return submitted
        known = self.recorder.journal.recall(handle.id)
        if known is not None and not handle.carrier:
            handle.request_count = known.request_count
            handle.carrier, handle.models = dict(known.carrier), known.models
        if known is not None and known.adopted:
            logger.warning(
                "Batch %s was found where an answer was lost: see that its custom ids are yours",
                handle.id,
            )
        return handle

    def _mirror(self) -> LangSmithSpanProcessor | None:
        """The provider's mirror: a service may set its provider after this was made."""
        return mirror(self.recorder.provider, self.settings, self._meter_provider)

    def _seen(self, handle: BatchHandle) -> Callable[[BatchFacts], flows.Flow[None]]:
        def seen(facts: BatchFacts) -> flows.Flow[None]:
            created = handle.adopted
            if handle.adopted and facts.status == "ended":
                yield from self._verify(handle)
            if handle.recording is not None and not handle.recording.missing:
                handle.recording.update(facts)
            elif not handle.adopted:
                self._mirror()
                handle.recording = carriers.begin(
                    self.recorder, facts, handle.carrier, handle.models, created=created
                )
            yield from self._progress(facts)

        return seen

    def _verify(self, handle: BatchHandle) -> flows.Flow[None]:
        """Have the results tell whose a batch is that was taken for ours."""
        journal = self.recorder.journal
        taken = handle.id in known_here
        if taken or not (yield lambda: self.api.belongs(handle.id, handle.params)):
            journal.reopen(handle.intent)
            if self._submitted.get(handle.id) is handle:
                del self._submitted[handle.id]
            raise SubmissionAmbiguousError(
                f"batch {handle.id}, found where the answer to a submission was lost, has "
                "results of other requests: it is others', and these requests are most likely in "
                "no batch; run the same again, which looks once more before it creates one"
            )
        handle.adopted = False
        self._submitted[handle.id] = handle
        known_here.add(handle.id)
        journal.settle(handle.intent, handle.id)

    def _progress(self, facts: BatchFacts) -> flows.Flow[None]:
        callback = self._on_progress
        if callback is not None:
            with carriers.never_in_the_way("on_progress"):
                yield lambda: self.api.notify(callback, facts)

    def _collector(self, handle: BatchHandle, facts: BatchFacts) -> Collector:
        if handle.recording is None:
            raise AssertionError("a batch that was seen has a recording")
        return Collector(handle, facts, handle.recording)

    def _finish(self, collector: Collector, handle: BatchHandle) -> None:
        collector.finish()
        mirrored = self._mirror()
        if mirrored is not None and mirrored.force_flush() and collector.complete:
            self.recorder.journal.tell(handle.id, "runs")

    def _abandon(self, handle: BatchHandle) -> None:
        self.recorder.journal.leave([handle.intent])
        if handle.recording is not None:
            handle.recording.abandon()


def _span_of(handle: BatchHandle) -> trace.SpanContext:
    return handle.recording.span_context if handle.recording else trace.INVALID_SPAN_CONTEXT


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
