"""OTEL_TRACES_EXPORTER=otlp,langsmith: spans come children first; one tree, each span once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from support import MakeRequests, Service, eventually

from otel_bridge import BatchExecutor, LangSmithSpanExporter, LangSmithSpanProcessor, Settings
from otel_bridge.langsmith import Delivery, mirror

AGENT: dict[str, Any] = {"gen_ai.operation.name": "invoke_agent"}
CHAT: dict[str, Any] = {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 1}


@pytest.fixture
def exporter(service: Service) -> Iterator[LangSmithSpanExporter]:
    exporter = LangSmithSpanExporter(service.delivery, service.settings(), patience=0.3)
    yield exporter
    exporter.shutdown()


@pytest.fixture
def provider(exporter: LangSmithSpanExporter) -> Iterator[TracerProvider]:
    """One export call for each span."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


def runs_of(service: Service) -> dict[str, dict[str, Any]]:
    service.delivery.flush(5)
    assert service.langsmith.refusals == []
    assert service.langsmith.conflicts == []
    assert service.langsmith.orphans() == []
    return {run["name"]: run for run in service.langsmith.runs.values()}


def wait_for(service: Service, *names: str) -> dict[str, dict[str, Any]]:
    eventually(lambda: set(names) <= set(runs_of(service)), f"{names} did not come")
    return runs_of(service)


def test_a_tree_is_put_together_from_single_exports(
    service: Service, provider: TracerProvider
) -> None:
    tracer = provider.get_tracer("app")
    with (
        tracer.start_as_current_span("root"),
        tracer.start_as_current_span("agent", attributes=AGENT),
        tracer.start_as_current_span("plain"),
    ):
        for number in range(3):
            tracer.start_span(f"chat {number}", attributes=CHAT).end()
        assert runs_of(service) == {}, "their parent is open"
    runs = runs_of(service)
    assert set(runs) == {"agent", "chat 0", "chat 1", "chat 2"}
    for number in range(3):
        assert runs[f"chat {number}"]["parent_run_id"] == runs["agent"]["id"]


def test_a_child_that_ends_after_its_parent_hangs_below_it(
    service: Service, provider: TracerProvider
) -> None:
    tracer = provider.get_tracer("app")
    with tracer.start_as_current_span("agent", attributes=AGENT):
        late = tracer.start_span("late", attributes=CHAT)
    late.end()
    runs = runs_of(service)
    assert runs["late"]["parent_run_id"] == runs["agent"]["id"]


def test_a_parent_in_another_process_is_not_waited_for(
    service: Service, provider: TracerProvider
) -> None:
    remote = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(1))
    context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    provider.get_tracer("app").start_span("chat", context, attributes=CHAT).end()
    assert runs_of(service)["chat"]["trace_id"] == runs_of(service)["chat"]["id"]


def test_a_parent_that_never_comes_holds_nobody_for_ever(
    service: Service, provider: TracerProvider
) -> None:
    tracer = provider.get_tracer("app")
    lost = tracer.start_span("never ends", attributes=AGENT)
    for number in range(3):  # each after none waits any more
        agent, chat = f"agent {number}", f"chat {number}"
        with (
            trace.use_span(lost),
            tracer.start_as_current_span(agent, attributes=AGENT),
        ):
            tracer.start_span(chat, attributes=CHAT).end()
        assert agent not in runs_of(service)
        runs = wait_for(service, agent, chat)
        assert runs[chat]["parent_run_id"] == runs[agent]["id"]
        assert runs[agent]["trace_id"] == runs[agent]["id"]


@pytest.mark.parametrize("by", ["flush", "shutdown", "number"])
def test_what_waits_is_released(service: Service, by: str, tmp_path: Path) -> None:
    delivery = Delivery(service.langsmith_client, state_dir=tmp_path)
    exporter = LangSmithSpanExporter(delivery, service.settings(), limit=3)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter, max_export_batch_size=1))
    tracer = provider.get_tracer("app")
    with tracer.start_as_current_span("agent", attributes=AGENT):
        for number in range(4 if by == "number" else 3):
            tracer.start_span(f"chat {number}", attributes=CHAT).end()
        provider.force_flush()
        if by == "flush":
            exporter.force_flush()
        elif by == "shutdown":
            exporter.shutdown()
            delivery = Delivery(service.langsmith_client, state_dir=tmp_path)
        eventually(lambda: delivery.flush(1) and len(service.langsmith.runs) >= 3)
        assert {f"chat {number}" for number in range(3)} <= set(runs_of(service))
    provider.shutdown()
    delivery.close()


