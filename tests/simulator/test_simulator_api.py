"""The simulated Message Batches API answers the real SDK as the real API does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial
from json import JSONDecodeError
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse
from support import eventually

from otel_bridge.simulator import MessageBatchesServer

MODEL = "claude-haiku-4-5-20251001"
CUTS = {
    "cut_line": None,
    "cut_mid_line": JSONDecodeError,
    "cut_connection": httpx2.RemoteProtocolError,
}
OUTCOMES = ("succeeded", "errored", "canceled", "expired")


Running = tuple[MessageBatchesServer, anthropic.Anthropic]


@contextmanager
def serving(**options: Any) -> Iterator[Running]:
    with (
        MessageBatchesServer(**options) as server,
        anthropic.Anthropic(base_url=server.url, api_key="test", max_retries=0) as client,
    ):
        yield server, client


@pytest.fixture
def running() -> Iterator[Running]:
    with serving() as both:
        yield both


def asked(custom_id: Any, **params: Any) -> Any:
    messages = [{"role": "user", "content": "hello"}]
    params = {"model": MODEL, "max_tokens": 100, "messages": messages} | params
    return {"custom_id": custom_id, "params": params}


def create(client: anthropic.Anthropic, *custom_ids: str) -> MessageBatch:
    return client.messages.batches.create(requests=[asked(each) for each in custom_ids])


def read(client: anthropic.Anthropic, batch_id: str) -> list[MessageBatchIndividualResponse]:
    return list(client.messages.batches.results(batch_id))


def ids(count: int) -> list[str]:
    return [f"item-{number}" for number in range(count)]


def test_a_batch_that_runs_counts_under_processing_and_keeps_its_results() -> None:
    with serving(batch_seconds=60) as (server, client):
        batch = create(client, "one-ok", "two-errored")
        assert batch.processing_status == "in_progress"
        assert batch.request_counts.to_dict() == dict.fromkeys(OUTCOMES, 0) | {"processing": 2}
        assert (batch.ended_at, batch.results_url) == (None, None)
        assert batch.expires_at - batch.created_at == timedelta(hours=24)
        with pytest.raises(anthropic.AnthropicError, match="No `results_url`"):
            client.messages.batches.results(batch.id)
        with pytest.raises(anthropic.NotFoundError):
            client.get(f"/v1/messages/batches/{batch.id}/results", cast_to=object)
        with pytest.raises(anthropic.BadRequestError):
            client.messages.batches.delete(batch.id)

        server.end(batch.id)
        batch = client.messages.batches.retrieve(batch.id)
        assert batch.processing_status == "ended"
        counts = batch.request_counts
        assert (counts.processing, counts.succeeded, counts.errored) == (0, 1, 1)
        assert batch.results_url == f"{server.url}/v1/messages/batches/{batch.id}/results"
        assert len(read(client, batch.id)) == 2


def test_results_come_shuffled_and_of_all_four_types(running: Running) -> None:
    _, client = running
    asked_for = [f"{number}-{OUTCOMES[number % 4]}" for number in range(40)]
    lines = read(client, create(client, *asked_for).id)
    came = [line.custom_id for line in lines]
    assert came != asked_for == sorted(came, key=asked_for.index)
    for line in lines:
        assert line.result.type == line.custom_id.partition("-")[2]
        if line.result.type == "succeeded":
            assert line.result.message.usage.service_tier == "batch"
            assert line.result.message.model == MODEL
            assert line.result.message.content[-1].type == "text"
        elif line.result.type == "errored":
            assert line.result.error.error.message


def test_truth_is_what_the_sdk_reads(running: Running) -> None:
    server, client = running
    batch = create(client, *ids(400))
    truth: Counter[str] = Counter()
    for line in read(client, batch.id):
        truth[line.result.type] += 1
        if line.result.type != "succeeded":
            continue
        usage = line.result.message.usage
        assert usage.cache_creation is not None
        cached: Any = usage.cache_creation.to_dict()
        assert usage.cache_creation_input_tokens == sum(cached.values())
        assert usage.output_tokens_details is not None
        assert usage.output_tokens_details.thinking_tokens <= usage.output_tokens
        searches = usage.server_tool_use.web_search_requests if usage.server_tool_use else 0
        truth.update(
            cached,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_input_tokens=usage.cache_read_input_tokens or 0,
            cache_creation_input_tokens=sum(cached.values()),
            thinking_tokens=usage.output_tokens_details.thinking_tokens,
            web_search_requests=searches,
        )
    assert server.truth(batch.id) == truth
    assert all(truth.values())
    counts = batch.request_counts.to_dict()
    assert counts == {name: truth[name] for name in OUTCOMES} | {"processing": 0}


def test_a_result_depends_on_seed_and_custom_id_alone() -> None:
    def answers(seed: int, *custom_ids: str) -> dict[str, Any]:
        with serving(seed=seed) as (_, client):
            lines = read(client, create(client, *custom_ids).id)
        return {line.custom_id: line.result.to_dict() for line in lines}

    first = answers(1, *ids(20))
    assert answers(1, "another", *reversed(ids(20))) == first | answers(1, "another")
    assert answers(2, *ids(20)) != first


def test_malformed_params_make_an_errored_result(running: Running) -> None:
    _, client = running
    requests = [asked("fine-ok"), asked("bad-ok", model=None), asked("empty-ok", messages=[])]
    batch = client.messages.batches.create(requests=requests)
    for line in read(client, batch.id):
        if line.custom_id == "fine-ok":
            assert line.result.type == "succeeded"
        else:
            assert line.result.type == "errored"
            assert line.result.error.error.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        ([], "at least 1 item"),
        ([asked("same"), asked("same")], "Duplicate custom_id"),
        ([asked("with space")], "should match pattern"),
        ([asked("x" * 65)], "should match pattern"),
        ([asked("")], "should match pattern"),
        ([{"params": {}}], "requests.0.custom_id: Field required"),
        ([asked("fine"), {"custom_id": "b"}], "requests.1.params: Field required"),
        (["no object"], "should be an object"),
        ([asked("a")] * 100_001, "at most 100000 items"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refused_batch_is_the_sdks_typed_error(
    running: Running, requests: Any, reason: str
) -> None:
    server, client = running
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.batches.create(requests=requests)
    error = caught.value
    assert error.type == "invalid_request_error"
    assert reason in (error.api_message or "")
    assert error.request_id
    envelope: Any = error.body
    assert envelope["error"] == {"type": error.type, "message": error.api_message}
    assert (envelope["type"], envelope["request_id"]) == ("error", error.request_id)
    assert server.batch_ids == []


def test_a_request_needs_the_right_key() -> None:
    omit: Any = anthropic.Omit()
    with serving(api_key="test") as (_, client):
        for right in ({"Authorization": "Bearer test"}, {"X-Api-Key": "test"}):
            create(client.with_options(default_headers={"Authorization": omit} | right), "a")
        for wrong in ({}, {"Authorization": "Bearer tes"}, {"X-Api-Key": "test-too"}):
            with pytest.raises(anthropic.AuthenticationError) as caught:
                create(client.with_options(default_headers={"Authorization": omit} | wrong), "a")
            assert caught.value.type == "authentication_error"


def test_a_batch_that_never_was_or_is_deleted_is_not_found(running: Running) -> None:
    _, client = running
    batches = client.messages.batches
    batch = create(client, "a")
    assert batches.delete(batch.id).id == batch.id
    for call in (batches.retrieve, batches.cancel, batches.delete, batches.results):
        with pytest.raises(anthropic.NotFoundError) as caught:
            call(batch.id)
        assert caught.value.type == "not_found_error"
        assert caught.value.request_id


def test_the_list_pages_from_the_newest_to_the_oldest_and_back(running: Running) -> None:
    server, client = running
    created = [create(client, "a").id for _ in range(7)]
    assert created == server.batch_ids
    newest = created[::-1]
    batches = client.messages.batches
    assert [batch.id for batch in batches.list()] == newest
    assert [batch.id for batch in batches.list(limit=3)] == newest
    assert [batch.id for batch in batches.list(limit=2, after_id=newest[2])] == newest[3:]
    page = batches.list(limit=2, before_id=newest[5])
    assert [batch.id for batch in page.data] == newest[3:5]
    assert {batch.id for batch in page} == set(newest[:5])
    assert batches.list(limit=7).has_more is False
    for limit in (0, 1001):
        with pytest.raises(anthropic.BadRequestError):
            batches.list(limit=limit)


def test_a_canceled_batch_is_canceling_and_then_ended_with_canceled_results() -> None:
    with serving(batch_seconds=60) as (_, client):
        batch = create(client, *ids(30))
        canceling = client.messages.batches.cancel(batch.id)
        assert canceling.processing_status == "canceling"
        assert canceling.request_counts.processing == 30
        retrieve = partial(client.messages.batches.retrieve, batch.id)
        eventually(lambda: retrieve().processing_status == "ended")
        ended = retrieve()
        assert ended.cancel_initiated_at == canceling.cancel_initiated_at
        assert ended.request_counts.canceled > 20
        kinds = Counter(line.result.type for line in read(client, batch.id))
        assert kinds["canceled"] == ended.request_counts.canceled
        with pytest.raises(anthropic.BadRequestError):
            client.messages.batches.cancel(batch.id)


def test_a_batch_of_others_can_be_added_and_its_lines_replaced(running: Running) -> None:
    server, client = running
    created_at = datetime.now(UTC) - timedelta(minutes=30)
    requests = [asked(f"{number}-ok") for number in range(100)]
    batch_id = server.add_batch(requests, batch_id="mine", created_at=created_at, seconds=3600)
    batch = client.messages.batches.cancel(batch_id)
    assert (batch.id, batch.created_at) == ("mine", created_at)
    server.end(batch_id)
    counts = client.messages.batches.retrieve(batch_id).request_counts
    assert 20 < counts.succeeded < 80, "what finished before the cancellation keeps its result"
    assert counts.succeeded + counts.canceled == 100
    server.replace_results(batch_id, [{"custom_id": "stranger", "result": {"type": "expired"}}])
    assert [line.custom_id for line in read(client, batch_id)] == ["stranger"]
    assert server.truth(batch_id)["expired"] == 1


def test_a_responder_changes_results() -> None:
    def responder(request: Mapping[str, Any], result: dict[str, Any]) -> dict[str, Any]:
        assert result["type"] == "succeeded"
        return {"type": "expired"} if request["custom_id"] == "b-ok" else result

    with serving(responder=responder) as (_, client):
        batch = create(client, "a-ok", "b-ok")
        assert (batch.request_counts.succeeded, batch.request_counts.expired) == (1, 1)
        results = {line.custom_id: line.result.type for line in read(client, batch.id)}
    assert results == {"a-ok": "succeeded", "b-ok": "expired"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, "permission_error"), (429, "rate_limit_error"), (529, "overloaded_error")],
)
def test_a_status_can_be_asked_for(running: Running, status: int, kind: str) -> None:
    server, client = running
    server.fail_next("POST", "/batches$", status=status, headers={"retry-after": "7"})
    with pytest.raises(anthropic.APIStatusError) as caught:
        create(client, "a")
    assert (caught.value.status_code, caught.value.type) == (status, kind)
    assert caught.value.request_id
    assert caught.value.response.headers["retry-after"] == "7"
    assert server.batch_ids == []
    create(client, "a")


def test_faults_come_as_often_as_asked_or_until_recovery(running: Running) -> None:
    server, client = running
    server.fail_next(status=529, times=2, headers={"retry-after-ms": "1"})
    create(client.with_options(max_retries=2), "a")
    assert len(server.requests) == 3
    server.refuse_all(500)
    for _ in range(3):
        with pytest.raises(anthropic.InternalServerError):
            create(client, "a")
    server.recover()
    create(client, "a")


def test_a_batch_whose_answer_was_lost_exists_and_others_do_not(running: Running) -> None:
    server, client = running
    actions: dict[Any, int] = {"close": 0, "hang": 0, "accept_then_close": 1}
    for action, batches in actions.items():
        server.fail_next("POST", action=action)
        with pytest.raises(anthropic.APIConnectionError) as caught:
            create(client.with_options(timeout=0.3), "a")
        assert isinstance(caught.value, anthropic.APITimeoutError) == (action == "hang")
        assert len(list(client.messages.batches.list())) == batches


@pytest.mark.parametrize(("action", "error"), CUTS.items())
def test_a_stream_can_be_cut(running: Running, action: Any, error: Any) -> None:
    server, client = running
    batch = create(client, *ids(600))
    server.fail_next(path="/results$", action=action)
    seen: list[Any] = []
    with pytest.raises(error) if error else nullcontext():
        seen.extend(client.messages.batches.results(batch.id))
    # The SDK holds a line back until more comes, which may be the news that the connection is cut.
    assert len(seen) in ((299, 300) if action == "cut_connection" else (300,))
    assert len(read(client, batch.id)) == 600


def test_latency_and_delay_come_before_the_answer() -> None:
    with serving(latency=0.1) as (server, client):
        server.fail_next(status=500, delay=0.1)
        started = time.monotonic()
        with pytest.raises(anthropic.InternalServerError):
            create(client, "a")
        assert time.monotonic() - started >= 0.2


def test_a_streamed_message_adds_up_to_the_whole_one() -> None:
    tool = {"name": "look_up", "input_schema": {"type": "object"}}
    for seed in range(6):
        for tools in ({}, {"tools": [tool]}):
            with serving(seed=seed) as (server, client):
                params = asked("x", **tools)["params"]
                whole = client.messages.create(**params)
                with client.messages.stream(**params) as stream:
                    streamed = stream.get_final_message()
                first, second = server.messages
                assert first.pop("id") != second.pop("id")
                assert first == second
            assert [block.to_dict() for block in streamed.content] == [
                block.to_dict() for block in whole.content
            ]
            assert (whole.stop_reason == "tool_use") == bool(tools)
            assert streamed.stop_reason == whole.stop_reason
            assert whole.usage.service_tier == streamed.usage.service_tier == "standard"
            assert streamed.usage == whole.usage


def test_a_single_request_is_refused_as_the_api_does(running: Running) -> None:
    server, client = running
    with pytest.raises(anthropic.BadRequestError, match="max_tokens: Field required"):
        client.post("/v1/messages", body={"model": MODEL}, cast_to=object)
    server.fail_next("POST", "/v1/messages", status=529)
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(**asked("x")["params"])
    assert caught.value.type == "overloaded_error"


def test_a_tools_result_is_answered_in_words(running: Running) -> None:
    _, client = running
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "done"}
    answer = client.messages.create(
        **asked(
            "x",
            tools=[{"name": "look_up", "input_schema": {"type": "object"}}],
            messages=[{"role": "user", "content": [result]}],
        )["params"]
    )
    assert answer.content[-1].type == "text"
