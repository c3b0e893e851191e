"""Executors: submit, wait, collect, and the telemetry of it, sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import anthropic

from otel_bridge import carrier as carriers
from otel_bridge.batches import flows
from otel_bridge.batches.api import AsyncApi, SyncApi
from otel_bridge.batches.collecting import (
    READ_FAULTS,
    READS,
    Collector,
    again_or_raise,
    logger,
    read_all,
)
from otel_bridge.batches.handle import BatchHandle
from otel_bridge.batches.requests import Request, split_requests, validate_requests
from otel_bridge.batches.results import BatchResult, BatchResults
from otel_bridge.batches.submitting import submit
from otel_bridge.config import Settings
from otel_bridge.errors import BatchError, ConfigurationError, PartialSubmissionError
from otel_bridge.langsmith import mirror
from otel_bridge.telemetry import BatchFacts, BatchRecorder

if TYPE_CHECKING:
    from anthropic.types.messages import MessageBatch
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

ApiT = TypeVar("ApiT", SyncApi, AsyncApi)
Progress = Callable[[BatchFacts], None]


class _Executor(Generic[ApiT]):
    """What both executors share: the recorder, and handles of what was submitted here."""

    api: ApiT

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        settings: Settings | None,
        on_progress: Progress | None,
    ) -> None:
        self.settings = settings or Settings.from_env()
        self._recorder = BatchRecorder(tracer_provider, meter_provider, self.settings)
        self._on_progress = on_progress
        self._submitted: dict[str, BatchHandle] = {}
        self._mirror = mirror(self._recorder.provider, self.settings, meter_provider)

    def _submission(
        self, requests: list[Request], *, resume: bool
    ) -> flows.Flow[list[BatchHandle]]:
        parts = split_requests(requests)
        handles: list[BatchHandle] = []
        with self._recorder.together(len(requests), len(parts)):
            carrier = carriers.current()

            def created(batch: MessageBatch, part: Sequence[Request]) -> None:
                handles.append(self._created(BatchFacts.from_api(batch), part, carrier))

            journal = self._recorder.journal
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

    def _created(
        self, facts: BatchFacts, requests: Sequence[Request], carrier: dict[str, str]
    ) -> BatchHandle:
        known = self._recorder.journal.recall(facts.id)
        params = {request["custom_id"]: request["params"] for request in requests}
        models = tuple(sorted({str(each["model"]) for each in params.values()}))
        handle = BatchHandle(facts.id, facts.request_count, carrier, models, params)
        parent = None
        if known is not None and known.carrier != carrier:  # another process began it
            handle.carrier = dict(known.carrier)
            parent = carriers.context_of(handle.carrier)
        handle.recording = self._recorder.start(facts, parent, models, created=parent is None)
        self._submitted[facts.id] = handle
        self._progress(facts)
        return handle

    def _handle(self, batch: BatchHandle | str) -> BatchHandle:
        handle = batch if isinstance(batch, BatchHandle) else BatchHandle(batch, 0)
        submitted = self._submitted.get(handle.id)
        if submitted is not None:
            return submitted
        known = self._recorder.journal.recall(handle.id)
        if known is not None and not handle.carrier:
            handle.request_count = known.request_count
            handle.carrier, handle.models = dict(known.carrier), known.models
        return handle

    def _seen(self, handle: BatchHandle) -> Progress:
        def seen(facts: BatchFacts) -> None:
            if handle.recording is None:
                parent = carriers.context_of(handle.carrier)
                handle.recording = self._recorder.start(facts, parent, handle.models)
            else:
                handle.recording.update(facts)
            self._progress(facts)

        return seen

    def _progress(self, facts: BatchFacts) -> None:
        if self._on_progress is not None:
            with carriers.never_in_the_way():
                self._on_progress(facts)

    def _collector(self, handle: BatchHandle, facts: BatchFacts) -> Collector:
        if handle.recording is None:
            raise AssertionError("a batch that was seen has a recording")
        return Collector(handle, facts, handle.recording)

    def _finish(self, collector: Collector, handle: BatchHandle) -> None:
        collector.finish()
        self._recorder.journal.received(handle.id)
        if self._mirror is not None and self._mirror.force_flush():
            self._recorder.journal.tell(handle.id, "runs")

    def _abandon(self, handle: BatchHandle) -> None:
        self._recorder.journal.leave([handle.intent])
        if handle.recording is not None:
            handle.recording.abandon()


class BatchExecutor(_Executor[SyncApi]):
    """Runs Message Batches and records them.

    `client` is `anthropic.Anthropic()` from the environment by default. Providers are the global
    ones by default. `on_progress` gets the batch each time the API describes it.

    Raises ConfigurationError when there is no client and no key for one.
    """

    def __init__(
        self,
        client: anthropic.Anthropic | None = None,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        settings: Settings | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        super().__init__(
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            settings=settings,
            on_progress=on_progress,
        )
        self.api = SyncApi(client or _client(anthropic.Anthropic))

    def submit(self, requests: Iterable[Request], *, resume: bool = False) -> list[BatchHandle]:
        """Check the requests whole, then create the batch; its span is open from here on.

        More than one batch takes (100,000 requests or 256 MB) become several under one span.
        With `resume`, batches of these very requests that an earlier call with `resume` created
        and nobody collected are gone on with, whatever became of its process.

        Raises RequestsError before anything is sent, BatchError when the API refuses,
        SubmissionAmbiguousError when it cannot be known whether a batch was created, and
        PartialSubmissionError when some batches of several were.
        """
        return flows.drive(self._submission(validate_requests(requests), resume=resume))

    def collect(self, batch: BatchHandle | str) -> Iterator[BatchResult]:
        """Wait for the batch and stream its results; telemetry is complete at the end.

        Raises BatchNotFoundError for an unknown id, BatchError when it cannot be read.
        """
        handle = self._handle(batch)
        try:
            facts = flows.drive(flows.wait(self.api, handle.id, self.settings, self._seen(handle)))
            collector = self._collector(handle, facts)
            yield from read_all(collector, self.api, handle.id)
            self._finish(collector, handle)
        except READ_FAULTS as error:
            raise BatchError(
                f"results of batch {handle.id} cannot be read: {flows.describe(error)}"
            ) from error
        finally:
            self._abandon(handle)
        self._submitted.pop(handle.id, None)

    def run(self, requests: Iterable[Request]) -> BatchResults:
        """Submit with `resume`, wait, collect; raises what `submit` and `collect` raise.

        Where only some of several batches could be created, these are collected, and `unsubmitted`
        of the results has the requests to submit again.
        """
        rest: Sequence[Request] = ()
        try:
            handles = self.submit(requests, resume=True)
        except PartialSubmissionError as error:
            handles, rest = list(error.handles), error.unsubmitted
            logger.error("%s", error)
        results = {
            result.custom_id: result for handle in handles for result in self.collect(handle)
        }
        return BatchResults(results, tuple(handle.id for handle in handles), rest)


class AsyncBatchExecutor(_Executor[AsyncApi]):
    """The async twin of BatchExecutor, over `anthropic.AsyncAnthropic`."""

    def __init__(
        self,
        client: anthropic.AsyncAnthropic | None = None,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        settings: Settings | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        super().__init__(
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            settings=settings,
            on_progress=on_progress,
        )
        self.api = AsyncApi(client or _client(anthropic.AsyncAnthropic))

    async def submit(
        self, requests: Iterable[Request], *, resume: bool = False
    ) -> list[BatchHandle]:
        """See BatchExecutor.submit."""
        checked = validate_requests(requests)
        return await flows.drive_async(self._submission(checked, resume=resume))

    async def collect(self, batch: BatchHandle | str) -> AsyncIterator[BatchResult]:
        """See BatchExecutor.collect."""
        handle = self._handle(batch)
        try:
            facts = await flows.drive_async(
                flows.wait(self.api, handle.id, self.settings, self._seen(handle))
            )
            collector = self._collector(handle, facts)
            for attempt in range(READS):
                collector.begin()
                try:
                    async for arrived in self.api.lines(handle.id):
                        # On a thread: recording may wait for a slow backend, the loop must not.
                        for result in await asyncio.to_thread(collector.take, arrived):
                            yield result
                except READ_FAULTS as error:
                    again_or_raise(collector, attempt, error)
                if collector.complete:
                    break
                if attempt + 1 < READS:
                    await self.api.sleep(2.0**attempt)
            await asyncio.to_thread(self._finish, collector, handle)
        except READ_FAULTS as error:
            raise BatchError(
                f"results of batch {handle.id} cannot be read: {flows.describe(error)}"
            ) from error
        finally:
            self._abandon(handle)
        self._submitted.pop(handle.id, None)

    async def run(self, requests: Iterable[Request]) -> BatchResults:
        """See BatchExecutor.run."""
        rest: Sequence[Request] = ()
        try:
            handles = await self.submit(requests, resume=True)
        except PartialSubmissionError as error:
            handles, rest = list(error.handles), error.unsubmitted
            logger.error("%s", error)
        results = {
            result.custom_id: result for handle in handles async for result in self.collect(handle)
        }
        return BatchResults(results, tuple(handle.id for handle in handles), rest)


ClientT = TypeVar("ClientT", anthropic.Anthropic, anthropic.AsyncAnthropic)


def _client(make: Callable[[], ClientT]) -> ClientT:
    try:
        client = make()
    except anthropic.AnthropicError as error:
        raise ConfigurationError(
            f"no Anthropic client can be made ({error}); set ANTHROPIC_API_KEY"
        ) from error
    return client
