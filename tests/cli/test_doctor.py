"""The doctor says what is configured, what answers and what is missing, and no secret."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from support import Command, MakeRequests

from otel_bridge.batches.api import skew
from otel_bridge.cli.doctor import skew_check
from otel_bridge.cli.variables import masked
from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer, OtlpCapture

DEAD = "http://127.0.0.1:9"
FILE = """
file_format: "1.0"
tracer_provider:
  processors:
    - batch: {{exporter: {{otlp_http: {{endpoint: {0}/v1/traces}}}}}}
meter_provider:
  readers:
    - periodic: {{exporter: {{otlp_http: {{endpoint: {0}/v1/metrics}}}}}}
"""
SECRET = "sk-ant-0123456789-abcdefgh-SECR"


def examined(bridge: Command) -> tuple[int, dict[tuple[str, str], dict[str, str]]]:
    ran = bridge("doctor", "--json")
    assert ran.stderr == ""
    told = json.loads(ran.stdout)
    assert told["status"] == ran.returncode
    return ran.returncode, {(each["group"], each["name"]): each for each in told["checks"]}


def test_all_is_well(
    bridge: Command, api: MessageBatchesServer, otlp: OtlpCapture, langsmith: LangSmithCapture
) -> None:
    bridge.environment |= {"ANTHROPIC_API_KEY": SECRET, "LANGSMITH_API_KEY": SECRET}
    bridge.environment["OTEL_EXPORTER_OTLP_HEADERS"] = f"authorization={SECRET}"
    status, checks = examined(bridge)
    assert status == 0
    for backend in ("Anthropic API", "clock", "OTLP", "LangSmith"):
        assert checks["backends", backend]["severity"] == "ok", checks["backends", backend]
    assert checks["state", "state directory"]["severity"] == "ok"
    assert checks["variables", "OTEL_BRIDGE_POLL_INTERVAL"]["detail"].startswith(
        "0.05, from the env"
    )
    assert checks["variables", "OTEL_BRIDGE_MAX_ATTEMPTS"]["detail"].startswith("default 1")
    assert checks["variables", "LANGSMITH_API_KEY"]["detail"].startswith("****SECR")
    assert "no prompt and no answer" in checks["what leaves", "LangSmith"]["detail"]
    assert SECRET not in str(checks)
    assert SECRET not in bridge("doctor").stdout
    assert [request.method for request in api.requests] == ["GET", "GET"]
    assert otlp.spans == []
    assert langsmith.runs == {}


@pytest.mark.parametrize(
    ("backend", "variable"),
    [
        ("Anthropic API", "ANTHROPIC_BASE_URL"),
        ("OTLP", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("LangSmith", "LANGSMITH_ENDPOINT"),
    ],
)
def test_what_does_not_answer_is_named(bridge: Command, backend: str, variable: str) -> None:
    bridge.environment[variable] = DEAD
    status, checks = examined(bridge)
    assert status == 1
    found = checks["backends", backend]
    assert found["severity"] == "failed"
    assert found["detail"].endswith(f"check {variable}")
    assert DEAD in found["detail"] or "127.0.0.1" in found["detail"]


def test_refused_keys_are_told_apart(
    bridge: Command, api: MessageBatchesServer, langsmith: LangSmithCapture
) -> None:
    api.api_key = langsmith.api_key = "another"
    status, checks = examined(bridge)
    assert status == 1
    assert "401 invalid x-api-key" in checks["backends", "Anthropic API"]["detail"]
    detail = checks["backends", "LangSmith"]["detail"]
    assert "HTTP 401" in detail
    assert detail.endswith("; check LANGSMITH_API_KEY")
    bridge.environment["ANTHROPIC_API_KEY"] = ""
    _, checks = examined(bridge)
    assert "set ANTHROPIC_API_KEY" in checks["backends", "Anthropic API"]["detail"]


def test_a_bad_value_is_worse(bridge: Command) -> None:
    bridge.environment |= {"OTEL_BRIDGE_MAX_COST": "much", "LANGCHAIN_PROJECT": "old"}
    bridge.environment["OTEL_BRIDGE_STATE_DIR"] = "/dev/null/x"
    status, checks = examined(bridge)
    assert status == 2
    assert checks["variables", "OTEL_BRIDGE_MAX_COST"]["severity"] == "wrong"
    assert "old, from LANGCHAIN_PROJECT" in checks["variables", "LANGSMITH_PROJECT"]["detail"]
    assert checks["state", "state directory"]["severity"] == "failed"


def test_what_is_off_is_skipped_and_what_conflicts_is_said(
    bridge: Command, otlp: OtlpCapture, langsmith: LangSmithCapture
) -> None:
    del bridge.environment["OTEL_EXPORTER_OTLP_ENDPOINT"]
    bridge.environment |= {
        "LANGSMITH_TRACING": "false",
        "LANGSMITH_OTEL_ENABLED": "true",
        "ANTHROPIC_OPEN_TELEMETRY_TRACES_CONTENT_MODE": "content",
    }
    status, checks = examined(bridge)
    assert status == 0
    assert checks["backends", "OTLP"]["severity"] == "skipped"
    assert checks["backends", "LangSmith"]["severity"] == "skipped"
    assert checks["what leaves", "OTLP"]["severity"] == "skipped"
    assert checks["what leaves", "Anthropic SDK"]["severity"] == "warning"
    assert checks["what leaves", "LANGSMITH_OTEL_ENABLED"]["severity"] == "warning"
    other = checks["versions", "opentelemetry-instrumentation-anthropic"]
    assert other["severity"] == "warning"
    assert otlp.requests == langsmith.requests == []


def test_clocks_are_compared() -> None:
    now = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    assert skew("Thu, 01 Jan 2026 00:00:00 GMT", now) == 60
    assert skew("", now) is None
    assert skew_check(60).detail.startswith("60 s ahead of")
    assert skew_check(-60).detail.startswith("60 s behind")
    assert skew_check(-1).severity == "ok"
    assert skew_check(None).severity == "skipped"


def test_no_secret_is_shown() -> None:
    assert masked("LANGSMITH_API_KEY", "short") == "****"
    assert masked("LANGSMITH_RUNS_ENDPOINTS", '{"https://host": "secret"}') == '****et"}'
    assert masked("X_HEADERS", "authorization=abcdefghijklmnop") == "****"
    assert masked("URL", "https://me:secret@host:1/x") == "https://****@host:1/x"
    assert masked("URL", "https://host/x") == "https://host/x"
    assert masked("URL", "https://host/x?key=secret") == "https://host/x?****"


def test_no_secret_is_shown_of_what_does_not_answer(bridge: Command) -> None:
    url = DEAD.replace("//", "//user:hunter2@") + "/x?token=hunter2"
    for backend in ("ANTHROPIC_BASE_URL", "LANGSMITH_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        bridge.environment[backend] = url
    for told in (bridge("doctor"), bridge("doctor", "--json")):
        assert told.returncode == 1
        assert "hunter2" not in told.stdout + told.stderr


class _Page(BaseHTTPRequestHandler):
    """A web page, whatever is asked for."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html></html>")

    def log_message(self, *_: Any) -> None: ...


