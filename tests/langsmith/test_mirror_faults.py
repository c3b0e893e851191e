"""A fault inside the mirror is said once, counted as dropped, and never marked as exported."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from langsmith import Client
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from support import MakeRequests, Service

from otel_bridge import LangSmithSpanExporter, LangSmithSpanProcessor, Settings, semconv
from otel_bridge._core.json import as_number, dumps
from otel_bridge.langsmith import Delivery, mirroring
from otel_bridge.langsmith.runs import SpanView
from otel_bridge.simulator import LangSmithCapture, OtlpCapture

SURROGATE = "a lone \ud99c surrogate"
CHAT: dict[str, Any] = {
    semconv.GEN_AI_OPERATION_NAME: "chat",
    semconv.GEN_AI_PROVIDER_NAME: "anthropic",
    semconv.GEN_AI_REQUEST_MODEL: "claude-sonnet-4-5",
    semconv.GEN_AI_USAGE_INPUT_TOKENS: 1000,
    semconv.GEN_AI_USAGE_OUTPUT_TOKENS: 100,
}


@pytest.fixture
def delivery(langsmith: LangSmithCapture) -> Iterator[Delivery]:
    made = Delivery(
        Client(
            api_url=langsmith.url,
            api_key="test",
            tracing_mode="langsmith",
            auto_batch_tracing=False,
        )
    )
    yield made
    made.close(0.1)


class UniqueIds(RandomIdGenerator):
    """Hypothesis seeds the generator of random numbers anew for each example."""

    def generate_span_id(self) -> int:
        return secrets.randbits(64)


def provider_with(*processors: SpanProcessor) -> TracerProvider:
    provider = TracerProvider(id_generator=UniqueIds())
    for each in processors:
        provider.add_span_processor(each)
    return provider


@pytest.mark.parametrize(
    "unusable",
    [
        {"gen_ai.usage.cost": "0.1"},
        {"gen_ai.usage.cost": [0.1]},
        {"gen_ai.usage.cost": math.nan},
        {"gen_ai.usage.cost": True},
        {"gen_ai.usage.input_tokens": "12"},
        {"llm.cost.total": "0.1"},
        {"gen_ai.usage.cost": 10**400},
        {"gen_ai.response.id": {"a": 1}},
        {"note": SURROGATE},
        {"gen_ai.conversation.id": SURROGATE},
        {"gen_ai.request.model": SURROGATE},
        {"gen_ai.request.max_tokens": 2**70},
        {"anthropic.message.batch.rollup": 3, "gen_ai.usage.cost": "x"},
    ],
)
def test_a_run_arrives_without_what_cannot_be_used(
    langsmith: LangSmithCapture, delivery: Delivery, unusable: dict[str, Any]
) -> None:
    provider = provider_with(LangSmithSpanProcessor(delivery, Settings(state_dir=None)))
    provider.get_tracer("another").start_span("call", attributes=CHAT | unusable).end()
    assert delivery.flush(5)
    assert delivery.report.dropped == 0
    (run,) = langsmith.runs.values()
    if "gen_ai.usage.cost" in unusable and "gen_ai.request.model" not in unusable:
        usage = run["extra"]["metadata"]["usage_metadata"]
        assert usage["input_tokens"] == 1000
        assert usage["total_cost"] == pytest.approx(0.0045), "computed, since none can be read"


NAMES = st.sampled_from(
    sorted(
        {
            value
            for name, value in vars(semconv).items()
            if name.isupper() and isinstance(value, str) and "." in value
        }
        | {
            "llm.cost.total",
            "operation.cost",
            "llm.token_count.prompt",
            "llm.invocation_parameters",
            "input.value",
            "output.value",
            "gen_ai.usage.raw",
            "gen_ai.system",
            "session.id",
            "openinference.span.kind",
            "traceloop.span.kind",
        }
    )
)
TEXTS = st.text(st.characters(), max_size=20) | st.sampled_from(
    [
        "",
        "NaN",
        "{}",
        "[]",
        "null",
        '{"content": 1}',
        '{"messages": [1]}',
        "chat",
        "batch",
        SURROGATE,
    ]
)
NUMBERS = st.integers() | st.floats() | st.booleans()
VALUES = TEXTS | NUMBERS | st.lists(TEXTS, max_size=3) | st.lists(st.floats(), max_size=3)


@hypothesis_settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spans=st.lists(st.dictionaries(NAMES, VALUES, max_size=8), min_size=1, max_size=8))
def test_no_attribute_of_any_type_costs_a_run(
    langsmith: LangSmithCapture, delivery: Delivery, spans: list[dict[str, Any]]
) -> None:
    before = delivery.report
    posted = len(langsmith.runs)
    provider = provider_with(LangSmithSpanProcessor(delivery, Settings(state_dir=None)))
    tracer = provider.get_tracer("another")
    for attributes in spans:
        tracer.start_span("call", attributes={"gen_ai.system": "x"} | attributes).end()
    assert delivery.flush(5)
    assert delivery.report.dropped == before.dropped, delivery.report.reason
    assert langsmith.refusals == []
    assert len(langsmith.runs) == posted + len(spans)


Break = Callable[[str, int], None]


@pytest.fixture
def break_mirror(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Have the next `times` calls of a function of the mirror's fail."""

    def break_it(name: str, times: int) -> None:
        real = getattr(mirroring, name)
        left = [times]

        def function(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] >= 0:
                raise RuntimeError("a fault of the mirror")
            return real(*args, **kwargs)

        monkeypatch.setattr(mirroring, name, function)

    return break_it


SAID = "A span is not mirrored to LangSmith: RuntimeError: a fault of the mirror"


