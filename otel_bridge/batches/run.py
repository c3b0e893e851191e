"""A run: its batches over all attempts, and each request's final result."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING

from otel_bridge.batches import flows
from otel_bridge.batches.retrying import Attempts
from otel_bridge.errors import PartialSubmissionError

if TYPE_CHECKING:
    from otel_bridge.batches.executor import AsyncBatchExecutor, BatchExecutor
    from otel_bridge.batches.handle import BatchHandle
    from otel_bridge.batches.requests import Request
    from otel_bridge.batches.results import BatchResult

logger = logging.getLogger(__name__)


class _Run:
    def __init__(
        self, requests: Sequence[Request], handles: Sequence[BatchHandle], most: int
    ) -> None:
        self._attempts = Attempts(requests, most)
        self.handles = list(handles)
        """The batches so far, those of follow-ups last."""
        self.unsubmitted: tuple[Request, ...] = ()
        """Requests that are surely in no batch, since one of several could not be created."""
        self.lack: PartialSubmissionError | None = None
        """Why there are such."""
        self.outcomes: Counter[str] = Counter()
        """Number of final results by type."""

    @property
    def attempts(self) -> int:
        """Number of attempts so far."""
        return self._attempts.number

    def _lacks(self, error: PartialSubmissionError) -> None:
        self.lack, self.unsubmitted = error, error.unsubmitted
        self.handles = list(error.handles)

    def _final(self, result: BatchResult) -> BatchResult:
        self.outcomes[result.type] += 1
        return result


class BatchRun(_Run):
    """Submitted requests; iterating waits for their batches and streams the final results.

    Requests that failed by no fault of their own go into follow-up batches, up to
    OTEL_BRIDGE_MAX_ATTEMPTS; their results are given once, when they are final. Iterate to the
    end, once. Raises what `collect` raises.
    """

    def __init__(self, executor: BatchExecutor, requests: list[Request], *, new: bool) -> None:
        super().__init__(requests, (), executor.settings.max_attempts)
        self._executor = executor
        try:
            self.handles += executor.submit(requests, resume=True, new=new)
        except PartialSubmissionError as error:
            self._lacks(error)

    def __iter__(self) -> Iterator[BatchResult]:
        try:
            yield from self._results()
        finally:
            self._executor.leave(self.handles)

    def _results(self) -> Iterator[BatchResult]:
        handles = list(self.handles)
        while handles:
            for handle in handles:
                for result in self._executor.read(handle):
                    if self._attempts.settles(result):
                        yield self._final(result)
            handles = flows.drive(self._executor.follow_up(self._attempts, handles))
            self.handles += handles
        for result in self._attempts.standing():
            yield self._final(result)
        if self._attempts.complete:
            self._executor.received(self.handles)


class AsyncBatchRun(_Run):
    """The async twin of BatchRun, made by `AsyncBatchExecutor.start`."""

    def __init__(
        self, executor: AsyncBatchExecutor, requests: list[Request], handles: list[BatchHandle]
    ) -> None:
        super().__init__(requests, handles, executor.settings.max_attempts)
        self._executor = executor

    @classmethod
    async def of(
        cls, executor: AsyncBatchExecutor, requests: list[Request], *, new: bool
    ) -> AsyncBatchRun:
        """Submit the requests. Raises what `submit` raises."""
        run = cls(executor, requests, [])
        try:
            run.handles += await executor.submit(requests, resume=True, new=new)
        except PartialSubmissionError as error:
            run._lacks(error)
        return run

    async def __aiter__(self) -> AsyncIterator[BatchResult]:
        try:
            async for result in self._results():
                yield result
        finally:
            self._executor.leave(self.handles)

    async def _results(self) -> AsyncIterator[BatchResult]:
        handles = list(self.handles)
        while handles:
            for handle in handles:
                async for result in self._executor.read(handle):
                    if self._attempts.settles(result):
                        yield self._final(result)
            handles = await flows.drive_async(self._executor.follow_up(self._attempts, handles))
            self.handles += handles
        for result in self._attempts.standing():
            yield self._final(result)
        if self._attempts.complete:
            self._executor.received(self.handles)
