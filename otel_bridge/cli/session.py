"""The commands run, submit and collect: an executor, its telemetry, its results, and Ctrl-C."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import click
import orjson
from opentelemetry import propagate
from opentelemetry.context import attach
from rich.console import Console

from otel_bridge._core.json import as_object
from otel_bridge.batches import BatchExecutor, BatchHandle, BatchResult, Request, engine_of
from otel_bridge.cli import render
from otel_bridge.cli.render import first_attempts, print_json
from otel_bridge.cli.results import check_output, read_requests, results_file
from otel_bridge.cli.telemetry import BackendReport, Telemetry
from otel_bridge.cli.terminal import (
    REQUESTS_FAILED,
    TerminatedError,
    check_stdout,
    open_stdout,
    print_error,
)
from otel_bridge.config import Settings
from otel_bridge.domain.batch import MISSING, OUTCOMES, UNKNOWN
from otel_bridge.errors import (
    BatchError,
    BatchNotFoundError,
    BridgeError,
    ConfigurationError,
    PartialSubmissionError,
    SubmissionAmbiguousError,
)

logger = logging.getLogger(__name__)


def run(
    file: str,
    *,
    output: str | None,
    max_cost: float | None,
    new: bool,
    as_json: bool,
    fail_on_error: bool,
) -> int:
    """Run the requests in a file to their results."""
    requests = read_requests(file)
    check_output(output, as_json=as_json, source=file)
    session = Session(as_json=as_json, max_cost=max_cost)
    with session.creating():
        run = session.executor.start(requests, new=new)
    outcomes = session.write(run, run.handles, output)
    session.summarise(run.handles, outcomes, run.attempts)
    if run.submission_error:
        raise _with_the_rest_in_a_file(run.submission_error)
    return _status(outcomes, fail_on_error=fail_on_error)


def submit(file: str, *, max_cost: float | None, new: bool, as_json: bool) -> int:
    """Submit the requests in a file and print the ids, or with `as_json` the handles."""
    requests = read_requests(file)
    check_stdout()
    session = Session(as_json=as_json, max_cost=max_cost)
    handles, error = session.submit(requests, new=new)
    reports = session.telemetry.finish()
    _print_submitted(handles, reports, as_json=as_json)
    if error:
        raise _with_the_rest_in_a_file(error)
    return 0


def _print_submitted(
    handles: list[BatchHandle], reports: Iterable[BackendReport], *, as_json: bool
) -> None:
    """Print what `collect` needs. Raises BridgeError, which names the batches, if it cannot be."""
    ids = [handle.id for handle in handles]
    submitted = {
        "batches": ids,
        "handles": [handle.to_dict() for handle in handles],
        "backends": {report.name.lower(): report.to_dict() for report in reports},
    }
    text = orjson.dumps(submitted) if as_json else "\n".join(ids).encode()
    try:
        with open_stdout() as stdout:
            stdout.write(text + b"\n")
    except OSError as error:
        reason = error.strerror or error
        raise BridgeError(f"stdout: cannot be written ({reason}); {_again(handles)}") from error


def collect(batch: str, *, output: str | None, as_json: bool, fail_on_error: bool) -> int:
    """Wait for a batch, or for the batches whose handles are in a file, and write the results."""
    handles = _handles(batch)
    check_output(output, as_json=as_json, source=batch)
    session = Session(as_json=as_json)
    results = itertools.chain.from_iterable(map(session.executor.collect, handles))
    outcomes = session.write(results, handles, output)
    session.summarise(handles, outcomes)
    return _status(outcomes, fail_on_error=fail_on_error)


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
        """Turn Ctrl-C while batches are created into an error that names the way on."""
        try:
            yield
        except KeyboardInterrupt:
            again = "run the same again, which goes on with what was created"
            if not engine_of(self.executor).recorder.journal.is_persistent:
                again = "see `otel-bridge watch` for it before you run the same again"
            raise BridgeError(
                f"interrupted before the API said that it has the batch; {again}"
            ) from None

    def submit(
        self, requests: list[Request], *, new: bool
    ) -> tuple[list[BatchHandle], PartialSubmissionError | None]:
        """Submit requests; return the batches created, and the error where that is not all."""
        try:
            with self.creating():
                return self.executor.submit(requests, new=new), None
        except PartialSubmissionError as error:
            return list(error.handles), error

    def write(
        self, results: Iterable[BatchResult], batches: list[BatchHandle], output: str | None
    ) -> Counter[str]:
        """Write each result as it is read, before telemetry records it.

        Returns the number of requests by outcome. `batches` may grow meanwhile: a failed request
        may go through another batch.
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
        """Leave the batches running, or cancel them after a second Ctrl-C and a yes."""
        on = "the batch goes on" if len(batches) == 1 else "the batches go on"
        goes_on = f"interrupted; {on}, {_again(batches)}"
        watched = sys.stdin.isatty() and sys.stderr.isatty()
        if watched and not isinstance(stop, TerminatedError):
            try:
                print_error(goes_on)
                goes_on = on
                print(
                    "Enter to leave it, Ctrl-C again to cancel it: ",
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
                sys.stdin.readline()
            except KeyboardInterrupt:
                print(file=sys.stderr)
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
        """Flush telemetry; print the summary, and a line for all that did not arrive."""
        reports = self.telemetry.finish()
        summary = render.Summary.of(batches, outcomes, attempts, reports, self.telemetry.langsmith)
        if self.as_json:
            print_json({**summary.to_dict(), "output": self.output})
        else:
            render.print_summary(self.console, summary)
        lacks = [batch.recording.missing_results_message for batch in batches if batch.recording]
        for complaint in [*lacks, *(report.complaint for report in reports)]:
            if complaint:
                print_error(complaint)


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


def _status(outcomes: Mapping[str, int], *, fail_on_error: bool) -> int:
    failed = any(count for kind, count in outcomes.items() if kind != "succeeded")
    return REQUESTS_FAILED if failed and fail_on_error else 0


def _with_the_rest_in_a_file(error: PartialSubmissionError) -> PartialSubmissionError:
    """Write the requests that no batch has to a file, and name it in the error.

    The file is in the current directory, or else where temporary files are. None is written where
    all requests are to be submitted again.
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
        found = as_object(orjson.loads(path.read_bytes())).get("handles")
        handles = [BatchHandle.from_dict(each) for each in found] if isinstance(found, list) else []
    except (orjson.JSONDecodeError, ConfigurationError, OSError) as error:
        raise _no_handles(batch) from error
    if not handles:
        raise _no_handles(batch)
    return handles


def _no_handles(batch: str) -> ConfigurationError:
    return ConfigurationError(
        f"{batch}: not what `otel-bridge submit --json` writes; pass that file or a batch id"
    )
