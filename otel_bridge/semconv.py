"""Every attribute, metric and scope name this package writes or reads.

Sources: open-telemetry/semantic-conventions-genai (GenAI, status Development); the `anthropic`
SDK's own spans for `anthropic.*` names it has; OpenLIT for `gen_ai.usage.cost`. Names under
`anthropic.message.batch.` that the SDK lacks are ours, since no convention for batches exists.
"""

from __future__ import annotations

from typing import Final

SCOPE: Final = "otel_bridge"
LANGSMITH_SCOPE: Final = "langsmith"

# GenAI spans
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_K: Final = "gen_ai.request.top_k"
GEN_AI_REQUEST_TOP_P: Final = "gen_ai.request.top_p"
GEN_AI_REQUEST_STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
GEN_AI_INPUT_MESSAGES: Final = "gen_ai.input.messages"
GEN_AI_SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
GEN_AI_TOOL_CALL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
GEN_AI_TOOL_CALL_RESULT: Final = "gen_ai.tool.call.result"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"
GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
GEN_AI_USAGE_COST: Final = "gen_ai.usage.cost"
ERROR_TYPE: Final = "error.type"

# The anthropic SDK's names
ANTHROPIC_USAGE_EPHEMERAL_5M: Final = "anthropic.usage.cache_creation.ephemeral_5m_input_tokens"
ANTHROPIC_USAGE_EPHEMERAL_1H: Final = "anthropic.usage.cache_creation.ephemeral_1h_input_tokens"
ANTHROPIC_RESPONSE_SERVICE_TIER: Final = "anthropic.response.service_tier"
ANTHROPIC_STOP_REASON: Final = "anthropic.message.stop_reason"
ANTHROPIC_REQUEST_ID: Final = "anthropic.request.id"
ANTHROPIC_USAGE_WEB_SEARCH_REQUESTS: Final = "anthropic.usage.server_tool_use.web_search_requests"
BATCH_ID: Final = "anthropic.message.batch.id"
BATCH_REQUEST_COUNT: Final = "anthropic.message.batch.request_count"

# Ours
BATCH_CUSTOM_ID: Final = "anthropic.message.batch.custom_id"
BATCH_OUTCOME: Final = "anthropic.message.batch.outcome"
BATCH_ROLLUP: Final = "anthropic.message.batch.rolled_up_count"
BATCH_PART_COUNT: Final = "anthropic.message.batch.part_count"
BATCH_ATTEMPT: Final = "anthropic.message.batch.attempt"
BATCH_PREVIOUS_IDS: Final = "anthropic.message.batch.previous_ids"
BATCH_CREATED_AT: Final = "anthropic.message.batch.created_at"
BATCH_ENDED_AT: Final = "anthropic.message.batch.ended_at"
BATCH_PROCESSING_STATUS: Final = "anthropic.message.batch.processing_status"
BATCH_SUCCEEDED_COUNT: Final = "anthropic.message.batch.succeeded_count"
BATCH_CANCELED_COUNT: Final = "anthropic.message.batch.canceled_count"
BATCH_MISSING_COUNT: Final = "anthropic.message.batch.missing_count"
BATCH_REQUEST_SPAN_COUNT: Final = "anthropic.message.batch.request_span_count"
BATCH_COST: Final = "anthropic.message.batch.cost"
BATCH_USAGE_PREFIX: Final = "anthropic.message.batch.usage."
BATCH_STATE_EVENT: Final = "anthropic.message.batch.state_change"
COST_DETAIL_PREFIX: Final = "anthropic.usage.cost."

# The span over a structured run; its totals are the batches' own under this prefix
_BATCH_PREFIX: Final = "anthropic.message.batch."
_STRUCTURED_PREFIX: Final = "anthropic.message.batch.structured."
_STRUCTURED_COST_PREFIX: Final = f"{_STRUCTURED_PREFIX}cost."
STRUCTURED_SCHEMA: Final = f"{_STRUCTURED_PREFIX}schema"
STRUCTURED_BATCH_ID: Final = f"{_STRUCTURED_PREFIX}id"
STRUCTURED_BATCH_IDS: Final = f"{_STRUCTURED_PREFIX}ids"
STRUCTURED_REQUEST_COUNT: Final = f"{_STRUCTURED_PREFIX}request_count"
STRUCTURED_SUCCEEDED_COUNT: Final = f"{_STRUCTURED_PREFIX}succeeded_count"
STRUCTURED_OUTCOME_PREFIX: Final = f"{_STRUCTURED_PREFIX}outcome."

