"""All benchmarks: `python -m benchmarks [--rounds 5] [--results 100000] [NAME ...]`.

Each side runs in a process of its own, the sides of a table in turn, against servers on loopback
in this process. Figures are medians of the rounds; what counts is the ratio of two sides.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer, OtlpCapture
from otel_bridge.simulator.server import LoopbackServer, Request, Response

MODELS = ("claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001")

Figures = Mapping[str, float]
Side = Callable[[], Figures]


class Sink(LoopbackServer):
    """Takes everything and forgets it, so that its work does not slow what is measured."""

    def answer(self, request: Request) -> Response:
        self.requests.clear()
        if request.path.endswith("/info"):
            return Response.of_json({"instance_flags": {"zstd_compression_enabled": True}})
        return Response.of_json({})


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the measured processes send to."""

    api: MessageBatchesServer
    otlp: Sink
    langsmith: Sink

    def batch(self, count: int) -> str:
        """A batch of that many results, whose API has its answers ready."""
        batch_id = self.api.add_batch(
            [
                {
                    "custom_id": f"item-{number:06d}",
                    "params": {
                        "model": MODELS[number % 2],
                        "max_tokens": 100,
                        "messages": [{"role": "user", "content": "q"}],
                    },
                }
                for number in range(count)
            ]
        )
        self.api.results(batch_id)
        return batch_id


def measure(side: str, **arguments: Any) -> Figures:
    """Run one side in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sides", side, json.dumps(arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def compare(sides: Mapping[str, Side], rounds: int) -> dict[str, dict[str, float]]:
    """Medians of each side's figures; the sides take turns."""
    runs: dict[str, list[Figures]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            runs[name].append(side())
    return {
        name: {key: statistics.median(run[key] for run in taken) for key in taken[0]}
        for name, taken in runs.items()
    }


class Report:
    """Tables of ratios to the first side."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._console = Console(width=110)

    def table(
        self,
        title: str,
        sides: Mapping[str, Side],
        *,
        figure: str = "cpu",
        goals: Mapping[str, float] | None = None,
        ceiling: float | None = None,
    ) -> None:
        """Compare the first side to the others; `goals` are ratios that must not be passed."""
        medians = compare(sides, self._rounds)
        first = next(iter(medians.values()))[figure]
        table = Table(title=title, title_justify="left")
        for column in ("side", "CPU s", "wall s", "peak MB", f"{figure} ratio", "goal", ""):
            table.add_column(column, justify="left" if column == "side" else "right")
        for name, values in medians.items():
            ratio = values[figure] / first
            goal = (goals or {}).get(name)
            met = goal is None or ratio <= goal
            met = met and (ceiling is None or values[figure] <= ceiling)
            table.add_row(
                name,
                *(f"{values[key]:.2f}" for key in ("cpu", "wall", "peak_mb")),
                f"{ratio:.2f}",
                f"{goal:.2f}" if goal else "",
                ("✓" if met else "✗") if goal or ceiling else "",
            )
        self._console.print(table)

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False)


def mirror(servers: Servers, report: Report, results: int) -> None:
    """CPU of the mirror beside OTLP export, same spans."""
    count = max(results // 5, 1)
    to = {"otlp": servers.otlp.url, "count": count}
    both = {**to, "langsmith": servers.langsmith.url}
    report.table(
        f"Mirroring {count:,} spans that go to OTLP",
        {
            "OTLP alone": partial(measure, "otlp_alone", **to),
            "OTLP and our mirror": partial(measure, "otlp_and_mirror", **both),
            "OTLP and LangSmith's OtelSpanProcessor": partial(
                measure, "otlp_and_langsmith_processor", **both
            ),
            "OTLP and Client.create_run": partial(measure, "otlp_and_create_run", **both),
        },
        goals={"OTLP and our mirror": 1.30},
    )


def left_out(servers: Servers, report: Report, results: int) -> None:
    """CPU of the mirror for spans that it leaves out."""
    count = results * 2
    for spans, scope in (
        ("an HTTP client", "opentelemetry.instrumentation.requests"),
        ("a tracer of the service's own", "shop.orders"),
    ):
        options = {"count": count, "scope": scope}
        report.table(
            f"Creating and ending {count:,} spans of {spans}, which are not mirrored",
            {
                "without the mirror": partial(measure, "plain_spans", **options),
                "with the mirror": partial(
                    measure, "plain_spans_and_mirror", langsmith=servers.langsmith.url, **options
                ),
            },
            goals={"with the mirror": 1.05},
        )


def collecting(servers: Servers, report: Report, results: int) -> None:
    """CPU of collecting with both backends over the SDK's own iterator."""
    where = _collect(servers, results)
    report.table(
        f"Reading {results:,} results",
        {
            "the SDK's results()": partial(
                measure, "sdk_results", api=servers.api.url, batch=where["batch"]
            ),
            "collect, default cap": partial(measure, "collect", **where, cap=5000),
            "collect, cap all": partial(measure, "collect", **where, cap=None),
        },
        goals={"collect, default cap": 1.2, "collect, cap all": 4.0},
    )


def memory(servers: Servers, report: Report, results: int) -> None:
    """Peak memory of collecting ten times as many results."""
    few, many = _collect(servers, results // 10), _collect(servers, results)
    for title, options in (
        ("default cap", {"cap": 5000}),
        ("cap all", {"cap": None}),
        ("cap all, content captured", {"cap": None, "content": True}),
    ):
        report.table(
            f"Peak memory, {title}",
            {
                f"{results // 10:,} results": partial(measure, "collect", **few, **options),
                f"{results:,} results": partial(measure, "collect", **many, **options),
            },
            figure="peak_mb",
            goals={f"{results:,} results": 1.15},
            ceiling=200,
        )


def delivered(servers: Servers, report: Report, results: int) -> None:
    """Every request's span and run arrives, cap all, default BatchSpanProcessor."""
    with OtlpCapture() as otlp, LangSmithCapture() as langsmith:
        batch = servers.batch(results)
        measure(
            "collect",
            api=servers.api.url,
            otlp=otlp.url,
            langsmith=langsmith.url,
            batch=batch,
            cap=None,
        )
        spans = {span.span_id for span in otlp.spans if span.name.startswith("chat")}
        runs = sum(run["run_type"] == "llm" for run in langsmith.runs.values())
        refused = len(langsmith.refusals)
    whole = len(spans) == runs == results and not refused
    report.say(
        f"Delivered of {results:,} requests, cap all: {len(spans):,} spans, {runs:,} runs, "
        f"{refused} refused {'✓' if whole else '✗'}\n"
    )


def _written_out(_: Mapping[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """An answer as long as its usage says, at four characters a token."""
    message = result.get("message")
    if message is not None:
        message["content"][-1]["text"] = "word " * (message["usage"]["output_tokens"] * 4 // 5)
    return result


def _collect(servers: Servers, results: int) -> dict[str, Any]:
    return {
        "api": servers.api.url,
        "otlp": servers.otlp.url,
        "langsmith": servers.langsmith.url,
        "batch": servers.batch(results),
    }


BENCHMARKS = {each.__name__: each for each in (delivered, collecting, mirror, left_out, memory)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=int, default=100_000)
    options = parser.parse_args()
    report = Report(options.rounds)
    with MessageBatchesServer(responder=_written_out) as api, Sink() as otlp, Sink() as langsmith:
        for name in options.names or BENCHMARKS:
            BENCHMARKS[name](Servers(api, otlp, langsmith), report, options.results)


if __name__ == "__main__":
    main()
