"""Two processes, one truth: ids, the trace and the parent are the same wherever they are made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import MakeRequests, Service

from otel_bridge import BatchHandle, ConfigurationError, identity
from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer, OtlpCapture

COLLECTOR = """
import json, sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from otel_bridge import BatchExecutor, BatchHandle

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
handle = sys.argv[1]
if handle.startswith("{"):
    handle = BatchHandle.from_dict(json.loads(handle))
print(len(list(BatchExecutor().collect(handle))))
provider.shutdown()
"""


@pytest.fixture
def environment(
    api: MessageBatchesServer, otlp: OtlpCapture, langsmith: LangSmithCapture, tmp_path: Path
) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return kept | {
        "ANTHROPIC_BASE_URL": api.url,
        "ANTHROPIC_API_KEY": "test",
        "LANGSMITH_TRACING": "true",
        "LANGSMITH_ENDPOINT": langsmith.url,
        "LANGSMITH_API_KEY": "test",
        "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url,
        "OTEL_BRIDGE_POLL_INTERVAL": "0.05",
        "OTEL_BRIDGE_STATE_DIR": str(tmp_path / "state"),
    }


def collect_elsewhere(handle: str, environment: dict[str, str]) -> int:
    ran = subprocess.run(
        [sys.executable, "-c", COLLECTOR, handle],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


def test_a_batch_collected_elsewhere_stays_below_the_submitters_span(
    service: Service, make_requests: MakeRequests, environment: dict[str, str]
) -> None:
    with service.tracers.get_tracer("test").start_as_current_span("caller") as caller:
        (handle,) = service.executor().submit(make_requests(12))
    carried = json.dumps(handle.to_dict())
    assert "secret" not in carried
    assert collect_elsewhere(carried, environment) == 12
    service.flush()
    spans = {span.span_id: span for span in service.otlp.unique_spans()}
    context = caller.get_span_context()
    assert {span.trace_id for span in spans.values()} == {f"{context.trace_id:032x}"}
    batch = spans[f"{identity.batch_span_id(handle.id):016x}"]
    assert batch.parent_span_id == f"{context.span_id:016x}"
    assert batch.name == "batch"
    assert len([s for s in spans.values() if s.parent_span_id == batch.span_id]) == 12


def test_the_pending_run_of_one_process_is_completed_by_the_other(
    service: Service,
    make_requests: MakeRequests,
    environment: dict[str, str],
    langsmith: LangSmithCapture,
) -> None:
    (handle,) = service.executor().submit(make_requests(3))
    service.flush()
    (pending,) = langsmith.runs.values()
    assert "end_time" not in pending
    collect_elsewhere(json.dumps(handle.to_dict()), environment)
    assert len(langsmith.runs) == 4
    assert "end_time" in langsmith.runs[pending["id"]]
    assert langsmith.refusals == []
    assert langsmith.orphans() == []
    assert langsmith.conflicts == [pending["id"]]


def test_two_processes_make_the_same_spans_and_runs(
    service: Service,
    make_requests: MakeRequests,
    environment: dict[str, str],
    otlp: OtlpCapture,
    langsmith: LangSmithCapture,
) -> None:
    batch_id = service.api.add_batch(make_requests(40))
    environment["OTEL_BRIDGE_MAX_REQUEST_SPANS"] = "10"
    collect_elsewhere(batch_id, environment)
    spans, runs = otlp.unique_spans(), langsmith.runs
    environment["OTEL_BRIDGE_STATE_DIR"] += "-of-another-machine"
    collect_elsewhere(batch_id, environment)
    assert len(otlp.spans) == 2 * len(spans)
    assert {(s.trace_id, s.span_id) for s in otlp.unique_spans()} == {
        (s.trace_id, s.span_id) for s in spans
    }
    assert langsmith.runs.keys() == runs.keys()
    assert langsmith.refusals == []
    totals = langsmith.usage_totals()
    assert totals["output_tokens"] == service.api.truth(batch_id)["output_tokens"]


@pytest.mark.parametrize("by_id", [False, True])
def test_the_command_submits_and_collects_in_two_processes(
    service: Service,
    make_requests: MakeRequests,
    environment: dict[str, str],
    tmp_path: Path,
    *,
    by_id: bool,
) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_text("\n".join(map(json.dumps, make_requests(7))))
    environment["TRACEPARENT"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    def bridge(*arguments: str) -> Any:
        command = [sys.executable, "-m", "otel_bridge.cli", *arguments, "--json"]
        ran = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    submitted = bridge("submit", str(requests))
    (tmp_path / "handle.json").write_text(json.dumps(submitted))
    del environment["TRACEPARENT"]
    batch = submitted["batches"][0] if by_id else "handle.json"
    collected = bridge("collect", batch, "-o", "out.jsonl")
    assert collected["batches"] == submitted["batches"]
    assert collected["requests"] == 7
    assert collected["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    batch_id = submitted["batches"][0]
    ours = [span for span in service.otlp.unique_spans() if span.scope == "otel_bridge"]
    assert {span.trace_id for span in ours} == {"0af7651916cd43dd8448eb211c80319c"}
    (told,) = [span for span in ours if span.name.startswith("batch")]
    assert told.parent_span_id == "b7ad6b7169203331"
    names = [span.name for span in service.otlp.spans if span.scope != "otel_bridge"]
    assert names == ["anthropic.messages.batches.create"], "polls must leave no spans"
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == service.api.results(batch_id)


def test_a_handle_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="`id` is missing"):
        BatchHandle.from_dict({"request_count": 3})


ZERO_CODE = Path(sys.executable).with_name("opentelemetry-instrument")
HOLDER = """
import sys
import anthropic

results = anthropic.Anthropic().messages.batches.results(sys.argv[1])
for _ in range(int(sys.argv[2])):
    print(next(results).custom_id)
"""


@pytest.mark.parametrize("exporters", ["otlp", "otlp,langsmith"])
@pytest.mark.parametrize("read", [3, 8])
def test_what_was_given_is_told_though_the_process_ends_with_the_stream_in_its_hands(
    api: MessageBatchesServer,
    otlp: OtlpCapture,
    langsmith: LangSmithCapture,
    make_requests: MakeRequests,
    environment: dict[str, str],
    exporters: str,
    read: int,
) -> None:
    batch_id = api.add_batch(make_requests(8), seconds=0)
    api.end(batch_id)
    given = subprocess.check_output(
        [str(ZERO_CODE), sys.executable, "-c", HOLDER, batch_id, str(read)],
        env=environment
        | {"OTEL_TRACES_EXPORTER": exporters, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
        text=True,
    ).split()
    key = "anthropic.message.batch.custom_id"
    spans = [span.attributes[key] for span in otlp.unique_spans() if key in span.attributes]
    assert len(given) == read
    assert sorted(spans) == sorted(given)
    assert sum(run["run_type"] == "llm" for run in langsmith.runs.values()) == read
    assert otlp.metric_sum("anthropic.message.batch.requests") == (8 if read == 8 else 0)
