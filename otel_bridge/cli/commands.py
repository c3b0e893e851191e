"""The commands: their arguments, options and help, and the function that carries each out.

`--help` and shell completion need this module alone, and it imports no SDK.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any, NoReturn

import click

from otel_bridge.cli.terminal import FAILED, WRONG, print_error, raise_on_signals
from otel_bridge.errors import BridgeError, ConfigurationError, RequestsError
from otel_bridge.version import __version__

_UNITS = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


def guarded_command(function: Callable[..., int]) -> Callable[..., NoReturn]:
    """Exit with the status that `function` returns. An error of ours is one line, no traceback."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> NoReturn:
        status = FAILED
        try:
            status = _status_of(function, *args, **kwargs)
            if (telemetry := click.get_current_context().obj) is not None:
                telemetry.finish(patience=5.0)
        except KeyboardInterrupt:
            print_error("interrupted again; telemetry is left unsent")
            status = status or FAILED
        exit_command(status)

    return call


def _status_of(function: Callable[..., int], *args: Any, **kwargs: Any) -> int:
    try:
        return function(*args, **kwargs)
    except BridgeError as error:
        print_error(error)
        return WRONG if isinstance(error, (ConfigurationError, RequestsError)) else FAILED
    except KeyboardInterrupt:
        print_error("interrupted")
        return FAILED


def exit_command(status: int) -> NoReturn:
    """End the process without the SDK's exit handlers, which wait for a dead backend once more."""
    try:
        sys.stdout.flush()
    except BridgeError as error:
        if not status:
            print_error(error)
        status = status or FAILED
    sys.stderr.flush()
    os._exit(status)


class LazyCommand(click.Command):
    """A command whose module is imported when it runs.

    `target` names the module in this package and its function, for instance "session:run". The
    function takes the parameters by name and returns the exit status.
    """

    def __init__(self, target: str, *params: click.Parameter, help: str) -> None:  # noqa: A002
        self._module, _, name = target.partition(":")
        super().__init__(name, params=list(params), help=help, callback=self._start)

    def _start(self, **options: Any) -> NoReturn:
        guarded_command(self._load_and_run)(**options)

    def _load_and_run(self, **options: Any) -> int:
        from otel_bridge.cli.environment import check_context  # noqa: PLC0415 - slow

        # OpenTelemetry reads these when it is imported, and fails or prints a traceback.
        check_context(os.environ)
        module = import_module(f"otel_bridge.cli.{self._module}")
        raise_on_signals()
        status: int = getattr(module, str(self.name))(**options)
        return status


class AgeParam(click.ParamType):  # type: ignore[type-arg]  # older releases have no generic
    """A moment in the past, given as its age."""

    name = "age"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        match = re.fullmatch(r"(\d+)([mhdw])", str(value))
        if match is None:
            self.fail(f"{value!r} is no age; use for instance 7d, 12h or 30m", param, ctx)
        return datetime.now(UTC) - int(match[1]) * _UNITS[match[2]]


def _flag(name: str, help: str, variable: str | None = None) -> click.Option:  # noqa: A002
    return click.Option([name, *filter(None, [variable])], is_flag=True, help=help)


