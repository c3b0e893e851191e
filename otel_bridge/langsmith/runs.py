"""A span as a LangSmith run, in the shape that `wrap_anthropic` would have given it.

A run is sent as it is, or stamped on its span as attributes, from which LangSmith's OTLP endpoint
builds the same run. Source of the names: docs.langchain.com/langsmith/trace-with-opentelemetry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson
from opentelemetry.trace import StatusCode

from otel_bridge import semconv
from otel_bridge._core.json import as_number
from otel_bridge._core.otel_sdk import attributes_of
from otel_bridge._core.pending_content import Content
from otel_bridge.domain.pricing import PART_NAMES, Cost, price
from otel_bridge.domain.usage import TokenUsage
from otel_bridge.langsmith import dialects

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from otel_bridge.propagation.active_runs import RunContext

Run = dict[str, Any]

_RUN_TYPES = {
    "chat": "llm",
    "text_completion": "llm",
    "generate_content": "llm",
    "execute_tool": "tool",
    "embeddings": "embedding",
    "retrieval": "retriever",
}
_INVOCATION = {
    "ls_temperature": semconv.GEN_AI_REQUEST_TEMPERATURE,
    "ls_max_tokens": semconv.GEN_AI_REQUEST_MAX_TOKENS,
}
_STAMPED = {
    semconv.LANGSMITH_SPAN_ID: "id",
    semconv.LANGSMITH_TRACE_ID: "trace_id",
    semconv.LANGSMITH_SPAN_PARENT_ID: "parent_run_id",
    semconv.LANGSMITH_SPAN_DOTTED_ORDER: "dotted_order",
    semconv.LANGSMITH_TRACE_SESSION_NAME: "session_name",
    semconv.LANGSMITH_TRACE_NAME: "name",
    semconv.LANGSMITH_SPAN_KIND: "run_type",
}


def run_type(attributes: Mapping[str, Any]) -> str:
    """Return LangSmith's run type of a span."""
    return _RUN_TYPES.get(str(attributes.get(semconv.GEN_AI_OPERATION_NAME)), "chain")


@lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def timestamp(nanoseconds: int) -> str:
    """Format a time as ISO 8601 in UTC with microseconds, as LangSmith reads it."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1000:06d}+00:00"


class SpanView:
    """A span as the mirror reads it: its attributes under the conventions' names."""

    __slots__ = ("attributes", "is_own", "provider", "run_type", "span")

    def __init__(self, span: ReadableSpan) -> None:
        scope = span.instrumentation_scope
        attributes = attributes_of(span)
        self.span = span
        self.is_own = scope is not None and scope.name == semconv.SCOPE
        # Ours are in the conventions' names already.
        self.attributes = attributes if self.is_own else dialects.normalised(attributes)
        self.run_type = run_type(self.attributes)
        """LangSmith's run type."""
        self.provider = str(self.attributes.get(semconv.GEN_AI_PROVIDER_NAME, "unknown"))
        """Who ran the model."""

    def demote_to_chain(self) -> None:
        """Make an llm run a chain, whose usage LangSmith does not count."""
        if self.run_type == "llm":
            self.run_type = "chain"

    @property
    def name(self) -> str:
        """The run's name: an Anthropic call is named as everywhere in LangSmith."""
        native = self.provider == "anthropic" and self.run_type == "llm"
        return "ChatAnthropic" if native else self.span.name or "unnamed"

    def error(self, message: str | None) -> str | None:
        """Return the error's type and `message`, None where the span has no error.

        A span's description of its error may quote a prompt or a tool's arguments, so `message` is
        content. The descriptions of our batches and roll-ups are not, and are always used.
        """
        if self.span.status.status_code is not StatusCode.ERROR:
            return None
        raised = (event.attributes or {} for event in self.span.events)
        types = (
            self.attributes.get(semconv.ERROR_TYPE),
            *(e.get("exception.type") for e in raised),
        )
        kind = next((str(each) for each in types if each), "error")
        if self.is_own and semconv.BATCH_CUSTOM_ID not in self.attributes:
            message = self.span.status.description
        return f"{kind}: {message}" if message and message != kind else kind

    def contents(self) -> Content:
        """Return the content that the span itself carries."""
        return replace(
            dialects.contents(self.attributes),
            error=self.span.status.description,
            stops=self.attributes.get(semconv.GEN_AI_REQUEST_STOP_SEQUENCES),
        )


