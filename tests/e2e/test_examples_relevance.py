"""The flow that this project started from: 100 scored papers, two of them without a score."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import Command, Cost

from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer, OtlpCapture
from otel_bridge.simulator.answers import ending

EXAMPLE = Path(__file__).parents[2] / "examples" / "relevance.py"
FAILING = {"relevance-13": "refusal", "relevance-37": "expired"}


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "otel_bridge.simulator", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_one_command_runs_it_against_the_simulator() -> None:
    ends = [word for each in FAILING.items() for word in ("--end", "=".join(each))]
    ran = simulate(*ends, sys.executable, str(EXAMPLE))
    assert ran.returncode == 0, ran.stderr
    assert "98 of 100 papers scored" in ran.stdout
    assert "API answered: succeeded 99, expired 1" in ran.stderr
    assert "OTLP received: spans 103" in ran.stderr
    assert "LangSmith received: runs 104" in ran.stderr


@pytest.mark.parametrize("end", ["relevance-13", "=refusal", "relevance-13=gone"])
def test_an_end_that_there_is_not_is_refused(end: str) -> None:
    ran = simulate("--end", end, "true")
    assert ran.returncode == 2
    assert f"argument --end: {end!r} is no CUSTOM_ID=HOW" in ran.stderr


def test_the_workflow_shows_whole_in_both_backends(
    bridge: Command,
    api: MessageBatchesServer,
    otlp: OtlpCapture,
    langsmith: LangSmithCapture,
    cost_of: Cost,
) -> None:
    api.responder = ending(FAILING)
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        env=bridge.environment
        | {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "98 of 100 papers scored" in ran.stdout
    assert "relevance-13: refusal" in ran.stdout
    assert "relevance-37: expired" in ran.stdout
    (batch_id,) = api.batch_ids
    truth, lines = api.truth(batch_id), api.results(batch_id)
    cost = sum(map(cost_of, lines))
    total_input = (
        truth["input_tokens"]
        + truth["cache_read_input_tokens"]
        + truth["cache_creation_input_tokens"]
    )

    runs = {run["name"]: run for run in langsmith.runs.values()}
    workflow, structured = runs["lit_review"], runs["batch_structured_output"]
    batch = runs["batch claude-sonnet-4-5-20250929"]
    requests = [run for run in langsmith.runs.values() if run["run_type"] == "llm"]
    assert structured["parent_run_id"] == workflow["id"]
    assert batch["parent_run_id"] == structured["id"]
    assert {run["parent_run_id"] for run in requests} == {batch["id"]}
    assert len(requests) == 100
    assert {run["trace_id"] for run in langsmith.runs.values()} == {workflow["id"]}
    metadata = structured["extra"]["metadata"]
    assert metadata["batch_id"] == batch_id
    assert metadata["request_count"] == 100
    assert metadata["successful_count"] == 98
    assert metadata["failed_count"] == 2
    usage = metadata["usage_metadata"]
    assert usage["input_tokens"] == total_input
    assert usage["output_tokens"] == truth["output_tokens"]
    details = usage["input_token_details"]
    assert details["cache_read"] == truth["cache_read_input_tokens"]
    for ttl in ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"):
        assert details[ttl] == truth[ttl]
    assert usage["total_cost"] == pytest.approx(cost, abs=1e-9)
    totals = langsmith.usage_totals()
    assert totals["output_tokens"] == truth["output_tokens"]
    assert totals["total_cost"] == pytest.approx(cost, abs=1e-9)
    assert langsmith.refusals == []

    spans = otlp.unique_spans()
    named = {span.name: span for span in spans}
    top = named["batch_structured_output"]
    assert named["batch claude-sonnet-4-5-20250929"].parent_span_id == top.span_id
    assert len({span.trace_id for span in spans}) == 1
    prefix = "anthropic.message.batch.structured."
    assert top.attributes[f"{prefix}request_count"] == 100
    assert top.attributes[f"{prefix}succeeded_count"] == 98
    assert top.attributes[f"{prefix}outcome.refusal"] == 1
    assert top.attributes[f"{prefix}usage.output_tokens"] == truth["output_tokens"]
    assert top.attributes[f"{prefix}cost"] == pytest.approx(cost, abs=1e-9)
    told = sum(span.attributes.get("gen_ai.usage.input_tokens", 0) for span in spans)
    assert told == total_input
    assert otlp.metric_sum("gen_ai.client.inference.usage.input_tokens") == total_input
    assert otlp.metric_sum("gen_ai.usage.cost") == pytest.approx(cost, abs=1e-9)
