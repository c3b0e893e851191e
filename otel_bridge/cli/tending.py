"""The commands around a run: before it, while it goes on, after it, and what is amiss."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import click
import orjson
from rich.console import Console

from otel_bridge.batches import SAMPLE, BatchExecutor
from otel_bridge.cli import render
from otel_bridge.cli import report as reporting
from otel_bridge.cli import watch as watching
from otel_bridge.cli.options import (
    FAILED,
    Ago,
    check_output,
    guarded_command,
    json_option,
    leave,
    read_requests,
)
from otel_bridge.cli.session import Session
from otel_bridge.config import Settings
from otel_bridge.errors import (
    ConfigurationError,
    DeliveryError,
)
from otel_bridge.journal import journal_in
from otel_bridge.langsmith import Delivery, LeftBehind


@click.command()
@click.argument("file")
@click.option("--all", "every", is_flag=True, help="Count every request, not a sample.")
@click.option("--sample", default=SAMPLE, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--output-tokens",
    default=0,
    type=click.IntRange(min=0),
    help="What an answer is expected to have at least.",
)
@json_option
@guarded_command
def estimate(file: str, every: bool, sample: int, output_tokens: int, as_json: bool) -> None:
    """Tell what the requests in FILE will cost; nothing is submitted."""
    requests = read_requests(file)
    executor = _silent_executor()
    found = executor.estimate(
        requests, sample=None if every else sample, output_tokens=output_tokens
    )
    if as_json:
        click.echo(orjson.dumps(found.to_dict()))
    else:
        render.print_estimate(Console(), found)
    leave(0)


def _silent_executor() -> BatchExecutor:
    """For a command that emits nothing."""
    settings = Settings.from_env(strict=True)
    return BatchExecutor(settings=dataclasses.replace(settings, langsmith_tracing=False))


@click.command()
@click.argument("batches", nargs=-1)
@json_option
@guarded_command
def watch(batches: tuple[str, ...], as_json: bool) -> None:
    """Show BATCHES until they end, or all that have not; nothing is collected."""
    executor = _silent_executor()
    told = watching.watch(executor, batches, Console(stderr=True))
    if as_json:
        click.echo(orjson.dumps({"batches": told}))
    elif not told:
        click.echo("otel-bridge: no batch is in progress", err=True)
    leave(0)


@click.command()
@click.argument("batches", nargs=-1)
@click.option("--since", type=Ago(), help="All batches younger than this, for instance 7d.")
@click.option(
    "--shift-times",
    is_flag=True,
    help="Show them within the last day, where a backend refuses old times.",
)
@json_option
@guarded_command
def backfill(
    batches: tuple[str, ...], since: datetime | None, shift_times: bool, as_json: bool
) -> None:
    """Tell of BATCHES that ran without the bridge, at the times they ran; safe to repeat."""
    if not batches and since is None:
        raise ConfigurationError("there is nothing to tell of; name batches, or --since 7d")
    session = Session(as_json=as_json)
    done = []
    for each in session.executor.backfill(batches, since=since, shift_times=shift_times):
        done.append(each)
        reason = f" ({each.reason})" if each.reason else ""
        click.echo(f"{each.id}: {each.state}, {each.requests} requests{reason}", err=True)
    reports = session.telemetry.finish()
    backends = {report.name.lower(): report.to_dict() for report in reports}
    if as_json:
        told = [each.to_dict() for each in done]
        click.echo(orjson.dumps({"batches": told, "backends": backends}))
    for report in reports:
        if report.complaint:
            click.echo(f"otel-bridge: {report.complaint}", err=True)
    leave(FAILED if any(each.state == "failed" for each in done) else 0)


@click.command()
@click.option("--since", type=Ago(), help="Batches younger than this; all by default.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="File; .html, or Markdown.")
@json_option
@guarded_command
def report(since: datetime | None, output: str | None, as_json: bool) -> None:
    """Report what batches came to, from the journal: outcomes, tokens, cost, the slowest."""
    check_output(output, as_json=False)
    settings = Settings.from_env(strict=True)
    found = reporting.Report.of(journal_in(settings.state_dir).totals(), since)
    if as_json:
        click.echo(orjson.dumps(found.to_dict()))
    elif output is None:
        click.echo(reporting.markdown(found), nl=False)
    if output is not None:
        html = output.endswith((".html", ".htm"))
        Path(output).write_text(reporting.html(found) if html else reporting.markdown(found))
    leave(0)


@click.command()
@json_option
@click.option("--refused", is_flag=True, help="Also what LangSmith refused, once that is mended.")
@click.option(
    "--other-keys",
    is_flag=True,
    help="Also what was meant for another key or workspace at this endpoint.",
)
@guarded_command
def replay(as_json: bool, refused: bool, other_keys: bool) -> None:
    """Send to LangSmith what is spooled for this endpoint, key and workspace."""
    settings = Settings.from_env(strict=True)
    logging.getLogger("otel_bridge.langsmith.delivery").setLevel(logging.ERROR)
    delivery = Delivery(state_dir=settings.state_dir)
    delivery.adopt(refused=refused, other_keys=other_keys)
    before = 0
    while (waiting := delivery.replayed.held_back) and waiting != before:
        before = waiting
        delivery.flush(10.0)
    report, left = delivery.replayed, delivery.left
    delivery.close(0.0)
    if as_json:
        told = dataclasses.asdict(report) | {"left": dataclasses.asdict(left)}
        click.echo(orjson.dumps({**told, "endpoint": delivery.endpoint}))
    else:
        click.echo(f"{report.sent} run updates sent to {delivery.endpoint}")
    for line in _remain(left):
        click.echo(f"otel-bridge: {line}", err=True)
    if report.held_back or report.refused:
        raise DeliveryError(
            f"LangSmith at {delivery.endpoint}: {report.held_back} run updates still wait, "
            f"{report.refused} were refused ({report.reason}); check LANGSMITH_ENDPOINT and "
            "LANGSMITH_API_KEY"
        )
    leave(0)


def _remain(left: LeftBehind) -> Iterator[str]:
    """What is still on disk, and what sends it."""
    if left.refused:
        yield (
            f"{left.refused} run updates are set apart as refused; once that is mended, "
            "`otel-bridge replay --refused` sends them"
        )
    if left.other_keys:
        yield (
            f"{left.other_keys} run updates are another key's or workspace's; set "
            "LANGSMITH_API_KEY and LANGSMITH_WORKSPACE_ID to theirs, or send them with these by "
            "`otel-bridge replay --other-keys`"
        )
    if left.other_endpoints:
        yield f"{left.other_endpoints} run updates wait for another LANGSMITH_ENDPOINT"


@click.command()
@json_option
@guarded_command
def doctor(as_json: bool) -> None:
    """Tell what is configured, what answers and what is missing; exit with 1 or 2 for faults."""
    from otel_bridge.cli.checks import print_checks, status_of  # noqa: PLC0415 - for this alone
    from otel_bridge.cli.doctor import examine  # noqa: PLC0415

    logging.disable(logging.WARNING)
    checks = examine()
    status = status_of(checks)
    if as_json:
        told = [check.to_dict() for check in checks]
        click.echo(orjson.dumps({"status": status, "checks": told}))
    else:
        print_checks(Console(), checks)
    leave(status)


TENDING = (estimate, watch, backfill, report, replay, doctor)
