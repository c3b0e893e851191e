"""Every snippet of the docs runs as it stands, page by page, and what pages name is there."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import Command, MakeRequests

from otel_bridge.config import VARIABLES
from otel_bridge.simulator import LangSmithCapture, MessageBatchesServer, OtlpCapture

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "otel_bridge"
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KINDS = {"sh", "python"}
SAVE = "# save: "
WITHOUT_BATCHES = {
    *("README", "architecture", "commands", "configuration", "guarantees", "langsmith"),
    *("telemetry", "testing", "troubleshooting"),
}
"""Pages that run none, or none against the servers of these tests."""

BASH = shutil.which("bash") or ""
needs_bash = pytest.mark.skipif(not BASH, reason="apt-get install bash")


def script(page: Path) -> str:
    """The page's snippets in their order, as one shell script."""
    lines = ["set -euo pipefail"]
    for number, (kind, text) in enumerate(BLOCK.findall(page.read_text())):
        assert kind in KINDS, f"{page.name}: a snippet of kind {kind!r} is not run"
        if kind == "sh":
            lines.append(text)
            continue
        saved = text.startswith(SAVE)
        name = text.splitlines()[0].removeprefix(SAVE) if saved else f"snippet{number}.py"
        lines += [f"cat > {name} <<'SNIPPET'", text.rstrip("\n"), "SNIPPET"]
        if not saved:
            lines.append(f"python {name}")
    return "\n".join(lines)


@needs_bash
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_snippets_of_a_page_run(
    page: Path,
    bridge: Command,
    make_requests: MakeRequests,
    otlp: OtlpCapture,
    api: MessageBatchesServer,
    langsmith: LangSmithCapture,
) -> None:
    bridge.write(make_requests(12))
    (bridge.folder / "examples").symlink_to(ROOT / "examples")
    bridge.environment |= {
        "PATH": f"{Path(sys.executable).parent}:{bridge.environment['PATH']}",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    ran = subprocess.run(
        [BASH, "-c", script(page).replace("http://localhost:4318", otlp.url)],
        cwd=bridge.folder,
        env=bridge.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr, ran.stderr
    assert langsmith.refusals == otlp.refusals == []
    assert bool(api.batch_ids) == (page.stem not in WITHOUT_BATCHES)


def runs_by_name(langsmith: LangSmithCapture) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for run in langsmith.runs.values():
        found.setdefault(run["name"], []).append(run)
    return found


def test_single_calls_nest_and_are_priced(
    bridge: Command, api: MessageBatchesServer, langsmith: LangSmithCapture
) -> None:
    """The shared client of existing-services.md: many calls at once, each below its function."""
    page = (ROOT / "docs" / "existing-services.md").read_text()
    (code,) = [text for kind, text in BLOCK.findall(page) if "classify_all" in text]
    (bridge.folder / "calls.py").write_text(code)
    environment = bridge.environment | {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    subprocess.run([sys.executable, "calls.py"], cwd=bridge.folder, env=environment, check=True)
    runs = runs_by_name(langsmith)
    (top,) = runs["classify_all"]
    classified = {run["id"]: run for run in runs["classify"]}
    calls = runs["ChatAnthropic"]
    assert len(classified) == len(calls) == len(api.messages) == 5
    assert {run["parent_run_id"] for run in classified.values()} == {top["id"]}
    assert {run["parent_run_id"] for run in calls} == classified.keys()
    usages = [run["extra"]["metadata"]["usage_metadata"] for run in calls]
    output = sum(message["usage"]["output_tokens"] for message in api.messages)
    assert sum(usage["output_tokens"] for usage in usages) == output
    assert all(usage["total_cost"] > 0 for usage in usages)


def test_every_command_and_variable_is_in_the_docs(bridge: Command) -> None:
    told = "".join(page.read_text() for page in [*PAGES, README])
    listed = bridge("--help").stdout.partition("Commands:")[2]
    for command in re.findall(r"^  (\w+)", listed, re.MULTILINE):
        assert f"otel-bridge {command}" in told, command
    for variable in VARIABLES:
        assert variable.name in told, variable.name


def test_the_five_lines_of_the_readme_run(bridge: Command, api: MessageBatchesServer) -> None:
    (code,) = [text for kind, text in BLOCK.findall(README.read_text()) if kind == "python"]
    (bridge.folder / "five_lines.py").write_text(code)
    ran = subprocess.run(
        [sys.executable, "five_lines.py"],
        cwd=bridge.folder,
        env=bridge.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (batch_id,) = api.batch_ids
    assert len(api.results(batch_id)) == 1


def test_the_readme_is_short_and_links_every_page() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 200
    index = (ROOT / "docs" / "README.md").read_text()
    for page in PAGES:
        if page.stem != "README":
            assert f"(docs/{page.name})" in text, page.name
            assert f"({page.name})" in index, page.name


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*.md")], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target, section in re.findall(r"\]\((?!https?:)([^)#]+)(?:#([^)]+))?\)", page.read_text()):
        linked = page.parent / target
        assert linked.exists(), target
        if section:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert section in {title.lower().replace(" ", "-") for title in titles}, section


@pytest.mark.parametrize("page", ["guarantees", "troubleshooting"])
def test_messages_in_tables_are_the_packages_own(page: str) -> None:
    texts = [
        node.value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    rows = re.findall(r"^\|.*", (ROOT / "docs" / f"{page}.md").read_text(), re.MULTILINE)
    for message in (each for row in rows for each in re.findall(r'"([^"]+)"', row)):
        for part in re.split(r"…|\.\.\.", message):
            words = part.strip(" .,:;`")
            assert any(words in text for text in texts), message


def test_files_on_the_page_of_the_architecture_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for name in re.findall(r"`([\w/]+\.py)`", page):
        assert (PACKAGE / name).exists() or (ROOT / name).exists(), name
