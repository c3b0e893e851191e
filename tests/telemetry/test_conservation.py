"""One truth: every sum in every backend is the API's, for every size and cap."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable
from types import SimpleNamespace

import pytest
from support import Cost, MakeRequests, Service

from otel_bridge import semconv
from otel_bridge.simulator import CapturedSpan
from otel_bridge.telemetry.backpressure import Pacer

SPAN_TOKENS = {
    "input_tokens+": semconv.GEN_AI_USAGE_INPUT_TOKENS,
    "output_tokens": semconv.GEN_AI_USAGE_OUTPUT_TOKENS,
    "cache_read_input_tokens": semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS,
    "cache_creation_input_tokens": semconv.GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS,
    "thinking_tokens": semconv.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS,
    "ephemeral_5m_input_tokens": semconv.ANTHROPIC_USAGE_EPHEMERAL_5M,
    "ephemeral_1h_input_tokens": semconv.ANTHROPIC_USAGE_EPHEMERAL_1H,
    "web_search_requests": semconv.ANTHROPIC_USAGE_WEB_SEARCH_REQUESTS,
}
COUNTERS = {
    "input_tokens+": "gen_ai.client.inference.usage.input_tokens",
    "output_tokens": "gen_ai.client.inference.usage.output_tokens",
    "cache_read_input_tokens": "gen_ai.client.inference.usage.cache_read.input_tokens",
    "cache_creation_input_tokens": "gen_ai.client.inference.usage.cache_write.input_tokens",
    "thinking_tokens": "gen_ai.client.inference.usage.reasoning.output_tokens",
}
RUN_TOKENS = {
    "input_tokens+": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_input_tokens": "cache_read",
    "ephemeral_5m_input_tokens": "ephemeral_5m_input_tokens",
    "ephemeral_1h_input_tokens": "ephemeral_1h_input_tokens",
    "thinking_tokens": "reasoning",
}
OUTCOMES = ("succeeded", "errored", "canceled", "expired")


def operation(spans: Iterable[CapturedSpan], name: str) -> list[CapturedSpan]:
    return [span for span in spans if span.attributes.get("gen_ai.operation.name") == name]


@pytest.mark.parametrize("count", [1, 137, 3000])
@pytest.mark.parametrize("cap", [0, 1, 50, None])
def test_sums_equal_the_truth(
    service: Service,
    make_requests: MakeRequests,
    cost_of: Cost,
    count: int,
    cap: int | None,
) -> None:
    results = service.executor(max_request_spans=cap).run(make_requests(count))
    service.flush()
    assert len(results) == count

    batch_id = results.batch_ids[0]
    truth = service.api.truth(batch_id)
    truth["input_tokens+"] = (
        truth["input_tokens"]
        + truth["cache_read_input_tokens"]
        + truth["cache_creation_input_tokens"]
    )
    if count == 3000:
        assert all(truth.values()), "the batch must hold every outcome and every token type"
    cost = math.fsum(map(cost_of, service.api.results(batch_id)))

    spans = service.otlp.unique_spans()
    assert len(spans) == len(service.otlp.spans)
    chats = operation(spans, "chat")
    for token, name in SPAN_TOKENS.items():
        assert sum(span.attributes.get(name, 0) for span in chats) == truth[token], name
    for token, name in COUNTERS.items():
        assert service.otlp.metric_sum(name) == truth[token], name
    totals = service.langsmith.usage_totals()
    for token, name in RUN_TOKENS.items():
        assert totals[name] == truth[token], name
    for told in (
        math.fsum(span.attributes.get("gen_ai.usage.cost", 0) for span in chats),
        service.otlp.metric_sum("gen_ai.usage.cost"),
        totals["total_cost"],
        totals["input_cost"] + totals["output_cost"],
    ):
        assert told == pytest.approx(cost, rel=0, abs=1e-9)

    runs = [run for run in service.langsmith.runs.values() if run["run_type"] == "llm"]
    for outcome in OUTCOMES:
        of_spans = [s.attributes for s in chats if s.attributes[semconv.BATCH_OUTCOME] == outcome]
        of_runs = [run["extra"]["metadata"] for run in runs]
        of_runs = [each for each in of_runs if each[semconv.BATCH_OUTCOME] == outcome]
        for carriers in (of_spans, of_runs):
            told = sum(each.get(semconv.BATCH_ROLLUP, 1) for each in carriers)
            assert told == truth[outcome]
        metric = service.otlp.metric_sum(
            semconv.METRIC_BATCH_REQUESTS, **{semconv.BATCH_OUTCOME: outcome}
        )
        assert metric == truth[outcome]

    requests = [span for span in chats if semconv.BATCH_CUSTOM_ID in span.attributes]
    assert len(requests) == (count if cap is None else min(cap, count))
    rollups = [span for span in chats if semconv.BATCH_ROLLUP in span.attributes]
    kinds = [
        (span.attributes.get("gen_ai.request.model"), span.attributes[semconv.BATCH_OUTCOME])
        for span in rollups
    ]
    assert len(kinds) == len(set(kinds))

    (batch,) = operation(spans, "batch")
    assert not [name for name in batch.attributes if name.startswith("gen_ai.usage.")]
    usage = {
        name.removeprefix("anthropic.message.batch.usage."): value
        for name, value in batch.attributes.items()
        if name.startswith("anthropic.message.batch.usage.")
    }
    assert usage == {
        "input_tokens": truth["input_tokens+"],
        "output_tokens": truth["output_tokens"],
        "cache_read.input_tokens": truth["cache_read_input_tokens"],
        "cache_write.input_tokens": truth["cache_creation_input_tokens"],
        "cache_creation.ephemeral_5m_input_tokens": truth["ephemeral_5m_input_tokens"],
        "cache_creation.ephemeral_1h_input_tokens": truth["ephemeral_1h_input_tokens"],
        "reasoning.output_tokens": truth["thinking_tokens"],
        "server_tool_use.web_search_requests": truth["web_search_requests"],
    }
    assert batch.attributes[semconv.BATCH_COST] == pytest.approx(cost, rel=0, abs=1e-9)
    for outcome in OUTCOMES:
        assert batch.attributes[f"anthropic.message.batch.{outcome}_count"] == truth[outcome]

    assert service.langsmith.refusals == []
    assert service.langsmith.conflicts == []
    assert service.langsmith.orphans() == []
    assert len(service.langsmith.runs) == len(chats) + 1


def test_the_cap_keeps_failures_first_and_never_depends_on_arrival(
    service: Service, make_requests: MakeRequests
) -> None:
    executor = service.executor(max_request_spans=20)
    (handle,) = executor.submit(make_requests(137))
    first = service.api.results(handle.id)
    failed = sum(line["result"]["type"] != "succeeded" for line in first)
    assert 0 < failed < 20
    list(executor.collect(handle))
    service.flush()
    before = {span.span_id: span.attributes for span in service.otlp.spans}
    kept = [each for each in before.values() if semconv.BATCH_CUSTOM_ID in each]
    assert sum(each[semconv.BATCH_OUTCOME] != "succeeded" for each in kept) == failed

    service.otlp.spans.clear()
    service.api.replace_results(handle.id, sorted(first, key=lambda line: str(line["custom_id"])))
    list(service.executor(max_request_spans=20).collect(handle.id))
    service.flush()
    after = {span.span_id: span.attributes for span in service.otlp.spans}
    assert after.keys() <= before.keys()
    # The requests' own parameters are known where the batch was submitted, and only there.
    for span_id, attributes in after.items():
        ours = before[span_id]
        for name in (*SPAN_TOKENS.values(), semconv.BATCH_CUSTOM_ID, semconv.BATCH_ROLLUP):
            assert attributes.get(name) == ours.get(name)


def test_a_burst_overruns_no_queue_of_a_slow_backend(
    service: Service, make_requests: MakeRequests
) -> None:
    service.otlp.fail_next(path="traces", delay=0.25, times=math.inf)
    service.executor(max_request_spans=None).run(make_requests(5000))
    service.flush()
    assert len(service.otlp.unique_spans()) == 5001
    assert len(service.langsmith.runs) == 5001


def test_a_backend_that_hangs_uses_up_the_patience_of_a_batch() -> None:
    released = threading.Event()
    pacer = Pacer(SimpleNamespace(force_flush=released.wait), patience=0.3)
    assert not pacer.drain()
    started = time.monotonic()
    assert not pacer.drain()
    assert time.monotonic() - started < 0.2
    released.set()