def test_what_is_another_service_is_no_backend(bridge: Command) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        bridge.environment |= {"ANTHROPIC_BASE_URL": url, "LANGSMITH_ENDPOINT": url}
        status, checks = examined(bridge)
        server.shutdown()
    assert status == 1
    for backend, api in (
        ("Anthropic API", "the Message Batches API"),
        ("LangSmith", "LangSmith's"),
    ):
        assert f"what answers is not {api}" in checks["backends", backend]["detail"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http"),
        ("OTEL_TRACES_EXPORTER", "nowhere"),
        ("OTEL_BRIDGE_REDACTION", "no.such:hook"),
    ],
)
def test_what_a_run_refuses_is_wrong(bridge: Command, variable: str, value: str) -> None:
    bridge.environment[variable] = value
    ran = bridge("doctor", "--json")
    wrong = [each for each in json.loads(ran.stdout)["checks"] if each["severity"] == "wrong"]
    assert ran.returncode == 2
    assert [each["name"] for each in wrong] == [variable]
    assert value in wrong[0]["detail"]


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("OTEL_CONFIG_FILE", "nowhere.yaml", "nowhere.yaml"),
        ("OTEL_PYTHON_TRACER_PROVIDER", "bogus", "StopIteration"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "many", "OTEL_ATTRIBUTE_COUNT_LIMIT"),
    ],
)
def test_what_opentelemetry_refuses_is_wrong(
    bridge: Command, make_requests: MakeRequests, variable: str, value: str, told: str
) -> None:
    bridge.write(make_requests(1))
    bridge.environment[variable] = value
    status, checks = examined(bridge)
    assert status == 2
    assert checks["variables", "OTEL_*"]["severity"] == "wrong"
    ran = bridge("run", "requests.jsonl")
    assert ran.returncode == 2
    for text in (checks["variables", "OTEL_*"]["detail"], ran.stderr):
        assert "OpenTelemetry cannot be set up" in text
        assert told in text


def test_a_configuration_file_says_where_spans_go(bridge: Command, otlp: OtlpCapture) -> None:
    bridge.environment["OTEL_CONFIG_FILE"] = "otel.yaml"
    (bridge.folder / "otel.yaml").write_text(FILE.format(otlp.url))
    status, checks = examined(bridge)
    assert status == 0
    assert "OTEL_CONFIG_FILE" in checks["backends", "OTLP"]["detail"]
    assert otlp.requests == []


def test_an_endpoint_that_is_no_url_is_named(bridge: Command) -> None:
    bridge.environment["LANGSMITH_ENDPOINT"] = "localhost"
    status, checks = examined(bridge)
    assert status == 1
    assert "LANGSMITH_ENDPOINT is no URL" in checks["backends", "LangSmith"]["detail"]


def test_nothing_leaves_where_telemetry_is_off(bridge: Command) -> None:
    bridge.environment["OTEL_SDK_DISABLED"] = "true"
    _, checks = examined(bridge)
    for backend in ("OTLP", "LangSmith"):
        assert checks["what leaves", backend]["severity"] == "skipped"
