"""Requests of a batch, checked by the rules the API documents before anything is sent."""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from otel_bridge import content
from otel_bridge.errors import RequestsError

MAX_REQUESTS = 100_000
MAX_BYTES = 256_000_000
"""What one batch takes. Source: https://docs.anthropic.com/en/api/creating-message-batches"""
_ENVELOPE_BYTES = 1_000
CUSTOM_ID = re.compile(r"^[a-zA-Z0-9_-]{1,64}\Z")
_REQUIRED = ("model", "max_tokens", "messages")

Request = Mapping[str, Any]


def validate_requests(
    requests: Iterable[Request], places: list[str] | None = None
) -> list[Request]:
    """The requests as a list, or RequestsError that names the place and the fix.

    `places` says where each request stands, for instance "requests.jsonl, line 3".

    Source of the rules: https://docs.anthropic.com/en/api/creating-message-batches
    """
    checked: list[Request] = []
    seen: dict[str, str] = {}
    for index, request in enumerate(requests):
        place = places[index] if places else f"requests[{index}]"
        custom_id = _check(request, place)
        if custom_id in seen:
            raise RequestsError(
                f"{place}: custom_id {custom_id!r} is already used in {seen[custom_id]}; "
                "give each request its own"
            )
        seen[custom_id] = place
        checked.append(request)
    if not checked:
        raise RequestsError("there are no requests; a batch needs at least one")
    return checked


def models_of(requests: Iterable[Request]) -> tuple[str, ...]:
    """The models that checked requests ask for, each once."""
    return tuple(sorted({str(request["params"]["model"]) for request in requests}))


def split_requests(
    requests: Iterable[Request], *, max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_BYTES
) -> list[list[Request]]:
    """The requests in as few chunks, in order, as one batch each may take.

    Raises RequestsError for a request that is too large for any batch.
    """
    chunks: list[list[Request]] = []
    room = 0
    for request in requests:
        size = len(content.dumps(request)) + 1
        if size > max_bytes - _ENVELOPE_BYTES:
            raise RequestsError(
                f"the request {request['custom_id']!r} has {size:,} bytes, more than the "
                f"{max_bytes:,} of a whole batch; shorten it"
            )
        if not chunks or len(chunks[-1]) == max_requests or size > room:
            chunks.append([])
            room = max_bytes - _ENVELOPE_BYTES
        chunks[-1].append(request)
        room -= size
    return chunks


def _check(request: Any, place: str) -> str:
    if not isinstance(request, Mapping):
        raise RequestsError(f'{place}: not an object; use {{"custom_id": ..., "params": ...}}')
    custom_id = request.get("custom_id")
    if not isinstance(custom_id, str):
        raise RequestsError(f"{place}: custom_id is missing; add a string that is unique")
    if not CUSTOM_ID.match(custom_id):
        raise RequestsError(
            f"{place}: custom_id {custom_id!r} must be 1 to 64 letters, digits, - or _"
        )
    params = request.get("params")
    if not isinstance(params, Mapping):
        raise RequestsError(f"{place}: params is missing; add the request's parameters")
    for field in _REQUIRED:
        if params.get(field) in (None, "", []):
            raise RequestsError(f"{place}: params.{field} is missing; add it")
    if params.get("stream"):
        raise RequestsError(f"{place}: params.stream cannot be used in a batch; remove it")
    return custom_id


def read_requests(path: str) -> list[Request]:
    """Read and check a JSONL file of requests; `-` is stdin. Blank lines are skipped.

    Raises RequestsError naming file and line; nothing was sent then.
    """
    name = "stdin" if path == "-" else path
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise RequestsError(f"{name}: cannot be read ({error.strerror}); check the path") from error
    requests: list[Request] = []
    places: list[str] = []
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        if not line.strip():
            continue
        place = f"{name}, line {number}"
        try:
            requests.append(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            raise RequestsError(f"{place}: not JSON ({error}); put one request a line") from None
        places.append(place)
    if not requests:
        raise RequestsError(f"{name}: there are no requests in it; put one request a line")
    return validate_requests(requests, places)
