"""A run: its batches over all attempts, and each request's final result."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING

from otel_bridge.batches.flows import Flow, Give, Stream, stream, stream_async
from otel_bridge.batches.retrying import Attempts
from otel_bridge.errors import PartialSubmissionError

if TYPE_CHECKING:
    from otel_bridge.batches.base import ExecutorBase
    from otel_bridge.batches.handle import BatchHandle
    from otel_bridge.batches.results import BatchResult
    from otel_bridge.domain.requests import Request


class Run:
    """What was submitted as one, over all attempts at it."""

    def __init__(self, executor: ExecutorBase, requests: Sequence[Request]) -> None:
        self._executor = executor
        self._requests = requests
        self._attempts = Attempts(requests, executor.settings.max_attempts)
        self.handles: list[BatchHandle] = []
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

    def begin(self, *, new: bool) -> Flow[None]:
        """Submit the requests."""
        try:
            self.handles += yield from self._executor.submission(
                self._requests, resume=True, new=new
            )
        except PartialSubmissionError as error:
            self.lack, self.unsubmitted = error, error.unsubmitted
            self.handles += error.handles

    def results(self) -> Stream[BatchResult]:
        """Each request's final result, once."""
        batches = list(self.handles)
        try:
            while batches:
                for handle in batches:
                    yield from self._executor.reading(handle, self._settled)
                batches = yield from self._executor.follow_up(self._attempts, batches)
                self.handles += batches
            yield Give(self._counted(self._attempts.standing()))
            if self._attempts.complete:
                self._executor.received(self.handles)
        finally:
            self._executor.leave(self.handles)

    def _settled(self, results: list[BatchResult]) -> list[BatchResult]:
        return self._counted([each for each in results if self._attempts.settles(each)])

    def _counted(self, results: list[BatchResult]) -> list[BatchResult]:
        self.outcomes.update(each.type for each in results)
        return results


class BatchRun(Run):
    """Submitted requests; iterating waits for their batches and streams the final results.

    Requests that failed by no fault of their own go into follow-up batches, up to
    OTEL_BRIDGE_MAX_ATTEMPTS; their results are given once, when they are final. Iterate to the
    end, once. Raises what `collect` raises.
    """

    def __iter__(self) -> Iterator[BatchResult]:
        return stream(self.results())


class AsyncBatchRun(Run):
    """The async twin of BatchRun, made by `AsyncBatchExecutor.start`."""

    def __aiter__(self) -> AsyncIterator[BatchResult]:
        return stream_async(self.results())
