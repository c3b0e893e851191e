"""Dashboards and alert rules, asked of a real Prometheus that scrapes the real gateway."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx2
import pytest
from support import eventually
from support.programs import (
    CONFIGS,
    PROMTOOL,
    Collector,
    Prometheus,
    needs_otelcol,
    needs_prometheus,
)

from otel_bridge.domain.usage import TokenUsage
from otel_bridge.simulator import LangSmithCapture, OtlpCapture

DASHBOARDS = sorted((CONFIGS / "grafana" / "dashboards").glob("*.json"))
RULES = CONFIGS / "prometheus" / "rules.yaml"
VARIABLES = {
    "$__range": "10m",
    "$__rate_interval": "1m",
    "$service": ".*",
    "$model": ".*",
}
STAMPED = {
    "traceId": "5b8efff798038103d269b633813fc60c",
    "spanId": "eee19b7ec3c1b174",
    "name": "stamped",
    "startTimeUnixNano": "1",
    "endTimeUnixNano": "2",
    "attributes": [{"key": "langsmith.span.id", "value": {"stringValue": "a run"}}],
}
"""A span that the gateway sends to LangSmith, in OTLP's JSON."""


def filled(expr: str, **variables: str) -> str:
    """A query as Grafana asks it."""
    for name, value in {**VARIABLES, **variables}.items():
        expr = expr.replace(name, value)
    return expr


def panels() -> list[Any]:
    return [
        pytest.param(panel, id=f"{path.stem}: {panel['title']}")
        for path in DASHBOARDS
        for panel in json.loads(path.read_text())["panels"]
    ]


