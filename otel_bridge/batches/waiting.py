"""The wait for a batch's end."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import anthropic

from otel_bridge.batches.faults import CALL_FAULTS, misconfigured, no_batch, unreadable
from otel_bridge.batches.flows import Flow
from otel_bridge.domain.batch import BatchInfo

if TYPE_CHECKING:
    from otel_bridge.batches.api import AsyncApi, SyncApi
    from otel_bridge.batches.handle import BatchHandle
    from otel_bridge.config import Settings

_FAULTS_IN_A_ROW = 20
_NOT_FOUND_IN_A_ROW = 3
_FINAL = frozenset(range(400, 429)) - {408, 409}
"""Answers that waiting does not change."""


def wait(
    api: SyncApi | AsyncApi,
    handle: BatchHandle,
    settings: Settings,
    seen: Callable[[BatchInfo], Flow[None]],
) -> Flow[BatchInfo]:
    """Poll until the batch ended; `seen` gets each answer.

    A batch that was created just now is not asked for before the poll interval is over. Faults
    that pass (no connection, 429, 5xx) do not end the wait for a batch that the API told of; nor
    do the first 404s, which are reported right after a batch's creation.
    """
    batch_id, shift = handle.id, handle.shift
    pause = settings.poll_interval
    faults = not_found = 0
    known = handle.recording is not None or handle.adopted
    if handle.recording is not None:
        last = handle.recording.batch
        handle.recording.update(last)  # no news, but somebody waits from here on
        age = (datetime.now(UTC) - last.created_at).total_seconds()
        if last.status != "ended" and 0 <= age < pause:
            yield lambda: api.sleep(pause - age)
    while True:
        try:
            facts = BatchInfo.from_api((yield lambda: api.retrieve(batch_id)), shift)
        except anthropic.NotFoundError as error:
            not_found += 1
            if not_found >= _NOT_FOUND_IN_A_ROW:
                raise no_batch(batch_id) from error
            yield lambda: api.sleep(min(1.0, settings.poll_interval))
            continue
        except anthropic.APIStatusError as error:
            faults += 1
            if faults >= _FAULTS_IN_A_ROW or error.status_code in _FINAL:
                raise unreadable(f"batch {batch_id}", error) from error
        except CALL_FAULTS as error:
            faults += 1
            passing = known and isinstance(error, anthropic.APIConnectionError)
            if not passing or faults >= _FAULTS_IN_A_ROW:
                raise misconfigured(error) or unreadable(f"batch {batch_id}", error) from error
        else:
            faults = not_found = 0
            known = True
            yield from seen(facts)
            if facts.status == "ended":
                return facts
        delay = pause * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret
        yield partial(api.sleep, delay)
        pause = min(pause * 1.5, max(settings.poll_max_interval, settings.poll_interval))
