"""One harmless call that tells whether the Message Batches API answers, and to this key."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import anthropic
import orjson

from otel_bridge._core.display import safe_endpoint
from otel_bridge._core.json import as_object
from otel_bridge.batches.faults import CALL_FAULTS, CLIENT_FAULTS, failure, no_client
from otel_bridge.batches.redirects import NoRedirects
from otel_bridge.errors import BatchError

_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Probed:
    """The API answered: where, after how many seconds, and how far ahead this clock is (s)."""

    endpoint: str
    seconds: float
    skew: float | None


def probe() -> Probed:
    """Ask for one batch of the list. Raises ConfigurationError without a key, else BatchError."""
    try:
        client = anthropic.Anthropic(
            timeout=_TIMEOUT,
            max_retries=0,
            open_telemetry={"traces": False},
            middleware=[NoRedirects()],
        )
    except CLIENT_FAULTS as error:
        raise no_client(error) from error
    started, endpoint = time.monotonic(), safe_endpoint(str(client.base_url))
    try:
        answer = client.messages.batches.with_raw_response.list(limit=1)
    except CALL_FAULTS as error:
        raise failure(error, endpoint) from error
    finally:
        client.close()
    if not isinstance(as_object(_json(answer.read())).get("data"), list):
        raise BatchError(f"{endpoint}: what answers is not the Message Batches API")
    return Probed(
        endpoint,
        time.monotonic() - started,
        skew(answer.headers.get("date", ""), datetime.now(UTC)),
    )


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def skew(date: str, now: datetime) -> float | None:
    """How many seconds `now` is ahead of an HTTP date, which has whole seconds; None if unknown."""
    try:
        told = parsedate_to_datetime(date)
    except ValueError:
        return None
    return (now - told).total_seconds()