def of_prometheus(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"] if "expr" in target]


def conditions() -> dict[str, str]:
    """What each rule compares with its bound."""
    rules = re.findall(r"- alert: (\w+)\n +expr: \|\n((?: {10}.*\n)+)", RULES.read_text())
    return {name: re.sub(r"^ +[<>] [\d.]+$", "", expr, flags=re.MULTILINE) for name, expr in rules}


def test_the_dashboards_are_what_their_script_makes() -> None:
    made = runpy.run_path(str(CONFIGS / "grafana" / "dashboards.py"))["generated"]()
    assert {path.name: path.read_text() for path in DASHBOARDS} == made, (
        "run `python collector_config/grafana/dashboards.py`"
    )


@pytest.mark.parametrize("panel", panels())
def test_a_panel_has_a_unit_a_description_and_an_empty_state(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert all((panel["description"], defaults["unit"], defaults["noValue"]))
    assert panel["datasource"]["uid"] in ("prometheus", "tempo")


def test_panels_do_not_overlap_and_uids_are_fixed() -> None:
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text())
        assert dashboard["uid"] == path.stem
        assert dashboard["schemaVersion"] == 42
        cells = [
            (x, y)
            for panel in dashboard["panels"]
            for place in [panel["gridPos"]]
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) < 24


@needs_prometheus
@pytest.mark.parametrize(
    "what",
    ["check config prometheus.yaml", "check rules rules.yaml", "test rules rules_test.yaml"],
)
def test_promtool_agrees(what: str) -> None:
    command = [PROMTOOL or "promtool", *what.split()]
    ran = subprocess.run(command, cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_rule_has_a_test() -> None:
    tested = (RULES.parent / "rules_test.yaml").read_text()
    assert len(conditions()) == RULES.read_text().count("- alert:") > 0
    assert all(f"alertname: {name}\n" in tested for name in conditions())


@dataclass
class Seen:
    """What Prometheus and Tempo have of the demo's batch, and what the demo said of it."""

    prometheus: str
    spans: list[Any]
    told: dict[str, Any]
    began: float

    def ask(self, expr: str) -> list[Any]:
        """The series of a query over the time of the demo."""
        now = time.time()
        query = {"query": filled(expr), "start": self.began, "end": now, "step": 1}
        found: list[Any] = self._get("query_range", query)["result"]
        return found

    def lacks(self, expr: str) -> bool:
        """Whether a query has no series at this moment."""
        return not self._get("query", {"query": expr})["result"]

    def figure(self, expr: str) -> float:
        """The last value of a query that has one series."""
        (series,) = self.ask(expr)
        return float(series["values"][-1][1])

    def exemplars(self, expr: str) -> set[str]:
        query = {"query": filled(expr), "start": self.began, "end": time.time()}
        found = self._get("query_exemplars", query)
        return {each["labels"]["trace_id"] for series in found for each in series["exemplars"]}

    def _get(self, path: str, query: dict[str, Any]) -> Any:
        answer = httpx2.get(f"{self.prometheus}/api/v1/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("seen")
    began = time.time()
    with (
        OtlpCapture() as tempo,
        LangSmithCapture(api_key="another key") as langsmith,
        Collector(
            folder / "gateway",
            "gateway.yaml",
            TEMPO_ENDPOINT=tempo.url,
            LANGSMITH_ENDPOINT=langsmith.url,
            LANGSMITH_API_KEY="a key",
        ) as gateway,
        Prometheus(folder / "prometheus", gateway) as prometheus,
    ):
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "OTEL_EXPORTER_OTLP_ENDPOINT": gateway.url,
        }
        ran = subprocess.run(
            [sys.executable, "-m", "otel_bridge.cli", "demo", "--otlp", "--json", "--seconds", "6"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        known = Seen(prometheus.url, tempo.spans, json.loads(ran.stdout), began)
        stamped = {"resourceSpans": [{"scopeSpans": [{"spans": [STAMPED]}]}]}
        assert httpx2.post(f"{gateway.url}/v1/traces", json=stamped).status_code == 200
        eventually(lambda: known.ask("gen_ai_usage_cost_USD_sum"), "Prometheus has the cost")
        # Rates of the collector's counters want two scrapes and more.
        eventually(
            lambda: known.ask("rate(otelcol_receiver_refused_spans_total[5m])"), "and of its rates"
        )
        eventually(
            lambda: known.ask("otelcol_exporter_send_failed_spans_total"), "what is given up shows"
        )
        eventually(lambda: len(tempo.unique_spans()) == 64, "Tempo has the spans")
        yield known


def prometheus_panels() -> list[Any]:
    return [each for each in panels() if of_prometheus(each.values[0])]


@needs_otelcol
@needs_prometheus
@pytest.mark.parametrize("panel", prometheus_panels())
def test_every_query_of_a_panel_returns_data(panel: dict[str, Any], seen: Seen) -> None:
    for expr in of_prometheus(panel):
        found = seen.ask(expr)
        if "send_failed_metric_points" in expr:
            continue  # the gateway pushes no metrics: a writer does
        assert found, expr
        values = [value for series in found for _, value in series["values"]]
        assert {*values} - {"NaN"}, f"{expr} returns no number"


@needs_otelcol
@needs_prometheus
@pytest.mark.parametrize("name", conditions())
def test_every_query_of_a_rule_returns_data(name: str, seen: Seen) -> None:
    assert seen.ask(conditions()[name]), name


def exprs(uid: str) -> dict[str, str]:
    path = next(path for path in DASHBOARDS if path.stem == uid)
    found = json.loads(path.read_text())["panels"]
    return {panel["title"]: (of_prometheus(panel) or [""])[0] for panel in found}


@needs_otelcol
@needs_prometheus
def test_the_figures_of_the_dashboards_are_the_apis(seen: Seen) -> None:
    api = {row["name"]: row["api"] for row in seen.told["figures"]}
    cost, batches = exprs("otel-bridge-cost"), exprs("otel-bridge-batches")
    health = exprs("otel-bridge-health")
    spent = seen.figure(cost["Cost"])
    assert spent == pytest.approx(api["cost in USD"], abs=1e-9)
    answered = api["succeeded"]
    assert seen.figure(cost["Per 1,000 requests"]) == pytest.approx(1000 * spent / answered)
    assert seen.figure(cost["Tokens"]) == api["input tokens"] + api["output tokens"]
    assert seen.figure(cost["Cache hits"]) == pytest.approx(api["cache read"] / api["input tokens"])
    failed = api["errored"] + api["canceled"] + api["expired"]
    share = seen.figure(batches["Requests that failed"])
    assert share == pytest.approx(failed / (failed + answered))
    assert [seen.figure(batches[name]) for name in ("Running", "Submitted", "Ended")] == [0, 1, 1]
    assert seen.figure(health["Runs sent"]) == seen.told["backends"]["langsmith"]["sent"]
    requests = (span for span in seen.spans if span.name.startswith("chat"))
    searches = sum(
        TokenUsage.from_attributes(each.attributes).web_search_requests for each in requests
    )
    saved = seen.figure(cost["Saved against list price"])
    assert saved == pytest.approx(spent - searches * 0.01)
    assert searches > 0


@needs_otelcol
@needs_prometheus
def test_the_first_spans_that_a_collector_sends_are_seen(seen: Seen) -> None:
    sent = filled(exprs("otel-bridge-health")["Collector sends"])

    def told() -> bool:
        found = {each["metric"]["exporter"]: each["values"][-1][1] for each in seen.ask(sent)}
        return found.get("otlp_http/tempo") == str(len(seen.spans))

    eventually(told, "as many as Tempo has")


@needs_otelcol
@needs_prometheus
def test_a_figure_per_request_is_not_there_while_nothing_ends(seen: Seen) -> None:
    shown = exprs("otel-bridge-batches") | exprs("otel-bridge-cost")
    for title in ("Requests that failed", "Per 1,000 requests", "Cache hits"):
        expr = filled(shown[title], **{"$__range": "2s"})
        eventually(partial(seen.lacks, expr), f"{title} is empty rather than NaN")


@needs_otelcol
@needs_prometheus
def test_exemplars_lead_to_the_batchs_trace(seen: Seen) -> None:
    traces = {span.trace_id for span in seen.spans if span.name.startswith("batch")}
    for uid, title in (
        ("otel-bridge-batches", "Requests by outcome, per hour"),
        ("otel-bridge-batches", "Duration"),
        ("otel-bridge-cost", "Cost per request"),
        ("otel-bridge-cost", "Tokens per hour by type"),
    ):
        expr = exprs(uid)[title]
        eventually(partial(seen.exemplars, expr), f"{title} has exemplars")
        assert seen.exemplars(expr) == traces


@needs_otelcol
@needs_prometheus
def test_searches_in_tempo_name_attributes_that_spans_have(seen: Seen) -> None:
    known = {name for span in seen.spans for name in span.attributes} | {"langsmith.span.id"}
    searches = [
        target
        for each in panels()
        for target in each.values[0]["targets"]
        if target.get("queryType") == "traceql"
    ]
    assert searches
    for search in searches:
        assert set(re.findall(r"span\.([\w.]+)", search["query"])) <= known
        assert search["spss"] == 100, "Grafana asks for 3 spans of a trace, Tempo gives up to 100"
