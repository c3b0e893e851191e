"""The command line, as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


class Command:
    """`otel-bridge` in a folder and an environment of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "ANTHROPIC_API_KEY": "test",
            "OTEL_BRIDGE_POLL_INTERVAL": "0.05",
            "OTEL_BRIDGE_STATE_DIR": str(folder / "state"),
            **environment,
        }

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "otel_bridge.cli", *arguments],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it, for a test that kills it."""
        return subprocess.Popen(
            [sys.executable, "-m", "otel_bridge.cli", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def write(self, requests: list[dict[str, Any]]) -> str:
        (self.folder / "requests.jsonl").write_text("\n".join(map(json.dumps, requests)) + "\n")
        return "requests.jsonl"
