"""The shapes of prompts and answers: the GenAI conventions' and LangSmith's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from otel_bridge import semconv
from otel_bridge._core.redaction import Hook

Json = dict[str, Any]

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_call",
    "refusal": "content_filter",
}

_MCP_SERVER_PLAIN = {"name", "type", "url", "tool_configuration"}
_MASK = "[SECRET_DETECTED]"


def _plain(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if callable(dump) else str(value)


def dumps(value: Any) -> bytes:
    """JSON of whatever the anthropic SDK takes, integers beyond 64 bits among it."""
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return json.dumps(value, default=_plain, separators=(",", ":")).encode()


def _dumps(value: Any) -> str:
    return dumps(value).decode()


def _blocks(content: Any) -> Iterable[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, (list, tuple)):
        return [block if isinstance(block, Mapping) else _decoded(block) for block in content]
    return [] if content is None else [_decoded(content)]


def _decoded(value: Any) -> Mapping[str, Any]:
    plain = value if isinstance(value, Mapping) else _plain(value)
    return plain if isinstance(plain, Mapping) else {"type": "text", "text": str(plain)}


def _part(block: Mapping[str, Any]) -> Json:
    kind = block.get("type")
    if kind == "text":
        return {"type": "text", "content": block.get("text", "")}
    if kind in ("thinking", "redacted_thinking"):
        return {"type": "reasoning", "content": block.get("thinking", "")}
    if kind in ("tool_use", "server_tool_use", "mcp_tool_use"):
        return {
            "type": "tool_call",
            "id": block.get("id"),
            "name": block.get("name"),
            "arguments": block.get("input"),
        }
    if isinstance(kind, str) and kind.endswith("tool_result"):
        return {
            "type": "tool_call_response",
            "id": block.get("tool_use_id"),
            "response": block.get("content"),
        }
    source = block.get("source")
    if isinstance(source, Mapping) and source.get("type") in ("base64", "url", "file"):
        return _media(str(kind), source)
    return dict(block)  # the conventions allow a part of any type


def _media(kind: str, source: Mapping[str, Any]) -> Json:
    modality = {"image": "image"}.get(kind, "document")
    if source.get("type") == "url":
        return {"type": "uri", "modality": modality, "uri": source.get("url")}
    if source.get("type") == "file":
        return {"type": "file", "modality": modality, "file_id": source.get("file_id")}
    return {
        "type": "blob",
        "modality": modality,
        "mime_type": source.get("media_type"),
        "content": source.get("data"),
    }


def input_messages(params: Mapping[str, Any]) -> list[Json]:
    """`gen_ai.input.messages` of a request's parameters."""
    messages = params.get("messages") or []
    return [
        {
            "role": message.get("role"),
            "parts": [_part(block) for block in _blocks(message.get("content"))],
        }
        for message in map(_decoded, messages)
    ]


def output_messages(message: Mapping[str, Any]) -> list[Json]:
    """`gen_ai.output.messages` of an answer."""
    reasons = finish_reasons(message)
    return [
        {
            "role": message.get("role", "assistant"),
            "parts": [_part(block) for block in _blocks(message.get("content"))],
            "finish_reason": reasons[0] if reasons else "stop",
        }
    ]


def system_instructions(params: Mapping[str, Any]) -> list[Json] | None:
    """`gen_ai.system_instructions` of a request's parameters; None without any."""
    system = params.get("system")
    return [_part(block) for block in _blocks(system)] if system else None


def finish_reasons(message: Mapping[str, Any]) -> list[str]:
    """`gen_ai.response.finish_reasons` of an answer."""
    reason = message.get("stop_reason")
    return [_FINISH_REASONS.get(reason, reason)] if isinstance(reason, str) else []


