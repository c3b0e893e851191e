"""Runs in LangSmith: visible before the end, native in shape, priced at what a batch costs."""

from __future__ import annotations

from typing import Any

import langsmith as ls
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from support import Cost, MakeRequests, Service, eventually, limit_traces, present

from otel_bridge import LangSmithSpanProcessor, Settings, identity
from otel_bridge._core import shield
from otel_bridge._core.pending_content import pending_content
from otel_bridge.langsmith import LangSmithPropagator, mirror


def runs_of(service: Service, run_type: str) -> list[dict[str, Any]]:
    service.flush()
    return [run for run in service.langsmith.runs.values() if run["run_type"] == run_type]


def test_the_batch_is_visible_before_it_ends(service: Service, make_requests: MakeRequests) -> None:
    service.api.batch_seconds = 60
    (handle,) = service.executor().submit(make_requests(5))
    (pending,) = eventually(lambda: list(service.langsmith.runs.values()))
    assert service.client.messages.batches.retrieve(handle.id).processing_status == "in_progress"
    assert pending["name"] == "batch"
    assert "end_time" not in pending
    assert pending["extra"]["metadata"]["batch_id"] == handle.id
    assert pending["extra"]["metadata"]["request_count"] == 5
    service.api.end(handle.id)
    list(service.executor().collect(handle))
    (batch,) = runs_of(service, "chain")
    assert batch["id"] == pending["id"]
    assert batch["end_time"] > batch["start_time"]


def test_open_ancestors_are_visible_with_the_batch(
    service: Service, make_requests: MakeRequests
) -> None:
    executor = service.executor()
    tracer = service.tracers.get_tracer("test")
    with (
        tracer.start_as_current_span("agent", attributes={"gen_ai.operation.name": "invoke_agent"}),
        tracer.start_as_current_span("plain"),
    ):
        executor.submit(make_requests(1))
        eventually(lambda: len(service.langsmith.runs) == 2)
        agent, batch = service.langsmith.runs.values()
    assert agent["name"] == "agent"
    assert batch["parent_run_id"] == agent["id"], "the plain span is bridged over"
    service.flush()
    assert service.langsmith.refusals == []
    assert service.langsmith.conflicts == []


def test_what_a_service_does_meanwhile_takes_no_batch_from_its_place(
    service: Service, make_requests: MakeRequests
) -> None:
    executor = service.executor()
    tracer = service.tracers.get_tracer("test")
    with tracer.start_as_current_span(
        "agent", attributes={"gen_ai.operation.name": "invoke_agent"}
    ):
        (handle,) = executor.submit(make_requests(3))
    for _ in range(11_000):
        tracer.start_span("call", attributes={"gen_ai.operation.name": "chat"}).end()
    list(executor.collect(handle))
    service.flush()
    runs = [run for run in service.langsmith.runs.values() if run["name"] != "call"]
    agent, batch, *requests = sorted(runs, key=lambda run: run["dotted_order"].count("."))
    assert batch.get("parent_run_id") == agent["id"]
    assert [run.get("parent_run_id") for run in requests] == [batch["id"]] * 3
    assert service.langsmith.orphans() == []


def test_runs_look_as_the_native_wrapper_makes_them(
    service: Service, make_requests: MakeRequests
) -> None:
    (request,) = make_requests(1)
    request["custom_id"] = "a-ok-1"
    request["params"] |= {"temperature": 0.2, "stop_sequences": ["END"]}
    results = service.executor().run([request])
    (run,) = runs_of(service, "llm")
    usage = results["a-ok-1"].usage
    metadata = run["extra"]["metadata"]
    assert run["name"] == "ChatAnthropic"
    assert run["session_name"] == "default"
    assert (
        metadata.items()
        >= {
            "ls_provider": "anthropic",
            "ls_model_type": "chat",
            "ls_model_name": request["params"]["model"],
            "ls_temperature": 0.2,
            "ls_max_tokens": 100,
        }.items()
    )
    assert "ls_stop" not in metadata, "stop sequences are content"
    reported = metadata["usage_metadata"]
    assert reported["input_tokens"] == usage.total_input_tokens
    assert reported["output_tokens"] == usage.output_tokens
    assert reported["total_tokens"] == usage.total_tokens
    assert "error" not in run
    assert run["inputs"] == {}
    assert run["outputs"] == {}


