"""The trace of a batch: names, parents, times, status, events and ids."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from support import MakeRequests, Service, present

from otel_bridge import BatchError, BatchExecutor, BatchHandle, identity, semconv
from otel_bridge._core.otel_sdk import span_processors
from otel_bridge._core.redaction import Redaction
from otel_bridge.batches import engine
from otel_bridge.simulator import (
    CapturedSpan,
    LangSmithCapture,
    MessageBatchesServer,
    OtlpCapture,
)

ERROR = 2
INTERNAL, CLIENT = 1, 3  # as OTLP numbers them


def named(requests: list[dict[str, Any]], *custom_ids: str) -> list[dict[str, Any]]:
    return [
        {**request, "custom_id": custom_id}
        for request, custom_id in zip(requests, custom_ids, strict=True)
    ]


def by_custom_id(service: Service) -> dict[str, CapturedSpan]:
    service.flush()
    return {
        span.attributes[semconv.BATCH_CUSTOM_ID]: span
        for span in service.otlp.unique_spans()
        if semconv.BATCH_CUSTOM_ID in span.attributes
    }


def the_batch(service: Service) -> CapturedSpan:
    service.flush()
    spans: list[CapturedSpan] = service.otlp.unique_spans()
    (batch,) = [span for span in spans if span.attributes.get("gen_ai.operation.name") == "batch"]
    return batch


def test_requests_hang_below_the_batch_and_the_batch_below_the_caller(
    service: Service, make_requests: MakeRequests
) -> None:
    tracer = service.tracers.get_tracer("test")
    with tracer.start_as_current_span("caller") as caller:
        results = service.executor().run(make_requests(3))
    requests = by_custom_id(service)
    batch = the_batch(service)
    batch_id = results.batch_ids[0]
    context = caller.get_span_context()
    assert batch.parent_span_id == f"{context.span_id:016x}"
    assert batch.trace_id == f"{context.trace_id:032x}"
    assert batch.span_id == f"{identity.batch_span_id(batch_id):016x}"
    assert batch.kind == INTERNAL
    assert batch.name == "batch"
    for custom_id, span in requests.items():
        assert span.parent_span_id == batch.span_id
        assert span.trace_id == batch.trace_id
        assert span.span_id == f"{identity.request_span_id(batch_id, custom_id):016x}"
        assert span.kind == CLIENT
        assert span.name == f"chat {span.attributes['gen_ai.request.model']}"
        assert (span.start_ns, span.end_ns) == (batch.start_ns, batch.end_ns)
    described = service.client.messages.batches.retrieve(batch_id)
    assert batch.start_ns // 1000 == round(described.created_at.timestamp() * 1e6)
    assert batch.end_ns // 1000 == round(present(described.ended_at).timestamp() * 1e6)


def test_without_a_caller_the_trace_id_follows_from_the_batch_id(
    service: Service, make_requests: MakeRequests
) -> None:
    results = service.executor().run(make_requests(1))
    trace_id = identity.batch_trace_id(results.batch_ids[0])
    assert the_batch(service).trace_id == f"{trace_id:032x}"


def test_other_tracers_keep_their_own_ids(service: Service, make_requests: MakeRequests) -> None:
    service.executor().run(make_requests(1))
    spans = [service.tracers.get_tracer("other").start_span("x") for _ in range(3)]
    assert len({span.get_span_context().trace_id for span in spans}) == 3
    for span in spans:
        span.end()


def test_request_attributes_are_the_conventions(
    service: Service, make_requests: MakeRequests
) -> None:
    (request,) = named(make_requests(1), "x-ok-1")
    request["params"] |= {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "stop_sequences": ["END"]}
    results = service.executor().run([request])
    message = present(results["x-ok-1"].message)
    attributes = by_custom_id(service)["x-ok-1"].attributes
    usage = {name for name in attributes if "usage" in name}
    assert {name: value for name, value in attributes.items() if name not in usage} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": request["params"]["model"],
        "gen_ai.request.max_tokens": 100,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_k": 3,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.response.id": message.id,
        "gen_ai.response.model": message.model,
        "gen_ai.response.finish_reasons": [
            {"end_turn": "stop", "max_tokens": "length"}[str(message.stop_reason)]
        ],
        "anthropic.message.stop_reason": message.stop_reason,
        "anthropic.response.service_tier": "batch",
        "anthropic.message.batch.id": results.batch_ids[0],
        "anthropic.message.batch.custom_id": "x-ok-1",
        "anthropic.message.batch.outcome": "succeeded",
    }


def test_failed_requests_are_errors_and_the_batch_is_none(
    service: Service, make_requests: MakeRequests
) -> None:
    ids = ("a-ok-1", "a-errored-1", "a-canceled-1", "a-expired-1")
    results = service.executor().run(named(make_requests(4), *ids))
    spans = by_custom_id(service)
    assert spans["a-ok-1"].status_code != ERROR
    assert "error.type" not in spans["a-ok-1"].attributes
    for kind in ("canceled", "expired"):
        assert spans[f"a-{kind}-1"].status_code == ERROR
        assert spans[f"a-{kind}-1"].attributes["error.type"] == kind
    error = present(results["a-errored-1"].error).error
    assert spans["a-errored-1"].status_code == ERROR
    assert spans["a-errored-1"].attributes["error.type"] == error.type
    assert spans["a-errored-1"].status_message == error.type
    for failed in ids[1:]:
        assert not [name for name in spans[failed].attributes if "usage" in name]
    assert the_batch(service).status_code != ERROR


def test_a_batch_of_which_nothing_succeeded_is_an_error(
    service: Service, make_requests: MakeRequests
) -> None:
    service.executor().run(named(make_requests(2), "a-errored-1", "a-expired-1"))
    batch = the_batch(service)
    assert batch.status_code == ERROR
    assert batch.attributes["error.type"] == "no_request_succeeded"
    assert batch.attributes["anthropic.message.batch.cost"] == 0


def test_one_model_names_the_batch(service: Service, make_requests: MakeRequests) -> None:
    service.executor().run(make_requests(1))
    batch = the_batch(service)
    model = batch.attributes["gen_ai.request.model"]
    assert batch.name == f"batch {model}"


def test_state_changes_are_events(service: Service, make_requests: MakeRequests) -> None:
    service.api.batch_seconds = 60
    executor = service.executor()
    (handle,) = executor.submit(make_requests(2))
    service.client.messages.batches.cancel(handle.id)
    list(executor.collect(handle))
    batch = the_batch(service)
    states = [attributes[semconv.BATCH_PROCESSING_STATUS] for _, _, attributes in batch.events]
    assert states[-1] == "ended"
    assert batch.attributes[semconv.BATCH_PROCESSING_STATUS] == "ended"
    assert batch.events[-1][1] == batch.end_ns


def test_former_names_stand_beside_the_current_until_opted_out(
    service: Service, make_requests: MakeRequests
) -> None:
    former = "gen_ai.usage.cache_creation.input_tokens"
    current = "gen_ai.usage.cache_write.input_tokens"
    ids = [f"a-ok-{number}" for number in range(20)]
    service.executor().run(named(make_requests(20), *ids))
    written = [span for span in by_custom_id(service).values() if current in span.attributes]
    assert written
    assert all(span.attributes[former] == span.attributes[current] for span in written)
    assert service.otlp.metric_count("gen_ai.client.token.usage") == 40
    service.executor(latest_semconv_only=True).run(
        named(make_requests(20), *(f"b-{name}" for name in ids))
    )
    latest = [span for name, span in by_custom_id(service).items() if name.startswith("b-")]
    assert any(current in span.attributes for span in latest)
    assert not any(former in span.attributes for span in latest)
    assert service.otlp.metric_count("gen_ai.client.token.usage") == 40


def test_an_unknown_model_has_no_cost_and_one_warning(
    service: Service, make_requests: MakeRequests, caplog: pytest.LogCaptureFixture
) -> None:
    requests = named(make_requests(3), "a-ok-1", "a-ok-2", "a-ok-3")
    for request in requests[:2]:
        request["params"]["model"] = "model-of-the-future"
    with caplog.at_level(logging.WARNING, "otel_bridge"):
        service.executor().run(requests)
    spans = by_custom_id(service)
    assert "gen_ai.usage.cost" not in spans["a-ok-1"].attributes
    assert spans["a-ok-3"].attributes["gen_ai.usage.cost"] > 0
    assert semconv.BATCH_COST not in the_batch(service).attributes
    assert len([each for each in caplog.records if "model-of-the-future" in each.message]) == 1
    assert spans["a-ok-1"].attributes["gen_ai.usage.input_tokens"] > 0


def test_a_result_of_an_unknown_type_is_its_own_outcome(
    service: Service, make_requests: MakeRequests
) -> None:
    executor = service.executor()
    (handle,) = executor.submit(named(make_requests(2), "a-ok-1", "a-ok-2"))
    lines = service.api.results(handle.id)
    service.api.replace_results(
        handle.id, [lines[0], {**lines[1], "result": {"type": "postponed", "message": {}}}]
    )
    results = {result.custom_id: result for result in executor.collect(handle)}
    strange = lines[1]["custom_id"]
    assert results[strange].type == "postponed"
    assert results[strange].error_type is None
    assert results[strange].message is None
    span = by_custom_id(service)[strange]
    assert span.status_code == ERROR
    assert span.attributes["error.type"] == "unknown_result_type"
    assert span.attributes[semconv.BATCH_OUTCOME] == "unknown"
    assert (
        service.otlp.metric_sum(semconv.METRIC_BATCH_REQUESTS, **{semconv.BATCH_OUTCOME: "unknown"})
        == 1
    )


def test_a_result_that_never_comes_is_counted_as_missing(
    service: Service, make_requests: MakeRequests, caplog: pytest.LogCaptureFixture
) -> None:
    executor = service.executor()
    (handle,) = executor.submit(named(make_requests(2), "a-ok-1", "a-ok-2"))
    service.api.replace_results(handle.id, service.api.results(handle.id)[:1])
    with caplog.at_level(logging.WARNING, "otel_bridge"):
        assert len(list(executor.collect(handle))) == 1
    assert the_batch(service).attributes["anthropic.message.batch.missing_count"] == 1
    assert "1 of batch" in caplog.text


def test_metrics_tell_distributions_duration_and_that_the_wait_is_over(
    service: Service, make_requests: MakeRequests
) -> None:
    executor = service.executor()
    (handle,) = executor.submit(named(make_requests(2), "a-ok-1", "a-errored-1"))
    list(executor.collect(handle))
    service.meters.force_flush()
    otlp = service.otlp
    assert otlp.metric_sum(semconv.METRIC_BATCH_ACTIVE) == 0
    for name in (
        "gen_ai.client.inference.operation.input_tokens",
        "gen_ai.client.inference.operation.output_tokens",
        "gen_ai.usage.cost",
        "anthropic.message.batch.duration",
    ):
        assert otlp.metric_count(name) == 1, name
    (duration,) = otlp.metric_points("anthropic.message.batch.duration")
    assert duration.unit == "s"
    assert duration.bounds[-1] == 86_400
    (tokens,) = otlp.metric_points("gen_ai.client.inference.operation.input_tokens")
    assert tokens.bounds[:4] == (1, 4, 16, 64)
    assert tokens.attributes["gen_ai.operation.name"] == "chat"
    (counter,) = otlp.metric_points("gen_ai.client.inference.usage.input_tokens")
    assert counter.unit == "{token}"
    assert (
        counter.attributes.items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "anthropic",
            "gen_ai.token.modality": "text",
        }.items()
    )


def test_a_batch_that_is_sampled_out_still_counts(
    service: Service, make_requests: MakeRequests
) -> None:
    sampled_out = trace.SpanContext(7, 8, is_remote=True)
    with trace.use_span(trace.NonRecordingSpan(sampled_out)):
        results = service.executor().run(make_requests(20))
    service.flush()
    truth = service.api.truth(results.batch_ids[0])
    name = "gen_ai.client.inference.usage.output_tokens"
    assert service.otlp.metric_sum(name) == truth["output_tokens"]
    assert service.otlp.spans == []
    assert service.langsmith.runs == {}


def test_whoever_reads_a_batch_of_no_submitter_finds_it_in_its_own_trace(
    service: Service, make_requests: MakeRequests
) -> None:
    (handle,) = service.executor().submit(make_requests(2))
    stored = handle.to_dict()
    tracer = service.tracers.get_tracer("app")
    for name in ("first", "second"):
        with tracer.start_as_current_span(name):
            list(service.executor().collect(BatchHandle.from_dict(stored)))
    service.flush()
    ours = {span.trace_id for span in service.otlp.spans if span.scope == semconv.SCOPE}
    assert ours == {f"{identity.batch_trace_id(handle.id):032x}"}
    runs = service.langsmith.runs.values()
    assert {run["trace_id"] for run in runs if run["run_type"] == "llm"} == {
        run["id"] for run in runs if run["name"].startswith("batch")
    }


def test_a_request_whose_content_cannot_be_told_is_told_without_it(
    service: Service, make_requests: MakeRequests
) -> None:
    (request,) = named(make_requests(1), "a-ok-1")
    tool = {"name": "t", "input_schema": {"type": "object", "maximum": 2**64}}
    request["params"]["tools"] = [tool]
    settings = {"span_content": True, "langsmith_content": True, "max_request_spans": 1}

    def fails(_: Any) -> Any:
        raise ValueError("redaction is broken")

    service.executor(**settings).run([request])
    assert semconv.GEN_AI_INPUT_MESSAGES in by_custom_id(service)["a-ok-1"].attributes
    service.executor(**settings, redaction=Redaction(fails)).run(named([request], "b-ok-1"))
    told = by_custom_id(service)["b-ok-1"].attributes
    assert semconv.GEN_AI_INPUT_MESSAGES not in told
    assert told["gen_ai.usage.output_tokens"] > 0


def test_a_failure_among_several_batches_quotes_no_request(
    service: Service,
    api: MessageBatchesServer,
    make_requests: MakeRequests,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "split_requests", lambda requests: [requests[:1], requests[1:]])
    api.fail_next("POST", "batches$", status=400)
    with pytest.raises(BatchError):
        service.executor().submit(make_requests(2))
    service.flush()
    (over,) = [span for span in service.otlp.spans if span.name == "batches"]
    assert over.attributes["error.type"] == "BatchError"
    assert not over.status_message
    assert not over.events


@dataclass
class Wrapping(trace.TracerProvider):
    """A provider around the SDK's, as logfire's is."""

    provider: TracerProvider

    def get_tracer(self, *arguments: Any, **named: Any) -> trace.Tracer:
        return self.provider.get_tracer(*arguments, **named)


def test_a_provider_around_the_sdks_is_seen_through(
    service: Service, make_requests: MakeRequests
) -> None:
    settings = service.settings()
    service.mirror(settings)
    executor = BatchExecutor(
        service.client,
        tracer_provider=Wrapping(service.tracers),
        meter_provider=service.meters,
        settings=settings,
    )
    results = executor.run(make_requests(3))
    service.flush()
    (batch_id,) = results.batch_ids
    ids = {f"{identity.request_span_id(batch_id, custom_id):016x}" for custom_id in results}
    assert ids <= {span.span_id for span in service.otlp.spans}
    assert len([run for run in service.langsmith.runs.values() if run["run_type"] == "llm"]) == 3
    assert len(span_processors(service.tracers)) == 2


class Broken(trace.TracerProvider):
    """A provider that has no tracer to give."""

    def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
        raise RuntimeError("no tracer")


def test_a_provider_that_fails_costs_spans_and_nothing_else(
    service: Service, api: MessageBatchesServer, make_requests: MakeRequests
) -> None:
    executor = BatchExecutor(
        service.client,
        tracer_provider=Broken(),
        meter_provider=service.meters,
        settings=service.settings(langsmith_tracing=False),
    )
    assert len(executor.run(make_requests(3))) == 3
    (batch_id,) = api.batch_ids
    service.flush()
    truth = api.truth(batch_id)["output_tokens"]
    assert service.otlp.metric_sum(semconv.METRIC_USAGE_OUTPUT) == truth


def test_a_provider_may_be_set_after_the_executor_was_made(
    api: MessageBatchesServer, otlp: OtlpCapture, langsmith: LangSmithCapture, tmp_path: Path
) -> None:
    program = f"""
import anthropic
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from otel_bridge import BatchExecutor

executor = BatchExecutor()
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter("{otlp.url}/v1/traces")))
trace.set_tracer_provider(provider)
executor.run({make(2)!r})
"""
    environment = {
        "PATH": os.environ["PATH"],
        "ANTHROPIC_API_KEY": "test",
        "ANTHROPIC_BASE_URL": api.url,
        "LANGSMITH_TRACING": "true",
        "LANGSMITH_ENDPOINT": langsmith.url,
        "LANGSMITH_API_KEY": "test",
        "OTEL_BRIDGE_POLL_INTERVAL": "0.05",
        "OTEL_BRIDGE_STATE_DIR": str(tmp_path),
    }
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
    assert len([span for span in otlp.spans if span.name.startswith("chat")]) == 2
    assert len([run for run in langsmith.runs.values() if run["run_type"] == "llm"]) == 2


def make(count: int) -> list[dict[str, Any]]:
    params = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user"}]}
    return [{"custom_id": f"x-ok-{number}", "params": params} for number in range(count)]
