"""The commands and their options."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import click
import orjson
from rich.console import Console

from otel_bridge.batches import (
    SAMPLE,
    BatchExecutor,
    BatchHandle,
    read_requests,
)
from otel_bridge.cli import render
from otel_bridge.cli import report as reporting
from otel_bridge.cli import watch as watching
from otel_bridge.cli.results import is_parquet
from otel_bridge.cli.session import Session, terminated
from otel_bridge.config import Settings
from otel_bridge.errors import (
    BridgeError,
    ConfigurationError,
    DeliveryError,
    PartialSubmissionError,
    RequestsError,
)
from otel_bridge.journal import journal_in
from otel_bridge.langsmith import Delivery
from otel_bridge.version import __version__

_UNITS = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
FAILED, WRONG, REQUESTS_FAILED = 1, 2, 3

_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
_output = click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    help="File for the results (JSONL, or Parquet by its name); stdout by default, "
    "BATCH_ID.jsonl with --json.",
)
_max_cost = click.option(
    "--max-cost",
    type=click.FloatRange(min=0, min_open=True),
    help="Submit nothing that may cost more than this many USD.",
)
_fail_on_error = click.option(
    "--fail-on-error", is_flag=True, help="Exit with 3 when a request failed."
)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Errors of ours are one line and a status, never a traceback."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except BridgeError as error:
            click.echo(f"otel-bridge: {error}", err=True)
            wrong = isinstance(error, (ConfigurationError, RequestsError))
            _leave(WRONG if wrong else FAILED)
        except KeyboardInterrupt:
            click.echo("otel-bridge: interrupted", err=True)
            _leave(FAILED)

    return call


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="otel-bridge")
def cli() -> None:
    """Anthropic Message Batches in OpenTelemetry and LangSmith."""
    logging.basicConfig(level=logging.WARNING, format="otel-bridge: %(message)s", stream=sys.stderr)
    logging.getLogger("anthropic").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, terminated)


def _check_output(output: str | None, *, as_json: bool) -> None:
    if output is None and not as_json:
        return
    is_parquet(output)
    place = Path(output or ".")
    try:
        if place.is_dir() and output is None:
            tempfile.TemporaryFile(dir=place).close()
        else:
            place.open("ab").close()
    except OSError as error:
        raise ConfigurationError(
            f"{place}: cannot be written ({error.strerror}); choose another --output"
        ) from error


@cli.command()
@click.argument("file")
@_output
@_max_cost
@_as_json
@_fail_on_error
@_command
def run(
    file: str, output: str | None, max_cost: float | None, as_json: bool, fail_on_error: bool
) -> None:
    """Run the requests in FILE (JSONL, - for stdin): submit, wait, collect, emit."""
    requests = read_requests(file)
    _check_output(output, as_json=as_json)
    session = Session(as_json=as_json, max_cost=max_cost)
    run = session.executor.start(requests)
    outcomes = session.write(run, run.handles, output)
    session.summarise(run.handles, outcomes, run.attempts)
    if run.lack:
        raise _to_go_on(run.lack)
    _leave(REQUESTS_FAILED if fail_on_error and _failed(outcomes) else 0)


@cli.command()
@click.argument("file")
@_max_cost
@_as_json
@_command
def submit(file: str, max_cost: float | None, as_json: bool) -> None:
    """Submit the requests in FILE and print what `collect` needs."""
    requests = read_requests(file)
    session = Session(as_json=as_json, max_cost=max_cost)
    handles, lack = session.submit(requests)
    reports = session.telemetry.finish()
    if as_json:
        click.echo(
            orjson.dumps(
                {
                    "batches": [handle.id for handle in handles],
                    "handles": [handle.to_dict() for handle in handles],
                    "backends": {report.name.lower(): report.to_dict() for report in reports},
                }
            )
        )
    else:
        for handle in handles:
            click.echo(handle.id)
    if lack:
        raise _to_go_on(lack)
    _leave(0)


@cli.command()
@click.argument("file")
@click.option("--all", "every", is_flag=True, help="Count every request, not a sample.")
@click.option("--sample", default=SAMPLE, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--output-tokens",
    default=0,
    type=click.IntRange(min=0),
    help="What an answer is expected to have at least.",
)
@_as_json
@_command
def estimate(file: str, every: bool, sample: int, output_tokens: int, as_json: bool) -> None:
    """Tell what the requests in FILE will cost; nothing is submitted."""
    requests = read_requests(file)
    executor = BatchExecutor(settings=Settings.from_env(strict=True))
    found = executor.estimate(
        requests, sample=None if every else sample, output_tokens=output_tokens
    )
    if as_json:
        click.echo(orjson.dumps(found.to_dict()))
    else:
        render.print_estimate(Console(), found)
    _leave(0)


@cli.command()
@click.argument("batch")
@_output
@_as_json
@_fail_on_error
@_command
def collect(batch: str, output: str | None, as_json: bool, fail_on_error: bool) -> None:
    """Wait for BATCH and collect it: a batch id, or the file that `submit --json` wrote."""
    handles = _handles(batch)
    _check_output(output, as_json=as_json)
    session = Session(as_json=as_json)
    results = itertools.chain.from_iterable(map(session.executor.collect, handles))
    outcomes = session.write(results, handles, output)
    session.summarise(handles, outcomes)
    _leave(REQUESTS_FAILED if fail_on_error and _failed(outcomes) else 0)


def _failed(outcomes: Mapping[str, int]) -> bool:
    return any(count for kind, count in outcomes.items() if kind != "succeeded")


def _to_go_on(lack: PartialSubmissionError) -> PartialSubmissionError:
    """The same, with the rest of the requests in a file."""
    path = Path(f"{lack.handles[0].id}.unsubmitted.jsonl")
    with path.open("wb") as file:
        file.writelines(orjson.dumps(each) + b"\n" for each in lack.unsubmitted)
    return PartialSubmissionError(f"{lack}; submit {path} to go on", lack.handles, lack.unsubmitted)


class _Ago(click.ParamType[Any]):
    """A moment, as how long ago it was."""

    name = "age"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        match = re.fullmatch(r"(\d+)([mhdw])", str(value))
        if match is None:
            self.fail(f"{value!r} is no age; use for instance 7d, 12h or 30m", param, ctx)
        return datetime.now(UTC) - int(match[1]) * _UNITS[match[2]]


@cli.command()
@click.argument("batches", nargs=-1)
@click.option("--since", type=_Ago(), help="All batches younger than this, for instance 7d.")
@click.option(
    "--shift-times",
    is_flag=True,
    help="Show them within the last day, where a backend refuses old times.",
)
@_as_json
@_command
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
    _leave(FAILED if any(each.state == "failed" for each in done) else 0)


@cli.command()
@click.option("--since", type=_Ago(), help="Batches younger than this; all by default.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="File; .html, or Markdown.")
@_as_json
@_command
def report(since: datetime | None, output: str | None, as_json: bool) -> None:
    """Report what batches came to, from the journal: outcomes, tokens, cost, the slowest."""
    _check_output(output, as_json=False)
    settings = Settings.from_env(strict=True)
    found = reporting.Report.of(journal_in(settings.state_dir).totals(), since)
    if as_json:
        click.echo(orjson.dumps(found.to_dict()))
    elif output is None:
        click.echo(reporting.markdown(found), nl=False)
    if output is not None:
        html = output.endswith((".html", ".htm"))
        Path(output).write_text(reporting.html(found) if html else reporting.markdown(found))
    _leave(0)


@cli.command()
@click.argument("batches", nargs=-1)
@_as_json
@_command
def watch(batches: tuple[str, ...], as_json: bool) -> None:
    """Show BATCHES until they end, or all that have not; nothing is collected."""
    executor = BatchExecutor(settings=Settings.from_env(strict=True))
    told = watching.watch(executor, batches, Console(stderr=True))
    if as_json:
        click.echo(orjson.dumps({"batches": told}))
    elif not told:
        click.echo("otel-bridge: no batch is in progress", err=True)
    _leave(0)


def _handles(batch: str) -> list[BatchHandle]:
    path = Path(batch)
    if not path.is_file():
        return [BatchHandle(batch, 0)]
    try:
        data = orjson.loads(path.read_bytes())
        return [BatchHandle.from_dict(each) for each in data["handles"]]
    except (orjson.JSONDecodeError, KeyError, TypeError, OSError) as error:
        raise ConfigurationError(
            f"{batch}: not what `otel-bridge submit --json` writes; pass that file or a batch id"
        ) from error


def _leave(status: int) -> NoReturn:
    """Leave without the SDK's own exit handlers, which wait for a dead backend once more."""
    telemetry = click.get_current_context().obj
    if telemetry is not None:
        telemetry.finish(patience=5.0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@cli.command()
@_as_json
@click.option("--refused", is_flag=True, help="Also what LangSmith refused, once that is mended.")
@_command
def replay(as_json: bool, refused: bool) -> None:
    """Send to LangSmith what is spooled."""
    settings = Settings.from_env(strict=True)
    logging.getLogger("otel_bridge.langsmith").setLevel(logging.ERROR)
    delivery = Delivery(state_dir=settings.state_dir)
    delivery.adopt(refused=refused)
    before = 0
    while (waiting := delivery.replayed.held_back) and waiting != before:
        before = waiting
        delivery.flush(10.0)
    report = delivery.replayed
    delivery.close(0.0)
    if as_json:
        click.echo(orjson.dumps({**dataclasses.asdict(report), "endpoint": delivery.endpoint}))
    else:
        click.echo(f"{report.sent} run updates sent to {delivery.endpoint}")
    if report.held_back or report.refused:
        raise DeliveryError(
            f"LangSmith at {delivery.endpoint}: {report.held_back} run updates still wait, "
            f"{report.refused} were refused ({report.reason}); check LANGSMITH_ENDPOINT and "
            "LANGSMITH_API_KEY"
        )
    _leave(0)


@cli.command()
@_as_json
@_command
def doctor(as_json: bool) -> None:
    """Tell what is configured, what answers and what is missing; exit with 1 or 2 for faults."""
    from otel_bridge.cli import doctor as examining  # noqa: PLC0415 - for this alone

    logging.disable(logging.WARNING)
    checks = examining.examine()
    status = examining.status_of(checks)
    if as_json:
        told = [check.to_dict() for check in checks]
        click.echo(orjson.dumps({"status": status, "checks": told}))
    else:
        examining.print_checks(Console(), checks)
    _leave(status)


@cli.command()
@_as_json
@click.option("--requests", "count", default=60, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--seconds", default=3.0, show_default=True, help="How long the batch takes.")
@_command
def demo(as_json: bool, count: int, seconds: float) -> None:
    """Show the whole thing with no key and no network, in a few seconds."""
    from otel_bridge.cli.demo import run_demo  # noqa: PLC0415 - the simulator is for this alone

    agreed = run_demo(count, seconds, as_json=as_json)
    sys.stdout.flush()
    os._exit(0 if agreed else FAILED)
