"""A span as a LangSmith run: the shape that `wrap_anthropic` would have given it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import StatusCode

from otel_bridge import content, semconv
from otel_bridge.langsmith import dialects
from otel_bridge.pricing import Cost, price
from otel_bridge.usage import TokenUsage

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from otel_bridge.langsmith.context import RunContext

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
    "ls_stop": semconv.GEN_AI_REQUEST_STOP_SEQUENCES,
}


def run_type(attributes: Mapping[str, Any]) -> str:
    """LangSmith's run type of a span."""
    return _RUN_TYPES.get(str(attributes.get(semconv.GEN_AI_OPERATION_NAME)), "chain")


def timestamp(nanoseconds: int) -> str:
    """ISO 8601 in UTC with microseconds, as LangSmith reads it."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}+00:00"


@dataclass(frozen=True, slots=True)
class View:
    """A span as the mirror reads it: its attributes under the conventions' names.

    `counts` is False for a span over a call that another run counts: it becomes a chain run,
    and only what is of type llm has usage that LangSmith adds up.
    """

    span: ReadableSpan
    attributes: Mapping[str, Any]
    ours: bool
    counts: bool = True

    @classmethod
    def of(cls, span: ReadableSpan) -> View:
        """Read a span; ours are in the conventions' names already."""
        scope = span.instrumentation_scope
        ours = scope is not None and scope.name == semconv.SCOPE
        attributes = span.attributes or {}
        return cls(span, attributes if ours else dialects.normalised(attributes), ours)

    def counting(self, *, counts: bool) -> View:
        """The same span, told whether it counts its call."""
        return replace(self, counts=counts)

    @property
    def run_type(self) -> str:
        """LangSmith's run type."""
        kind = run_type(self.attributes)
        return kind if self.counts or kind != "llm" else "chain"

    @property
    def provider(self) -> str:
        """Who ran the model."""
        return str(self.attributes.get(semconv.GEN_AI_PROVIDER_NAME, "unknown"))

    @property
    def name(self) -> str:
        """The run's name: an Anthropic call is named as everywhere in LangSmith."""
        native = self.provider == "anthropic" and self.run_type == "llm"
        return "ChatAnthropic" if native else self.span.name

    @property
    def error(self) -> str | None:
        """What failed. A tool's own words may quote its arguments and are content."""
        if self.span.status.status_code is not StatusCode.ERROR:
            return None
        kind = str(self.attributes.get(semconv.ERROR_TYPE, "error"))
        description = self.span.status.description
        return f"{kind}: {description}" if description and self.run_type != "tool" else kind

    def contents(self) -> content.Content:
        """Inputs and outputs that the span itself carries."""
        return dialects.contents(self.attributes)


def pending_run(view: View, context: RunContext, project: str) -> Run:
    """The run of a span that is still open."""
    return {
        "id": str(context.id),
        "trace_id": str(context.trace_id),
        "dotted_order": context.dotted_order,
        "parent_run_id": str(context.parent.id) if context.parent else None,
        "name": view.name,
        "run_type": view.run_type,
        "start_time": timestamp(context.start_ns),
        "session_name": context.project or project,
        "inputs": {},
        "extra": {"metadata": {**context.thread, **_metadata(view)}},
    }


