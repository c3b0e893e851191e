"""Directories of ours are their owner's alone, whoever makes them first."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Command, MakeRequests

from otel_bridge._core import shield
from otel_bridge._core.private_directory import private_directory
from otel_bridge._core.process_lock import ProcessLock
from otel_bridge.journal import Journal
from otel_bridge.langsmith import Delivery
from otel_bridge.langsmith.multipart import RunUpdate
from otel_bridge.simulator import LangSmithCapture


@pytest.fixture(params=[0, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """A process's umask."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def modes(root: Path) -> dict[str, int]:
    """The modes of all directories from `root` on."""
    return {str(each): mode(each) for each in (root, *root.rglob("*")) if each.is_dir()}


@pytest.mark.usefixtures("umask")
def test_whoever_makes_them_makes_them_private(
    tmp_path: Path, langsmith: LangSmithCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSMITH_ENDPOINT", langsmith.url)
    langsmith.refuse_all(503)
    delivery = Delivery(state_dir=tmp_path / "by-mirror" / "state")
    delivery.submit(RunUpdate.from_run("post", {"id": "1"}))
    delivery.flush(2)
    delivery.close(0.1)
    Journal(tmp_path / "by-journal" / "state").totals()
    assert ProcessLock(tmp_path / "by-lock" / "state").name
    for maker in ("by-mirror", "by-journal", "by-lock"):
        made = modes(tmp_path / maker)
        assert len(made) > 1
        assert set(made.values()) == {0o700}, made
    assert list(tmp_path.glob("by-mirror/state/spool/*/*.json"))


def link(place: Path) -> None:
    target = place.with_name("target")
    target.mkdir(mode=0o700)
    place.symlink_to(target)


def writable_for_all(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)


def of_another_user(place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away; run the tests as root")
    place.mkdir(mode=0o700)
    os.chown(place, 12345, 12345)


BAD = [
    (link, "it is a symbolic link"),
    (writable_for_all, "everybody can write to it"),
    (of_another_user, "it belongs to another user"),
]


@pytest.mark.parametrize(("make", "reason"), BAD)
def test_one_that_others_can_change_is_no_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Any, reason: str
) -> None:
    place = tmp_path / "state"
    make(place)
    journal = Journal(place)
    assert journal.totals() == {}
    assert "cannot be used" in caplog.text
    assert reason in caplog.text
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("below", [(), ("spool",)])
@pytest.mark.parametrize(("make", "reason"), BAD)
def test_one_that_others_can_change_is_no_spool(
    tmp_path: Path,
    langsmith: LangSmithCapture,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    below: tuple[str, ...],
    make: Any,
    reason: str,
) -> None:
    monkeypatch.setenv("LANGSMITH_ENDPOINT", langsmith.url)
    langsmith.refuse_all(503)
    state = tmp_path / "state"
    if below:
        private_directory(state)
    place = state.joinpath(*below)
    make(place)
    delivery = Delivery(state_dir=state)
    delivery.submit(RunUpdate.from_run("post", {"id": "1"}))
    delivery.flush(2)
    assert delivery.report.held_back == 1
    assert delivery.report.spooled == 0, "it waits in memory"
    assert reason in caplog.text
    delivery.close(0.1)
    assert list(place.iterdir()) == []


def test_a_linked_folder_of_the_spool_loses_nothing(
    tmp_path: Path,
    langsmith: LangSmithCapture,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("LANGSMITH_ENDPOINT", langsmith.url)
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    files = [outside / "draft.tmp", outside / "1_000000000000-000000000000_1.json"]
    for each in files:
        each.write_text("{}")
    state = tmp_path / "state"
    private_directory(state, "spool")
    (state / "spool" / "1-ended").symlink_to(outside)
    delivery = Delivery(state_dir=state)
    assert delivery.inherit(refused=True, other_keys=True) == 0
    assert delivery.left.other_endpoints == 0
    delivery.close(0.1)
    assert all(each.exists() for each in files)
    assert "it is a symbolic link" in caplog.text


def test_a_linked_file_of_the_spool_is_not_sent(
    tmp_path: Path, langsmith: LangSmithCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSMITH_ENDPOINT", langsmith.url)
    langsmith.refuse_all(503)
    state = tmp_path / "state"
    ended = Delivery(state_dir=state)
    ended.submit(RunUpdate.from_run("post", {"id": "1"}))
    ended.flush(2)
    ended.close(0.1)
    (file,) = state.glob("spool/*/*.json")
    outside = file.rename(tmp_path / "outside.json")
    file.symlink_to(outside)
    delivery = Delivery(state_dir=state)
    assert delivery.inherit() == 0
    assert delivery.replayed.held_back == 0
    delivery.close(0.1)
    assert file.is_symlink()
    assert outside.exists()


def test_one_that_its_group_can_write_to_is_said_once_and_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shield.said.clear()
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o2775)
    for _ in range(2):
        Journal(state).totals()
    assert (state / "journal.sqlite3").exists()
    assert caplog.text.count("can be written to by its group") == 1


def test_a_journal_that_is_a_link_is_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = private_directory(tmp_path / "state")
    (state / "journal.sqlite3").symlink_to(tmp_path / "victim")
    assert Journal(state).totals() == {}
    assert "is a symbolic link" in caplog.text
    assert not (tmp_path / "victim").exists()


def test_a_spool_that_cannot_be_used_fails_replay_and_doctor(bridge: Command) -> None:
    private_directory(bridge.folder / "state", "spool").chmod(0o777)
    for command in ("replay", "doctor"):
        ran = bridge(command)
        assert ran.returncode == 1, command
        assert "everybody can write to it" in " ".join((ran.stdout + ran.stderr).split())


def test_the_command_says_so_and_goes_on(bridge: Command, make_requests: MakeRequests) -> None:
    writable_for_all(bridge.folder / "state")
    ran = bridge("run", bridge.write(make_requests(2)), "-o", "results.jsonl")
    assert ran.returncode == 0
    assert "everybody can write to it" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert bridge("doctor").returncode == 1
