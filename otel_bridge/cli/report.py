"""A report of batches from the journal: Markdown, or HTML that needs nothing else."""

from __future__ import annotations

import html as escaping
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from otel_bridge.cli import charts
from otel_bridge.domain.usage import TokenUsage

_SLOWEST = 10


@dataclass(slots=True)
class Money:
    """USD: paid, the same at list price, the same had nothing been cached; None if unknown."""

    cost: float | None = 0.0
    list_cost: float | None = 0.0
    uncached_cost: float | None = 0.0

    def add(self, other: Mapping[str, Any]) -> None:
        for name in ("cost", "list_cost", "uncached_cost"):
            mine, more = getattr(self, name), other.get(name)
            setattr(self, name, None if mine is None or more is None else mine + more)


@dataclass(slots=True)
class Line:
    """One batch, or one model."""

    name: str
    requests: int = 0
    usage: TokenUsage = field(default_factory=TokenUsage)
    money: Money = field(default_factory=Money)
    seconds: float = 0.0
    succeeded: int = 0


@dataclass(slots=True)
class Report:
    """Batches, the oldest first, and their sums."""

    batches: list[Line]
    models: dict[str, Line]
    outcomes: Counter[str]
    errors: Counter[str]
    usage: TokenUsage
    money: Money
    days: dict[str, float]
    first: str | None
    last: str | None

    @classmethod
    def of(cls, totals: Mapping[str, Mapping[str, Any]], since: datetime | None) -> Report:
        """Sum up what the journal has of batches created at `since` or later."""
        report = cls([], {}, Counter(), Counter(), TokenUsage(), Money(), {}, None, None)
        for batch_id, each in sorted(totals.items(), key=lambda item: str(item[1]["created_at"])):
            if since is None or datetime.fromisoformat(each["created_at"]) >= since:
                report._take(batch_id, each)
        return report

    def _take(self, batch_id: str, totals: Mapping[str, Any]) -> None:
        created = datetime.fromisoformat(totals["created_at"])
        ended = datetime.fromisoformat(totals["ended_at"] or totals["created_at"])
        line = Line(batch_id, totals["requests"], seconds=(ended - created).total_seconds())
        for kind, error, count in totals["outcomes"]:
            self.outcomes[kind] += count
            if kind == "succeeded":
                line.succeeded += count
            else:
                self.errors[error or kind] += count
        for model, told in totals["models"].items():
            usage = TokenUsage(**told["usage"])
            summed = self.models.setdefault(model, Line(model))
            summed.requests += told["answers"]
            summed.usage += usage
            line.usage += usage
            for money in (summed.money, line.money, self.money):
                money.add(told)
        self.usage += line.usage
        self.batches.append(line)
        day = f"{created:%Y-%m-%d}"
        self.days[day] = self.days.get(day, 0.0) + (line.money.cost or 0.0)
        self.first, self.last = self.first or day, day

    @property
    def slowest(self) -> list[Line]:
        """The batches that took longest, the slowest first."""
        return sorted(self.batches, key=lambda line: -line.seconds)[:_SLOWEST]

    @property
    def requests(self) -> int:
        """Number of requests in all batches."""
        return sum(line.requests for line in self.batches)

    def to_dict(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "batches": [asdict(line) for line in self.batches],
            "models": {model: asdict(line) for model, line in self.models.items()},
            "requests": self.requests,
            "outcomes": dict(self.outcomes),
            "errors": dict(self.errors),
            "usage": asdict(self.usage),
            **asdict(self.money),
            "cost_by_day": self.days,
        }


def dollars(amount: float | None) -> str:
    """An amount as people read it; what is not known is said to be so."""
    if amount is None:
        return "unknown"
    return f"${amount:,.2f}" if amount >= 100 else f"${amount:,.4f}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


_Row = tuple[str, float, str]


def _title(report: Report) -> str:
    if not report.batches:
        return "No batch was recorded"
    batches = f"{len(report.batches):,} batches, {report.requests:,} requests"
    return f"{batches}, {report.first} to {report.last}"


def _sections(report: Report) -> Iterable[tuple[str, list[_Row]]]:
    """Each chart of the report: its title, and label, value and text of its bars."""
    yield "Outcomes", [(kind, count, f"{count:,}") for kind, count in report.outcomes.most_common()]
    yield "Failures", [(kind, count, f"{count:,}") for kind, count in report.errors.most_common()]
    usage = asdict(report.usage)
    yield "Tokens", [(name, count, f"{count:,}") for name, count in usage.items() if count]
    money = (
        ("paid", report.money.cost),
        ("at list price", report.money.list_cost),
        ("without cache", report.money.uncached_cost),
    )
    costs = [(name, amount or 0.0, dollars(amount)) for name, amount in money]
    yield "Cost", costs if report.batches else []
    yield "Cost by day", [(day, cost, dollars(cost)) for day, cost in report.days.items()]
    yield (
        "Slowest batches",
        [(line.name, line.seconds, duration(line.seconds)) for line in report.slowest],
    )


_HEADINGS = ("", "requests", "input tokens", "output tokens", "paid", "list", "without cache")


def _row(line: Line) -> tuple[str, ...]:
    return (
        line.name,
        f"{line.requests:,}",
        f"{line.usage.total_input_tokens:,}",
        f"{line.usage.output_tokens:,}",
        dollars(line.money.cost),
        dollars(line.money.list_cost),
        dollars(line.money.uncached_cost),
    )


def _tables(report: Report) -> Iterable[tuple[str, list[tuple[str, ...]]]]:
    yield "Models", [_row(line) for line in report.models.values()]
    yield "Batches", [_row(line) for line in report.batches]


def markdown(report: Report) -> str:
    """The report as Markdown, its charts as bars of text."""
    parts = ["# Message Batches", "", _title(report)]
    for title, rows in _sections(report):
        if rows:
            parts += ["", f"## {title}", "", "| | | |", "|---|---:|:---|"]
            parts += [f"| {a} | {text} | {charts.text_bar(b, rows)} |" for a, b, text in rows]
    for title, lines in _tables(report):
        if lines:
            parts += ["", f"## {title}", "", f"| {' | '.join(_HEADINGS)} |"]
            parts += ["|---|" + "---:|" * (len(_HEADINGS) - 1)]
            parts += [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join(parts) + "\n"


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: #1f2328; background: #fff; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #d8dee4; text-align: right; }
th:first-child, td:first-child { text-align: left; }
svg { width: 100%; height: auto; }
svg text { font: 13px system-ui, sans-serif; fill: #1f2328; }
"""


def html(report: Report) -> str:
    """The report as one HTML page, its charts as SVG within it."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>Message Batches</title><style>{_STYLE}</style></head><body>",
        f"<h1>Message Batches</h1><p>{escaping.escape(_title(report))}</p>",
    ]
    for title, rows in _sections(report):
        if rows:
            parts.append(f"<h2>{title}</h2>{charts.bars(title, rows)}")
    for title, lines in _tables(report):
        if lines:
            parts.append(f"<h2>{title}</h2>{_html_table(lines)}")
    parts.append("</body></html>\n")
    return "\n".join(parts)


def _html_table(lines: list[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in _HEADINGS)
    body = "".join(
        f"<tr>{''.join(f'<td>{escaping.escape(cell)}</td>' for cell in line)}</tr>"
        for line in lines
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
