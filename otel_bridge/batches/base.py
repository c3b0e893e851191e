"""What both executors share: the recorder, handles of what was submitted here, and the flows."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from opentelemetry import context as otel_context
from opentelemetry import trace

from otel_bridge._core.shield import Shield
from otel_bridge.batches.collecting import Collector, read_all
from otel_bridge.batches.estimating import hold_to
from otel_bridge.batches.faults import READ_FAULTS, unreadable
from otel_bridge.batches.flows import Flow, Stream
from otel_bridge.batches.handles import Handles
from otel_bridge.batches.reconciling import Found
from otel_bridge.batches.results import BatchResult, BatchResults
from otel_bridge.batches.run import Run
from otel_bridge.batches.submitting import submit
from otel_bridge.batches.waiting import wait
from otel_bridge.config import Settings
from otel_bridge.domain.batch import BatchInfo
from otel_bridge.domain.requests import Request, split_requests
from otel_bridge.errors import BatchError, PartialSubmissionError
from otel_bridge.propagation import carrier as carriers
from otel_bridge.telemetry import (
    Attempt,
    BatchRecorder,
    Structured,
    structured_span,
)

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from otel_bridge.batches.api import AsyncApi, SyncApi
    from otel_bridge.batches.handle import BatchHandle
    from otel_bridge.batches.retrying import Attempts
    from otel_bridge.batches.structured import Plan, StructuredResults
    from otel_bridge.langsmith import LangSmithSpanProcessor

logger = logging.getLogger(__name__)

T = TypeVar("T")
Progress = Callable[[BatchInfo], None]
AsyncProgress = Callable[[BatchInfo], Awaitable[None] | None]


class ExecutorBase:
    """The steps of an executor, as flows that a sync or an async one drives."""

    api: SyncApi | AsyncApi

    def __init__(
        self,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        settings: Settings | None,
        on_progress: AsyncProgress | None,
    ) -> None:
        self.settings = settings or Settings.from_env()
        self.recorder = BatchRecorder(tracer_provider, meter_provider, self.settings)
        self._on_progress = on_progress
        self._progress_shield = Shield("on_progress failed; the batch goes on")
        self.on_given: Callable[[], None] = lambda: None
        """Called when results that arrived together were given, before telemetry sees them."""
        self._meter_provider = meter_provider
        self._handles = Handles(self.recorder, self._mirror)
        if not isinstance(self.recorder.provider, trace.ProxyTracerProvider):
            self._mirror()  # before any span that is to have a run

    def submission(
        self,
        requests: Sequence[Request],
        *,
        resume: bool,
        new: bool = False,
        attempt: Attempt | None = None,
    ) -> Flow[list[BatchHandle]]:
        """Create the batches of checked requests; see `BatchExecutor.submit`."""
        if attempt is None:  # what failed cost nothing, so a follow-up is within the first bound
            yield from hold_to(self.settings.max_cost, self.api, requests)
        parts = split_requests(requests)
        self._mirror()
        with self.recorder.together(len(requests), len(parts)):
            carrier = carriers.current() | (attempt.to_carrier() if attempt else {})

            def created(found: Found, part: Sequence[Request]) -> Flow[BatchHandle]:
                facts = BatchInfo.from_api(found.batch)
                handle = self._handles.found(found, facts, part, carrier)
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
    ) -> Flow[list[BatchHandle]]:
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

    def known(self, batch: BatchHandle | str) -> BatchHandle:
        """What is known of a batch, here or in the journal."""
        return self._handles.of(batch)

    def reading(
        self,
        batch: BatchHandle | str,
        chosen: Callable[[list[BatchResult]], list[BatchResult]] = lambda results: results,
    ) -> Stream[BatchResult]:
        """Wait for a batch, give the `chosen` of its results, and have telemetry know all."""
        handle = self.known(batch)

        def seen(facts: BatchInfo) -> Flow[None]:
            yield from self._handles.described(self.api, handle, facts)
            yield from self._progress(facts)

        try:
            facts = yield from wait(self.api, handle, self.settings, seen)
            if handle.recording is None:
                raise AssertionError("a batch that was seen has a recording")
            collector = Collector(handle, facts, handle.recording)
            yield from read_all(collector, self.api, handle.id, chosen, self.on_given)
            yield lambda: self.api.run_in_thread(lambda: self._finish(collector, handle))
        except READ_FAULTS as error:
            raise unreadable(f"results of batch {handle.id}", error) from error
        finally:
            self.leave([handle])
            if handle.recording is not None:
                handle.recording.abandon()
        self._handles.forget(handle)

    def collecting(self, batch: BatchHandle | str) -> Stream[BatchResult]:
        """As `reading`; nobody needs to go on with the batch then."""
        handle = self.known(batch)
        yield from self.reading(handle)
        self.received([handle])

    def whole(self, requests: Sequence[Request], *, new: bool) -> Flow[BatchResults]:
        """All results of requests that are submitted, and tried again, as one."""
        run = Run(self, requests)
        yield from run.begin(new=new)
        if run.lack:
            logger.error("%s", run.lack)
        results: dict[str, BatchResult] = {}

        def take(result: BatchResult) -> None:
            results[result.custom_id] = result

        yield lambda: self.api.each(run.results(), take)
        return BatchResults(results, tuple(each.id for each in run.handles), run.unsubmitted)

    def structured(self, plan: Plan[T]) -> Flow[StructuredResults[T]]:
        """Run a plan's requests under a span of their own, and validate their answers."""
        requests = plan.requests
        with structured_span(self.recorder, plan.schema_name, plan.models, len(requests)) as tell:
            results = yield from self.whole(requests, new=False)
            validated: StructuredResults[T] = yield partial(
                self.api.run_in_thread, partial(plan.validated, results)
            )
            tell(
                Structured(validated.batch_ids, validated.outcomes, validated.usage, validated.cost)
            )
            return validated

    def received(self, handles: Sequence[BatchHandle]) -> None:
        """Nobody needs to go on with these batches: what they came to is in the caller's hands."""
        for handle in handles:
            self.recorder.journal.mark_collected(handle.id)

    def leave(self, handles: Sequence[BatchHandle]) -> None:
        """Whoever submits the same requests again may go on with these batches."""
        self.recorder.journal.release(handle.submission_id for handle in handles)

    def _mirror(self) -> LangSmithSpanProcessor | None:
        """The provider's mirror: a service may set its provider after this was made."""
        if not self.settings.langsmith_tracing:
            return None
        from otel_bridge.langsmith import mirror  # noqa: PLC0415 - only where it is wanted

        mirrored = mirror(self.recorder.provider, self.settings, self._meter_provider)
        if mirrored is not None:
            self.recorder.runs_dropped = lambda: mirrored.dropped
        return mirrored

    def _progress(self, facts: BatchInfo) -> Flow[None]:
        callback = self._on_progress
        if callback is not None:
            with self._progress_shield:
                yield lambda: self.api.notify(callback, facts)

    def _finish(self, collector: Collector, handle: BatchHandle) -> None:
        collector.finish()
        mirrored = self._mirror()
        if mirrored is not None and mirrored.force_flush() and handle.recording is not None:
            handle.recording.mark_runs_exported()


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
