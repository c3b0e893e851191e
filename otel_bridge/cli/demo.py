"""The command demo: a batch run against simulated servers, and whether their figures agree.

The simulator's API answers the batch and knows the truth of it: tokens and outcomes. Its OTLP and
LangSmith servers keep what is exported to them. The demo sums both and compares.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_CERTIFICATE,
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_HEADERS,
    OTEL_METRIC_EXPORT_INTERVAL,
)
from opentelemetry.sdk.trace.export import SpanExportResult
from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from otel_bridge import semconv
from otel_bridge._core.display import safe_endpoint
from otel_bridge.batches import BatchExecutor
from otel_bridge.cli import render
from otel_bridge.cli.render import print_json
from otel_bridge.cli.telemetry import FirstErrorHandler, Telemetry, name_sessions
from otel_bridge.cli.terminal import FAILED, print_error
from otel_bridge.config import VARIABLES, Settings
from otel_bridge.domain.pricing import price
from otel_bridge.domain.usage import TokenUsage
from otel_bridge.errors import ConfigurationError
from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer, OtlpCapture

MODELS = ("claude-sonnet-4-5", "claude-haiku-4-5")
CHILDREN_SHOWN = 12
SEED = 2
"""With this seed the default number of requests has every outcome."""
_KEPT = (OTEL_EXPORTER_OTLP_CERTIFICATE, OTEL_EXPORTER_OTLP_HEADERS, OTEL_METRIC_EXPORT_INTERVAL)
"""Variables that `--otlp` needs for the user's own endpoint."""

_TOKENS = (
    ("input tokens", semconv.GEN_AI_USAGE_INPUT_TOKENS, semconv.METRIC_USAGE_INPUT),
    ("output tokens", semconv.GEN_AI_USAGE_OUTPUT_TOKENS, semconv.METRIC_USAGE_OUTPUT),
    ("cache read", semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, semconv.METRIC_USAGE_CACHE_READ),
    (
        "cache write",
        semconv.GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS,
        semconv.METRIC_USAGE_CACHE_WRITE,
    ),
    ("cache write, 5 m", semconv.ANTHROPIC_USAGE_EPHEMERAL_5M, None),
    ("cache write, 1 h", semconv.ANTHROPIC_USAGE_EPHEMERAL_1H, None),
    ("thinking", semconv.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS, semconv.METRIC_USAGE_REASONING),
)


def demo(*, as_json: bool, count: int, seconds: float, otlp: bool) -> int:
    """Run a batch of `count` requests that takes `seconds`; FAILED where figures differ.

    With `otlp`, everything is exported to the user's OTLP endpoint as well. Raises
    ConfigurationError where nothing at that endpoint takes OTLP.
    """
    console = Console(stderr=as_json)
    endpoint = _checked_endpoint() if otlp else None
    with (
        MessageBatchesServer(batch_seconds=seconds, seed=SEED) as api,
        OtlpCapture() as captured,
        LangSmithCapture() as langsmith,
        tempfile.TemporaryDirectory() as state_dir,
    ):
        _point_environment_at(api.url, captured.url, langsmith.url, state_dir)
        _set_export_interval(seconds)
        settings = Settings.from_env(strict=True)
        telemetry = Telemetry(settings).set_up()
        if endpoint:
            telemetry.also_export(endpoint)
        progress = render.Progress(console)
        executor = BatchExecutor(settings=settings, on_progress=progress.update)
        tracer = trace.get_tracer("otel_bridge.demo")
        with progress, tracer.start_as_current_span("nightly-review"):
            (handle,) = executor.submit(_requests(count))
            outcomes = Counter(result.type for result in executor.collect(handle))
        reports = telemetry.finish()
        rows = compare(api.truth(handle.id), api.results(handle.id), captured, langsmith)
        complaints = [report.complaint for report in reports if report.complaint]
        agreed = all(row.agrees for row in rows) and not langsmith.refusals and not complaints
        if as_json:
            summary = render.Summary.of([handle], outcomes, 1, reports, None).to_dict()
            figures = [row.to_dict() for row in rows]
            print_json({**summary, "figures": figures, "agreed": agreed})
        else:
            console.print(_span_tree(captured))
            console.print(_table(rows))
            for report in reports:
                console.print(f"{report.name}: {report.sent} {report.unit} received")
        for complaint in complaints:
            print_error(complaint)
    return 0 if agreed else FAILED


def _requests(count: int) -> list[dict[str, Any]]:
    return [
        {
            "custom_id": f"paper-{number:05d}",
            "params": {
                "model": MODELS[number % 3 == 0],
                "max_tokens": 500,
                "messages": [{"role": "user", "content": f"Score the relevance of {number}."}],
            },
        }
        for number in range(count)
    ]


