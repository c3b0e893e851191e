"""What the simulated API refuses, and the envelope that says so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from otel_bridge.simulator.server import Response

MAX_REQUESTS = 100_000
MAX_BYTES = 256_000_000
MAX_PAGE = 1000
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class RefusedError(Exception):
    """The API would refuse the request with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def refusal(status: int, message: str, request_id: str) -> Response:
    """The API's error envelope."""
    envelope = {
        "type": "error",
        "error": {"type": _ERROR_TYPES.get(status, "api_error"), "message": message},
        "request_id": request_id,
    }
    return Response.of_json(envelope, status, **{"request-id": request_id})


def check_key(headers: Mapping[str, str], expected: str | None) -> None:
    """Refuse a request without a key, with another one, or without the API's version."""
    key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
    if not key or (expected and key != expected):
        raise RefusedError(401, "invalid x-api-key")
    if "anthropic-version" not in headers:
        raise RefusedError(400, "anthropic-version: header is required")


def check_requests(requests: Any) -> None:
    """Refuse what the API refuses before it looks into any `params`."""
    if not isinstance(requests, list) or not requests:
        raise RefusedError(400, "requests: List should have at least 1 item")
    if len(requests) > MAX_REQUESTS:
        raise RefusedError(400, f"requests: List should have at most {MAX_REQUESTS} items")
    seen = set()
    for index, request in enumerate(requests):
        if not isinstance(request, Mapping):
            raise RefusedError(400, f"requests.{index}: Input should be an object")
        custom_id = request.get("custom_id")
        if custom_id is None:
            raise RefusedError(400, f"requests.{index}.custom_id: Field required")
        if not isinstance(custom_id, str) or not _CUSTOM_ID.fullmatch(custom_id):
            raise RefusedError(
                400,
                f"requests.{index}.custom_id: String should match pattern "
                "'^[a-zA-Z0-9_-]{1,64}$'",
            )
        if custom_id in seen:
            raise RefusedError(400, f"requests: Duplicate custom_id found: {custom_id}")
        if not isinstance(request.get("params"), Mapping):
            raise RefusedError(400, f"requests.{index}.params: Field required")
        seen.add(custom_id)


def page_limit(query: Mapping[str, str]) -> int:
    """How many batches a page of the list may have."""
    limit = query.get("limit", "20")
    if not limit.isdecimal() or not 1 <= int(limit) <= MAX_PAGE:
        raise RefusedError(400, f"limit: Input should be between 1 and {MAX_PAGE}")
    return int(limit)
