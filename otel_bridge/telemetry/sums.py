"""Sums over requests, added up in place: a result must not cost new objects for each sum."""

from __future__ import annotations

from array import array
from operator import add

from otel_bridge import pricing, usage
from otel_bridge.pricing import Cost
from otel_bridge.usage import TokenUsage


class Sum:
    """Number, tokens by type and cost of requests."""

    def __init__(self) -> None:
        self.count = 0
        self._tokens = list(usage.counts(TokenUsage()))
        self._costs = list(pricing.parts(Cost()))
        self._priced = True

    def add(self, tokens: TokenUsage, cost: Cost | None) -> None:
        """Take one request in."""
        self.count += 1
        self._tokens = list(map(add, self._tokens, usage.counts(tokens)))
        if cost is None:
            self._priced = False
        else:
            self._costs = list(map(add, self._costs, pricing.parts(cost)))

    def merge(self, other: Sum) -> None:
        """Take another sum in."""
        self.count += other.count
        self._tokens = list(map(add, self._tokens, other._tokens))
        self._costs = list(map(add, self._costs, other._costs))
        self._priced = self._priced and other._priced

    @property
    def usage(self) -> TokenUsage:
        """The tokens of all."""
        return TokenUsage(*self._tokens)

    @property
    def cost(self) -> Cost | None:
        """The cost of all, None as soon as one part of it is unknown: none beats a wrong one."""
        return Cost(*self._costs) if self._priced else None


class Measured(Sum):
    """The answers of one model: their sum, and each one's tokens and cost in USD.

    Kept until the batch is complete, 24 bytes an answer: only then is it known that nobody else
    counted the batch, and a batch that is read again must not be counted twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inputs: array[int] = array("q")
        self.outputs: array[int] = array("q")
        self.costs: array[float] = array("d")

    def add(self, tokens: TokenUsage, cost: Cost | None) -> None:
        """Take one answer in; one without a known price has no cost."""
        super().add(tokens, cost)
        self.inputs.append(tokens.total_input_tokens)
        self.outputs.append(tokens.output_tokens)
        if cost is not None:
            self.costs.append(cost.total_cost)
