"""Bodies that LangSmith did not take: on disk until it does, in memory where there is no disk."""

from __future__ import annotations

import base64
import bisect
import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import orjson

from otel_bridge.langsmith.multipart import Body
from otel_bridge.owner import Owner

logger = logging.getLogger(__name__)

DISK_BYTES = 512_000_000
MEMORY_BYTES = 64_000_000
_ENDPOINT = "runs/multipart"
_REFUSED = "refused"


@dataclass(frozen=True, slots=True, order=True)
class _Entry:
    """One body that waits, in a file or, failing that, in memory. Ordered by key: by age."""

    key: str
    runs: int
    size: int
    adopted: bool = False
    path: Path | None = None
    body: Body | None = None


class Spool:
    """The bodies that wait for LangSmith, the oldest first; bounded, and the oldest are kept.

    Files have the envelope that the LangSmith SDK writes to LANGSMITH_FAILED_TRACES_DIR, with
    the API's URL beside it; only their owner can read them. Each user of the directory has a
    folder of its own, so that bodies of one process are sent in order and by one sender; what an
    ended process left is adopted by whoever looks first.
    """

    def __init__(self, state_dir: Path | None, api_url: str, limit: int = DISK_BYTES) -> None:
        self._root = state_dir / "spool" if state_dir else None
        self._owner = Owner(state_dir) if state_dir else None
        self._api_url = api_url
        self._limit = limit
        self._entries: list[_Entry] = []
        self._said = False

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
                envelope = orjson.loads(entry.path.read_bytes())
                data = base64.b64decode(envelope["body_base64"])
                return Body(data, envelope["headers"], entry.runs, entry.key, entry.adopted)
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._say(f"{entry.path.name} cannot be read ({error}); it is left out")
                self._entries.pop(0)
        return None

    def done(self, body: Body) -> None:
        """A body need not wait any more."""
        for index, entry in enumerate(self._entries):
            if entry.key == body.key:
                self._entries.pop(index)
                if entry.path is not None:
                    entry.path.unlink(missing_ok=True)
                return

    def refuse(self, body: Body, reason: str) -> None:
        """Set a body apart that LangSmith will not take, with the reason."""
        if self._root is not None and self._room(len(body.data)):
            try:
                self._store(body, _REFUSED, reason=reason)
            except OSError as error:
                self._say(f"a refused body cannot be kept ({error})")
        self.done(body)

    def adopt(self, *, refused: bool = False) -> int:
        """Take over what ended processes left for the same API; the number of operations.

        With `refused`, also what was set apart.
        """
        if self._root is None or self._owner is None or not self._root.is_dir():
            return 0
        before = self.adopted_runs
        try:
            for folder in sorted(self._root.iterdir()):
                if folder.name == _REFUSED:
                    if refused:
                        self._adopt(folder)
                elif folder.name != self._owner.name and not self._owner.lives(folder.name):
                    self._adopt(folder)
        except OSError as error:
            self._say(f"what other processes left cannot be taken over ({error})")
        return self.adopted_runs - before

    def close(self) -> None:
        """Leave what is on disk to whoever comes next."""
        if self._owner is not None and self._root is not None:
            with contextlib.suppress(OSError):  # not empty, or never made
                (self._root / self._owner.name).rmdir()
            self._owner.release()

    def forget(self) -> None:
        """After a fork the parent's bodies are the parent's."""
        self._entries = []

    def _adopt(self, folder: Path) -> None:
        if self._owner is None:
            return
        for file in sorted(folder.glob("*_*.json")):
            key, _, runs = file.stem.rpartition("_")
            try:
                if orjson.loads(file.read_bytes()).get("api_url") != self._api_url:
                    continue
                size = file.stat().st_size
                path = file.rename(self._folder(self._owner.name) / file.name)
            except FileNotFoundError:
                continue  # somebody else was first
            except ValueError:
                self._say(f"{file.name} is damaged; it is left where it is")
                continue
            bisect.insort(self._entries, _Entry(key, int(runs), size, True, path))
        if folder.name != _REFUSED:
            for draft in folder.glob("*.tmp"):
                draft.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # bodies for another API stay in it
                folder.rmdir()

    def _write(self, body: Body) -> Path | None:
        if self._owner is None or not self._room(len(body.data)):
            return None
        try:
            return self._store(body, self._owner.name)
        except OSError as error:
            self._say(f"it cannot be written ({error}); runs wait in memory")
            return None

    def _store(self, body: Body, folder: str, **more: str) -> Path:
        path = self._folder(folder) / f"{body.key}_{body.runs}.json"
        envelope = {
            "version": 1,
            "endpoint": _ENDPOINT,
            "headers": body.headers,
            "body_base64": base64.b64encode(body.data).decode(),
            "api_url": self._api_url,
            **more,
        }
        _write_private(path, orjson.dumps(envelope))
        return path

    def _room(self, size: int) -> bool:
        if self._root is None:
            return False
        taken = self.size
        if taken + size * 4 // 3 <= self._limit:
            return True
        self._say(f"it holds {taken:,} bytes and takes no more; newer runs are dropped")
        return False

    def _folder(self, name: str) -> Path:
        if self._root is None:
            raise FileNotFoundError("there is no state directory")
        folder = self._root / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def _say(self, what: str) -> None:
        if not self._said:
            self._said = True
            logger.warning("The spool in %s: %s", self._root, what)


def _write_private(path: Path, data: bytes) -> None:
    """Write whole or not at all; nobody but the owner may read it."""
    draft = path.with_suffix(".tmp")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
