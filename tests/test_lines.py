"""Whatever JSON stands in a line of results, it is one outcome, given and told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from otel_bridge import BatchResult, semconv
from otel_bridge.telemetry import OUTCOMES, UNKNOWN, Lines, Pass, Tally
from otel_bridge.telemetry.batch import Outcome

Make = Callable[[int], list[dict[str, Any]]]
MODEL = "claude-haiku-4-5-20251001"


def answered(**message: Any) -> dict[str, Any]:
    return {"type": "succeeded", "message": {"model": MODEL, **message}}


USAGE = {"input_tokens": 1, "output_tokens": 2}
STRANGE: list[tuple[Any, str]] = [
    ("foo", UNKNOWN),
    ([1], UNKNOWN),
    (None, UNKNOWN),
    (7, UNKNOWN),
    ({}, UNKNOWN),
    ({"type": ["a"]}, UNKNOWN),
    ({"type": "paused"}, UNKNOWN),
    ({"type": "succeeded", "message": "x"}, UNKNOWN),
    ({"type": "errored"}, "errored"),
    ({"type": "errored", "error": "oops"}, "errored"),
    ({"type": "errored", "error": {"error": "x", "request_id": [1]}}, "errored"),
    ({"type": "errored", "error": {"error": {"type": ["x"], "message": {}}}}, "errored"),
    (answered(usage="x"), "succeeded"),
    (answered(usage={"input_tokens": "12", "output_tokens": None}), "succeeded"),
    (answered(usage={"input_tokens": 2**63, "output_tokens": 2**64 - 1}), "succeeded"),
    (answered(usage={**USAGE, "service_tier": ["x"], "cache_creation": [1]}), "succeeded"),
    (answered(model=["x"], id=7, stop_reason={}, content="hey", usage=USAGE), "succeeded"),
    (answered(content=[{"type": "text", "text": 1}, 2, {"type": "tool_use"}]), "succeeded"),
]
NAMELESS: list[Any] = [5, "foo", [1], None, None, {"custom_id": 7}, {"result": STRANGE[-1][0]}]


def strange(requests: list[dict[str, Any]]) -> tuple[list[Any], Counter[str]]:
    """One line for each request, some without its id, and their outcomes."""
    named = requests[: len(STRANGE)]
    lines = [
        {"custom_id": request["custom_id"], "result": result}
        for request, (result, _) in zip(named, STRANGE, strict=True)
    ]
    outcomes = Counter(kind for _, kind in STRANGE)
    return [*lines, *NAMELESS], outcomes + Counter({UNKNOWN: len(NAMELESS) - 1, "succeeded": 1})


COUNT = len(STRANGE) + len(NAMELESS)
CONTENT = {"span_content": True, "langsmith_content": True, "max_request_spans": None}


def all_are_told(service: Any, outcomes: Counter[str]) -> None:
    service.flush()
    spans = [s for s in service.otlp.unique_spans() if s.name.startswith("chat")]
    assert Counter(span.attributes[semconv.BATCH_OUTCOME] for span in spans) == outcomes
    runs = [run for run in service.langsmith.runs.values() if run["run_type"] == "llm"]
    assert len(runs) == COUNT
    for kind, count in outcomes.items():
        labels = {semconv.BATCH_OUTCOME: kind}
        assert service.otlp.metric_sum(semconv.METRIC_BATCH_REQUESTS, **labels) == count
    assert service.otlp.metric_sum(semconv.METRIC_BATCH_REQUESTS) == COUNT
    (batch,) = [s for s in service.otlp.unique_spans() if s.name.startswith("batch")]
    for kind in (*OUTCOMES, UNKNOWN):
        assert batch.attributes[f"anthropic.message.batch.{kind}_count"] == outcomes[kind]
    assert "anthropic.message.batch.missing_count" not in batch.attributes


def read_everything(results: list[BatchResult], lines: list[Any]) -> None:
    """Each property of each result can be read."""
    assert sorted(result.raw for result in results) == sorted(
        json.dumps(line, separators=(",", ":")).encode() for line in lines
    )
    assert len({result.custom_id for result in results}) == COUNT
    for result in results:
        assert result.succeeded == (result.message is not None)
        told = (result.type, result.error, result.error_type, result.usage, result.cost)
        assert told[0] in (*OUTCOMES, UNKNOWN, "paused")
        assert result.to_sdk() is not None
        assert isinstance(result.to_dict(), dict)


@pytest.mark.parametrize("cut", [False, True])
def test_malformed_lines_are_given_and_told(service: Any, make_requests: Make, cut: bool) -> None:
    requests = make_requests(COUNT)
    lines, outcomes = strange(requests)
    executor = service.executor(**CONTENT)
    (handle,) = executor.submit(requests)
    service.api.replace_results(handle.id, lines)
    if cut:  # a later read knows the lines without an id again
        service.api.fail_next("GET", "results$", action="cut_mid_line")
    read_everything(list(executor.collect(handle)), lines)
    all_are_told(service, outcomes)


async def test_the_async_twin_gives_and_tells_them_too(service: Any, make_requests: Make) -> None:
    requests = make_requests(COUNT)
    lines, outcomes = strange(requests)
    executor = service.async_executor(**CONTENT)
    (handle,) = await executor.submit(requests)
    service.api.replace_results(handle.id, lines)
    read_everything([result async for result in executor.collect(handle)], lines)
    await service.aclose()
    all_are_told(service, outcomes)


def test_malformed_lines_that_other_code_reads_are_told(
    service: Any, make_requests: Make, instrument: Callable[..., None]
) -> None:
    requests = make_requests(COUNT)
    lines, outcomes = strange(requests)
    instrument(**CONTENT)
    batch_id = service.api.add_batch(requests, seconds=0)
    service.api.replace_results(batch_id, lines)
    with service.client.messages.batches.with_streaming_response.results(batch_id) as response:
        assert list(map(json.loads, response.iter_lines())) == lines
    all_are_told(service, outcomes)


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_the_command_writes_malformed_lines(
    bridge: Any, make_requests: Make, api: Any, name: str
) -> None:
    requests = make_requests(COUNT)
    lines, outcomes = strange(requests)
    batch_id = api.add_batch(requests)
    api.replace_results(batch_id, lines)
    ran = bridge("collect", batch_id, "-o", name, "--json")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert {kind: told[kind] for kind in outcomes} == outcomes
    path = bridge.folder / name
    if name == "out.jsonl":
        written = path.read_text().splitlines()
    else:
        written = parquet.read_table(path).column("result").to_pylist()
    assert [json.loads(line) for line in written] == lines


@pytest.mark.parametrize("method", ["native", "tool"])
def test_malformed_lines_are_failures_of_structured_runs(
    service: Any, make_requests: Make, method: str
) -> None:
    requests = make_requests(len(STRANGE))
    results = dict(zip([each["custom_id"] for each in requests], STRANGE, strict=True))

    def respond(request: Any, _: object) -> Any:
        return results[request["custom_id"]][0]

    service.api._responder = respond
    empty = {"type": "object", "properties": {}}
    scored = service.executor().run_structured(
        empty, requests, model=MODEL, max_tokens=5, method=method
    )
    assert len(scored) == len(scored.failed) == len(STRANGE)


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
    tally = Tally(3, ["expected"])
    first = Pass(tally)
    line = first.take(raw)
    assert line is not None
    assert line.custom_id
    assert line.before == 0
    outcome = Outcome.from_line(line.value)
    assert outcome.kind in (*OUTCOMES, UNKNOWN)
    assert {outcome.kind: 1}  # it can be counted
    assert (outcome.error_type is None) == (outcome.kind == "succeeded")
    result = BatchResult(line.value, raw)
    assert result.custom_id == outcome.custom_id == line.custom_id
    assert result.succeeded == (outcome.kind == "succeeded") == (result.message is not None)
    assert result.usage == outcome.usage
    assert 0 <= outcome.usage.total_tokens < 2**63
    if result.type in OUTCOMES:
        assert result.type == outcome.kind
    assert result.cost is None or result.cost.total_cost >= 0
    result.to_sdk()
    repr(result.error)
    again = Pass(tally).take(raw)
    assert again is not None
    assert (again.custom_id, again.before) == (line.custom_id, first.number)


@given(st.lists(st.text("ab\n").map(str.encode)))
def test_lines_are_the_same_however_they_are_cut_into_chunks(chunks: list[bytes]) -> None:
    lines = Lines()
    whole = [line for chunk in chunks for line in lines.take(chunk)]
    assert [*whole, lines.rest()] == b"".join(chunks).split(b"\n")
