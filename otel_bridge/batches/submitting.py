"""Creates batches, never twice: the journal knows first, and a lost answer is looked up."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import anthropic

from otel_bridge.batches.faults import describe, misconfigured, refused, unreached
from otel_bridge.batches.flows import Flow
from otel_bridge.batches.reconciling import Found, confirmed_batch_ids, created_earlier, reconcile
from otel_bridge.domain.messages import dumps
from otel_bridge.domain.requests import Request, models_of
from otel_bridge.errors import (
    BatchError,
    BridgeError,
    PartialSubmissionError,
    SubmissionAmbiguousError,
)
from otel_bridge.journal import Journal, PlannedBatch, Submission

if TYPE_CHECKING:
    from otel_bridge.batches.api import Api
    from otel_bridge.batches.handles import BatchHandle

logger = logging.getLogger(__name__)

_BUSY = (429, 529)
_ATTEMPTS = 6

OnCreated = Callable[[Found, Sequence[Request]], Flow["BatchHandle"]]


@dataclass(frozen=True, slots=True)
class _Creation:
    """A batch to create: its requests, its submission, and an earlier submission of the same."""

    requests: Sequence[Request]
    submission_id: int | None
    earlier: Submission | None

    @property
    def exists(self) -> bool:
        """Whether an earlier submission has created it."""
        return self.earlier is not None and self.earlier.batch_id is not None


def submit(
    api: Api,
    journal: Journal,
    chunks: Sequence[Sequence[Request]],
    carrier: Mapping[str, str],
    on_created: OnCreated,
    *,
    after: Iterable[str],
    resume: bool,
    new: bool,
) -> Flow[list[BatchHandle]]:
    """Create a batch of each chunk of requests, or find the one that an earlier try created.

    `on_created` gets each batch and its requests, and returns the handle. `after` are the ids of
    the batches in which these requests failed before; they are part of the submission's key.

    The journal has all submissions before the first call, and each batch's id after its own call.
    So a later call with the same requests continues a submission that broke off. With `resume`, it
    also continues batches that an earlier call with `resume` created and nobody collected; then
    the caller has to release the submissions. With `new`, it continues nothing.
    """
    plan = _plan(journal, chunks, carrier, after, resume=resume, new=new)
    handles: list[BatchHandle] = []
    try:
        for planned in plan:
            found = None
            if planned.earlier is not None:
                found = yield from created_earlier(api, journal, planned.earlier, planned.requests)
            if found is None:
                found = yield from _create(api, journal, plan, planned)
            if not found.tentative:
                confirmed_batch_ids.add(found.batch.id)
            journal.bind_batch(planned.submission_id, found.batch.id, tentative=found.tentative)
            handle = yield from on_created(found, planned.requests)
            handle.submission_id = planned.submission_id
            handles.append(handle)
    except BaseException as error:
        # Also for an interruption, after which nobody knows whether the call created a batch.
        journal.release(planned.submission_id for planned in plan)
        if handles and isinstance(error, BatchError):
            raise _partial(error, handles, plan) from error
        raise
    if not resume:
        journal.release(planned.submission_id for planned in plan)
    return handles


def _plan(
    journal: Journal,
    chunks: Sequence[Sequence[Request]],
    carrier: Mapping[str, str],
    after: Iterable[str],
    *,
    resume: bool,
    new: bool,
) -> list[_Creation]:
    key = fingerprint(chunks, after)
    earlier = journal.unfinished(key, include_uncollected=resume or new)
    while new and earlier:
        journal.abandon(earlier)
        earlier = journal.unfinished(key, include_uncollected=True)
    if [each.request_count for each in earlier] != [len(each) for each in chunks[: len(earlier)]]:
        earlier = []
    submission_ids: list[int | None] = [each.id for each in earlier]
    journal.take_ownership(submission_ids)
    # Where a later batch of several was refused, the earlier ones have submissions already.
    started_at = earlier[0].started_at if earlier else None
    rest = [journal_entry(each) for each in chunks[len(earlier) :]]
    submission_ids += journal.begin_submission(
        key, rest, carrier, awaits_collection=resume, started_at=started_at
    )
    return [
        _Creation(requests, submission_id, submission)
        for requests, submission_id, submission in itertools.zip_longest(
            chunks, submission_ids, earlier
        )
    ]


def journal_entry(requests: Sequence[Request]) -> PlannedBatch:
    """What the journal notes of a batch before it is created."""
    return PlannedBatch(len(requests), models_of(requests))


def fingerprint(chunks: Sequence[Sequence[Mapping[str, Any]]], after: Iterable[str] = ()) -> str:
    """The key of a submission: a hash of its requests and of the batches they failed in."""
    digest = blake2b(digest_size=16)
    for batch_id in after:
        digest.update(batch_id.encode() + b"\n")
    for requests in chunks:
        for request in requests:
            digest.update(dumps(request))
    return digest.hexdigest()


def _partial(
    error: BatchError, handles: Sequence[BatchHandle], plan: Sequence[_Creation]
) -> PartialSubmissionError:
    """The error for a plan that failed after some of its batches were created."""
    done = len(handles)
    message = f"{done} of {len(plan)} batches were created; "
    unknown: Sequence[Request] = ()
    if isinstance(error, SubmissionAmbiguousError):
        unknown = plan[done].requests
        done += 1
        message += f"whether {len(unknown):,} requests are in one is not known; "
    rest = [each for planned in plan[done:] if not planned.exists for each in planned.requests]
    return PartialSubmissionError(
        f"{message}{len(rest):,} requests are in none: {error}", handles, rest, unknown
    )


def _create(
    api: Api, journal: Journal, plan: Sequence[_Creation], planned: _Creation
) -> Flow[Found]:
    try:
        return (yield from _call(api, journal, planned.requests))
    except SubmissionAmbiguousError:
        raise
    except Exception:
        journal.discard(
            each.submission_id for each in plan if each is planned or each.earlier is None
        )
        raise


def _call(api: Api, journal: Journal, requests: Sequence[Request]) -> Flow[Found]:
    """Create a batch.

    A refusal (429, 529) made no batch and is tried again with backoff. After a lost answer or a
    server error, the API's list says whether there is a batch now.
    """
    started = datetime.now(UTC)
    for attempt in range(_ATTEMPTS):
        try:
            return Found((yield from api.create(requests)))
        except anthropic.APIStatusError as error:
            if error.status_code in _BUSY and attempt + 1 < _ATTEMPTS:
                pause = _backoff(attempt, error)
                logger.warning("The API is busy (%s); trying in %.0f s", error.status_code, pause)
                yield from api.io.sleep(pause)
                continue
            if error.status_code < 500 or error.status_code in _BUSY:
                raise refused(error) from error
            reason = f"the API failed ({describe(error)})"
        except BridgeError:
            raise  # a closed executor: nothing was sent
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
