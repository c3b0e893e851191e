"""The values that a store of the journal takes and returns.

The journal prevents a second payment for the same requests and a second count of the same batch.
The ids of spans and runs do not depend on it: they are functions of what the API knows, so the
same batch has the same spans and runs without a journal, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Signal = Literal["spans", "runs"]
"""What is exported of a batch in full or not at all; metrics have methods of their own."""


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """A batch that is about to be created: the number of its requests, and their models."""

    request_count: int
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Submission:
    """The submission of one batch. `batch_id` is None while it is not known.

    `carrier` is the submitting trace context as propagation headers. `started_at` is Unix time in
    s. `owner` names the process that works on the submission. `tentative` means that the batch
    was matched by time and size only. `metrics_exported`, `spans_exported` and `runs_exported`
    are True when all that the batch has of these was exported.
    """

    id: int
    batch_id: str | None
    request_count: int
    carrier: Mapping[str, str]
    models: tuple[str, ...]
    started_at: float
    owner: str
    tentative: bool
    metrics_exported: bool
    spans_exported: bool
    runs_exported: bool
