"""What a journal has of submissions that no batch is known of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from otel_bridge.batches import submitting
from otel_bridge.journal import Journal, Submission


def intend(journal: Journal, requests: list[Any], *, awaits_collection: bool = False) -> None:
    """Write what a process writes before it creates a batch of the requests."""
    planned = [submitting.journal_entry(requests)]
    journal.begin_submission(
        _fingerprint(requests), planned, {}, awaits_collection=awaits_collection
    )


def unfinished(
    state: Path, requests: list[Any], *, include_uncollected: bool = False
) -> list[Submission]:
    """Submissions of the requests that broke off."""
    return Journal(state).unfinished(
        _fingerprint(requests), include_uncollected=include_uncollected
    )


def _fingerprint(requests: list[Any]) -> str:
    return submitting.fingerprint([requests])
