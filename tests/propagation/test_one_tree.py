"""One tree of spans and `@traceable` runs, within a process and between services."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import langsmith as ls
import pytest
from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from support import Service, present

from otel_bridge import nest_traceable
from otel_bridge.langsmith import LangSmithPropagator

AGENT: dict[str, Any] = {"gen_ai.operation.name": "invoke_agent"}
CHAT: dict[str, Any] = {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 1}

NESTED = """
import asyncio

from langsmith import Client, traceable
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

from otel_bridge.langsmith import mirror

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
mirror(provider)
tracer = trace.get_tracer("app")

AGENT = {"gen_ai.operation.name": "invoke_agent", "gen_ai.conversation.id": "thread-1"}
CHAT = {"gen_ai.operation.name": "chat"}


@traceable(name="step")
def step():
    with tracer.start_as_current_span("chat", attributes=CHAT), tracer.start_as_current_span("io"):
        tool()


@traceable(name="tool", run_type="tool")
def tool():
    pass


@traceable(name="async step")
async def async_step(name):
    await asyncio.sleep(0.01)
    with tracer.start_as_current_span(f"chat {name}", attributes=CHAT):
        await asyncio.sleep(0.01)


async def agent(name):
    with tracer.start_as_current_span(f"agent {name}", attributes=AGENT):
        await asyncio.gather(async_step(name), async_step(name))


async def agents():
    await asyncio.gather(agent("a"), agent("b"))


with tracer.start_as_current_span("request"):
    with tracer.start_as_current_span("agent", attributes=AGENT):
        step()
        step()
    asyncio.run(agents())
    tool()
provider.shutdown()
Client().flush()
from langsmith.run_trees import get_cached_client
get_cached_client().flush()
"""

MODES = """
import anthropic
from langsmith import traceable
from langsmith.run_trees import get_cached_client
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

from otel_bridge.langsmith import mirror

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
mirror(provider)


@traceable(name="classify")
def classify():
    anthropic.Anthropic().messages.create(
        model="claude-haiku-4-5", max_tokens=9, messages=[{"role": "user", "content": "x"}]
    )


classify()
get_cached_client().flush()
provider.shutdown()
"""

SERVED = """
from langsmith import RunTree, traceable
from langsmith.run_trees import get_cached_client
from opentelemetry import context, propagate

upstream = RunTree(name="upstream")
upstream.post()


@traceable(name="served")
def served():
    pass


token = context.attach(propagate.extract(upstream.to_headers()))
served()
context.detach(token)
served()
upstream.client.flush()
get_cached_client().flush()
"""


def run_script(
    service: Service, folder: Path, script: str, **environment: str
) -> list[dict[str, Any]]:
    (folder / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env={
            "PATH": str(Path(sys.executable).parent),
            "HOME": str(folder),
            "ANTHROPIC_API_KEY": "test",
            "ANTHROPIC_BASE_URL": service.api.url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": service.otlp.url,
            "OTEL_BRIDGE_STATE_DIR": str(folder / "state"),
            "LANGSMITH_TRACING": "true",
            "LANGSMITH_ENDPOINT": service.langsmith.url,
            "LANGSMITH_API_KEY": "test",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert service.langsmith.refusals == []
    assert service.langsmith.conflicts == []
    return list(service.langsmith.runs.values())


def tree_of(runs: list[dict[str, Any]]) -> list[str]:
    """Each run's path of names."""
    by_id = {run["id"]: run for run in runs}

    def path(run: Mapping[str, Any]) -> str:
        parent = by_id.get(run.get("parent_run_id") or "")
        return f"{path(parent)}/{run['name']}" if parent else str(run["name"])

    return sorted(map(path, runs))