def pending_run(view: SpanView, context: RunContext, project: str) -> Run:
    """Build the run of a span that is still open."""
    return {
        "id": context.id,
        "trace_id": context.trace_id,
        "dotted_order": context.dotted_order,
        "parent_run_id": context.parent.id if context.parent else None,
        "name": view.name,
        "run_type": view.run_type,
        "start_time": timestamp(context.start_ns),
        "session_name": context.project or project,
        "inputs": {},
        "extra": {"metadata": _metadata(view, context)},
    }


def completed_run(
    view: SpanView, context: RunContext, project: str, captured: Content | None
) -> Run:
    """Build the run of an ended span, with usage, cost and the content in `captured`.

    `usage_metadata` goes into the metadata always, and into the outputs too where there are
    outputs, since LangSmith prefers those.
    """
    span = view.span
    run = pending_run(view, context, project)
    run["end_time"] = timestamp(max(span.end_time or 0, context.start_ns))
    run["inputs"] = (captured.inputs if captured else None) or {}
    outputs = (captured.outputs if captured else None) or {}
    usage = run["extra"]["metadata"].get("usage_metadata")
    if outputs and usage and run["run_type"] == "llm":
        outputs = {**outputs, "usage_metadata": usage}
    run["outputs"] = outputs
    if captured and captured.stops and run["run_type"] == "llm":
        run["extra"]["metadata"]["ls_stop"] = captured.stops
    error = view.error(captured.error if captured else None)
    if error is not None:
        run["error"] = error
    if span.events:
        run["events"] = [
            {
                "name": event.name,
                "time": timestamp(event.timestamp),
                **_plain(event.attributes or {}, own=view.is_own),
            }
            for event in span.events
            if event.name != "exception"
        ]
    return run


_IN_FIELDS_OF_RUN = {
    semconv.GEN_AI_INPUT_MESSAGES,
    semconv.GEN_AI_OUTPUT_MESSAGES,
    semconv.GEN_AI_SYSTEM_INSTRUCTIONS,
    semconv.GEN_AI_REQUEST_STOP_SEQUENCES,
    semconv.GEN_AI_USAGE_COST,
    *TokenUsage(1, 1, 3, 1, 1, 1, 1, 1).to_attributes(),
    *_INVOCATION.values(),
    *PART_NAMES,
}
"""Attributes of our spans that a run has in places of its own: its content, usage and cost."""


def _plain(attributes: Mapping[str, Any], *, own: bool) -> dict[str, Any]:
    """Return the attributes that cannot hold content."""
    if own:
        return {name: value for name, value in attributes.items() if name not in _IN_FIELDS_OF_RUN}
    return {name: value for name, value in attributes.items() if not dialects.may_be_content(name)}


def _metadata(view: SpanView, run: RunContext) -> dict[str, Any]:
    attributes, context = view.attributes, view.span.context
    metadata = _plain(attributes, own=view.is_own)
    metadata["otel.trace_id"] = f"{context.trace_id:032x}"
    metadata["otel.span_id"] = f"{context.span_id:016x}"
    if attributes.get(semconv.GEN_AI_OPERATION_NAME) == "batch":
        metadata |= _batch_metadata(attributes)
    elif semconv.STRUCTURED_REQUEST_COUNT in attributes:
        named = {semconv.batch_name(name): value for name, value in attributes.items()}
        metadata |= _batch_metadata(named)
    elif view.run_type == "llm":
        metadata |= _llm_metadata(view)
    return {**run.thread, **metadata} if run.thread else metadata


def _llm_metadata(view: SpanView) -> dict[str, Any]:
    attributes = view.attributes
    metadata: dict[str, Any] = {"ls_provider": view.provider, "ls_model_type": "chat"}
    model = attributes.get(semconv.GEN_AI_REQUEST_MODEL) or attributes.get(
        semconv.GEN_AI_RESPONSE_MODEL
    )
    if model:
        metadata["ls_model_name"] = model
    for name, source in _INVOCATION.items():
        if source in attributes:
            metadata[name] = attributes[source]
    if semconv.GEN_AI_USAGE_INPUT_TOKENS in attributes:
        metadata["usage_metadata"] = _usage_metadata(view)
    return metadata


