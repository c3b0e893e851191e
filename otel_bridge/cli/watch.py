"""Watching batches until they end, several at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from otel_bridge.batches import engine_of
from otel_bridge.cli import render

if TYPE_CHECKING:
    from rich.console import Console

    from otel_bridge.batches import BatchExecutor
    from otel_bridge.telemetry import BatchFacts

_LIFE = timedelta(hours=25)
"""A batch expires after 24 hours."""


def watch(
    executor: BatchExecutor, batch_ids: Sequence[str], console: Console
) -> list[dict[str, Any]]:
    """Show batches until each has ended; all that have not, for no ids. Returns what they are."""
    if batch_ids:
        found = [executor.describe(batch_id) for batch_id in batch_ids]
    else:
        recent = executor.since(datetime.now(UTC) - _LIFE)
        found = [batch for batch in reversed(recent) if batch.status != "ended"]
    batches = {batch.id: batch for batch in found}
    with render.Progress(console) as progress:
        while True:
            for batch in batches.values():
                progress.update(batch)
            going = [batch.id for batch in batches.values() if batch.status != "ended"]
            if not going:
                return [_told(batch) for batch in batches.values()]
            time.sleep(engine_of(executor).settings.poll_interval)
            batches |= {batch_id: executor.describe(batch_id) for batch_id in going}


def _told(batch: BatchFacts) -> dict[str, Any]:
    return {
        "id": batch.id,
        "status": batch.status,
        "requests": batch.request_count,
        **batch.counts,
        "created_at": batch.created_at.isoformat(),
        "ended_at": batch.ended_at.isoformat() if batch.ended_at else None,
        "seconds": batch.elapsed.total_seconds(),
    }
