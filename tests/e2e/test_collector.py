"""The collector's configurations, run by the real collector."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.trace import StatusCode
from support import MakeRequests, Service, eventually
from support.programs import Collector, ask_otelcol, needs_otelcol

from otel_bridge import BatchExecutor, semconv
from otel_bridge.domain.usage import TokenUsage
from otel_bridge.langsmith.dialects import may_be_content
from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer, OtlpCapture

pytestmark = needs_otelcol

NEEDED = {
    "GATEWAY_ENDPOINT": "http://gateway:4318",
    "TEMPO_ENDPOINT": "http://tempo:4318",
    "METRICS_ENDPOINT": "http://prometheus:9090/api/v1/otlp",
    "KAFKA_BROKERS": "kafka-1:9092,kafka-2:9092",
}
FORMS = [
    ("agent.yaml",),
    ("gateway.yaml",),
    ("gateway-kafka.yaml",),
    ("gateway.yaml", "writer-kafka.yaml"),
]
SECRET = "secret question"


@pytest.mark.parametrize("configs", FORMS, ids="+".join)
def test_the_collector_takes_every_configuration(configs: Sequence[str], tmp_path: Path) -> None:
    checked = ask_otelcol(*configs, **NEEDED, QUEUE_DIR=str(tmp_path / "queue"))
    assert checked.returncode == 0, checked.stderr
    assert "deprecated" not in checked.stderr.lower()


@pytest.mark.parametrize(
    ("configs", "variable"),
    [
        (("agent.yaml",), "GATEWAY_ENDPOINT"),
        (("gateway.yaml",), "TEMPO_ENDPOINT"),
        (("gateway.yaml", "writer-kafka.yaml"), "METRICS_ENDPOINT"),
    ],
)
def test_a_configuration_without_its_endpoint_is_refused(
    configs: Sequence[str], variable: str, tmp_path: Path
) -> None:
    known = {name: value for name, value in NEEDED.items() if name != variable}
    started = ask_otelcol(*configs, command="", **known, QUEUE_DIR=str(tmp_path / "queue"))
    assert started.returncode == 1
    assert "at least one endpoint must be specified" in started.stderr
    assert f'unset environment variable\t{{"name": "{variable}"}}' in started.stderr


@pytest.fixture
def tempo() -> Iterator[OtlpCapture]:
    with OtlpCapture() as server:
        yield server


@pytest.fixture
def collected() -> Iterator[LangSmithCapture]:
    """LangSmith as the collector reaches it, beside `langsmith`, which the service reaches."""
    with LangSmithCapture(api_key="gateway's key") as server:
        yield server


@pytest.fixture
def content() -> dict[str, str]:
    """Variables of the gateway that let content pass."""
    return {}


@pytest.fixture
def gateway(
    tmp_path: Path, tempo: OtlpCapture, collected: LangSmithCapture, content: dict[str, str]
) -> Iterator[Collector]:
    with Collector(
        tmp_path / "gateway",
        "gateway.yaml",
        TEMPO_ENDPOINT=tempo.url,
        LANGSMITH_ENDPOINT=collected.url,
        LANGSMITH_API_KEY="gateway's key",
        LANGSMITH_PROJECT="demo",
        **content,
    ) as running:
        yield running


@pytest.fixture
def otlp(tmp_path: Path, gateway: Collector) -> Iterator[Collector]:
    """The agent, which takes what the service sends over OTLP."""
    with Collector(tmp_path / "agent", "agent.yaml", GATEWAY_ENDPOINT=gateway.url) as agent:
        yield agent


def routed_batch(service: Service, requests: list[dict[str, Any]], **settings: Any) -> str:
    """Run a batch whose spans are stamped for LangSmith's OTLP endpoint."""
    executor = BatchExecutor(
        service.client,
        tracer_provider=service.tracers,
        meter_provider=service.meters,
        settings=service.settings(langsmith_route="collector", **settings),
    )
    with service.tracers.get_tracer("service").start_as_current_span("nightly-review"):
        (handle,) = executor.submit(requests)
        list(executor.collect(handle))
    service.flush()
    return handle.id


def chats(server: OtlpCapture) -> list[Any]:
    return [
        span
        for span in server.unique_spans()
        if span.attributes.get(semconv.GEN_AI_OPERATION_NAME) == "chat"
    ]


