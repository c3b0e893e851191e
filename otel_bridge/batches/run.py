"""A run: its batches over all attempts, and each request's final result."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace

from otel_bridge.batches.flows import Emit, Flow, Stream, consume, stream, stream_async
from otel_bridge.batches.results import BatchResult, BatchResults
from otel_bridge.errors import BatchError, PartialSubmissionError
from otel_bridge.telemetry import Attempt

if TYPE_CHECKING:
    from otel_bridge.batches.engine import Engine
    from otel_bridge.batches.handles import BatchHandle
    from otel_bridge.domain.requests import Request

logger = logging.getLogger(__name__)

_TRANSIENT = frozenset({"overloaded_error", "api_error", "rate_limit_error", "timeout_error"})
"""Errors of the API's own, which say nothing against the request.

Source: https://docs.anthropic.com/en/api/errors
"""


def may_be_retried(result: BatchResult) -> bool:
    """Whether the request failed for a reason that may pass."""
    if result.type == "expired":
        return True
    return result.type == "errored" and result.error_type in _TRANSIENT


class Attempts:
    """Sorts the results of a run's batches into final ones and those to be tried again.

    `most` is the number of batches that a request may go through, the first included.
    """

    def __init__(self, requests: Sequence[Request], most: int) -> None:
        self._requests = {request["custom_id"]: request for request in requests}
        self._most = most
        self._failed: dict[str, BatchResult] = {}
        self._tried: dict[str, BatchResult] = {}
        self.number = 1
        """Number of the attempt whose results are read, from 1."""
        self.complete = True
        """Whether every follow-up that was due could be submitted."""

    def is_final(self, result: BatchResult) -> bool:
        """Whether a result is final. One that is not is kept, and its request tried again."""
        custom_id = result.custom_id
        self._tried.pop(custom_id, None)
        again = self.number < self._most and custom_id in self._requests and may_be_retried(result)
        if again:
            self._failed[custom_id] = result
        return not again

    def next_attempt(self) -> list[Request]:
        """Begin the next attempt. Returns the requests that go into it, in their first order."""
        failed, self._failed = self._failed, {}
        self._tried |= failed
        if failed:
            self.number += 1
        return [each for custom_id, each in self._requests.items() if custom_id in failed]

    def unresolved_failures(self) -> list[BatchResult]:
        """Failures that are final after all, since no later attempt has a result for them."""
        return list(self._tried.values())


class Run:
    """What was submitted as one, over all attempts at it."""

    def __init__(self, engine: Engine, requests: Sequence[Request]) -> None:
        self._engine = engine
        self._requests = requests
        self._attempts = Attempts(requests, engine.settings.max_attempts)
        self.handles: list[BatchHandle] = []
        self.submission_error: PartialSubmissionError | None = None
        self.outcomes: Counter[str] = Counter()

    @property
    def attempts(self) -> int:
        """Number of attempts so far."""
        return self._attempts.number

    @property
    def unsubmitted(self) -> tuple[Request, ...]:
        """Requests that are surely in no batch."""
        return self.submission_error.unsubmitted if self.submission_error else ()

    def begin(self, *, new: bool) -> Flow[None]:
        """Submit the requests."""
        try:
            self.handles += yield from self._engine.submit(self._requests, resume=True, new=new)
        except PartialSubmissionError as error:
            self.submission_error = error
            self.handles += error.handles

    def results(self) -> Stream[BatchResult]:
        """Each request's final result, once."""
        batches = list(self.handles)
        try:
            while batches:
                for handle in batches:
                    yield from self._engine.read(handle, self._final)
                batches = yield from self._follow_up(batches)
                self.handles += batches
            yield Emit(self._counted(self._attempts.unresolved_failures()))
            if self._attempts.complete:
                self._engine.mark_collected(self.handles)
        finally:
            self._engine.release(self.handles)

    def _follow_up(self, previous: Sequence[BatchHandle]) -> Flow[list[BatchHandle]]:
        """Submit what failed in `previous` and may be tried again; nothing where nothing may.

        A follow-up that cannot be submitted is logged: the earlier results are final then.
        """
        again = self._attempts.next_attempt()
        if not again:
            return []
        links = tuple((each.id, _span_of(each)) for each in previous)
        attempt = Attempt(self._attempts.number, links)
        with _in_trace(_span_of(previous[0])):
            try:
                return (yield from self._engine.submit(again, resume=True, attempt=attempt))
            except PartialSubmissionError as error:
                self._attempts.complete = False
                logger.error("%s", error)  # noqa: TRY400 - the message says it
                return list(error.handles)
            except BatchError as error:
                self._attempts.complete = False
                logger.error("%s failed requests are not tried again: %s", len(again), error)  # noqa: TRY400
                return []

    def _final(self, results: list[BatchResult]) -> list[BatchResult]:
        return self._counted([each for each in results if self._attempts.is_final(each)])

    def _counted(self, results: list[BatchResult]) -> list[BatchResult]:
        self.outcomes.update(each.type for each in results)
        return results


def run_all(engine: Engine, requests: Sequence[Request], *, new: bool) -> Flow[BatchResults]:
    """Submit requests, and try again what may be. Returns all final results."""
    run = Run(engine, requests)
    yield from run.begin(new=new)
    if run.submission_error:
        logger.error("%s", run.submission_error)
    results: dict[str, BatchResult] = {}

    def keep(result: BatchResult) -> None:
        results[result.custom_id] = result

    yield from consume(run.results(), keep)
    return BatchResults(results, tuple(each.id for each in run.handles), run.unsubmitted)


class _RunView:
    """What a caller sees of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def handles(self) -> list[BatchHandle]:
        """The batches so far, those of follow-ups last."""
        return self._run.handles

    @property
    def unsubmitted(self) -> tuple[Request, ...]:
        """Requests that are surely in no batch, since one of several could not be created."""
        return self._run.unsubmitted

    @property
    def submission_error(self) -> PartialSubmissionError | None:
        """Why not all requests were submitted, None where all were."""
        return self._run.submission_error

    @property
    def outcomes(self) -> Counter[str]:
        """Number of final results so far by type."""
        return self._run.outcomes

    @property
    def attempts(self) -> int:
        """Number of attempts so far."""
        return self._run.attempts


class BatchRun(_RunView):
    """Submitted requests; iterating waits for their batches and streams the final results.

    Requests that failed by no fault of their own go into follow-up batches, up to
    OTEL_BRIDGE_MAX_ATTEMPTS; their results are given once, when they are final. Iterate to the
    end, once. Raises what `collect` raises.
    """

    def __iter__(self) -> Iterator[BatchResult]:
        return stream(self._run.results())


class AsyncBatchRun(_RunView):
    """The async twin of BatchRun, made by `AsyncBatchExecutor.start`."""

    def __aiter__(self) -> AsyncIterator[BatchResult]:
        return stream_async(self._run.results())


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
