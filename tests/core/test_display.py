"""What is shown of an endpoint, or of what others say, holds no secret of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Command, MakeRequests

from otel_bridge._core.display import safe_endpoint, safe_text
from otel_bridge.langsmith import Delivery
from otel_bridge.simulator import LangSmithCapture, OtlpCapture

SECRET = "hunter2-secret"


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("https://api.smith.langchain.com", "https://api.smith.langchain.com"),
        ("https://host:8443/api/v1", "https://host:8443/api/v1"),
        (f"https://user:{SECRET}@host/api", "https://****@host/api"),
        (f"https://{SECRET}@host", "https://****@host"),
        (f"https://user:pa/ss@{SECRET}@host/api", "https://****@host/api"),
        (f"https://host/v1?api-key={SECRET}", "https://host/v1?****"),
        (f"https://host/v1#{SECRET}", "https://host/v1#****"),
        ("collector:4317", "collector:4317"),
        (f"user:{SECRET}@collector:4317", "****@collector:4317"),
        (f"collector:4317?key={SECRET}", "collector:4317?****"),
        (f"u:pa/ss{SECRET}@collector:4317", "****@collector:4317"),
        (f"https://u:it's \"{SECRET}<>@host", "https://****@host"),
        (f"https://host/path?next={SECRET}@x", "https://****@x"),
        (f"http://user%3A{SECRET}%40host:9/", "http://****@host:9/"),
        (f"http://host/%3Fkey={SECRET}", "http://host/%****"),
        (f"http:///user:{SECRET}@host/", "http:///****@host/"),
        (f"http://host/p;key={SECRET}", "http://host/p;****"),
        (f"//user:{SECRET}@host", "****@host"),
        ("http://[::1]:4318", "http://[::1]:4318"),
        ("http://host/\x1b[31m", "http://host/\N{REPLACEMENT CHARACTER}[31m"),
    ],
)
def test_an_endpoint_is_shown_without_its_secrets(endpoint: str, shown: str) -> None:
    assert safe_endpoint(endpoint) == shown
    assert safe_endpoint(shown) == shown


TOKENS = st.text("abcXYZ019-._~%!$&*+,;:/'\"<>", min_size=1).map(lambda each: SECRET + each)


@given(user=TOKENS, password=TOKENS, query=TOKENS, fragment=TOKENS)
def test_no_secret_of_any_url_is_shown(user: str, password: str, query: str, fragment: str) -> None:
    url = f"https://{user}:{password}@host:1/path?key={query}#{fragment}"
    assert SECRET not in safe_endpoint(url)
    said = safe_text(f"Max retries exceeded with url: {url} (caused by a fault)")
    assert SECRET not in said
    assert said.endswith(" (caused by a fault)")
    assert "host:1/path" in safe_text(f"at {url}")


def test_text_of_others_is_one_bounded_line() -> None:
    shown = safe_text(f"<html>\n  a \x1b[2J b\r\n/v1/traces?key={SECRET} (Caused)" + "x" * 1000)
    assert shown.startswith("<html> a \N{REPLACEMENT CHARACTER}[2J b /v1/traces?**** (Caused)")
    assert len(shown) == 200
    assert safe_text("is it? yes, and #2 too") == "is it? yes, and #2 too"
    assert (
        safe_text(f"no route to /v1/traces?{SECRET} (why?)") == "no route to /v1/traces?**** (why?)"
    )


@pytest.fixture
def secretive(bridge: Command, langsmith: LangSmithCapture, otlp: OtlpCapture) -> Any:
    """The command with a password and a key in its endpoints, where nothing answers any more."""
    for name, url in (
        ("LANGSMITH_ENDPOINT", langsmith.url),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url),
    ):
        host = url.removeprefix("http://")
        bridge.environment[name] = f"http://user:{SECRET}@{host}/x?key={SECRET}"
    langsmith.refuse_all(503)
    otlp.refuse_all(400)
    return bridge


def test_commands_show_no_secret_of_an_endpoint(
    secretive: Any, make_requests: MakeRequests
) -> None:
    file = secretive.write(make_requests(2))
    for arguments in (
        ("run", file, "--json"),
        ("run", file, "--new", "-o", "results.jsonl"),
        ("replay",),
        ("replay", "--json"),
        ("doctor",),
        ("doctor", "--json"),
        ("demo", "--otlp"),
    ):
        ran = secretive(*arguments)
        assert SECRET not in ran.stdout + ran.stderr, arguments
    spooled = list(secretive.folder.glob("state/spool/*/*.json"))
    assert spooled, "the runs wait"
    assert all(SECRET not in json.loads(each.read_bytes())["api_url"] for each in spooled)


def test_a_delivery_warns_without_a_secret(
    langsmith: LangSmithCapture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host = langsmith.url.removeprefix("http://")
    monkeypatch.setenv("LANGSMITH_ENDPOINT", f"http://user:{SECRET}@{host}")
    langsmith.refuse_all(503)
    delivery = Delivery()
    assert delivery.endpoint == f"http://****@{host}"
    from otel_bridge.langsmith.multipart import RunUpdate  # noqa: PLC0415

    delivery.submit(RunUpdate.from_run("post", {"id": "1"}))
    delivery.flush(2)
    delivery.close(0.1)
    assert f"LangSmith at http://****@{host} does not take runs" in caplog.text
    assert SECRET not in caplog.text
