"""What commands print: JSON, a progress bar, the summary of a run, an estimate."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import orjson
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from otel_bridge import identity
from otel_bridge.domain.batch import OUTCOMES
from otel_bridge.domain.usage import TokenUsage

if TYPE_CHECKING:
    from rich.console import Console

    from otel_bridge.batches import BatchHandle, Estimate
    from otel_bridge.cli.telemetry import BackendReport
    from otel_bridge.domain.batch import BatchInfo
    from otel_bridge.langsmith import LangSmithSpanProcessor
    from otel_bridge.telemetry import BatchRecording


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout, in UTF-8 whatever the terminal's encoding is."""
    sys.stdout.buffer.write(orjson.dumps(value) + b"\n")
    sys.stdout.buffer.flush()


class _Elapsed(ProgressColumn):
    """The time since a batch was created, or between its creation and its end."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields["batch"].elapsed).split(".", maxsplit=1)[0])


class Progress:
    """Shows the state of batches: bars on a terminal, else a line on stderr for each change.

    The API counts requests only when a batch has ended, so a bar is empty until then.
    """

    def __init__(self, console: Console) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            _Elapsed(),
            console=console,
            disable=not console.is_terminal,
            transient=False,
        )
        self._tasks: dict[str, Any] = {}
        self._states: dict[str, str] = {}
        self._console = console

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, batch: BatchInfo) -> None:
        """Show a batch as the API describes it now."""
        if self._states.get(batch.id) != batch.status and not self._console.is_terminal:
            print(f"{batch.id}: {batch.status}, {batch.request_count} requests", file=sys.stderr)
        self._states[batch.id] = batch.status
        task = self._tasks.get(batch.id)
        if task is None:
            task = self._bar.add_task(batch.id, total=None, state=batch.status, batch=batch)
            self._tasks[batch.id] = task
        if batch.status == "ended":
            done = batch.counts.get("succeeded", 0)
            state = f"ended, {done} of {batch.request_count} succeeded"
            self._bar.update(task, total=1, completed=1, state=state, batch=batch)
            return
        left = (batch.expires_at - datetime.now(UTC)) if batch.expires_at else None
        expiry = f", expires in {str(left).split('.')[0]}" if left else ""
        self._bar.update(
            task, batch=batch, state=f"{batch.status}, {batch.request_count} requests{expiry}"
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcomes, usage, cost and exports of a run's batches."""

    batches: list[str]
    requests: int
    attempts: int
    outcomes: dict[str, int]
    usage: TokenUsage
    cost_usd: float | None
    trace_id: str | None
    run_url: str | None
    backends: Sequence[BackendReport]

    @classmethod
    def of(
        cls,
        handles: Sequence[BatchHandle],
        outcomes: Mapping[str, int],
        attempts: int,
        backends: Sequence[BackendReport],
        langsmith: LangSmithSpanProcessor | None,
    ) -> Summary:
        """Sum the recordings of collected batches; `outcomes` counts requests by outcome."""
        recordings = [handle.recording for handle in handles if handle.recording]
        usage = TokenUsage()
        costs = []
        for recording in recordings:
            usage += recording.usage
            costs.append(recording.cost)
        first = recordings[0] if recordings else None
        # No sum is better than one with a part that is not known.
        known = [cost for cost in costs if cost is not None]
        return cls(
            [handle.id for handle in handles],
            sum(each.batch.request_count for each in first_attempts(handles)),
            attempts,
            {**dict.fromkeys(OUTCOMES, 0), **outcomes},
            usage,
            sum(cost.total_cost for cost in known) if len(known) == len(costs) > 0 else None,
            first.trace_id if first else None,
            _run_url(first, langsmith),
            backends,
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the object that `--json` prints."""
        return {
            "batches": self.batches,
            "requests": self.requests,
            "attempts": self.attempts,
            **self.outcomes,
            "usage": usage_dict(self.usage),
            "cost_usd": self.cost_usd,
            "trace_id": self.trace_id,
            "langsmith_run_url": self.run_url,
            "backends": {backend.name.lower(): backend.to_dict() for backend in self.backends},
        }


def first_attempts(handles: Sequence[BatchHandle]) -> list[BatchRecording]:
    """Give the recordings of the first attempt among these batches."""
    recordings = [handle.recording for handle in handles if handle.recording]
    first = min((each.attempt for each in recordings), default=1)
    return [each for each in recordings if each.attempt == first]


def usage_dict(usage: TokenUsage) -> dict[str, int]:
    """Give the tokens by type, named as the API names them."""
    return {name: getattr(usage, name) for name in TokenUsage.__dataclass_fields__}


def _run_url(
    recording: BatchRecording | None, langsmith: LangSmithSpanProcessor | None
) -> str | None:
    delivery = langsmith.delivery if langsmith is not None else None
    if recording is None or langsmith is None or delivery is None or delivery.report.reason:
        return None
    batch = recording.batch
    run = identity.run_id(identity.batch_span_id(batch.id), batch.start_ns)
    return delivery.run_url(run, langsmith.settings.langsmith_project)


def print_summary(console: Console, summary: Summary) -> None:
    """Print a summary as a table, the trace and the LangSmith run below it."""
    table = Table(title="Message Batch", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for kind, count in summary.outcomes.items():
        table.add_row(kind, f"{count:,}")
    if summary.attempts > 1:
        table.add_row("attempts", str(summary.attempts))
    for name, tokens in usage_dict(summary.usage).items():
        if tokens:
            table.add_row(name, f"{tokens:,}")
    cost = "unknown" if summary.cost_usd is None else f"${summary.cost_usd:.6f}"
    table.add_row("cost", cost)
    console.print(table)
    if summary.trace_id:
        console.print(f"trace {summary.trace_id}", highlight=False)
    if summary.run_url:
        console.print(f"LangSmith {summary.run_url}", highlight=False, soft_wrap=True)
    for backend in summary.backends:
        if backend.complaint:
            continue
        console.print(f"{backend.name}: {backend.sent} {backend.unit} sent", highlight=False)


def print_estimate(console: Console, estimate: Estimate) -> None:
    """Print an estimate as a table of ranges."""
    table = Table(title="Estimate at batch price", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("requests", f"{estimate.requests:,}")
    table.add_row("counted by the API", f"{estimate.counted:,}")
    table.add_row("input tokens", _range(estimate.input_tokens_low, estimate.input_tokens_high))
    table.add_row("output tokens", _range(estimate.output_tokens_low, estimate.output_tokens_high))
    if estimate.cost_low is None or estimate.cost_high is None:
        cost = f"unknown: {', '.join(estimate.unpriced)}"
    else:
        cost = f"${estimate.cost_low:,.4f} to ${estimate.cost_high:,.4f}"
    table.add_row("cost", cost)
    console.print(table)


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
