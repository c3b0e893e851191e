"""Transactions on the journal's SQLite database, which threads and processes share."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from otel_bridge._core.lifecycle import renew_after_fork
from otel_bridge._core.private_directory import private_directory

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

VERSION = 3
RETENTION_SECONDS = 60 * 86_400
"""The API keeps results for 29 days, so that older rows are of no use."""
_LOCKED_SECONDS = 5.0
_STILL_LOCKED_SECONDS = 0.2
_TRANSIENT = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_SCHEMA = f"""
CREATE TABLE submissions (
    id INTEGER PRIMARY KEY,
    batch_id TEXT UNIQUE,
    fingerprint TEXT,
    request_count INTEGER NOT NULL,
    carrier TEXT NOT NULL,
    models TEXT NOT NULL,
    started_at REAL NOT NULL,
    owner TEXT NOT NULL DEFAULT '',
    awaits_collection INTEGER NOT NULL DEFAULT 0,
    tentative INTEGER NOT NULL DEFAULT 0,
    lease_owner TEXT NOT NULL DEFAULT '',
    metrics_owner TEXT NOT NULL DEFAULT '',
    metrics_exported INTEGER NOT NULL DEFAULT 0,
    spans_exported INTEGER NOT NULL DEFAULT 0,
    runs_exported INTEGER NOT NULL DEFAULT 0,
    totals TEXT
);
CREATE INDEX submissions_fingerprint ON submissions (fingerprint, started_at);
PRAGMA user_version = {VERSION};
"""


class JournalFile:
    """Transactions on the file in a directory, None for no file.

    Where another process locks the file for too long, that transaction alone fails. A file that
    is unwritable, corrupt or of another version is not used again. Either is logged once.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._connection: sqlite3.Connection | None = None
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Make a new lock and connection: neither can be used in a forked process."""
        self._lock = threading.RLock()
        self._busy = False
        self._warned = False
        self._deferred: list[Work[Any]] = []
        self._inherited, self._connection = self._connection, None

    @property
    def is_usable(self) -> bool:
        """Whether there is a file that has not failed for good."""
        return self._directory is not None

    def write(self, work: Work[Any]) -> None:
        """Do `work` in a transaction; while the file is locked, defer it to the next one."""
        if self.is_usable:
            self._deferred.append(work)
            self.run(lambda _: None, None)

    def run(self, work: Work[T], default: T) -> T:
        """Return what `work` returns in a transaction, `default` where the file cannot be used."""
        with self._lock:
            # The garbage collector may run in the middle of a transaction and close a reader of
            # results, and closing it calls the journal on the same thread.
            if self._directory is None or self._busy:
                return default
            self._busy = True
            try:
                db = self._open(self._directory)
                deferred = list(self._deferred)
                with db:
                    db.execute("BEGIN IMMEDIATE")
                    for each in deferred:
                        each(db)
                    result = work(db)
                del self._deferred[: len(deferred)]
                self._warned = False
            except (sqlite3.Error, OSError, ValueError) as error:
                self._fail(error)
                return default
            else:
                return result
            finally:
                self._busy = False

    def _fail(self, error: Exception) -> None:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _TRANSIENT:
            if not self._warned:
                logger.warning(
                    "The journal in %s is locked by another process (%s); going on without it "
                    "for now",
                    self._directory,
                    error,
                )
            self._warned = True
            return
        logger.warning(
            "The journal in %s cannot be used (%s); going on without it", self._directory, error
        )
        self._directory = None
        self._deferred.clear()

    def _open(self, directory: Path) -> sqlite3.Connection:
        # One call of a service makes several transactions. After one of them waited for a lock in
        # vain, the next ones wait less.
        timeout = _STILL_LOCKED_SECONDS if self._warned else _LOCKED_SECONDS
        if self._connection is not None:
            self._connection.execute(f"PRAGMA busy_timeout = {timeout * 1000:.0f}")
            return self._connection
        path = private_directory(directory) / "journal.sqlite3"
        if path.is_symlink():
            raise OSError(f"{path.name} is a symbolic link; remove it")
        path.touch(mode=0o600)
        db = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
        try:
            _prepare(db)
        except BaseException:
            db.close()
            raise
        self._connection = db
        return db


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    with db:
        db.execute("BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
        elif version != VERSION:
            raise ValueError(
                f"it has version {version}; this is otel-bridge for {VERSION}: move it away"
            )
        db.execute(
            "DELETE FROM submissions WHERE started_at < ?", (time.time() - RETENTION_SECONDS,)
        )
