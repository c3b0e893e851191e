"""The attributes of other libraries' GenAI spans under the conventions' names.

Read from the source of, and from spans caught of: `anthropic` 2.13 (its own spans),
`opentelemetry-instrumentation-genai-anthropic` 1.3b0, OpenLLMetry's
`opentelemetry-instrumentation-anthropic` 0.62, `openinference-instrumentation-anthropic` 3.1 and
`logfire` 5.4. All of them count cached tokens in their input tokens, as the conventions do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from otel_bridge import semconv
from otel_bridge._core.json import as_number
from otel_bridge._core.pending_content import Content
from otel_bridge.domain import messages
from otel_bridge.domain.usage import TokenUsage

Attributes = Mapping[str, Any]
Json = dict[str, Any]

_GENAI = ("gen_ai.", "openinference.", "llm.", "traceloop.")
_COPIED = re.compile(r"gen_ai\.conversation\.id|traceloop\.association\..*")
"""What processors copy from baggage onto every span, whatever it is about."""

_RENAMED = {
    "gen_ai.system": semconv.GEN_AI_PROVIDER_NAME,
    "llm.provider": semconv.GEN_AI_PROVIDER_NAME,
    "llm.system": semconv.GEN_AI_PROVIDER_NAME,
    "llm.request.model_name": semconv.GEN_AI_REQUEST_MODEL,
    "llm.model_name": semconv.GEN_AI_REQUEST_MODEL,
    "llm.response.model_name": semconv.GEN_AI_RESPONSE_MODEL,
    "llm.token_count.prompt": semconv.GEN_AI_USAGE_INPUT_TOKENS,
    "llm.token_count.completion": semconv.GEN_AI_USAGE_OUTPUT_TOKENS,
    "llm.token_count.prompt_details.cache_read": semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS,
    "llm.token_count.prompt_details.cache_write": semconv.GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS,
    "llm.token_count.completion_details.reasoning": semconv.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS,
    "session.id": semconv.GEN_AI_CONVERSATION_ID,
    "tool.name": semconv.GEN_AI_TOOL_NAME,
}
_OPERATIONS = {
    "openinference.span.kind": {
        "LLM": "chat",
        "TOOL": "execute_tool",
        "AGENT": "invoke_agent",
        "RETRIEVER": "retrieval",
        "RERANKER": "retrieval",
        "EMBEDDING": "embeddings",
    },
    "traceloop.span.kind": {"tool": "execute_tool", "agent": "invoke_agent"},
    "llm.request.type": {"chat": "chat", "completion": "text_completion"},
}
_PARAMETERS = {
    "max_tokens": semconv.GEN_AI_REQUEST_MAX_TOKENS,
    "temperature": semconv.GEN_AI_REQUEST_TEMPERATURE,
    "top_p": semconv.GEN_AI_REQUEST_TOP_P,
    "top_k": semconv.GEN_AI_REQUEST_TOP_K,
    "stop_sequences": semconv.GEN_AI_REQUEST_STOP_SEQUENCES,
}
_TOTAL_COSTS = ("operation.cost", "llm.cost.total")
_INPUTS = ("input.value", "traceloop.entity.input", semconv.GEN_AI_TOOL_CALL_ARGUMENTS)
_OUTPUTS = ("output.value", "traceloop.entity.output", semconv.GEN_AI_TOOL_CALL_RESULT)

_OWNED = re.compile(
    r"(gen_ai|llm|openinference|traceloop|input|output|logfire|metadata|request_data|response_data)"
    r"(\..*)?"
)
"""Names of the GenAI libraries: of these, only what is listed below is known to be no content."""
_PLAIN = re.compile(
    r"gen_ai\.(system|operation\.name|provider\.name|conversation\.id|agent\.(id|name|version)"
    r"|tool\.(name|type|call\.id)|output\.type|data_source\.id|workflow\.name|is_streaming"
    r"|request\.(?!.*(schema|message|prompt|content|tool|input|stop))[\w.]+"
    r"|response\.(id|model|finish_reasons|time_to_first_chunk)"
    r"|usage\.(?!raw$)[\w.]+|token\.\w+|evaluation\.(name|score\..*))"
    r"|llm\.(provider|system|model_name|finish_reason|is_streaming|(request|response)\.(?!stop)\w+"
    r"|token_count\..*|cost\..*|usage\..*)"
    r"|openinference\.span\.kind"
    r"|traceloop\.(span\.kind|workflow\.name|entity\.(name|path|version)|association\..*)"
    r"|logfire\.(span_type|level_num|tags)"
)
_SAFE = re.compile(
    r"(anthropic|http(?!.*\.(header|body))|server|client|network|error(?!\.message)|code|service|otel"
    r"|thread|rpc)"
    r"\..*"
)
_CONTENT_WORDS = re.compile(
    r"prompt|completion|message|content|input|output|argument|param|result|response|request|body"
    r"|instruction|document|query|text|transcript|thought|reasoning|description|schema|header"
)
"""Words by which an unknown library would name its content."""


def is_genai(names: Any) -> bool:
    """Whether attributes of these names make a span one of GenAI, OpenInference or OpenLLMetry."""
    return any(name.startswith(_GENAI) and not _COPIED.fullmatch(name) for name in names)


@lru_cache(maxsize=10_000)
def may_be_content(name: str) -> bool:
    """Whether an attribute of this name may hold a prompt, an answer or a tool's arguments."""
    if _OWNED.fullmatch(name):
        return not _PLAIN.fullmatch(name)
    return not _SAFE.fullmatch(name) and bool(_CONTENT_WORDS.search(name.lower()))


