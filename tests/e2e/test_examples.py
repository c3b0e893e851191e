"""The examples, as processes: told whole with nothing but variables, and the same without us."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import eventually

from otel_bridge import identity, semconv
from otel_bridge.simulator import CapturedSpan, LangSmithCapture, MessageBatchesServer, OtlpCapture
from otel_bridge.simulator.answers import truth_of

INSTALL = "pip install -e '.[examples]'"
for name in ("fastapi", "uvicorn", "opentelemetry.instrumentation.fastapi"):
    pytest.importorskip(name, reason=INSTALL)

EXAMPLES = Path(__file__).parents[2] / "examples"
BIN = Path(sys.executable).parent
ZERO_CODE = [str(BIN / "opentelemetry-instrument")]
SCRIPT = [sys.executable, str(EXAMPLES / "script.py")]
WORKFLOW = [sys.executable, str(EXAMPLES / "workflow.py")]
SERVICE = ["uvicorn", "--app-dir", str(EXAMPLES), "--log-level", "warning", "service:app"]
MISSING = 'raise ModuleNotFoundError("No module named otel_bridge", name="otel_bridge")\n'
SUBMIT = """
import anthropic
from opentelemetry import trace
requests = [
    {"custom_id": f"item-{n}", "params": {"model": "claude-haiku-4-5", "max_tokens": 9,
     "messages": [{"role": "user", "content": "secret"}]}}
    for n in range(9)
]
with trace.get_tracer("test").start_as_current_span("submitter"):
    print(anthropic.Anthropic().messages.batches.create(requests=requests).id)
"""
READ = """
import sys, anthropic
from opentelemetry import trace
with trace.get_tracer("test").start_as_current_span("reader"):
    print(len(list(anthropic.Anthropic().messages.batches.results(sys.argv[1]))))
"""


class World:
    """The simulator, and processes that find it by variables."""

    def __init__(
        self,
        folder: Path,
        api: MessageBatchesServer,
        otlp: OtlpCapture,
        langsmith: LangSmithCapture,
    ) -> None:
        self.folder, self.api, self.otlp, self.langsmith = folder, api, otlp, langsmith
        self.without_telemetry = {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "ANTHROPIC_BASE_URL": api.url,
            "ANTHROPIC_API_KEY": "test",
        }
        self.environment = {
            **self.without_telemetry,
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "LANGSMITH_TRACING": "true",
            "LANGSMITH_ENDPOINT": langsmith.url,
            "LANGSMITH_API_KEY": "test",
            "OTEL_BRIDGE_STATE_DIR": str(folder / "state"),
        }

    @property
    def unimportable(self) -> dict[str, str]:
        """The environment in which the bridge is not there, though all variables are."""
        package = self.folder / "blocked" / "otel_bridge"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(MISSING)
        return {**self.environment, "PYTHONPATH": str(package.parent)}

    def run(self, command: list[str], environment: dict[str, str] | None = None) -> str:
        ran = subprocess.run(
            command,
            cwd=self.folder,
            env=environment or self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        # The SDK says so itself whenever there is a file.
        said = [line for line in ran.stderr.splitlines() if "OTEL_CONFIG_FILE is set" not in line]
        assert said == []
        return ran.stdout

    def ours(self) -> list[CapturedSpan]:
        return [span for span in self.otlp.spans if span.scope == semconv.SCOPE]

    def batch_span(self) -> CapturedSpan:
        (batch,) = [
            span
            for span in self.otlp.unique_spans()
            if span.attributes.get("gen_ai.operation.name") == "batch"
        ]
        return batch

    def agrees_with_truth(self) -> None:
        """Spans, metrics and runs have the API's sums; single calls are the SDK's own spans."""
        lines = [line for batch_id in self.api.batch_ids for line in self.api.results(batch_id)]
        batched = truth_of(lines)
        lines += [{"result": {"type": "succeeded", "message": m}} for m in self.api.messages]
        everything = truth_of(lines)
        assert self.otlp.refusals == []
        assert self.langsmith.refusals == []
        assert self.langsmith.orphans() == []
        spans = [
            span.attributes for span in self.otlp.unique_spans() if span.scope == semconv.SCOPE
        ]
        assert sum(each.get("gen_ai.usage.input_tokens", 0) for each in spans) == inputs(batched)
        assert self.otlp.metric_sum(semconv.METRIC_USAGE_INPUT) == inputs(batched)
        assert self.otlp.metric_sum(semconv.METRIC_USAGE_OUTPUT) == batched["output_tokens"]
        totals = self.langsmith.usage_totals()
        assert totals["input_tokens"] == inputs(everything)
        assert totals["output_tokens"] == everything["output_tokens"]


def inputs(truth: dict[str, int]) -> int:
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(truth[name] for name in names)


@pytest.fixture
def world(
    tmp_path: Path, api: MessageBatchesServer, otlp: OtlpCapture, langsmith: LangSmithCapture
) -> World:
    return World(tmp_path, api, otlp, langsmith)


@contextmanager
def serving(world: World, environment: dict[str, str], *prefix: str) -> Iterator[str]:
    """The FastAPI example on a port of its own; its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*prefix, *SERVICE, "--port", str(port)],
        cwd=world.folder,
        env=environment,
    )
    try:
        eventually(lambda: process.poll() is not None or answers(port), "the service answers")
        assert process.poll() is None, "the service does not start"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def fetch(url: str, body: Any = None) -> list[Any]:
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"content-type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - loopback
        return [json.loads(line) for line in response.read().splitlines()]


