"""The command starts quickly, and Ctrl-C is quiet from its first moment on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from otel_bridge.cli.commands import cli

SDKS = {"anthropic", "opentelemetry", "langsmith", "genai_prices", "pydantic", "rich"}
START = "from otel_bridge.cli import main; sys.argv = ['otel-bridge', *sys.argv[1:]]; main()"
LIST_MODULES = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr));"


@pytest.mark.parametrize(
    ("arguments", "environment", "printed"),
    [
        (["--version"], {}, "otel-bridge, version"),
        (["--help"], {}, "Usage: otel-bridge [OPTIONS] COMMAND"),
        (["-h"], {"OTEL_PROPAGATORS": "bogus"}, "Usage: otel-bridge [OPTIONS] COMMAND"),
        *(([name, "--help"], {}, f"Usage: otel-bridge {name}") for name in cli.commands),
        ([], {"_OTEL_BRIDGE_COMPLETE": "zsh_source"}, "#compdef otel-bridge"),
        (
            [],
            {
                "_OTEL_BRIDGE_COMPLETE": "bash_complete",
                "COMP_WORDS": "otel-bridge es",
                "COMP_CWORD": "1",
            },
            "plain,estimate",
        ),
    ],
)
def test_help_and_completion_load_no_sdk(
    arguments: list[str], environment: dict[str, str], printed: str
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", f"{LIST_MODULES} {START}", *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert printed in ran.stdout
    loaded = set(ran.stderr.split())
    assert "otel_bridge.cli.commands" in loaded
    assert SDKS.isdisjoint(loaded)


@pytest.mark.parametrize("command", ["demo", "watch"])
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2, 0.5, 1.0])
def test_ctrl_c_during_start_up_is_one_line(bridge: Any, command: str, delay: float) -> None:
    running = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "otel_bridge.cli", command],
        cwd=bridge.folder,
        env=bridge.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr
    # What is imported after otel_bridge.cli is imported by its `main`.
    while not running.stderr.readline().endswith("| otel_bridge.cli\n"):
        pass
    running.stderr.readline()
    time.sleep(delay)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    said = [line for line in stderr.splitlines() if not line.startswith("import time:")]
    if running.returncode == 0:  # it was faster than the signal
        assert command != "demo"
        assert "Traceback" not in stderr
    else:
        assert said == ["otel-bridge: interrupted"]
        assert running.returncode == 1


def test_a_missing_library_of_the_command_line_is_named(bridge: Any) -> None:
    for library, command in (("click", "--help"), ("rich", "watch")):
        (bridge.folder / f"{library}.py").write_text(
            f"raise ModuleNotFoundError('missing', name={library!r})"
        )
        bridge.environment["PYTHONPATH"] = str(bridge.folder)
        ran = bridge(command)
        assert ran.returncode == 1
        assert f"{library} is missing; install the command line with pip install" in ran.stderr
        assert "Traceback" not in ran.stderr
        (bridge.folder / f"{library}.py").unlink()
