"""Cost of one request in USD, from the prices of `genai-prices`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import lru_cache
from operator import add, attrgetter
from typing import Any

from genai_prices import Usage, calc_price
from genai_prices.types import TieredPrices

from otel_bridge import semconv
from otel_bridge._core.json import as_number
from otel_bridge._core.shield import warn_once
from otel_bridge.domain.usage import TokenUsage

logger = logging.getLogger(__name__)

BATCH_DISCOUNT = Decimal("0.5")
"""Tokens of a batch cost half of list; source: https://docs.anthropic.com/en/docs/about-claude/pricing."""
_CACHE_WRITE_5M, _CACHE_WRITE_1H = Decimal("1.25"), Decimal(2)
_WEB_SEARCH = Decimal(10) / 1000
_MILLION = Decimal(1_000_000)
_NO_PRICE = "Model %r has no known price; its spans carry no cost"


@dataclass(frozen=True, slots=True)
class Cost:
    """What tokens by type and web searches cost, in USD; the parts add up to the total."""

    uncached_input: float = 0.0
    cache_read: float = 0.0
    ephemeral_5m: float = 0.0
    ephemeral_1h: float = 0.0
    cache_creation: float = 0.0
    answer: float = 0.0
    reasoning: float = 0.0
    web_search: float = 0.0

    @property
    def input_cost(self) -> float:
        """All input tokens, cached ones included."""
        return (
            self.uncached_input
            + self.cache_read
            + self.ephemeral_5m
            + self.ephemeral_1h
            + self.cache_creation
        )

    @property
    def output_cost(self) -> float:
        """All output tokens and the web searches, which LangSmith has no third sum for."""
        return self.answer + self.reasoning + self.web_search

    @property
    def total_cost(self) -> float:
        """The cost of the request."""
        return self.input_cost + self.output_cost

    def __add__(self, other: Cost) -> Cost:
        return Cost(*map(add, parts(self), parts(other)))

    def __bool__(self) -> bool:
        return any(parts(self))

    def to_attributes(self, total_name: str) -> dict[str, float]:
        """Span attributes: the total under its name, and each part that is not 0 beside it."""
        by_name = zip(PART_NAMES, parts(self), strict=True)
        return {total_name: self.total_cost, **{name: value for name, value in by_name if value}}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], total_name: str) -> Cost | None:
        """Read what `to_attributes` wrote; None where there is no total."""
        if as_number(attributes.get(total_name)) is None:
            return None
        return cls(*(float(as_number(attributes.get(name)) or 0.0) for name in PART_NAMES))

    def to_usage_metadata(self) -> dict[str, Any]:
        """The cost keys of LangSmith's `usage_metadata`."""
        metadata: dict[str, Any] = {
            "input_cost": self.input_cost,
            "output_cost": self.output_cost,
            "total_cost": self.total_cost,
        }
        details = {
            "input_cost_details": {
                "cache_read": self.cache_read,
                "ephemeral_5m_input_tokens": self.ephemeral_5m,
                "ephemeral_1h_input_tokens": self.ephemeral_1h,
                "cache_creation": self.cache_creation,
            },
            "output_cost_details": {"reasoning": self.reasoning, "web_search": self.web_search},
        }
        for name, by_type in details.items():
            if known := {part: value for part, value in by_type.items() if value}:
                metadata[name] = known
        return metadata


parts = attrgetter(*Cost.__slots__)
"""The fields in order."""
PART_NAMES = tuple(f"{semconv.COST_DETAIL_PREFIX}{name}" for name in Cost.__slots__)
"""Their names as span attributes."""


@dataclass(frozen=True, slots=True)
class _Rates:
    """USD for one unit each, for requests with more than `above` input tokens."""

    above: int
    uncached_input: float
    cache_read: float
    cache_write_5m: float
    cache_write_1h: float
    output: float
    web_search: float


