"""A batch as the API describes it, and the names of what becomes of its requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

SUCCEEDED = "succeeded"
ERRORED = "errored"
OUTCOMES = (SUCCEEDED, ERRORED, "canceled", "expired")
"""What the API documents as the type of a result."""
UNKNOWN = "unknown"
"""A result of a type that the API does not document."""
MISSING = "missing"
"""A request without a result."""
DUPLICATE = "duplicate"
"""A result that repeats the custom id of another."""
UNREQUESTED = "unrequested"
"""A result of a request that was never submitted."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _nanoseconds(moment: datetime) -> int:
    # Integer arithmetic: a float of seconds since 1970 has no room for every microsecond.
    since = moment - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


def _moment(value: datetime | str | None) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if value is not None and value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return value


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """A Message Batch as the API described it last; `counts` are its requests by state."""

    id: str
    status: str
    created_at: datetime
    ended_at: datetime | None
    expires_at: datetime | None
    counts: Mapping[str, int]
    shift: timedelta = timedelta(0)
    """Added to the times of its spans, for backends that refuse old ones."""

    @classmethod
    def from_api(cls, batch: Any, shift: timedelta = timedelta(0)) -> BatchInfo:
        """Read a `MessageBatch` of the SDK."""
        counts = batch.request_counts
        return cls(
            id=batch.id,
            status=batch.processing_status,
            created_at=_moment(batch.created_at) or datetime.now(UTC),
            ended_at=_moment(batch.ended_at),
            expires_at=_moment(batch.expires_at),
            counts={name: getattr(counts, name, None) or 0 for name in ("processing", *OUTCOMES)},
            shift=shift,
        )

    @property
    def request_count(self) -> int:
        """Number of requests in the batch."""
        return sum(self.counts.values())

    @property
    def elapsed(self) -> timedelta:
        """Time from the batch's creation to its end, or to now."""
        return (self.ended_at or datetime.now(UTC)) - self.created_at

    @property
    def start_ns(self) -> int:
        """Creation in nanoseconds since 1970, shifted."""
        return _nanoseconds(self.created_at + self.shift)

    @property
    def end_ns(self) -> int:
        """End in nanoseconds since 1970, shifted, never before the start."""
        end = self.ended_at or self.expires_at or self.created_at
        return max(_nanoseconds(end + self.shift), self.start_ns)
