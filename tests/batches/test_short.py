"""Short results are said, and a reading that has them all completes every backend, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import Command, Instrument, MakeRequests, Service, present

from otel_bridge import semconv
from otel_bridge.batches import engine_of
from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer, OtlpCapture

COUNT, SHORT = 20, 12


def shorten(api: MessageBatchesServer, batch_id: str) -> list[Any]:
    lines = api.results(batch_id)
    api.replace_results(batch_id, lines[:SHORT])
    return lines


def hold(api: Any, otlp: OtlpCapture, langsmith: LangSmithCapture, count: int) -> None:
    """Spans and runs hold `count` requests; metrics hold all of them, or none while some lack."""
    (batch_id,) = api.batch_ids
    whole = count == COUNT
    spans = [span for span in otlp.unique_spans() if span.name.startswith("chat")]
    runs = [run for run in langsmith.runs.values() if run["run_type"] == "llm"]
    assert len(spans) == len(runs) == count
    assert otlp.metric_sum(semconv.METRIC_BATCH_REQUESTS) == (COUNT if whole else 0)
    tokens = otlp.metric_sum("gen_ai.client.inference.usage.output_tokens")
    assert tokens == (api.truth(batch_id)["output_tokens"] if whole else 0)
    *_, batch = [span for span in otlp.spans if span.name.startswith("batch")]
    assert batch.attributes.get(semconv.BATCH_MISSING_COUNT, 0) == COUNT - count


def said(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("otel-bridge: ")]


def test_the_command_says_it_and_a_later_one_completes_it(
    bridge: Command,
    make_requests: MakeRequests,
    api: MessageBatchesServer,
    otlp: OtlpCapture,
    langsmith: LangSmithCapture,
) -> None:
    batch_id = api.add_batch(
        [{**each, "custom_id": f"ok-{each['custom_id']}"} for each in make_requests(COUNT)],
        seconds=0,
    )
    lines = shorten(api, batch_id)
    for arguments, status in ((["--fail-on-error"], 3), ([], 0)):
        ran = bridge("collect", batch_id, "-o", "out.jsonl", "--json", *arguments)
        (line,) = said(ran.stderr)
        assert line.startswith(f"otel-bridge: 8 of batch {batch_id}'s 20 results are missing; ")
        assert line.endswith(f"; `otel-bridge collect {batch_id}` reads them again")
        assert ran.returncode == status
        assert json.loads(ran.stdout)["missing"] == 8
        hold(api, otlp, langsmith, SHORT)
    ran = bridge("backfill", batch_id)
    assert ran.returncode == 1
    assert f"{batch_id}: failed, 12 requests (8 of batch" in ran.stderr
    api.replace_results(batch_id, lines)
    for _ in range(2):
        ran = bridge("collect", batch_id, "-o", "out.jsonl", "--fail-on-error")
        assert (ran.returncode, said(ran.stderr)) == (0, [])
        assert len((bridge.folder / "out.jsonl").read_text().splitlines()) == COUNT
        hold(api, otlp, langsmith, COUNT)
    assert "already_exported" in bridge("backfill", batch_id).stderr


def test_a_run_that_lacks_results_fails_when_asked(
    bridge: Command, make_requests: MakeRequests, api: MessageBatchesServer
) -> None:
    api.fail_next("GET", "results$", action="cut_line", times=3)
    requests = [{**make_requests(2)[n], "custom_id": f"a-ok-{n}"} for n in range(2)]
    ran = bridge("run", bridge.write(requests), "-o", "out.jsonl", "--fail-on-error")
    assert ran.returncode == 3
    assert "1 of batch" in said(ran.stderr)[-1]


@pytest.mark.parametrize("by_id", [False, True])
@pytest.mark.parametrize("journal", [False, True])
def test_the_same_process_completes_it(
    service: Service, make_requests: MakeRequests, tmp_path: Path, by_id: bool, journal: bool
) -> None:
    executor = service.executor(state_dir=tmp_path if journal else None)
    (handle,) = executor.submit(make_requests(COUNT))
    lines = shorten(service.api, handle.id)
    assert len(list(executor.collect(handle))) == SHORT
    service.flush()
    hold(service.api, service.otlp, service.langsmith, SHORT)
    service.api.replace_results(handle.id, lines)
    assert len(list(executor.collect(handle.id if by_id else handle))) == COUNT
    service.flush()
    hold(service.api, service.otlp, service.langsmith, COUNT)
    assert engine_of(executor).recorder.is_exported(handle.id) is journal


def test_a_strangers_result_stands_in_for_none_that_is_missing(
    service: Service, make_requests: MakeRequests
) -> None:
    executor = service.executor()
    (handle,) = executor.submit(make_requests(COUNT))
    lines = service.api.results(handle.id)
    service.api.replace_results(handle.id, [*lines[:-1], {**lines[-1], "custom_id": "stranger"}])
    list(executor.collect(handle))
    service.flush()
    assert present(handle.recording).missing == 1
    assert service.otlp.metric_sum(semconv.METRIC_BATCH_REQUESTS) == 0


@pytest.mark.parametrize("cap", [0, 5])
def test_beyond_the_cap_nothing_is_told_of_requests_before_all_are_read(
    service: Service, make_requests: MakeRequests, cap: int
) -> None:
    def output_tokens() -> list[int]:
        spans = [span for span in service.otlp.unique_spans() if span.name.startswith("chat")]
        told = sum(span.attributes.get("gen_ai.usage.output_tokens", 0) for span in spans)
        return [told, service.langsmith.usage_totals()["output_tokens"]]

    executor = service.executor(max_request_spans=cap)
    (handle,) = executor.submit(make_requests(COUNT))
    lines = shorten(service.api, handle.id)
    list(executor.collect(handle))
    service.flush()
    assert output_tokens() == [0, 0]
    service.api.replace_results(handle.id, lines)
    list(executor.collect(handle))
    service.flush()
    assert output_tokens() == [service.api.truth(handle.id)["output_tokens"]] * 2
    (batch,) = [run for run in service.langsmith.runs.values() if run["name"].startswith("batch")]
    metadata = batch["extra"]["metadata"]
    assert metadata["usage_metadata"]["output_tokens"] == output_tokens()[0]


def test_what_other_code_reads_short_is_completed_by_a_whole_reading(
    service: Service, make_requests: MakeRequests, instrument: Instrument, tmp_path: Path
) -> None:
    instrument(state_dir=tmp_path)
    batch_id = service.api.add_batch(make_requests(COUNT), seconds=0)
    lines = shorten(service.api, batch_id)
    for _ in range(3):
        assert len(list(service.client.messages.batches.results(batch_id))) == SHORT
    service.flush()
    hold(service.api, service.otlp, service.langsmith, SHORT)
    service.api.replace_results(batch_id, lines)
    for _ in range(2):
        assert len(list(service.client.messages.batches.results(batch_id))) == COUNT
    service.flush()
    hold(service.api, service.otlp, service.langsmith, COUNT)
