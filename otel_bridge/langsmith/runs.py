"""A span as a LangSmith run: the shape that `wrap_anthropic` would have given it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import StatusCode

from otel_bridge import content, semconv
from otel_bridge.pricing import Cost
from otel_bridge.usage import TokenUsage

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from otel_bridge.langsmith.context import RunContext

Run = dict[str, Any]

_GENAI_PREFIXES = ("gen_ai.", "openinference.", "llm.", "traceloop.")
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


def is_genai(attributes: Mapping[str, Any]) -> bool:
    """Whether a span carries attributes of GenAI, OpenInference or OpenLLMetry."""
    return any(name.startswith(_GENAI_PREFIXES) for name in attributes)


def run_type(attributes: Mapping[str, Any]) -> str:
    """LangSmith's run type of a span."""
    return _RUN_TYPES.get(str(attributes.get(semconv.GEN_AI_OPERATION_NAME)), "chain")


def timestamp(nanoseconds: int) -> str:
    """ISO 8601 in UTC with microseconds, as LangSmith reads it."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}+00:00"


def pending_run(span: ReadableSpan, context: RunContext, project: str) -> Run:
    """The run of a span that is still open."""
    attributes = span.attributes or {}
    return {
        "id": str(context.id),
        "trace_id": str(context.trace_id),
        "dotted_order": context.dotted_order,
        "parent_run_id": str(context.parent.id) if context.parent else None,
        "name": _name(span, attributes),
        "run_type": run_type(attributes),
        "start_time": timestamp(context.start_ns),
        "session_name": context.project or project,
        "inputs": {},
        "extra": {"metadata": _metadata(span, attributes)},
    }


def completed_run(
    span: ReadableSpan,
    context: RunContext,
    project: str,
    captured: content.Content | None,
) -> Run:
    """The run of an ended span, with its usage and cost.

    `usage_metadata` goes into the metadata always, and into the outputs too where there are
    outputs, since LangSmith prefers those.
    """
    attributes = span.attributes or {}
    run = pending_run(span, context, project)
    run["end_time"] = timestamp(max(span.end_time or 0, context.start_ns))
    inputs = captured.inputs if captured else None
    outputs = captured.outputs if captured else None
    run["inputs"] = inputs or content.langsmith_inputs_from_attributes(attributes) or {}
    outputs = outputs or content.langsmith_outputs_from_attributes(attributes)
    usage = run["extra"]["metadata"].get("usage_metadata")
    if outputs and usage and run["run_type"] == "llm":
        outputs = {**outputs, "usage_metadata": usage}
    run["outputs"] = outputs or {}
    if span.status.status_code is StatusCode.ERROR:
        kind = attributes.get(semconv.ERROR_TYPE, "error")
        description = span.status.description
        run["error"] = f"{kind}: {description}" if description else str(kind)
    if span.events:
        run["events"] = [
            {"name": event.name, "time": timestamp(event.timestamp), **(event.attributes or {})}
            for event in span.events
            if event.name != "exception"
        ]
    return run


def _name(span: ReadableSpan, attributes: Mapping[str, Any]) -> str:
    anthropic = attributes.get(semconv.GEN_AI_PROVIDER_NAME) == "anthropic"
    if anthropic and run_type(attributes) == "llm":
        return "ChatAnthropic"
    return span.name


def _metadata(span: ReadableSpan, attributes: Mapping[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        name: value
        for name, value in attributes.items()
        if name
        not in (
            semconv.GEN_AI_INPUT_MESSAGES,
            semconv.GEN_AI_OUTPUT_MESSAGES,
            semconv.GEN_AI_SYSTEM_INSTRUCTIONS,
        )
    }
    metadata["otel.trace_id"] = f"{span.context.trace_id:032x}"
    metadata["otel.span_id"] = f"{span.context.span_id:016x}"
    if attributes.get(semconv.GEN_AI_OPERATION_NAME) == "batch":
        return metadata | _batch_metadata(attributes)
    if semconv.STRUCTURED_REQUEST_COUNT in attributes:
        named = {semconv.batch_name(name): value for name, value in attributes.items()}
        return metadata | _batch_metadata(named)
    if run_type(attributes) != "llm":
        return metadata
    metadata["ls_provider"] = attributes.get(semconv.GEN_AI_PROVIDER_NAME) or attributes.get(
        semconv.GEN_AI_SYSTEM, "unknown"
    )
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
        metadata["usage_metadata"] = _usage_metadata(
            TokenUsage.from_attributes(attributes), attributes, semconv.GEN_AI_USAGE_COST
        )
    return metadata


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
        metadata["usage_metadata"] = _usage_metadata(
            TokenUsage.from_batch_attributes(attributes), attributes, semconv.BATCH_COST
        )
    return metadata


def _usage_metadata(
    usage: TokenUsage, attributes: Mapping[str, Any], cost_name: str
) -> dict[str, Any]:
    cost = Cost.from_attributes(attributes, cost_name)
    metadata = usage.to_usage_metadata()
    return metadata | cost.to_usage_metadata() if cost else metadata


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