def test_traceable_code_and_spans_nest_in_each_other(service: Service, tmp_path: Path) -> None:
    runs = run_script(service, tmp_path, NESTED, OTEL_PYTHON_CONTEXT="langsmith")
    assert tree_of(runs) == sorted(
        [
            "agent",
            *["agent/step", "agent/step/chat", "agent/step/chat/tool"] * 2,
            "agent a",
            "agent b",
            *["agent a/async step", "agent a/async step/chat a"] * 2,
            *["agent b/async step", "agent b/async step/chat b"] * 2,
            "tool",
        ]
    )
    threads = {run["name"]: run["extra"]["metadata"].get("conversation_id") for run in runs}
    assert threads["chat"] == threads["step"] == threads["async step"] == "thread-1"


def test_without_the_context_spans_still_nest_below_traceable_code(
    service: Service, tmp_path: Path
) -> None:
    runs = run_script(service, tmp_path, NESTED)
    assert {"step", "step/chat", "step/tool", "async step/chat a"} <= set(tree_of(runs))


@pytest.mark.parametrize("mode", ["langsmith", "hybrid", "otel"])
def test_in_no_mode_of_the_langsmith_sdk_anything_loops_or_doubles(
    service: Service, tmp_path: Path, mode: str
) -> None:
    runs = run_script(service, tmp_path, MODES, LANGSMITH_TRACING_MODE=mode)
    (call,) = [run for run in runs if run["run_type"] == "llm"]
    names = sorted(run["name"] for run in runs)
    assert names == (["ChatAnthropic"] if mode == "otel" else ["ChatAnthropic", "classify"])
    (message,) = service.api.messages
    assert service.langsmith.usage_totals()["output_tokens"] == message["usage"]["output_tokens"]
    assert len([span for span in service.otlp.spans if span.scope == "langsmith"]) == (
        mode != "langsmith"
    )
    if mode != "otel":
        (outer,) = [run for run in runs if run["name"] == "classify"]
        assert call["parent_run_id"] == outer["id"]


def test_a_helper_nests_where_the_context_is_not_set(service: Service) -> None:
    service.mirror(service.settings())
    client = ls.Client(api_url=service.langsmith.url, api_key="test", auto_batch_tracing=False)

    @ls.traceable(name="step")
    def step() -> None:
        pass

    with (
        ls.tracing_context(client=client, enabled=True),
        nest_traceable(),  # nothing to nest below
        service.tracers.get_tracer("app").start_as_current_span("agent", attributes=AGENT),
        nest_traceable(),
    ):
        step()
    service.flush()
    runs = {run["name"]: run for run in service.langsmith.runs.values()}
    assert runs["step"]["parent_run_id"] == runs["agent"]["id"]


@pytest.mark.parametrize("lasting", [0, None])
def test_a_span_that_starts_before_its_parent_is_one_run_below_it(
    service: Service, lasting: int | None
) -> None:
    service.mirror(service.settings())
    tracer = service.tracers.get_tracer("app")
    batch = {"gen_ai.operation.name": "batch"}  # shown while it is open
    with tracer.start_as_current_span("agent", attributes=AGENT) as agent:
        assert isinstance(agent, ReadableSpan)
        earlier = present(agent.start_time) - 5_000_000_000
        ending = None if lasting is None else earlier + lasting
        tracer.start_span("early", attributes=batch, start_time=earlier).end(ending)
    service.flush()
    assert service.langsmith.refusals == []
    runs = {run["name"]: run for run in service.langsmith.runs.values()}
    assert len(service.langsmith.runs) == 2
    assert runs["early"]["parent_run_id"] == runs["agent"]["id"]
    assert runs["early"]["end_time"]


def test_children_carry_the_thread_of_the_active_run(service: Service) -> None:
    service.mirror(service.settings())
    tracer = service.tracers.get_tracer("app")
    client = ls.Client(api_url=service.langsmith.url, api_key="test", auto_batch_tracing=False)
    metadata = {"session_id": "s", "thread_id": 7, "other": "not a thread's"}

    @ls.traceable(client=client, metadata=metadata, enabled=True)
    def graph() -> None:
        with tracer.start_as_current_span("agent", attributes=AGENT):
            tracer.start_span("chat", attributes=CHAT | {"gen_ai.conversation.id": "c"}).end()

    graph()
    service.flush()
    runs = {run["name"]: run["extra"]["metadata"] for run in service.langsmith.runs.values()}
    for name in ("agent", "chat"):
        assert runs[name]["session_id"] == "s"
        assert runs[name]["thread_id"] == "7"
        assert "other" not in runs[name]


