"""A submitted batch, and what another process needs to collect it into the same trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from otel_bridge.errors import ConfigurationError

if TYPE_CHECKING:
    from otel_bridge.telemetry import BatchRecording


@dataclass(slots=True)
class BatchHandle:
    """A submitted batch.

    `carrier` holds the submitting trace context as propagation headers; `models` the models of
    its requests. In the submitting process it also knows the requests and the open recording.
    """

    id: str
    request_count: int
    carrier: dict[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    recording: BatchRecording | None = field(default=None, repr=False, compare=False)
    submission_id: int | None = field(default=None, repr=False, compare=False)
    """The id of the batch's submission in the journal, in the submitting process alone."""

    adopted: bool = field(default=False, repr=False, compare=False)
    """Whether only its results will tell that it is no stranger's; nothing is told of it before."""

    shift: timedelta = field(default=timedelta(0), repr=False, compare=False)
    """How much later than it ran its spans are to lie."""

    def __post_init__(self) -> None:
        check_id(self.id)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form for another process; it holds no content of requests."""
        return {
            "id": self.id,
            "request_count": self.request_count,
            "carrier": dict(self.carrier),
            "models": list(self.models),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BatchHandle:
        """Read what `to_dict` wrote. Raises ConfigurationError when it is something else."""
        if not isinstance(data, Mapping):
            raise _no_handle("it is no object")
        for name, kind in _FIELDS.items():
            value = data.get(name)
            if not (isinstance(value, kind) or (value is None and name != "id")):
                raise _no_handle(f"`{name}` is {'missing' if value is None else 'malformed'}")
        carrier = data.get("carrier") or {}
        return cls(
            data["id"],
            data.get("request_count") or 0,
            {str(key): str(value) for key, value in carrier.items()},
            tuple(map(str, data.get("models") or ())),
        )


_FIELDS: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "request_count": int,
    "carrier": Mapping,
    "models": (list, tuple),
}


def _no_handle(why: str) -> ConfigurationError:
    return ConfigurationError(f"not a batch handle: {why}; pass what to_dict() gave")


def check_id(batch_id: str) -> None:
    """Raise ConfigurationError for an id that can be no batch's."""
    if not batch_id.strip():
        raise ConfigurationError("the batch id is empty; pass the id that submitting gave")
