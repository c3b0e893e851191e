"""Keys stay with the host that was asked, and only that host's own answer is a delivery."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anthropic
import pytest
from langsmith import Client
from support import Command, MakeRequests
from urllib3 import Retry

from otel_bridge import (
    AsyncBatchExecutor,
    BatchError,
    BatchExecutor,
    Settings,
    SubmissionAmbiguousError,
)
from otel_bridge.batches import api as anthropic_api
from otel_bridge.batches import reconciling
from otel_bridge.errors import BridgeError, DeliveryError
from otel_bridge.langsmith import Delivery
from otel_bridge.langsmith import client as langsmith_client
from otel_bridge.langsmith.client import connect
from otel_bridge.langsmith.multipart import RunUpdate
from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer, OtlpCapture

REDIRECTS = (301, 302, 303, 307, 308)


@pytest.fixture
def elsewhere() -> Iterator[LangSmithCapture]:
    """The host to which a redirect leads; it would take runs."""
    with LangSmithCapture() as server:
        yield server


@pytest.fixture
def own_client(langsmith: LangSmithCapture, monkeypatch: pytest.MonkeyPatch) -> Client:
    """The client that the package makes itself from the environment."""
    monkeypatch.setenv("LANGSMITH_ENDPOINT", langsmith.url)
    monkeypatch.setenv("LANGSMITH_API_KEY", "the-key")
    return connect()


def users_client(langsmith: LangSmithCapture) -> Client:
    """A client of the user's, whose session follows redirects."""
    return Client(
        api_url=langsmith.url,
        api_key="the-key",
        tracing_mode="langsmith",
        auto_batch_tracing=False,
        retry_config=Retry(total=0),
    )


def update() -> RunUpdate:
    run_id = "01990000-0000-7000-8000-000000000001"
    return RunUpdate.from_run(
        "post",
        {
            "id": run_id,
            "trace_id": run_id,
            "dotted_order": f"20250901T000000000000Z{run_id}",
            "start_time": "2025-09-01T00:00:00.000000+00:00",
            "name": "x",
            "run_type": "llm",
            "session_name": "p",
        },
    )


@pytest.mark.parametrize("status", REDIRECTS)
def test_runs_and_their_key_follow_no_redirect_and_arrive_later(
    langsmith: LangSmithCapture,
    elsewhere: LangSmithCapture,
    own_client: Client,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    langsmith.redirect_all(elsewhere.url, status)
    delivery = Delivery(own_client)
    try:
        delivery.submit(update())
        assert not delivery.flush(3)
        assert elsewhere.requests == []
        assert (delivery.report.sent, delivery.report.held_back) == (0, 1)
        assert delivery.report.reason == (
            f"HTTP {status}, a redirect to {elsewhere.url}/info, not followed"
        )
        assert "does not take runs: HTTP" in caplog.text
        langsmith.recover()
        assert delivery.flush(5)
        assert delivery.report.sent == 1
        assert len(langsmith.runs) == 1
    finally:
        delivery.close(0.1)


@pytest.mark.parametrize("status", REDIRECTS)
def test_a_client_of_the_users_own_delivers_by_no_redirect_either(
    langsmith: LangSmithCapture, elsewhere: LangSmithCapture, status: int
) -> None:
    langsmith.fail_next("POST", status=status, location=elsewhere.url, times=float("inf"))
    delivery = Delivery(users_client(langsmith))
    try:
        delivery.submit(update())
        assert not delivery.flush(3)
        assert elsewhere.requests == []
        assert delivery.report.sent == 0
    finally:
        delivery.close(0.1)


@pytest.mark.parametrize("path", ["/info", "multipart"])
def test_a_log_in_page_is_no_delivery(
    langsmith: LangSmithCapture, own_client: Client, path: str
) -> None:
    page = b"<!DOCTYPE html><html>Log in</html>"
    langsmith.fail_next(path=path, status=200, body=page, times=float("inf"))
    delivery = Delivery(own_client)
    try:
        delivery.submit(update())
        assert not delivery.flush(3)
        assert (delivery.report.sent, delivery.report.held_back) == (0, 1)
        assert (delivery.report.reason or "").startswith(
            "HTTP 200, but what answers is not LangSmith's API: <!DOCTYPE html>"
        )
        langsmith.recover()
        assert delivery.flush(5)
        assert len(langsmith.runs) == 1
    finally:
        delivery.close(0.1)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"message": "Runs batch ingested"}'])
