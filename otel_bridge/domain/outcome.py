"""What became of one request: a line of the results, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from otel_bridge._core.json import as_object, as_text
from otel_bridge.domain.batch import ERRORED, OUTCOMES, SUCCEEDED, UNKNOWN, UNREQUESTED
from otel_bridge.domain.pricing import Cost, price
from otel_bridge.domain.usage import TokenUsage

_NO_USAGE, _NO_COST = TokenUsage(), Cost()


@dataclass(slots=True)
class ResultOutcome:
    """The result of one request.

    `kind` is one of `OUTCOMES`, `UNKNOWN` or `UNREQUESTED`. `model` is the answer's or else the
    request's, empty where neither is known. `cost` is in USD, None for a model without a known
    price; only an answer is billed. `error_message` is the API's and may quote the request, so it
    is content.
    """

    custom_id: str
    kind: str
    model: str = ""
    usage: TokenUsage = _NO_USAGE
    cost: Cost | None = _NO_COST
    message: Mapping[str, Any] | None = None
    tier: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    request_id: str | None = None

    @classmethod
    def from_line(
        cls, line: Mapping[str, Any], requested_model: str = "", at: datetime | None = None
    ) -> ResultOutcome:
        """Read a decoded line of the results, whatever it holds.

        `at` is the time whose prices count, the batch's creation; now by default.
        """
        custom_id = str(line.get("custom_id"))
        result = as_object(line.get("result"))
        kind = _kind(result)
        if kind == SUCCEEDED:
            return cls._from_message(custom_id, result["message"], requested_model, at)
        outcome = cls(custom_id, kind, requested_model, error_type=kind)
        if kind == ERRORED:
            response = as_object(result.get("error"))
            error = as_object(response.get("error"))
            outcome.error_type = as_text(error.get("type")) or "error"
            outcome.error_message = as_text(error.get("message"))
            outcome.request_id = as_text(response.get("request_id"))
        elif kind == UNKNOWN:
            outcome.error_type = "unknown_result_type"
        return outcome

    @classmethod
    def _from_message(
        cls, custom_id: str, message: Mapping[str, Any], model: str, at: datetime | None
    ) -> ResultOutcome:
        model = as_text(message.get("model")) or model
        counted = message.get("usage")
        usage = TokenUsage.from_api(counted)
        tier = as_text(as_object(counted).get("service_tier"))
        cost = price(usage, model, tier=tier or "batch", at=at)
        return cls(custom_id, SUCCEEDED, model, usage, cost, message, tier)

    @property
    def succeeded(self) -> bool:
        """Whether the request was answered."""
        return self.kind == SUCCEEDED

    def unrequested(self) -> ResultOutcome:
        """The same as the result of a request that was never submitted; its tokens count."""
        return replace(self, kind=UNREQUESTED, error_type="unknown_custom_id", error_message=None)


def _kind(result: Mapping[str, Any]) -> str:
    kind = result.get("type")
    if kind == SUCCEEDED and not isinstance(result.get("message"), dict):
        return UNKNOWN
    return kind if isinstance(kind, str) and kind in OUTCOMES else UNKNOWN
