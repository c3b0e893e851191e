"""What requests will cost, before anything is paid: counted on a sample, priced as a range."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from anthropic.types import MessageCountTokensParams

from otel_bridge.batches.faults import CALL_FAULTS, failure
from otel_bridge.batches.flows import Flow
from otel_bridge.domain.messages import dumps
from otel_bridge.domain.pricing import price
from otel_bridge.domain.usage import TokenUsage
from otel_bridge.errors import CostLimitError

if TYPE_CHECKING:
    from otel_bridge.batches.api import Api
    from otel_bridge.domain.requests import Request

SAMPLE = 20


@dataclass(frozen=True, slots=True)
class Estimate:
    """What requests will come to, in tokens and in USD at batch price.

    `counted` of the `requests` were counted by the API, the others taken from their size: the
    range of `input_tokens` is that of tokens per byte in the sample. Output is between what was
    said to be expected, 0 by default, and each request's `max_tokens`. Where a request sets
    cache breakpoints, all of its input may be read from the cache, or written to it. Web
    searches are not in it. Costs are None where a model of `unpriced` has no known price.
    """

    requests: int
    counted: int
    input_tokens: int
    input_tokens_low: int
    input_tokens_high: int
    output_tokens_low: int
    output_tokens_high: int
    cost_low: float | None
    cost_high: float | None
    unpriced: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Sized:
    params: Mapping[str, Any]
    model: str
    size: int
    cached: str | None
    """The time to live of what it caches, None where it caches nothing."""

    @classmethod
    def of(cls, request: Request) -> _Sized:
        params = request["params"]
        data = dumps(params)
        cached = None
        if b'"cache_control":{' in data:
            cached = "1h" if b'"ttl":"1h"' in data else "5m"
        return cls(params, str(params["model"]), len(data), cached)

    def cheapest(self, tokens: int) -> TokenUsage:
        read = {"cache_read_input_tokens" if self.cached else "input_tokens": tokens}
        return TokenUsage(**read)

    def dearest(self, tokens: int) -> TokenUsage:
        if self.cached is None:
            return TokenUsage(input_tokens=tokens)
        split = {"1h": "ephemeral_1h_input_tokens", "5m": "ephemeral_5m_input_tokens"}[self.cached]
        return TokenUsage(cache_creation_input_tokens=tokens, **{split: tokens})


def estimate(
    api: Api, requests: Sequence[Request], sample: int | None, output_tokens: int
) -> Flow[Estimate]:
    """Count a sample of `sample` requests, or all for None, and price all.

    Raises BatchError when the API does not count.
    """
    by_model: dict[str, list[_Sized]] = defaultdict(list)
    for sized in map(_Sized.of, requests):
        by_model[sized.model].append(sized)
    total = _Sum()
    for model, group in sorted(by_model.items()):
        group.sort(key=lambda each: each.size)
        share = None if sample is None else max(1, round(sample * len(group) / len(requests)))
        sampled = range(len(group)) if share is None else spread(len(group), share)
        counts = yield from _counted(api, [group[index].params for index in sampled])
        counted = dict(zip(sampled, counts, strict=True))
        ratios = [count / group[index].size for index, count in counted.items()]
        mean = sum(counts) / sum(group[index].size for index in counted)
        total.counted += len(counted)
        for index, each in enumerate(group):
            exact = counted.get(index)
            low, middle, high = (
                (exact,) * 3
                if exact is not None
                else (round(each.size * ratio) for ratio in (min(ratios), mean, max(ratios)))
            )
            total.add(each, model, (low, middle, high), output_tokens)
    return total.estimate(len(requests))


class _Sum:
    def __init__(self) -> None:
        self.counted = 0
        self._low, self._middle, self._high = 0, 0, 0
        self._output_low, self._output_high = 0, 0
        self._cost_low, self._cost_high = 0.0, 0.0
        self._unpriced: set[str] = set()

    def add(self, each: _Sized, model: str, tokens: Any, output_tokens: int) -> None:
        low, middle, high = tokens
        most = int(each.params["max_tokens"])
        least = min(output_tokens, most)
        self._low += low
        self._middle += middle
        self._high += high
        self._output_low += least
        self._output_high += most
        cheapest = price(each.cheapest(low) + TokenUsage(output_tokens=least), model)
        # A cached prefix that is written costs more than one that is not, and always more
        # than one that is read.
        dearest = price(each.dearest(high) + TokenUsage(output_tokens=most), model)
        if cheapest is None or dearest is None:
            self._unpriced.add(model)
            return
        self._cost_low += cheapest.total_cost
        self._cost_high += dearest.total_cost

    def estimate(self, requests: int) -> Estimate:
        priced = not self._unpriced
        return Estimate(
            requests,
            self.counted,
            self._middle,
            self._low,
            self._high,
            self._output_low,
            self._output_high,
            self._cost_low if priced else None,
            self._cost_high if priced else None,
            tuple(sorted(self._unpriced)),
        )


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the indices below `count`, evenly, with both ends."""
    if most >= count:
        return list(range(count))
    if most == 1:
        return [count - 1]
    return sorted({round(step * (count - 1) / (most - 1)) for step in range(most)})


def _counted(api: Api, params: Sequence[Mapping[str, Any]]) -> Flow[list[int]]:
    countable = MessageCountTokensParams.__annotations__.keys()
    asked = [{name: each[name] for name in each if name in countable} for each in params]
    try:
        return (yield from api.count_tokens(asked))
    except CALL_FAULTS as error:
        raise failure(error, "tokens cannot be counted") from error


def enforce_max_cost(max_cost: float | None, api: Api, requests: Sequence[Request]) -> Flow[None]:
    """Raise CostLimitError where requests may cost more than `max_cost` USD; None for no bound."""
    if max_cost is None:
        return
    found = yield from estimate(api, requests, SAMPLE, 0)
    bound = f"the bound of ${max_cost:,.6f} (OTEL_BRIDGE_MAX_COST, --max-cost)"
    if found.cost_high is None:
        raise CostLimitError(
            f"nothing was submitted: no price is known of {', '.join(found.unpriced)}, so the cost "
            f"cannot be held to {bound}"
        )
    if found.cost_high > max_cost:
        raise CostLimitError(
            f"nothing was submitted: {found.requests:,} requests may cost "
            f"${found.cost_high:,.6f}, above {bound}; lower max_tokens, submit fewer, or raise it"
        )
