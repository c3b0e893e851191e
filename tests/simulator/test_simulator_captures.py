"""The capture backends take what the real exporters and clients send, and refuse the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from langsmith import Client, traceable, tracing_context, uuid7
from langsmith.utils import LangSmithAuthError, LangSmithConflictError, LangSmithError
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from support import eventually
from urllib3 import Retry

from otel_bridge.langsmith.multipart import RunUpdate, encode_body
from otel_bridge.simulator import LangSmithCapture, OtlpCapture
from otel_bridge.simulator.ingest import MAX_BODY_BYTES, RUNS_PER_TRACE, RefusedError, Runs

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
PROTOBUF = {"content-type": "application/x-protobuf"}
DELTA = dict.fromkeys((Counter, Histogram), AggregationTemporality.DELTA)
Run = dict[str, Any]


@contextmanager
def measuring(server: OtlpCapture, name: str, **options: Any) -> Iterator[tuple[Meter, Any]]:
    exporter = OTLPMetricExporter(endpoint=f"{server.url}/v1/metrics", **options)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=600_000)
    provider = MeterProvider([reader], resource=Resource({"service.name": name}))
    yield provider.get_meter("scope"), provider.force_flush
    provider.shutdown()


@pytest.mark.parametrize("compression", Compression)
def test_a_span_arrives_whole(otlp: OtlpCapture, compression: Compression) -> None:
    provider = TracerProvider(resource=Resource({"service.name": "shop"}))
    exporter = OTLPSpanExporter(endpoint=f"{otlp.url}/v1/traces", compression=compression)
    for _ in range(2):
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("scope")
    attributes: dict[str, Any] = {
        "text": "é",
        "flag": True,
        "number": -(2**53) - 1,
        "share": 0.1,
        "bytes": b"\x00\xff",
        "texts": ["a", "b"],
        "flags": [True, False],
        "numbers": [1, 2],
        "shares": [0.5, 1.5],
        "none": [],
    }
    with tracer.start_as_current_span("parent") as parent:
        child = tracer.start_span(
            "child", kind=SpanKind.CLIENT, attributes=attributes, start_time=5
        )
        child.add_event("happened", {"n": 1}, timestamp=6)
        child.set_status(Status(StatusCode.ERROR, "why"))
        child.end(7)
    provider.shutdown()

    assert len(otlp.spans) == 4, "two processors export each span"
    first, second = otlp.unique_spans()
    context = child.get_span_context()
    assert (first.name, first.kind, first.scope) == ("child", 3, "scope")
    assert first.trace_id == f"{context.trace_id:032x}" == second.trace_id
    assert first.span_id == f"{context.span_id:016x}"
    assert first.parent_span_id == f"{parent.get_span_context().span_id:016x}" == second.span_id
    assert (first.start_ns, first.end_ns) == (5, 7)
    assert first.attributes == attributes
    assert list(map(type, first.attributes.values())) == list(map(type, attributes.values()))
    assert first.events == (("happened", 6, {"n": 1}),)
    assert (first.status_code, first.status_message) == (2, "why")
    assert first.resource == {"service.name": "shop"}


@pytest.mark.parametrize("temporality", [None, DELTA])
def test_metrics_add_up_over_exports_and_providers(otlp: OtlpCapture, temporality: Any) -> None:
    for name in ("a", "b"):
        with measuring(otlp, name, preferred_temporality=temporality) as (meter, flush):
            counter = meter.create_counter("spent", unit="USD")
            bounds = [1.0, 10.0]
            histogram = meter.create_histogram("size", explicit_bucket_boundaries_advisory=bounds)
            counter.add(0.25, {"kind": "x"})
            histogram.record(5, {"kind": "x"})
            flush()
            flush()
            counter.add(0.5, {"kind": "x"})
            counter.add(4, {"kind": "y"})
            histogram.record(50, {"kind": "x"})
            flush()
    assert otlp.metric_sum("spent", kind="x") == 1.5
    assert otlp.metric_sum("spent") == 9.5
    assert otlp.metric_sum("size", kind="x") == 110
    assert otlp.metric_count("size") == 4
    assert otlp.metric_count("size", kind="y") == 0
    points = otlp.metric_points("size")
    assert {point.bounds for point in points} == {(1.0, 10.0)}
    assert [sum(each) for each in zip(*(p.buckets for p in points), strict=True)] == [0, 2, 2]
    assert {point.unit for point in otlp.metric_points("spent")} == {"USD"}


def test_an_exponential_histogram_keeps_its_sum_and_count(otlp: OtlpCapture) -> None:
    exponential = {Histogram: ExponentialBucketHistogramAggregation()}
    with measuring(otlp, "a", preferred_aggregation=exponential) as (meter, _):
        meter.create_histogram("size").record(3)
    assert (otlp.metric_sum("size"), otlp.metric_count("size")) == (3, 1)
    assert otlp.refusals == []


@pytest.mark.parametrize("signal", ["traces", "metrics"])
def test_what_is_no_protobuf_is_refused(otlp: OtlpCapture, signal: str) -> None:
    url = f"{otlp.url}/v1/{signal}"
    assert httpx2.post(url, content=b"\xff\xff", headers=PROTOBUF).status_code == 400
    assert httpx2.post(url, json={}).status_code == 415
    assert len(otlp.refusals) == 2
    assert httpx2.post(f"{otlp.url}/elsewhere", headers=PROTOBUF).status_code == 404
    assert httpx2.post(url, content=b"", headers=PROTOBUF).status_code == 200
    assert otlp.spans == []


@contextmanager
def connected(server: LangSmithCapture, **options: Any) -> Iterator[Client]:
    defaults = {"api_key": "test", "tracing_mode": "langsmith", "retry_config": Retry(total=0)}
    client = Client(api_url=server.url, **{**defaults, "auto_batch_tracing": False, **options})
    yield client
    client.flush()
    client.close()


@pytest.fixture
def client(langsmith: LangSmithCapture) -> Iterator[Client]:
    with connected(langsmith) as one:
        yield one


def run(parent: Run | None = None, *, after: float = 0, **changes: Any) -> Run:
    """A valid run that starts `after` seconds, but for the changes."""
    start = START + timedelta(seconds=after)
    run_id = changes.get("id") or str(uuid7())
    segment = f"{start:%Y%m%dT%H%M%S%fZ}{run_id}"
    return {
        "id": run_id,
        "trace_id": parent["trace_id"] if parent else run_id,
        "parent_run_id": parent["id"] if parent else None,
        "dotted_order": f"{parent['dotted_order']}.{segment}" if parent else segment,
        "name": "work",
        "run_type": "chain",
        "start_time": start.isoformat(),
        "session_name": "project",
        "inputs": {},
    } | changes


def send(client: Client, *runs: Run, verb: Any = "post", zstd: bool = False) -> None:
    body = encode_body([RunUpdate.from_run(verb, each) for each in runs], "1")
    body = body if zstd else body.uncompressed()
    request: dict[str, Any] = {"data": body.data, "headers": body.headers, "timeout": (3, 10)}
    client.request_with_retries("POST", "/runs/multipart", request_kwargs=request)


@pytest.mark.parametrize("zstd", [True, False])
def test_the_sdks_own_client_is_taken(zstd: bool) -> None:
    with (
        LangSmithCapture(zstd=zstd) as server,
        connected(server, auto_batch_tracing=True) as client,
    ):

        @traceable(client=client, run_type="llm", project_name="mine")
        def answer(question: str) -> dict[str, str]:
            return {"answer": question}

        @traceable(client=client, project_name="mine")
        def work() -> None:
            answer("why")
            raise RuntimeError("broken")

        # The client's thread turns compression on when it has read /info.
        eventually(lambda: not zstd or client.compressed_traces is not None)
        with tracing_context(enabled=True), pytest.raises(RuntimeError):
            work()
        client.flush()
        assert (server.refusals, server.conflicts, server.orphans()) == ([], [], [])
        runs = {each["name"]: each for each in server.runs.values()}
        assert runs["answer"]["parent_run_id"] == runs["work"]["id"] == runs["work"]["trace_id"]
        assert runs["answer"]["outputs"] == {"answer": "why"}
        assert runs["answer"]["end_time"] >= runs["answer"]["start_time"]
        assert "broken" in runs["work"]["error"]
        assert {each["session_name"] for each in runs.values()} == {"mine"}
        posts = [each for each in server.requests if each.method == "POST"]
        assert {each.path for each in posts} == {"/runs/multipart"}
        encodings = {each.headers.get("content-encoding") for each in posts}
        assert encodings == {"zstd" if zstd else None}


def test_info_tells_what_is_taken(langsmith: LangSmithCapture, client: Client) -> None:
    assert client.info.instance_flags == {"zstd_compression_enabled": True}
    config = client.info.batch_ingest_config
    assert config is not None
    assert config["use_multipart_endpoint"] is True
    assert config["size_limit_bytes"] == MAX_BODY_BYTES
    assert langsmith.runs == {}


def test_runs_are_taken_one_by_one_and_in_batches(
    langsmith: LangSmithCapture, client: Client
) -> None:
    single, first, second = run(), run(), run()
    place = {name: single[name] for name in ("trace_id", "dotted_order")}
    client.create_run(**single | {"start_time": START})
    client.update_run(single["id"], outputs={"done": 1}, end_time=START, **place)
    client.batch_ingest_runs(create=[dict(first)], update=[second | {"outputs": {"done": 2}}])
    assert [each.path for each in langsmith.requests if each.method != "GET"] == [
        "/runs",
        f"/runs/{single['id']}",
        "/runs/batch",
    ]
    assert [verb for _, verb, _ in langsmith.history] == ["post", "patch", "post", "patch"]
    assert langsmith.runs[single["id"]]["outputs"] == {"done": 1}
    assert langsmith.runs[first["id"]]["name"] == "work"
    assert langsmith.runs[second["id"]]["outputs"] == {"done": 2}
    assert (langsmith.refusals, langsmith.orphans()) == ([], [second["id"]])


@pytest.mark.parametrize("zstd", [True, False])
def test_a_multipart_body_is_taken_and_its_parts_put_together(
    langsmith: LangSmithCapture, client: Client, zstd: bool
) -> None:
    root = run(inputs={"a": 1}, extra={"metadata": {"b": 2}}, error="c")
    child = run(root, after=1)
    send(client, root, child, zstd=zstd)
    ending = {name: child[name] for name in ("id", "trace_id", "parent_run_id", "dotted_order")}
    send(client, ending | {"outputs": {"d": 3}}, verb="patch", zstd=zstd)
    assert langsmith.runs[root["id"]] == {k: v for k, v in root.items() if v is not None}
    assert langsmith.runs[child["id"]] == child | {"outputs": {"d": 3}}


ROOT = run()
CHILD = run(ROOT, after=1)
REFUSED: dict[str, tuple[Run, str]] = {
    "an id that is no UUIDv7": (run(id=str(uuid4())), "id is no UUIDv7"),
    "an id that is no UUID": (run(id="abc"), "malformed"),
    "a root of another trace": (run(trace_id=str(uuid7())), "a root's trace_id is its id"),
    "a child of another trace": (CHILD | {"trace_id": str(uuid7())}, "outside its trace"),
    "another run's order": (run(dotted_order=ROOT["dotted_order"]), "ends with another run"),
    "a malformed order": (run(dotted_order="x"), "malformed"),
    "a child before its parent": (run(ROOT, after=-1), "starts before its parent"),
    "another start in the order": (run(start_time=START.replace(year=2025)), "differ"),
    "another parent": (CHILD | {"parent_run_id": str(uuid7())}, "is not dotted_order's"),
    "another parent's order": (
        run(run(id=ROOT["id"], after=-1), after=2),
        "does not extend its parent's",
    ),
    "no project": (run(session_name=None), "session_name is missing"),
    "no name": (run(name=None), "name is missing"),
    "an unknown type": (run(run_type="agent"), "run_type 'agent' is unknown"),
    "an end before the start": (run(end_time="2025-01-01T00:00:00"), "ends before it starts"),
}


@pytest.mark.parametrize(("refused", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_run_is_refused_for(
    langsmith: LangSmithCapture, client: Client, refused: Run, reason: str
) -> None:
    send(client, ROOT)
    with pytest.raises(LangSmithError, match=r"400|422"):
        send(client, refused)
    assert reason in langsmith.refusals[0]
    assert list(langsmith.runs) == [ROOT["id"]]
    assert len(langsmith.history) == 1


def test_a_patch_that_ends_before_the_start_changes_nothing(
    langsmith: LangSmithCapture, client: Client
) -> None:
    send(client, ROOT)
    with pytest.raises(LangSmithError, match="422"):
        send(client, ROOT | {"end_time": "2025-01-01T00:00:00"}, verb="patch")
    assert "end_time" not in langsmith.runs[ROOT["id"]]


def test_a_body_is_measured_before_compression(langsmith: LangSmithCapture, client: Client) -> None:
    with pytest.raises(LangSmithError, match="413"):
        send(client, run(inputs={"text": "x" * MAX_BODY_BYTES}), zstd=True)
    assert len(langsmith.refusals) == 1
    assert langsmith.runs == {}


@pytest.mark.parametrize("content", [b"", b"no parts", b"--b\r\nhalf a part"])
def test_a_body_that_is_not_whole_is_refused(langsmith: LangSmithCapture, content: bytes) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b", "x-api-key": "test"}
    answer = httpx2.post(f"{langsmith.url}/runs/multipart", content=content, headers=headers)
    assert answer.status_code == 422


def test_a_trace_holds_25_000_runs() -> None:
    runs = Runs()
    root = run()
    runs.post(root)
    for _ in range(RUNS_PER_TRACE - 1):
        runs.post(run(root))
    with pytest.raises(RefusedError, match="25000 runs already") as caught:
        runs.post(run(root))
    assert caught.value.status == 400
    runs.post(run())
    assert len(runs.merged) == 25_001


def test_a_repeat_is_a_conflict_and_the_rest_of_its_body_is_taken(
    langsmith: LangSmithCapture, client: Client
) -> None:
    send(client, ROOT)
    with pytest.raises(LangSmithConflictError):
        send(client, ROOT, CHILD)
    assert langsmith.conflicts == [ROOT["id"]]
    assert langsmith.refusals == []
    assert set(langsmith.runs) == {ROOT["id"], CHILD["id"]}


def test_only_the_right_key_is_taken() -> None:
    with LangSmithCapture(api_key="right") as server:
        for key in ("wrong", ""):
            with connected(server, api_key=key) as client, pytest.raises(LangSmithAuthError):
                send(client, run())
        assert server.runs == {}
        with connected(server, api_key="right") as client:
            send(client, run())


def test_zstd_is_refused_where_info_does_not_offer_it() -> None:
    with LangSmithCapture(zstd=False) as server, connected(server) as client:
        assert client.info.instance_flags == {"zstd_compression_enabled": False}
        with pytest.raises(LangSmithError, match="422"):
            send(client, run(), zstd=True)
        assert server.runs == {}


def test_a_run_without_its_post_or_its_parents_is_an_orphan(
    langsmith: LangSmithCapture, client: Client
) -> None:
    send(client, CHILD)
    send(client, ROOT | {"outputs": {}}, verb="patch")
    assert set(langsmith.orphans()) == {ROOT["id"], CHILD["id"]}
    send(client, ROOT)
    assert langsmith.orphans() == []


def test_usage_is_read_from_the_outputs_before_the_metadata(
    langsmith: LangSmithCapture, client: Client
) -> None:
    def usage(tokens: int) -> dict[str, Any]:
        told: dict[str, Any] = {"input_tokens": tokens, "output_tokens": 3, "total_cost": 0.5}
        told["input_token_details"] = {"cache_read": 1, "ephemeral_1h_input_tokens": 2}
        return {"usage_metadata": told | {"output_token_details": {"reasoning": 2}}}

    send(
        client,
        run(run_type="llm", extra={"metadata": usage(10)}),
        run(run_type="llm", extra={"metadata": usage(10)}, outputs=usage(100)),
        run(run_type="llm", outputs={}),
        run(run_type="chain", outputs=usage(1000)),
    )
    totals = {name: value for name, value in langsmith.usage_totals().items() if value}
    assert totals == {
        "input_tokens": 110,
        "output_tokens": 6,
        "cache_read": 2,
        "ephemeral_1h_input_tokens": 4,
        "reasoning": 4,
        "total_cost": 1.0,
    }
    assert langsmith.usage_totals("chain")["input_tokens"] == 1000


@contextmanager
def tracing(server: LangSmithCapture, **headers: str) -> Iterator[TracerProvider]:
    """Real OTLP exports of one span each, in order of their ends: children before parents."""
    exporter = OTLPSpanExporter(
        endpoint=f"{server.url}/otel/v1/traces",
        headers={"x-api-key": "test", **headers},
        compression=Compression.Gzip,
    )
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


def test_spans_over_otlp_become_runs_as_soon_as_their_parents_are_there(
    langsmith: LangSmithCapture,
) -> None:
    with tracing(langsmith, **{"Langsmith-Project": "mine"}) as provider:
        tracer = provider.get_tracer("scope")
        with tracer.start_as_current_span("work"), tracer.start_as_current_span("inner"):
            chat = tracer.start_span("chat m", kind=SpanKind.CLIENT)
            chat.set_attributes(
                {
                    "gen_ai.operation.name": "chat",
                    "gen_ai.system": "anthropic",
                    "gen_ai.request.model": "m",
                    "gen_ai.usage.input_tokens": 3,
                    "gen_ai.input.messages": '[{"role": "user"}]',
                    "gen_ai.completion": '{"text": "yes"}',
                }
            )
            chat.set_status(Status(StatusCode.ERROR, "why"))
            chat.end()
            assert langsmith.runs == {}
            assert [span.name for span in langsmith.waiting_spans] == ["chat m"]
    runs = {each["name"]: each for each in langsmith.runs.values()}
    assert set(runs) == {"work", "inner", "chat m"}
    assert (langsmith.refusals, langsmith.orphans(), langsmith.waiting_spans) == ([], [], [])
    assert runs["chat m"]["parent_run_id"] == runs["inner"]["id"]
    assert runs["inner"]["parent_run_id"] == runs["work"]["id"] == runs["work"]["trace_id"]
    assert runs["chat m"]["trace_id"] == runs["work"]["id"]
    assert {run["session_name"] for run in runs.values()} == {"mine"}
    assert [runs[name]["run_type"] for name in ("work", "chat m")] == ["chain", "llm"]
    assert runs["chat m"]["error"] == "why"
    assert runs["chat m"]["inputs"] == {"messages": [{"role": "user"}]}
    assert runs["chat m"]["outputs"] == {"text": "yes"}
    assert runs["chat m"]["extra"]["metadata"] == {
        "ls_provider": "anthropic",
        "ls_model_name": "m",
        "usage_metadata": {"input_tokens": 3},
    }
    assert {each.headers["content-encoding"] for each in langsmith.requests} == {"gzip"}


def test_langsmith_attributes_of_a_span_come_before_its_own(langsmith: LangSmithCapture) -> None:
    root = run(name="root", end_time=START.isoformat())
    child = run(root, after=1)
    stamps = {
        "langsmith.span.id": child["id"],
        "langsmith.trace.id": child["trace_id"],
        "langsmith.span.parent_id": root["id"],
        "langsmith.span.dotted_order": child["dotted_order"],
        "langsmith.trace.session_name": "project",
        "langsmith.trace.name": "ChatAnthropic",
        "langsmith.span.kind": "LLM",
        "langsmith.span.tags": "a, b",
        "langsmith.metadata.batch_id": "msgbatch_1",
        "langsmith.usage_metadata": '{"input_tokens": 10, "total_cost": 0.5}',
        "gen_ai.usage.input_tokens": 3,
    }
    with tracing(langsmith) as provider, connected(langsmith) as client:
        tracer = provider.get_tracer("scope")
        with tracer.start_as_current_span("unmirrored"):
            tracer.start_span("chat m", attributes=stamps).end()
        assert [each["name"] for each in langsmith.runs.values()] == ["unmirrored"]
        send(client, root)
        tracer.start_span("something", attributes={"langsmith.span.tags": ["c"]}).end()
    mirrored = langsmith.runs[child["id"]]
    assert {name: mirrored[name] for name in ("trace_id", "parent_run_id", "dotted_order")} == {
        name: child[name] for name in ("trace_id", "parent_run_id", "dotted_order")
    }
    assert (mirrored["name"], mirrored["run_type"]) == ("ChatAnthropic", "llm")
    assert (mirrored["session_name"], mirrored["tags"]) == ("project", ["a", "b"])
    assert datetime.fromisoformat(mirrored["start_time"]) == START + timedelta(seconds=1)
    assert mirrored["extra"]["metadata"] == {
        "batch_id": "msgbatch_1",
        "usage_metadata": {"input_tokens": 10, "total_cost": 0.5},
    }
    assert langsmith.usage_totals()["total_cost"] == 0.5
    assert langsmith.refusals == []


def test_spans_over_otlp_are_refused_without_a_key_and_runs_as_everywhere(
    langsmith: LangSmithCapture,
) -> None:
    url = f"{langsmith.url}/otel/v1/traces"
    key = {"x-api-key": "test"}
    assert httpx2.post(url, content=b"", headers=PROTOBUF).status_code == 401
    assert httpx2.post(url, json={}, headers=key).status_code == 415
    assert httpx2.post(url, content=b"\xff", headers=PROTOBUF | key).status_code == 422
    with tracing(langsmith) as provider:
        tracer = provider.get_tracer("scope")
        for stamp in ({"langsmith.span.id": str(uuid4())}, {"langsmith.span.kind": "agent"}):
            tracer.start_span("bad", attributes=stamp).end()
    assert langsmith.runs == {}
    reasons = langsmith.refusals[-2:]
    assert "no UUIDv7" in reasons[0]
    assert "unknown" in reasons[1]