def test_services_share_a_tree_and_w3c_headers_stay_as_they_are(service: Service) -> None:
    service.mirror(service.settings())
    tracer = service.tracers.get_tracer("app")
    propagator = CompositePropagator(
        [TraceContextTextMapPropagator(), W3CBaggagePropagator(), LangSmithPropagator()]
    )
    carrier: dict[str, str] = {}
    conversation = AGENT | {"gen_ai.conversation.id": "c ü"}
    with tracer.start_as_current_span("agent", attributes=conversation):
        propagator.inject(carrier, baggage.set_baggage("mine", "1"))
    assert carrier["baggage"] == "mine=1"
    context = propagator.extract(carrier)
    assert baggage.get_baggage("mine", context) == "1"
    with tracer.start_as_current_span("server", context) as server:
        server.set_attribute("http.request.method", "GET")
        tracer.start_span("chat", attributes=CHAT).end()
    service.flush()
    runs = {run["name"]: run for run in service.langsmith.runs.values()}
    assert runs["chat"]["parent_run_id"] == runs["agent"]["id"]
    assert runs["chat"]["extra"]["metadata"]["conversation_id"] == "c ü"


def test_traceable_code_of_a_service_nests_below_the_run_that_called_it(service: Service) -> None:
    client = ls.Client(api_url=service.langsmith.url, api_key="test", auto_batch_tracing=False)
    tree = ls.RunTree(name="upstream", ls_client=client)
    tree.post()

    @ls.traceable(name="served")
    def served() -> None:
        pass

    token = otel_context.attach(LangSmithPropagator().extract(tree.to_headers()))
    try:
        with ls.tracing_context(client=client, enabled=True), nest_traceable():
            served()
    finally:
        otel_context.detach(token)
    runs = {run["name"]: run for run in service.langsmith.runs.values()}
    assert runs["served"]["parent_run_id"] == runs["upstream"]["id"]


def test_the_propagator_and_the_context_do_so_without_the_mirror(
    service: Service, tmp_path: Path
) -> None:
    runs = run_script(
        service, tmp_path, SERVED, OTEL_PYTHON_CONTEXT="langsmith", OTEL_PROPAGATORS="langsmith"
    )
    assert tree_of(runs) == ["served", "upstream", "upstream/served"]


def test_what_a_langsmith_client_sends_is_read(service: Service) -> None:
    service.mirror(service.settings())
    tree = ls.RunTree(
        name="upstream", project_name="their project", extra={"metadata": {"thread_id": "t"}}
    )
    context = LangSmithPropagator().extract(tree.to_headers())
    tracer = service.tracers.get_tracer("app")
    tracer.start_span("chat", context, attributes=CHAT).end()
    service.flush()
    (run,) = service.langsmith.runs.values()
    assert run["parent_run_id"] == str(tree.id)
    assert run["session_name"] == "their project"
    assert run["extra"]["metadata"]["thread_id"] == "t"


@pytest.mark.parametrize(
    "headers",
    [
        {"langsmith-trace": ""},
        {"langsmith-trace": "x"},
        {"langsmith-trace": "20260101T000000000000Znot-a-uuid"},
        {"langsmith-metadata": "%"},
        {"baggage": "langsmith-metadata=%7B,,=,;"},
    ],
)
def test_malformed_headers_are_ignored(service: Service, headers: dict[str, str]) -> None:
    service.mirror(service.settings())
    good = "20260101T000000000000Z019b76da-a800-7000-8000-000000000001"
    context = LangSmithPropagator().extract({"langsmith-trace": good} | headers)
    service.tracers.get_tracer("app").start_span("chat", context, attributes=CHAT).end()
    service.flush()
    (run,) = service.langsmith.runs.values()
    assert ("parent_run_id" in run) == ("langsmith-trace" not in headers)
