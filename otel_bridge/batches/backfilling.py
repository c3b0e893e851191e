"""Telemetry for batches that ran without the bridge: which are due, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from otel_bridge.batches.api import explained
from otel_bridge.batches.flows import Emit, Flow, Stream, consume
from otel_bridge.domain.batch import BatchInfo
from otel_bridge.errors import BatchError

if TYPE_CHECKING:
    from anthropic.types.messages import MessageBatch

    from otel_bridge.batches.api import Api
    from otel_bridge.batches.engine import Engine

State = Literal["exported", "already_exported", "in_progress", "gone", "failed"]


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What became of one batch; `already_exported` means before this backfill."""

    id: str
    state: State
    requests: int
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        return asdict(self)


def backfill(
    engine: Engine, batch_ids: Iterable[str], since: datetime | None, *, shift_times: bool
) -> Stream[Backfilled]:
    """What became of each batch, the exported ones last; see `BatchExecutor.backfill`."""
    due, others = yield from _due(engine.api, batch_ids, since, engine.recorder.is_exported)
    yield Emit(others)
    for facts in due:
        handle = engine.resolve(facts.id)
        if shift_times:
            handle.shift = _shift(facts)
        try:
            count = yield from consume(engine.collect(handle), lambda _: None)
        except BatchError as error:
            yield Emit([Backfilled(facts.id, "failed", facts.request_count, str(error))])
        else:
            missing = handle.recording.missing_results_message if handle.recording else None
            yield Emit([Backfilled(handle.id, "failed" if missing else "exported", count, missing)])


def _due(
    api: Api,
    batch_ids: Iterable[str],
    since: datetime | None,
    is_exported: Callable[[str], bool],
) -> Flow[tuple[list[BatchInfo], list[Backfilled]]]:
    """Batches whose results are to be read, the oldest first, and the states of the others.

    Raises BatchNotFoundError for an unknown id, BatchError when the API cannot be asked.
    """
    found = {}
    if since is not None:
        for batch in reversed((yield from explained(api.created_since(since)))):
            found[batch.id] = batch
    for batch_id in batch_ids:
        if batch_id not in found:
            found[batch_id] = yield from explained(api.retrieve(batch_id), batch_id)
    due, others = [], []
    for batch in found.values():
        facts = BatchInfo.from_api(batch)
        state = _state(batch, facts, is_exported)
        if state is None:
            due.append(facts)
        else:
            others.append(Backfilled(facts.id, state, facts.request_count))
    return due, others


def _state(
    batch: MessageBatch, facts: BatchInfo, is_exported: Callable[[str], bool]
) -> State | None:
    if facts.status != "ended":
        return "in_progress"
    if is_exported(facts.id):
        return "already_exported"
    return "gone" if batch.archived_at else None


def _shift(facts: BatchInfo) -> timedelta:
    """By how many whole days later a batch's spans and runs lie within the last day.

    LangSmith may refuse times that lie more than 24 hours back. The time of day stays, and so do
    the ids for as long as the day lasts.
    """
    return timedelta(days=max((datetime.now(UTC) - facts.created_at).days, 0))