def span_content(
    params: Mapping[str, Any] | None,
    message: Mapping[str, Any] | None,
    redaction: Hook | None = None,
) -> dict[str, Any]:
    """The content attributes of a span, messages as JSON, without what `redaction` withholds."""
    known = {
        semconv.GEN_AI_INPUT_MESSAGES: input_messages(params) if params else None,
        semconv.GEN_AI_SYSTEM_INSTRUCTIONS: system_instructions(params) if params else None,
        semconv.GEN_AI_OUTPUT_MESSAGES: output_messages(message) if message else None,
    }
    shown: dict[str, Any] = {
        name: _dumps(value) for name, value in known.items() if value is not None
    }
    if redaction is not None:
        # The hook gets a copy: what it changes must not change the caller's request.
        redacted = {name: redaction(orjson.loads(text)) for name, text in shown.items()}
        shown = {name: _dumps(value) for name, value in redacted.items() if value is not None}
    stops = stop_sequences((params or {}).get("stop_sequences"), redaction)
    return shown | {semconv.GEN_AI_REQUEST_STOP_SEQUENCES: stops} if stops else shown


def stop_sequences(value: Any, redaction: Hook | None = None) -> list[str]:
    """A request's stop sequences, without what `redaction` withholds: they are content."""
    shown = list(value) if isinstance(value, (list, tuple)) else []
    if shown and redaction is not None:
        shown = redaction(shown)
    return [each for each in shown if isinstance(each, str)] if isinstance(shown, list) else []


def error_message(value: str | None, redaction: Hook | None = None) -> str | None:
    """The message of a failure, None where `redaction` withholds it: it may quote the request."""
    shown = redaction(value) if value and redaction is not None else value
    return shown if isinstance(shown, str) and shown else None


def langsmith_inputs(params: Mapping[str, Any]) -> Json:
    """Inputs of a run as `wrap_anthropic` makes them: `system` is the first message."""
    inputs: Json = {k: v for k, v in params.items() if k != "system" and v is not None}
    if servers := inputs.get("mcp_servers"):
        inputs["mcp_servers"] = [_masked(server) for server in servers]
    if system := params.get("system"):
        inputs["messages"] = [
            {"role": "system", "content": system},
            *(params.get("messages") or []),
        ]
    return _jsonable(inputs)


def _masked(server: Any) -> Any:
    """An MCP server as `wrap_anthropic` shows it: what may be a credential is only named."""
    if not isinstance(server, Mapping):
        return server
    return {k: v if k in _MCP_SERVER_PLAIN else _MASK for k, v in server.items()}


def langsmith_outputs(message: Mapping[str, Any]) -> Json:
    """Outputs of a run as `wrap_anthropic` makes them: tool calls in OpenAI's shape."""
    outputs: Json = {k: v for k, v in message.items() if k not in ("usage", "type")}
    blocks = list(_blocks(message.get("content")))
    calls = [block for block in blocks if block.get("type") == "tool_use"]
    if calls:
        texts = (block.get("text") for block in blocks if block.get("type") == "text")
        outputs["content"] = "".join(text for text in texts if isinstance(text, str)) or None
        outputs["tool_calls"] = [
            {
                "id": call.get("id"),
                "type": "function",
                "index": index,
                "function": {"name": call.get("name"), "arguments": _dumps(call.get("input"))},
            }
            for index, call in enumerate(calls)
        ]
    return _jsonable(outputs)


def _jsonable(value: Json) -> Json:
    loaded: Json = orjson.loads(dumps(value))
    return loaded


def langsmith_inputs_from_attributes(attributes: Mapping[str, Any]) -> Json | None:
    """Inputs of a run from the content attributes of a span."""
    messages = _messages(attributes.get(semconv.GEN_AI_INPUT_MESSAGES))
    system = _loads(attributes.get(semconv.GEN_AI_SYSTEM_INSTRUCTIONS))
    if system:
        messages = [{"role": "system", "content": system}, *(messages or [])]
    return {"messages": messages} if messages else None


def langsmith_outputs_from_attributes(attributes: Mapping[str, Any]) -> Json | None:
    """Outputs of a run from the content attributes of a span."""
    messages = _messages(attributes.get(semconv.GEN_AI_OUTPUT_MESSAGES))
    return {"messages": messages} if messages else None


def _messages(text: Any) -> list[Json] | None:
    loaded = _loads(text)
    if not isinstance(loaded, list):
        return None
    return [
        {"role": message.get("role"), "content": message.get("parts", message.get("content"))}
        for message in loaded
        if isinstance(message, dict)
    ]


def _loads(text: Any) -> Any:
    if not isinstance(text, str):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
