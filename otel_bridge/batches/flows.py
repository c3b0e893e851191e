"""The steps of submitting and waiting, written once for sync and async.

A flow is a generator that yields a call to make and receives what it returned, or has thrown
into it what it raised; `drive` and `drive_async` make the calls.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Generator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import anthropic
import httpx2

from otel_bridge.errors import (
    BatchError,
    BatchNotFoundError,
    ConfigurationError,
    SubmissionAmbiguousError,
)
from otel_bridge.telemetry import BatchFacts

if TYPE_CHECKING:
    from otel_bridge.batches.api import AsyncApi, SyncApi
    from otel_bridge.batches.requests import Request
    from otel_bridge.config import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")
Call = Callable[[], Any]
Flow = Generator[Call, Any, T]

_DEFINITE = (429, 529)
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout)
_SUBMIT_ATTEMPTS = 6
_RECONCILE_WAITS = (1.0, 2.0, 4.0, 8.0)
_CLOCK_SKEW = timedelta(minutes=5)
_FAULTS_IN_A_ROW = 20
_NOT_FOUND_IN_A_ROW = 3


def drive(flow: Flow[T]) -> T:
    """Make a flow's calls."""
    try:
        call = next(flow)
        while True:
            try:
                value = call()
            except Exception as error:  # noqa: BLE001 - the flow decides
                call = flow.throw(error)
            else:
                call = flow.send(value)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # StopIteration is not generic


async def drive_async(flow: Flow[T]) -> T:
    """Await a flow's calls."""
    try:
        call: Callable[[], Awaitable[Any]] = next(flow)
        while True:
            try:
                value = await call()
            except Exception as error:  # noqa: BLE001 - the flow decides
                call = flow.throw(error)
            else:
                call = flow.send(value)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # StopIteration is not generic


def submit(api: SyncApi | AsyncApi, requests: list[Request]) -> Flow[Any]:
    """Create a batch, never twice.

    A refusal (429, 529) made no batch and is tried again with backoff. After an answer that
    never came or a server error, the API's list tells whether there is a batch now.
    """
    started = datetime.now(UTC)
    for attempt in range(_SUBMIT_ATTEMPTS):
        try:
            return (yield lambda: api.create(requests))
        except anthropic.APIStatusError as error:
            if error.status_code in _DEFINITE and attempt + 1 < _SUBMIT_ATTEMPTS:
                pause = _backoff(attempt, error)
                logger.warning("The API is busy (%s); trying in %.0f s", error.status_code, pause)
                yield lambda pause=pause: api.sleep(pause)  # type: ignore[misc]
                continue
            if error.status_code < 500:
                raise BatchError(f"the API refused the batch: {describe(error)}") from error
            return (yield from _reconcile(api, len(requests), started, describe(error)))
        except (anthropic.APIConnectionError, anthropic.APIResponseValidationError) as error:
            if isinstance(error.__cause__, _NOT_SENT):
                raise BatchError(
                    f"nothing was submitted: {describe(error)}; check ANTHROPIC_BASE_URL and "
                    "the network"
                ) from error
            return (yield from _reconcile(api, len(requests), started, describe(error)))
        except TypeError as error:
            raise _credentials(error) from error
    raise AssertionError("the last attempt returns or raises")


def _reconcile(api: SyncApi | AsyncApi, count: int, started: datetime, reason: str) -> Flow[Any]:
    listed = False
    for wait in _RECONCILE_WAITS:
        yield lambda wait=wait: api.sleep(wait)  # type: ignore[misc]
        try:
            newest = yield api.newest
        except anthropic.AnthropicError:
            continue
        listed = True
        found = [
            batch
            for batch in newest
            if BatchFacts.from_api(batch).request_count == count
            and batch.created_at >= started - _CLOCK_SKEW
        ]
        if len(found) == 1:
            logger.warning("No answer came, but batch %s was created; going on", found[0].id)
            return found[0]
        if found:
            ids = ", ".join(batch.id for batch in found)
            raise SubmissionAmbiguousError(
                f"no answer came ({reason}) and more than one recent batch fits: {ids}; "
                "collect the right one by its id"
            )
    if listed:
        raise SubmissionAmbiguousError(
            f"no answer came ({reason}) and the API lists no batch of {count} requests; "
            "check the endpoint and submit again"
        )
    raise SubmissionAmbiguousError(
        f"no answer came ({reason}) and the API's list cannot be read; see whether it holds a "
        f"batch of {count} requests before submitting again"
    )


def wait(
    api: SyncApi | AsyncApi,
    batch_id: str,
    settings: Settings,
    seen: Callable[[BatchFacts], None],
) -> Flow[BatchFacts]:
    """Poll until the batch ended; `seen` gets each answer.

    Faults that pass (no connection, 429, 5xx) do not end the wait; nor do the first 404s, which
    are reported right after a batch's creation.
    """
    pause = settings.poll_interval
    faults = not_found = 0
    first = True
    while True:
        try:
            facts = BatchFacts.from_api((yield lambda: api.retrieve(batch_id)))
        except anthropic.NotFoundError as error:
            not_found += 1
            if not_found >= _NOT_FOUND_IN_A_ROW:
                raise BatchNotFoundError(
                    f"the API knows no batch {batch_id!r}; check the id and the key's workspace"
                ) from error
            yield lambda: api.sleep(min(1.0, settings.poll_interval))
            continue
        except anthropic.APIStatusError as error:
            faults += 1
            if faults >= _FAULTS_IN_A_ROW or error.status_code < 429:
                raise BatchError(f"batch {batch_id} cannot be read: {describe(error)}") from error
        except TypeError as error:
            raise _credentials(error) from error
        except anthropic.APIConnectionError as error:
            faults += 1
            if first or faults >= _FAULTS_IN_A_ROW:
                raise BatchError(f"batch {batch_id} cannot be read: {describe(error)}") from error
        else:
            faults = not_found = 0
            seen(facts)
            if facts.status == "ended":
                return facts
        first = False
        delay = pause * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret
        yield lambda delay=delay: api.sleep(delay)  # type: ignore[misc]
        pause = min(pause * 1.5, max(settings.poll_max_interval, settings.poll_interval))


def _credentials(error: TypeError) -> Exception:
    """What the SDK means when it has no key for a request, which it then never sends."""
    if "authentication" not in str(error):
        return error
    return ConfigurationError("there is no key for the Anthropic API; set ANTHROPIC_API_KEY")


def describe(error: Exception) -> str:
    """One line for an error of the SDK, with the endpoint where there was no answer."""
    if isinstance(error, anthropic.APIStatusError):
        body = error.body
        inner = body.get("error") if isinstance(body, dict) else None
        message = inner.get("message") if isinstance(inner, dict) else error.message
        hint = "; check ANTHROPIC_API_KEY" if error.status_code == 401 else ""
        return f"{error.status_code} {message}{hint}"
    if isinstance(error, anthropic.APIConnectionError):
        return f"{error.request.url.host}: {error.message}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _backoff(attempt: int, error: anthropic.APIStatusError) -> float:
    try:
        asked = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        asked = 0.0
    return min(max(asked, 2.0**attempt * random.uniform(0.8, 1.2)), 120.0)  # noqa: S311 - jitter
