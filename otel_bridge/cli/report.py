"""The command report: batches from the journal as Markdown, or as one HTML page with charts."""

from __future__ import annotations

import html as escaping
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from otel_bridge.cli.render import print_json
from otel_bridge.cli.results import check_output
from otel_bridge.config import Settings
from otel_bridge.domain.usage import TokenUsage
from otel_bridge.errors import BridgeError
from otel_bridge.journal import journal_in

_SLOWEST = 10
_TEXT_WIDTH = 30
_LABEL, _BAR, _VALUE, _HEIGHT = 250, 500, 150, 26
_COLOURS = {
    "succeeded": "#1a7f37",
    "errored": "#cf222e",
    "expired": "#9a6700",
    "canceled": "#6e7781",
    "paid": "#1a7f37",
}

_Row = tuple[str, float, str]
"""The label, value and text of a bar."""


def report(*, since: datetime | None, output: str | None, as_json: bool) -> int:
    """Report the batches created at `since` or later, to a file or else to stdout."""
    if output is not None:
        check_output(output, as_json=as_json)
    settings = Settings.from_env(strict=True)
    found = Report.of(journal_in(settings.state_dir).totals(), since)
    if as_json:
        print_json(found.to_dict())
    elif output is None:
        print(markdown(found), end="")
    if output is not None:
        text = html(found) if output.endswith((".html", ".htm")) else markdown(found)
        try:
            Path(output).write_text(text, encoding="utf-8")
        except OSError as error:
            reason = error.strerror or error
            raise BridgeError(f"{output}: cannot be written ({reason})") from error
    return 0


@dataclass(slots=True)
class Money:
    """USD paid, the same at list price, and the same without any caching; None if unknown."""

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
    """Batches, the oldest first, and their sums by model, outcome, error and day."""

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
        """Sum the journal's totals of batches created at `since` or later."""
        report = cls([], {}, Counter(), Counter(), TokenUsage(), Money(), {}, None, None)
        for batch_id, each in sorted(totals.items(), key=lambda item: str(item[1]["created_at"])):
            if since is None or datetime.fromisoformat(each["created_at"]) >= since:
                report._add(batch_id, each)
        return report

    def _add(self, batch_id: str, totals: Mapping[str, Any]) -> None:
        created = datetime.fromisoformat(totals["created_at"])
        ended = datetime.fromisoformat(totals["ended_at"] or totals["created_at"])
        line = Line(batch_id, totals["requests"], seconds=(ended - created).total_seconds())
        for kind, error, count in totals["outcomes"]:
            self.outcomes[kind] += count
            if kind == "succeeded":
                line.succeeded += count
            else:
                self.errors[error or kind] += count
        for model, of_model in totals["models"].items():
            usage = TokenUsage(**of_model["usage"])
            summed = self.models.setdefault(model, Line(model))
            summed.requests += of_model["answers"]
            summed.usage += usage
            line.usage += usage
            for money in (summed.money, line.money, self.money):
                money.add(of_model)
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
    """Format an amount for people; None is "unknown"."""
    if amount is None:
        return "unknown"
    return f"${amount:,.2f}" if amount >= 100 else f"${amount:,.4f}"


def duration(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def _title(report: Report) -> str:
    if not report.batches:
        return "No batch was recorded"
    batches = f"{len(report.batches):,} batches, {report.requests:,} requests"
    return f"{batches}, {report.first} to {report.last}"


def _sections(report: Report) -> Iterable[tuple[str, list[_Row]]]:
    """Give each chart of the report: its title and its bars."""
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
    """Write the report as Markdown; its charts are bars of text."""
    parts = ["# Message Batches", "", _title(report)]
    for title, rows in _sections(report):
        if rows:
            parts += ["", f"## {title}", "", "| | | |", "|---|---:|:---|"]
            parts += [f"| {a} | {text} | {_text_bar(b, rows)} |" for a, b, text in rows]
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
    """Write the report as one HTML page that loads nothing; its charts are SVG."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>Message Batches</title><style>{_STYLE}</style></head><body>",
        f"<h1>Message Batches</h1><p>{escaping.escape(_title(report))}</p>",
    ]
    for title, rows in _sections(report):
        if rows:
            parts.append(f"<h2>{title}</h2>{bars(title, rows)}")
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


def _text_bar(value: float, rows: Sequence[_Row]) -> str:
    """Draw a bar of blocks; the largest of the rows has full width."""
    largest = max((row[1] for row in rows), default=0)
    return "█" * round(_TEXT_WIDTH * value / largest) if largest else ""


def bars(title: str, rows: Sequence[_Row]) -> str:
    """Draw horizontal bars with label and value, as an SVG element."""
    largest = max((row[1] for row in rows), default=0) or 1
    drawn = "".join(
        _bar(label, text, index, value / largest) for index, (label, value, text) in enumerate(rows)
    )
    width, height = _LABEL + _BAR + _VALUE, _HEIGHT * len(rows)
    described = escaping.escape(f"{title}: " + ", ".join(f"{row[0]} {row[2]}" for row in rows))
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{described}">{drawn}</svg>'


def _bar(label: str, text: str, index: int, share: float) -> str:
    top = _HEIGHT * index
    colour = _COLOURS.get(label, "#0969da")
    length = max(_BAR * share, 1)
    return (
        f'<text x="{_LABEL - 8}" y="{top + 18}" text-anchor="end">{escaping.escape(label)}</text>'
        f'<rect x="{_LABEL}" y="{top + 4}" width="{length:.1f}" height="{_HEIGHT - 8}" '
        f'fill="{colour}"/>'
        f'<text x="{_LABEL + length + 8:.1f}" y="{top + 18}">{escaping.escape(text)}</text>'
    )