# LangSmith's OTLP endpoint
LANGSMITH_SPAN_ID: Final = "langsmith.span.id"
LANGSMITH_SPAN_PARENT_ID: Final = "langsmith.span.parent_id"
LANGSMITH_SPAN_DOTTED_ORDER: Final = "langsmith.span.dotted_order"
LANGSMITH_SPAN_KIND: Final = "langsmith.span.kind"
LANGSMITH_TRACE_ID: Final = "langsmith.trace.id"
LANGSMITH_TRACE_NAME: Final = "langsmith.trace.name"
LANGSMITH_TRACE_SESSION_NAME: Final = "langsmith.trace.session_name"
LANGSMITH_METADATA_PREFIX: Final = "langsmith.metadata."
LANGSMITH_USAGE_METADATA: Final = "langsmith.usage_metadata"

# Metrics
METRIC_USAGE_INPUT: Final = "gen_ai.client.inference.usage.input_tokens"
METRIC_USAGE_OUTPUT: Final = "gen_ai.client.inference.usage.output_tokens"
METRIC_USAGE_CACHE_READ: Final = "gen_ai.client.inference.usage.cache_read.input_tokens"
METRIC_USAGE_CACHE_WRITE: Final = "gen_ai.client.inference.usage.cache_write.input_tokens"
METRIC_USAGE_REASONING: Final = "gen_ai.client.inference.usage.reasoning.output_tokens"
METRIC_OPERATION_INPUT: Final = "gen_ai.client.inference.operation.input_tokens"
METRIC_OPERATION_OUTPUT: Final = "gen_ai.client.inference.operation.output_tokens"
METRIC_TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # noqa: S105 - a metric's name
METRIC_COST: Final = "gen_ai.usage.cost"
METRIC_BATCH_DURATION: Final = "anthropic.message.batch.duration"
METRIC_BATCH_REQUESTS: Final = "anthropic.message.batch.requests"
METRIC_BATCH_ACTIVE: Final = "anthropic.message.batch.active"
METRIC_BATCH_SUBMITTED: Final = "anthropic.message.batch.submitted"
METRIC_BATCH_OLDEST_AGE: Final = "anthropic.message.batch.oldest_age"
METRIC_BATCH_NEXT_EXPIRY: Final = "anthropic.message.batch.next_expiry"
METRIC_COST_AT_LIST: Final = "anthropic.message.batch.cost.at_list_price"
METRIC_COST_UNCACHED: Final = "anthropic.message.batch.cost.without_cache"
METRIC_LANGSMITH_RUNS: Final = "otel_bridge.langsmith.runs"
METRIC_LANGSMITH_WAITING: Final = "otel_bridge.langsmith.waiting"
METRIC_LANGSMITH_SPOOLED: Final = "otel_bridge.langsmith.spooled"
METRIC_LANGSMITH_SPOOL_SIZE: Final = "otel_bridge.langsmith.spool.size"
METRIC_SPANS_DROPPED: Final = "otel_bridge.spans.dropped"
LANGSMITH_OUTCOME: Final = "otel_bridge.langsmith.outcome"
GEN_AI_TOKEN_MODALITY: Final = "gen_ai.token.modality"  # noqa: S105 - an attribute's name
GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - an attribute's name


def structured_name(name: str) -> str:
    """The name, on the span over a structured run, of what a batch span calls `name`."""
    if name.startswith(COST_DETAIL_PREFIX):
        return _STRUCTURED_COST_PREFIX + name.removeprefix(COST_DETAIL_PREFIX)
    return _STRUCTURED_PREFIX + name.removeprefix(_BATCH_PREFIX)


def batch_name(name: str) -> str:
    """What a batch span calls `name` of the span over a structured run: the inverse."""
    if name.startswith(_STRUCTURED_COST_PREFIX):
        return COST_DETAIL_PREFIX + name.removeprefix(_STRUCTURED_COST_PREFIX)
    if name.startswith(_STRUCTURED_PREFIX):
        return _BATCH_PREFIX + name.removeprefix(_STRUCTURED_PREFIX)
    return name
