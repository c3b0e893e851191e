"""The demo: a batch against an embedded API, its telemetry against embedded backends."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from typing import Any

import click
import orjson
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
from rich.tree import Tree

from otel_bridge import semconv
from otel_bridge._core.display import safe_endpoint
from otel_bridge.batches import BatchExecutor
from otel_bridge.cli import render
from otel_bridge.cli.figures import compare, table_of
from otel_bridge.cli.telemetry import Complaints, Telemetry, name_sessions
from otel_bridge.config import VARIABLES, Settings
from otel_bridge.domain.usage import TokenUsage
from otel_bridge.errors import ConfigurationError
from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer, OtlpCapture

MODELS = ("claude-sonnet-4-5", "claude-haiku-4-5")
CHILDREN_SHOWN = 12
_KEPT = (OTEL_EXPORTER_OTLP_CERTIFICATE, OTEL_EXPORTER_OTLP_HEADERS, OTEL_METRIC_EXPORT_INTERVAL)
"""What the environment says of its own OTLP endpoint."""
SEED = 2
"""With it the default number of requests has every outcome."""


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


def run_demo(count: int, seconds: float, *, as_json: bool, otlp: bool) -> bool:
    """Run the demo; True when every figure agrees in every backend.

    With `otlp`, all of it goes to the environment's OTLP endpoint as well. Raises
    ConfigurationError when nothing there takes it.
    """
    console = Console(stderr=as_json)
    endpoint = _answering_endpoint() if otlp else None
    with (
        MessageBatchesServer(batch_seconds=seconds, seed=SEED) as api,
        OtlpCapture() as captured,
        LangSmithCapture() as langsmith,
        tempfile.TemporaryDirectory() as state_dir,
    ):
        _point_environment_at(api.url, captured.url, langsmith.url, state_dir)
        # An exemplar is exported once, and the export after it takes it from whoever scrapes later:
        # hence one export while the batch runs, and none between its being read and the last.
        interval = min(0.9 * seconds, 60) if seconds >= 3 else 60
        os.environ.setdefault(OTEL_METRIC_EXPORT_INTERVAL, str(round(1000 * interval)))
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
        batch_id = handle.id
        rows = compare(api.truth(batch_id), api.results(batch_id), captured, langsmith)
        summary = render.Summary.of([handle], outcomes, 1, reports, None)
        complaints = [report.complaint for report in reports if report.complaint]
        agreed = all(row.agrees for row in rows) and not langsmith.refusals and not complaints
        if as_json:
            figures = [row.to_dict() for row in rows]
            click.echo(orjson.dumps({**summary.to_dict(), "figures": figures, "agreed": agreed}))
        else:
            console.print(_tree(captured))
            console.print(table_of(rows))
            for report in reports:
                console.print(f"{report.name}: {report.sent} {report.unit} received")
        for complaint in complaints:
            click.echo(f"otel-bridge: {complaint}", err=True)
    return agreed


def _answering_endpoint() -> str:
    """The environment's OTLP endpoint, which answered."""
    named = os.environ.get(OTEL_EXPORTER_OTLP_ENDPOINT, "").strip() or "http://localhost:4318"
    endpoint = named.rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"{OTEL_EXPORTER_OTLP_ENDPOINT}={safe_endpoint(named)!r} cannot be used: give a URL of "
            "OTLP over HTTP"
        )
    Complaints("opentelemetry")  # the error says it
    name_sessions()
    exporter = OTLPSpanExporter(f"{endpoint}/v1/traces", timeout=3)
    if exporter.export([]) is not SpanExportResult.SUCCESS:
        raise ConfigurationError(
            f"nothing takes OTLP over HTTP at {safe_endpoint(endpoint)}; start a collector there, "
            f"or set {OTEL_EXPORTER_OTLP_ENDPOINT}"
        )
    return endpoint


def _point_environment_at(api: str, otlp: str, langsmith: str, state_dir: str) -> None:
    for name in list(os.environ):
        ours = name in {variable.name for variable in VARIABLES}
        foreign = name.startswith(("OTEL_", "LANGSMITH_", "LANGCHAIN_"))
        if (ours or foreign) and name not in _KEPT:
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


def _tree(otlp: OtlpCapture) -> Tree:
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
