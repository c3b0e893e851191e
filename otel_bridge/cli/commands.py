"""The command line: running batches, and the commands around it."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import click
import orjson

from otel_bridge._core.json import as_object
from otel_bridge.batches import (
    BatchHandle,
    read_requests,
)
from otel_bridge.cli.options import (
    FAILED,
    REQUESTS_FAILED,
    check_output,
    fail_on_error_option,
    guarded_command,
    json_option,
    leave,
    max_cost_option,
    new_option,
    output_option,
)
from otel_bridge.cli.session import Session, terminated
from otel_bridge.cli.tending import TENDING
from otel_bridge.errors import (
    ConfigurationError,
    PartialSubmissionError,
)
from otel_bridge.version import __version__

logger = logging.getLogger(__name__)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="otel-bridge")
def cli() -> None:
    """Anthropic Message Batches in OpenTelemetry and LangSmith."""
    logging.basicConfig(level=logging.WARNING, format="otel-bridge: %(message)s", stream=sys.stderr)
    logging.getLogger("anthropic").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, terminated)


@cli.command()
@click.argument("file")
@output_option
@max_cost_option
@new_option
@json_option
@fail_on_error_option
@guarded_command
def run(
    file: str,
    output: str | None,
    max_cost: float | None,
    new: bool,
    as_json: bool,
    fail_on_error: bool,
) -> None:
    """Run the requests in FILE (JSONL, - for stdin): submit, wait, collect, emit."""
    requests = read_requests(file)
    check_output(output, as_json=as_json, source=file)
    session = Session(as_json=as_json, max_cost=max_cost)
    with session.creating():
        run = session.executor.start(requests, new=new)
    outcomes = session.write(run, run.handles, output)
    session.summarise(run.handles, outcomes, run.attempts)
    if run.submission_error:
        raise _to_go_on(run.submission_error)
    leave(REQUESTS_FAILED if fail_on_error and _failed(outcomes) else 0)


@cli.command()
@click.argument("file")
@max_cost_option
@new_option
@json_option
@guarded_command
def submit(file: str, max_cost: float | None, new: bool, as_json: bool) -> None:
    """Submit the requests in FILE and print what `collect` needs."""
    requests = read_requests(file)
    session = Session(as_json=as_json, max_cost=max_cost)
    handles, submission_error = session.submit(requests, new=new)
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
    if submission_error:
        raise _to_go_on(submission_error)
    leave(0)


@cli.command()
@click.argument("batch")
@output_option
@json_option
@fail_on_error_option
@guarded_command
def collect(batch: str, output: str | None, as_json: bool, fail_on_error: bool) -> None:
    """Wait for BATCH and collect it: a batch id, or the file that `submit --json` wrote."""
    handles = _handles(batch)
    check_output(output, as_json=as_json, source=batch)
    session = Session(as_json=as_json)
    results = itertools.chain.from_iterable(map(session.executor.collect, handles))
    outcomes = session.write(results, handles, output)
    session.summarise(handles, outcomes)
    leave(REQUESTS_FAILED if fail_on_error and _failed(outcomes) else 0)


def _failed(outcomes: Mapping[str, int]) -> bool:
    return any(count for kind, count in outcomes.items() if kind != "succeeded")


def _to_go_on(error: PartialSubmissionError) -> PartialSubmissionError:
    """The same, with the rest of the requests in a file, here or where temporary files are.

    Unless it is to be run as a whole.
    """
    if error.unknown:
        return error
    first = error.unsubmitted[0]["custom_id"]
    then = f"submit the requests from {first!r} on to go on"
    for folder in (Path(), Path(tempfile.gettempdir())):
        path = folder / f"{error.handles[0].id}.unsubmitted.jsonl"
        try:
            path.touch(mode=0o600)
            with path.open("wb") as file:
                file.writelines(orjson.dumps(each) + b"\n" for each in error.unsubmitted)
        except OSError as fault:
            logger.warning("%s cannot be written (%s)", path, fault.strerror)
            continue
        then = f"submit {path} to go on"
        break
    return PartialSubmissionError(f"{error}; {then}", error.handles, error.unsubmitted)


def _handles(batch: str) -> list[BatchHandle]:
    path = Path(batch)
    if not batch or not path.is_file():
        return [BatchHandle(batch, 0)]
    try:
        told = as_object(orjson.loads(path.read_bytes())).get("handles")
        handles = [BatchHandle.from_dict(each) for each in told] if isinstance(told, list) else []
    except (orjson.JSONDecodeError, ConfigurationError, OSError) as error:
        raise _no_handles(batch) from error
    if not handles:
        raise _no_handles(batch)
    return handles


def _no_handles(batch: str) -> ConfigurationError:
    return ConfigurationError(
        f"{batch}: not what `otel-bridge submit --json` writes; pass that file or a batch id"
    )


@cli.command()
@json_option
@click.option("--requests", "count", default=60, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--seconds", default=3.0, show_default=True, help="How long the batch takes.")
@click.option(
    "--otlp",
    is_flag=True,
    help="Send it to OTEL_EXPORTER_OTLP_ENDPOINT (http://localhost:4318 by default), too.",
)
@guarded_command
def demo(as_json: bool, count: int, seconds: float, otlp: bool) -> None:
    """Show the whole thing with no key and no network, in a few seconds."""
    from otel_bridge.cli.demo import run_demo  # noqa: PLC0415 - the simulator is for this alone

    agreed = run_demo(count, seconds, as_json=as_json, otlp=otlp)
    sys.stdout.flush()
    os._exit(0 if agreed else FAILED)


for _tending in TENDING:
    cli.add_command(_tending)
