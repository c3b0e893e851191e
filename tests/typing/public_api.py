"""What a type checker says of the public API; mypy reads this file, and nothing runs it.

Each `type: ignore` stands for an error that must be reported: mypy's `warn_unused_ignores` fails
where it is not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_type

import anthropic
from anthropic.types import ErrorResponse, Message
from anthropic.types.messages import MessageBatchIndividualResponse
from anthropic.types.messages.batch_create_params import Request
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.trace import TracerProvider
from pydantic import BaseModel

from otel_bridge import (
    AsyncBatchExecutor,
    AsyncBatchRun,
    Backfilled,
    BatchError,
    BatchExecutor,
    BatchHandle,
    BatchNotFoundError,
    BatchResult,
    BatchResults,
    BatchRun,
    BridgeError,
    ConfigurationError,
    Cost,
    CostLimitError,
    Estimate,
    Failure,
    LangSmithSpanExporter,
    LangSmithSpanProcessor,
    PartialSubmissionError,
    RequestsError,
    Settings,
    StructuredRequest,
    StructuredResult,
    StructuredResults,
    SubmissionAmbiguousError,
    TokenUsage,
    instrument,
    nest_traceable,
    uninstrument,
)


class Score(BaseModel):
    value: int


@dataclass
class Label:
    text: str


def executors(tracers: TracerProvider, meters: MeterProvider) -> None:
    BatchExecutor()
    AsyncBatchExecutor()
    BatchExecutor(
        anthropic.Anthropic(),
        tracer_provider=tracers,
        meter_provider=meters,
        settings=Settings(),
        on_progress=lambda batch: print(batch.status),  # noqa: T201
    )
    BatchExecutor(anthropic.AsyncAnthropic())  # type: ignore[arg-type]
    AsyncBatchExecutor(anthropic.Anthropic())  # type: ignore[arg-type]
    BatchExecutor(on_progress=awaited)  # type: ignore[arg-type]
    AsyncBatchExecutor(on_progress=awaited)


async def awaited(batch: object) -> None:
    """Progress that is awaited."""


def sync(executor: BatchExecutor, requests: list[Request], plain: list[dict[str, Any]]) -> None:
    assert_type(executor.submit(requests), list[BatchHandle])
    assert_type(executor.submit(plain, resume=True, new=True), list[BatchHandle])
    assert_type(executor.collect("msgbatch_1"), Iterator[BatchResult])
    assert_type(executor.run(iter(requests)), BatchResults)
    assert_type(executor.estimate(requests, sample=None, output_tokens=5), Estimate)
    run = executor.start(requests)
    assert_type(run, BatchRun)
    for result in run:
        assert_type(result, BatchResult)
    assert_type(run.handles, list[BatchHandle])
    assert_type(run.attempts, int)
    moment = datetime.now().astimezone()
    assert_type(executor.backfill(["msgbatch_1"], since=moment), Iterator[Backfilled])
    executor.submit([1])  # type: ignore[list-item]
    executor.collect(1)  # type: ignore[arg-type]


def closing(made: anthropic.Anthropic) -> None:
    with BatchExecutor(made) as executor:
        assert_type(executor, BatchExecutor)
    assert_type(executor.close(), None)


async def closing_async() -> None:
    async with AsyncBatchExecutor() as executor:
        assert_type(executor, AsyncBatchExecutor)
    await executor.aclose()


async def twin(executor: AsyncBatchExecutor, requests: list[Request]) -> None:
    handles = await executor.submit(requests)
    assert_type(handles, list[BatchHandle])
    assert_type(executor.collect(handles[0]), AsyncIterator[BatchResult])
    assert_type(await executor.run(requests), BatchResults)
    assert_type(await executor.estimate(requests), Estimate)
    run = await executor.start(requests)
    assert_type(run, AsyncBatchRun)
    async for result in run:
        assert_type(result, BatchResult)
    assert_type(executor.backfill(), AsyncIterator[Backfilled])
    scored = await executor.run_structured(Score, requests, model="m", max_tokens=5)
    assert_type(scored, StructuredResults[Score])


def handles(handle: BatchHandle) -> None:
    assert_type(handle.id, str)
    assert_type(handle.to_dict(), dict[str, Any])
    assert_type(BatchHandle.from_dict(handle.to_dict()), BatchHandle)


def results(found: BatchResults) -> None:
    assert_type(found["a"], BatchResult)
    assert_type(found.succeeded, dict[str, BatchResult])
    assert_type(found.failed, dict[str, BatchResult])
    assert_type(found.batch_ids, tuple[str, ...])
    assert_type(found.unsubmitted, tuple[Mapping[str, Any], ...])
    assert_type(found.usage, TokenUsage)
    assert_type(found.cost, Cost | None)
    assert_type(found.to_dicts(), list[dict[str, Any]])
    mapping: Mapping[str, BatchResult] = found
    for custom_id, result in mapping.items():
        assert_type(custom_id, str)
        assert_type(result.type, str)
        assert_type(result.succeeded, bool)
        assert_type(result.message, Message | None)
        assert_type(result.error, ErrorResponse | None)
        assert_type(result.usage, TokenUsage)
        assert_type(result.cost, Cost | None)
        assert_type(result.raw, bytes)
        assert_type(result.to_sdk(), MessageBatchIndividualResponse)
        result.message.content  # type: ignore[union-attr]  # noqa: B018


def figures(usage: TokenUsage, cost: Cost) -> None:
    assert_type(usage + usage, TokenUsage)
    assert_type(usage.output_tokens, int)
    assert_type(usage.total_tokens, int)
    assert_type(cost.total_cost, float)


def structured(executor: BatchExecutor, requests: list[Request]) -> None:
    prompts = [StructuredRequest(custom_id="a", user_prompt="how good?")]
    scored = executor.run_structured(Score, prompts, model="m", max_tokens=5, temperature=0.5)
    assert_type(scored, StructuredResults[Score])
    assert_type(scored["a"], StructuredResult[Score])
    assert_type(scored["a"].value, Score | None)
    assert_type(scored["a"].error, Failure | None)
    assert_type(scored["a"].usage, TokenUsage)
    assert_type(scored["a"].cost, Cost | None)
    assert_type(scored.values_by_id, dict[str, Score])
    assert_type(scored.failed, dict[str, StructuredResult[Score]])
    assert_type(scored.usage, TokenUsage)
    outcomes: Mapping[str, int] = scored.outcomes
    assert_type(outcomes["succeeded"], int)
    labelled = executor.run_structured(Label, requests, model="m", max_tokens=5, method="tool")
    assert_type(labelled.values_by_id, dict[str, Label])
    executor.run_structured(Score, prompts, model="m")  # type: ignore[call-arg]
    executor.run_structured(Score, prompts, model="m", max_tokens=5, method="x")  # type: ignore[arg-type]


def estimates(estimate: Estimate) -> None:
    assert_type(estimate.input_tokens, int)
    assert_type(estimate.cost_low, float | None)
    assert_type(estimate.cost_high, float | None)
    assert_type(estimate.unpriced, tuple[str, ...])


def zero_code(tracers: TracerProvider, meters: MeterProvider) -> None:
    instrument()
    instrument(tracer_provider=tracers, meter_provider=meters, settings=Settings())
    instrument(settings={})  # type: ignore[arg-type]
    nest_traceable()
    uninstrument()


def pipelines() -> tuple[SpanProcessor, SpanExporter]:
    return LangSmithSpanProcessor(settings=Settings()), LangSmithSpanExporter(settings=Settings())


def settings() -> None:
    assert_type(Settings.from_env(), Settings)
    chosen = Settings(poll_interval=1.0, max_request_spans=None, state_dir=None)
    assert_type(chosen.poll_interval, float)
    assert_type(chosen.max_request_spans, int | None)
    assert_type(chosen.langsmith_project, str)
    Settings(poll_interval="often")  # type: ignore[arg-type]
    Settings(no_such_setting=1)  # type: ignore[call-arg]
    chosen.poll_interval = 2.0  # type: ignore[misc]


def errors(partial: PartialSubmissionError) -> None:
    every: list[type[BridgeError]] = [ConfigurationError, CostLimitError, RequestsError, BatchError]
    of_batches: list[type[BatchError]] = [
        BatchNotFoundError,
        PartialSubmissionError,
        SubmissionAmbiguousError,
    ]
    of_values: list[type[ValueError]] = [ConfigurationError, RequestsError]
    for kinds in (every, of_batches, of_values):
        assert kinds
    assert_type(partial.unsubmitted, tuple[Mapping[str, Any], ...])
    assert_type(partial.unknown, tuple[Mapping[str, Any], ...])


def progress(executor: BatchExecutor) -> None:
    described = executor.describe("msgbatch_1")
    assert_type(described.id, str)
    assert_type(described.elapsed, timedelta)
    assert_type(executor.since(described.created_at)[0].status, str)
    assert_type(executor.cancel("msgbatch_1").status, str)