def test_every_backend_behind_the_collectors_has_the_figures_that_route_direct_has(
    service: Service,
    api: MessageBatchesServer,
    tempo: OtlpCapture,
    collected: LangSmithCapture,
    langsmith: LangSmithCapture,
    make_requests: MakeRequests,
) -> None:
    batch_id = routed_batch(service, make_requests(300))
    eventually(lambda: len(chats(tempo)) == 300, "all spans reach Tempo")
    with OtlpCapture() as elsewhere:
        direct = type(service)(api, elsewhere, langsmith)
        list(direct.executor().collect(batch_id))
        direct.flush()
        direct.close()
    eventually(lambda: len(collected.runs) == len(langsmith.runs), "all runs reach LangSmith")
    assert (collected.refusals, tempo.refusals) == ([], [])
    assert (collected.waiting_spans, collected.orphans()) == ([], [])
    assert collected.runs.keys() == langsmith.runs.keys()
    for name in ("trace_id", "parent_run_id", "dotted_order", "name", "run_type", "session_name"):
        assert {key: run.get(name) for key, run in collected.runs.items()} == {
            key: run.get(name) for key, run in langsmith.runs.items()
        }
    assert collected.usage_totals() == pytest.approx(langsmith.usage_totals())
    truth = api.truth(batch_id)
    usages = [TokenUsage.from_attributes(each.attributes) for each in chats(tempo)]
    usage = sum(usages, TokenUsage())
    assert usage.output_tokens == truth["output_tokens"]
    assert collected.usage_totals()["output_tokens"] == truth["output_tokens"]
    assert usage.cache_read_input_tokens == truth["cache_read_input_tokens"]
    assert {span.name for span in tempo.unique_spans()} >= {"nightly-review", "batch"}
    stamped = {name for span in chats(tempo) for name in span.attributes if "langsmith" in name}
    assert stamped == {"langsmith.span.id"}, "the rest is LangSmith's alone"


def test_what_services_send_to_langsmith_themselves_is_not_sent_again_yet_linked(
    service: Service,
    tempo: OtlpCapture,
    collected: LangSmithCapture,
    langsmith: LangSmithCapture,
    make_requests: MakeRequests,
) -> None:
    (handle,) = service.executor().submit(make_requests(20))
    list(service.executor().collect(handle))
    service.flush()
    eventually(lambda: len(chats(tempo)) == 20, "all spans reach Tempo")
    assert collected.requests == []
    linked = {
        span.attributes["langsmith.span.id"]
        for span in tempo.unique_spans()
        if semconv.GEN_AI_OPERATION_NAME in span.attributes
    }
    assert len(linked) == 21
    assert linked == langsmith.runs.keys()


def told(server: OtlpCapture | LangSmithCapture) -> bytes:
    return b"".join(request.body for request in server.requests)


FOREIGN = {
    "gen_ai.prompt.0.content": f"{SECRET} 1",
    "gen_ai.completion": f"{SECRET} 2",
    "input.value": f"{SECRET} 3",
    "output.value": f"{SECRET} 4",
    "llm.input_messages.0.message.content": f"{SECRET} 5",
    "llm.prompts": f"{SECRET} 6",
    "traceloop.entity.input": f"{SECRET} 7",
    "gen_ai.tool.call.arguments": f"{SECRET} 8",
}


NAME = "quoted-errored-1"
QUOTED = {
    "custom_id": NAME,
    "params": {
        "model": "claude-haiku-4-5",
        "max_tokens": 1,
        "stop_sequences": [f"{SECRET} 12"],
        "messages": [{"role": "user", "content": f"{SECRET} 13"}],
    },
}


def quoting(_: object, result: dict[str, Any]) -> dict[str, Any]:
    """Errors that quote what was asked, as the API's may."""
    if result["type"] == "errored":
        result["error"]["error"]["message"] = f"messages.0: {SECRET} 14"
    return result


@pytest.mark.parametrize(
    ("content", "to_tempo", "to_langsmith"),
    [
        ({}, False, False),
        ({"OTEL_BRIDGE_LANGSMITH_CONTENT": "true"}, False, True),
        ({"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY"}, True, False),
        ({"OTEL_BRIDGE_LANGSMITH_CONTENT": "of course"}, False, False),
    ],
)
def test_content_goes_only_where_the_gateway_lets_it(
    service: Service,
    tempo: OtlpCapture,
    collected: LangSmithCapture,
    make_requests: MakeRequests,
    to_tempo: bool,
    to_langsmith: bool,
) -> None:
    service.api.responder = quoting
    routed_batch(service, [*make_requests(19), QUOTED], span_content=True)
    executor = service.tracers.get_tracer("foreign")
    chat = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "claude-haiku-4-5"}
    with executor.start_as_current_span("foreign", attributes={**chat, **FOREIGN}) as span:
        span.set_attribute(semconv.GEN_AI_REQUEST_STOP_SEQUENCES, [f"{SECRET} 11"])
        span.add_event("gen_ai.content.prompt", {"gen_ai.prompt": f"{SECRET} 9", "n": 1})
        span.add_event("gen_ai.user.message", {"content": f"{SECRET} 10"})
    service.flush()
    eventually(lambda: len(chats(tempo)) == 21, "all spans reach Tempo")
    eventually(lambda: len(collected.runs) >= 21, "all runs reach LangSmith")
    assert (SECRET.encode() in told(tempo)) is to_tempo
    assert (SECRET.encode() in told(collected)) is to_langsmith
    foreign = next(span for span in tempo.unique_spans() if span.name == "foreign")
    assert foreign.attributes.items() >= chat.items(), "what is no content stays"
    assert foreign.events[0][2]["n"] == 1
    (quoted,) = [s for s in chats(tempo) if s.attributes.get(semconv.BATCH_CUSTOM_ID) == NAME]
    assert (quoted.status_message == quoted.attributes["error.type"]) is not to_tempo
    if to_tempo:
        assert foreign.attributes.items() >= FOREIGN.items()
        assert semconv.GEN_AI_INPUT_MESSAGES in chats(tempo)[0].attributes


