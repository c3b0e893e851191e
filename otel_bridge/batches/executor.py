"""Executors: submit, wait, collect, and the telemetry of it, sync and async."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

import anthropic

from otel_bridge.batches import flows
from otel_bridge.batches.api import AsyncApi, SyncApi
from otel_bridge.batches.backfilling import Backfilled, due, shifted, told_of
from otel_bridge.batches.base import AsyncProgress, Progress
from otel_bridge.batches.collecting import (
    READ_FAULTS,
    READS,
    again_or_raise,
    read_all,
    unreadable,
)
from otel_bridge.batches.faults import CLIENT_FAULTS, no_client
from otel_bridge.batches.handle import BatchHandle
from otel_bridge.batches.requests import Request, validate_requests
from otel_bridge.batches.results import BatchResult, BatchResults
from otel_bridge.batches.run import AsyncBatchRun, BatchRun
from otel_bridge.batches.structuring import AsyncStructuring, Structuring
from otel_bridge.errors import BatchError, ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from otel_bridge.config import Settings

logger = logging.getLogger(__name__)


class BatchExecutor(Structuring):
    """Runs Message Batches and records them.

    `client` is `anthropic.Anthropic()` from the environment by default. Providers are the global
    ones by default. `on_progress` gets the batch each time the API describes it: its `status`,
    `elapsed`, `expires_at` and `counts`.

    Raises ConfigurationError when there is no client and no key for one, or `on_progress` is
    asynchronous.
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
        if inspect.iscoroutinefunction(on_progress):
            raise ConfigurationError(
                "on_progress is asynchronous, which nothing awaits here; use AsyncBatchExecutor"
            )
        super().__init__(
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            settings=settings,
            on_progress=on_progress,
        )
        self.api = SyncApi(client or _client(anthropic.Anthropic))

    def submit(
        self, requests: Iterable[Request], *, resume: bool = False, new: bool = False
    ) -> list[BatchHandle]:
        """Check the requests whole, then create the batch; its span is open from here on.

        Nothing is sent where it may cost more than OTEL_BRIDGE_MAX_COST. More than one batch
        takes (100,000 requests or 256 MB) becomes several under one span.
        With `resume`, batches of these very requests that an earlier call with `resume` created
        and nobody collected are gone on with, whatever became of its process. With `new`, new
        ones are created even where an earlier call broke off and may have created some.

        Raises RequestsError, ConfigurationError and CostLimitError before anything is sent,
        BatchError when the API refuses, SubmissionAmbiguousError when it cannot be known whether
        a batch was created, and PartialSubmissionError when some batches of several were.
        """
        return flows.drive(self.submission(validate_requests(requests), resume=resume, new=new))

    def collect(self, batch: BatchHandle | str) -> Iterator[BatchResult]:
        """Wait for the batch and stream its results; telemetry is complete at the end.

        Results are given before they are recorded, so that no backend can keep them back. Where
        the API gives too few, there is a warning; collecting the batch again completes it.

        Raises BatchNotFoundError for an unknown id, BatchError when it cannot be read.
        """
        handle = self._handle(batch)
        yield from self.read(handle)
        self.received([handle])

    def read(self, batch: BatchHandle | str) -> Iterator[BatchResult]:
        """As `collect`, and whoever runs the same requests again still goes on with the batch."""
        handle = self._handle(batch)
        try:
            facts = flows.drive(flows.wait(self.api, handle, self.settings, self._seen(handle)))
            collector = self._collector(handle, facts)
            yield from read_all(collector, self.api, handle.id, self.on_given)
            self._finish(collector, handle)
        except READ_FAULTS as error:
            raise unreadable(handle.id, error) from error
        finally:
            self._abandon(handle)
        self._submitted.pop(handle.id, None)

    def start(self, requests: Iterable[Request], *, new: bool = False) -> BatchRun:
        """Submit with `resume`; iterate over what it returns to collect. Raises as `submit`.

        Where only some of several batches could be created, these are collected, and `lack`
        tells what is in none or may be in one.
        """
        return BatchRun(self, validate_requests(requests), new=new)

    def run(self, requests: Iterable[Request], *, new: bool = False) -> BatchResults:
        """Submit, wait, collect, and try again what may be; see `start`."""
        run = self.start(requests, new=new)
        if run.lack:
            logger.error("%s", run.lack)
        results = {result.custom_id: result for result in run}
        return BatchResults(results, tuple(each.id for each in run.handles), run.unsubmitted)

    def backfill(
        self,
        batch_ids: Iterable[str] = (),
        *,
        since: datetime | None = None,
        shift_times: bool = False,
    ) -> Iterator[Backfilled]:
        """Tell of batches that ran without the bridge, by id or created at `since` or later.

        Spans and runs have the times at which the batches ran, or, with `shift_times`, whole
        days later within the last day, and the original times as attributes. Batches that were
        told before are left alone. Raises what `describe` and `since` raise.
        """
        wanted, others = flows.drive(due(self.api, batch_ids, since, self.recorder.told))
        yield from others
        for facts in wanted:
            handle = self._handle(facts.id)
            if shift_times:
                shifted(handle, facts)
            try:
                count = sum(1 for _ in self.collect(handle))
            except BatchError as error:
                yield Backfilled(facts.id, "failed", facts.request_count, str(error))
            else:
                yield told_of(handle, count)


