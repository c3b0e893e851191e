"""The command: what it prints, writes and exits with, in good days and bad."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from support import Command, MakeRequests, eventually, present

from otel_bridge import BatchHandle, PartialSubmissionError, RequestsError
from otel_bridge.cli import session
from otel_bridge.cli.results import read_requests
from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer, OtlpCapture

DEAD = "http://127.0.0.1:9"


def one_line(ran: subprocess.CompletedProcess[str]) -> str:
    lines = ran.stderr.splitlines()
    assert len(lines) == 1, ran.stderr
    assert lines[0].startswith("otel-bridge: ")
    assert ran.stdout == ""
    return lines[0]


def test_the_demo_agrees_in_under_fifteen_seconds(bridge: Command) -> None:
    started = time.monotonic()
    ran = bridge("demo", "--json")
    assert time.monotonic() - started < 15
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["agreed"] is True
    assert all(figure["agrees"] for figure in told["figures"])
    names = {figure["name"] for figure in told["figures"]}
    assert names >= {"input tokens", "cost in USD", "succeeded", "expired"}
    figures = {figure["name"]: figure["langsmith_runs"] for figure in told["figures"]}
    assert all(figures.values()), "the demo shows every token type and outcome"


def test_the_demo_for_people_shows_tree_and_table(bridge: Command) -> None:
    ran = bridge("demo", "--requests", "12", "--seconds", "0.2")
    assert ran.returncode == 0
    assert "nightly-review" in ran.stdout
    assert "One truth in every backend" in ran.stdout
    assert "✗" not in ran.stdout.partition("One truth")[2]


def test_the_demo_goes_to_a_real_endpoint_as_well(bridge: Command, otlp: OtlpCapture) -> None:
    bridge.environment["OTEL_EXPORTER_OTLP_HEADERS"] = "x-tenant=demo"
    ran = bridge("demo", "--otlp", "--json", "--seconds", "0.2")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    figures = {figure["name"]: figure["api"] for figure in told["figures"]}
    assert otlp.metric_sum("gen_ai.usage.cost") == pytest.approx(figures["cost in USD"])
    spans = [span for span in otlp.unique_spans() if span.name.startswith("chat")]
    tokens = sum(span.attributes.get("gen_ai.usage.output_tokens", 0) for span in spans)
    assert tokens == figures["output tokens"]
    assert {request.headers.get("x-tenant") for request in otlp.requests} == {"demo"}
    assert told["backends"][f"otlp at {otlp.url}"]["sent"] == len(otlp.unique_spans())


def test_no_export_of_the_demo_takes_its_exemplars_away(bridge: Command, otlp: OtlpCapture) -> None:
    assert bridge("demo", "--otlp", "--seconds", "3").returncode == 0
    exports = [request.body for request in otlp.requests if "metrics" in request.path]
    exports = [gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body for body in exports]
    told = [b"gen_ai.usage.cost" in body for body in exports]
    assert told in ([True], [False, True])


def test_the_demo_says_what_a_real_endpoint_did_not_take(
    bridge: Command, otlp: OtlpCapture
) -> None:
    otlp.fail_next(path="metrics", status=404, times=float("inf"))
    ran = bridge("demo", "--otlp", "--seconds", "0.2")
    assert ran.returncode == 1
    complaint = ran.stderr.splitlines()[-1]
    assert complaint.startswith(f"otel-bridge: OTLP at {otlp.url}: the metrics did not reach")


def test_the_demo_wants_an_endpoint_that_answers(bridge: Command) -> None:
    bridge.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    for endpoint, told in (
        (DEAD, f"nothing takes OTLP over HTTP at {DEAD}"),
        ("localhost:4317", "OTEL_EXPORTER_OTLP_ENDPOINT='localhost:4317' cannot be used"),
    ):
        bridge.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
        ran = bridge("demo", "--otlp")
        assert told in one_line(ran)
        assert ran.returncode == 2


def test_run_writes_the_apis_lines_and_sums_up(
    bridge: Command,
    make_requests: MakeRequests,
    api: MessageBatchesServer,
    langsmith: LangSmithCapture,
) -> None:
    ran = bridge("run", bridge.write(make_requests(60)), "-o", "out.jsonl", "--json")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    (batch_id,) = told["batches"]
    truth = api.truth(batch_id)
    assert {kind: told[kind] for kind in ("succeeded", "errored", "canceled", "expired")} == {
        kind: truth[kind] for kind in ("succeeded", "errored", "canceled", "expired")
    }
    assert told["requests"] == 60
    assert told["usage"] == {name: truth[name] for name in told["usage"]}
    assert told["cost_usd"] > 0
    assert told["backends"]["otlp"].items() >= {"sent": 62, "held_back": 0, "refused": 0}.items()
    assert told["backends"]["langsmith"]["sent"] == 63
    assert told["backends"]["langsmith"]["refused"] == 0
    assert any(run["trace_id"] in told["langsmith_run_url"] for run in langsmith.runs.values()) or (
        any(run_id in told["langsmith_run_url"] for run_id in langsmith.runs)
    )
    lines = (bridge.folder / "out.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == api.results(batch_id)


def test_results_go_to_stdout_and_the_summary_to_stderr(
    bridge: Command, make_requests: MakeRequests
) -> None:
    text = "\n".join(map(json.dumps, make_requests(4)))
    ran = bridge("run", "-", stdin=text)
    assert ran.returncode == 0
    assert len(list(map(json.loads, ran.stdout.splitlines()))) == 4
    for word in ("input_tokens", "cost", "trace ", "LangSmith http"):
        assert word in ran.stderr


def test_json_without_output_still_keeps_the_results(
    bridge: Command, make_requests: MakeRequests
) -> None:
    ran = bridge("run", bridge.write(make_requests(4)), "--json")
    told = json.loads(ran.stdout)
    assert told["output"] == f"{told['batches'][0]}.jsonl"
    assert len((bridge.folder / told["output"]).read_text().splitlines()) == 4


def test_failed_requests_matter_to_the_status_only_when_asked(
    bridge: Command, make_requests: MakeRequests
) -> None:
    bad = bridge.write([{**make_requests(1)[0], "custom_id": "a-errored-1"}])
    assert bridge("run", bad, "-o", "out").returncode == 0
    assert bridge("run", bad, "-o", "out", "--fail-on-error").returncode == 3


@pytest.mark.parametrize("fault", ["refuses", "hangs"])
def test_backends_that_are_down_cost_no_result(
    bridge: Command,
    make_requests: MakeRequests,
    api: MessageBatchesServer,
    otlp: OtlpCapture,
    langsmith: LangSmithCapture,
    fault: str,
) -> None:
    if fault == "hangs":
        otlp.hang_all()
        langsmith.hang_all()
    else:
        bridge.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = DEAD
        bridge.environment["LANGSMITH_ENDPOINT"] = DEAD
    started = time.monotonic()
    ran = bridge("run", bridge.write(make_requests(3000)), "-o", "out.jsonl")
    assert time.monotonic() - started < 60
    assert ran.returncode == 0
    assert len((bridge.folder / "out.jsonl").read_text().splitlines()) == 3000
    assert "Traceback" not in ran.stderr
    complaints = [line for line in ran.stderr.splitlines() if line.startswith("otel-bridge: ")]
    assert len(complaints) == 2, ran.stderr
    spans, runs = complaints
    assert spans.startswith("otel-bridge: OTLP: 3002 of 3002 spans and the metrics did not reach")
    assert runs.startswith("otel-bridge: LangSmith: 3003 of 3003 run updates did not reach")
    reason = "no answer in time" if fault == "hangs" else "no connection"
    assert spans.endswith(f"({reason}); check OTEL_EXPORTER_OTLP_ENDPOINT")
    assert runs.endswith(
        f"({reason}); check LANGSMITH_ENDPOINT; 3003 wait on disk for `otel-bridge replay`"
    )
    assert len(api.batch_ids) == 1


def test_a_refused_key_is_said_in_one_line(
    bridge: Command, make_requests: MakeRequests, langsmith: LangSmithCapture
) -> None:
    langsmith.refuse_all(401)
    ran = bridge("run", bridge.write(make_requests(5)), "-o", "out.jsonl", "--json")
    assert ran.returncode == 0
    told = json.loads(ran.stdout)
    assert told["backends"]["langsmith"]["refused"] == 8
    assert told["backends"]["otlp"]["refused"] == 0
    (complaint,) = [line for line in ran.stderr.splitlines() if "did not reach" in line]
    assert "HTTP 401" in complaint
    assert "; check LANGSMITH_API_KEY; " in complaint


BAD_FILES = [
    (b'{"custom_id"\n', "requests.jsonl, line 1: not JSON"),
    (b"\n[]\n", "requests.jsonl, line 2: not an object"),
    (b'{"params": {}}\n', "line 1: custom_id is missing"),
    (b'{"custom_id": "a b", "params": {}}\n', "line 1: custom_id 'a b' must be"),
    (b'{"custom_id": "a"}\n', "line 1: params is missing"),
    (b'{"custom_id": "a", "params": {}}\n', "line 1: params.model is missing"),
    (b'{"custom_id": "a", "params": {"model": "m"}}\n', "params.max_tokens is missing"),
    (
        b'{"custom_id": "a", "params": {"model": "m", "max_tokens": 1}}\n',
        "params.messages is missing",
    ),
    (b"\n\n", "there are no requests in it"),
    (b"\xff\xfe\n", "line 1: not JSON"),
    (b"\xef\xbb\xbf[]\r\n", "line 1: not an object"),
]


@pytest.mark.parametrize(("data", "reason"), BAD_FILES)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, data: bytes, reason: str) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_bytes(data)
    with pytest.raises(RequestsError) as refused:
        read_requests(str(file))
    assert reason in str(refused.value)


def test_the_last_line_counts_as_much_as_the_first(
    bridge: Command, make_requests: MakeRequests, api: MessageBatchesServer
) -> None:
    good = make_requests(3)
    ran = bridge("submit", bridge.write([*good, good[0]]))
    assert "requests.jsonl, line 4: custom_id 'item-00000' is already used in" in one_line(ran)
    assert ran.returncode == 2
    assert api.requests == []


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "reason"),
    [
        (["run", "nowhere.jsonl"], {}, 2, "nowhere.jsonl: cannot be read (No such file"),
        (["run", "."], {}, 2, "cannot be read (Is a directory)"),
        (["run", "requests.jsonl"], {"ANTHROPIC_API_KEY": ""}, 2, "set ANTHROPIC_API_KEY"),
        (["run", "requests.jsonl"], {"ANTHROPIC_BASE_URL": DEAD}, 1, "ANTHROPIC_BASE_URL"),
        (["run", "requests.jsonl", "-o", "no/where"], {}, 2, "no/where: cannot be written"),
        (
            ["run", "requests.jsonl"],
            {"OTEL_BRIDGE_MAX_REQUEST_SPANS": "many"},
            2,
            "OTEL_BRIDGE_MAX_REQUEST_SPANS='many' cannot be used",
        ),
        (["collect", "msgbatch_none"], {}, 1, "the API knows no batch 'msgbatch_none'"),
        (["collect", "requests.jsonl"], {}, 2, "requests.jsonl: not what `otel-bridge submit"),
        (["collect", ""], {}, 2, "the batch id is empty; pass the id that submitting gave"),
        (["collect", " ", "--json"], {}, 2, "the batch id is empty"),
        (["watch", ""], {}, 2, "the batch id is empty"),
        (["backfill", ""], {}, 2, "the batch id is empty"),
        (["run", "requests.jsonl", "-o", "requests.jsonl"], {}, 2, "would overwrite what is read"),
        (["run", "requests.jsonl", "-o", "../{}/requests.jsonl"], {}, 2, "would overwrite"),
        *(
            (["run", "requests.jsonl"], {name: "bogus"}, 2, f"{name}='bogus' cannot be used: use ")
            for name in (
                "OTEL_TRACES_EXPORTER",
                "OTEL_METRICS_EXPORTER",
                "OTEL_PROPAGATORS",
                "OTEL_PYTHON_CONTEXT",
                "OTEL_EXPORTER_OTLP_PROTOCOL",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            )
        ),
        (
            ["run", "requests.jsonl"],
            {"OTEL_PYTHON_ID_GENERATOR": "bogus"},
            2,
            "OpenTelemetry cannot be set up",
        ),
        *(
            (
                ["run", "requests.jsonl"],
                {name: value},
                2,
                f"{name}='{value}' cannot be used: use a ",
            )
            for name in ("OTEL_BRIDGE_POLL_INTERVAL", "OTEL_BRIDGE_POLL_MAX_INTERVAL")
            for value in ("1e300", "86401", "inf")
        ),
    ],
)
def test_bad_input_is_one_line_that_names_the_place(
    bridge: Command,
    make_requests: MakeRequests,
    api: MessageBatchesServer,
    arguments: list[str],
    environment: dict[str, str],
    status: int,
    reason: str,
) -> None:
    bridge.write(make_requests(1))
    before = (bridge.folder / "requests.jsonl").read_bytes()
    bridge.environment |= environment
    ran = bridge(*(each.format(bridge.folder.name) for each in arguments))
    assert reason in one_line(ran)
    assert (bridge.folder / "requests.jsonl").read_bytes() == before
    assert ran.returncode == status
    assert api.batch_ids == []


@pytest.mark.parametrize(
    "told",
    [
        *("{}", "[]", "[1]", "null", "no JSON", '{"handles": []}', '{"handles": {"id": "x"}}'),
        *('{"handles": [1]}', '{"handles": [{"id": 5}]}', '{"handles": [{"id": " "}]}'),
        '{"handles": [{"id": "x", "carrier": 5}]}',
        '{"handles": [{"id": "x", "models": 5}]}',
        '{"handles": [{"id": "x", "request_count": "many"}]}',
    ],
)
def test_what_is_no_handle_is_said_in_one_line(
    bridge: Command, api: MessageBatchesServer, told: str
) -> None:
    (bridge.folder / "batch.json").write_text(told)
    ran = bridge("collect", "batch.json", "--json")
    assert "batch.json: not what `otel-bridge submit --json` writes" in one_line(ran)
    assert ran.returncode == 2
    assert api.requests == []


@pytest.mark.parametrize("folder", [None, "/proc"])
def test_the_rest_of_the_requests_is_kept_where_it_can_be(
    tmp_path: Path, make_requests: MakeRequests, monkeypatch: pytest.MonkeyPatch, folder: str | None
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(folder or tmp_path)
    name = "msgbatch_1.unsubmitted.jsonl"
    path = tmp_path / "temporary" / name if folder else tmp_path / name
    lack = PartialSubmissionError(
        "2 requests are in no batch", [BatchHandle("msgbatch_1", 1)], make_requests(2)
    )
    told = path if folder else name
    go_on = session._with_the_rest_in_a_file  # noqa: SLF001 - a folder cannot be made unwritable for root
    assert str(go_on(lack)) == f"{lack}; submit {told} to go on"
    assert read_requests(str(path)) == make_requests(2)
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.chdir("/proc")
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    assert "; submit the requests from 'item-00000' on" in str(go_on(lack))


def test_interrupted_twice_while_telemetry_is_sent_it_leaves_with_one_line_each(
    bridge: Command, make_requests: MakeRequests, api: MessageBatchesServer, otlp: OtlpCapture
) -> None:
    otlp.hang_all()
    running = bridge.start("run", bridge.write(make_requests(2)), "-o", "out.jsonl")
    eventually(lambda: any(request.path.endswith("results") for request in api.requests))
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    lines = iter(present(running.stderr).readline, "")
    assert any(line.startswith("otel-bridge: interrupted; ") for line in lines)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    _, rest = running.communicate(timeout=30)
    assert rest == "otel-bridge: interrupted again; telemetry is left unsent\n"
    assert running.returncode == 1
    assert len((bridge.folder / "out.jsonl").read_text().splitlines()) == 2


def test_results_that_cannot_be_written_can_be_read_again(
    bridge: Command, make_requests: MakeRequests, api: MessageBatchesServer
) -> None:
    ran = bridge("run", bridge.write(make_requests(300)), "-o", "/dev/full")
    assert ran.returncode == 1
    (batch_id,) = api.batch_ids
    said = "/dev/full: results cannot be written (No space left on device); "
    assert f"{said}`otel-bridge collect {batch_id}`" in ran.stderr
    assert "Traceback" not in ran.stderr
    ran = bridge("collect", batch_id)
    assert len(ran.stdout.splitlines()) == 300


def test_interrupted_the_batch_goes_on(
    bridge: Command, make_requests: MakeRequests, api: MessageBatchesServer
) -> None:
    api.batch_seconds = 60
    running = subprocess.Popen(
        [sys.executable, "-m", "otel_bridge.cli", "run", bridge.write(make_requests(2))],
        cwd=bridge.folder,
        env=bridge.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: any(request.method == "GET" for request in api.requests))
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert running.returncode == 1
    (batch_id,) = api.batch_ids
    assert f"interrupted; the batch goes on, `otel-bridge collect {batch_id}` reads it" in said
    assert "Traceback" not in said


def test_a_refusal_of_the_api_is_one_line(
    bridge: Command, make_requests: MakeRequests, api: MessageBatchesServer
) -> None:
    api.refuse_all(401)
    ran = bridge("run", bridge.write(make_requests(1)))
    line = one_line(ran)
    assert "the API refused the batch: 401" in line
    assert "ANTHROPIC_API_KEY" in line
    assert ran.returncode == 1


def test_without_backends_the_command_just_runs(
    bridge: Command, make_requests: MakeRequests, otlp: OtlpCapture, langsmith: LangSmithCapture
) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "LANGSMITH_TRACING"):
        del bridge.environment[name]
    ran = bridge("run", bridge.write(make_requests(3)), "-o", "out.jsonl", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["backends"] == {}
    assert otlp.requests == []
    assert langsmith.requests == []
    bridge.environment["OTEL_SDK_DISABLED"] = "true"
    assert bridge("run", "requests.jsonl", "-o", "out.jsonl").returncode == 0


def test_a_services_own_provider_is_used_as_it_stands(
    bridge: Command, make_requests: MakeRequests, otlp: OtlpCapture
) -> None:
    bridge.environment |= {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    name = bridge.write(make_requests(3))
    program = (
        "from opentelemetry.instrumentation.auto_instrumentation import initialize; initialize();"
        f"import sys; sys.argv = ['otel-bridge', 'run', '{name}', '-o', 'out'];"
        "from otel_bridge.cli import main; main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=bridge.folder,
        env=bridge.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "Overriding" not in ran.stderr
    names = [span.name for span in otlp.unique_spans() if span.scope == "otel_bridge"]
    assert len(names) == 4
