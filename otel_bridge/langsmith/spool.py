"""Bodies that LangSmith did not take: on disk until it does, in memory where there is no disk."""

from __future__ import annotations

import bisect
import contextlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from otel_bridge._core.private_directory import check_private, private_directory
from otel_bridge._core.process_lock import ProcessLock
from otel_bridge.langsmith import envelope
from otel_bridge.langsmith.connecting import Destination
from otel_bridge.langsmith.envelope import Label
from otel_bridge.langsmith.multipart import Body

logger = logging.getLogger(__name__)

DISK_BYTES = 512_000_000
MEMORY_BYTES = 64_000_000
_MEASURED_EVERY = 5.0
_REFUSED = "refused"
_NO_BODY = "a file holds no body and is left where it is"


@dataclass(frozen=True, slots=True, order=True)
class _Entry:
    """One body that waits, in a file or, failing that, in memory. Ordered by key: by age."""

    key: str
    runs: int
    size: int
    adopted: bool = False
    path: Path | None = None
    body: Body | None = None


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """Operations on disk that no process has in hand.

    `refused` ones were set apart for this destination; the others wait, or were refused, for
    other keys or workspaces at this API, and for other APIs.
    """

    refused: int = 0
    other_keys: int = 0
    other_endpoints: int = 0


