"""A request costs half of what `genai_prices` itself lists for it, and web searches cost all."""

import logging
from dataclasses import astuple
from datetime import UTC, datetime

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given
from hypothesis import strategies as st

from otel_bridge.domain.pricing import Cost, price
from otel_bridge.domain.usage import TokenUsage

(ANTHROPIC,) = (provider for provider in get_snapshot().providers if provider.id == "anthropic")
MODELS = [model.id for model in ANTHROPIC.models] + [
    "claude-sonnet-4-5-20250929",
    "claude-haiku-4-5-20251001",
    "claude-opus-4-1-20250805",
    "claude-3-haiku-20240307",
]
BEFORE_CACHING = {"claude-2", "claude-v1"}
MODEL = st.sampled_from(MODELS)
BATCH_PRICES_BEGIN = datetime(2026, 10, 14, tzinfo=UTC)
TIMES = st.datetimes(
    datetime(2025, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(2027, 12, 31),  # noqa: DTZ001 - hypothesis adds the zone
    timezones=st.just(UTC),
)
COUNTS = st.integers(0, 40_000) | st.integers(0, 400_000)
MEGA = 1_000_000


@st.composite
def usages(draw: st.DrawFn) -> TokenUsage:
    short, long, unsplit = draw(COUNTS), draw(COUNTS), draw(COUNTS)
    answer, thinking = draw(COUNTS), draw(COUNTS)
    return TokenUsage(
        input_tokens=draw(COUNTS),
        cache_read_input_tokens=draw(COUNTS),
        cache_creation_input_tokens=short + long + unsplit,
        ephemeral_5m_input_tokens=short,
        ephemeral_1h_input_tokens=long,
        output_tokens=answer + thinking,
        thinking_tokens=thinking,
        web_search_requests=draw(st.integers(0, 20)),
    )


def for_model(usage: TokenUsage, model: str) -> TokenUsage:
    """The usage as the model could have had it."""
    if model in BEFORE_CACHING:
        return TokenUsage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    return usage


def listed(usage: TokenUsage, model: str, at: datetime) -> float:
    """The list price of the tokens by `genai_prices`, whose input tokens include cached ones."""
    tokens = Usage(
        input_tokens=usage.input_tokens
        + usage.cache_read_input_tokens
        + usage.cache_creation_input_tokens,
        cache_read_tokens=usage.cache_read_input_tokens,
        cache_write_tokens=usage.cache_creation_input_tokens,
        cache_write_1h_tokens=usage.ephemeral_1h_input_tokens,
        output_tokens=usage.output_tokens,
    )
    calculated = calc_price(tokens, model, provider_id="anthropic", genai_request_timestamp=at)
    return float(calculated.total_price)


def searches(usage: TokenUsage) -> float:
    """What the searches cost; one price for all models, which the oldest do not list."""
    tokens = Usage(input_tokens=0, web_searches=usage.web_search_requests)
    return float(calc_price(tokens, "claude-haiku-4-5", provider_id="anthropic").total_price)


def priced(
    usage: TokenUsage, model: str, *, tier: str = "batch", at: datetime = BATCH_PRICES_BEGIN
) -> Cost:
    cost = price(usage, model, tier=tier, at=at)
    assert cost is not None
    return cost


def close(value: float) -> object:
    return pytest.approx(value, rel=0, abs=1e-9)


@given(usages(), MODEL, TIMES)
def test_a_batch_request_costs_half_of_list_and_all_of_its_searches(
    usage: TokenUsage, model: str, at: datetime
) -> None:
    usage = for_model(usage, model)
    expected = listed(usage, model, at) / 2 + searches(usage)
    assert priced(usage, model, at=at).total_cost == close(expected)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "at", [datetime(2025, 11, 1, tzinfo=UTC), BATCH_PRICES_BEGIN, datetime(2027, 1, 1, tzinfo=UTC)]
)
def test_no_model_and_no_date_escapes_the_rule(model: str, at: datetime) -> None:
    # Both sides of the long-context thresholds and the thresholds themselves.
    for tokens in (0, 1, 99_999, 100_000, 100_001, 199_999, 200_000, 200_001, MEGA):
        usage = TokenUsage(input_tokens=tokens, output_tokens=1000, thinking_tokens=10)
        cost = priced(usage, model, at=at)
        assert cost.total_cost == close(listed(usage, model, at) / 2)


@given(usages(), MODEL, TIMES, st.sampled_from(["standard", "priority", ""]))
def test_any_other_tier_pays_list(usage: TokenUsage, model: str, at: datetime, tier: str) -> None:
    usage = for_model(usage, model)
    expected = listed(usage, model, at) + searches(usage)
    assert priced(usage, model, tier=tier, at=at).total_cost == close(expected)


