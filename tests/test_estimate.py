"""What requests will cost is known before anything is paid, and held to a bound."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_bridge import BatchError, ConfigurationError, CostLimitError, RequestsError, Settings
from otel_bridge.batches.estimating import spread
from otel_bridge.pricing import price
from otel_bridge.usage import TokenUsage

Make = Callable[[int], list[dict[str, Any]]]


def test_all_are_counted_to_the_token_and_the_cent(service: Any, make_requests: Make) -> None:
    requests = make_requests(30)
    found = service.executor().estimate(requests, sample=None)
    counts = [
        len(json.dumps(each, separators=(",", ":"))) // 4
        for each in (request.json() for request in service.api.requests)
    ]
    assert found.requests == found.counted == len(counts) == 30
    assert found.input_tokens == found.input_tokens_low == found.input_tokens_high == sum(counts)
    assert (found.output_tokens_low, found.output_tokens_high) == (0, 3000)
    low = high = 0.0
    for request, tokens in zip(service.api.requests, counts, strict=True):
        model = request.json()["model"]
        cheapest = price(TokenUsage(input_tokens=tokens), model)
        dearest = price(TokenUsage(input_tokens=tokens, output_tokens=100), model)
        assert cheapest
        assert dearest
        low, high = low + cheapest.total_cost, high + dearest.total_cost
    assert found.cost_low == pytest.approx(low, abs=1e-12)
    assert found.cost_high == pytest.approx(high, abs=1e-12)
    assert service.api.batch_ids == []


def test_a_sample_holds_the_truth_in_its_range(service: Any, make_requests: Make) -> None:
    requests = make_requests(200)
    for number, request in enumerate(requests):
        request["params"]["messages"][0]["content"] *= 1 + number % 17
    executor = service.executor()
    exact = executor.estimate(requests, sample=None)
    service.api.requests.clear()
    found = executor.estimate(requests, output_tokens=40)
    assert found.counted == len(service.api.requests) == 20
    assert found.input_tokens_low <= exact.input_tokens <= found.input_tokens_high
    assert found.input_tokens == pytest.approx(exact.input_tokens, rel=0.02)
    assert found.cost_high >= exact.cost_high
    assert found.output_tokens_low == 200 * 40
    service.flush()
    assert service.otlp.spans == [], "counting makes no spans"


@pytest.mark.parametrize(("ttl", "factor"), [("5m", 1.25), ("1h", 2.0)])
def test_caching_widens_the_range(
    service: Any, make_requests: Make, ttl: str, factor: float
) -> None:
    (request,) = make_requests(1)
    plain = service.executor().estimate([request], sample=None)
    request["params"]["system"] = [
        {"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": ttl}}
    ]
    found = service.executor().estimate([request], sample=None)
    assert plain.cost_low / plain.input_tokens == pytest.approx(1.5e-6)
    assert found.cost_low / found.input_tokens == pytest.approx(1.5e-7)
    answer = plain.cost_high - plain.cost_low
    assert (found.cost_high - answer) / found.input_tokens == pytest.approx(1.5e-6 * factor)


def test_a_model_without_a_price_has_no_cost(service: Any, make_requests: Make) -> None:
    (request,) = make_requests(1)
    request["params"]["model"] = "claude-unheard-of"
    found = service.executor().estimate([request])
    assert (found.cost_low, found.cost_high) == (None, None)
    assert found.unpriced == ("claude-unheard-of",)
    with pytest.raises(CostLimitError, match="no price is known of claude-unheard-of"):
        service.executor(max_cost=1.0).submit([request])


def test_nothing_above_the_bound_is_submitted(service: Any, make_requests: Make) -> None:
    requests = make_requests(50)
    high = service.executor().estimate(requests).cost_high
    told = r"50 requests may cost \$0\.\d{6}, above the bound of \$0\.\d{6} "
    with pytest.raises(CostLimitError, match=told):
        service.executor(max_cost=high * 0.99).submit(requests)
    assert service.api.batch_ids == []
    assert len(service.executor(max_cost=high * 1.01).run(requests)) == 50


def test_what_cannot_be_counted_is_not_submitted_under_a_bound(
    service: Any, make_requests: Make
) -> None:
    service.api.fail_next("POST", "count_tokens$", status=403, times=99)
    with pytest.raises(BatchError, match="tokens cannot be counted: 403"):
        service.executor(max_cost=1.0).submit(make_requests(2))
    assert service.api.batch_ids == []
    with pytest.raises(RequestsError):
        service.executor().estimate([])


async def test_the_async_twin_does_the_same(service: Any, make_requests: Make) -> None:
    executor = service.async_executor(max_cost=0.0001)
    found = await executor.estimate(make_requests(30))
    assert found.counted == 20
    with pytest.raises(CostLimitError):
        await executor.run(make_requests(30))
    await service.aclose()


def test_the_command_tells_and_refuses(bridge: Any, make_requests: Make, api: Any) -> None:
    file = bridge.write(make_requests(40))
    told = json.loads(bridge("estimate", file, "--all", "--json").stdout)
    assert (told["requests"], told["counted"]) == (40, 40)
    ran = bridge("estimate", file, "--sample", "4", "--output-tokens", "10")
    assert "400 to 4,000" in ran.stdout
    assert f"${told['cost_high']:,.4f}" in ran.stdout or "to $" in ran.stdout
    for command in ("run", "submit"):
        ran = bridge(command, file, "--max-cost", "0.0001")
        assert ran.returncode == 1
        assert "nothing was submitted: 40 requests may cost $0.0" in ran.stderr
    bridge.environment["OTEL_BRIDGE_MAX_COST"] = "0.0001"
    assert bridge("submit", file).returncode == 1
    assert api.batch_ids == []
    assert bridge("submit", file, "--max-cost", "10").returncode == 0
    bridge.environment["OTEL_BRIDGE_MAX_COST"] = "much"
    assert "OTEL_BRIDGE_MAX_COST='much' cannot be used: use an amount" in bridge("run", file).stderr


def test_bad_bounds_are_named() -> None:
    for name, value in (("MAX_COST", "0"), ("MAX_ATTEMPTS", "0"), ("MAX_ATTEMPTS", "some")):
        with pytest.raises(ConfigurationError, match=f"OTEL_BRIDGE_{name}='{value}'"):
            Settings.from_env({f"OTEL_BRIDGE_{name}": value}, strict=True)


@given(st.integers(1, 500), st.integers(1, 500))
def test_a_sample_is_even(count: int, chosen: int) -> None:
    picked = spread(count, chosen)
    assert picked == sorted(set(picked))
    assert len(picked) == min(count, chosen)
    assert 0 <= picked[0] <= picked[-1] == count - 1
