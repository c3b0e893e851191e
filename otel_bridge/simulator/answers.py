"""What the simulated API answers to a request: a function of the seed and the custom id.

An answer to a request with a schema conforms to it, unless its custom id says how it fails to.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

STRUCTURED_MARKERS = ("refusal", "truncated", "violation")
_FORMATS = {
    "date-time": "2026-01-28T12:00:00Z",
    "date": "2026-01-28",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "hostname": "example.com",
    "uri": "https://example.com/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "0190f6a8-0000-7000-8000-000000000000",
}
_DEPTH = 6
_HINT = re.compile(r"(minimum|maximum|exclusiveMinimum|exclusiveMaximum|minItems): (-?[\d.]+)")
OUTCOMES = ("succeeded", "errored", "canceled", "expired")
TOKENS = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "ephemeral_5m_input_tokens",
    "ephemeral_1h_input_tokens",
    "output_tokens",
    "thinking_tokens",
    "web_search_requests",
)
_MARKERS = {
    **dict.fromkeys(("ok", *STRUCTURED_MARKERS), "succeeded"),
    **{outcome: outcome for outcome in OUTCOMES},
}
_ERRORS = (
    ("invalid_request_error", "messages: at least one message is required"),
    ("overloaded_error", "Overloaded"),
    ("api_error", "Internal server error"),
)
REQUIRED = ("model", "max_tokens", "messages")
ENDS = tuple(_MARKERS)
"""What a word of a custom id may ask for."""
Responder = Callable[[Mapping[str, Any], dict[str, Any]], dict[str, Any]]
"""Has a request and the result that it would have; returns the result that it gets."""


def result_of(custom_id: str, params: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The `result` of one request.

    An outcome's name (or `ok`) between dashes or underscores in the custom id asks for that
    outcome, and where a schema is asked for, so do `refusal`, `truncated` and `violation`; other
    ids mostly succeed. As in the real API, malformed `params` make an errored
    result and not a refused batch.
    """
    dice = random.Random(f"{seed} {custom_id}")
    for name in REQUIRED:
        if params.get(name) in (None, [], ""):
            return _errored("invalid_request_error", f"{name}: Field required", dice)
    outcome = next(
        (_MARKERS[word] for word in re.split("[-_]", custom_id) if word in _MARKERS),
        dice.choices(OUTCOMES, (90, 5, 2, 3))[0],
    )
    if outcome == "succeeded":
        return {"type": "succeeded", "message": message_of(custom_id, params, dice)}
    if outcome == "errored":
        return _errored(*dice.choice(_ERRORS), dice)
    return {"type": outcome}


def ending(ends: Mapping[str, str], seed: int = 0) -> Responder:
    """A responder by which requests end as `ends` says by custom id (see ENDS), all others well."""

    def respond(request: Mapping[str, Any], _: dict[str, Any]) -> dict[str, Any]:
        custom_id = request["custom_id"]
        return result_of(f"{ends.get(custom_id, 'ok')}-{custom_id}", request["params"], seed)

    return respond


def _errored(kind: str, message: str, dice: random.Random) -> dict[str, Any]:
    return {
        "type": "errored",
        "error": {
            "type": "error",
            "error": {"type": kind, "message": message},
            "request_id": f"req_{dice.getrandbits(96):024x}",
        },
    }


def message_of(
    label: str, params: Mapping[str, Any], dice: random.Random, *, tier: str = "batch"
) -> dict[str, Any]:
    """A message with an answer that names `label`, and a usage at a service tier."""
    usage = {**_usage(dice), "service_tier": tier}
    content: list[dict[str, Any]] = [
        {"type": "text", "text": f"Answer to {label}: {dice.randint(0, 100)}"}
    ]
    if usage["output_tokens_details"]["thinking_tokens"]:
        content.insert(0, {"type": "thinking", "thinking": "Let me see.", "signature": "c2ln"})
    message = {
        "id": f"msg_{dice.getrandbits(96):024x}",
        "type": "message",
        "role": "assistant",
        "model": params["model"],
        "content": content,
        "stop_reason": dice.choices(("end_turn", "max_tokens"), (9, 1))[0],
        "stop_sequence": None,
        "usage": usage,
    }
    return conforming(message, label, params, dice)


def _usage(dice: random.Random) -> dict[str, Any]:
    short = dice.randint(1, 5000) if dice.random() < 0.25 else 0
    long = dice.randint(1, 5000) if dice.random() < 0.2 else 0
    output = dice.randint(1, 800)
    return {
        "input_tokens": dice.randint(1, 3000),
        "cache_read_input_tokens": dice.randint(1, 8000) if dice.random() < 0.4 else 0,
        "cache_creation_input_tokens": short + long,
        "cache_creation": {
            "ephemeral_5m_input_tokens": short,
            "ephemeral_1h_input_tokens": long,
        },
        "output_tokens": output,
        "output_tokens_details": {
            "thinking_tokens": dice.randint(0, output) if dice.random() < 0.25 else 0
        },
        "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0}
        if dice.random() < 0.05
        else None,
    }