@pytest.mark.parametrize("first", ["exporter", "processor"])
def test_every_way_at_once_sends_each_span_once(
    service: Service, exporter: LangSmithSpanExporter, make_requests: MakeRequests, first: str
) -> None:
    provider = TracerProvider()
    pipeline = BatchSpanProcessor(exporter, schedule_delay_millis=10)
    processor = LangSmithSpanProcessor(service.delivery, service.settings())
    for each in (pipeline, processor) if first == "exporter" else (processor, pipeline):
        provider.add_span_processor(each)
    provider.add_span_processor(LangSmithSpanProcessor(service.delivery, service.settings()))
    assert mirror(provider, service.settings()) is processor
    assert mirror(provider, service.settings()) is processor
    executor = BatchExecutor(service.client, tracer_provider=provider, settings=service.settings())
    tracer = provider.get_tracer("app")
    with tracer.start_as_current_span("agent", attributes=AGENT):
        results = executor.run(make_requests(20))
    provider.force_flush()
    exporter.force_flush()
    service.delivery.flush(5)
    truth = service.api.truth(results.batch_ids[0])
    assert len(service.langsmith.runs) == 22
    assert (service.langsmith.conflicts, service.langsmith.refusals) == ([], [])
    ends = [run["id"] for _, _, run in service.langsmith.history if run.get("end_time")]
    assert len(ends) == len(set(ends)) == 22
    assert service.langsmith.usage_totals()["output_tokens"] == truth["output_tokens"]
    provider.shutdown()


def test_an_outer_span_that_comes_first_does_not_count_the_call(
    service: Service, provider: TracerProvider
) -> None:
    tracer = provider.get_tracer("app")
    with tracer.start_as_current_span("outer", attributes=CHAT | {"gen_ai.response.id": "msg_1"}):
        tracer.start_span("inner", attributes=CHAT | {"gen_ai.response.id": "msg_1"}).end()
    runs = runs_of(service)
    assert (runs["outer"]["run_type"], runs["inner"]["run_type"]) == ("chain", "llm")


PLAIN = """
import anthropic
from opentelemetry import trace

tracer = trace.get_tracer("app")
with tracer.start_as_current_span("agent", attributes={"gen_ai.operation.name": "invoke_agent"}):
    with tracer.start_as_current_span("step"):
        for _ in range(3):
            anthropic.Anthropic().messages.create(
                model="claude-haiku-4-5", max_tokens=9, messages=[{"role": "user", "content": "x"}]
            )
"""


def run_plain(service: Service, folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    script = folder / "plain.py"
    script.write_text(PLAIN)
    command = Path(sys.executable).with_name("opentelemetry-instrument")
    return subprocess.run(
        [command, sys.executable, str(script)],
        cwd=folder,
        env={
            "PATH": str(command.parent),
            "HOME": str(folder),
            "ANTHROPIC_API_KEY": "test",
            "ANTHROPIC_BASE_URL": service.api.url,
            "OTEL_TRACES_EXPORTER": "otlp,langsmith",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": service.otlp.url,
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "anthropic",
            "OTEL_BRIDGE_STATE_DIR": str(folder / "state"),
            "LANGSMITH_ENDPOINT": service.langsmith.url,
            "LANGSMITH_API_KEY": "test",
            **changes,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_the_environment_alone_is_enough(service: Service, tmp_path: Path) -> None:
    done = run_plain(service, tmp_path)
    assert done.stderr == ""
    runs = list(service.langsmith.runs.values())
    (agent,) = [run for run in runs if run["name"] == "agent"]
    calls = [run for run in runs if run["name"] == "ChatAnthropic"]
    assert len(calls) == 3
    assert {run["parent_run_id"] for run in calls} == {agent["id"]}
    expected = sum(message["usage"]["output_tokens"] for message in service.api.messages)
    assert service.langsmith.usage_totals()["output_tokens"] == expected
    assert len(service.otlp.spans) == 5


@pytest.mark.parametrize(
    "off",
    [
        {"LANGSMITH_TRACING": "false"},
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "otlp"},
    ],
)
def test_the_environment_turns_it_off(
    service: Service, tmp_path: Path, off: dict[str, str]
) -> None:
    run_plain(service, tmp_path, **off)
    assert len(service.api.messages) == 3
    assert service.langsmith.requests == []
    assert len(service.otlp.spans) == (0 if "OTEL_SDK_DISABLED" in off else 5)


def test_naming_the_exporter_turns_the_mirror_on() -> None:
    named = {"OTEL_TRACES_EXPORTER": "otlp, langsmith"}
    assert Settings.from_env(named).langsmith_tracing is True
    assert Settings.from_env(named | {"LANGSMITH_TRACING": "false"}).langsmith_tracing is False
    assert Settings.from_env({}).langsmith_tracing is None


def test_the_route_by_a_collector_needs_the_processor(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = LangSmithSpanExporter(settings=service.settings(langsmith_route="collector"))
    assert "sends nothing" in caplog.text
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.get_tracer("app").start_span("chat", attributes=CHAT).end()
    provider.shutdown()
    assert service.langsmith.requests == []