def completed_run(
    view: View, context: RunContext, project: str, captured: content.Content | None
) -> Run:
    """The run of an ended span, with its usage and cost, and the content that may be told.

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
    if view.error is not None:
        run["error"] = view.error
    if span.events:
        run["events"] = [
            {
                "name": event.name,
                "time": timestamp(event.timestamp),
                **_plain(event.attributes or {}, ours=view.ours),
            }
            for event in span.events
            if event.name != "exception"
        ]
    return run


_CONTENT = (
    semconv.GEN_AI_INPUT_MESSAGES,
    semconv.GEN_AI_OUTPUT_MESSAGES,
    semconv.GEN_AI_SYSTEM_INSTRUCTIONS,
)


def _plain(attributes: Mapping[str, Any], *, ours: bool) -> dict[str, Any]:
    """What is surely no content."""
    if ours:
        return {name: value for name, value in attributes.items() if name not in _CONTENT}
    return {name: value for name, value in attributes.items() if not dialects.may_be_content(name)}


def _metadata(view: View) -> dict[str, Any]:
    attributes = view.attributes
    metadata = _plain(attributes, ours=view.ours)
    context = view.span.context
    metadata["otel.trace_id"] = f"{context.trace_id:032x}"
    metadata["otel.span_id"] = f"{context.span_id:016x}"
    if attributes.get(semconv.GEN_AI_OPERATION_NAME) == "batch":
        return metadata | _batch_metadata(attributes)
    if semconv.STRUCTURED_REQUEST_COUNT in attributes:
        named = {semconv.batch_name(name): value for name, value in attributes.items()}
        return metadata | _batch_metadata(named)
    if view.run_type != "llm":
        return metadata
    metadata["ls_provider"] = view.provider
    metadata["ls_model_type"] = "chat"
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


def _usage_metadata(view: View) -> dict[str, Any]:
    """Usage and cost: the cost that the span tells, else at the tier that it tells.

    Where neither is known, LangSmith takes list prices from a table of its own.
    """
    attributes = view.attributes
    usage = TokenUsage.from_attributes(attributes)
    metadata = usage.to_usage_metadata()
    cost = Cost.from_attributes(attributes, semconv.GEN_AI_USAGE_COST)
    if cost is None and view.provider == "anthropic":
        cost = _price(view, usage)
    if cost is not None and (view.ours or cost.total_cost):
        return metadata | cost.to_usage_metadata()
    total = attributes.get(semconv.GEN_AI_USAGE_COST, dialects.total_cost(attributes))
    return metadata if total is None else metadata | {"total_cost": total}


def _price(view: View, usage: TokenUsage) -> Cost | None:
    attributes = view.attributes
    model = attributes.get(semconv.GEN_AI_RESPONSE_MODEL) or attributes.get(
        semconv.GEN_AI_REQUEST_MODEL
    )
    if view.ours or not model:
        return None
    return price(
        usage,
        str(model),
        tier=str(attributes.get(semconv.ANTHROPIC_RESPONSE_SERVICE_TIER, "standard")),
        at=datetime.fromtimestamp((view.span.start_time or 0) / 1e9, UTC),
    )


def _batch_metadata(attributes: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {
        "batch_id": attributes.get(semconv.BATCH_ID),
        "request_count": attributes.get(semconv.BATCH_REQUEST_COUNT),
    }
    succeeded = attributes.get(semconv.BATCH_SUCCEEDED_COUNT)
    if succeeded is not None:
        metadata["successful_count"] = succeeded
        metadata["failed_count"] = attributes.get(semconv.BATCH_REQUEST_COUNT, 0) - succeeded
        # LangSmith reads usage_metadata of llm runs alone and sums children into their parents,
        # so the totals of this chain run inform and are never counted.
        usage = TokenUsage.from_batch_attributes(attributes).to_usage_metadata()
        cost = Cost.from_attributes(attributes, semconv.BATCH_COST)
        metadata["usage_metadata"] = usage | cost.to_usage_metadata() if cost else usage
    return metadata


def continuation_run(
    context: RunContext, project: str, batch_id: str, part: int, batch: RunContext
) -> Run:
    """The root of a further trace for requests beyond what LangSmith takes in one."""
    start = timestamp(context.start_ns)
    return {
        "id": str(context.id),
        "trace_id": str(context.trace_id),
        "dotted_order": context.dotted_order,
        "name": f"batch {batch_id} (continued, {part})",
        "run_type": "chain",
        "start_time": start,
        "end_time": start,
        "session_name": context.project or project,
        "inputs": {},
        "outputs": {},
        "extra": {"metadata": {"batch_id": batch_id, "batch_run_id": str(batch.id)}},
    }
