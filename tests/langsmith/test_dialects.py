"""Every GenAI span is mirrored right: real instrumentations of real calls, token for token."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import anthropic
import langsmith as ls
import logfire
import pytest
from openinference.instrumentation.anthropic import AnthropicInstrumentor as OpenInference
from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.anthropic import AnthropicInstrumentor as OpenLLMetry
from opentelemetry.instrumentation.genai.anthropic import AnthropicInstrumentor as GenAI
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import StatusCode
from support import ListCost, Service

from otel_bridge import LangSmithSpanProcessor
from otel_bridge.simulator import MessageBatchesServer

with warnings.catch_warnings():  # it imports a deprecated module of its own
    warnings.simplefilter("ignore", DeprecationWarning)
    from langsmith.wrappers import wrap_anthropic

MODEL = "claude-haiku-4-5-20251001"
INSTRUMENTORS = {"genai": GenAI, "openllmetry": OpenLLMetry, "openinference": OpenInference}
ALONE = ("genai", "openllmetry", "openinference", "logfire")
TOOL = {
    "name": "look_up",
    "description": "secret description",
    "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}},
}
SECRETS = (b"secret question", b"secret system", b"Answer to", b"secret description")
SPLIT = ("native", "logfire")
"""Sources that tell how long cache writes live."""


@contextmanager
def instrumented(
    service: Service, name: str, *, native: bool, **changes: Any
) -> Iterator[anthropic.Anthropic]:
    """A client whose calls a library traces; `native` leaves the SDK's own spans on."""
    settings = service.settings(**changes)
    with ExitStack() as stack:
        provider: Any = service.tracers
        if name == "logfire":
            # It replaces the process's propagator.
            stack.callback(propagate.set_global_textmap, propagate.get_global_textmap())
            traced = logfire.configure(
                local=True,
                send_to_logfire=False,
                console=False,
                metrics=False,
                scrubbing=False,
                inspect_arguments=False,
                additional_span_processors=[
                    LangSmithSpanProcessor(service.delivery, settings),
                    BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{service.otlp.url}/v1/traces")),
                ],
            )
            provider = traced.config.get_tracer_provider()
            stack.callback(provider.force_flush)
        else:
            service.mirror(settings)
        client = stack.enter_context(
            anthropic.Anthropic(
                base_url=service.api.url,
                api_key="sk-secret-key",
                max_retries=0,
                open_telemetry={"tracer_provider": provider} if native else False,
            )
        )
        if name == "logfire":
            stack.enter_context(traced.instrument_anthropic(client))
        elif name != "native":
            INSTRUMENTORS[name]().instrument(tracer_provider=provider)
            stack.callback(INSTRUMENTORS[name]().uninstrument)
        yield client
    service.flush()


def ask(number: int, **changes: Any) -> Any:
    return {
        "model": MODEL,
        "max_tokens": 100,
        "system": "secret system",
        "stop_sequences": ["END"],
        "messages": [{"role": "user", "content": f"secret question {number}"}],
        "tools": [TOOL],
        **changes,
    }


def call(client: anthropic.Anthropic, number: int, how: str) -> None:
    if how == "create":
        client.messages.create(**ask(number))
    elif how == "stream":
        with client.messages.stream(**ask(number)) as stream:
            stream.get_final_message()
    elif how == "text":
        with client.messages.stream(**ask(number)) as stream:
            for _ in stream.text_stream:
                pass
    else:
        for _ in client.messages.create(stream=True, **ask(number)):
            pass


def llm_runs(service: Service) -> list[dict[str, Any]]:
    return [run for run in service.langsmith.runs.values() if run["run_type"] == "llm"]


def usage_totals(service: Service) -> Counter[str]:
    """Tokens by type over the runs that LangSmith adds up."""
    return Counter(
        {k: v for k, v in service.langsmith.usage_totals().items() if not k.endswith("cost") and v}
    )


