"""Who uses a state directory: each user holds a lock there for as long as its process lives."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from filelock import FileLock

from otel_bridge._core.private_directory import private_directory


class ProcessLock:
    """A name of one's own in a state directory, locked until `release` or the process's end.

    A process id alone would not do: ids are used again, and containers that share a directory
    have the same ones.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._directory = state_dir / "owners"
        self._lock: FileLock | None = None
        self._name = ""
        self._process = 0

    @property
    def name(self) -> str:
        """This owner's name; a forked process gets another. Raises OSError when it cannot be."""
        if self._lock is None or self._process != os.getpid():
            private_directory(self._state_dir, self._directory.name)
            for left in self._directory.glob("*.lock"):
                self.is_alive(left.stem)
            name = f"{os.getpid()}-{uuid4().hex[:12]}"
            lock = self._file(name)
            # With some patience: another's sweep may hold the file for a moment.
            lock.acquire(timeout=2)
            self._lock, self._name, self._process = lock, name, os.getpid()
        return self._name

    def is_alive(self, name: str) -> bool:
        """Return True while the process that owns `name` runs, else delete its lock file."""
        path = self._directory / f"{name}.lock"
        if not name or not path.exists():
            return False
        lock = self._file(name)
        try:
            lock.acquire(blocking=False)
        except OSError:
            return True
        path.unlink(missing_ok=True)
        lock.release()
        return False

    def release(self) -> None:
        """Release the lock and delete its file."""
        if self._lock is not None and self._process == os.getpid():
            (self._directory / f"{self._name}.lock").unlink(missing_ok=True)
            self._lock.release()
        self._lock = None

    def _file(self, name: str) -> FileLock:
        # Not thread-local: the lock is the process's, whichever thread asked first.
        path = self._directory / f"{name}.lock"
        return FileLock(path, mode=0o600, thread_local=False, is_singleton=False)
