"""What executors can be asked without submitting or collecting anything, sync and async."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from otel_bridge.batches.api import AsyncApi, SyncApi
from otel_bridge.batches.base import ExecutorBase
from otel_bridge.batches.estimating import SAMPLE, Estimate, estimate
from otel_bridge.batches.flows import ask, drive, drive_async
from otel_bridge.batches.requests import Request, validate_requests
from otel_bridge.telemetry import BatchFacts


class Asking(ExecutorBase[SyncApi]):
    """The questions, over `anthropic.Anthropic`."""

    def estimate(
        self, requests: Iterable[Request], *, sample: int | None = SAMPLE, output_tokens: int = 0
    ) -> Estimate:
        """Tokens and cost of requests before anything is paid; nothing is submitted.

        The API counts a sample of `sample` requests, or all for None. `output_tokens` is what an
        answer is expected to have at least. Raises RequestsError, and BatchError when the API
        does not count.
        """
        checked = validate_requests(requests)
        return drive(estimate(self.api, checked, sample, output_tokens))

    def describe(self, batch_id: str) -> BatchFacts:
        """A batch's state, times and counts as the API tells them now.

        Raises BatchNotFoundError for an unknown id, BatchError when it cannot be read.
        """
        return BatchFacts.from_api(drive(ask(lambda: self.api.retrieve(batch_id), batch_id)))

    def since(self, moment: datetime) -> list[BatchFacts]:
        """The workspace's batches created at `moment` or later, the newest first.

        Raises BatchError when the list cannot be read.
        """
        return list(map(BatchFacts.from_api, drive(ask(lambda: self.api.since(moment)))))

    def cancel(self, batch_id: str) -> BatchFacts:
        """Have the API cancel a batch; requests that are done stay done, and billed.

        Raises BatchNotFoundError for an unknown id, BatchError when the API refuses.
        """
        return BatchFacts.from_api(drive(ask(lambda: self.api.cancel(batch_id), batch_id)))


class AsyncAsking(ExecutorBase[AsyncApi]):
    """The questions, over `anthropic.AsyncAnthropic`."""

    async def estimate(
        self, requests: Iterable[Request], *, sample: int | None = SAMPLE, output_tokens: int = 0
    ) -> Estimate:
        """See BatchExecutor.estimate."""
        checked = validate_requests(requests)
        return await drive_async(estimate(self.api, checked, sample, output_tokens))

    async def describe(self, batch_id: str) -> BatchFacts:
        """See BatchExecutor.describe."""
        told = await drive_async(ask(lambda: self.api.retrieve(batch_id), batch_id))
        return BatchFacts.from_api(told)

    async def since(self, moment: datetime) -> list[BatchFacts]:
        """See BatchExecutor.since."""
        found = await drive_async(ask(lambda: self.api.since(moment)))
        return list(map(BatchFacts.from_api, found))

    async def cancel(self, batch_id: str) -> BatchFacts:
        """See BatchExecutor.cancel."""
        told = await drive_async(ask(lambda: self.api.cancel(batch_id), batch_id))
        return BatchFacts.from_api(told)
