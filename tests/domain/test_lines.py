"""Whatever JSON stands in a line of results, it is one outcome, however the stream is cut."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from otel_bridge import BatchResult
from otel_bridge.domain.batch import OUTCOMES, UNKNOWN, BatchInfo
from otel_bridge.domain.reader import LineBuffer, ReadPass, ResultTracker

NAMES = (
    *(
        "type",
        "error",
        "message",
        "model",
        "content",
        "text",
        "usage",
        "input_tokens",
        "iterations",
    ),
    *("input_tokens", "output_tokens", "cache_creation", "service_tier", "id", "stop_reason"),
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text("ab"), inner)
    ),
    max_leaves=12,
)
results = json_values | st.fixed_dictionaries(
    {
        "type": st.sampled_from([*OUTCOMES, "paused"]) | json_values,
        "message": json_values,
        "error": json_values,
    }
)


@given(json_values | st.fixed_dictionaries({"custom_id": json_values, "result": results}))
def test_any_json_is_one_outcome(value: Any) -> None:
    raw = json.dumps(value).encode()
    now = datetime.now(UTC)
    batch = BatchInfo("batch", "ended", now, now, None, {"succeeded": 3})
    tracker = ResultTracker(batch, {"expected": {"model": "claude-haiku-4-5"}})
    first = ReadPass(tracker)
    read = first.parse(raw)
    assert read is not None
    assert read.earlier_pass == 0
    outcome = read.outcome
    assert outcome.kind in (*OUTCOMES, UNKNOWN)
    assert {outcome.kind: 1}  # it can be counted
    assert (outcome.error_type is None) == (outcome.kind == "succeeded")
    result = BatchResult(outcome, read.line, raw)
    assert result.custom_id == outcome.custom_id == read.line["custom_id"]
    assert result.custom_id
    assert result.succeeded == (outcome.kind == "succeeded") == (result.message is not None)
    assert result.usage == outcome.usage
    assert result.error_message == outcome.error_message
    assert 0 <= outcome.usage.total_tokens < 2**63
    if result.type in OUTCOMES:
        assert result.type == outcome.kind
    assert result.cost is None or result.cost.total_cost >= 0
    result.to_sdk()
    repr(result.error)
    again = ReadPass(tracker).parse(raw)
    assert again is not None
    assert (again.outcome, again.earlier_pass) == (outcome, first.number)


@given(st.lists(st.text("ab\n").map(str.encode)))
def test_lines_are_the_same_however_they_are_cut_into_chunks(chunks: list[bytes]) -> None:
    buffer = LineBuffer()
    lines = [line for chunk in chunks for line in buffer.feed(chunk)]
    assert [*lines, buffer.rest()] == b"".join(chunks).split(b"\n")
