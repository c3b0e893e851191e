"""The exceptions this package raises.

BridgeError
├── ConfigurationError      a variable or option has a bad value
├── RequestsError           a batch's requests are malformed; nothing was sent
├── BatchError              the API refused or lost a batch
│   ├── BatchNotFoundError
│   └── SubmissionAmbiguousError
└── DeliveryError           a telemetry backend did not take what it was sent
"""

from __future__ import annotations


class BridgeError(Exception):
    """Base of every error this package raises."""


class ConfigurationError(BridgeError, ValueError):
    """A setting has a value that cannot be used; the message names it and the fix."""


class RequestsError(BridgeError, ValueError):
    """The requests of a batch are malformed; the message names the place. Nothing was sent."""


class BatchError(BridgeError):
    """The Message Batches API refused, or an answer of it cannot be used."""


class BatchNotFoundError(BatchError):
    """The API does not know the batch id, or the key's workspace does not own it."""


class SubmissionAmbiguousError(BatchError):
    """A submission got no answer and the API's list shows no new batch for it."""


class DeliveryError(BridgeError):
    """A telemetry backend did not take what it was sent."""
