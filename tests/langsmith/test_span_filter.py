"""Which spans become runs: GenAI ones or all, sampled ones, and none where it is switched off."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from support import Service

from otel_bridge import LangSmithSpanProcessor
from otel_bridge._core.otel_sdk import span_processors
from otel_bridge.langsmith import mirror
from otel_bridge.langsmith.dialects import may_be_content, normalised

AGENT: dict[str, Any] = {"gen_ai.operation.name": "invoke_agent"}
CHAT: dict[str, Any] = {"gen_ai.operation.name": "chat"}


def paths_of(service: Service) -> set[str]:
    service.flush()
    assert service.langsmith.refusals == []
    runs = service.langsmith.runs

    def path(run: Any) -> str:
        parent = runs.get(run.get("parent_run_id"))
        return f"{path(parent)}/{run['name']}" if parent else run["name"]

    return {path(run) for run in runs.values()}


def emit(provider: TracerProvider) -> None:
    app, http = (
        provider.get_tracer("app"),
        provider.get_tracer("opentelemetry.instrumentation.asgi"),
    )
    with (
        http.start_as_current_span("GET /", attributes={"gen_ai.conversation.id": "copied"}),
        app.start_as_current_span("agent", attributes=AGENT),
        app.start_as_current_span("step", attributes={"traceloop.association.user": "u"}),
        app.start_as_current_span("plain", attributes={"a": 1}),
        app.start_as_current_span("chat", attributes=CHAT),
        provider.get_tracer("langsmith").start_as_current_span("theirs", attributes=CHAT),
    ):
        pass


def test_plain_ancestors_are_bridged_over(service: Service) -> None:
    service.mirror(service.settings())
    emit(service.tracers)
    assert paths_of(service) == {"agent", "agent/chat"}


def test_all_spans_are_mirrored_when_asked_for(service: Service) -> None:
    service.mirror(service.settings(langsmith_spans="all"))
    emit(service.tracers)
    root = "GET /"
    expected = [root, "agent", "step", "plain", "chat"]
    assert paths_of(service) == {"/".join(expected[: n + 1]) for n in range(len(expected))}


def test_a_span_that_turns_out_to_be_of_genai_is_mirrored(service: Service) -> None:
    service.mirror(service.settings())
    tracer = service.tracers.get_tracer("app")
    with (
        tracer.start_as_current_span("agent", attributes=AGENT),
        tracer.start_as_current_span("late") as late,
    ):
        late.set_attributes(CHAT)
    assert paths_of(service) == {"agent", "agent/late"}


def test_unsampled_spans_are_not_mirrored(service: Service) -> None:
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0)))
    provider.add_span_processor(LangSmithSpanProcessor(service.delivery, service.settings()))
    emit(provider)
    assert paths_of(service) == set()
    assert service.langsmith.requests == []
    provider.shutdown()


@pytest.mark.parametrize("off", [{"langsmith_tracing": False}, {"sdk_disabled": True}])
def test_what_is_switched_off_is_not_there(service: Service, off: dict[str, bool]) -> None:
    provider = TracerProvider()
    assert mirror(provider, service.settings(**off)) is None
    assert span_processors(provider) == ()


def test_an_ancestor_in_use_is_kept_whatever_is_started_below_it(service: Service) -> None:
    service.mirror(service.settings())
    tracer = service.tracers.get_tracer("app")
    with tracer.start_as_current_span("agent", attributes=AGENT):
        for _ in range(11_000):
            tracer.start_span("plain").end()
        tracer.start_span("chat", attributes=CHAT).end()
    assert paths_of(service) == {"agent", "agent/chat"}


def test_what_another_provider_calls_its_raw_usage_is_not_read_as_anthropics() -> None:
    attributes = {"gen_ai.usage.input_tokens": 7, "gen_ai.usage.raw": '{"input_tokens": 5}'}
    for provider, tokens in (("openai", 7), ("anthropic", 5)):
        read = normalised({**attributes, "gen_ai.provider.name": provider})
        assert read["gen_ai.usage.input_tokens"] == tokens


def test_a_pending_copy_of_a_span_is_no_span(service: Service) -> None:
    service.mirror(service.settings())
    copied = CHAT | {"logfire.span_type": "pending_span"}
    service.tracers.get_tracer("logfire.anthropic").start_span("chat", attributes=copied).end()
    assert paths_of(service) == set()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gen_ai.input.messages", True),
        ("gen_ai.system_instructions", True),
        ("gen_ai.tool.definitions", True),
        ("gen_ai.tool.call.arguments", True),
        ("gen_ai.something.new", True),
        ("gen_ai.usage.raw", True),
        ("gen_ai.usage.input_tokens", False),
        ("gen_ai.request.model", False),
        ("gen_ai.request.structured_output_schema", True),
        ("llm.input_messages.0.message.content", True),
        ("llm.token_count.prompt_details.cache_read", False),
        ("llm.prompts", True),
        ("input.value", True),
        ("output.value", True),
        ("traceloop.entity.input", True),
        ("traceloop.association.properties.user_id", False),
        ("request_data", True),
        ("logfire.msg", True),
        ("logfire.json_schema", True),
        ("pydantic_ai.all_messages", True),
        ("tool_arguments", True),
        ("tool.parameters", True),
        ("retrieval.documents.0.document.content", True),
        ("url.query", True),
        ("http.request.header.authorization", True),
        ("http.response.status_code", False),
        ("anthropic.message.stop_reason", False),
        ("error.type", False),
        ("customer.tier", False),
    ],
)
def test_names_that_may_be_of_content(name: str, content: bool) -> None:
    assert may_be_content(name) == content
