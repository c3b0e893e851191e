"""What the commands share: options, errors in one line, and leaving."""

from __future__ import annotations

import functools
import os
import re
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import click

from otel_bridge.cli.results import is_parquet
from otel_bridge.domain.requests import Request, parse_requests
from otel_bridge.errors import (
    BridgeError,
    ConfigurationError,
    RequestsError,
)

_UNITS = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


FAILED, WRONG, REQUESTS_FAILED = 1, 2, 3


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


output_option = click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    help="File for the results (JSONL, or Parquet by its name); stdout by default, "
    "BATCH_ID.jsonl with --json.",
)


max_cost_option = click.option(
    "--max-cost",
    type=click.FloatRange(min=0, min_open=True),
    help="Submit nothing that may cost more than this many USD.",
)


new_option = click.option(
    "--new",
    is_flag=True,
    help="Create new batches even where an earlier try with these requests broke off.",
)


fail_on_error_option = click.option(
    "--fail-on-error", is_flag=True, help="Exit with 3 when a request failed."
)


def guarded_command(function: Callable[..., None]) -> Callable[..., None]:
    """Errors of ours are one line and a status, never a traceback."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except BridgeError as error:
            click.echo(f"otel-bridge: {error}", err=True)
            wrong = isinstance(error, (ConfigurationError, RequestsError))
            leave(WRONG if wrong else FAILED)
        except KeyboardInterrupt:
            click.echo("otel-bridge: interrupted", err=True)
            leave(FAILED)

    return call


class Ago(click.ParamType[Any]):
    """A moment, as how long ago it was."""

    name = "age"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        match = re.fullmatch(r"(\d+)([mhdw])", str(value))
        if match is None:
            self.fail(f"{value!r} is no age; use for instance 7d, 12h or 30m", param, ctx)
        return datetime.now(UTC) - int(match[1]) * _UNITS[match[2]]


def check_output(output: str | None, *, as_json: bool, source: str = "-") -> None:
    """Raise ConfigurationError where results cannot be written, or would replace their source."""
    if output is None and not as_json:
        return
    if output is not None and _same(output, source):
        raise ConfigurationError(
            f"{output}: results would overwrite what is read; choose another --output"
        )
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


def read_requests(path: str) -> list[Request]:
    """Read and check a JSONL file of requests; `-` is stdin. Raises RequestsError."""
    name = "stdin" if path == "-" else path
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise RequestsError(f"{name}: cannot be read ({error.strerror}); check the path") from error
    return parse_requests(data, name)


def _same(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:
        return False


def leave(status: int) -> NoReturn:
    """Leave without the SDK's own exit handlers, which wait for a dead backend once more."""
    telemetry = click.get_current_context().obj
    if telemetry is not None:
        try:
            telemetry.finish(patience=5.0)
        except KeyboardInterrupt:
            click.echo("otel-bridge: interrupted again; telemetry is left unsent", err=True)
            status = status or FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