def use_service(url: str, *, reads: int = 1) -> None:
    questions = {f"item-{number}": "secret question" for number in range(12)}
    (batch,) = fetch(f"{url}/batches", {"questions": questions})
    eventually(lambda: fetch(f"{url}/batches/{batch['id']}")[0]["status"] == "ended")
    for _ in range(reads):
        assert len(fetch(f"{url}/batches/{batch['id']}/results")) == 12


def test_a_script_that_knows_nothing_is_told_whole(world: World) -> None:
    assert len(world.run(ZERO_CODE + SCRIPT).splitlines()) == 40
    world.agrees_with_truth()
    assert len([span for span in world.ours() if semconv.BATCH_CUSTOM_ID in span.attributes]) == 40
    # No poll is a run, though the anthropic SDK has a span of each.
    assert Counter(run["name"] for run in world.langsmith.runs.values()) == {
        "ChatAnthropic": 40,
        "batch claude-sonnet-4-5": 1,
        "anthropic.messages.batches.create": 1,
    }


def test_a_service_keeps_the_batch_below_the_request_that_submitted_it(world: World) -> None:
    with serving(world, world.environment, *ZERO_CODE) as url:
        use_service(url, reads=2)
    world.agrees_with_truth()
    spans = {span.span_id: span for span in world.otlp.spans}
    parent = spans[world.batch_span().parent_span_id]
    assert parent.name == "POST /batches"
    assert len(world.ours()) == 13


def test_a_workflow_is_one_tree_of_single_calls_and_a_batch(world: World) -> None:
    assert len(world.run(ZERO_CODE + WORKFLOW).splitlines()) == 24
    assert len(world.api.messages) == 6
    world.agrees_with_truth()
    runs = world.langsmith.runs
    assert len({run["trace_id"] for run in runs.values()}) == 1
    classified = {run["id"] for run in runs.values() if run["name"] == "classify"}
    single = [
        run
        for run in runs.values()
        if run["run_type"] == "llm" and any(each in run["dotted_order"] for each in classified)
    ]
    assert len(single) == len(classified) == 6
    (batch,) = [run for run in runs.values() if run["name"].startswith("batch ")]
    assert runs[batch["parent_run_id"]]["name"] == "score"
    assert len([run for run in runs.values() if run.get("parent_run_id") == batch["id"]]) == 24


@pytest.mark.parametrize("command", [SCRIPT, WORKFLOW])
def test_without_any_variable_an_example_does_the_same(world: World, command: list[str]) -> None:
    expected = world.run(ZERO_CODE + command)
    seen = len(world.otlp.requests), len(world.langsmith.requests)
    assert sorted(outcomes(world.run(command, world.without_telemetry))) == sorted(
        outcomes(expected)
    )
    assert (len(world.otlp.requests), len(world.langsmith.requests)) == seen


def outcomes(printed: str) -> list[str]:
    return [line.split()[0] for line in printed.splitlines()]


