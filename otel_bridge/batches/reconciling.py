"""Finds the batch of a submission whose answer was lost, and takes nobody else's batch for it.

The API's list says when a batch was created and how many requests it has, but not their custom
ids. These show in its results. Until a batch has ended, a match by time and size is tentative.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anthropic
import orjson

from otel_bridge._core.json import as_object, as_text
from otel_bridge.batches.api import skew
from otel_bridge.batches.faults import READ_FAULTS, describe
from otel_bridge.batches.flows import Flow
from otel_bridge.domain.batch import BatchInfo
from otel_bridge.errors import SubmissionAmbiguousError

if TYPE_CHECKING:
    from anthropic.types.messages import MessageBatch

    from otel_bridge.batches.api import Api
    from otel_bridge.domain.requests import Request
    from otel_bridge.journal import Journal, Submission

logger = logging.getLogger(__name__)

_LOOKS = (1.0, 2.0, 4.0, 8.0)
_SKEW = timedelta(seconds=5)
_UNKNOWN_SKEW = timedelta(minutes=5)
_FRESH_SECONDS = 60.0
_CANCELING_SECONDS = 2.0

confirmed_batch_ids: set[str] = set()
"""Ids of batches that this process has certainly created. Without a journal nothing else knows."""


@dataclass(frozen=True, slots=True)
class Found:
    """A batch for a submission.

    It is `tentative` when the match is by time and size only: its results may still prove that it
    is somebody else's. It is `already_recorded` when the journal had its id: then it was counted
    as submitted before.
    """

    batch: MessageBatch
    tentative: bool = False
    already_recorded: bool = False


def created_earlier(
    api: Api, journal: Journal, submission: Submission, requests: Sequence[Request]
) -> Flow[Found | None]:
    """Return the batch that an earlier submission created, None if none or its results are gone."""
    if submission.batch_id is not None:
        found = yield from _resume(api, submission, submission.batch_id)
        if found is None:
            journal.unbind_batch(submission.id)
        return found
    made = datetime.fromtimestamp(submission.started_at, UTC)
    reason = f"these requests were about to be submitted at {made:%H:%M:%S} UTC"
    found = yield from find(api, journal, requests, made, reason)
    if found is not None:
        logger.warning(
            "Batch %s was created for these requests earlier%s; going on with it",
            found.batch.id,
            _proviso(found),
        )
    return found


def reconcile(
    api: Api,
    journal: Journal,
    requests: Sequence[Request],
    started: datetime,
    reason: str,
) -> Flow[Found]:
    """Return the batch that a create call made although its answer was lost.

    `started` is when the call began, by this clock. `reason` says why there is no answer. Raises
    SubmissionAmbiguousError where no batch fits, or several do.
    """
    found = yield from find(api, journal, requests, started, reason)
    if found is None:
        raise SubmissionAmbiguousError(
            f"{reason}, and the API lists no new batch of {len(requests)} requests; "
            + _again(journal)
        )
    logger.warning(
        "%s, but batch %s was created%s; going on", reason, found.batch.id, _proviso(found)
    )
    return found


def find(
    api: Api,
    journal: Journal,
    requests: Sequence[Request],
    since: datetime,
    reason: str,
) -> Flow[Found | None]:
    """Return the batch of these requests that was created at `since` or later, by this clock.

    Returns None where no batch fits. Raises SubmissionAmbiguousError, which begins with `reason`,
    where several batches fit, or the API's list cannot be read.
    """
    custom_ids = {request["custom_id"] for request in requests}
    fresh = (datetime.now(UTC) - since).total_seconds() < _FRESH_SECONDS
    found: list[Found] | None = None
    fault = ""
    for pause in _LOOKS if fresh else _LOOKS[:1]:
        yield from api.io.sleep(pause)
        try:
            found = yield from _candidates(api, journal, custom_ids, since)
        except Exception as error:  # noqa: BLE001 - any fault leaves it unknown
            fault = describe(error)
            continue
        if found:
            break
    if found is None:
        raise SubmissionAmbiguousError(
            f"{reason}, and the API's list cannot be read ({fault}), which would tell whether "
            f"there is a batch of {len(requests)} requests; {_again(journal)}"
        )
    if len(found) > 1:
        ids = ", ".join(each.batch.id for each in found)
        raise SubmissionAmbiguousError(
            f"{reason}, and more than one recent batch fits: {ids}; collect the right one by its "
            "id, or run the same again when they have ended and their results tell whose they "
            "are, or anew whatever they are (`--new`, `new=True`)"
        )
    return found[0] if found else None


def _again(journal: Journal) -> str:
    if journal.is_persistent:
        return "run the same again, which looks once more before it creates one"
    return (
        "there is no journal to go on with: see whether one appears before you submit these again"
    )


def _candidates(
    api: Api, journal: Journal, custom_ids: Collection[str], since: datetime
) -> Flow[list[Found]]:
    """Batches that fit: those whose results are ours, else those without readable results."""
    ahead = skew((yield from api.date()), datetime.now(UTC))
    slack = _UNKNOWN_SKEW if ahead is None else timedelta(seconds=ahead) + _SKEW
    earliest = since - slack
    confirmed, unsure = [], []
    for batch in (yield from api.created_since(earliest)):
        facts = BatchInfo.from_api(batch)
        recorded = journal.get(batch.id)
        # A tentative batch of another submission may yet prove to be ours.
        taken = batch.id in confirmed_batch_ids or (recorded is not None and not recorded.tentative)
        if taken or facts.request_count != len(custom_ids):
            continue
        if facts.status != "ended":
            unsure.append(Found(batch, tentative=True))
            continue
        try:
            if (yield from belongs(api, batch.id, custom_ids)):
                confirmed.append(Found(batch))
        except READ_FAULTS:
            if batch.archived_at is None:
                unsure.append(Found(batch, tentative=True))
    return confirmed or unsure


def belongs(api: Api, batch_id: str, custom_ids: Collection[str]) -> Flow[bool]:
    """Whether the batch has results, and all of them are of these requests."""
    found = False
    lines = api.results(batch_id)
    try:
        while (arrived := (yield from lines.next())) is not None:
            for custom_id in _custom_ids(arrived):
                if custom_id not in custom_ids:
                    return False
                found = True
    finally:
        yield from lines.close()
    return found


def _custom_ids(lines: Iterable[bytes]) -> Iterator[str]:
    """The custom ids in result lines; a line that is cut has none."""
    for line in lines:
        with contextlib.suppress(orjson.JSONDecodeError):
            custom_id = as_text(as_object(orjson.loads(line)).get("custom_id"))
            if custom_id is not None:
                yield custom_id


def _resume(api: Api, submission: Submission, batch_id: str) -> Flow[Found | None]:
    """Return the batch that a submission is bound to, None where its results are gone."""
    try:
        batch = yield from _retrieve(api, batch_id)
        while batch is not None and batch.processing_status == "canceling":
            yield from api.io.sleep(_CANCELING_SECONDS)
            batch = yield from _retrieve(api, batch_id)
    except Exception as error:
        raise SubmissionAmbiguousError(
            f"these requests are in batch {batch_id} already, which cannot be read: "
            f"{describe(error)}; run the same again to go on with it"
        ) from error
    lost = "was deleted" if batch is None else _lost(batch)
    if batch is None or lost:
        logger.warning("Batch %s of these requests %s; submitting them anew", batch_id, lost)
        return None
    logger.warning("These requests are in batch %s already; going on with it", batch_id)
    return Found(batch, submission.tentative, already_recorded=True)


def _retrieve(api: Api, batch_id: str) -> Flow[MessageBatch | None]:
    for pause in _LOOKS[:2]:  # a 404 may pass: it is reported right after a creation
        try:
            return (yield from api.retrieve(batch_id))
        except anthropic.NotFoundError:
            yield from api.io.sleep(pause)
    try:
        return (yield from api.retrieve(batch_id))
    except anthropic.NotFoundError:
        return None


def _lost(batch: MessageBatch) -> str | None:
    facts = BatchInfo.from_api(batch)
    if batch.archived_at is not None:
        return "was archived and its results are gone"
    if facts.status == "ended" and facts.counts["canceled"] == facts.request_count:
        return "was canceled before any was answered"
    return None


def _proviso(found: Found) -> str:
    return " unless its results prove to be others'" if found.tentative else ""
