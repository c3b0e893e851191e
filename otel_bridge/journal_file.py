"""The journal's file: one SQLite database that several threads and processes work on."""

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

VERSION = 2
KEPT_SECONDS = 60 * 86_400
"""The API keeps results for 29 days; older entries can serve nobody."""
_BUSY_SECONDS = 5.0
_STILL_BUSY_SECONDS = 0.2
_PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_SCHEMA = f"""
CREATE TABLE submissions (
    intent INTEGER PRIMARY KEY,
    batch_id TEXT UNIQUE,
    fingerprint TEXT,
    request_count INTEGER NOT NULL,
    carrier TEXT NOT NULL,
    models TEXT NOT NULL,
    made_at REAL NOT NULL,
    owner TEXT NOT NULL DEFAULT '',
    awaited INTEGER NOT NULL DEFAULT 0,
    adopted INTEGER NOT NULL DEFAULT 0,
    teller TEXT NOT NULL DEFAULT '',
    counter TEXT NOT NULL DEFAULT '',
    counted INTEGER NOT NULL DEFAULT 0,
    spans INTEGER NOT NULL DEFAULT 0,
    runs INTEGER NOT NULL DEFAULT 0,
    totals TEXT
);
CREATE INDEX submissions_fingerprint ON submissions (fingerprint, made_at);
PRAGMA user_version = {VERSION};
"""


class JournalFile:
    """Transactions on the file in a directory, None for no file.

    A file that others lock for too long fails that transaction alone. One that is unwritable,
    corrupt or of another version is left alone from then on. Either is one warning.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._connection: sqlite3.Connection | None = None
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Neither a lock nor a connection survives a fork; the parent's stays its own."""
        self._lock = threading.RLock()
        self._working = False
        self._warned = False
        self._owed: list[Work[Any]] = []
        self._inherited, self._connection = self._connection, None

    @property
    def usable(self) -> bool:
        """Whether there is a file, as far as is known."""
        return self._directory is not None

    def note(self, work: Work[Any]) -> None:
        """Write what nobody waits for; what a lock keeps out is written with what comes next."""
        if self.usable:
            self._owed.append(work)
            self.do(lambda _: None, None)

    def do(self, work: Work[T], otherwise: T) -> T:
        """What `work` returns in a transaction, `otherwise` where there can be none."""
        with self._lock:
            # A reader that is garbage may be closed, and ask, while its thread works here.
            if self._directory is None or self._working:
                return otherwise
            self._working = True
            try:
                db = self._open(self._directory)
                owed = list(self._owed)
                with db:
                    db.execute("BEGIN IMMEDIATE")
                    for each in owed:
                        each(db)
                    done = work(db)
                del self._owed[: len(owed)]
                self._warned = False
            except (sqlite3.Error, OSError, ValueError) as error:
                self._fail(error)
                return otherwise
            else:
                return done
            finally:
                self._working = False

    def _fail(self, error: Exception) -> None:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING:
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
        self._owed.clear()

    def _open(self, directory: Path) -> sqlite3.Connection:
        # A lock that was waited for in vain is not waited for anew by each that comes: a call of
        # a service makes several transactions.
        patience = _STILL_BUSY_SECONDS if self._warned else _BUSY_SECONDS
        if self._connection is not None:
            self._connection.execute(f"PRAGMA busy_timeout = {patience * 1000:.0f}")
            return self._connection
        path = private_directory(directory) / "journal.sqlite3"
        path.touch(mode=0o600)
        db = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)
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
        db.execute("DELETE FROM submissions WHERE made_at < ?", (time.time() - KEPT_SECONDS,))