class AsyncBatchExecutor(AsyncStructuring):
    """The async twin of BatchExecutor, over `anthropic.AsyncAnthropic`.

    `on_progress` may be a coroutine function.
    """

    def __init__(
        self,
        client: anthropic.AsyncAnthropic | None = None,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        settings: Settings | None = None,
        on_progress: AsyncProgress | None = None,
    ) -> None:
        super().__init__(
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            settings=settings,
            on_progress=on_progress,
        )
        self.api = AsyncApi(client or _client(anthropic.AsyncAnthropic))

    async def submit(
        self, requests: Iterable[Request], *, resume: bool = False, new: bool = False
    ) -> list[BatchHandle]:
        """See BatchExecutor.submit."""
        checked = validate_requests(requests)
        return await flows.drive_async(self.submission(checked, resume=resume, new=new))

    async def collect(self, batch: BatchHandle | str) -> AsyncIterator[BatchResult]:
        """See BatchExecutor.collect."""
        handle = self._handle(batch)
        async for result in self.read(handle):
            yield result
        self.received([handle])

    async def read(self, batch: BatchHandle | str) -> AsyncIterator[BatchResult]:
        """See BatchExecutor.read."""
        handle = self._handle(batch)
        try:
            facts = await flows.drive_async(
                flows.wait(self.api, handle, self.settings, self._seen(handle))
            )
            collector = self._collector(handle, facts)
            for attempt in range(READS):
                if attempt:
                    collector.begin()
                try:
                    async for arrived in self.api.lines(handle.id):
                        for result in collector.take(arrived):
                            yield result
                        self.on_given()
                        # On a thread: recording may wait for a slow backend, the loop must not.
                        await asyncio.to_thread(collector.record)
                except READ_FAULTS as error:
                    again_or_raise(collector, attempt, error)
                if collector.complete:
                    break
                if attempt + 1 < READS:
                    await self.api.sleep(2.0**attempt)
            await asyncio.to_thread(self._finish, collector, handle)
        except READ_FAULTS as error:
            raise unreadable(handle.id, error) from error
        finally:
            self._abandon(handle)
        self._submitted.pop(handle.id, None)

    async def start(self, requests: Iterable[Request], *, new: bool = False) -> AsyncBatchRun:
        """See BatchExecutor.start."""
        return await AsyncBatchRun.of(self, validate_requests(requests), new=new)

    async def run(self, requests: Iterable[Request], *, new: bool = False) -> BatchResults:
        """See BatchExecutor.run."""
        run = await self.start(requests, new=new)
        if run.lack:
            logger.error("%s", run.lack)
        results = {result.custom_id: result async for result in run}
        return BatchResults(results, tuple(each.id for each in run.handles), run.unsubmitted)

    async def backfill(
        self,
        batch_ids: Iterable[str] = (),
        *,
        since: datetime | None = None,
        shift_times: bool = False,
    ) -> AsyncIterator[Backfilled]:
        """See BatchExecutor.backfill."""
        flow = due(self.api, batch_ids, since, self.recorder.told)
        wanted, others = await flows.drive_async(flow)
        for other in others:
            yield other
        for facts in wanted:
            handle = self._handle(facts.id)
            if shift_times:
                shifted(handle, facts)
            count = 0
            try:
                async for _ in self.collect(handle):
                    count += 1
            except BatchError as error:
                yield Backfilled(facts.id, "failed", facts.request_count, str(error))
            else:
                yield told_of(handle, count)


ClientT = TypeVar("ClientT", anthropic.Anthropic, anthropic.AsyncAnthropic)


def _client(make: Callable[[], ClientT]) -> ClientT:
    try:
        client = make()
    except CLIENT_FAULTS as error:
        raise no_client(error) from error
    return client
