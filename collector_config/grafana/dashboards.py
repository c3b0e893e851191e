"""Writes the dashboards of this directory: `python collector_config/grafana/dashboards.py`.

Metric names are those that the collector's Prometheus exporter makes of the package's own. `job` is
the service, `instance` a process of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent / "dashboards"
PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
TEMPO = {"type": "tempo", "uid": "tempo"}
HOUR = "1h"
RANGE = "$__range"

ACTIVE = "anthropic_message_batch_active"
AGE = "anthropic_message_batch_oldest_age_seconds"
EXPIRY = "anthropic_message_batch_next_expiry_seconds"
SUBMITTED = "anthropic_message_batch_submitted_total"
DURATION = "anthropic_message_batch_duration_seconds"
REQUESTS = "anthropic_message_batch_requests_total"
OUTCOME = "anthropic_message_batch_outcome"
COST = "gen_ai_usage_cost_USD"
AT_LIST = "anthropic_message_batch_cost_at_list_price_USD_total"
UNCACHED = "anthropic_message_batch_cost_without_cache_USD_total"
INPUT = "gen_ai_client_inference_usage_input_tokens_total"
OUTPUT = "gen_ai_client_inference_usage_output_tokens_total"
CACHE_READ = "gen_ai_client_inference_usage_cache_read_input_tokens_total"
CACHE_WRITE = "gen_ai_client_inference_usage_cache_write_input_tokens_total"
REASONING = "gen_ai_client_inference_usage_reasoning_output_tokens_total"
PER_REQUEST = "gen_ai_client_inference_operation_{side}_tokens_bucket"
RUNS = "otel_bridge_langsmith_runs_total"
SERVICE = 'job=~"$service"'
MODEL = f'{SERVICE},gen_ai_request_model=~"$model"'
FAILED = f'{SERVICE},{OUTCOME}!="succeeded"'

Json = dict[str, Any]


def quantile(part: float, buckets: str) -> str:
    """What a part of the measurements within an hour stays below."""
    return f"histogram_quantile({part}, {buckets})"


def grown(metric: str, where: str, by: str = "", window: str = RANGE) -> str:
    """By how much a counter grew, its first value included.

    A batch counts all at once, often as the first and last thing of its process: a series begins
    with its final value, in which `increase` sees no growth. Hence `increase` only where a process
    began anew under the same name; else the value less that of before, which is looked for further
    back than a gap between scrapes; else, for what is new or began anew just then, all of it.
    """
    series = f"{metric}{{{where}}}"
    anew = f"increase({series}[{window}]) and resets({series}[{window}]) > 0"
    top, before = (
        f"max_over_time({series}[{window}])",
        f"last_over_time({series}[1h] offset {window})",
    )
    return f"sum by ({by}) ({anew} or {top} - {before} >= 0 or {top})"


def share(part: str, whole: str) -> str:
    """A quotient that is not there, rather than no number, where the whole is 0."""
    return f"({part} or vector(0)) / ({whole} > 0)"


def running(metric: str) -> str:
    """A gauge of batches that wait: exporters repeat its last value when none does any more."""
    return f"{metric}{{{SERVICE}}} and on (job, instance) {ACTIVE}{{{SERVICE}}} > 0"


def target(expr: str, legend: str = "", *, instant: bool = False) -> Json:
    """A query of a panel; those over time show exemplars, which link to their traces."""
    return {
        "datasource": PROMETHEUS,
        "expr": expr,
        "legendFormat": legend or "__auto",
        "instant": instant,
        "range": not instant,
        "exemplar": not instant,
    }


def panel(
    kind: str,
    title: str,
    description: str,
    unit: str,
    empty: str,
    targets: Sequence[Json],
    *,
    width: int = 12,
    thresholds: Sequence[tuple[str, float | None]] = (("text", None),),
    custom: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    overrides: Sequence[Json] = (),
) -> Json:
    """A panel; `empty` is what it says when there is nothing to show."""
    steps = [{"color": color, "value": value} for color, value in thresholds]
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": targets[0]["datasource"],
        "gridPos": {"h": 4 if kind == "stat" else 8, "w": width},
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "noValue": empty,
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": dict(custom or {}),
            },
            "overrides": list(overrides),
        },
        "options": dict(options or {}),
        "targets": [{"refId": chr(65 + index), **each} for index, each in enumerate(targets)],
    }


def stat(title: str, description: str, unit: str, empty: str, expr: str, **more: Any) -> Json:
    """One figure."""
    options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
    queries = [target(expr, instant=True)]
    return panel("stat", title, description, unit, empty, queries, width=4, options=options, **more)


def graph(title: str, description: str, unit: str, empty: str, *targets: Json, **more: Any) -> Json:
    """Figures over time."""
    options = {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]}}
    custom = {"fillOpacity": 15, "showPoints": "auto", "spanNulls": True}
    return panel(
        "timeseries",
        title,
        description,
        unit,
        empty,
        targets,
        options=options,
        custom=custom,
        **more,
    )


def bars(
    title: str, description: str, unit: str, empty: str, expr: str, legend: str, **more: str
) -> Json:
    """Figures beside each other; `format="heatmap"` sorts buckets and takes the lower ones off."""
    options = {"orientation": "horizontal", "reduceOptions": {"calcs": ["lastNotNull"]}}
    queries = [target(expr, legend, instant=True) | more]
    return panel("bargauge", title, description, unit, empty, queries, options=options)


def traces(title: str, description: str, query: str, *overrides: Json) -> Json:
    """Spans that Tempo finds, each a link to its trace; of one trace as many as Tempo allows."""
    found = {
        "datasource": TEMPO,
        "queryType": "traceql",
        "query": query,
        "tableType": "spans",
        "limit": 100,
        "spss": 100,
    }
    empty = "No trace in this time; Tempo finds spans by their own time, when their batch ran"
    return panel("table", title, description, "none", empty, [found], width=24, overrides=overrides)


def variable(name: str, label: str, metric: str, of: str) -> Json:
    """A choice among the values of a label; all by default."""
    query = f"label_values({metric}, {of})"
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": PROMETHEUS,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard(uid: str, title: str, description: str, variables: list[Json], *rows: Json) -> Json:
    """A dashboard in the classic format, its panels laid out from left to right."""
    x = y = height = 0
    for number, each in enumerate(rows, 1):
        place = each["gridPos"]
        if x + place["w"] > 24:
            x, y, height = 0, y + height, 0
        each |= {"id": number, "gridPos": {**place, "x": x, "y": y}}
        x, height = x + place["w"], max(height, place["h"])
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["otel-bridge"],
        "schemaVersion": 42,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "tags": ["otel-bridge"],
                "title": "OTel Bridge",
                "asDropdown": True,
            }
        ],
        "templating": {"list": variables},
        "annotations": {"list": []},
        "panels": list(rows),
    }


def batches() -> Json:
    """What runs, what ended how, what expires soon."""
    langsmith = {
        "type": "textbox",
        "name": "langsmith",
        "label": "LangSmith project URL",
        "description": "As in the browser: https://smith.langchain.com/o/…/projects/p/…",
        "query": "https://smith.langchain.com",
        "current": {"value": "https://smith.langchain.com"},
    }
    run_link = {
        "matcher": {"id": "byName", "options": "langsmith.span.id"},
        "properties": [
            {
                "id": "links",
                "value": [
                    {
                        "title": "Run in LangSmith",
                        "url": "${langsmith:raw}/r/${__value.raw}?poll=true",
                        "targetBlank": True,
                    }
                ],
            }
        ],
    }
    ended = "No batch ended in this time"
    waiting = "No batch is waited for"
    return dashboard(
        "otel-bridge-batches",
        "OTel Bridge: batches",
        "Anthropic Message Batches: running, ended, failed, about to expire.",
        [variable("service", "Service", ACTIVE, "job"), langsmith],
        stat(
            "Running",
            "Batches that some process waits for now.",
            "short",
            "No service reports batches",
            f"sum({ACTIVE}{{{SERVICE}}})",
        ),
        stat(
            "Submitted",
            "Batches created in this time.",
            "short",
            "No batch was submitted in this time",
            grown(SUBMITTED, SERVICE),
        ),
        stat(
            "Ended",
            "Batches that ended and were read.",
            "short",
            ended,
            grown(f"{DURATION}_count", SERVICE),
        ),
        stat(
            "Requests that failed",
            "Requests that errored, expired or were canceled; only what succeeds is billed.",
            "percentunit",
            ended,
            share(grown(REQUESTS, FAILED), grown(REQUESTS, SERVICE)),
            thresholds=(("green", None), ("orange", 0.01), ("red", 0.05)),
        ),
        stat(
            "Oldest running",
            "Age of the oldest batch that is waited for. Most end within an hour.",
            "s",
            waiting,
            f"max({running(AGE)})",
            thresholds=(("green", None), ("orange", 6 * 3600), ("red", 20 * 3600)),
        ),
        stat(
            "Next expiry",
            "Time until the first waiting batch expires, 24 h after its creation.",
            "s",
            waiting,
            f"min({running(EXPIRY)})",
            thresholds=(("red", None), ("orange", 4 * 3600), ("green", 12 * 3600)),
        ),
        graph(
            "Running by service",
            "Batches that are waited for.",
            "short",
            "No service reports batches",
            target(f"sum by (job) ({ACTIVE}{{{SERVICE}}})", "{{job}}"),
        ),
        graph(
            "Expiring soon",
            "Time until each service's first waiting batch expires.",
            "s",
            waiting,
            target(f"min by (job) ({running(EXPIRY)})", "{{job}}"),
        ),
        graph(
            "Requests by outcome, per hour",
            "Of batches that ended within an hour. Diamonds are exemplars: they lead to traces.",
            "short",
            ended,
            target(grown(REQUESTS, SERVICE, OUTCOME, HOUR), f"{{{{{OUTCOME}}}}}"),
        ),
        bars(
            "Failures by error type",
            "Requests that did not succeed, by what the API said of them.",
            "short",
            "No request failed in this time",
            grown(REQUESTS, FAILED, "error_type"),
            "{{error_type}}",
        ),
        graph(
            "Duration",
            "Time from a batch's creation to its end, of batches that ended within the last hour.",
            "s",
            ended,
            *(
                target(
                    quantile(part, grown(f"{DURATION}_bucket", SERVICE, "le", HOUR)),
                    name,
                )
                for part, name in ((0.5, "half took less than"), (0.95, "95% took less than"))
            ),
        ),
        bars(
            "Batches by duration",
            "Ended batches by duration; each bar is named by the seconds that they took at most.",
            "short",
            ended,
            grown(f"{DURATION}_bucket", SERVICE, "le"),
            "{{le}}",
            format="heatmap",
        ),
        traces(
            "Batches",
            "Batch spans in Tempo; the span id leads to the trace, langsmith.span.id to the run, "
            "if the service sends LangSmith runs.",
            '{ span.gen_ai.operation.name = "batch" } | select(span.anthropic.message.batch.id, '
            "span.anthropic.message.batch.request_count, "
            "span.anthropic.message.batch.succeeded_count, span.anthropic.message.batch.cost, "
            "span.langsmith.span.id)",
            run_link,
        ),
        traces(
            "Failed requests",
            "Request spans in Tempo that did not succeed, up to 100 of a trace; the span id leads "
            "to the trace, langsmith.span.id to the run, if the service sends LangSmith runs.",
            '{ span.gen_ai.operation.name = "chat" && status = error } | '
            "select(span.anthropic.message.batch.custom_id, span.error.type, "
            "span.gen_ai.request.model, span.langsmith.span.id)",
            run_link,
        ),
    )


def cost() -> Json:
    """Tokens, what they cost, and what they would have cost otherwise."""
    spent, counted = grown(f"{COST}_sum", MODEL), grown(f"{COST}_count", MODEL)
    none = "No request was answered in this time"
    sides = (("model", "gen_ai_request_model"), ("service", "job"))
    return dashboard(
        "otel-bridge-cost",
        "OTel Bridge: tokens and cost",
        "Tokens by type and cost in USD at batch price, by model and service.",
        [
            variable("service", "Service", ACTIVE, "job"),
            variable("model", "Model", f"{COST}_count", "gen_ai_request_model"),
        ],
        stat("Cost", "Cost of what was answered in this time.", "currencyUSD", none, spent),
        stat(
            "Per 1,000 requests",
            "Cost of 1,000 answered requests on average.",
            "currencyUSD",
            none,
            f"1000 * {spent} / ({counted} > 0)",
        ),
        stat(
            "Saved against list price",
            "What the same requests would have cost one by one, less what they cost as batches.",
            "currencyUSD",
            none,
            f"{grown(AT_LIST, MODEL)} - {spent}",
        ),
        stat(
            "Saved by the cache",
            "What they would have cost uncached, less their cost; below 0 if little is read again.",
            "currencyUSD",
            none,
            f"{grown(UNCACHED, MODEL)} - {spent}",
            thresholds=(("red", None), ("green", 0)),
        ),
        stat(
            "Cache hits",
            "Share of input tokens that was read from the prompt cache.",
            "percentunit",
            none,
            share(grown(CACHE_READ, MODEL), grown(INPUT, MODEL)),
        ),
        stat(
            "Tokens",
            "Input and output tokens, cached ones included.",
            "short",
            none,
            f"{grown(INPUT, MODEL)} + {grown(OUTPUT, MODEL)}",
        ),
        *(
            graph(
                f"Cost per hour by {name}",
                "Cost of what was answered within the last hour.",
                "currencyUSD",
                none,
                target(grown(f"{COST}_sum", MODEL, label, HOUR), f"{{{{{label}}}}}"),
            )
            for name, label in sides
        ),
        *(
            bars(
                f"Cost by {name}",
                "Cost in this time.",
                "currencyUSD",
                none,
                grown(f"{COST}_sum", MODEL, label),
                f"{{{{{label}}}}}",
            )
            for name, label in sides
        ),
        *(
            bars(
                f"Tokens by {name}",
                "Input and output tokens in this time, cached ones included.",
                "short",
                none,
                f"{grown(INPUT, MODEL, label)} + {grown(OUTPUT, MODEL, label)}",
                f"{{{{{label}}}}}",
            )
            for name, label in sides
        ),
        graph(
            "Tokens per hour by type",
            "Cache reads and writes are part of the input, reasoning is part of the output.",
            "short",
            none,
            *(
                target(grown(metric, MODEL, "", HOUR), name)
                for metric, name in (
                    (INPUT, "input"),
                    (CACHE_READ, "of it read from cache"),
                    (CACHE_WRITE, "of it written to cache"),
                    (OUTPUT, "output"),
                    (REASONING, "of it reasoning"),
                )
            ),
        ),
        graph(
            "Cost per request",
            "Of what was answered within an hour. Diamonds are exemplars: they lead to traces.",
            "currencyUSD",
            none,
            *(
                target(quantile(part, grown(f"{COST}_bucket", MODEL, "le", HOUR)), name)
                for part, name in ((0.5, "half cost less than"), (0.95, "95% cost less than"))
            ),
        ),
        graph(
            "Tokens per request",
            "What 95% of the requests answered within the last hour stay below.",
            "short",
            none,
            *(
                target(
                    quantile(0.95, grown(PER_REQUEST.format(side=side), MODEL, "le", HOUR)),
                    side,
                )
                for side in ("input", "output")
            ),
        ),
    )


def health() -> Json:
    """Whether telemetry itself arrives."""
    quiet = "No service reports its mirror"
    collector = "Prometheus scrapes no collector"
    return dashboard(
        "otel-bridge-health",
        "OTel Bridge: bridge health",
        "What became of runs and spans, and how full the queues are.",
        [variable("service", "Service", ACTIVE, "job")],
        stat(
            "Runs sent",
            "Posts and patches of runs that LangSmith took.",
            "short",
            quiet,
            grown(RUNS, f'{SERVICE},otel_bridge_langsmith_outcome="sent"'),
        ),
        stat(
            "Runs refused or dropped",
            "What LangSmith will never take, and what found no room in the spool.",
            "short",
            quiet,
            grown(RUNS, f'{SERVICE},otel_bridge_langsmith_outcome!="sent"'),
            thresholds=(("green", None), ("red", 1)),
        ),
        stat(
            "Runs that wait",
            "In memory or in the spool; they are sent when LangSmith answers again.",
            "short",
            quiet,
            f"sum(otel_bridge_langsmith_waiting{{{SERVICE}}})",
            thresholds=(("green", None), ("orange", 1000)),
        ),
        stat(
            "Spooled runs",
            "Of those that wait, the ones that are on disk and outlive their process.",
            "short",
            quiet,
            f"sum(otel_bridge_langsmith_spooled{{{SERVICE}}})",
        ),
        stat(
            "Spool",
            "Bytes on disk, refused runs included; the largest of all services.",
            "bytes",
            quiet,
            f"max(otel_bridge_langsmith_spool_size_bytes{{{SERVICE}}})",
        ),
        stat(
            "Losses of spans",
            "Times that OpenTelemetry said that a queue was full or an export failed.",
            "short",
            "No service reports its spans",
            grown("otel_bridge_spans_dropped_total", SERVICE),
            thresholds=(("green", None), ("red", 1)),
        ),
        graph(
            "Runs per hour by fate",
            "Posts and patches of runs within the last hour.",
            "short",
            quiet,
            target(
                grown(RUNS, SERVICE, "otel_bridge_langsmith_outcome", HOUR),
                "{{otel_bridge_langsmith_outcome}}",
            ),
        ),
        graph(
            "Spool by service",
            "Bytes on disk.",
            "bytes",
            quiet,
            target(
                f"max by (job) (otel_bridge_langsmith_spool_size_bytes{{{SERVICE}}})", "{{job}}"
            ),
        ),
        graph(
            "Collector queues",
            "How full the queue of each exporter is, on disk.",
            "percentunit",
            collector,
            target(
                "max by (exporter, data_type) "
                "(otelcol_exporter_queue_size / otelcol_exporter_queue_capacity)",
                "{{exporter}} {{data_type}}",
            ),
        ),
        graph(
            "Collector refuses",
            "Spans and data points a second that were refused, since memory or a queue was full.",
            "short",
            collector,
            target("sum(rate(otelcol_receiver_refused_spans_total[$__rate_interval]))", "spans"),
            target(
                "sum(rate(otelcol_receiver_refused_metric_points_total[$__rate_interval]))",
                "data points",
            ),
        ),
        graph(
            "Collector sends",
            "Spans that each exporter sent within the last hour.",
            "short",
            collector,
            target(
                grown("otelcol_exporter_sent_spans_total", "", "exporter", HOUR), "{{exporter}}"
            ),
        ),
        graph(
            "Collector gave up",
            "Spans and data points within the last hour that a backend refused for good.",
            "short",
            "No exporter gave anything up",
            *(
                target(
                    grown(f"otelcol_exporter_send_failed_{what}_total", "", "exporter", HOUR),
                    f"{{{{exporter}}}} {what}",
                )
                for what in ("spans", "metric_points")
            ),
        ),
        graph(
            "Collector memory",
            "Resident memory; at the limiter's bound it refuses.",
            "bytes",
            collector,
            target("max by (instance) (otelcol_process_memory_rss_bytes)", "{{instance}}"),
        ),
    )


def generated() -> dict[str, str]:
    """Each dashboard's file name and what it holds."""
    return {
        f"{each['uid']}.json": json.dumps(each, indent=1, ensure_ascii=False) + "\n"
        for each in (batches(), cost(), health())
    }


if __name__ == "__main__":
    for name, text in generated().items():
        (DIRECTORY / name).write_text(text)