def _checked_endpoint() -> str:
    """Give the user's OTLP endpoint, after an empty export to it succeeded."""
    named = os.environ.get(OTEL_EXPORTER_OTLP_ENDPOINT, "").strip() or "http://localhost:4318"
    endpoint = named.rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"{OTEL_EXPORTER_OTLP_ENDPOINT}={safe_endpoint(named)!r} cannot be used: give a URL of "
            "OTLP over HTTP"
        )
    FirstErrorHandler("opentelemetry")  # our error says it; the exporter's log is not shown
    name_sessions()
    exporter = OTLPSpanExporter(f"{endpoint}/v1/traces", timeout=3)
    if exporter.export([]) is not SpanExportResult.SUCCESS:
        raise ConfigurationError(
            f"nothing takes OTLP over HTTP at {safe_endpoint(endpoint)}; start a collector there, "
            f"or set {OTEL_EXPORTER_OTLP_ENDPOINT}"
        )
    return endpoint


def _point_environment_at(api: str, otlp: str, langsmith: str, state_dir: str) -> None:
    """Set the variables to the simulated servers, and remove all others that matter."""
    for name in list(os.environ):
        of_bridge = name in {variable.name for variable in VARIABLES}
        foreign = name.startswith(("OTEL_", "LANGSMITH_", "LANGCHAIN_"))
        if (of_bridge or foreign) and name not in _KEPT:
            del os.environ[name]
    os.environ |= {
        "ANTHROPIC_API_KEY": "demo",
        "ANTHROPIC_BASE_URL": api,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": otlp,
        "OTEL_SERVICE_NAME": "otel-bridge-demo",
        "LANGSMITH_TRACING": "true",
        "LANGSMITH_ENDPOINT": langsmith,
        "LANGSMITH_API_KEY": "demo",
        "LANGSMITH_PROJECT": "demo",
        "OTEL_BRIDGE_POLL_INTERVAL": "0.5",
        "OTEL_BRIDGE_POLL_MAX_INTERVAL": "1",
        "OTEL_BRIDGE_STATE_DIR": state_dir,
    }


def _set_export_interval(seconds: float) -> None:
    """Export metrics once while a batch of `seconds` runs, unless the user set an interval.

    An exemplar is in one export only: another export between the results and the end would keep it
    from a Prometheus that scrapes after the end.
    """
    interval = min(0.9 * seconds, 60) if seconds >= 3 else 60
    os.environ.setdefault(OTEL_METRIC_EXPORT_INTERVAL, str(round(1000 * interval)))


def _span_tree(otlp: OtlpCapture) -> Tree:
    """Draw the spans below their parents, failed ones first."""
    spans = sorted(otlp.unique_spans(), key=lambda span: (span.start_ns, span.name))
    children: dict[str, list[Any]] = {}
    ids = {span.span_id for span in spans}
    for span in spans:
        parent = span.parent_span_id if span.parent_span_id in ids else ""
        children.setdefault(parent, []).append(span)
    root = Tree("[bold]trace[/bold]")

    def add(node: Tree, parent: str) -> None:
        found = children.get(parent, [])
        failed_first = sorted(
            found,
            key=lambda span: (
                span.status_code != 2,
                span.attributes.get(semconv.BATCH_CUSTOM_ID, ""),
            ),
        )
        for span in failed_first[:CHILDREN_SHOWN]:
            add(node.add(_label(span)), span.span_id)
        if len(found) > CHILDREN_SHOWN:
            node.add(f"[dim]… and {len(found) - CHILDREN_SHOWN} more[/dim]")

    add(root, "")
    return root


def _label(span: Any) -> str:
    """Describe a span: name, custom id, whether it failed, tokens and cost."""
    attributes = span.attributes
    usage = TokenUsage.from_attributes(attributes)
    cost = attributes.get(semconv.GEN_AI_USAGE_COST, attributes.get(semconv.BATCH_COST))
    if attributes.get(semconv.GEN_AI_OPERATION_NAME) == "batch":
        usage = TokenUsage.from_batch_attributes(attributes)
    mark = f"[red]✗ {attributes.get(semconv.ERROR_TYPE, 'error')}[/red]"
    parts = [span.name, attributes.get(semconv.BATCH_CUSTOM_ID, "")]
    parts.append(mark if span.status_code == 2 else "[green]✓[/green]")
    if usage:
        parts.append(f"[dim]{usage.total_input_tokens:,} in, {usage.output_tokens:,} out[/dim]")
    if cost is not None:
        parts.append(f"[dim]${cost:.6f}[/dim]")
    return "  ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: of the API, and summed over spans, metrics (None where there is none), runs."""

    name: str
    api: float
    spans: float
    metrics: float | None
    runs: float

    @property
    def agrees(self) -> bool:
        """Whether all figures are equal: tokens and counts exactly, cost to 1e-9 USD."""
        others = [figure for figure in (self.spans, self.metrics, self.runs) if figure is not None]
        return all(math.isclose(self.api, other, rel_tol=0, abs_tol=1e-9) for other in others)

    def to_dict(self) -> dict[str, Any]:
        """Give the figures, JSON-ready."""
        return {
            "name": self.name,
            "api": self.api,
            "otlp_spans": self.spans,
            "otlp_metrics": self.metrics,
            "langsmith_runs": self.runs,
            "agrees": self.agrees,
        }


