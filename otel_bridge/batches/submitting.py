"""Creating batches, never twice: an intent is noted first, and a lost answer is looked up."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2

from otel_bridge import content
from otel_bridge.batches.flows import Flow, credentials_error, describe
from otel_bridge.errors import BatchError, SubmissionAmbiguousError
from otel_bridge.journal import Journal, Part, Submission
from otel_bridge.telemetry import BatchFacts

if TYPE_CHECKING:
    from otel_bridge.batches.api import AsyncApi, SyncApi
    from otel_bridge.batches.requests import Request

logger = logging.getLogger(__name__)

_BUSY = (429, 529)
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout)
_ATTEMPTS = 6
_LOOKS = (1.0, 2.0, 4.0, 8.0)
_CLOCK_SKEW = timedelta(minutes=5)


def submit(
    api: SyncApi | AsyncApi,
    journal: Journal,
    parts: Sequence[Sequence[Request]],
    carrier: Mapping[str, str],
    created: Callable[[Any, Sequence[Request]], Flow[None]],
    *,
    resume: bool,
) -> Flow[list[int | None]]:
    """Create a batch of each part, or find the one that an earlier try created.

    `created` gets each batch and its requests in turn. The journal knows of all intents before
    the first call and of each batch after its own, so a process that was killed in between is
    followed up when the same requests are submitted again. With `resume`, so are batches that a
    submission with `resume` made and nobody collected.

    Returns the intents, which are the caller's until it leaves them.
    """
    whole = _fingerprint(parts)
    known = journal.unfinished(whole, awaited=resume)
    if len(known) == len(parts):
        intents: list[int | None] = [each.intent for each in known]
        journal.take_over(intents)
    else:
        known = []
        planned = [_part(each) for each in parts]
        intents = journal.intend(whole, planned, carrier, awaited=resume)
    try:
        for index, requests in enumerate(parts):
            batch = None
            if known:
                batch = yield from _follow_up(api, journal, known[index])
                if known[index].batch_id is None:
                    known = []  # nothing was begun after the part that broke off
            if batch is None:
                batch = yield from _create(api, journal, requests)
            journal.settle(intents[index], batch.id)
            yield from created(batch, requests)
    except SubmissionAmbiguousError:
        journal.leave(intents)
        raise
    except Exception:
        journal.drop(intents)
        journal.leave(intents)
        raise
    return intents


def _part(requests: Sequence[Request]) -> Part:
    models = {str(request["params"]["model"]) for request in requests}
    return Part(len(requests), tuple(sorted(models)))


def _fingerprint(parts: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    digest = blake2b(digest_size=16)
    for requests in parts:
        for request in requests:
            digest.update(content.dumps(request))
    return digest.hexdigest()


def _follow_up(api: SyncApi | AsyncApi, journal: Journal, part: Submission) -> Flow[Any]:
    """The batch that an earlier process created for a part, None when it created none."""
    if part.batch_id is not None:
        return (yield from _go_on(api, part.batch_id))
    made = datetime.fromtimestamp(part.made_at, UTC)
    found = yield from _look(api, journal, part.request_count, made)
    if found is None:
        reason = f"an earlier process was about to submit these requests at {made:%H:%M:%S}"
        raise _ambiguous(reason, part.request_count)
    if len(found) > 1:
        raise _several("an earlier process submitted these requests", found)
    if not found:
        return None
    logger.warning(
        "An earlier process created batch %s for these requests; going on with it", found[0].id
    )
    return found[0]


def _go_on(api: SyncApi | AsyncApi, batch_id: str) -> Flow[Any]:
    try:
        batch = yield lambda: api.retrieve(batch_id)
    except anthropic.NotFoundError:
        return None  # it was deleted, so nobody can wait for it
    except anthropic.AnthropicError as error:
        raise BatchError(
            f"these requests are in batch {batch_id} already, which cannot be read: "
            f"{describe(error)}"
        ) from error
    logger.warning("These requests are in batch %s already; going on with it", batch_id)
    return batch


def _create(api: SyncApi | AsyncApi, journal: Journal, requests: Sequence[Request]) -> Flow[Any]:
    """Create a batch.

    A refusal (429, 529) made no batch and is tried again with backoff. After an answer that
    never came or a server error, the API's list tells whether there is a batch now.
    """
    started = datetime.now(UTC)
    for attempt in range(_ATTEMPTS):
        try:
            return (yield lambda: api.create(requests))
        except anthropic.APIStatusError as error:
            if error.status_code in _BUSY and attempt + 1 < _ATTEMPTS:
                pause = _backoff(attempt, error)
                logger.warning("The API is busy (%s); trying in %.0f s", error.status_code, pause)
                yield lambda pause=pause: api.sleep(pause)  # type: ignore[misc]
                continue
            if error.status_code < 500 or error.status_code in _BUSY:
                raise BatchError(f"the API refused the batch: {describe(error)}") from error
            reason = describe(error)
        except TypeError as error:
            raise credentials_error(error) from error
        except (anthropic.APIConnectionError, anthropic.APIResponseValidationError) as error:
            reason = describe(error)
            if isinstance(error.__cause__, _NOT_SENT):
                raise BatchError(
                    f"nothing was submitted: {reason}; check ANTHROPIC_BASE_URL and the network"
                ) from error
        return (yield from _reconcile(api, journal, len(requests), started, reason))
    raise AssertionError("the last attempt returns or raises")


def _reconcile(
    api: SyncApi | AsyncApi, journal: Journal, count: int, started: datetime, reason: str
) -> Flow[Any]:
    found = yield from _look(api, journal, count, started)
    if found is None:
        raise _ambiguous(f"no answer came ({reason})", count)
    if len(found) > 1:
        raise _several(f"no answer came ({reason})", found)
    if not found:
        raise SubmissionAmbiguousError(
            f"no answer came ({reason}) and the API lists no batch of {count} requests; "
            "check the endpoint and submit again"
        )
    logger.warning("No answer came, but batch %s was created; going on", found[0].id)
    return found[0]


def _look(
    api: SyncApi | AsyncApi, journal: Journal, count: int, since: datetime
) -> Flow[list[Any] | None]:
    """Batches that a submission of `count` requests may have made; None if nobody can tell."""
    found: list[Any] | None = None
    for pause in _LOOKS:
        yield lambda pause=pause: api.sleep(pause)  # type: ignore[misc]
        try:
            listed = yield lambda: api.since(since - _CLOCK_SKEW)
        except anthropic.AnthropicError:
            continue
        found = [
            batch
            for batch in listed
            if BatchFacts.from_api(batch).request_count == count and not journal.recall(batch.id)
        ]
        if found:
            break
    return found


def _ambiguous(reason: str, count: int) -> SubmissionAmbiguousError:
    return SubmissionAmbiguousError(
        f"{reason} and the API's list cannot be read; see whether it holds a batch of {count} "
        "requests before submitting again"
    )


def _several(reason: str, found: list[Any]) -> SubmissionAmbiguousError:
    ids = ", ".join(batch.id for batch in found)
    return SubmissionAmbiguousError(
        f"{reason} and more than one recent batch fits: {ids}; collect the right one by its id"
    )


def _backoff(attempt: int, error: anthropic.APIStatusError) -> float:
    try:
        asked = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        asked = 0.0
    return min(max(asked, 2.0**attempt * random.uniform(0.8, 1.2)), 120.0)  # noqa: S311 - jitter