def truth(messages: list[dict[str, Any]], *, split: bool, thinking: bool) -> Counter[str]:
    total: Counter[str] = Counter()
    for usage in (message["usage"] for message in messages):
        written = usage["cache_creation_input_tokens"]
        total["input_tokens"] += usage["input_tokens"] + usage["cache_read_input_tokens"] + written
        total["output_tokens"] += usage["output_tokens"]
        total["cache_read"] += usage["cache_read_input_tokens"]
        if split:
            total.update(usage["cache_creation"])
        else:
            total["cache_creation"] += written
        total["reasoning"] += thinking and usage["output_tokens_details"]["thinking_tokens"]
    return +total


def unsearched(api: MessageBatchesServer) -> list[int]:
    """Numbers of questions whose answers searched nothing, since no span tells of searches."""
    with anthropic.Anthropic(base_url=api.url, api_key="x", open_telemetry=False) as client:
        for number in range(14):
            call(client, number, "create")
    usages = [message["usage"] for message in api.messages]
    api.messages.clear()
    return [number for number, usage in enumerate(usages) if not usage["server_tool_use"]]


@pytest.mark.parametrize(
    ("name", "native"),
    [("native", True), *((n, False) for n in ALONE), *((n, True) for n in ALONE)],
)
def test_tokens_and_cost_are_the_apis(
    service: Service, list_cost_of: ListCost, name: str, native: bool
) -> None:
    ways = ["create", "stream", "events"]
    if name == "openllmetry" and not native:
        ways = ["create"]  # it adds the first token of a stream twice
    numbers = unsearched(service.api)
    with instrumented(service, name, native=native) as client:
        for number in numbers:
            call(client, number, ways[number % len(ways)])
    split = name in SPLIT or native
    thinking = name != "openllmetry" or native
    messages = service.api.messages
    assert len(messages) == len(numbers) > 10
    expected = truth(messages, split=split, thinking=thinking)
    assert expected["cache_read"]
    assert expected["ephemeral_1h_input_tokens" if split else "cache_creation"]
    assert usage_totals(service) == expected
    cost = math.fsum(list_cost_of(message, split=split) for message in messages)
    assert service.langsmith.usage_totals()["total_cost"] == pytest.approx(cost, abs=1e-9, rel=0)
    assert service.langsmith.refusals == []
    assert service.langsmith.orphans() == []


@pytest.mark.parametrize("name", ["native", *ALONE])
def test_a_call_becomes_a_native_run(service: Service, name: str) -> None:
    with instrumented(service, name, native=name == "native") as client:
        call(client, 1, "create")
    (run,) = llm_runs(service)
    metadata = run["extra"]["metadata"]
    assert run["name"] == "ChatAnthropic"
    assert (metadata["ls_provider"], metadata["ls_model_type"]) == ("anthropic", "chat")
    assert (metadata["ls_model_name"], metadata["ls_max_tokens"]) == (MODEL, 100)
    assert "ls_stop" not in metadata, "stop sequences are content"
    assert "END" not in str(run)
    assert "error" not in run


@pytest.mark.parametrize("name", [n for n in ALONE if n != "openllmetry"])  # which does not tell
def test_stop_sequences_go_with_content(service: Service, name: str) -> None:
    with instrumented(service, name, native=False, langsmith_content=True) as client:
        call(client, 1, "create")
    (run,) = llm_runs(service)
    assert run["extra"]["metadata"]["ls_stop"] == ["END"]


@pytest.mark.parametrize("content", [False, True])
@pytest.mark.parametrize("name", ["native", *ALONE])
@pytest.mark.parametrize("native", [True, False])
def test_a_failed_call_is_an_error_and_counts_nothing(
    service: Service, name: str, native: bool, content: bool
) -> None:
    service.api.fail_next("POST", "/v1/messages", status=529)
    native = native or name == "native"
    with (
        instrumented(service, name, native=native, langsmith_content=content) as client,
        pytest.raises(anthropic.APIStatusError),
    ):
        call(client, 1, "create")
    runs = service.langsmith.runs.values()
    assert runs
    for run in runs:
        assert run["error"] != "error", "the type is always sent"
        assert content or "simulated 529" not in str(run), "what the API says is content"
        assert "usage_metadata" not in run["extra"]["metadata"]


