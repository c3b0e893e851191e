"""Processes killed at every step, backends that fail: nothing lost, nothing twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Command, MakeRequests, eventually

from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer, OtlpCapture

OUTPUT = "gen_ai.client.inference.usage.output_tokens"
REQUESTS = 1500


class Backends:
    """The API and both backends, and what they must hold in the end."""

    def __init__(
        self, api: MessageBatchesServer, otlp: OtlpCapture, langsmith: LangSmithCapture
    ) -> None:
        self.api = api
        self.otlp = otlp
        self.langsmith = langsmith

    def recover(self) -> None:
        for server in (self.api, self.otlp, self.langsmith):
            server.recover()

    def hold_everything_once(self, count: int) -> None:
        (batch_id,) = self.api.batch_ids
        assert sum(each.method == "POST" for each in self.api.requests) >= 1
        truth = self.api.truth(batch_id)
        ours = {each.span_id: each for each in self.otlp.spans if each.scope == "otel_bridge"}
        assert len(ours) == count + 1
        spans = sum(each.attributes.get("gen_ai.usage.output_tokens", 0) for each in ours.values())
        assert spans == truth["output_tokens"]
        assert self.otlp.metric_sum(OUTPUT) == truth["output_tokens"]
        assert self.otlp.metric_sum("anthropic.message.batch.requests") == count
        runs = [each for each in self.langsmith.runs.values() if each["run_type"] == "llm"]
        assert len(runs) == count
        assert all(each.get("end_time") for each in self.langsmith.runs.values())
        assert self.langsmith.usage_totals()["output_tokens"] == truth["output_tokens"]
        assert self.langsmith.orphans() == []
        assert self.langsmith.refusals == []


@pytest.fixture
def backends(api: MessageBatchesServer, otlp: OtlpCapture, langsmith: LangSmithCapture) -> Backends:
    return Backends(api, otlp, langsmith)


def kill(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    process.send_signal(number)
    process.communicate(timeout=30)


def paths(server: Any, end: str) -> int:
    return sum(each.path.endswith(end) for each in server.requests)


def before_creation(backends: Backends) -> Callable[[], bool]:
    backends.api.fail_next("POST", "batches$", action="hang")
    return lambda: paths(backends.api, "batches") > 0


def between_creation_and_journal(backends: Backends) -> Callable[[], bool]:
    backends.api.fail_next("POST", "batches$", action="accept_then_hang")
    return lambda: bool(backends.api.batch_ids)


def while_polling(backends: Backends) -> Callable[[], bool]:
    backends.api.fail_next("GET", "msgbatch_[a-z0-9]+$", delay=20, times=1)
    return lambda: any("msgbatch" in each.path for each in backends.api.requests)


def while_collecting(backends: Backends) -> Callable[[], bool]:
    backends.otlp.fail_next("POST", "traces", delay=0.3, times=float("inf"))
    return lambda: len(backends.otlp.spans) > 100


def while_delivering(backends: Backends) -> Callable[[], bool]:
    backends.langsmith.fail_next("POST", "multipart", delay=0.3, times=float("inf"))
    return lambda: len(backends.langsmith.runs) > 100


@pytest.mark.parametrize(
    "step",
    [
        before_creation,
        between_creation_and_journal,
        while_polling,
        while_collecting,
        while_delivering,
    ],
)
def test_killed_at_any_step_a_rerun_completes_it(
    bridge: Command,
    backends: Backends,
    make_requests: MakeRequests,
    step: Callable[[Backends], Callable[[], bool]],
) -> None:
    file = bridge.write(make_requests(REQUESTS))
    reached = step(backends)
    process = bridge.start("run", file, "-o", "killed.jsonl")
    eventually(reached)
    kill(process)
    backends.recover()
    ran = bridge("run", file, "-o", "out.jsonl")
    assert ran.returncode == 0, ran.stderr
    assert len((bridge.folder / "out.jsonl").read_text().splitlines()) == REQUESTS
    backends.hold_everything_once(REQUESTS)


def test_a_second_run_of_the_same_file_is_a_batch_of_its_own(
    bridge: Command, backends: Backends, make_requests: MakeRequests
) -> None:
    file = bridge.write(make_requests(3))
    for count in (1, 2):
        assert bridge("run", file, "-o", "out.jsonl").returncode == 0
        assert len(backends.api.batch_ids) == count


FAULTS: list[dict[str, Any]] = [
    {"status": 503},
    {"action": "hang"},
    {"action": "close"},
    {"status": 429, "headers": {"retry-after": "1"}},
]


@pytest.mark.parametrize("fault", FAULTS, ids=["refusing", "hanging", "cutting", "busy"])
def test_backends_down_in_the_first_half_hold_all_in_the_end(
    bridge: Command, backends: Backends, make_requests: MakeRequests, fault: dict[str, Any]
) -> None:
    file = bridge.write(make_requests(REQUESTS))
    backends.otlp.fail_next(times=float("inf"), **fault)
    backends.langsmith.fail_next("POST", "multipart", times=float("inf"), **fault)
    process = bridge.start("run", file, "-o", "out.jsonl")
    eventually(lambda: paths(backends.langsmith, "multipart") >= 2)
    backends.recover()
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    (batch_id,) = backends.api.batch_ids
    assert bridge("replay").returncode == 0
    assert bridge("collect", batch_id, "-o", "again.jsonl").returncode == 0
    backends.hold_everything_once(REQUESTS)


def test_what_langsmith_did_not_take_waits_on_disk_for_replay(
    bridge: Command, backends: Backends, make_requests: MakeRequests
) -> None:
    backends.langsmith.refuse_all(503)
    ran = bridge("run", bridge.write(make_requests(40)), "-o", "out.jsonl")
    assert "43 wait on disk for `otel-bridge replay`" in ran.stderr or "42 wait" in ran.stderr
    waiting = list((bridge.folder / "state" / "spool").glob("*/*.json"))
    assert waiting
    for file in waiting:
        assert file.stat().st_mode & 0o077 == 0
        envelope = json.loads(file.read_text())
        assert envelope["version"] == 1
        assert envelope["endpoint"] == "runs/multipart"
    still = bridge("replay")
    assert still.returncode == 1
    assert "still wait" in still.stderr
    backends.langsmith.recover()
    done = bridge("replay", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sent"] > 40
    assert not list((bridge.folder / "state" / "spool").glob("*/*.json"))
    backends.hold_everything_once(40)
    assert json.loads(bridge("replay", "--json").stdout)["sent"] == 0


def test_what_is_refused_for_good_is_set_apart_and_can_be_sent_once_mended(
    bridge: Command, backends: Backends, make_requests: MakeRequests
) -> None:
    backends.langsmith.refuse_all(403)
    ran = bridge("run", bridge.write(make_requests(20)), "-o", "out.jsonl")
    assert ran.stderr.count("HTTP 403") == 1
    posts = paths(backends.langsmith, "multipart")
    apart = list((bridge.folder / "state" / "spool" / "refused").glob("*.json"))
    assert len(apart) == posts
    assert all("HTTP 403" in json.loads(each.read_text())["reason"] for each in apart)
    assert bridge("replay").returncode == 0
    assert paths(backends.langsmith, "multipart") == posts, "never tried again by itself"
    backends.langsmith.recover()
    assert bridge("replay", "--refused").returncode == 0
    backends.hold_everything_once(20)


def test_a_refusal_and_what_is_refused_name_the_command_that_sends_it(
    bridge: Command, backends: Backends, make_requests: MakeRequests
) -> None:
    backends.langsmith.refuse_all(403)
    ran = bridge("run", bridge.write(make_requests(3)), "-o", "out.jsonl")
    assert "6 are set apart for `otel-bridge replay --refused`" in ran.stderr
    backends.langsmith.recover()
    told = bridge("replay")
    assert told.returncode == 0
    assert "0 run updates sent" in told.stdout
    assert "6 run updates are set apart as refused" in told.stderr
    assert "`otel-bridge replay --refused` sends them" in told.stderr
    assert json.loads(bridge("replay", "--json").stdout)["left"]["refused"] == 6


def test_what_waits_for_another_key_is_sent_with_this_one_only_when_asked(
    bridge: Command, backends: Backends, make_requests: MakeRequests
) -> None:
    backends.langsmith.refuse_all(503)
    bridge("run", bridge.write(make_requests(3)), "-o", "out.jsonl")
    backends.langsmith.recover()
    bridge.environment["LANGSMITH_API_KEY"] = "another"
    assert bridge("run", bridge.write(make_requests(2)), "-o", "out.jsonl").returncode == 0
    llm = [each for each in backends.langsmith.runs.values() if each["run_type"] == "llm"]
    assert len(llm) == 2
    told = bridge("replay")
    assert told.returncode == 0
    assert "6 run updates are another key's or workspace's" in told.stderr
    assert len(backends.langsmith.runs) == 4
    assert json.loads(bridge("replay", "--other-keys", "--json").stdout)["sent"] == 6
    assert len(backends.langsmith.runs) == 9


def test_odd_files_in_the_spool_are_left_where_they_are(
    bridge: Command, backends: Backends, make_requests: MakeRequests
) -> None:
    backends.langsmith.refuse_all(503)
    bridge("run", bridge.write(make_requests(3)), "-o", "out.jsonl")
    backends.langsmith.recover()
    spool = bridge.folder / "state" / "spool"
    some = next(spool.glob("*/*.json"))
    odd = ["1_x.json", "2_3.json", f"1_{some.name.split('_')[1]}_7.json"]
    for name, text in zip(odd, ("{}", "[]", "no JSON"), strict=True):
        (some.parent / name).write_text(text)
    for command in (["replay"], ["run", bridge.write(make_requests(2)), "-o", "out.jsonl"]):
        ran = bridge(*command)
        assert ran.returncode == 0, ran.stderr
        lines = [line for line in ran.stderr.splitlines() if line.startswith("otel-bridge: ")]
        (warning,) = lines
        assert "a file holds no body and is left where it is" in warning
        assert sorted(file.name for file in spool.glob("*/*.json")) == sorted(odd)
    llm = [each for each in backends.langsmith.runs.values() if each["run_type"] == "llm"]
    assert len(llm) == 5


def test_a_mirror_that_cannot_be_is_said_in_one_line_with_the_fix(
    bridge: Command, backends: Backends, make_requests: MakeRequests
) -> None:
    bridge.environment["LANGSMITH_RUNS_ENDPOINTS"] = "[]"
    ran = bridge("run", bridge.write(make_requests(3)), "-o", "out.jsonl")
    assert ran.returncode == 0
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("otel-bridge: ")]
    assert line.startswith("otel-bridge: Nothing is mirrored to LangSmith: ")
    assert "LANGSMITH_ENDPOINT" in line
    assert line.endswith("unset LANGSMITH_RUNS_ENDPOINTS")
    replayed = bridge("replay")
    assert replayed.returncode == 2
    assert "Traceback" not in replayed.stderr
    assert replayed.stderr.rstrip().endswith("unset LANGSMITH_RUNS_ENDPOINTS")
    assert backends.langsmith.requests == []


@pytest.mark.parametrize("trouble", ["read-only", "full"])
def test_a_state_directory_that_fails_stops_nothing(
    bridge: Command, backends: Backends, make_requests: MakeRequests, trouble: str
) -> None:
    file = bridge.write(make_requests(200))
    state = bridge.folder / "state"
    if trouble == "read-only":
        bridge.environment["OTEL_BRIDGE_STATE_DIR"] = "/proc/otel-bridge"
    else:
        state.mkdir()
        for name in ("journal.sqlite3", "journal.sqlite3-wal", "journal.sqlite3-shm", "spool"):
            (state / name).symlink_to("/dev/full")
    ran = bridge("run", file, "-o", "out.jsonl")
    assert ran.returncode == 0, ran.stderr
    warnings = [line for line in ran.stderr.splitlines() if line.startswith("otel-bridge: ")]
    assert len(warnings) == 1, ran.stderr
    assert "The journal in" in warnings[0]
    backends.hold_everything_once(200)


def test_two_collectors_of_a_batch_tell_of_it_once(
    bridge: Command, backends: Backends, make_requests: MakeRequests
) -> None:
    submitted = bridge("submit", bridge.write(make_requests(REQUESTS)))
    batch_id = submitted.stdout.strip()
    backends.otlp.fail_next("POST", "traces", delay=0.2, times=float("inf"))
    both = [bridge.start("collect", batch_id, "-o", f"{number}.jsonl") for number in (1, 2)]
    for process in both:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
    for number in (1, 2):
        assert len((bridge.folder / f"{number}.jsonl").read_text().splitlines()) == REQUESTS
    backends.hold_everything_once(REQUESTS)
    ours = [each for each in backends.otlp.spans if each.scope == "otel_bridge"]
    assert len(ours) == REQUESTS + 1, "not even the same span twice"


def test_sigterm_leaves_the_batch_running_and_holds_nothing_back(
    bridge: Command, backends: Backends, make_requests: MakeRequests
) -> None:
    file = bridge.write(make_requests(50))
    backends.langsmith.fail_next("POST", "multipart", action="hang", times=float("inf"))
    reached = while_polling(backends)
    process = bridge.start("run", file, "-o", "out.jsonl")
    eventually(reached)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - started < 15
    assert process.returncode == 1
    assert "the batch goes on" in errors
    backends.recover()
    assert bridge("run", file, "-o", "out.jsonl").returncode == 0
    backends.hold_everything_once(50)


SERVICE = """
import os, signal, sys, time
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from otel_bridge import LangSmithSpanProcessor

provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(LangSmithSpanProcessor())
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("app")


def work(name, count):
    for number in range(count):
        with tracer.start_as_current_span(f"{name}-{number}", attributes={"gen_ai.system": "x"}):
            pass


"""


def service(bridge: Command, program: str) -> subprocess.Popen[str]:
    path: Path = bridge.folder / "service.py"
    path.write_text(SERVICE + program)
    return subprocess.Popen(
        [sys.executable, str(path)],
        env=bridge.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def names(backends: Backends) -> list[str]:
    return sorted(run["name"] for run in backends.langsmith.runs.values())


@pytest.mark.parametrize("down", [False, True])
def test_at_exit_nothing_is_lost(bridge: Command, backends: Backends, *, down: bool) -> None:
    if down:
        backends.langsmith.hang_all()
    process = service(bridge, "work('a', 30)\n")
    started = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - started < 20
    assert process.returncode == 0, errors
    backends.recover()
    assert bridge("replay").returncode == 0
    assert names(backends) == sorted(f"a-{number}" for number in range(30))


@pytest.mark.parametrize("down", [False, True])
def test_at_sigterm_nothing_is_lost(bridge: Command, backends: Backends, *, down: bool) -> None:
    if down:
        backends.langsmith.hang_all()
    process = service(bridge, "work('a', 30)\nprint('done', flush=True)\ntime.sleep(60)\n")
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM, "it ends as it would have without us"
    backends.recover()
    assert bridge("replay").returncode == 0
    assert names(backends) == sorted(f"a-{number}" for number in range(30))


def test_a_services_own_handler_of_sigterm_is_left_alone(
    bridge: Command, backends: Backends
) -> None:
    handler = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
    program = SERVICE.replace("provider = ", handler + "provider = ", 1)
    path = bridge.folder / "service.py"
    path.write_text(program + "work('a', 3)\nprint('done', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, str(path)],
        env=bridge.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 7
    assert len(names(backends)) == 3


FORKING = """
import threading
work('parent-before', 20)
children = []
for child in range(3):
    pid = os.fork()
    if pid == 0:
        work(f'child-{child}', 20)
        ours = [each.name for each in threading.enumerate() if each.name.startswith('otel-bridge')]
        assert len(ours) == 1, ours
        sys.exit(0)
    children.append(pid)