def normalised(attributes: Attributes) -> Json:
    """Return the attributes with the conventions' names added to the dialect's own.

    A value that the span has under the conventions' name is kept.
    """
    renamed: Json = dict(attributes)
    for name, current in _RENAMED.items():
        if name in attributes:
            renamed.setdefault(current, attributes[name])
    for name, operations in _OPERATIONS.items():
        operation = operations.get(str(attributes.get(name)))
        if operation:
            renamed.setdefault(semconv.GEN_AI_OPERATION_NAME, operation)
    parameters = _object(attributes.get("llm.invocation_parameters"))
    for name, current in _PARAMETERS.items():
        if parameters.get(name) is not None:
            renamed.setdefault(current, parameters[name])
    for name in (semconv.GEN_AI_REQUEST_STOP_SEQUENCES, semconv.GEN_AI_RESPONSE_FINISH_REASONS):
        if isinstance(renamed.get(name), str):
            renamed[name] = _loads(renamed[name])
    usage = _object(attributes.get("gen_ai.usage.raw"))
    if usage and renamed.get(semconv.GEN_AI_PROVIDER_NAME) == "anthropic":
        renamed |= TokenUsage.from_api(usage).to_attributes(legacy=False)
        if tier := usage.get("service_tier"):
            renamed.setdefault(semconv.ANTHROPIC_RESPONSE_SERVICE_TIER, tier)
    if semconv.GEN_AI_RESPONSE_ID not in renamed and "llm.provider" in attributes:
        answer = _object(attributes.get("output.value"))
        if answer.get("id"):
            renamed[semconv.GEN_AI_RESPONSE_ID] = answer["id"]
    return renamed


def total_cost(attributes: Attributes) -> float | None:
    """Return the cost in USD that a library calculated itself, at list price."""
    for name in _TOTAL_COSTS:
        if (value := as_number(attributes.get(name))) is not None:
            return float(value)
    return None


def contents(attributes: Attributes) -> Content:
    """Return the inputs and outputs of a run that the span carries."""
    return Content(
        messages.langsmith_inputs_from_attributes(attributes)
        or _value(attributes, _INPUTS, "messages", messages.langsmith_inputs, "input"),
        messages.langsmith_outputs_from_attributes(attributes)
        or _value(attributes, _OUTPUTS, "content", messages.langsmith_outputs, "output"),
    )


def _value(
    attributes: Attributes, names: tuple[str, ...], sign: str, anthropic: Any, key: str
) -> Json | None:
    """Return the first attribute present; Anthropic's requests and answers in LangSmith's shape."""
    for name in names:
        if name in attributes:
            loaded = _loads(attributes[name])
            if not isinstance(loaded, dict):
                return {key: loaded}
            return anthropic(loaded) if isinstance(loaded.get(sign), list) else loaded
    return None


def _object(text: Any) -> Json:
    loaded = _loads(text)
    return loaded if isinstance(loaded, dict) else {}


def _loads(text: Any) -> Any:
    """Return the value of JSON text, and anything else unchanged."""
    try:
        return orjson.loads(text) if isinstance(text, str) else text
    except orjson.JSONDecodeError:
        return text
