"""Telemetry for batches that ran without the bridge: which are due, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from otel_bridge.batches.asking import ask
from otel_bridge.batches.flows import Flow, Give, Stream
from otel_bridge.domain.batch import BatchInfo
from otel_bridge.errors import BatchError

if TYPE_CHECKING:
    from otel_bridge.batches.api import AsyncApi, SyncApi
    from otel_bridge.batches.base import ExecutorBase

State = Literal["told", "known", "in_progress", "gone", "failed"]


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What became of one batch: `told` now, `known` from before, not ended, `gone`, or `failed`."""

    id: str
    state: State
    requests: int
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        return asdict(self)


def backfill(
    executor: ExecutorBase, batch_ids: Iterable[str], since: datetime | None, *, shift_times: bool
) -> Stream[Backfilled]:
    """What became of each batch, those that are told of last; see `BatchExecutor.backfill`."""
    api = executor.api
    wanted, others = yield from _due(api, batch_ids, since, executor.recorder.is_exported)
    yield Give(others)
    for facts in wanted:
        handle = executor.known(facts.id)
        if shift_times:
            handle.shift = _shift(facts)
        try:
            count = yield partial(api.each, executor.collecting(handle), lambda _: None)
        except BatchError as error:
            yield Give([Backfilled(facts.id, "failed", facts.request_count, str(error))])
        else:
            missing = handle.recording.missing_results_message if handle.recording else None
            yield Give([Backfilled(handle.id, "failed" if missing else "told", count, missing)])


def _due(
    api: SyncApi | AsyncApi,
    batch_ids: Iterable[str],
    since: datetime | None,
    known: Callable[[str], bool],
) -> Flow[tuple[list[BatchInfo], list[Backfilled]]]:
    """Batches whose results are to be read, the oldest first, and what is known of the others.

    Raises BatchNotFoundError for an unknown id, BatchError when the API cannot be asked.
    """
    found = {}
    if since is not None:
        for batch in reversed((yield from ask(lambda: api.since(since)))):
            found[batch.id] = batch
    for batch_id in batch_ids:
        if batch_id not in found:
            found[batch_id] = yield from ask(
                partial(api.retrieve, batch_id),
                batch_id,
            )
    wanted, others = [], []
    for batch in found.values():
        facts = BatchInfo.from_api(batch)
        state = _state(batch, facts, known)
        if state is None:
            wanted.append(facts)
        else:
            others.append(Backfilled(facts.id, state, facts.request_count))
    return wanted, others


def _state(batch: Any, facts: BatchInfo, known: Callable[[str], bool]) -> State | None:
    if facts.status != "ended":
        return "in_progress"
    if known(facts.id):
        return "known"
    return "gone" if batch.archived_at else None


def _shift(facts: BatchInfo) -> timedelta:
    """By how many whole days later a batch's spans and runs lie within the last day.

    LangSmith may refuse times that lie more than 24 hours back. The time of day stays, and so do
    the ids for as long as the day lasts.
    """
    return timedelta(days=max((datetime.now(UTC) - facts.created_at).days, 0))
