"""Requests to submit, and what their results cost by the price list itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any, Protocol, TypedDict

from genai_prices import Usage, calc_price

MODELS = ("claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001")
MakeRequests = Callable[[int], list[Any]]
"""Makes that many requests; each is a dictionary of `custom_id` and `params`, as the SDK takes."""
Cost = Callable[[dict[str, Any]], float]


class ListCost(Protocol):
    """Cost of a message in USD at list price; `split` counts cache writes by their lifetime."""

    def __call__(self, message: dict[str, Any], *, split: bool = True) -> float: ...


class Endpoint(TypedDict):
    """Which requests a fault is for: arguments of `fail_next`."""

    method: str
    path: str


CREATE: Endpoint = {"method": "POST", "path": "/v1/messages/batches$"}
LIST: Endpoint = {"method": "GET", "path": "/v1/messages/batches$"}


def make_requests(count: int) -> list[Any]:
    """Requests with custom ids `item-00000` on, of two models in turn."""
    return [
        {
            "custom_id": f"item-{number:05d}",
            "params": {
                "model": MODELS[number % 2],
                "max_tokens": 100,
                "messages": [{"role": "user", "content": f"secret question {number}"}],
            },
        }
        for number in range(count)
    ]


def cost_of(line: dict[str, Any]) -> float:
    """Cost of a line of results in USD: tokens at half the list price, and its web searches."""
    message = line["result"].get("message")
    if not message:
        return 0.0
    searches: int = (message["usage"].get("server_tool_use") or {}).get("web_search_requests", 0)
    return list_cost_of(message) / 2 + searches * 0.01


def list_cost_of(message: dict[str, Any], *, split: bool = True) -> float:
    """Cost of a message in USD at list price, tokens alone; see `ListCost`."""
    usage = message["usage"]
    read, written = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
    return _list_price(
        message["model"],
        input_tokens=usage["input_tokens"] + read + written,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=split * usage["cache_creation"]["ephemeral_1h_input_tokens"],
        output_tokens=usage["output_tokens"],
    )


@cache
def _list_price(model: str, **tokens: int) -> float:
    price = calc_price(
        Usage(**tokens), model, provider_id="anthropic", genai_request_timestamp=datetime.now(UTC)
    )
    return float(price.total_price)
