"""After a batch: the report from the journal, and results as a table."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from support import Command, Cost, MakeRequests

from otel_bridge.cli.report import Report, bars, dollars
from otel_bridge.domain.pricing import at_list_price, price, without_cache
from otel_bridge.domain.usage import TokenUsage
from otel_bridge.simulator import MessageBatchesServer

COUNTS = st.integers(0, 100_000)


class Page(HTMLParser):
    """Which tags a page has, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_report_tells_what_the_api_does(
    bridge: Command,
    make_requests: MakeRequests,
    api: MessageBatchesServer,
    cost_of: Cost,
) -> None:
    for count in (40, 20):
        assert bridge("run", bridge.write(make_requests(count)), "-o", "out").returncode == 0
    told = json.loads(bridge("report", "--json").stdout)
    truths = [api.truth(each) for each in api.batch_ids]
    assert [each["name"] for each in told["batches"]] == api.batch_ids
    assert told["requests"] == 60
    for kind in ("succeeded", "errored", "expired"):
        assert told["outcomes"].get(kind, 0) == sum(truth[kind] for truth in truths)
    for name, count in told["usage"].items():
        assert count == sum(truth[name] for truth in truths)
    lines = [line for each in api.batch_ids for line in api.results(each)]
    cost = sum(map(cost_of, lines))
    searches = sum(truth["web_search_requests"] for truth in truths) * 0.01
    assert told["cost"] == pytest.approx(cost, abs=1e-9)
    assert told["list_cost"] == pytest.approx((cost - searches) * 2 + searches, abs=1e-9)
    assert sum(each["money"]["cost"] for each in told["models"].values()) == pytest.approx(cost)
    assert sum(told["cost_by_day"].values()) == pytest.approx(cost)

    text = bridge("report").stdout
    assert text.startswith("# Message Batches\n\n2 batches, 60 requests, ")
    assert f"| paid | {dollars(cost)} | █" in text
    assert f"| output_tokens | {told['usage']['output_tokens']:,} | █" in text
    assert bridge("report", "-o", "report.html").stdout == ""
    page = Page((bridge.folder / "report.html").read_text())
    assert page.tags.count("svg") == 6
    assert page.tags.count("table") == 2
    assert page.loads == []
    assert not {"script", "link", "img"} & set(page.tags)
    assert bridge("report", "-o", "no/where").returncode == 2


def test_a_batch_collected_twice_is_reported_once(
    bridge: Command, make_requests: MakeRequests, api: MessageBatchesServer
) -> None:
    bridge("run", bridge.write(make_requests(9)), "-o", "out")
    bridge("collect", api.batch_ids[0], "-o", "out")
    told = json.loads(bridge("report", "--json").stdout)
    assert told["requests"] == 9
    assert told["usage"]["output_tokens"] == api.truth(api.batch_ids[0])["output_tokens"]


def test_nothing_recorded_is_said(bridge: Command) -> None:
    assert "No batch was recorded" in bridge("report").stdout
    assert bridge("report", "-o", "r.html").returncode == 0
    assert "<svg" not in (bridge.folder / "r.html").read_text()


def test_only_what_is_young_enough_is_reported() -> None:
    def totals(created: datetime) -> dict[str, Any]:
        return {
            "created_at": created.isoformat(),
            "ended_at": None,
            "requests": 1,
            "outcomes": [["expired", "expired", 1]],
            "models": {},
        }

    now = datetime.now(UTC)
    known = {"old": totals(now - timedelta(days=9)), "new": totals(now)}
    assert Report.of(known, now - timedelta(days=1)).requests == 1
    assert Report.of(known, None).requests == 2


def test_an_unknown_price_is_no_price() -> None:
    told = {"answers": 1, "usage": {}, "cost": None, "list_cost": None, "uncached_cost": None}
    totals = {
        "created_at": "2026-01-01T00:00:00+00:00",
        "ended_at": "2026-01-01T01:00:00+00:00",
        "requests": 1,
        "outcomes": [["succeeded", None, 1]],
        "models": {"<b>new</b>": told, "claude": {**told, "cost": 1.0}},
    }
    report = Report.of({"a": totals}, None)
    assert report.money.cost is None
    assert report.slowest[0].seconds == 3600
    assert dollars(None) == "unknown"
    assert bars("t", [("<b>", 1, "1")]).count("<b>") == 0


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.sampled_from(["claude-sonnet-4-5", "claude-haiku-4-5"]))
def test_a_cost_without_cache_is_that_of_plain_input(
    plain: int, read: int, short: int, long: int, model: str
) -> None:
    at = datetime.now(UTC)
    cached = price(TokenUsage(plain, read, short + long, short, long, 50), model, at=at)
    bare = price(TokenUsage(plain + read + short + long, output_tokens=50), model, at=at)
    listed = price(TokenUsage(plain, read, short + long, short, long, 50), model, tier="standard")
    assert cached
    assert bare
    assert listed
    assert without_cache(cached, model, at) == pytest.approx(bare.total_cost, rel=1e-9)
    assert at_list_price(cached) == pytest.approx(listed.total_cost, rel=1e-9)


def test_results_are_a_table(
    bridge: Command,
    make_requests: MakeRequests,
    api: MessageBatchesServer,
    cost_of: Cost,
) -> None:
    ran = bridge("run", bridge.write(make_requests(60)), "-o", "out.parquet")
    assert ran.returncode == 0, ran.stderr
    rows = {
        row["custom_id"]: row
        for row in parquet.read_table(bridge.folder / "out.parquet").to_pylist()
    }
    lines = {line["custom_id"]: line for line in api.results(api.batch_ids[0])}
    assert rows.keys() == lines.keys()
    for custom_id, row in rows.items():
        line = lines[custom_id]
        assert row["type"] == line["result"]["type"]
        assert row["cost_usd"] == pytest.approx(cost_of(line), abs=1e-12)
        assert json.loads(row["result"]) == line
        if row["type"] == "succeeded":
            assert row["output_tokens"] == line["result"]["message"]["usage"]["output_tokens"]
            assert row["text"].startswith("Answer to ")
        else:
            assert (row["text"], row["output_tokens"]) == (None, 0)


def test_a_table_needs_its_library(bridge: Command, make_requests: MakeRequests) -> None:
    (bridge.folder / "pyarrow.py").write_text("raise ModuleNotFoundError(name='pyarrow')")
    bridge.environment["PYTHONPATH"] = str(bridge.folder)
    ran = bridge("run", bridge.write(make_requests(1)), "-o", "out.parquet")
    assert ran.returncode == 2
    assert "pip install 'otel-bridge[parquet]'" in ran.stderr