# logfire lets the SDK make no span of its own.
@pytest.mark.parametrize("name", sorted({*ALONE} - {"logfire"}))
def test_the_outer_span_of_a_call_is_a_chain(service: Service, name: str) -> None:
    with instrumented(service, name, native=True) as client:
        for number, how in enumerate(("create", "stream", "events")):
            call(client, number, how)
    chains = [run for run in service.langsmith.runs.values() if run["run_type"] == "chain"]
    assert len(llm_runs(service)) == len(chains) == 3
    for run in chains:
        assert "usage_metadata" not in run["extra"]["metadata"]
    scopes = {span.scope for span in service.otlp.spans}
    assert len(scopes) == 2


@pytest.mark.parametrize("name", ["native", *ALONE])
def test_content_goes_to_langsmith_when_it_is_asked_for_and_not_otherwise(
    service: Service, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    for asked in (False, True):
        fresh = Service(service.api, service.otlp, service.langsmith)
        with instrumented(fresh, name, native=name == "native", langsmith_content=asked) as client:
            call(client, 1, "create")
            call(client, 2, "stream")
        received = b"".join(request.body for request in service.langsmith.requests)
        assert b"sk-secret-key" not in received
        if not asked:
            assert not [secret for secret in SECRETS if secret in received]
        elif name != "native":
            assert [secret for secret in SECRETS[:3] if secret not in received] == []
        fresh.close()
    if name == "native":
        return
    spoken = [run for run in service.langsmith.runs.values() if run["outputs"]]
    assert spoken
    for run in spoken:
        assert run["outputs"]["usage_metadata"]["input_tokens"]
        assert [each["role"] for each in run["inputs"]["messages"]] == ["system", "user"]
        assert "secret question" in json.dumps(run["inputs"])


def test_tools_and_agents_have_their_run_types(service: Service) -> None:
    @anthropic.beta_tool
    def look_up(query: str) -> str:
        """Look something up."""
        return f"secret result of {query}"

    with instrumented(service, "native", native=True) as client:
        runner = client.beta.messages.tool_runner(
            model=MODEL,
            max_tokens=100,
            tools=[look_up],
            messages=[{"role": "user", "content": "secret question"}],
        )
        for _ in runner:
            pass
    runs = list(service.langsmith.runs.values())
    assert Counter(run["run_type"] for run in runs)["llm"] == 2
    (tool,) = [run for run in runs if run["run_type"] == "tool"]
    assert tool["extra"]["metadata"]["gen_ai.tool.name"] == "look_up"
    received = b"".join(request.body for request in service.langsmith.requests)
    assert b"secret" not in received
    assert b"Answer to" not in received


@pytest.mark.parametrize(
    ("attributes", "run_type"),
    [
        ({"openinference.span.kind": "AGENT"}, "chain"),
        ({"openinference.span.kind": "TOOL"}, "tool"),
        ({"openinference.span.kind": "RETRIEVER"}, "retriever"),
        ({"openinference.span.kind": "EMBEDDING"}, "embedding"),
        ({"traceloop.span.kind": "workflow"}, "chain"),
        ({"traceloop.span.kind": "tool"}, "tool"),
        ({"gen_ai.operation.name": "invoke_agent"}, "chain"),
        ({"gen_ai.operation.name": "execute_tool"}, "tool"),
    ],
)
def test_kinds_of_each_convention(
    service: Service, attributes: dict[str, str], run_type: str
) -> None:
    service.mirror(service.settings())
    tracer = service.tracers.get_tracer("app")
    with tracer.start_as_current_span("work", attributes=attributes) as span:
        span.set_attributes(
            {
                "input.value": '{"q": "secret argument"}',
                "traceloop.entity.input": "secret argument",
                "gen_ai.tool.call.arguments": '{"q": "secret argument"}',
                "tool.parameters": "secret argument",
                "mine": "kept",
            }
        )
        span.add_event("gen_ai.user.message", {"content": "secret argument"})
        span.set_status(StatusCode.ERROR, "secret argument is no number")
    service.flush()
    (run,) = service.langsmith.runs.values()
    assert run["run_type"] == run_type
    assert run["extra"]["metadata"]["mine"] == "kept"
    received = b"".join(request.body for request in service.langsmith.requests)
    if run_type == "tool":
        assert b"secret" not in received


@pytest.mark.parametrize(("tier", "share"), [("batch", 0.5), ("standard", 1), ("priority", 1)])
def test_cost_is_at_the_tier_that_the_span_tells(service: Service, tier: str, share: float) -> None:
    service.mirror(service.settings())
    service.tracers.get_tracer("app").start_span(
        "chat",
        attributes={
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "anthropic",
            "gen_ai.request.model": MODEL,
            "gen_ai.usage.input_tokens": 1_000,
            "gen_ai.usage.output_tokens": 100,
            "anthropic.response.service_tier": tier,
        },
    ).end()
    service.flush()
    (run,) = llm_runs(service)
    cost = run["extra"]["metadata"]["usage_metadata"]["total_cost"]
    assert cost == pytest.approx((1_000 * 1 + 100 * 5) / 1e6 * share)


def test_a_cost_that_the_span_tells_is_kept(service: Service) -> None:
    service.mirror(service.settings())
    usage = {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 1}
    chat = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai"}
    tracer = service.tracers.get_tracer("app")
    tracer.start_span("a", attributes={**chat, **usage, "gen_ai.usage.cost": 0.25}).end()
    tracer.start_span("b", attributes={**chat, **usage, "operation.cost": 0.5}).end()
    tracer.start_span("c", attributes={**chat, **usage}).end()
    service.flush()
    costs = {
        run["name"]: run["extra"]["metadata"]["usage_metadata"].get("total_cost")
        for run in llm_runs(service)
    }
    assert costs == {"a": 0.25, "b": 0.5, "c": None}


@pytest.mark.parametrize("how", ["create", "stream", "text"])
def test_a_call_that_langsmiths_own_wrapper_counts_is_counted_once(
    service: Service, how: str
) -> None:
    client_of_langsmith = ls.Client(
        api_url=service.langsmith.url, api_key="test", auto_batch_tracing=False
    )

    @ls.traceable(name="classify", run_type="llm")
    def classify(client: anthropic.Anthropic) -> None:
        call(client, 1, how)

    with (
        instrumented(service, "native", native=True) as client,
        ls.tracing_context(enabled=True, client=client_of_langsmith),
    ):
        classify(wrap_anthropic(client))
    (message,) = service.api.messages
    runs = {run["name"]: run for run in service.langsmith.runs.values()}
    assert runs["ChatAnthropic"]["run_type"] == "llm"
    totals = service.langsmith.usage_totals()
    assert totals["output_tokens"] == message["usage"]["output_tokens"]


def test_below_a_traceable_function_that_counts_nothing_the_span_counts(service: Service) -> None:
    client_of_langsmith = ls.Client(
        api_url=service.langsmith.url, api_key="test", auto_batch_tracing=False
    )

    @ls.traceable(name="classify", run_type="llm")
    def classify(client: anthropic.Anthropic) -> None:
        call(client, 1, "create")

    with (
        instrumented(service, "native", native=True) as client,
        ls.tracing_context(enabled=True, client=client_of_langsmith),
    ):
        classify(client)
    (message,) = service.api.messages
    totals = service.langsmith.usage_totals()
    assert totals["output_tokens"] == message["usage"]["output_tokens"]
