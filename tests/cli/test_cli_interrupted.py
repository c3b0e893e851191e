"""What the command says where it cannot go on: one line, and the way out works."""

from __future__ import annotations

import json
import signal
from datetime import timedelta

import pytest
from support import Command, MakeRequests, eventually

from otel_bridge.simulator import MessageBatchesServer


def complaint(stderr: str) -> str:
    """The last line, which is the only one of ours."""
    lines = [line for line in stderr.splitlines() if line.startswith("otel-bridge: ")]
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    return lines[0]


@pytest.mark.parametrize("path", [r"msgbatch_[a-z0-9]+$", "results$"])
def test_a_run_that_ends_while_it_waits_or_reads_names_the_command_that_goes_on(
    bridge: Command, make_requests: MakeRequests, api: MessageBatchesServer, path: str
) -> None:
    api.fail_next("GET", path, status=403, times=float("inf"))
    ran = bridge("run", bridge.write(make_requests(3)), "-o", "out.jsonl")
    assert ran.returncode == 1
    (batch_id,) = api.batch_ids
    said = ran.stderr.splitlines()[-1]
    assert "403" in said
    assert f"`otel-bridge collect {batch_id}` reads it once more" in said
    api.recover()
    assert len(bridge("collect", batch_id).stdout.splitlines()) == 3


def test_all_batches_are_named_where_there_are_several(
    bridge: Command, make_requests: MakeRequests, api: MessageBatchesServer
) -> None:
    ids = [api.add_batch(make_requests(2), seconds=60) for _ in range(2)]
    handles = [{"id": each, "request_count": 2} for each in ids]
    (bridge.folder / "handles.json").write_text(json.dumps({"handles": handles}))
    running = bridge.start("collect", "handles.json", "-o", "out.jsonl")
    eventually(lambda: any(request.method == "GET" for request in api.requests))
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    commands = ", ".join(f"`otel-bridge collect {each}`" for each in ids)
    assert complaint(said) == f"otel-bridge: interrupted; the batches go on, {commands} read them"
    api.fail_next("GET", r"msgbatch_[a-z0-9]+$", status=403)
    assert f"; {commands} read them once more" in complaint(
        bridge("collect", "handles.json").stderr
    )


def test_interrupted_while_it_is_created_a_batch_is_found_by_the_next_run(
    bridge: Command, make_requests: MakeRequests, api: MessageBatchesServer
) -> None:
    file = bridge.write(make_requests(3))
    api.fail_next("POST", "batches$", action="accept_then_hang")
    running = bridge.start("run", file, "-o", "out.jsonl")
    eventually(lambda: api.batch_ids)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert running.returncode == 1
    assert "run the same again, which goes on with what was created" in complaint(said)
    ran = bridge("run", file, "-o", "out.jsonl")
    assert ran.returncode == 0, ran.stderr
    assert len(api.batch_ids) == 1


@pytest.mark.parametrize("command", ["run", "submit"])
def test_new_batches_are_made_whatever_became_of_earlier_ones(
    bridge: Command, make_requests: MakeRequests, api: MessageBatchesServer, command: str
) -> None:
    file = bridge.write(make_requests(3))
    for _ in range(2):
        soon = api.now() + timedelta(seconds=30)  # the command may take long to start
        api.add_batch(make_requests(3), created_at=soon)
    api.fail_next("POST", "batches$", status=500)
    assert "`--new`" in complaint(bridge(command, file).stderr)
    ran = bridge(command, "--new", file, "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["batches"] == api.batch_ids[2:]


@pytest.mark.parametrize("url", ["foo", "http://[::1"])
@pytest.mark.parametrize("command", ["run", "estimate", "collect", "backfill"])
def test_a_url_to_which_nothing_can_be_sent_is_named(
    bridge: Command, make_requests: MakeRequests, command: str, url: str
) -> None:
    bridge.environment["ANTHROPIC_BASE_URL"] = url
    reading = command in ("collect", "backfill")
    ran = bridge(command, "msgbatch_1" if reading else bridge.write(make_requests(1)))
    assert ran.returncode == 2
    assert "ANTHROPIC_BASE_URL cannot be used" in complaint(ran.stderr)


@pytest.mark.parametrize("url", ["foo", "http://[::1"])
def test_the_doctor_names_it_too(bridge: Command, url: str) -> None:
    bridge.environment["ANTHROPIC_BASE_URL"] = url
    assert "ANTHROPIC_BASE_URL cannot be used" in bridge("doctor").stdout
