"""Structured output: each request has a validated value, or says why it has none."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from enum import Enum
from typing import Any

import hypothesis
import hypothesis.strategies as st
import orjson
import pydantic
import pytest
from langsmith import traceable
from support import Cost, Service, present

from otel_bridge import ConfigurationError, RequestsError, StructuredRequest
from otel_bridge.batches.schemas import schema_of
from otel_bridge.simulator.answers import instance

MODEL = "claude-sonnet-4-5-20250929"
PREFIX = "anthropic.message.batch.structured."


class Kind(Enum):
    PAPER = "paper"
    BOOK = "book"


class Score(pydantic.BaseModel):
    score: int = pydantic.Field(ge=0, le=10)
    kind: Kind
    reason: str | None
    tags: list[str] = pydantic.Field(min_length=1)


@dataclasses.dataclass
class Point:
    x: float
    y: float
    config: str


class Node(pydantic.BaseModel):
    name: str
    children: list[Node]


class Lexicon(pydantic.BaseModel):
    words: dict[str, int]


class Careless(pydantic.BaseModel):
    score: int

    def model_post_init(self, _: Any) -> None:
        raise KeyError("unforeseen")


JSON_SCHEMA = {
    "title": "City",
    "type": "object",
    "properties": {"name": {"type": "string"}, "people": {"type": "integer", "minimum": 0}},
    "required": ["name", "people"],
}


def prompts(*ids: str) -> list[StructuredRequest]:
    return [StructuredRequest(custom_id=each, user_prompt=f"Score {each}.") for each in ids]


def run(service: Service, schema: Any, requests: Any, **options: Any) -> Any:
    given = {"model": MODEL, "max_tokens": 200, **options}
    return service.executor().run_structured(schema, requests, **given)


def sent(service: Service) -> list[dict[str, Any]]:
    (creation,) = [each for each in service.api.requests if each.method == "POST"]
    return list(creation.json()["requests"])


@pytest.mark.parametrize("method", ["native", "tool"])
@pytest.mark.parametrize("schema", [Score, Point, JSON_SCHEMA], ids=["model", "dataclass", "json"])
def test_values_are_of_the_schemas_type(service: Service, schema: Any, method: str) -> None:
    results = run(service, schema, prompts("ok-1", "ok-2"), method=method)
    assert results.failed == {}
    for result in results.values():
        assert result.error is None
        if schema is JSON_SCHEMA:
            assert isinstance(result.value["people"], int)
        else:
            assert isinstance(result.value, schema)


@pytest.mark.parametrize("method", ["native", "tool"])
def test_what_has_no_value_says_why(service: Service, method: str) -> None:
    ids = [
        "ok-1",
        "a-refusal",
        "a-truncated",
        "a-violation",
        "errored-1",
        "expired-1",
        "canceled-1",
    ]
    results = run(service, Score, prompts(*ids), method=method)
    assert list(results) == ids
    told = {custom_id: str(results[custom_id].error) for custom_id in ids[1:]}
    assert told["a-refusal"] == "refusal: the model refused to answer"
    tokens = results["a-truncated"].usage.output_tokens
    assert (
        told["a-truncated"] == f"truncated: the answer was cut after {tokens} tokens (max_tokens)"
    )
    assert told["a-violation"] == "schema_violation: score: Field required, and 3 more"
    assert told["errored-1"].startswith("errored: ")
    assert told["errored-1"].count("_error: ") == 1
    assert told["expired-1"].startswith("expired: the batch expired")
    assert told["canceled-1"].startswith("canceled: the batch was canceled")
    assert all(each.value is None for each in results.failed.values())


def test_usage_and_cost_are_the_apis(service: Service, cost_of: Cost) -> None:
    results = run(service, Score, prompts(*(f"each-{number}" for number in range(40)), "a-refusal"))
    (batch_id,) = results.batch_ids
    truth = service.api.truth(batch_id)
    lines = {line["custom_id"]: line for line in service.api.results(batch_id)}
    assert results.usage.output_tokens == truth["output_tokens"]
    assert results["a-refusal"].usage.output_tokens > 0, "a refusal is billed"
    for custom_id, result in results.items():
        assert result.cost.total_cost == pytest.approx(cost_of(lines[custom_id]), abs=1e-12)
    assert results.cost.total_cost == pytest.approx(sum(map(cost_of, lines.values())), abs=1e-9)


def test_requests_ask_for_what_the_api_takes(service: Service) -> None:
    whole = {
        "custom_id": "ok-whole",
        "params": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "top_k": 2},
    }
    other = StructuredRequest("ok-own", "b", "its own")
    run(
        service,
        Score,
        [*prompts("ok-1"), other, whole],
        system_prompt="everybody's",
        temperature=0.5,
        output_config={"effort": "low"},
    )
    first, second, third = [each["params"] for each in sent(service)]
    assert (first["system"], second["system"]) == ("everybody's", "its own")
    assert (first["max_tokens"], third["max_tokens"], third["top_k"]) == (200, 9, 2)
    assert first["temperature"] == third["temperature"] == 0.5
    assert first["output_config"]["effort"] == "low"
    schema = first["output_config"]["format"]["schema"]
    assert first["output_config"]["format"]["type"] == "json_schema"
    assert schema["additionalProperties"] is False
    assert "minimum" not in schema["properties"]["score"], "the API does not take bounds"


def test_a_forced_tool_call_goes_beside_other_tools(service: Service) -> None:
    tools = [{"name": "answer", "input_schema": {"type": "object"}}]
    results = run(service, Point, prompts("ok-1"), method="tool", tools=tools)
    assert results["ok-1"].value is not None
    (params,) = [each["params"] for each in sent(service)]
    assert [tool["name"] for tool in params["tools"]] == ["answer", "answer_"]
    assert params["tool_choice"]["name"] == "answer_"
    assert tools == [{"name": "answer", "input_schema": {"type": "object"}}]


def test_a_tools_input_is_an_object_even_of_a_recursive_model(service: Service) -> None:
    results = run(service, Node, prompts("ok-1"), method="tool")
    assert isinstance(results["ok-1"].value, Node)
    (params,) = [each["params"] for each in sent(service)]
    asked = params["tools"][0]["input_schema"]
    assert asked["type"] == "object"
    assert asked["properties"].keys() == {"name", "children"}
    assert schema_of(Node).json["$defs"] == asked["$defs"]


def test_an_object_of_any_keys_takes_a_tool(service: Service) -> None:
    results = run(service, Lexicon, prompts("ok-1"), method="tool", output_config=None)
    assert isinstance(results["ok-1"].value, Lexicon)


def test_a_validator_that_fails_loses_no_result(service: Service) -> None:
    results = run(service, Careless, prompts("ok-1", "ok-2"), output_config=None)
    assert {each.error.kind for each in results.values()} == {"schema_violation"}
    assert results["ok-1"].error.message == "validating it raised KeyError: 'unforeseen'"
    assert results["ok-1"].usage.output_tokens > 0


def test_no_parameter_name_is_reserved_by_tracing(service: Service) -> None:
    @traceable
    def workflow(config: str, parent: str) -> Any:
        request = StructuredRequest("ok-1", f"{config} {parent}")
        return run(service, Point, [request], metadata={"user_id": "config"})

    results = workflow(config="strict", parent="none")
    assert results["ok-1"].value.config


def test_nothing_is_sent_for_what_cannot_be(service: Service, monkeypatch: Any) -> None:
    class Custom:
        pass

    for bad, reason in (
        (Custom, "has no JSON schema"),
        ({"properties": {}}, "the schema answer cannot be used: Schema must have a 'type'"),
        ({"type": "nonsense"}, "the JSON schema is not one: type"),
        (Lexicon, "Lexicon cannot be used: properties.words is an object whose keys are not named"),
    ):
        with pytest.raises(RequestsError, match=reason):
            run(service, bad, prompts("ok-1"))
    with pytest.raises(RequestsError, match="method='other' cannot be used"):
        run(service, Score, prompts("ok-1"), method="other")
    for no_object in (list[int], Score | Point):
        with pytest.raises(RequestsError, match="whose answer is one object"):
            run(service, no_object, prompts("ok-1"), method="tool")
    with pytest.raises(RequestsError, match="already used"):
        run(service, Score, prompts("ok-1", "ok-1"))
    with pytest.raises(RequestsError, match="not an object"):
        run(service, Score, ["text"])
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(ConfigurationError, match=r"otel-bridge\[jsonschema\]"):
        run(service, JSON_SCHEMA, prompts("ok-1"))
    assert service.api.requests == []


def test_a_request_without_a_result_has_one_here(service: Service) -> None:
    executor = service.executor()
    requests = prompts("ok-1", "ok-2")
    service.api.responder = lambda request, result: (
        {"type": "novel"} if request["custom_id"] == "ok-1" else result
    )
    results = executor.run_structured(Score, requests, model=MODEL, max_tokens=9)
    assert str(results["ok-1"].error) == "unknown: the API gave a result of type 'novel'"


def test_a_lost_result_is_missing(service: Service) -> None:
    executor = service.executor()
    plan_ids = [f"ok-{number}" for number in range(6)]
    service.api.fail_next("GET", "results$", action="cut_line", times=3)
    results = executor.run_structured(Score, prompts(*plan_ids), model=MODEL, max_tokens=9)
    kinds = Counter(each.error.kind if each.error else "valid" for each in results.values())
    assert kinds == {"valid": 3, "missing": 3}
    missing = next(iter(results.failed.values()))
    assert (missing.usage.total_tokens, present(missing.cost).total_cost) == (0, 0)


def test_the_span_tells_validation_outcomes_and_counts_nothing_twice(service: Service) -> None:
    ids = [*(f"ok-{number}" for number in range(8)), "a-refusal", "errored-1"]
    results = run(service, Score, prompts(*ids))
    service.flush()
    spans = {span.name: span for span in service.otlp.unique_spans()}
    top, batch = spans["batch_structured_output"], spans[f"batch {MODEL}"]
    assert batch.parent_span_id == top.span_id
    assert top.attributes[f"{PREFIX}schema"] == "Score"
    assert top.attributes[f"{PREFIX}ids"] == list(results.batch_ids)
    outcomes = {
        name.removeprefix(f"{PREFIX}outcome."): value
        for name, value in top.attributes.items()
        if name.startswith(f"{PREFIX}outcome.")
    }
    assert outcomes == {"valid": 8, "refusal": 1, "errored": 1}
    truth = service.api.truth(*results.batch_ids)
    for name in ("gen_ai.usage.output_tokens", "anthropic.message.batch.usage.output_tokens"):
        told = sum(span.attributes.get(name, 0) for span in service.otlp.unique_spans())
        assert told == truth["output_tokens"]
    run_of = {each["name"]: each for each in service.langsmith.runs.values()}
    metadata = run_of["batch_structured_output"]["extra"]["metadata"]
    assert metadata["batch_id"] == results.batch_ids[0]
    assert (metadata["request_count"], metadata["successful_count"]) == (10, 8)
    assert metadata["failed_count"] == 2
    assert metadata["usage_metadata"]["output_tokens"] == truth["output_tokens"]
    assert metadata["usage_metadata"]["input_cost"] > 0
    assert metadata["usage_metadata"]["total_cost"] == pytest.approx(results.cost.total_cost)
    assert run_of[f"batch {MODEL}"]["parent_run_id"] == run_of["batch_structured_output"]["id"]
    assert service.langsmith.usage_totals()["output_tokens"] == truth["output_tokens"]
    assert service.langsmith.refusals == []


def test_a_run_that_fails_ends_its_span_with_the_error(service: Service) -> None:
    service.api.fail_next("POST", status=403)
    with pytest.raises(Exception, match="403"):
        run(service, Score, prompts("ok-1"))
    service.flush()
    (span,) = [s for s in service.otlp.unique_spans() if s.name == "batch_structured_output"]
    assert (span.status_code, span.attributes["error.type"]) == (2, "BatchError")
    results = run(service, Score, prompts("a-refusal"))
    assert len(results.failed) == 1
    service.flush()
    last = service.otlp.unique_spans()[-1]
    spans = [s for s in service.otlp.unique_spans() if s.name == "batch_structured_output"]
    assert spans[-1].attributes["error.type"] == "no_valid_answer", last


async def test_the_async_twin_does_the_same(service: Service) -> None:
    executor = service.async_executor()
    results = await executor.run_structured(
        Score, prompts("ok-1", "a-violation"), model=MODEL, max_tokens=9
    )
    assert isinstance(results["ok-1"].value, Score)
    assert present(results["a-violation"].error).kind == "schema_violation"
    service.flush()
    names = {span.name: span for span in service.otlp.unique_spans()}
    top = names["batch_structured_output"]
    assert names[f"batch {MODEL}"].parent_span_id == top.span_id
    await service.aclose()


class Tree(pydantic.BaseModel):
    label: str
    weight: float = pydantic.Field(gt=0, lt=1)
    children: list[Tree]
    parent: Tree | None


@hypothesis.given(st.randoms(use_true_random=False), st.sampled_from([Score, Point, Tree]))
@hypothesis.settings(max_examples=60)
def test_the_simulator_answers_in_conformity(dice: Any, kind: type) -> None:
    schema = schema_of(kind)
    schema.parse(orjson.dumps(instance(schema.native, dice)))
    schema.parse(orjson.dumps(instance(schema.json, dice)))