@pytest.mark.parametrize("function", ["open", "close"])
def test_a_fault_is_said_once_and_counted(
    delivery: Delivery,
    otlp: OtlpCapture,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    function: str,
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a fault of the mirror")

    monkeypatch.setattr(mirroring.Mirror, function, fail)
    exporter = OTLPMetricExporter(endpoint=f"{otlp.url}/v1/metrics")
    meters = MeterProvider([PeriodicExportingMetricReader(exporter, 600_000)])
    mirror = LangSmithSpanProcessor(delivery, Settings(state_dir=None), meters)
    tracer = provider_with(mirror).get_tracer("another")
    for _ in range(3):
        tracer.start_span("call", attributes=CHAT).end()
    assert caplog.text.count(SAID) == 1
    assert delivery.report.dropped == mirror.lost == 3
    assert delivery.report.reason == "RuntimeError: a fault of the mirror"
    meters.shutdown()
    dropped = {semconv.LANGSMITH_OUTCOME: "dropped"}
    assert otlp.metric_sum(semconv.METRIC_LANGSMITH_RUNS, **dropped) == 3


def test_a_fault_of_one_span_costs_the_exporter_no_other(
    langsmith: LangSmithCapture, delivery: Delivery, break_mirror: Break
) -> None:
    break_mirror("_is_foreign_call", 1)
    exporter = LangSmithSpanExporter(delivery, Settings(state_dir=None))
    tracer = provider_with(SimpleSpanProcessor(exporter)).get_tracer("another")
    for _ in range(3):
        tracer.start_span("call", attributes=CHAT).end()
    exporter.force_flush()
    assert delivery.report.dropped == 1
    assert len(langsmith.runs) == 2


def test_a_fault_of_one_span_costs_no_other_of_its_group(
    langsmith: LangSmithCapture, delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SpanView

    def view(span: ReadableSpan) -> Any:
        if span.name == "bad":
            raise RuntimeError("a fault of the mirror")
        return real(span)

    monkeypatch.setattr(mirroring, "SpanView", view)
    exporter = LangSmithSpanExporter(delivery, Settings(state_dir=None))
    kept = InMemorySpanExporter()
    tracer = provider_with(SimpleSpanProcessor(kept)).get_tracer("another")
    for name in ("good", "bad", "good", "bad"):
        tracer.start_span(name, attributes=CHAT).end()
    exporter.export(kept.get_finished_spans())
    exporter.force_flush()
    assert delivery.report.dropped == 2, "each counts once"
    assert [run["name"] for run in langsmith.runs.values()] == ["ChatAnthropic"] * 2


def test_runs_that_are_refused_and_kept_nowhere_are_lost(
    langsmith: LangSmithCapture, delivery: Delivery
) -> None:
    langsmith.fail_next("POST", status=400)
    mirror = LangSmithSpanProcessor(delivery, Settings(state_dir=None))
    provider_with(mirror).get_tracer("another").start_span("call", attributes=CHAT).end()
    assert delivery.flush(5)
    assert (delivery.report.refused, delivery.report.set_apart, mirror.lost) == (1, 0, 1)


@pytest.mark.parametrize("watched", [False, True])
def test_a_batch_that_met_a_fault_is_sent_again_when_it_is_collected_again(
    service: Service,
    make_requests: MakeRequests,
    instrument: Callable[..., None],
    tmp_path: Path,
    break_mirror: Break,
    caplog: pytest.LogCaptureFixture,
    watched: bool,
) -> None:
    requests = make_requests(5)
    if watched:
        instrument(state_dir=tmp_path)
        batch_id = service.client.messages.batches.create(requests=requests).id
        service.api.end(batch_id)
        service.client.messages.batches.retrieve(batch_id)
    else:
        executor = service.executor(state_dir=tmp_path)
        batch_id = executor.submit(requests)[0].id
    break_mirror("_is_foreign_call", 2)
    if watched:
        assert len(list(service.client.messages.batches.results(batch_id))) == 5
    else:
        assert len(list(executor.collect(batch_id))) == 5
    service.flush()
    assert f"Runs of batch {batch_id} did not all arrive" in caplog.text
    assert len(service.langsmith.runs) == 4, "the batch and three of its requests"
    assert len(list(service.executor(state_dir=tmp_path).collect(batch_id))) == 5
    service.flush()
    assert len(service.langsmith.runs) == 6
    posted = len(service.langsmith.requests)
    assert len(list(service.executor(state_dir=tmp_path).collect(batch_id))) == 5
    service.flush()
    assert len(service.langsmith.requests) == posted, "all of it is known to be there"


def test_a_span_without_a_name_costs_no_run_of_its_neighbours(
    langsmith: LangSmithCapture, delivery: Delivery
) -> None:
    provider = provider_with(LangSmithSpanProcessor(delivery, Settings(state_dir=None)))
    tracer = provider.get_tracer("another")
    for name in ("a", "", "b"):
        tracer.start_span(name, attributes={"gen_ai.operation.name": "invoke_agent"}).end()
    assert delivery.flush(5)
    assert sorted(run["name"] for run in langsmith.runs.values()) == ["a", "b", "unnamed"]


def test_numbers_and_json_take_anything() -> None:
    assert as_number(1) == 1
    assert all(as_number(each) is None for each in (-1, True, None, "1", math.inf, math.nan, [1]))
    assert dumps({}) == b"{}"
    assert dumps({"a": SURROGATE, "b": 2**70}) == (
        '{"a":"a lone \N{REPLACEMENT CHARACTER} surrogate","b":"1180591620717411303424"}'.encode()
    )


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    )
)
def test_whatever_json_there_is_is_encoded(value: Any) -> None:
    assert dumps(value).decode()
