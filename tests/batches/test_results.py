"""Results know what they come to, and become a table."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from support import Cost, MakeRequests, Service, present

from otel_bridge import BatchResults, TokenUsage
from otel_bridge.batches.results import BatchResult
from otel_bridge.domain.outcome import ResultOutcome


def test_results_have_their_totals(
    service: Service, make_requests: MakeRequests, cost_of: Cost
) -> None:
    results = service.executor().run(make_requests(60))
    truth = service.api.truth(*results.batch_ids)
    lines = service.api.results(*results.batch_ids)
    cost = sum(map(cost_of, lines))
    assert results.usage.output_tokens == truth["output_tokens"]
    assert results.usage.input_tokens == truth["input_tokens"]
    assert present(results.cost).total_cost == pytest.approx(cost, rel=0, abs=1e-9)
    assert results.outcomes == Counter(line["result"]["type"] for line in lines)
    assert repr(results).startswith("BatchResults(60 results, ")
    assert f"{results.outcomes['succeeded']} succeeded" in repr(results)
    assert f"{truth['output_tokens']:,} out, ${cost:,.6f})" in repr(results)
    assert len(repr(results)) < 200


def test_a_result_shows_what_it_is(service: Service, make_requests: MakeRequests) -> None:
    results = service.executor().run(make_requests(60))
    shown = re.compile(r"BatchResult\(custom_id='(.*)', type='(.*)', .* in, (.*) out, \$(.*)\)")
    for custom_id, result in results.items():
        seen = shown.fullmatch(repr(result))
        assert seen
        assert seen[1] == custom_id
        assert seen[2] == result.type
        assert int(seen[3].replace(",", "")) == result.usage.output_tokens
        assert float(seen[4]) == pytest.approx(present(result.cost).total_cost, abs=1e-6)


def test_an_unknown_price_leaves_no_total() -> None:
    message = {"model": "claude-unheard-of", "usage": {"input_tokens": 5, "output_tokens": 2}}
    line = {"custom_id": "a", "result": {"type": "succeeded", "message": message}}
    result = BatchResult(ResultOutcome.from_line(line), line, json.dumps(line).encode())
    results = BatchResults({"a": result}, ("msgbatch_a",))
    assert results.cost is None
    assert results.usage == TokenUsage(input_tokens=5, output_tokens=2)
    assert repr(results) == "BatchResults(1 results, 1 succeeded, 5 in, 2 out, price unknown)"
    assert results.to_dicts()[0]["cost_usd"] is None


def test_results_are_a_table(service: Service, make_requests: MakeRequests) -> None:
    results = service.executor().run(make_requests(60))
    rows = results.to_dicts()
    assert json.loads(json.dumps(rows)) == rows
    assert len({tuple(row) for row in rows}) == 1, "each row has the same columns"
    assert not any(isinstance(value, (dict, list)) for row in rows for value in row.values())
    assert [row["custom_id"] for row in rows] == list(results)
    assert sum(row["output_tokens"] for row in rows) == results.usage.output_tokens
    assert sum(row["cost_usd"] for row in rows) == pytest.approx(present(results.cost).total_cost)
    for row in rows:
        result = results[row["custom_id"]]
        assert (row["type"], row["error_type"]) == (result.type, result.error_type)
        if result.message is not None:
            texts = [each.text for each in result.message.content if each.type == "text"]
            assert row["text"] == "".join(texts)
            assert (row["model"], row["stop_reason"]) == (
                result.message.model,
                result.message.stop_reason,
            )
