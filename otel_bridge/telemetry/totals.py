"""What a batch came to: sums over its requests, for spans, metrics and the journal."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from operator import add
from typing import Any

from otel_bridge import semconv
from otel_bridge.domain import pricing, usage
from otel_bridge.domain.batch import BatchInfo
from otel_bridge.domain.pricing import Cost, at_list_price, without_cache
from otel_bridge.domain.usage import TokenUsage

Outcomes = Counter[tuple[str, str | None]]
"""Number of requests by outcome and type of error."""


class Sum:
    """Number, tokens by type and cost of requests, added up in place.

    A result must not cost a new object for each sum that it goes into.
    """

    def __init__(self) -> None:
        self.count = 0
        self._tokens = list(usage.counts(TokenUsage()))
        self._costs = list(pricing.parts(Cost()))
        self._priced = True

    def add(self, tokens: TokenUsage, cost: Cost | None) -> None:
        """Add one request."""
        self.count += 1
        self._tokens = list(map(add, self._tokens, usage.counts(tokens)))
        if cost is None:
            self._priced = False
        else:
            self._costs = list(map(add, self._costs, pricing.parts(cost)))

    def merge(self, other: Sum) -> None:
        """Add another sum."""
        self.count += other.count
        self._tokens = list(map(add, self._tokens, other._tokens))
        self._costs = list(map(add, self._costs, other._costs))
        self._priced = self._priced and other._priced

    @property
    def usage(self) -> TokenUsage:
        """The tokens of all requests."""
        return TokenUsage(*self._tokens)

    @property
    def cost(self) -> Cost | None:
        """The cost of all requests in USD, None when the cost of one is not known."""
        return Cost(*self._costs) if self._priced else None


class Measured(Sum):
    """The answers of one model: their sum, and each one's tokens and cost in USD.

    The single figures take 24 bytes an answer. They are kept until all results were read: only
    then may the batch go into metrics, and only once, however often it is read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inputs: array[int] = array("q")
        self.outputs: array[int] = array("q")
        self.costs: array[float] = array("d")

    def add(self, tokens: TokenUsage, cost: Cost | None) -> None:
        """Add one answer; one without a known price has no cost."""
        super().add(tokens, cost)
        self.inputs.append(tokens.total_input_tokens)
        self.outputs.append(tokens.output_tokens)
        if cost is not None:
            self.costs.append(cost.total_cost)


def batch_totals(
    outcomes: Mapping[str, int], tokens: TokenUsage, cost: Cost | None
) -> dict[str, Any]:
    """Totals as attributes of the batch's span, under names that no request's span has."""
    attributes: dict[str, Any] = {
        f"anthropic.message.batch.{kind}_count": count for kind, count in outcomes.items()
    }
    attributes |= tokens.to_batch_attributes()
    if cost is not None:
        attributes |= cost.to_attributes(semconv.BATCH_COST)
    return attributes


def journal_totals(
    batch: BatchInfo, measured: Mapping[str, Measured], outcomes: Outcomes
) -> dict[str, Any]:
    """Totals as the journal keeps them for reports.

    Times are in ISO 8601, costs in USD: the batch's, the same at list price, and the same with
    nothing cached. They are None for a model without a known price.
    """
    return {
        "created_at": batch.created_at.isoformat(),
        "ended_at": batch.ended_at.isoformat() if batch.ended_at else None,
        "requests": batch.request_count,
        "outcomes": [[kind, error, count] for (kind, error), count in outcomes.items()],
        "models": {
            model: {
                "answers": each.count,
                "usage": asdict(each.usage),
                **_costs(each, model, batch),
            }
            for model, each in measured.items()
        },
    }


def _costs(each: Measured, model: str, batch: BatchInfo) -> dict[str, float | None]:
    cost = each.cost
    if cost is None:
        return {"cost": None, "list_cost": None, "uncached_cost": None}
    return {
        "cost": cost.total_cost,
        "list_cost": at_list_price(cost),
        "uncached_cost": without_cache(cost, model, batch.created_at),
    }
