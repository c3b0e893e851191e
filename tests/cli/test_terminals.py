"""The command ends well on any terminal, and without one, and without a home directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otel_bridge.config import Settings
from otel_bridge.errors import ConfigurationError
from otel_bridge.simulator import MessageBatchesServer

Make = Callable[[int], list[dict[str, Any]]]

ENCODINGS = {
    "cp1252": {"PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"},
    "latin-1": {"PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"},
    "ascii": {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
    "ascii:strict": {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
}
DEMO = "demo --requests 20 --seconds 0.1"


@pytest.fixture
def collected(bridge: Any, make_requests: Make) -> Any:
    """The command, in a folder where one batch was run."""
    requests = make_requests(20)
    ran = bridge("run", bridge.write(requests), "-o", "out.jsonl")
    assert ran.returncode == 0, ran.stderr
    return bridge


def shell(bridge: Any, line: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in which `$BRIDGE` is the command; its status is that of the command."""
    return subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", line],
        cwd=bridge.folder,
        env={**bridge.environment, "BRIDGE": f"{sys.executable} -m otel_bridge.cli"},
        capture_output=True,
        timeout=120,
        check=False,
    )


def ended_well(ran: subprocess.CompletedProcess[bytes]) -> None:
    assert b"Traceback" not in ran.stderr, ran.stderr.decode(errors="replace")
    assert b"Exception ignored" not in ran.stderr
    assert b"Error" not in ran.stderr


def fits(stdout: bytes) -> bool:
    """Whether each line of an encoding with one byte per character has 60 characters at most."""
    return all(len(line) <= 60 for line in stdout.splitlines())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_a_stream_cannot_show_is_replaced(collected: Any, encoding: str) -> None:
    collected.environment |= {**ENCODINGS[encoding], "COLUMNS": "60"}
    codec = encoding.partition(":")[0]
    report, demo = (shell(collected, f"$BRIDGE {command}") for command in ("report", DEMO))
    for ran in (report, demo):
        ended_well(ran)
        assert ran.returncode == 0, ran.stderr
    assert "| succeeded | " in report.stdout.decode(codec)
    assert " | ####" in report.stdout.decode(codec)
    assert fits(demo.stdout)
    figures = demo.stdout.decode(codec).partition("One truth")[2]
    assert "LangSmith" in figures
    assert "succeeded" in figures
    assert figures.count("+\n") >= 12, figures


def test_every_command_fits_a_narrow_terminal_of_ascii(collected: Any) -> None:
    collected.environment |= {**ENCODINGS["ascii"], "COLUMNS": "60"}
    for command in ("doctor", "estimate requests.jsonl", "watch", "-h", "demo -h"):
        ran = shell(collected, f"$BRIDGE {command}")
        ended_well(ran)
        assert ran.returncode == 0, ran.stderr
        assert fits(ran.stdout)
    assert shell(collected, "$BRIDGE report -o report.md").returncode == 0
    assert "█" in (collected.folder / "report.md").read_text(encoding="utf-8")


def test_json_is_utf_8_whatever_the_terminal_shows(
    collected: Any, make_requests: Make, api: MessageBatchesServer
) -> None:
    collected.environment |= ENCODINGS["ascii"]
    (request,) = make_requests(1)
    request["params"]["model"] = "claude-ünheard-of"
    ran = shell(collected, f"$BRIDGE estimate --json {collected.write([request])}")
    assert json.loads(ran.stdout)["unpriced"] == ["claude-ünheard-of"]
    assert len(api.batch_ids) == 1


def test_errors_that_a_stream_cannot_show_are_still_one_line(bridge: Any) -> None:
    bridge.environment |= ENCODINGS["ascii"]
    ran = shell(bridge, "$BRIDGE run Ωmega.jsonl")
    assert ran.returncode == 2
    assert ran.stderr.decode("ascii").startswith("otel-bridge: \\u03a9mega.jsonl: cannot be read")


@pytest.mark.parametrize("end", ["| head -1", ">&- 2>&- <&-", "2>&1 | true"])
@pytest.mark.parametrize("command", ["report", DEMO, "run requests.jsonl --json", "-h"])
def test_a_stream_that_is_closed_or_has_no_reader_changes_nothing(
    bridge: Any, make_requests: Make, command: str, end: str
) -> None:
    bridge.write(make_requests(3))
    ran = shell(bridge, f"$BRIDGE {command} {end}")
    ended_well(ran)
    assert ran.returncode == 0, ran.stderr


