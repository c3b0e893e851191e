"""Runs a command against the simulator, or prints the variables that lead to it and waits.

At the end it says on stderr what the API answered and what the backends received.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping

from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer, OtlpCapture
from otel_bridge.simulator.answers import ENDS, ending, truth_of


def main(command: list[str], ends: Mapping[str, str]) -> int:
    """Run `command` with the simulator's variables in its environment; its exit status.

    Where `ends` tells how requests end, by custom id, all others succeed.
    """
    with (
        MessageBatchesServer(batch_seconds=2.0, responder=ending(ends) if ends else None) as api,
        OtlpCapture() as otlp,
        LangSmithCapture() as langsmith,
        tempfile.TemporaryDirectory() as state_dir,
    ):
        defaults = {
            "LANGSMITH_TRACING": "true",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_BRIDGE_POLL_INTERVAL": "1",  # its batches take two seconds
            "OTEL_BRIDGE_STATE_DIR": state_dir,  # they are no business of the user's own journal
        }
        variables = {
            "ANTHROPIC_BASE_URL": api.url,
            "ANTHROPIC_API_KEY": "simulator",
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "LANGSMITH_ENDPOINT": langsmith.url,
            "LANGSMITH_API_KEY": "simulator",
            **{name: os.environ.get(name, value) for name, value in defaults.items()},
        }
        status = _run(command, variables) if command else _wait(variables)
        lines = [line for batch_id in api.batch_ids for line in api.results(batch_id)]
        lines += [{"result": {"type": "succeeded", "message": each}} for each in api.messages]
        _say("API answered", truth_of(lines))
        _say("OTLP received", {"spans": len(otlp.unique_spans())})
        _say("LangSmith received", {"runs": len(langsmith.runs), **langsmith.usage_totals()})
    return status


def _run(command: list[str], variables: Mapping[str, str]) -> int:
    try:
        process = subprocess.Popen(command, env={**os.environ, **variables})  # noqa: S603 - the caller's
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 127
    # The terminal interrupts the command, too; its end is waited for, whatever ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    return process.wait()


def _wait(variables: Mapping[str, str]) -> int:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    print("\n".join(f"export {name}={value}" for name, value in variables.items()), flush=True)  # noqa: T201
    with contextlib.suppress(KeyboardInterrupt):
        stop.wait()
    return 0


def _say(who: str, figures: Mapping[str, float]) -> None:
    shown = ", ".join(
        f"{name} {f'{value:.6f}' if value % 1 else f'{value:,.0f}'}"
        for name, value in figures.items()
        if value
    )
    print(f"{who}: {shown or 'nothing'}", file=sys.stderr)  # noqa: T201


def _end(text: str) -> tuple[str, str]:
    custom_id, _, how = text.rpartition("=")
    if not custom_id or how not in ENDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no CUSTOM_ID=HOW with one of these")
    return custom_id, how


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m otel_bridge.simulator", description=__doc__)
    parser.add_argument(
        "--end",
        action="append",
        default=[],
        type=_end,
        metavar="CUSTOM_ID=HOW",
        help=f"how that request ends ({', '.join(ENDS)}); all others succeed then. May be repeated",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="and its arguments")
    given = parser.parse_args()
    sys.exit(main(given.command, dict(given.end)))