def compare(
    truth: Mapping[str, Any],
    lines: list[dict[str, Any]],
    otlp: OtlpCapture,
    langsmith: LangSmithCapture,
) -> list[Row]:
    """Compare tokens, cost and outcomes of one batch.

    `truth` has the API's sums, `lines` are its results; `otlp` and `langsmith` hold what was
    exported.
    """
    chats = [
        span
        for span in otlp.unique_spans()
        if span.attributes.get(semconv.GEN_AI_OPERATION_NAME) == "chat"
    ]
    runs = [run for run in langsmith.runs.values() if run["run_type"] == "llm"]
    tokens = {
        "input tokens": truth["input_tokens"]
        + truth["cache_read_input_tokens"]
        + truth["cache_creation_input_tokens"],
        "output tokens": truth["output_tokens"],
        "cache read": truth["cache_read_input_tokens"],
        "cache write": truth["cache_creation_input_tokens"],
        "cache write, 5 m": truth["ephemeral_5m_input_tokens"],
        "cache write, 1 h": truth["ephemeral_1h_input_tokens"],
        "thinking": truth["thinking_tokens"],
    }
    totals = langsmith.usage_totals()
    mirrored = {
        "input tokens": totals["input_tokens"],
        "output tokens": totals["output_tokens"],
        "cache read": totals["cache_read"],
        "cache write": totals["cache_creation"]
        + totals["ephemeral_5m_input_tokens"]
        + totals["ephemeral_1h_input_tokens"],
        "cache write, 5 m": totals["ephemeral_5m_input_tokens"],
        "cache write, 1 h": totals["ephemeral_1h_input_tokens"],
        "thinking": totals["reasoning"],
    }
    rows = [
        Row(
            name,
            tokens[name],
            sum(span.attributes.get(attribute, 0) for span in chats),
            otlp.metric_sum(metric) if metric else None,
            mirrored[name],
        )
        for name, attribute, metric in _TOKENS
    ]
    rows.append(
        Row(
            "cost in USD",
            math.fsum(_cost(line) for line in lines),
            math.fsum(span.attributes.get(semconv.GEN_AI_USAGE_COST, 0) for span in chats),
            otlp.metric_sum(semconv.METRIC_COST),
            float(totals["total_cost"]),
        )
    )
    rows += [
        _outcome_row(outcome, truth, otlp, chats, runs)
        for outcome in ("succeeded", "errored", "canceled", "expired")
    ]
    return rows


def _outcome_row(outcome: str, truth: Any, otlp: OtlpCapture, chats: Any, runs: Any) -> Row:
    def count(carriers: Any, attributes: Callable[[Any], Mapping[str, Any]]) -> int:
        return sum(
            attributes(each).get(semconv.BATCH_ROLLUP, 1)
            for each in carriers
            if attributes(each).get(semconv.BATCH_OUTCOME) == outcome
        )

    return Row(
        outcome,
        truth[outcome],
        count(chats, lambda span: span.attributes),
        otlp.metric_sum(semconv.METRIC_BATCH_REQUESTS, **{semconv.BATCH_OUTCOME: outcome}),
        count(runs, lambda run: run["extra"]["metadata"]),
    )


def _cost(line: Mapping[str, Any]) -> float:
    message = line["result"].get("message")
    cost = price(TokenUsage.from_api(message["usage"]), message["model"]) if message else None
    return cost.total_cost if cost else 0.0


def _table(rows: list[Row]) -> Table:
    """Show each figure of the API beside that of each backend."""
    table = Table(title="One truth in every backend", title_justify="left", show_edge=False)
    table.add_column("", min_width=9)
    for name in ("API", "OTLP spans", "OTLP metrics", "LangSmith"):
        table.add_column(name, justify="right", no_wrap=" " not in name)
    table.add_column("")
    for row in rows:
        form = "{:.6f}" if row.name.startswith("cost") else "{:,.0f}"
        table.add_row(
            row.name,
            *(
                "" if figure is None else form.format(figure)
                for figure in (row.api, row.spans, row.metrics, row.runs)
            ),
            "[green]✓[/green]" if row.agrees else "[red]✗[/red]",
        )
    return table