def test_costs_are_the_batchs_and_their_details_never_exceed_them(
    service: Service, make_requests: MakeRequests, cost_of: Cost
) -> None:
    results = service.executor().run(make_requests(60))
    runs = {
        run["extra"]["metadata"].get("anthropic.message.batch.custom_id"): run
        for run in runs_of(service, "llm")
    }
    lines = service.api.results(results.batch_ids[0])
    kinds = set()
    for line in lines:
        usage = runs[line["custom_id"]]["extra"]["metadata"].get("usage_metadata")
        if line["result"]["type"] != "succeeded":
            assert usage is None
            continue
        assert usage["total_cost"] == pytest.approx(cost_of(line), abs=1e-9, rel=0)
        assert usage["input_cost"] + usage["output_cost"] == pytest.approx(usage["total_cost"])
        for side in ("input", "output"):
            details = usage.get(f"{side}_cost_details", {})
            assert sum(details.values()) <= usage[f"{side}_cost"] + 1e-12
            tokens = usage.get(f"{side}_token_details", {})
            assert details.keys() - {"web_search"} <= tokens.keys()
            kinds |= details.keys()
    assert kinds >= {"cache_read", "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"}


def test_the_batch_run_tells_counts_and_totals(
    service: Service, make_requests: MakeRequests
) -> None:
    results = service.executor().run(make_requests(60))
    truth = service.api.truth(results.batch_ids[0])
    (batch,) = runs_of(service, "chain")
    metadata = batch["extra"]["metadata"]
    assert metadata["request_count"] == 60
    assert metadata["successful_count"] == truth["succeeded"]
    assert metadata["failed_count"] == 60 - truth["succeeded"]
    assert metadata["usage_metadata"]["output_tokens"] == truth["output_tokens"]


def test_failed_requests_have_an_error(service: Service, make_requests: MakeRequests) -> None:
    requests = [
        {**request, "custom_id": custom_id}
        for request, custom_id in zip(make_requests(2), ("a-errored-1", "a-expired-1"), strict=True)
    ]
    error = service.executor().run(requests)["a-errored-1"].error
    assert error is not None
    errors = {run["error"] for run in runs_of(service, "llm")}
    assert errors == {error.error.type, "expired"}, "what the API says of it may quote the request"
    (batch,) = runs_of(service, "chain")
    assert batch["error"] == "no_request_succeeded: no request of the batch succeeded"


def test_plain_bodies_where_zstd_is_not_taken(
    service: Service, make_requests: MakeRequests
) -> None:
    service.langsmith.zstd = False
    service.executor().run(make_requests(5))
    service.flush()
    assert len(service.langsmith.runs) == 6
    posts = [each for each in service.langsmith.requests if each.path == "/runs/multipart"]
    assert posts
    assert all("content-encoding" not in each.headers for each in posts)


def test_bodies_are_compressed_where_zstd_is_taken(
    service: Service, make_requests: MakeRequests
) -> None:
    service.executor().run(make_requests(5))
    service.flush()
    posts = [each for each in service.langsmith.requests if each.path == "/runs/multipart"]
    assert {each.headers.get("content-encoding") for each in posts} == {"zstd"}


@pytest.mark.parametrize("scale", [10, pytest.param(1, marks=pytest.mark.nightly)])
def test_no_trace_has_more_runs_than_langsmith_takes(
    service: Service, make_requests: MakeRequests, monkeypatch: pytest.MonkeyPatch, scale: int
) -> None:
    limit_traces(monkeypatch, scale)
    count = 26_000 // scale
    executor = service.executor(max_request_spans=None)
    (handle,) = executor.submit(make_requests(count))
    for _ in executor.collect(handle):
        pass
    service.flush()
    assert service.langsmith.refusals == []
    assert service.langsmith.orphans() == []
    llm = runs_of(service, "llm")
    assert len(llm) == count
    totals = service.langsmith.usage_totals()
    assert totals["output_tokens"] == service.api.truth(handle.id)["output_tokens"]
    (more,) = [run for run in runs_of(service, "chain") if "continued" in run["name"]]
    assert more["extra"]["metadata"]["batch_id"] == handle.id
    assert more["trace_id"] == more["id"]


