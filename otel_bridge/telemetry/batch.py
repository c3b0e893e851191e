"""What the API tells of a batch and of each result, in the form that telemetry needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from otel_bridge._core.json import as_object, as_text
from otel_bridge.usage import TokenUsage

SUCCEEDED = "succeeded"
ERRORED = "errored"
OUTCOMES = (SUCCEEDED, ERRORED, "canceled", "expired")
UNKNOWN = "unknown"
MISSING = "missing"
DUPLICATE = "duplicate"
UNREQUESTED = "unrequested"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _nanoseconds(moment: datetime) -> int:
    # Integer arithmetic: a float of seconds since 1970 has no room for every microsecond.
    since = moment - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


def _parse(value: datetime | str | None) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if value is not None and value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return value


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """A Message Batch as the API described it last."""

    id: str
    status: str
    created_at: datetime
    ended_at: datetime | None
    expires_at: datetime | None
    counts: Mapping[str, int]
    shift: timedelta = timedelta(0)
    """How much later its spans lie than it ran, for backends that refuse old times."""

    @classmethod
    def from_api(cls, batch: Any, shift: timedelta = timedelta(0)) -> BatchFacts:
        """Read a `MessageBatch` of the SDK."""
        counts = batch.request_counts
        return cls(
            id=batch.id,
            status=batch.processing_status,
            created_at=_parse(batch.created_at) or datetime.now(UTC),
            ended_at=_parse(batch.ended_at),
            expires_at=_parse(batch.expires_at),
            counts={name: getattr(counts, name, None) or 0 for name in ("processing", *OUTCOMES)},
            shift=shift,
        )

    @property
    def request_count(self) -> int:
        """Number of requests in the batch."""
        return sum(self.counts.values())

    @property
    def elapsed(self) -> timedelta:
        """How long the batch took, or takes so far."""
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


def kind_of(result: Mapping[str, Any]) -> str:
    """What became of a request: one of `OUTCOMES`, or `UNKNOWN` for whatever else is told."""
    kind = result.get("type")
    if kind == SUCCEEDED and not isinstance(result.get("message"), dict):
        return UNKNOWN
    return kind if isinstance(kind, str) and kind in OUTCOMES else UNKNOWN


def error_of(result: Mapping[str, Any]) -> tuple[str, str | None]:
    """Type and message of the API's error of an errored request."""
    error = as_object(as_object(result.get("error")).get("error"))
    return as_text(error.get("type")) or "error", as_text(error.get("message"))


def model_of(*told: Mapping[str, Any] | None) -> str:
    """The model that the first of an answer and a request tells that tells one."""
    return next((model for each in told if (model := as_text((each or {}).get("model")))), "")


def tier_of(message: Mapping[str, Any]) -> str | None:
    """The service tier that an answer tells."""
    return as_text(as_object(message.get("usage")).get("service_tier"))


@dataclass(slots=True)
class Outcome:
    """What became of one request, read strictly from one line of the results.

    `error_message` is the API's, which may quote the request: it is content.
    """

    custom_id: str
    kind: str
    usage: TokenUsage
    message: Mapping[str, Any] | None
    error_type: str | None
    error_message: str | None
    request_id: str | None

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Outcome:
        """Read a decoded line; whatever it holds is an outcome, if an unknown one."""
        result = as_object(line.get("result"))
        kind = kind_of(result)
        message = error_type = error_message = request_id = None
        if kind == SUCCEEDED:
            message = result["message"]
        elif kind == ERRORED:
            error_type, error_message = error_of(result)
            request_id = as_text(as_object(result.get("error")).get("request_id"))
        elif kind == UNKNOWN:
            error_type = "unknown_result_type"
        else:
            error_type = kind
        return cls(
            custom_id=str(line.get("custom_id")),
            kind=kind,
            usage=TokenUsage.from_api(message.get("usage") if message else None),
            message=message,
            error_type=error_type,
            error_message=error_message,
            request_id=request_id,
        )

    def unrequested(self) -> Outcome:
        """The same as the result of a request that was never submitted."""
        return replace(self, kind=UNREQUESTED, error_type="unknown_custom_id", error_message=None)
