"""What every change passes (`gate`), and the long drills (`nightly`)."""

from __future__ import annotations

import logging
from pathlib import Path

import nox

ROOT = Path(__file__).parent
EXTRAS = "cli,examples,parquet,test"
WORKERS = "3"
"""Tests mostly wait for other processes, so more run at once than a small machine has cores."""

nox.options.sessions = ["gate"]
nox.options.reuse_existing_virtualenvs = True
logging.getLogger("nox").setLevel(logging.WARNING)


@nox.session
def gate(session: nox.Session) -> None:
    """Check the source, then test the wheel that would be published. Arguments go to pytest."""
    install_wheel(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("deptry", "otel_bridge")
    session.run("otel-bridge", "demo")
    test(session)


@nox.session
def nightly(session: nox.Session) -> None:
    """Run every test, those marked `nightly` too. Arguments go to pytest."""
    install_wheel(session)
    test(session, "-m", "nightly or not nightly")


def install_wheel(session: nox.Session) -> None:
    """Build the wheel and install it with what the tests want; the checkout is not installed."""
    folder = Path(session.create_tmp())
    for old in folder.glob("*.whl"):
        old.unlink()
    session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    session.install("-q", f"otel-bridge[{EXTRAS}] @ {wheel.as_uri()}")
    session.install("-q", "--force-reinstall", "--no-deps", str(wheel))


def test(session: nox.Session, *options: str) -> None:
    """Run the tests; no process of theirs has the checkout's package on its path."""
    workers = ("-n", WORKERS, "--dist", "worksteal")
    environment = {"PYTHONSAFEPATH": "1"}
    logging.getLogger("nox").setLevel(logging.CRITICAL)  # the last line is pytest's own summary
    session.run("pytest", "-rs", *workers, *options, *session.posargs, env=environment)