def _usage_metadata(view: SpanView) -> dict[str, Any]:
    """Return usage and cost; the cost is the span's own, else priced at the span's tier.

    A span of one request has the total alone; the cost's fields are added where they sum to it.
    Where no cost is known, LangSmith uses the list prices of its own table.
    """
    attributes = view.attributes
    usage = TokenUsage.from_attributes(attributes)
    metadata = usage.to_usage_metadata()
    span_cost = as_number(attributes.get(semconv.GEN_AI_USAGE_COST))
    if semconv.BATCH_ROLLUP in attributes:
        cost = Cost.from_attributes(attributes, semconv.GEN_AI_USAGE_COST)
    else:
        cost = _price(view, usage)
    if cost and (span_cost is None or math.isclose(cost.total_cost, span_cost, abs_tol=1e-9)):
        metadata |= cost.to_usage_metadata()
        return metadata
    total = dialects.total_cost(attributes) if span_cost is None else span_cost
    return metadata if total is None else metadata | {"total_cost": total}


def _price(view: SpanView, usage: TokenUsage) -> Cost | None:
    attributes = view.attributes
    model = attributes.get(semconv.GEN_AI_RESPONSE_MODEL) or attributes.get(
        semconv.GEN_AI_REQUEST_MODEL
    )
    if view.provider != "anthropic" or not model:
        return None
    tier = attributes.get(semconv.ANTHROPIC_RESPONSE_SERVICE_TIER)
    return price(
        usage,
        str(model),
        tier=str(tier or ("batch" if view.is_own else "standard")),
        at=datetime.fromtimestamp((view.span.start_time or 0) / 1e9, UTC),
    )


def _batch_metadata(attributes: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {
        "batch_id": attributes.get(semconv.BATCH_ID),
        "request_count": attributes.get(semconv.BATCH_REQUEST_COUNT),
    }
    succeeded = as_number(attributes.get(semconv.BATCH_SUCCEEDED_COUNT))
    if succeeded is not None:
        metadata["successful_count"] = succeeded
        requests = as_number(attributes.get(semconv.BATCH_REQUEST_COUNT)) or 0
        metadata["failed_count"] = requests - succeeded
        # LangSmith reads usage_metadata of llm runs alone and sums children into their parents,
        # so the totals of this chain run inform and are never counted.
        usage = TokenUsage.from_batch_attributes(attributes).to_usage_metadata()
        cost = Cost.from_attributes(attributes, semconv.BATCH_COST)
        metadata["usage_metadata"] = usage if cost is None else usage | cost.to_usage_metadata()
    return metadata


def continuation_run(
    context: RunContext, project: str, batch_id: str, shard: int, batch: RunContext
) -> Run:
    """Build the root of a further trace, for requests beyond LangSmith's limit for one trace."""
    start = timestamp(context.start_ns)
    return {
        "id": context.id,
        "trace_id": context.trace_id,
        "dotted_order": context.dotted_order,
        "name": f"batch {batch_id} (continued, {shard})",
        "run_type": "chain",
        "start_time": start,
        "end_time": start,
        "session_name": context.project or project,
        "inputs": {},
        "outputs": {},
        "extra": {"metadata": {"batch_id": batch_id, "batch_run_id": batch.id}},
    }


def stamps(run: Mapping[str, Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes to add to a span that has `attributes`, so that it becomes `run`.

    Metadata that repeats an attribute of the span is not added.
    """
    metadata = dict(run["extra"]["metadata"])
    usage = metadata.pop("usage_metadata", None)
    added = {name: run[field] for name, field in _STAMPED.items() if run.get(field) is not None}
    added |= {
        semconv.LANGSMITH_METADATA_PREFIX + name: value
        for name, value in metadata.items()
        if value is not None and name not in attributes
    }
    if usage is not None:
        added[semconv.LANGSMITH_USAGE_METADATA] = orjson.dumps(usage).decode()
    return added