def test_an_empty_or_json_success_is_a_delivery(
    langsmith: LangSmithCapture, own_client: Client, body: bytes
) -> None:
    langsmith.fail_next("POST", status=202, body=body)
    delivery = Delivery(own_client)
    try:
        delivery.submit(update())
        assert delivery.flush(3)
        assert delivery.report.sent == 1
    finally:
        delivery.close(0.1)


def test_the_links_to_runs_ask_no_other_host(
    langsmith: LangSmithCapture, elsewhere: LangSmithCapture, own_client: Client
) -> None:
    delivery = Delivery(own_client)
    langsmith.redirect_all(elsewhere.url)
    assert delivery.run_url("an-id", "default") is None
    assert elsewhere.requests == []
    delivery.close(0.1)


@pytest.mark.usefixtures("own_client")
def test_the_probe_of_langsmith_names_the_redirect(
    langsmith: LangSmithCapture, elsewhere: LangSmithCapture
) -> None:
    langsmith.redirect_all(elsewhere.url)
    with pytest.raises(DeliveryError, match=r"a redirect to .* check LANGSMITH_ENDPOINT"):
        langsmith_client.probe()
    langsmith.recover()
    langsmith.show_log_in_page()
    with pytest.raises(DeliveryError, match=r"not LangSmith's API.* check LANGSMITH_ENDPOINT"):
        langsmith_client.probe()
    assert elsewhere.requests == []


@pytest.fixture
def other_api() -> Iterator[MessageBatchesServer]:
    """The host to which a redirect of the Anthropic API leads."""
    with MessageBatchesServer(batch_seconds=0.05) as server:
        yield server


SETTINGS = Settings(poll_interval=0.02, poll_max_interval=0.05, state_dir=None)


@pytest.mark.parametrize("status", REDIRECTS)
def test_the_anthropic_key_follows_no_redirect(
    api: MessageBatchesServer,
    other_api: MessageBatchesServer,
    make_requests: MakeRequests,
    status: int,
) -> None:
    with anthropic.Anthropic(base_url=api.url, api_key="the-key", max_retries=0) as client:
        executor = BatchExecutor(client, settings=SETTINGS)
        batch_id = executor.submit(make_requests(2))[0].id
        api.redirect_all(other_api.url, status)
        with pytest.raises(BatchError, match=f"{status}, a redirect to {other_api.url}"):
            executor.submit(make_requests(3))
        for call in (
            lambda: executor.describe(batch_id),
            lambda: executor.cancel(batch_id),
            lambda: list(executor.collect(batch_id)),
            lambda: executor.estimate(make_requests(1)),
        ):
            with pytest.raises(BridgeError, match="a redirect to"):
                call()
        assert other_api.requests == []
        api.recover()
        assert len(list(executor.collect(batch_id))) == 2, "what was paid for is still there"


async def test_the_async_executor_follows_no_redirect(
    api: MessageBatchesServer, other_api: MessageBatchesServer, make_requests: MakeRequests
) -> None:
    async with anthropic.AsyncAnthropic(
        base_url=api.url, api_key="the-key", max_retries=0
    ) as client:
        executor = AsyncBatchExecutor(client, settings=SETTINGS)
        batch_id = (await executor.submit(make_requests(2)))[0].id
        api.redirect_all(other_api.url)
        with pytest.raises(BridgeError, match="a redirect to"):
            await executor.submit(make_requests(3))
        with pytest.raises(BridgeError, match="a redirect to"):
            await executor.describe(batch_id)
        assert other_api.requests == []
        api.recover()
        assert len([each async for each in executor.collect(batch_id)]) == 2


def test_the_probe_of_the_anthropic_api_names_the_redirect(
    api: MessageBatchesServer, other_api: MessageBatchesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "the-key")
    api.redirect_all(other_api.url)
    with pytest.raises(BridgeError, match=r"a redirect to .* check ANTHROPIC_BASE_URL"):
        anthropic_api.probe()
    assert other_api.requests == []