def test_a_batch_nests_below_an_active_traceable_run(
    service: Service, make_requests: MakeRequests
) -> None:
    client = service.langsmith_client
    executor = service.executor()

    @ls.traceable(client=client)
    def workflow() -> None:
        executor.run(make_requests(2))

    with ls.tracing_context(enabled=True):
        workflow()
    client.flush()
    service.flush()
    (root,) = [run for run in service.langsmith.runs.values() if run["name"] == "workflow"]
    (batch,) = [run for run in service.langsmith.runs.values() if run["name"] == "batch"]
    assert batch["parent_run_id"] == root["id"]
    assert {run["trace_id"] for run in service.langsmith.runs.values()} == {root["id"]}
    assert service.langsmith.refusals == []


def test_the_propagator_carries_the_run_beside_w3c_headers(service: Service) -> None:
    service.mirror(service.settings())
    propagator = LangSmithPropagator()
    carrier: dict[str, str] = {"baggage": "mine=1"}
    tracer = service.tracers.get_tracer("test")
    with tracer.start_as_current_span("x", attributes={"gen_ai.operation.name": "chat"}) as span:
        propagator.inject(carrier)
    assert isinstance(span, ReadableSpan)
    run = identity.run_id(span.get_span_context().span_id, present(span.start_time))
    assert carrier["langsmith-trace"].endswith(run)
    assert carrier["baggage"] == "mine=1"
    child = tracer.start_span(
        "y", propagator.extract(carrier), attributes={"gen_ai.operation.name": "chat"}
    )
    child.end()
    service.flush()
    runs = {each["name"]: each for each in service.langsmith.runs.values()}
    assert runs["y"]["parent_run_id"] == run
    for malformed in ("", "x", "20260101T000000000000Znot-a-uuid"):
        propagator.extract({"langsmith-trace": malformed})


def test_the_mirror_is_added_once_and_only_when_asked(service: Service) -> None:
    provider = TracerProvider()
    assert mirror(provider, Settings(langsmith_tracing=False)) is None
    provider.add_span_processor(LangSmithSpanProcessor(service.delivery, service.settings()))
    first = mirror(provider, service.settings())
    assert first is not None
    assert first.delivery is service.delivery
    assert mirror(provider, service.settings()) is first
    assert mirror(trace.NoOpTracerProvider(), service.settings()) is None
    provider.shutdown()


def test_spans_of_langsmith_itself_and_plain_spans_are_left_alone(service: Service) -> None:
    service.mirror(service.settings())
    for scope, attributes in (
        ("langsmith", {"gen_ai.operation.name": "chat"}),
        ("http", {"http.request.method": "GET"}),
    ):
        service.tracers.get_tracer(scope).start_span("x", attributes=attributes).end()
    service.flush()
    assert service.langsmith.runs == {}


def test_sampling_keeps_or_drops_whole_traces(
    service: Service, make_requests: MakeRequests
) -> None:
    executor = service.executor(langsmith_sampling_rate=0.5)
    for _ in range(12):
        executor.run(make_requests(3))
    traces = [run["trace_id"] for run in runs_of(service, "llm")]
    assert 0 < len(set(traces)) < 12
    assert all(traces.count(each) == 3 for each in traces)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_no_content_stays_behind(
    service: Service, make_requests: MakeRequests, rate: float
) -> None:
    executor = service.executor(langsmith_content=True, langsmith_sampling_rate=rate)
    results = executor.run(make_requests(5))
    (batch_id,) = results.batch_ids
    spans = [identity.request_span_id(batch_id, custom_id) for custom_id in results]
    assert [pending_content.pop(span_id) for span_id in spans] == [None] * 5


@pytest.mark.parametrize(
    ("provider", "fix"),
    [
        (TracerProvider(shutdown_on_exit=False), "unset LANGSMITH_RUNS_ENDPOINTS"),
        (trace.NoOpTracerProvider(), "set one of the OpenTelemetry SDK first"),
    ],
)
def test_a_mirror_that_cannot_be_is_warned_of_once(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    provider: Any,
    fix: str,
) -> None:
    monkeypatch.delenv("LANGSMITH_ENDPOINT", raising=False)
    monkeypatch.setenv("LANGSMITH_RUNS_ENDPOINTS", f'{{"{service.langsmith.url}": "a key"}}')
    shield.said.clear()
    for _ in range(2):
        assert mirror(provider, service.settings()) is None
    (warning,) = caplog.records
    assert warning.getMessage().startswith("Nothing is mirrored to LangSmith: ")
    assert warning.getMessage().endswith(fix)
