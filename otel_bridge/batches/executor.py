"""Executors: submit, wait, collect, and the telemetry of it, sync and async."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

import anthropic
import httpx2
from opentelemetry import propagate

from otel_bridge.batches import flows
from otel_bridge.batches.api import AsyncApi, SyncApi
from otel_bridge.batches.collecting import READS, Collector, logger, read_all
from otel_bridge.batches.handle import BatchHandle
from otel_bridge.batches.requests import Request, validate_requests
from otel_bridge.batches.results import BatchResult, BatchResults
from otel_bridge.batches.submitting import submit
from otel_bridge.config import Settings
from otel_bridge.errors import BatchError, ConfigurationError
from otel_bridge.langsmith import LangSmithPropagator, mirror
from otel_bridge.telemetry import BatchFacts, BatchRecorder

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

ApiT = TypeVar("ApiT", SyncApi, AsyncApi)
Progress = Callable[[BatchFacts], None]

_READ_FAULTS = (anthropic.AnthropicError, httpx2.HTTPError)
_propagator = LangSmithPropagator()


@contextlib.contextmanager
def _never_in_the_way() -> Iterator[None]:
    """A propagator's or a progress display's fault must not lose a batch that is paid for."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is
        logger.warning("Going on without it: %s: %s", type(error).__name__, error)


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
        self._mirror = mirror(self._recorder.provider, self.settings)

    def _submission(self, requests: list[Request]) -> flows.Flow[BatchHandle]:
        carrier: dict[str, str] = {}
        with _never_in_the_way():
            propagate.inject(carrier)
            _propagator.inject(carrier)
        params = {request["custom_id"]: request["params"] for request in requests}
        models = tuple(sorted({str(each["model"]) for each in params.values()}))
        batch = yield from submit(self.api, self._recorder.journal, requests, carrier, models)
        facts = BatchFacts.from_api(batch)
        handle = BatchHandle(facts.id, facts.request_count, carrier, models, params)
        handle.recording = self._recorder.start(facts, models=models)
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
                handle.recording = self._recorder.start(facts, self._context(handle), handle.models)
            else:
                handle.recording.update(facts)
            self._progress(facts)

        return seen

    def _context(self, handle: BatchHandle) -> Context | None:
        if handle.carrier:
            with _never_in_the_way():
                return _propagator.extract(handle.carrier, propagate.extract(handle.carrier))
        return None

    def _progress(self, facts: BatchFacts) -> None:
        if self._on_progress is not None:
            with _never_in_the_way():
                self._on_progress(facts)

    def _collector(self, handle: BatchHandle, facts: BatchFacts) -> Collector:
        if handle.recording is None:
            raise AssertionError("a batch that was seen has a recording")
        return Collector(handle, facts, handle.recording)

    def _finish(self, collector: Collector, handle: BatchHandle) -> None:
        collector.finish()
        if self._mirror is not None and not self._mirror.delivery.report.held_back:
            self._recorder.journal.tell(handle.id, "runs")

    def _abandon(self, handle: BatchHandle) -> None:
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

    def submit(self, requests: Iterable[Request]) -> list[BatchHandle]:
        """Check the requests whole, then create the batch; its span is open from here on.

        Raises RequestsError before anything is sent, BatchError when the API refuses, and
        SubmissionAmbiguousError when it cannot be known whether a batch was created.
        """
        checked = validate_requests(requests)
        return [flows.drive(self._submission(checked))]

    def collect(self, batch: BatchHandle | str) -> Iterator[BatchResult]:
        """Wait for the batch and stream its results; telemetry is complete at the end.

        Raises BatchNotFoundError for an unknown id, BatchError when it cannot be read.
        """
        handle = self._handle(batch)
        try:
            facts = flows.drive(flows.wait(self.api, handle.id, self.settings, self._seen(handle)))
            collector = self._collector(handle, facts)
            yield from read_all(collector, lambda: self.api.lines(handle.id), _READ_FAULTS)
            self._finish(collector, handle)
        except _READ_FAULTS as error:
            raise BatchError(
                f"results of batch {handle.id} cannot be read: {flows.describe(error)}"
            ) from error
        finally:
            self._abandon(handle)
        self._submitted.pop(handle.id, None)

    def run(self, requests: Iterable[Request]) -> BatchResults:
        """Submit, wait, collect; raises what `submit` and `collect` raise."""
        handles = self.submit(requests)
        results = {
            result.custom_id: result for handle in handles for result in self.collect(handle)
        }
        return BatchResults(results, tuple(handle.id for handle in handles))


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

    async def submit(self, requests: Iterable[Request]) -> list[BatchHandle]:
        """See BatchExecutor.submit."""
        checked = validate_requests(requests)
        return [await flows.drive_async(self._submission(checked))]

    async def collect(self, batch: BatchHandle | str) -> AsyncIterator[BatchResult]:
        """See BatchExecutor.collect."""
        handle = self._handle(batch)
        try:
            facts = await flows.drive_async(
                flows.wait(self.api, handle.id, self.settings, self._seen(handle))
            )
            collector = self._collector(handle, facts)
            for attempt in range(READS):
                try:
                    async for arrived in self.api.lines(handle.id):
                        # On a thread: recording may wait for a slow backend, the loop must not.
                        for result in await asyncio.to_thread(collector.take, arrived):
                            yield result
                except _READ_FAULTS as error:
                    if attempt + 1 == READS and not collector.complete:
                        raise
                    logger.warning("Reading results broke off (%s)", type(error).__name__)
                if collector.complete:
                    break
            await asyncio.to_thread(self._finish, collector, handle)
        except _READ_FAULTS as error:
            raise BatchError(
                f"results of batch {handle.id} cannot be read: {flows.describe(error)}"
            ) from error
        finally:
            self._abandon(handle)
        self._submitted.pop(handle.id, None)

    async def run(self, requests: Iterable[Request]) -> BatchResults:
        """See BatchExecutor.run."""
        handles = await self.submit(requests)
        results = {
            result.custom_id: result for handle in handles async for result in self.collect(handle)
        }
        return BatchResults(results, tuple(handle.id for handle in handles))


ClientT = TypeVar("ClientT", anthropic.Anthropic, anthropic.AsyncAnthropic)


def _client(make: Callable[[], ClientT]) -> ClientT:
    try:
        client = make()
    except anthropic.AnthropicError as error:
        raise ConfigurationError(
            f"no Anthropic client can be made ({error}); set ANTHROPIC_API_KEY"
        ) from error
    return client