@pytest.mark.parametrize("status", REDIRECTS)
def test_the_commands_otlp_headers_follow_no_redirect(
    bridge: Command, otlp: OtlpCapture, make_requests: MakeRequests, status: int
) -> None:
    bridge.environment["OTEL_EXPORTER_OTLP_HEADERS"] = "x-vendor-key=the-key"
    with OtlpCapture() as other:
        otlp.redirect_all(other.url, status)
        ran = bridge("run", bridge.write(make_requests(2)), "-o", "results.jsonl")
        assert other.requests == []
    assert ran.returncode == 0, ran.stderr
    assert "spans and the metrics did not reach" in ran.stderr
    assert f"HTTP {status}, a redirect to" in ran.stderr


def test_a_log_in_page_is_no_export_of_the_command(
    bridge: Command, otlp: OtlpCapture, make_requests: MakeRequests
) -> None:
    otlp.show_log_in_page()
    ran = bridge("run", bridge.write(make_requests(2)), "-o", "results.jsonl", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["backends"]["otlp"]["sent"] == 0
    assert "what answers takes no OTLP" in ran.stderr
    assert bridge("doctor").returncode == 1
    otlp.recover()
    (batch_id,) = json.loads(ran.stdout)["batches"]
    assert bridge("collect", batch_id, "-o", "again.jsonl").returncode == 0
    assert len(otlp.unique_spans()) >= 3, "the batch and its requests, sent again"


PAGES = [
    {"body": b"<html>log in</html>", "headers": {"content-type": "text/html"}},
    {"body": b'{"login": "https://portal/"}'},
    {"body": b'{"data": [{"login": 1}]}'},
    {"body": b"[]"},
    {"body": b"null"},
]


@pytest.mark.parametrize("page", PAGES)
def test_a_log_in_page_is_no_answer_of_the_anthropic_api(
    api: MessageBatchesServer, make_requests: MakeRequests, page: dict[str, Any]
) -> None:
    with anthropic.Anthropic(base_url=api.url, api_key="test", max_retries=0) as client:
        executor = BatchExecutor(client, settings=SETTINGS)
        batch_id = executor.submit(make_requests(2))[0].id
        api.fail_next("GET", f"{batch_id}$", status=200, times=3, **page)
        assert len(list(executor.collect(batch_id))) == 2, "the wait goes on"
        api.fail_next(status=200, times=float("inf"), **page)
        for call in (
            lambda: executor.describe(batch_id),
            lambda: executor.cancel(batch_id),
            lambda: executor.since(datetime.now(UTC) - timedelta(hours=1)),
            lambda: executor.estimate(make_requests(1)),
        ):
            with pytest.raises(BatchError, match="not the Message Batches API"):
                call()


@pytest.mark.parametrize("page", PAGES)
def test_a_log_in_page_in_place_of_the_list_pays_nothing_twice(
    api: MessageBatchesServer,
    make_requests: MakeRequests,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    page: dict[str, Any],
) -> None:
    monkeypatch.setattr(reconciling, "_LOOKS", (0.01,))
    with anthropic.Anthropic(base_url=api.url, api_key="test", max_retries=0) as client:
        executor = BatchExecutor(client, settings=replace(SETTINGS, state_dir=tmp_path))
        api.fail_next("POST", "batches$", action="accept_then_close")
        api.fail_next("GET", "batches$", status=200, times=float("inf"), **page)
        for _ in range(2):
            with pytest.raises(SubmissionAmbiguousError, match="cannot be read"):
                executor.run(make_requests(2))
        assert len(api.batch_ids) == 1
        api.recover()
        assert len(executor.run(make_requests(2))) == 2
        assert len(api.batch_ids) == 1


def test_doctor_says_where_otlp_is_redirected_to(bridge: Command, otlp: OtlpCapture) -> None:
    with OtlpCapture() as other:
        otlp.redirect_all(other.url)
        ran = bridge("doctor")
        assert other.requests == []
    assert ran.returncode == 1
    assert "takes no export" in ran.stdout


def test_a_session_of_the_users_own_is_left_to_the_exporters(bridge: Command) -> None:
    bridge.environment["OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER"] = "not-installed"
    ran = bridge("doctor")
    assert "component 'not-installed' not found" in " ".join(ran.stdout.split())