def price(
    usage: TokenUsage, model: str, *, tier: str = "batch", at: datetime | None = None
) -> Cost | None:
    """Cost of one request in USD, None and one warning where the model has no known price.

    One request, never a sum: above a model's long-context threshold every rate of the request
    changes. `tier` "batch" halves the list price of tokens, whatever the date and the model;
    any other tier pays list. Web searches have no discount. `at` chooses among prices that
    changed over time, now by default; without a time zone it is UTC.
    """
    at = at or datetime.now(UTC)
    day = (at.astimezone(UTC) if at.tzinfo else at).date()
    total_input = usage.total_input_tokens
    for rates in _rates(model, day, tier == "batch"):
        if total_input > rates.above:
            break
    else:
        return None
    split = usage.ephemeral_5m_input_tokens + usage.ephemeral_1h_input_tokens
    return Cost(
        usage.input_tokens * rates.uncached_input,
        usage.cache_read_input_tokens * rates.cache_read,
        usage.ephemeral_5m_input_tokens * rates.cache_write_5m,
        usage.ephemeral_1h_input_tokens * rates.cache_write_1h,
        # Five minutes is the API's default time to live.
        (usage.cache_creation_input_tokens - split) * rates.cache_write_5m,
        (usage.output_tokens - usage.thinking_tokens) * rates.output,
        usage.thinking_tokens * rates.output,
        usage.web_search_requests * rates.web_search,
    )


def at_list_price(cost: Cost) -> float:
    """What requests of a batch would have cost in USD one by one: searches have no discount."""
    tokens = cost.total_cost - cost.web_search
    return tokens / float(BATCH_DISCOUNT) + cost.web_search


def without_cache(cost: Cost, model: str, at: datetime) -> float:
    """What the same tokens of a model would have cost with no cache at all, in USD.

    Cached tokens are priced by the ratio of the model's own rates, which is the same above a
    long-context threshold as below.
    """
    rates = _rates(model, at.date(), True)[-1]
    plain = rates.uncached_input
    cached = (
        (cost.cache_read, rates.cache_read),
        (cost.ephemeral_5m + cost.cache_creation, rates.cache_write_5m),
        (cost.ephemeral_1h, rates.cache_write_1h),
    )
    saved = sum(part - part * plain / rate for part, rate in cached if rate)
    return cost.total_cost - saved


@lru_cache(maxsize=1024)
def _rates(model: str, day: date, batch: bool) -> tuple[_Rates, ...]:
    """The model's rates on a day, the highest threshold first; empty where it has none.

    List prices are asked for and halved here: the batch prices of `genai-prices` begin on a
    date and miss models, and where they do, it answers with list prices.
    """
    try:
        listed: Any = calc_price(
            Usage(input_tokens=0),
            model,
            provider_id="anthropic",
            genai_request_timestamp=datetime.combine(day, time(12), UTC),
        ).model_price
        if listed.input_mtok is None or listed.output_mtok is None:
            raise LookupError(model)  # noqa: TRY301 - as where the model is not listed at all
        starts = {0} | {
            tier.start
            for value in vars(listed).values()
            if isinstance(value, TieredPrices)
            for tier in value.tiers
        }
        return tuple(_rates_above(listed, start, batch) for start in sorted(starts, reverse=True))
    except Exception:  # noqa: BLE001 - results are priced before they are given: none may be lost
        warn_once(logger, _NO_PRICE, model)
        return ()


def _rates_above(listed: Any, start: int, batch: bool) -> _Rates:
    discount = BATCH_DISCOUNT if batch else Decimal(1)

    def at(value: Decimal | TieredPrices | None, fallback: Decimal) -> Decimal:
        if isinstance(value, TieredPrices):
            prices = [tier.price for tier in value.tiers if tier.start <= start]
            return prices[-1] if prices else value.base
        return fallback if value is None else value

    base = at(listed.input_mtok, Decimal(0))

    def unit(value: Decimal) -> float:
        return float(value * discount / _MILLION)

    searches = listed.web_searches_kcount
    return _Rates(
        start or -1,
        unit(base),
        unit(at(listed.cache_read_mtok, base / 10)),
        unit(at(listed.cache_write_mtok, base * _CACHE_WRITE_5M)),
        unit(at(listed.cache_write_1h_mtok, base * _CACHE_WRITE_1H)),
        unit(at(listed.output_mtok, Decimal(0))),
        float(_WEB_SEARCH if searches is None else searches / 1000),
    )
