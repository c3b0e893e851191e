"""One command's work: its executor and telemetry, its results, and Ctrl-C."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import NoReturn

import click
import orjson
from opentelemetry import propagate
from opentelemetry.context import attach
from rich.console import Console

from otel_bridge.batches import BatchExecutor, BatchHandle, BatchResult, Request, engine_of
from otel_bridge.cli import render
from otel_bridge.cli.render import first_attempts
from otel_bridge.cli.results import results_file
from otel_bridge.cli.telemetry import Telemetry
from otel_bridge.config import Settings
from otel_bridge.errors import (
    BatchError,
    BatchNotFoundError,
    BridgeError,
    PartialSubmissionError,
    SubmissionAmbiguousError,
)
from otel_bridge.telemetry import MISSING, OUTCOMES, UNKNOWN


class TerminatedError(KeyboardInterrupt):
    """SIGTERM, after which nobody is there to be asked."""


def terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM is what Ctrl-C is: the batch goes on, and what is held goes to the spool."""
    raise TerminatedError


class Session:
    """One command's executor and telemetry, under the caller's trace where there is one."""

    def __init__(self, *, as_json: bool, max_cost: float | None = None) -> None:
        self.settings = Settings.from_env(strict=True)
        if max_cost is not None:
            self.settings = dataclasses.replace(self.settings, max_cost=max_cost)
        self.console = Console(stderr=True)
        self.as_json = as_json
        self.output: str | None = None
        self.telemetry = Telemetry(self.settings).set_up()
        # OpenTelemetry's environment carrier: TRACEPARENT, TRACESTATE, BAGGAGE.
        attach(propagate.extract({k.lower(): v for k, v in os.environ.items()}))
        self.progress = render.Progress(self.console)
        click.get_current_context().obj = self.telemetry
        self.executor = BatchExecutor(settings=self.settings, on_progress=self.progress.update)

    @contextlib.contextmanager
    def creating(self) -> Iterator[None]:
        """Say what to do where it is interrupted while batches are created."""
        try:
            yield
        except KeyboardInterrupt:
            again = "run the same again, which goes on with what was created"
            if not engine_of(self.executor).recorder.journal.kept:
                again = "see `otel-bridge watch` for it before you run the same again"
            raise BridgeError(
                f"interrupted before the API said that it has the batch; {again}"
            ) from None

    def submit(
        self, requests: list[Request], *, new: bool
    ) -> tuple[list[BatchHandle], PartialSubmissionError | None]:
        """What was created, and why that is not all."""
        try:
            with self.creating():
                return self.executor.submit(requests, new=new), None
        except PartialSubmissionError as error:
            return list(error.handles), error

    def write(
        self, results: Iterable[BatchResult], batches: list[BatchHandle], output: str | None
    ) -> Counter[str]:
        """Write each result as it is read, so that nothing of telemetry can keep it back.

        Returns the number of requests by outcome; `batches` may grow meanwhile.
        """
        outcomes: Counter[str] = Counter()
        self.output = output or (f"{batches[0].id}.jsonl" if self.as_json else None)
        try:
            with results_file(self.output) as sink, self.progress:
                engine_of(self.executor).on_emitted = sink.flush
                for result in results:
                    sink.write(result)
                    outcomes[result.type if result.type in OUTCOMES else UNKNOWN] += 1
        except KeyboardInterrupt as stop:
            self._interrupted(batches, stop)
        except (BatchNotFoundError, SubmissionAmbiguousError):
            raise
        except BatchError as error:
            raise BatchError(f"{error}; {_again(batches)} once more") from error
        except OSError as error:
            reason = error.strerror or error
            raise BridgeError(
                f"{self.output or 'stdout'}: results cannot be written ({reason}); "
                f"{_again(batches, 'the results')} again"
            ) from error
        if missing := sum(each.missing for each in first_attempts(batches)):
            outcomes[MISSING] = missing
        return outcomes

    def _interrupted(self, batches: list[BatchHandle], stop: KeyboardInterrupt) -> NoReturn:
        """Leave the batch running, or cancel it where someone asks for that once more."""
        on = "the batch goes on" if len(batches) == 1 else "the batches go on"
        goes_on = f"interrupted; {on}, {_again(batches)}"
        watched = sys.stdin.isatty() and sys.stderr.isatty()
        if watched and not isinstance(stop, TerminatedError):
            try:
                click.echo(f"otel-bridge: {goes_on}", err=True)
                goes_on = on
                click.echo("Enter to leave it, Ctrl-C again to cancel it: ", err=True, nl=False)
                sys.stdin.readline()
            except KeyboardInterrupt:
                click.echo(err=True)
                if _confirmed("Cancel the batch? What is done is billed"):
                    for batch in batches:
                        self._cancel(batch.id)
                    raise BridgeError(f"canceled; {_again(batches, 'what was done')}") from None
        raise BridgeError(goes_on) from None

    def _cancel(self, batch_id: str) -> None:
        if self.executor.describe(batch_id).status == "in_progress":
            self.executor.cancel(batch_id)

    def summarise(
        self, batches: list[BatchHandle], outcomes: Mapping[str, int], attempts: int = 1
    ) -> None:
        reports = self.telemetry.finish()
        summary = render.Summary.of(batches, outcomes, attempts, reports, self.telemetry.langsmith)
        if self.as_json:
            click.echo(orjson.dumps({**summary.to_dict(), "output": self.output}))
        else:
            render.print_summary(self.console, summary)
        lacks = [batch.recording.lack for batch in batches if batch.recording]
        for complaint in [*lacks, *(report.complaint for report in reports)]:
            if complaint:
                click.echo(f"otel-bridge: {complaint}", err=True)


def _again(batches: list[BatchHandle], what: str = "") -> str:
    commands = ", ".join(f"`otel-bridge collect {batch.id}`" for batch in batches)
    return (
        f"{commands} reads {what or 'it'}"
        if len(batches) == 1
        else f"{commands} read {what or 'them'}"
    )


def _confirmed(question: str) -> bool:
    try:
        return click.confirm(question, err=True)
    except (click.Abort, KeyboardInterrupt):
        return False
