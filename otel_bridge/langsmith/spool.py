"""Bodies that LangSmith did not accept: on disk until it does, in memory where there is no disk."""

from __future__ import annotations

import base64
import bisect
import contextlib
import logging
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import orjson

from otel_bridge._core.display import safe_endpoint
from otel_bridge._core.private_directory import check_private, private_directory
from otel_bridge._core.process_lock import ProcessLock
from otel_bridge.langsmith.client import Destination
from otel_bridge.langsmith.multipart import Body

logger = logging.getLogger(__name__)

DISK_BYTES = 512_000_000
MEMORY_BYTES = 64_000_000
_MEASURE_SECONDS = 5.0
_REFUSED = "refused"
_NAME = re.compile(
    r"(?P<key>[^_]+)_(?P<api>[0-9a-f]{12})-(?P<account>[0-9a-f]{12})_(?P<updates>\d+)\.json"
)
_NO_BODY = "a file holds no body and is left where it is"


@dataclass(frozen=True, slots=True, order=True)
class _Entry:
    """One body that waits, in a file or else in memory; ordered by key, which is by age."""

    key: str
    updates: int
    size: int
    inherited: bool = False
    path: Path | None = None
    body: Body | None = None


@dataclass(frozen=True, slots=True)
class _Label:
    """What is in a file's name: the body's key and number of updates, and its destination."""

    key: str
    updates: int
    api: str
    account: str

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """Parse the name of a file, None where it is not the name of a body."""
        match = _NAME.fullmatch(path.name)
        if match is None:
            return None
        return cls(match["key"], int(match["updates"]), match["api"], match["account"])


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """Numbers of run updates on disk that belong to no running process.

    `refused` counts those that were set apart for this API and account. The others wait, or were
    set apart, for other keys or workspaces at this API (`other_keys`), and for other APIs.
    """

    refused: int = 0
    other_keys: int = 0
    other_endpoints: int = 0


