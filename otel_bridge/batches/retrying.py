"""Trying again what failed: which results are final, and what goes into a follow-up batch."""

from __future__ import annotations

from collections.abc import Sequence

from otel_bridge.batches.results import BatchResult
from otel_bridge.domain.requests import Request

_TRANSIENT = frozenset({"overloaded_error", "api_error", "rate_limit_error", "timeout_error"})
"""Errors of the API's own, which say nothing against the request.

Source: https://docs.anthropic.com/en/api/errors
"""


def may_be_retried(result: BatchResult) -> bool:
    """Whether the request was neither answered nor at fault, nor called off."""
    if result.type == "expired":
        return True
    return result.type == "errored" and result.error_type in _TRANSIENT


class Attempts:
    """Sorts the results of a run's batches into final ones and those to be tried again.

    `most` is the number of batches that a request may go through, the first included.
    """

    def __init__(self, requests: Sequence[Request], most: int) -> None:
        self._requests = {request["custom_id"]: request for request in requests}
        self._most = most
        self._failed: dict[str, BatchResult] = {}
        self._tried: dict[str, BatchResult] = {}
        self.number = 1
        """Of the attempt whose results are read, from 1."""
        self.complete = True
        """Whether every follow-up that was due could be submitted."""

    def settles(self, result: BatchResult) -> bool:
        """Whether a result is final; otherwise it is kept and its request tried again."""
        custom_id = result.custom_id
        self._tried.pop(custom_id, None)
        again = self.number < self._most and custom_id in self._requests and may_be_retried(result)
        if again:
            self._failed[custom_id] = result
        return not again

    def begin(self) -> list[Request]:
        """Begin the next attempt: the requests that go into it, in their first order."""
        failed, self._failed = self._failed, {}
        self._tried |= failed
        if failed:
            self.number += 1
        return [each for custom_id, each in self._requests.items() if custom_id in failed]

    def standing(self) -> list[BatchResult]:
        """Failures that are final after all, since no later attempt has a result for them."""
        return list(self._tried.values())