class Spool:
    """The bodies that wait for LangSmith, the oldest first; bounded, and the oldest are kept.

    Each user of the directory has a folder of its own, so that bodies of one process are sent in
    order and by one sender; what an ended process left is adopted by whoever looks first and has
    the same destination.
    """

    def __init__(self, state_dir: Path | None, destination: Destination) -> None:
        self._state_dir = state_dir
        self._root = state_dir / "spool" if state_dir else None
        self._owner = ProcessLock(state_dir) if state_dir else None
        self._destination = destination
        self._taken, self._measured = 0, -math.inf
        self._entries: list[_Entry] = []
        self._said: set[str] = set()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def runs(self) -> int:
        """Operations of this process that wait."""
        return sum(entry.runs for entry in self._entries if not entry.adopted)

    @property
    def adopted_runs(self) -> int:
        """Operations of ended processes that wait here."""
        return sum(entry.runs for entry in self._entries if entry.adopted)

    @property
    def size(self) -> int:
        """Bytes on disk, those of other processes and of refused bodies included."""
        if self._root is None:
            return 0
        try:
            return sum(file.stat().st_size for file in self._root.glob("*/*.json"))
        except OSError:  # a file went while it was looked at
            return 0

    @property
    def volatile(self) -> bool:
        """Whether some of it is in memory alone."""
        return any(entry.path is None for entry in self._entries)

    def holds(self, body: Body) -> bool:
        """Whether a body waits here."""
        return any(entry.key == body.key for entry in self._entries)

    def put(self, body: Body) -> bool:
        """Keep a body; False when there is no room."""
        if self.holds(body):
            return True
        size = len(body.data)
        path = self._write(body)
        if path is None:
            held = sum(known.size for known in self._entries if known.path is None)
            if held + size > MEMORY_BYTES:
                return False
        kept = None if path else body
        bisect.insort(self._entries, _Entry(body.key, body.runs, size, body.adopted, path, kept))
        return True

    def oldest(self) -> Body | None:
        """The oldest body that waits."""
        while self._entries:
            entry = self._entries[0]
            if entry.path is None:
                return entry.body
            try:
                data, headers = envelope.read(entry.path)
                return Body(data, headers, entry.runs, entry.key, entry.adopted)
            except (OSError, ValueError) as error:
                self._say(_NO_BODY, f"{entry.path.name}: {error}")
                self._entries.pop(0)
        return None

    def done(self, body: Body) -> None:
        """A body need not wait any more."""
        entry = self._pop(body)
        if entry is not None and entry.path is not None:
            entry.path.unlink(missing_ok=True)

    def pass_over(self, body: Body) -> None:
        """A body cannot be dealt with: it waits no more; its file is left where it is."""
        self._pop(body)

    def refuse(self, body: Body, reason: str) -> bool:
        """Set a body apart that LangSmith will not take, with the reason; whether it is kept."""
        kept = False
        if self._root is not None and self._room(len(body.data)):
            try:
                folder = self._folder(_REFUSED)
                envelope.write(folder, body, self._destination, reason=reason)
                kept = True
            except OSError as error:
                self._say("a refused body cannot be kept", error)
        self.done(body)
        return kept

    def adopt(self, *, refused: bool = False, other_keys: bool = False) -> int:
        """Take over what ended processes left for this destination; the number of operations.

        With `refused`, also what was set apart; with `other_keys`, also what waits, or was set
        apart, for other keys or workspaces at the same API.
        """
        before = self.adopted_runs
        try:
            for folder in self._unowned():
                apart = folder.name == _REFUSED
                for file, label in self._labelled(folder):
                    if label.account == self._destination.account:
                        wanted = refused or not apart
                    else:
                        wanted = other_keys and label.api == self._destination.api
                    if wanted:
                        self._adopt(file, label)
                if not apart:
                    _tidy(folder)
        except OSError as error:
            self._say("what other processes left cannot be taken over", error)
        return self.adopted_runs - before

    def left(self) -> LeftBehind:
        """What nobody has in hand, and `adopt` does not take over by itself."""
        here, refused, other_keys, other_endpoints = self._destination, 0, 0, 0
        with contextlib.suppress(OSError):
            for folder in self._unowned():
                for _, label in self._labelled(folder):
                    if label.api != here.api:
                        other_endpoints += label.runs
                    elif label.account != here.account:
                        other_keys += label.runs
                    elif folder.name == _REFUSED:
                        refused += label.runs
        return LeftBehind(refused, other_keys, other_endpoints)

    def close(self) -> None:
        """Leave what is on disk to whoever comes next."""
        if self._owner is not None and self._root is not None:
            with contextlib.suppress(OSError):  # not empty, or never made
                (self._root / self._owner.name).rmdir()
            self._owner.release()

    def forget(self) -> None:
        """After a fork the parent's bodies are the parent's."""
        self._entries = []

    def _pop(self, body: Body) -> _Entry | None:
        for index, entry in enumerate(self._entries):
            if entry.key == body.key:
                return self._entries.pop(index)
        return None

    def _unowned(self) -> Iterator[Path]:
        """The folders of ended processes, and that of what was set apart."""
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
                self._say("a folder in it is left alone", error)
            else:
                yield folder

    def _labelled(self, folder: Path) -> Iterator[tuple[Path, Label]]:
        for file in sorted(folder.glob("*.json")):
            if (label := Label.of(file)) and not file.is_symlink():
                yield file, label
            else:
                self._say(_NO_BODY, file.name)

    def _adopt(self, file: Path, label: Label) -> None:
        if self._owner is None:
            return
        try:
            size = file.stat().st_size
            path = file.rename(self._folder(self._owner.name) / file.name)
        except FileNotFoundError:
            return  # somebody else was first
        bisect.insort(self._entries, _Entry(label.key, label.runs, size, True, path))

    def _write(self, body: Body) -> Path | None:
        if self._owner is None or not self._room(len(body.data)):
            return None
        try:
            return envelope.write(self._folder(self._owner.name), body, self._destination)
        except OSError as error:
            self._say("it cannot be written, runs wait in memory", error)
            return None

    def _room(self, size: int) -> bool:
        if self._root is None:
            return False
        now, needed = time.monotonic(), size * 4 // 3
        if now - self._measured > _MEASURED_EVERY:  # to look at all files takes milliseconds
            self._measured, self._taken = now, self.size
        if self._taken + needed <= DISK_BYTES:
            self._taken += needed
            return True
        self._measured = -math.inf
        self._say("it takes no more, newer runs are dropped", f"it holds {self._taken:,} bytes")
        return False

    def _folder(self, name: str) -> Path:
        if self._state_dir is None or self._root is None:
            raise FileNotFoundError("there is no state directory")
        return private_directory(self._state_dir, self._root.name, name)

    def _say(self, fault: str, detail: object) -> None:
        if fault not in self._said:
            self._said.add(fault)
            logger.warning("The spool in %s: %s (%s)", self._root, fault, detail)


def _tidy(folder: Path) -> None:
    for draft in folder.glob("*.tmp"):
        draft.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # bodies for another destination stay in it
        folder.rmdir()
