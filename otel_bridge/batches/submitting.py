"""Creating batches, never twice: a submission is recorded before the call that creates its batch.

After a lost answer, the API's list tells whether there is a batch.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import anthropic

from otel_bridge.batches.faults import describe, misconfigured, refused, unreached
from otel_bridge.batches.flows import Flow
from otel_bridge.batches.reconciling import Found, created_earlier, known_here, reconcile
from otel_bridge.domain.messages import dumps
from otel_bridge.domain.requests import Request, models_of
from otel_bridge.errors import BatchError, PartialSubmissionError, SubmissionAmbiguousError
from otel_bridge.journal import Journal, PlannedBatch, Submission

if TYPE_CHECKING:
    from otel_bridge.batches.api import AsyncApi, SyncApi
    from otel_bridge.batches.handle import BatchHandle

logger = logging.getLogger(__name__)

_BUSY = (429, 529)
_ATTEMPTS = 6

Created = Callable[[Found, Sequence[Request]], Flow["BatchHandle"]]


@dataclass(frozen=True, slots=True)
class _Planned:
    """One batch to be: its requests, its submission's id, and its submission by an earlier try."""

    requests: Sequence[Request]
    submission_id: int | None
    known: Submission | None

    @property
    def begun(self) -> bool:
        """Whether there is a batch of it from earlier."""
        return self.known is not None and self.known.batch_id is not None


def submit(
    api: SyncApi | AsyncApi,
    journal: Journal,
    parts: Sequence[Sequence[Request]],
    carrier: Mapping[str, str],
    created: Created,
    *,
    after: Iterable[str],
    resume: bool,
    new: bool,
) -> Flow[list[BatchHandle]]:
    """Create a batch of each part, or find the one that an earlier try created.

    `created` gets each batch and its requests in turn. The journal knows all submissions before
    the first call and each batch after its own call, so what was broken off in between is
    followed up when the same requests are submitted again. With `resume`, so are batches that a
    submission with `resume` created and nobody collected; the caller then owns the submissions
    until it releases them. With `new`, nothing from earlier is. `after` are the batches that these
    requests failed in: the same ones after others are another submission.
    """
    plan = _plan(journal, parts, carrier, after, resume=resume, new=new)
    handles: list[BatchHandle] = []
    try:
        for part in plan:
            found = None
            if part.known is not None:
                found = yield from created_earlier(api, journal, part.known, part.requests)
            if found is None:
                found = yield from _create(api, journal, plan, part)
            if not found.adopted:
                known_here.add(found.batch.id)
            journal.bind_batch(part.submission_id, found.batch.id, tentative=found.adopted)
            handle = yield from created(found, part.requests)
            handle.submission_id = part.submission_id
            handles.append(handle)
    except BaseException as error:
        # Also where it is an interruption: then nobody knows what became of the call.
        journal.release(part.submission_id for part in plan)
        if handles and isinstance(error, BatchError):
            raise _partial(error, handles, plan) from error
        raise
    if not resume:
        journal.release(part.submission_id for part in plan)
    return handles


def _plan(
    journal: Journal,
    parts: Sequence[Sequence[Request]],
    carrier: Mapping[str, str],
    after: Iterable[str],
    *,
    resume: bool,
    new: bool,
) -> list[_Planned]:
    fingerprint = _fingerprint(parts, after)
    known = journal.unfinished(fingerprint, include_uncollected=resume or new)
    while new and known:
        journal.abandon(known)
        known = journal.unfinished(fingerprint, include_uncollected=True)
    if [each.request_count for each in known] != [len(each) for each in parts[: len(known)]]:
        known = []
    submission_ids: list[int | None] = [each.id for each in known]
    journal.take_ownership(submission_ids)
    # Of several parts, a refusal leaves the first ones.
    started_at = known[0].started_at if known else None
    rest = [_planned_batch(each) for each in parts[len(known) :]]
    submission_ids += journal.begin_submission(
        fingerprint, rest, carrier, awaits_collection=resume, started_at=started_at
    )
    return [
        _Planned(requests, submission_id, submission)
        for requests, submission_id, submission in itertools.zip_longest(
            parts, submission_ids, known
        )
    ]


def _planned_batch(requests: Sequence[Request]) -> PlannedBatch:
    return PlannedBatch(len(requests), models_of(requests))


def _fingerprint(parts: Sequence[Sequence[Mapping[str, Any]]], after: Iterable[str] = ()) -> str:
    digest = blake2b(digest_size=16)
    for batch_id in after:
        digest.update(batch_id.encode() + b"\n")
    for requests in parts:
        for request in requests:
            digest.update(dumps(request))
    return digest.hexdigest()


def _partial(
    error: BatchError, handles: Sequence[BatchHandle], plan: Sequence[_Planned]
) -> PartialSubmissionError:
    """What to say where some parts are batches and one failed, after which none was tried."""
    done = len(handles)
    told = f"{done} of {len(plan)} batches were created; "
    unknown: Sequence[Request] = ()
    if isinstance(error, SubmissionAmbiguousError):
        unknown = plan[done].requests
        done += 1
        told += f"whether {len(unknown):,} requests are in one is not known; "
    rest = [each for part in plan[done:] if not part.begun for each in part.requests]
    return PartialSubmissionError(
        f"{told}{len(rest):,} requests are in none: {error}", handles, rest, unknown
    )


def _create(
    api: SyncApi | AsyncApi, journal: Journal, plan: Sequence[_Planned], part: _Planned
) -> Flow[Found]:
    try:
        return (yield from _call(api, journal, part.requests))
    except SubmissionAmbiguousError:
        raise
    except Exception:
        journal.discard(each.submission_id for each in plan if each is part or each.known is None)
        raise


def _call(api: SyncApi | AsyncApi, journal: Journal, requests: Sequence[Request]) -> Flow[Found]:
    """Create a batch.

    A refusal (429, 529) made no batch and is tried again with backoff. After an answer that
    never came or a server error, the API's list tells whether there is a batch now.
    """
    started = datetime.now(UTC)
    for attempt in range(_ATTEMPTS):
        try:
            return Found((yield lambda: api.create(requests)))
        except anthropic.APIStatusError as error:
            if error.status_code in _BUSY and attempt + 1 < _ATTEMPTS:
                pause = _backoff(attempt, error)
                logger.warning("The API is busy (%s); trying in %.0f s", error.status_code, pause)
                yield partial(api.sleep, pause)
                continue
            if error.status_code < 500 or error.status_code in _BUSY:
                raise refused(error) from error
            reason = f"the API failed ({describe(error)})"
        except Exception as error:
            wrong = misconfigured(error)
            if wrong is not None:
                raise wrong from error
            if isinstance(error, TypeError):
                raise  # something in the requests is no JSON
            if unreached(error):
                raise BatchError(
                    f"nothing was submitted: {describe(error)}; "
                    "check ANTHROPIC_BASE_URL and the network"
                ) from error
            reason = f"no answer came ({describe(error)})"
        return (yield from reconcile(api, journal, requests, started, reason))
    raise AssertionError("the last attempt returns or raises")


def _backoff(attempt: int, error: anthropic.APIStatusError) -> float:
    try:
        asked = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        asked = 0.0
    return min(max(asked, 2.0**attempt * random.uniform(0.8, 1.2)), 120.0)  # noqa: S311 - jitter
