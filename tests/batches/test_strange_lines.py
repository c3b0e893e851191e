"""Whatever JSON stands in a line of results, it is given, recorded and priced."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Literal

import pytest
from pyarrow import parquet
from support import Command, Instrument, MakeRequests, Service

from otel_bridge import BatchResult, Cost, TokenUsage, semconv
from otel_bridge.domain import outcome as outcomes_of
from otel_bridge.domain import pricing
from otel_bridge.domain.batch import OUTCOMES, UNKNOWN

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


def all_are_told(service: Service, outcomes: Counter[str]) -> None:
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


def test_a_result_is_priced_once(
    service: Service, make_requests: MakeRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    priced: list[str] = []

    def price(usage: TokenUsage, model: str, **more: Any) -> Cost | None:
        priced.append(model)
        return pricing.price(usage, model, **more)

    monkeypatch.setattr(outcomes_of, "price", price)
    results = service.executor(max_request_spans=None).run(make_requests(40))
    answered = [result for result in results.values() if result.succeeded]
    assert all(result.cost for result in answered)
    assert len(priced) == len(answered)


def test_no_result_is_lost_where_prices_cannot_be_had(
    service: Service, make_requests: MakeRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    forget_rates = pricing._rates.cache_clear  # noqa: SLF001 - of other tests
    forget_rates()
    monkeypatch.setattr(pricing, "calc_price", broken)
    results = service.executor().run(make_requests(40))
    forget_rates()
    assert len(results) == 40
    assert {result.cost for result in results.succeeded.values()} == {None}
    assert {result.cost for result in results.failed.values()} == {Cost()}


@pytest.mark.parametrize("cut", [False, True])
def test_malformed_lines_are_given_and_told(
    service: Service, make_requests: MakeRequests, cut: bool
) -> None:
    requests = make_requests(COUNT)
    lines, outcomes = strange(requests)
    executor = service.executor(**CONTENT)
    (handle,) = executor.submit(requests)
    service.api.replace_results(handle.id, lines)
    if cut:  # a later read knows the lines without an id again
        service.api.fail_next("GET", "results$", action="cut_mid_line")
    read_everything(list(executor.collect(handle)), lines)
    all_are_told(service, outcomes)


async def test_the_async_twin_gives_and_tells_them_too(
    service: Service, make_requests: MakeRequests
) -> None:
    requests = make_requests(COUNT)
    lines, outcomes = strange(requests)
    executor = service.async_executor(**CONTENT)
    (handle,) = await executor.submit(requests)
    service.api.replace_results(handle.id, lines)
    read_everything([result async for result in executor.collect(handle)], lines)
    await service.aclose()
    all_are_told(service, outcomes)


def test_malformed_lines_that_other_code_reads_are_told(
    service: Service, make_requests: MakeRequests, instrument: Instrument
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
    bridge: Command, make_requests: MakeRequests, api: Any, name: str
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
    service: Service, make_requests: MakeRequests, method: Literal["native", "tool"]
) -> None:
    requests = make_requests(len(STRANGE))
    results = dict(zip([each["custom_id"] for each in requests], STRANGE, strict=True))

    def respond(request: Any, _: object) -> Any:
        return results[request["custom_id"]][0]

    service.api.responder = respond
    empty = {"type": "object", "properties": {}}
    scored = service.executor().run_structured(
        empty, requests, model=MODEL, max_tokens=5, method=method
    )
    assert len(scored) == len(scored.failed) == len(STRANGE)