NAMES = re.findall(
    r"\S+",
    """
gen_ai.operation.name gen_ai.provider.name gen_ai.request.max_tokens gen_ai.response.model
gen_ai.usage.output_tokens gen_ai.usage.cost gen_ai.conversation.id gen_ai.tool.name
gen_ai.system_instructions gen_ai.tool.definitions gen_ai.tool.description gen_ai.usage.raw
gen_ai.request.stop_sequences gen_ai.request.tools gen_ai.retrieval.documents
gen_ai.retrieval.query.text gen_ai.evaluation.explanation gen_ai.not_yet_invented
llm.model_name llm.token_count.prompt openinference.span.kind llm.function_call
llm.prompt_template.variables retrieval.documents.0.document.content embedding.text
reranker.query tool.parameters metadata
traceloop.span.kind traceloop.entity.name traceloop.prompt.template traceloop.entity.output
llm.request.type llm.request.functions.0.parameters llm.chat.stop_sequences
logfire.span_type logfire.json_schema request_data response_data all_messages_events
pydantic_ai.all_messages final_result tool_arguments tool_response
anthropic.message.batch.custom_id error.type error.message http.response.status_code
http.request.header.authorization server.address tenant Prompt completion
""",
)


def test_of_genai_spans_stays_what_the_mirror_takes_for_no_content(
    service: Service, tempo: OtlpCapture, collected: LangSmithCapture
) -> None:
    attributes = {name: SECRET if may_be_content(name) else "plain" for name in NAMES}
    span = service.tracers.get_tracer("foreign").start_span(
        "foreign", attributes=attributes | {"langsmith.span.id": str(uuid.uuid4())}
    )
    span.add_event("gen_ai.assistant.message", {"role": "plain", "tool_calls": SECRET})
    span.record_exception(ValueError(SECRET))
    span.set_status(StatusCode.ERROR, SECRET)
    span.end()
    service.flush()
    eventually(lambda: tempo.spans, "the span reaches Tempo")
    eventually(lambda: collected.requests, "and LangSmith")
    assert SECRET.encode() not in told(tempo) + told(collected)
    (kept,) = tempo.unique_spans()
    assert {name for name in NAMES if name in kept.attributes} == {
        name for name, value in attributes.items() if value == "plain"
    }
    (message, exception) = kept.events
    assert message[2] == {"role": "plain"}
    assert exception[2]["exception.type"] == "ValueError"


@pytest.mark.parametrize(
    "content", [{"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY"}]
)
def test_long_prompts_pass_agent_and_gateway(otlp: Collector, tempo: OtlpCapture) -> None:
    def chat(number: int, size: int) -> dict[str, Any]:
        prompt = {"key": "gen_ai.input.messages", "value": {"stringValue": "x" * size}}
        operation = {"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}}
        return {
            "traceId": f"{1:032x}",
            "spanId": f"{number:016x}",
            "name": "chat",
            "startTimeUnixNano": "1",
            "endTimeUnixNano": "2",
            "attributes": [operation, prompt],
        }

    spans = [chat(1, 12_000_000), *(chat(number, 60_000) for number in range(2, 513))]
    sent = {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}
    assert httpx2.post(f"{otlp.url}/v1/traces", json=sent, timeout=60).status_code == 200
    eventually(lambda: len(chats(tempo)) == 512, "all spans reach Tempo")


def test_a_gateway_that_is_killed_loses_nothing(
    service: Service, gateway: Collector, tempo: OtlpCapture, make_requests: MakeRequests
) -> None:
    tempo.fail_next(status=503, times=3)
    (handle,) = service.executor(max_request_spans=None).submit(make_requests(6_000))
    results = service.executor().collect(handle)
    for number, _ in enumerate(results):
        if number == 3_000:
            gateway.kill()
        if number == 5_000:
            gateway.start()
    service.flush()
    eventually(lambda: len(chats(tempo)) == 6_000, "all spans reach Tempo", 120)


def test_an_agent_that_is_killed_while_the_gateway_is_away_loses_nothing(
    service: Service,
    otlp: Collector,
    gateway: Collector,
    tempo: OtlpCapture,
    make_requests: MakeRequests,
) -> None:
    gateway.stop()
    (handle,) = service.executor().submit(make_requests(200))
    list(service.executor().collect(handle))
    service.flush()
    otlp.kill()
    assert tempo.spans == []
    otlp.start()
    gateway.start()
    eventually(lambda: len(chats(tempo)) == 200, "all spans reach Tempo", 90)
