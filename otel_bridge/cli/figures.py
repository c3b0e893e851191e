"""The demo's figures: what the API answered, beside what each backend was told of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from otel_bridge import semconv
from otel_bridge.domain.pricing import price
from otel_bridge.domain.usage import TokenUsage

if TYPE_CHECKING:
    from otel_bridge.simulator import LangSmithCapture, OtlpCapture

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


@dataclass(frozen=True, slots=True)
class Row:
    """One figure as the API and each backend tell it."""

    name: str
    api: float
    spans: float
    metrics: float | None
    runs: float

    @property
    def agrees(self) -> bool:
        """Tokens and counts to the unit, cost to a billionth of a dollar."""
        others = [figure for figure in (self.spans, self.metrics, self.runs) if figure is not None]
        return all(math.isclose(self.api, other, rel_tol=0, abs_tol=1e-9) for other in others)

    def to_dict(self) -> dict[str, Any]:
        """The figure, JSON-ready."""
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
    """Tokens, cost and outcomes: the API's truth and results, and what two captures took."""
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


def table_of(rows: list[Row]) -> Table:
    """The figures side by side."""
    table = Table(title="One truth in every backend", title_justify="left")
    table.add_column("")
    for name in ("API", "OTLP spans", "OTLP metrics", "LangSmith"):
        table.add_column(name, justify="right")
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
