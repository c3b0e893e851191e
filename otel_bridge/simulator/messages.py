"""The Messages API's answer to a single request, whole or as a stream of events.

Source: https://docs.anthropic.com/en/api/messages and https://docs.anthropic.com/en/api/messages-streaming.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import orjson

from otel_bridge.simulator.answers import REQUIRED, message_of
from otel_bridge.simulator.checks import RefusedError
from otel_bridge.simulator.server import Request, Response

PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"
_BYTES_PER_TOKEN = 4
_PIECE = 12


def answer_to(request: Request, seed: int) -> tuple[Response, dict[str, Any]]:
    """The answer to a request, and the message that it tells of.

    The message is a function of seed and request, but for its id, which is new each time. A
    request with tools is answered by a call of the first one, unless it ends with a tool's
    result. Raises RefusedError.
    """
    try:
        params = request.json()
    except ValueError:
        raise RefusedError(400, "The request body is not valid JSON") from None
    for name in REQUIRED:
        if params.get(name) in (None, [], ""):
            raise RefusedError(400, f"{name}: Field required")
    asked = orjson.dumps({**params, "stream": None}, option=orjson.OPT_SORT_KEYS).decode()
    dice = random.Random(f"{seed} {asked}")
    message = message_of("a single request", params, dice, tier="standard")
    message["id"] = f"msg_{uuid4().hex[:24]}"
    if params.get("tools") and not _ends_with_result(params["messages"]):
        call = {
            "type": "tool_use",
            "id": f"toolu_{dice.getrandbits(96):024x}",
            "name": params["tools"][0]["name"],
            "input": {"query": f"Answer to be looked up: {dice.randint(0, 100)}"},
        }
        message |= {"content": [*message["content"], call], "stop_reason": "tool_use"}
    if not params.get("stream"):
        return Response.of_json(message), message
    return Response(200, _events(message), {"content-type": "text/event-stream"}), message


def token_count(request: Request) -> Response:
    """How many input tokens a request would have: a function of its size."""
    try:
        params = request.json()
    except ValueError:
        raise RefusedError(400, "The request body is not valid JSON") from None
    for name in ("model", "messages"):
        if params.get(name) in (None, [], ""):
            raise RefusedError(400, f"{name}: Field required")
    if "max_tokens" in params:
        raise RefusedError(400, "max_tokens: Extra inputs are not permitted")
    return Response.of_json({"input_tokens": len(orjson.dumps(params)) // _BYTES_PER_TOKEN})


def _ends_with_result(messages: list[dict[str, Any]]) -> bool:
    content = messages[-1].get("content")
    return isinstance(content, list) and any(each.get("type") == "tool_result" for each in content)


def _events(message: Mapping[str, Any]) -> Iterator[bytes]:
    usage = message["usage"]
    # What is known at the start: all of the input, and the first token of the output.
    begun = {
        k: v for k, v in usage.items() if k not in ("output_tokens_details", "server_tool_use")
    }
    start = {**message, "content": [], "stop_reason": None, "usage": {**begun, "output_tokens": 1}}
    yield _event("message_start", message=start)
    for index, block in enumerate(message["content"]):
        yield from _block_events(index, block)
    stop = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    counted = {k: v for k, v in usage.items() if k not in ("cache_creation", "service_tier")}
    yield _event("message_delta", delta=stop, usage=counted)
    yield _event("message_stop")


def _block_events(index: int, block: Mapping[str, Any]) -> Iterator[bytes]:
    kind, field, empty, text = _streamed(block)
    yield _event("content_block_start", index=index, content_block={**block, **empty})
    for at in range(0, len(text), _PIECE):
        piece = {"type": kind, field: text[at : at + _PIECE]}
        yield _event("content_block_delta", index=index, delta=piece)
    if "signature" in block:
        signed = {"type": "signature_delta", "signature": block["signature"]}
        yield _event("content_block_delta", index=index, delta=signed)
    yield _event("content_block_stop", index=index)


def _streamed(block: Mapping[str, Any]) -> tuple[str, str, dict[str, Any], str]:
    """A block's deltas: their type, the field they grow, how it starts and what it grows to."""
    match block["type"]:
        case "thinking":
            empty = {"thinking": "", "signature": ""}
            return "thinking_delta", "thinking", empty, block["thinking"]
        case "tool_use":
            arguments = orjson.dumps(block["input"]).decode()
            return "input_json_delta", "partial_json", {"input": {}}, arguments
        case _:
            return "text_delta", "text", {"text": ""}, block["text"]


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))
