"""Route `collector`: spans alone build the runs that route `direct` sends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from random import Random
from typing import Any

import anthropic
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import StatusCode
from support import MakeRequests, Service, limit_traces

from otel_bridge import BatchExecutor, LangSmithSpanProcessor, Settings
from otel_bridge.langsmith import mirror
from otel_bridge.simulator import LangSmithCapture

SECOND = 1_000_000_000
START = 1_780_000_000 * SECOND
SAME = (
    "id",
    "trace_id",
    "parent_run_id",
    "dotted_order",
    "name",
    "run_type",
    "session_name",
    "inputs",
    "outputs",
)


class RepeatedIds(IdGenerator):
    """The same ids in every provider."""

    def __init__(self, seed: int) -> None:
        self._dice = Random(seed)  # noqa: S311 - not cryptography

    def generate_span_id(self) -> int:
        return self._dice.getrandbits(64)

    def generate_trace_id(self) -> int:
        return self._dice.getrandbits(128)

    def is_trace_id_random(self) -> bool:
        return False


@contextmanager
def collector(
    settings: Settings, *, seed: int | None = None, simple: bool = False
) -> Iterator[tuple[Any, LangSmithCapture]]:
    """A provider whose spans go straight to LangSmith's OTLP endpoint."""
    with LangSmithCapture() as langsmith:
        provider = TracerProvider(id_generator=None if seed is None else RepeatedIds(seed))
        exporter = OTLPSpanExporter(
            endpoint=f"{langsmith.url}/otel/v1/traces", headers={"x-api-key": "test"}
        )
        processor: SpanProcessor = BatchSpanProcessor(exporter)
        if simple:
            processor = SimpleSpanProcessor(exporter)
        provider.add_span_processor(processor)
        mirror(provider, settings)
        yield provider, langsmith
        provider.shutdown()


def same(direct: dict[str, Any], stamped: dict[str, Any]) -> None:
    """Run by run; a batch's pending run has no twin, its completed one has."""
    assert direct.keys() == stamped.keys()
    for run_id, run in direct.items():
        other = stamped[run_id]
        for name in SAME:
            assert (run.get(name) or None) == (other.get(name) or None), name
        for name in ("start_time", "end_time"):
            assert datetime.fromisoformat(run[name]) == datetime.fromisoformat(other[name]), name
        assert bool(run.get("error")) == bool(other.get("error"))
        ours, theirs = run["extra"]["metadata"], other["extra"]["metadata"]
        assert ours.get("usage_metadata") == theirs.get("usage_metadata")
        for name in ours:
            if name.startswith("ls_") or name in ("batch_id", "request_count", "failed_count"):
                assert ours[name] == theirs[name], name


def test_a_batch_becomes_the_same_runs(service: Service, make_requests: MakeRequests) -> None:
    batch_id = service.api.add_batch(make_requests(60))
    list(service.executor().collect(batch_id))
    service.flush()
    settings = service.settings(langsmith_route="collector")
    with collector(settings) as (provider, langsmith):
        executor = BatchExecutor(service.client, tracer_provider=provider, settings=settings)
        list(executor.collect(batch_id))
        provider.force_flush()
        assert langsmith.refusals == []
        assert langsmith.waiting_spans == []
        same(service.langsmith.runs, langsmith.runs)
        assert langsmith.usage_totals() == service.langsmith.usage_totals()
        assert {each.path for each in langsmith.requests} == {"/otel/v1/traces"}


def emit(provider: TracerProvider) -> None:
    """A tree in two dialects, with what is known only when a span ends."""
    tracer = provider.get_tracer("app")
    agent = {"openinference.span.kind": "AGENT", "session.id": "thread"}

    def start(name: str, at: int, parent: Any = None, **attributes: Any) -> Any:
        context = trace.set_span_in_context(parent) if parent else None
        return tracer.start_span(
            name, context, start_time=START + at * SECOND, attributes=attributes
        )

    root = start("agent", 0, **agent)
    plain = start("plain", 1, root)
    chat = start("chat", 2, plain, **{"gen_ai.operation.name": "chat"})
    chat.set_attributes(
        {
            "gen_ai.system": "anthropic",
            "gen_ai.request.model": "claude-haiku-4-5",
            "gen_ai.usage.input_tokens": 1_000,
            "gen_ai.usage.output_tokens": 10,
            "gen_ai.usage.cache_read.input_tokens": 400,
            "gen_ai.request.stop_sequences": ["END"],
            "gen_ai.request.temperature": 0.5,
        }
    )
    chat.end(START + 3 * SECOND)
    tool = start("tool", 4, plain, **{"openinference.span.kind": "TOOL"})
    tool.set_status(StatusCode.ERROR, "why")
    tool.end(START + 5 * SECOND)
    plain.end(START + 6 * SECOND)
    root.end(START + 7 * SECOND)