_FILE = click.Argument(["file"])
_BATCHES = click.Argument(["batches"], nargs=-1)
_JSON = _flag("--json", "Print one JSON object on stdout.", "as_json")
_OUTPUT = click.Option(
    ["-o", "--output"],
    type=click.Path(dir_okay=False),
    help="File for the results: JSONL, or Parquet where its name ends in .parquet. The default is "
    "stdout, and BATCH_ID.jsonl with --json.",
)
_MAX_COST = click.Option(
    ["--max-cost"],
    type=click.FloatRange(min=0, min_open=True),
    help="Submit nothing that may cost more than this many USD.",
)
_NEW = _flag(
    "--new", "Create new batches, even where an earlier try with these requests broke off."
)
_FAIL_ON_ERROR = _flag("--fail-on-error", "Exit with 3 when a request failed.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="otel-bridge")
def cli() -> None:
    """Anthropic Message Batches in OpenTelemetry and LangSmith."""
    logging.basicConfig(level=logging.WARNING, format="otel-bridge: %(message)s", stream=sys.stderr)
    logging.getLogger("anthropic").setLevel(logging.ERROR)


for _command in (
    LazyCommand(
        "session:run",
        _FILE,
        _OUTPUT,
        _MAX_COST,
        _NEW,
        _JSON,
        _FAIL_ON_ERROR,
        help="Run the requests in FILE: submit, wait, and write the results. FILE is JSONL, or - "
        "for stdin.",
    ),
    LazyCommand(
        "session:submit",
        _FILE,
        _MAX_COST,
        _NEW,
        _JSON,
        help="Submit the requests in FILE and print the batch ids. `collect` takes these ids, or "
        "what is printed with --json.",
    ),
    LazyCommand(
        "session:collect",
        click.Argument(["batch"]),
        _OUTPUT,
        _JSON,
        _FAIL_ON_ERROR,
        help="Wait for BATCH and write its results. BATCH is a batch id, or a file that has what "
        "`submit --json` printed.",
    ),
    LazyCommand(
        "demo:demo",
        _JSON,
        click.Option(
            ["--requests", "count"],
            default=60,
            show_default=True,
            type=click.IntRange(1, 100_000),
            help="How many requests the batch has.",
        ),
        click.Option(
            ["--seconds"], default=3.0, show_default=True, help="How long the batch takes."
        ),
        _flag(
            "--otlp",
            "Export to OTEL_EXPORTER_OTLP_ENDPOINT (by default http://localhost:4318) as well.",
        ),
        help="Run a simulated batch and compare what each backend received. The API and the "
        "backends are simulated on this machine, so no key and no network are needed.",
    ),
    LazyCommand(
        "operations:estimate",
        _FILE,
        _flag("--all", "Count the tokens of every request, not of a sample.", "every"),
        click.Option(
            ["--sample"],
            default=20,
            show_default=True,
            type=click.IntRange(min=1),
            help="How many requests to count the tokens of.",
        ),
        click.Option(
            ["--output-tokens"],
            default=0,
            type=click.IntRange(min=0),
            help="How many tokens an answer is expected to have at least.",
        ),
        _JSON,
        help="Estimate tokens and cost of the requests in FILE. Nothing is submitted.",
    ),
    LazyCommand(
        "operations:watch",
        _BATCHES,
        _JSON,
        help="Show the state of batches until each has ended. BATCHES are ids; without any, all "
        "batches that have not ended are shown. No results are collected.",
    ),
    LazyCommand(
        "operations:backfill",
        _BATCHES,
        click.Option(
            ["--since"], type=AgeParam(), help="All batches younger than this, for instance 7d."
        ),
        _flag(
            "--shift-times", "Show them within the last day, for a backend that refuses old times."
        ),
        _JSON,
        help="Export telemetry of batches that ran without the bridge. BATCHES are ids. Spans and "
        "runs have the times at which the batches ran. It is safe to repeat.",
    ),
    LazyCommand(
        "report:report",
        click.Option(["--since"], type=AgeParam(), help="Batches younger than this; default all."),
        click.Option(
            ["-o", "--output"],
            type=click.Path(dir_okay=False),
            help="File for the report: HTML where its name ends in .html, Markdown otherwise.",
        ),
        _JSON,
        help="Report outcomes, tokens, cost and the slowest batches. The figures come from the "
        "journal.",
    ),
    LazyCommand(
        "operations:replay",
        _JSON,
        _flag("--refused", "Also send what LangSmith refused, once the cause is mended."),
        _flag(
            "--other-keys",
            "Also send what was recorded for another key or workspace at this endpoint.",
        ),
        help="Send to LangSmith the runs that wait on disk. Only runs for this endpoint, key and "
        "workspace are sent.",
    ),
    LazyCommand(
        "doctor:doctor",
        _JSON,
        help="Check the configuration, the backends and the versions. The exit status is 1 where "
        "something does not answer, and 2 where a variable has a bad value.",
    ),
):
    cli.add_command(_command)
