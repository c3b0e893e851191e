"""Executors: submit, wait, collect, and the telemetry of it, sync and async."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import anthropic
from typing_extensions import TypeVar

from otel_bridge.batches import backfilling, estimating, structured
from otel_bridge.batches.api import Api, describe, describe_since, make_client
from otel_bridge.batches.api import cancel as cancel_batch
from otel_bridge.batches.backfilling import Backfilled
from otel_bridge.batches.engine import AsyncProgress, Engine, Progress
from otel_bridge.batches.estimating import SAMPLE, Estimate
from otel_bridge.batches.flows import AsyncIo, SyncIo, drive, drive_async, stream, stream_async
from otel_bridge.batches.handles import BatchHandle
from otel_bridge.batches.results import BatchResult, BatchResults
from otel_bridge.batches.run import AsyncBatchRun, BatchRun, Run, run_all
from otel_bridge.batches.structured import (
    Plan,
    StructuredMethod,
    StructuredRequest,
    StructuredResults,
)
from otel_bridge.domain.batch import BatchInfo
from otel_bridge.domain.requests import Request, validate_requests
from otel_bridge.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from otel_bridge.config import Settings

T = TypeVar("T", default=Any)


class BatchExecutor:
    """Runs Message Batches and records them.

    `client` is `anthropic.Anthropic()` from the environment by default. Providers are the global
    ones by default. `on_progress` gets the batch each time the API describes it: its `status`,
    `elapsed`, `expires_at` and `counts`. It is a context manager, which closes it.

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
        api = Api(client or make_client(anthropic.Anthropic), SyncIo(), own_client=client is None)
        self._engine = Engine(api, tracer_provider, meter_provider, settings, on_progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the executor, and its client if it made that itself; it may be called again.

        Batches go on: whoever submits the same requests with `resume` goes on with those that
        were not collected. A client that was passed in and the providers stay as they are. Any
        later call that asks the API raises BatchError.
        """
        drive(self._engine.close())

    def submit(
        self, requests: Iterable[Request], *, resume: bool = False, new: bool = False
    ) -> list[BatchHandle]:
        """Check all requests, then create their batch; its span is open from here on.

        Nothing is sent where it may cost more than OTEL_BRIDGE_MAX_COST. More than one batch
        takes (100,000 requests or 256 MB) becomes several under one span.
        With `resume`, it goes on with batches of these very requests that an earlier call with
        `resume` created and nobody collected, whatever became of its process. With `new`, it
        creates new ones even where an earlier call broke off and may have created some.

        Raises RequestsError, ConfigurationError and CostLimitError before anything is sent,
        BatchError when the API refuses, SubmissionAmbiguousError when it cannot be known whether
        a batch was created, and PartialSubmissionError when some batches of several were.
        """
        return drive(self._engine.submit(validate_requests(requests), resume=resume, new=new))

    def collect(self, batch: BatchHandle | str) -> Iterator[BatchResult]:
        """Wait for the batch and stream its results; telemetry is complete at the end.

        Results are given before they are recorded, so that no backend can keep them back. Where
        the API gives too few, there is a warning; collecting the batch again completes it.

        Raises BatchNotFoundError for an unknown id, BatchError when it cannot be read.
        """
        return stream(self._engine.collect(batch))

    def start(self, requests: Iterable[Request], *, new: bool = False) -> BatchRun:
        """Submit with `resume`; iterate over what it returns to collect. Raises as `submit`.

        Where only some of several batches could be created, these are collected, and
        `submission_error` names the requests that are in none or may be in one.
        """
        run = Run(self._engine, validate_requests(requests))
        drive(run.begin(new=new))
        return BatchRun(run)

    def run(self, requests: Iterable[Request], *, new: bool = False) -> BatchResults:
        """Submit, wait, collect, and try again what may be; see `start`."""
        return drive(run_all(self._engine, validate_requests(requests), new=new))

    def run_structured(
        self,
        schema: type[T] | Mapping[str, Any],
        requests: Iterable[StructuredRequest | Request],
        *,
        model: str,
        max_tokens: int,
        system_prompt: str | None = None,
        method: StructuredMethod = "native",
        **params: Any,
    ) -> StructuredResults[T]:
        """Run requests whose answers conform to a schema, under a span of their own.

        `schema` is a pydantic model, a dataclass or another type that pydantic knows, or a JSON
        schema, which takes the extra `jsonschema`. `method` "native" asks for structured outputs
        by `output_config.format`, "tool" for a forced tool call. `params` are further parameters
        of the Messages API for every request; a request that is given whole may have its own.

        Every request has a result; one without a value says why. Raises what `run` raises.
        """
        params |= {"model": model, "max_tokens": max_tokens}
        plan = Plan(schema, requests, params, system_prompt, method)
        return drive(structured.run_structured(self._engine, plan))

    def estimate(
        self, requests: Iterable[Request], *, sample: int | None = SAMPLE, output_tokens: int = 0
    ) -> Estimate:
        """Tokens and cost of requests before anything is paid; nothing is submitted.

        The API counts a sample of `sample` requests, or all for None. `output_tokens` is what an
        answer is expected to have at least. Raises RequestsError, and BatchError when the API
        does not count.
        """
        checked = validate_requests(requests)
        return drive(estimating.estimate(self._engine.api, checked, sample, output_tokens))

    def backfill(
        self,
        batch_ids: Iterable[str] = (),
        *,
        since: datetime | None = None,
        shift_times: bool = False,
    ) -> Iterator[Backfilled]:
        """Export batches that ran without the bridge, by id or created at `since` or later.

        Spans and runs have the times at which the batches ran, or, with `shift_times`, whole
        days later within the last day, and the original times as attributes. Batches that were
        exported before are left alone. Raises what `describe` and `since` raise.
        """
        return stream(backfilling.backfill(self._engine, batch_ids, since, shift_times=shift_times))

    def describe(self, batch_id: str) -> BatchInfo:
        """A batch's state, times and counts as the API has them now.

        Raises BatchNotFoundError for an unknown id, BatchError when it cannot be read.
        """
        return drive(describe(self._engine.api, batch_id))

    def since(self, moment: datetime) -> list[BatchInfo]:
        """The workspace's batches created at `moment` or later, the newest first.

        Raises BatchError when the list cannot be read.
        """
        return drive(describe_since(self._engine.api, moment))

    def cancel(self, batch_id: str) -> BatchInfo:
        """Have the API cancel a batch; requests that are done stay done, and billed.

        Raises BatchNotFoundError for an unknown id, BatchError when the API refuses.
        """
        return drive(cancel_batch(self._engine.api, batch_id))


class AsyncBatchExecutor:
    """The async twin of BatchExecutor, over `anthropic.AsyncAnthropic`, on asyncio or trio.

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
        api = Api(
            client or make_client(anthropic.AsyncAnthropic), AsyncIo(), own_client=client is None
        )
        self._engine = Engine(api, tracer_provider, meter_provider, settings, on_progress)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """See BatchExecutor.close."""
        await drive_async(self._engine.close())

    async def submit(
        self, requests: Iterable[Request], *, resume: bool = False, new: bool = False
    ) -> list[BatchHandle]:
        """See BatchExecutor.submit."""
        checked = validate_requests(requests)
        return await drive_async(self._engine.submit(checked, resume=resume, new=new))

    def collect(self, batch: BatchHandle | str) -> AsyncIterator[BatchResult]:
        """See BatchExecutor.collect."""
        return stream_async(self._engine.collect(batch))

    async def start(self, requests: Iterable[Request], *, new: bool = False) -> AsyncBatchRun:
        """See BatchExecutor.start."""
        run = Run(self._engine, validate_requests(requests))
        await drive_async(run.begin(new=new))
        return AsyncBatchRun(run)

    async def run(self, requests: Iterable[Request], *, new: bool = False) -> BatchResults:
        """See BatchExecutor.run."""
        return await drive_async(run_all(self._engine, validate_requests(requests), new=new))

    async def run_structured(
        self,
        schema: type[T] | Mapping[str, Any],
        requests: Iterable[StructuredRequest | Request],
        *,
        model: str,
        max_tokens: int,
        system_prompt: str | None = None,
        method: StructuredMethod = "native",
        **params: Any,
    ) -> StructuredResults[T]:
        """See BatchExecutor.run_structured."""
        params |= {"model": model, "max_tokens": max_tokens}
        plan = Plan(schema, requests, params, system_prompt, method)
        return await drive_async(structured.run_structured(self._engine, plan))

    async def estimate(
        self, requests: Iterable[Request], *, sample: int | None = SAMPLE, output_tokens: int = 0
    ) -> Estimate:
        """See BatchExecutor.estimate."""
        checked = validate_requests(requests)
        return await drive_async(
            estimating.estimate(self._engine.api, checked, sample, output_tokens)
        )

    def backfill(
        self,
        batch_ids: Iterable[str] = (),
        *,
        since: datetime | None = None,
        shift_times: bool = False,
    ) -> AsyncIterator[Backfilled]:
        """See BatchExecutor.backfill."""
        return stream_async(
            backfilling.backfill(self._engine, batch_ids, since, shift_times=shift_times)
        )

    async def describe(self, batch_id: str) -> BatchInfo:
        """See BatchExecutor.describe."""
        return await drive_async(describe(self._engine.api, batch_id))

    async def since(self, moment: datetime) -> list[BatchInfo]:
        """See BatchExecutor.since."""
        return await drive_async(describe_since(self._engine.api, moment))

    async def cancel(self, batch_id: str) -> BatchInfo:
        """See BatchExecutor.cancel."""
        return await drive_async(cancel_batch(self._engine.api, batch_id))


def engine_of(executor: BatchExecutor | AsyncBatchExecutor) -> Engine:
    """The inside of an executor, for this package's commands and its tests."""
    return executor._engine  # noqa: SLF001 - the one door
