"""What the API is asked about batches, outside of any run."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import anthropic

from otel_bridge.batches.faults import CALL_FAULTS, failure, no_batch
from otel_bridge.batches.flows import Call, Flow
from otel_bridge.batches.handle import check_id
from otel_bridge.domain.batch import BatchInfo

if TYPE_CHECKING:
    from otel_bridge.batches.api import AsyncApi, SyncApi


def describe(api: SyncApi | AsyncApi, batch_id: str) -> Flow[BatchInfo]:
    """The batch as it is now."""
    return BatchInfo.from_api((yield from ask(lambda: api.retrieve(batch_id), batch_id)))


def since(api: SyncApi | AsyncApi, moment: datetime) -> Flow[list[BatchInfo]]:
    """The batches that were created at `moment` or later, the newest first."""
    return [BatchInfo.from_api(each) for each in (yield from ask(lambda: api.since(moment)))]


def cancel(api: SyncApi | AsyncApi, batch_id: str) -> Flow[BatchInfo]:
    """Have a batch canceled."""
    return BatchInfo.from_api((yield from ask(lambda: api.cancel(batch_id), batch_id)))


def ask(call: Call, batch_id: str | None = None) -> Flow[Any]:
    """Make one call.

    Raises BatchNotFoundError for an unknown `batch_id`, ConfigurationError for an empty one, else
    BatchError.
    """
    if batch_id is not None:
        check_id(batch_id)
    try:
        return (yield call)
    except CALL_FAULTS as error:
        if batch_id is None:
            raise failure(error, "the list of batches") from error
        if isinstance(error, anthropic.NotFoundError):
            raise no_batch(batch_id) from error
        raise failure(error, f"batch {batch_id}") from error