@pytest.mark.parametrize("simple", [False, True])
def test_other_spans_become_the_same_runs(service: Service, simple: bool) -> None:
    direct = TracerProvider(id_generator=RepeatedIds(simple))
    direct.add_span_processor(LangSmithSpanProcessor(service.delivery, service.settings()))
    emit(direct)
    service.flush()
    settings = service.settings(langsmith_route="collector")
    with collector(settings, seed=simple, simple=simple) as (provider, langsmith):
        emit(provider)
        provider.force_flush()
        # What is not mirrored reaches the endpoint, too; a collector would leave it out.
        stamped = {key: run for key, run in langsmith.runs.items() if run["name"] != "plain"}
        assert len(stamped) == 3
        same(service.langsmith.runs, stamped)
        assert langsmith.usage_totals()["total_cost"] > 0
        for run in stamped.values():
            assert run["extra"]["metadata"]["conversation_id"] == "thread"


def test_real_calls_are_counted_to_the_token(service: Service) -> None:
    with (
        collector(service.settings(langsmith_route="collector")) as (provider, langsmith),
        anthropic.Anthropic(
            base_url=service.api.url, api_key="x", open_telemetry={"tracer_provider": provider}
        ) as client,
    ):
        for number in range(5):
            with client.messages.stream(
                model="claude-haiku-4-5",
                max_tokens=9,
                messages=[{"role": "user", "content": str(number)}],
            ) as stream:
                stream.get_final_message()
        provider.force_flush()
        totals = langsmith.usage_totals()
        assert totals["output_tokens"] == sum(
            message["usage"]["output_tokens"] for message in service.api.messages
        )
        assert totals["total_cost"] > 0
        assert {run["name"] for run in langsmith.runs.values()} == {"ChatAnthropic"}


@pytest.mark.parametrize("scale", [10, pytest.param(1, marks=pytest.mark.nightly)])
def test_more_requests_than_a_trace_takes_are_all_there(
    service: Service, make_requests: MakeRequests, monkeypatch: pytest.MonkeyPatch, scale: int
) -> None:
    limit_traces(monkeypatch, scale)
    count = 26_000 // scale
    batch_id = service.api.add_batch(make_requests(count))
    settings = service.settings(langsmith_route="collector", max_request_spans=None)
    with collector(settings) as (provider, langsmith):
        executor = BatchExecutor(service.client, tracer_provider=provider, settings=settings)
        for _ in executor.collect(batch_id):
            pass
        provider.force_flush()
        assert langsmith.refusals == []
        assert langsmith.waiting_spans == []
        assert sum(run["run_type"] == "llm" for run in langsmith.runs.values()) == count


def test_content_for_langsmith_alone_does_not_go_by_this_route(
    service: Service, make_requests: MakeRequests, caplog: pytest.LogCaptureFixture
) -> None:
    batch_id = service.api.add_batch(make_requests(5))
    settings = service.settings(langsmith_route="collector", langsmith_content=True)
    with collector(settings) as (provider, langsmith):
        executor = BatchExecutor(service.client, tracer_provider=provider, settings=settings)
        list(executor.collect(batch_id))
        provider.force_flush()
        assert "OTEL_BRIDGE_LANGSMITH_CONTENT has no effect" in caplog.text
        assert b"Answer to" not in b"".join(each.body for each in langsmith.requests)


def test_content_on_spans_reaches_langsmith(service: Service, make_requests: MakeRequests) -> None:
    batch_id = service.api.add_batch(make_requests(20))
    settings = service.settings(langsmith_route="collector", span_content=True)
    with collector(settings) as (provider, langsmith):
        executor = BatchExecutor(service.client, tracer_provider=provider, settings=settings)
        list(executor.collect(batch_id))
        provider.force_flush()
        assert any("Answer to" in str(run.get("outputs")) for run in langsmith.runs.values())
