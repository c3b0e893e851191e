"""The exceptions this package raises.

BridgeError
├── ConfigurationError      a variable or option has a bad value
├── RequestsError           a batch's requests are malformed; nothing was sent
├── CostLimitError          a submission may cost more than is allowed; nothing was sent
├── BatchError              the API refused or lost a batch
│   ├── BatchNotFoundError
│   ├── SubmissionAmbiguousError
│   └── PartialSubmissionError
└── DeliveryError           LangSmith did not take what was spooled
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class BridgeError(Exception):
    """Base of every error this package raises."""


class ConfigurationError(BridgeError, ValueError):
    """A setting has a value that cannot be used; the message names it and the fix."""


class RequestsError(BridgeError, ValueError):
    """The requests of a batch are malformed; the message names the place. Nothing was sent."""


class CostLimitError(BridgeError):
    """A submission may cost more than OTEL_BRIDGE_MAX_COST allows. Nothing was sent."""


class BatchError(BridgeError):
    """The Message Batches API refused, or an answer of it cannot be used."""


class BatchNotFoundError(BatchError):
    """The API does not know the batch id, or the key's workspace does not own it."""


class SubmissionAmbiguousError(BatchError):
    """It is unknown whether a submission created a batch, or which; the message says more."""


class PartialSubmissionError(BatchError):
    """Requests that need several batches: some were created, a later one could not be.

    `handles` are the batches that were created, for `collect`; `unsubmitted` the requests that
    are surely in none. `unknown` are those that may be in a batch: where there are any,
    submit all of the same requests again, which follows up, rather than `unsubmitted`.
    `__cause__` says why.
    """

    def __init__(
        self,
        message: str,
        handles: Sequence[Any],
        unsubmitted: Sequence[Mapping[str, Any]],
        unknown: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(message)
        self.handles = tuple(handles)
        self.unsubmitted = tuple(unsubmitted)
        self.unknown = tuple(unknown)


class DeliveryError(BridgeError):
    """LangSmith did not take runs that were sent again; they are kept."""