def test_the_doctor_s_verdict_needs_no_reader(bridge: Any) -> None:
    bridge.environment["OTEL_BRIDGE_MAX_COST"] = "much"
    ran = shell(bridge, "$BRIDGE doctor | true")
    ended_well(ran)
    assert ran.returncode == 2


@pytest.mark.parametrize("command", ["run requests.jsonl", "submit --json requests.jsonl"])
def test_what_is_paid_for_is_not_lost_with_its_reader(
    bridge: Any, make_requests: Make, api: MessageBatchesServer, command: str
) -> None:
    bridge.write(make_requests(3))
    ran = shell(bridge, f"$BRIDGE {command} >&-")
    assert ran.returncode == 2
    assert ran.stderr == b"otel-bridge: stdout is closed; redirect it to a file\n"
    assert api.batch_ids == []
    ran = shell(bridge, f"$BRIDGE {command} | true")
    ended_well(ran)
    assert ran.returncode == 1
    (batch_id,) = api.batch_ids
    line = ran.stderr.decode().splitlines()[-1]
    assert "(Broken pipe)" in line
    assert f"`otel-bridge collect {batch_id}` reads" in line


@pytest.mark.parametrize("command", ["report", "doctor --json", "-h"])
def test_a_full_disk_is_said_in_one_line(bridge: Any, command: str) -> None:
    ran = shell(bridge, f"$BRIDGE {command} >/dev/full")
    assert ran.returncode == 1
    said = b"otel-bridge: stdout: cannot be written (No space left on device)\n"
    assert ran.stderr == said
    assert shell(bridge, f"$BRIDGE {command} 2>/dev/full").returncode == 0


def test_a_report_that_cannot_be_written_is_one_line(bridge: Any) -> None:
    ran = bridge("report", "-o", "/dev/full")
    assert ran.returncode == 1
    assert ran.stderr == "otel-bridge: /dev/full: cannot be written (No space left on device)\n"


NO_PASSWD_ENTRY = """
import os, pwd, sys

def unknown(*_):
    raise KeyError("no such user")

os.environ.pop("HOME", None)
pwd.getpwuid = pwd.getpwnam = unknown
"""
WARNING = "There is no home directory, so no journal and no spool are kept"


@pytest.fixture
def homeless(bridge: Any) -> Any:
    """The command of a user without home directory and without passwd entry."""
    (bridge.folder / "sitecustomize.py").write_text(NO_PASSWD_ENTRY)
    bridge.environment |= {
        "PYTHONPATH": str(bridge.folder),
        "PYDANTIC_DISABLE_PLUGINS": "__all__",
    }
    del bridge.environment["OTEL_BRIDGE_STATE_DIR"], bridge.environment["HOME"]
    return bridge


def test_without_a_home_directory_the_batch_goes_on(homeless: Any, make_requests: Make) -> None:
    ran = homeless("run", homeless.write(make_requests(5)), "-o", "out.jsonl")
    assert ran.returncode == 0, ran.stderr
    assert len((homeless.folder / "out.jsonl").read_text().splitlines()) == 5
    assert ran.stderr.count(WARNING) == 1
    assert "Traceback" not in ran.stderr
    for command in ("report", "replay", "doctor"):
        ran = homeless(command)
        assert ran.returncode == 0, ran.stderr
        assert "Traceback" not in ran.stderr
    assert not list(homeless.folder.rglob("~*"))
    homeless.environment["OTEL_BRIDGE_STATE_DIR"] = "~/state"
    ran = homeless("report")
    assert ran.returncode == 2
    assert "there is no home directory; use an absolute path" in ran.stderr
    homeless.environment["OTEL_BRIDGE_STATE_DIR"] = str(homeless.folder / "state")
    assert homeless("report").stderr == ""


def test_without_a_home_directory_a_service_goes_on(homeless: Any) -> None:
    program = (
        "import otel_bridge; otel_bridge.instrument(); otel_bridge.BatchExecutor();"
        "otel_bridge.BatchExecutor(); print('made')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=homeless.folder,
        env={**homeless.environment, "LANGSMITH_TRACING": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout == "made\n", ran.stderr
    assert ran.stderr.count(WARNING) == 1


def test_a_state_directory_below_no_home_is_a_bad_value(monkeypatch: pytest.MonkeyPatch) -> None:
    def expanduser(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", expanduser)
    with pytest.raises(ConfigurationError, match="use an absolute path"):
        Settings.from_env({"OTEL_BRIDGE_STATE_DIR": f"~{os.sep}state"}, strict=True)