@pytest.mark.parametrize("command", [SCRIPT, WORKFLOW])
def test_without_the_package_an_example_does_the_same(world: World, command: list[str]) -> None:
    blocked = subprocess.run(
        [sys.executable, "-c", "import otel_bridge"],
        cwd=world.folder,
        env=world.unimportable,
        capture_output=True,
        check=False,
    )
    assert blocked.returncode == 1
    assert world.run(ZERO_CODE + command, world.unimportable)
    assert world.ours() == []
    assert world.otlp.spans != []  # the anthropic SDK's own


def test_without_variables_or_package_the_service_does_the_same(world: World) -> None:
    with serving(world, world.without_telemetry) as url:
        use_service(url)
    assert world.otlp.requests == []
    assert world.langsmith.requests == []
    with serving(world, world.unimportable, *ZERO_CODE) as url:
        use_service(url)
    assert world.ours() == []


@pytest.mark.parametrize(
    "off",
    [
        {"OTEL_SDK_DISABLED": "true", "LANGSMITH_TRACING": "false"},
        {"OTEL_SDK_DISABLED": "true"},
    ],
)
def test_a_disabled_sdk_switches_everything_off(world: World, off: dict[str, str]) -> None:
    assert len(world.run(ZERO_CODE + SCRIPT, {**world.environment, **off}).splitlines()) == 40
    assert world.otlp.requests == []
    assert world.langsmith.requests == []
    assert not (world.folder / "state").exists()


def test_a_declarative_configuration_needs_no_word_about_us(world: World) -> None:
    pytest.importorskip("opentelemetry.configuration", reason=INSTALL)
    (world.folder / "otel.yaml").write_text(
        f"""
file_format: "1.0"
tracer_provider:
  processors:
    - batch:
        exporter:
          otlp_http:
            endpoint: {world.otlp.url}/v1/traces
meter_provider:
  readers:
    - periodic:
        exporter:
          otlp_http:
            endpoint: {world.otlp.url}/v1/metrics
"""
    )
    world.environment["OTEL_CONFIG_FILE"] = "otel.yaml"
    world.run(ZERO_CODE + SCRIPT)
    world.agrees_with_truth()
    assert len(world.ours()) == 41


def test_what_is_submitted_here_is_told_there_below_its_submitter(world: World) -> None:
    batch_id = world.run([*ZERO_CODE, sys.executable, "-c", SUBMIT]).strip()
    for _ in range(2):
        read = world.run([*ZERO_CODE, sys.executable, "-c", READ, batch_id])
        assert read == "9\n"
    world.agrees_with_truth()
    (submitter,) = [span for span in world.otlp.spans if span.name == "submitter"]
    batch = world.batch_span()
    assert (batch.trace_id, batch.parent_span_id) == (submitter.trace_id, submitter.span_id)
    assert len(world.ours()) == 10


def test_without_a_shared_state_directory_there_is_one_batch_span_all_the_same(
    world: World,
) -> None:
    batch_id = world.run([*ZERO_CODE, sys.executable, "-c", SUBMIT]).strip()
    for reader in ("one", "two"):
        world.environment["OTEL_BRIDGE_STATE_DIR"] = str(world.folder / reader)
        world.run([*ZERO_CODE, sys.executable, "-c", READ, batch_id])
    batch = world.batch_span()
    assert batch.trace_id == f"{identity.batch_trace_id(batch_id):032x}"
    assert batch.span_id == f"{identity.batch_span_id(batch_id):016x}"
    assert len({span.span_id for span in world.ours()}) == 10
    assert world.langsmith.orphans() == []


def test_the_simulator_runs_a_command_and_says_what_came_of_it(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "otel_bridge.simulator", *ZERO_CODE, *SCRIPT],
        cwd=tmp_path,
        env={"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    api, otlp, langsmith = ran.stderr.splitlines()
    assert api.startswith("API answered: succeeded ")
    assert otlp.startswith("OTLP received: spans ")
    assert langsmith.startswith("LangSmith received: runs ")
    assert langsmith.split("output_tokens ")[1].split(", ")[0] in api
    assert not list(tmp_path.rglob("journal*")), "its batches are no business of the user's journal"


def test_the_simulator_tells_the_way_to_itself() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "otel_bridge.simulator"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("export ANTHROPIC_BASE_URL=http://127.0.0.1:")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 0
    assert said.splitlines()[0] == "API answered: nothing"