def truth_of(results: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Requests by outcome and tokens by type over lines of results."""
    truth: Counter[str] = Counter(dict.fromkeys((*OUTCOMES, *TOKENS), 0))
    for line in results:
        result = line["result"]
        truth[result["type"]] += 1
        usage = (result.get("message") or {}).get("usage")
        if usage is None:
            continue
        for flat in (
            usage,
            usage.get("cache_creation") or {},
            usage.get("output_tokens_details") or {},
            usage.get("server_tool_use") or {},
        ):
            for name in TOKENS:
                truth[name] += flat.get(name) or 0
    return dict(truth)


def conforming(
    message: dict[str, Any], label: str, params: Mapping[str, Any], dice: random.Random
) -> dict[str, Any]:
    """The message with content as `output_config.format` or a forced tool call asks for.

    `refusal`, `truncated` or `violation` between dashes or underscores in `label` has it fail
    in that way. Without a schema in `params` the message is as it was.
    """
    schema, tool = _asked(params)
    if schema is None:
        return message
    marker = next((word for word in re.split("[-_]", label) if word in STRUCTURED_MARKERS), None)
    thinking = [block for block in message["content"] if block["type"] == "thinking"]
    if marker == "refusal":
        refused = {"type": "text", "text": "I cannot help with that."}
        return message | {"content": [*thinking, refused], "stop_reason": "refusal"}
    value = instance(schema, dice)
    if marker == "violation":
        value = {"unexpected": True}
    if tool is not None:
        if marker == "truncated":
            value = {}
        call = {
            "type": "tool_use",
            "id": f"toolu_{dice.getrandbits(96):024x}",
            "name": tool,
            "input": value,
        }
        stop = "max_tokens" if marker == "truncated" else "tool_use"
        return message | {"content": [*thinking, call], "stop_reason": stop}
    text = orjson.dumps(value).decode()
    stop = "end_turn"
    if marker == "truncated":
        text, stop = text[: len(text) // 2], "max_tokens"
    return message | {
        "content": [*thinking, {"type": "text", "text": text}],
        "stop_reason": stop,
    }


def _asked(params: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str | None]:
    choice = params.get("tool_choice") or {}
    if choice.get("type") == "tool":
        for tool in params.get("tools") or ():
            if tool.get("name") == choice.get("name"):
                return tool.get("input_schema"), tool["name"]
    output = (params.get("output_config") or {}).get("format") or {}
    return output.get("schema"), None


def instance(
    schema: Mapping[str, Any],
    dice: random.Random,
    root: Mapping[str, Any] | None = None,
    depth: int = 0,
) -> Any:
    """A value that conforms to a schema of the kind that the API takes.

    Bounds are read from the description, too, where the SDK puts those that the API lacks.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return instance(root.get("$defs", {})[name], dice, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return dice.choice(list(schema["enum"]))
    for choices in ("anyOf", "oneOf", "allOf"):
        if schema.get(choices):
            # The last of a recursive type's forms is where it ends: Optional is `T | None`.
            options = schema[choices]
            chosen = options[-1] if depth > _DEPTH else dice.choice(options)
            return instance(chosen, dice, root, depth + 1)
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {k: instance(each, dice, root, depth + 1) for k, each in properties.items()}
        case "array":
            least = int(_bounds(schema).get("minItems", 0))
            count = least if depth > _DEPTH else max(least, dice.randint(1, 3))
            items = schema.get("items", {"type": "string"})
            return [instance(items, dice, root, depth + 1) for _ in range(count)]
        case "integer" | "number" as kind:
            return _number(_bounds(schema), dice, whole=kind == "integer")
        case "boolean":
            return dice.random() < 0.5
        case "null":
            return None
    text = f"word-{dice.randint(0, 999)}"
    return _FORMATS.get(str(schema.get("format")), text)


def _bounds(schema: Mapping[str, Any]) -> dict[str, float]:
    hinted = {k: float(v) for k, v in _HINT.findall(str(schema.get("description", "")))}
    names = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems")
    return hinted | {name: schema[name] for name in names if name in schema}


def _number(bounds: Mapping[str, float], dice: random.Random, *, whole: bool) -> float:
    least = bounds.get("minimum", bounds.get("exclusiveMinimum"))
    most = bounds.get("maximum", bounds.get("exclusiveMaximum"))
    low = least if least is not None else min(0, most if most is not None else 0)
    high = most if most is not None else low + 100
    if not whole:
        return round(low + (high - low) * dice.uniform(0.25, 0.75), 6)
    low += "exclusiveMinimum" in bounds and "minimum" not in bounds
    high -= "exclusiveMaximum" in bounds and "maximum" not in bounds
    return dice.randint(int(low), max(int(low), int(high)))