# USD for a million tokens: input, 5 m write, 1 h write, read, output.
# Source: https://docs.anthropic.com/en/docs/about-claude/pricing
PUBLISHED = {
    "claude-sonnet-4-5": (3.0, 3.75, 6.0, 0.3, 15.0),
    "claude-haiku-4-5": (1.0, 1.25, 2.0, 0.1, 5.0),
    "claude-opus-4-1": (15.0, 18.75, 30.0, 1.5, 75.0),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_each_part_has_its_published_price(model: str) -> None:
    uncached, short, long, read, output = PUBLISHED[model]
    usage = TokenUsage(
        input_tokens=10_000,
        cache_read_input_tokens=20_000,
        cache_creation_input_tokens=60_000,
        ephemeral_5m_input_tokens=30_000,
        ephemeral_1h_input_tokens=25_000,
        output_tokens=8_000,
        thinking_tokens=3_000,
        web_search_requests=4,
    )
    expected = Cost(
        uncached_input=uncached * 10_000 / MEGA / 2,
        cache_read=read * 20_000 / MEGA / 2,
        ephemeral_5m=short * 30_000 / MEGA / 2,
        ephemeral_1h=long * 25_000 / MEGA / 2,
        cache_creation=short * 5_000 / MEGA / 2,
        answer=output * 5_000 / MEGA / 2,
        reasoning=output * 3_000 / MEGA / 2,
        web_search=0.04,
    )
    assert astuple(priced(usage, model)) == pytest.approx(astuple(expected), rel=0, abs=1e-12)


@pytest.mark.parametrize(
    ("model", "usage", "usd"),
    [
        ("claude-sonnet-4-5", TokenUsage(input_tokens=100_000, output_tokens=10_000), 0.225),
        ("claude-haiku-4-5", TokenUsage(input_tokens=MEGA, output_tokens=MEGA), 3.0),
        ("claude-opus-4-1", TokenUsage(cache_read_input_tokens=MEGA), 0.75),
    ],
)
def test_sums_worked_out_by_hand(model: str, usage: TokenUsage, usd: float) -> None:
    assert priced(usage, model).total_cost == close(usd)


def test_a_sum_of_requests_is_not_priced_as_one_request() -> None:
    request = TokenUsage(input_tokens=100_000, output_tokens=100_000)
    batch = sum([request] * 10, TokenUsage())
    by_request = sum([priced(request, "claude-sonnet-4-5").total_cost] * 10)
    assert by_request == close(9.0)
    assert priced(batch, "claude-sonnet-4-5").total_cost == close(14.25)


@given(usages(), MODEL, TIMES)
def test_the_parts_add_up(usage: TokenUsage, model: str, at: datetime) -> None:
    cost = priced(usage, model, at=at)
    assert min(astuple(cost)) >= 0
    assert cost.total_cost == close(sum(astuple(cost)))
    assert cost.total_cost == close(cost.input_cost + cost.output_cost)


@given(st.integers(0, 10_000), MODEL)
def test_searches_have_no_discount(count: int, model: str) -> None:
    usage = TokenUsage(web_search_requests=count)
    assert priced(usage, model).total_cost == close(count / 100)
    assert priced(usage, model, tier="standard") == priced(usage, model)


def test_an_unknown_model_has_no_cost_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    usage = TokenUsage(input_tokens=1)
    with caplog.at_level(logging.WARNING, "otel_bridge.domain.pricing"):
        for day in range(1, 29):
            at = datetime(2026, 11, day, tzinfo=UTC)
            for tier in ("batch", "standard"):
                assert price(usage, "claude-of-nowhere", tier=tier, at=at) is None
    (record,) = caplog.records
    assert "'claude-of-nowhere'" in record.getMessage()


@given(usages(), MODEL)
def test_attributes_carry_every_part(usage: TokenUsage, model: str) -> None:
    cost = priced(usage, model)
    attributes = cost.to_attributes("gen_ai.usage.cost")
    assert attributes["gen_ai.usage.cost"] == cost.total_cost
    assert Cost.from_attributes(attributes, "gen_ai.usage.cost") == cost
    assert Cost.from_attributes(attributes, "anthropic.message.batch.cost") is None


@given(usages(), usages(), MODEL)
def test_costs_add_part_by_part(one: TokenUsage, other: TokenUsage, model: str) -> None:
    first, second = priced(one, model), priced(other, model)
    both = first + second
    assert both == second + first
    assert first + Cost() == first
    assert both.total_cost == close(first.total_cost + second.total_cost)


@given(usages(), MODEL)
def test_usage_metadata_has_the_sums_and_no_empty_details(usage: TokenUsage, model: str) -> None:
    cost = priced(usage, model)
    metadata = cost.to_usage_metadata()
    assert metadata["total_cost"] == close(metadata["input_cost"] + metadata["output_cost"])
    inputs = metadata.get("input_cost_details", {})
    outputs = metadata.get("output_cost_details", {})
    assert metadata["input_cost"] == close(cost.uncached_input + sum(inputs.values()))
    assert metadata["output_cost"] == close(cost.answer + sum(outputs.values()))
    assert 0 not in [*inputs.values(), *outputs.values()]