work('parent-after', 20)
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize("down", [False, True])
def test_forked_workers_lose_nothing_and_send_nothing_twice(
    bridge: Command, backends: Backends, *, down: bool
) -> None:
    if down:
        backends.langsmith.refuse_all(503)
    process = service(bridge, FORKING)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    backends.recover()
    assert bridge("replay").returncode == 0
    workers = ("parent-before", "parent-after", "child-0", "child-1", "child-2")
    assert names(backends) == sorted(f"{who}-{number}" for who in workers for number in range(20))
    assert backends.langsmith.conflicts == []


WORKERS = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otel_bridge import LangSmithSpanExporter


def job(name):
    work(name, 3)


def job_of_its_own(name):
    global tracer
    own = TracerProvider(shutdown_on_exit=False)
    own.add_span_processor(LangSmithSpanProcessor())
    tracer = own.get_tracer("app")
    job(name)


def job_below_an_open_span(name):
    global tracer
    own = TracerProvider(shutdown_on_exit=False)
    own.add_span_processor(SimpleSpanProcessor(LangSmithSpanExporter()))
    tracer = own.get_tracer("app")
    with trace.use_span(tracer.start_span("open")):
        job(name)


if __name__ == "__main__":
    start = multiprocessing.get_context("METHOD")
    processes = [
        start.Process(target=target, args=(target.__name__,))
        for target in (job, job_of_its_own, job_below_an_open_span)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with start.Pool(2) as pool:
        pool.map(job, ["terminated-1", "terminated-2"])
    pool = start.Pool(2)
    pool.map(job, ["closed-1", "closed-2"])
    pool.close()
    pool.join()
    with ProcessPoolExecutor(2, mp_context=start) as pool:
        list(pool.map(job, ["future-1", "future-2"]))
"""


@pytest.mark.parametrize(
    ("method", "down"),
    [
        ("fork", True),
        ("spawn", True),
        ("forkserver", False),
        *(
            pytest.param(method, down, marks=pytest.mark.nightly)
            for method, down in (("fork", False), ("spawn", False), ("forkserver", True))
        ),
    ],
)
def test_workers_of_multiprocessing_lose_nothing(
    bridge: Command, backends: Backends, method: str, down: bool
) -> None:
    if down:
        backends.langsmith.refuse_all(503)
    process = service(bridge, WORKERS.replace("METHOD", method))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    backends.recover()
    assert bridge("replay").returncode == 0
    jobs = ("job", "job_of_its_own", "job_below_an_open_span")
    pooled = [f"{how}-{number}" for how in ("terminated", "closed", "future") for number in (1, 2)]
    assert names(backends) == sorted(f"{who}-{n}" for who in (*jobs, *pooled) for n in range(3))
    assert backends.langsmith.conflicts == []