class Spool:
    """The bodies that wait for LangSmith, the oldest first; when it is full, no more are added.

    Each process has a folder of its own in the directory, so that its bodies are sent in order and
    by one sender. The folder of an ended process is inherited by the first process that looks for
    it and has the same destination.
    """

    def __init__(self, state_dir: Path | None, destination: Destination) -> None:
        self._state_dir = state_dir
        self._root = state_dir / "spool" if state_dir else None
        self._owner = ProcessLock(state_dir) if state_dir else None
        self._destination = destination
        self._used_bytes, self._measured_at = 0, -math.inf
        self._entries: list[_Entry] = []
        self._warned: set[str] = set()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def own_updates(self) -> int:
        """Number of this process's updates that wait."""
        return sum(entry.updates for entry in self._entries if not entry.inherited)

    @property
    def inherited_updates(self) -> int:
        """Number of ended processes' updates that wait here."""
        return sum(entry.updates for entry in self._entries if entry.inherited)

    @property
    def size(self) -> int:
        """Bytes on disk, those of other processes and of refused bodies included."""
        if self._root is None:
            return 0
        try:
            return sum(file.stat().st_size for file in self._root.glob("*/*.json"))
        except OSError:  # another process removed a file meanwhile
            return 0

    @property
    def volatile(self) -> bool:
        """Whether a body is in memory only."""
        return any(entry.path is None for entry in self._entries)

    def holds(self, body: Body) -> bool:
        """Whether a body waits here."""
        return any(entry.key == body.key for entry in self._entries)

    def add(self, body: Body) -> bool:
        """Store a body; return False when there is no room for it."""
        if self.holds(body):
            return True
        size = len(body.data)
        path = self._write(body)
        if path is None:
            in_memory = sum(entry.size for entry in self._entries if entry.path is None)
            if in_memory + size > MEMORY_BYTES:
                return False
        kept = None if path else body
        bisect.insort(
            self._entries, _Entry(body.key, body.updates, size, body.inherited, path, kept)
        )
        return True

    def oldest(self) -> Body | None:
        """Return the oldest body, None where none waits."""
        while self._entries:
            entry = self._entries[0]
            if entry.path is None:
                return entry.body
            try:
                data, headers = _read_envelope(entry.path)
                return Body(data, headers, entry.updates, entry.key, entry.inherited)
            except (OSError, ValueError) as error:
                self._warn(_NO_BODY, f"{entry.path.name}: {error}")
                self._entries.pop(0)
        return None

    def remove(self, body: Body) -> None:
        """Remove a body, and delete its file."""
        entry = self._pop(body)
        if entry is not None and entry.path is not None:
            entry.path.unlink(missing_ok=True)

    def skip(self, body: Body) -> None:
        """Remove a body that cannot be sent, and leave its file where it is."""
        self._pop(body)

    def set_apart(self, body: Body, reason: str) -> bool:
        """Move a body that LangSmith refused to a folder of its own; return False if it is lost."""
        kept = False
        if self._root is not None and self._reserve(len(body.data)):
            try:
                folder = self._folder(_REFUSED)
                _write_envelope(folder, body, self._destination, reason=reason)
                kept = True
            except OSError as error:
                self._warn("a refused body cannot be kept", error)
        self.remove(body)
        return kept

    def inherit(self, *, refused: bool = False, other_keys: bool = False) -> int:
        """Take over the bodies that ended processes left for this API and account.

        With `refused`, also those that were set apart. With `other_keys`, also those that wait, or
        were set apart, for other keys or workspaces at this API. Returns the number of updates.
        """
        before = self.inherited_updates
        try:
            for folder in self._unowned():
                is_refused = folder.name == _REFUSED
                for file, label in self._labelled(folder):
                    if label.account == self._destination.account:
                        wanted = refused or not is_refused
                    else:
                        wanted = other_keys and label.api == self._destination.api
                    if wanted:
                        self._inherit_file(file, label)
                if not is_refused:
                    _remove_folder(folder)
        except OSError as error:
            self._warn("what other processes left cannot be taken over", error)
        return self.inherited_updates - before

    def left_behind(self) -> LeftBehind:
        """Count what belongs to no running process and `inherit` does not take by default."""
        here, refused, other_keys, other_endpoints = self._destination, 0, 0, 0
        with contextlib.suppress(OSError):
            for folder in self._unowned():
                for _, label in self._labelled(folder):
                    if label.api != here.api:
                        other_endpoints += label.updates
                    elif label.account != here.account:
                        other_keys += label.updates
                    elif folder.name == _REFUSED:
                        refused += label.updates
        return LeftBehind(refused, other_keys, other_endpoints)

    def close(self) -> None:
        """Give up this process's folder; other processes may inherit what is in it."""
        if self._owner is not None and self._root is not None:
            with contextlib.suppress(OSError):  # not empty, or never made
                (self._root / self._owner.name).rmdir()
            self._owner.release()

    def clear(self) -> None:
        """Leave all bodies to the parent process, after a fork."""
        self._entries = []

    def _pop(self, body: Body) -> _Entry | None:
        for index, entry in enumerate(self._entries):
            if entry.key == body.key:
                return self._entries.pop(index)
        return None

    def _unowned(self) -> Iterator[Path]:
        """Yield the folders of ended processes, and the one of refused bodies."""
        if self._root is None or self._owner is None or not self._root.is_dir():
            return
        check_private(self._root.parent)
        check_private(self._root)
        for folder in sorted(self._root.iterdir()):
            if folder.name == self._owner.name:
                continue
            if folder.name != _REFUSED and self._owner.is_alive(folder.name):
                continue
            try:
                check_private(folder)
            except OSError as error:
                self._warn("a folder in it is left alone", error)
            else:
                yield folder

    def _labelled(self, folder: Path) -> Iterator[tuple[Path, _Label]]:
        for file in sorted(folder.glob("*.json")):
            if (label := _Label.of(file)) and not file.is_symlink():
                yield file, label
            else:
                self._warn(_NO_BODY, file.name)

    def _inherit_file(self, file: Path, label: _Label) -> None:
        if self._owner is None:
            return
        try:
            size = file.stat().st_size
            path = file.rename(self._folder(self._owner.name) / file.name)
        except FileNotFoundError:
            return  # another process was first
        bisect.insort(self._entries, _Entry(label.key, label.updates, size, True, path))

    def _write(self, body: Body) -> Path | None:
        if self._owner is None or not self._reserve(len(body.data)):
            return None
        try:
            return _write_envelope(self._folder(self._owner.name), body, self._destination)
        except OSError as error:
            self._warn("it cannot be written, runs wait in memory", error)
            return None

    def _reserve(self, size: int) -> bool:
        """Reserve room on disk for a body of `size` bytes; return False when the disk is full."""
        if self._root is None:
            return False
        now, needed = time.monotonic(), size * 4 // 3
        if now - self._measured_at > _MEASURE_SECONDS:  # measuring takes milliseconds
            self._measured_at, self._used_bytes = now, self.size
        if self._used_bytes + needed <= DISK_BYTES:
            self._used_bytes += needed
            return True
        self._measured_at = -math.inf
        detail = f"it holds {self._used_bytes:,} bytes"
        self._warn("it takes no more, newer runs are dropped", detail)
        return False

    def _folder(self, name: str) -> Path:
        if self._state_dir is None or self._root is None:
            raise FileNotFoundError("there is no state directory")
        return private_directory(self._state_dir, self._root.name, name)

    def _warn(self, fault: str, detail: object) -> None:
        if fault not in self._warned:
            self._warned.add(fault)
            logger.warning("The spool in %s: %s (%s)", self._root, fault, detail)


def _remove_folder(folder: Path) -> None:
    for draft in folder.glob("*.tmp"):
        draft.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # bodies for another destination stay in it
        folder.rmdir()


def _write_envelope(folder: Path, body: Body, destination: Destination, **more: str) -> Path:
    """Write a body to a file that its owner alone can read; no other process sees half of it.

    The format is that of the LangSmith SDK's LANGSMITH_FAILED_TRACES_DIR, with the API's URL and
    `more` added. Raises OSError.
    """
    account = f"{destination.api}-{destination.account}"
    path = folder / f"{body.key}_{account}_{body.updates}.json"
    envelope = {
        "version": 1,
        "endpoint": "runs/multipart",
        "headers": body.headers,
        "body_base64": base64.b64encode(body.data).decode(),
        "api_url": safe_endpoint(destination.api_url),
        **more,
    }
    draft = path.with_suffix(".tmp")
    try:
        draft.unlink(missing_ok=True)
        # O_EXCL follows no link.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps(envelope))
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return path


def _read_envelope(path: Path) -> tuple[bytes, dict[str, str]]:
    """Read the data and headers of a body. Raises OSError, and ValueError for another format."""
    envelope = orjson.loads(path.read_bytes())
    try:
        data, headers = envelope["body_base64"], dict(envelope["headers"])
        return base64.b64decode(data, validate=True), headers
    except (KeyError, TypeError) as error:
        raise ValueError(f"it holds no body: {error}") from error
