"""Answers that conform to a JSON schema, and the ways in which an answer may fail to."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

import orjson

MARKERS = ("refusal", "truncated", "violation")
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
    marker = next((word for word in re.split("[-_]", label) if word in MARKERS), None)
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
