"""What the simulated API answers to a request: a function of the seed and the custom id."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from otel_bridge.simulator import structured

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
    **dict.fromkeys(("ok", *structured.MARKERS), "succeeded"),
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
    return structured.conforming(message, label, params, dice)


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
