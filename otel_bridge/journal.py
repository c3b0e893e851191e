"""What was submitted and what was told of it, across processes: one SQLite file.

The journal saves work and keeps counters from counting twice. Without it, or where it cannot be
read or written, ids are still functions of what the API knows, so spans and runs stay the same.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")
Leg = Literal["spans", "runs"]

VERSION = 1
KEPT_SECONDS = 60 * 86_400
"""The API keeps results for 29 days; older entries can serve nobody."""
_BUSY_SECONDS = 5.0
_SCHEMA = f"""
CREATE TABLE submissions (
    intent INTEGER PRIMARY KEY,
    batch_id TEXT UNIQUE,
    fingerprint TEXT,
    request_count INTEGER NOT NULL,
    carrier TEXT NOT NULL,
    models TEXT NOT NULL,
    made_at REAL NOT NULL,
    process INTEGER NOT NULL DEFAULT 0,
    counted INTEGER NOT NULL DEFAULT 0,
    spans INTEGER NOT NULL DEFAULT 0,
    runs INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX submissions_fingerprint ON submissions (fingerprint) WHERE batch_id IS NULL;
PRAGMA user_version = {VERSION};
"""
_COLUMNS = (
    "intent, batch_id, request_count, carrier, models, made_at, process, counted, spans, runs"
)


@dataclass(frozen=True, slots=True)
class Submission:
    """One batch, or the intent of one whose id is not known yet. `made_at` is Unix time in s.

    `counted` tells whether its metrics were recorded, `spans` and `runs` whether all of these
    were handed over. `process` is the id of the process that made the intent.
    """

    intent: int
    batch_id: str | None
    request_count: int
    carrier: Mapping[str, str]
    models: tuple[str, ...]
    made_at: float
    process: int
    counted: bool
    spans: bool
    runs: bool

    @classmethod
    def of_row(cls, row: tuple[Any, ...]) -> Submission:
        """Read a row of `_COLUMNS`."""
        intent, batch_id, count, carrier, models, made_at, process, counted, spans, runs = row
        return cls(
            intent,
            batch_id,
            count,
            json.loads(carrier),
            tuple(json.loads(models)),
            made_at,
            process,
            bool(counted),
            bool(spans),
            bool(runs),
        )


class Journal:
    """The journal in a directory, None for none; safe for several threads and processes.

    A journal that is unwritable, corrupt or of a newer version is left alone after one warning:
    nothing is then known, every claim is granted and the caller goes on.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._owner = 0

    def intend(
        self,
        fingerprint: str,
        request_count: int,
        carrier: Mapping[str, str],
        models: Sequence[str],
    ) -> int | None:
        """Note that a batch is about to be created."""
        return self._do(
            lambda db: (
                db.execute(
                    "INSERT INTO submissions (fingerprint, request_count, carrier, models, made_at,"
                    " process) VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        fingerprint,
                        request_count,
                        json.dumps(dict(carrier)),
                        json.dumps(list(models)),
                        time.time(),
                        os.getpid(),
                    ),
                ).lastrowid
            ),
            None,
        )

    def settle(self, intent: int | None, batch_id: str) -> None:
        """Note the batch that an intent became."""
        self._do(
            lambda db: db.execute(
                "UPDATE OR IGNORE submissions SET batch_id = ? WHERE intent = ?",
                (batch_id, intent),
            ),
            None,
        )

    def drop(self, intent: int | None) -> None:
        """Note that an intent came to nothing."""
        self._do(lambda db: db.execute("DELETE FROM submissions WHERE intent = ?", (intent,)), None)

    def unsettled(self, fingerprint: str) -> list[Submission]:
        """Intents for these very requests of which it is not known what they became."""
        return self._do(
            lambda db: [
                Submission.of_row(row)
                for row in db.execute(
                    f"SELECT {_COLUMNS} FROM submissions"  # noqa: S608 - a constant
                    " WHERE fingerprint = ? AND batch_id IS NULL ORDER BY intent",
                    (fingerprint,),
                )
            ],
            [],
        )

    def recall(self, batch_id: str) -> Submission | None:
        """What is known of a batch."""

        def read(db: sqlite3.Connection) -> Submission | None:
            row = db.execute(
                f"SELECT {_COLUMNS} FROM submissions WHERE batch_id = ?",  # noqa: S608
                (batch_id,),
            ).fetchone()
            return Submission.of_row(row) if row else None

        return self._do(read, None)

    def claim_count(self, batch_id: str) -> bool:
        """Whether the caller, and nobody else ever, is to record the batch's metrics."""

        def claim(db: sqlite3.Connection) -> bool:
            self._ensure(db, batch_id)
            changed = db.execute(
                "UPDATE submissions SET counted = 1 WHERE batch_id = ? AND counted = 0",
                (batch_id,),
            )
            return changed.rowcount == 1

        return self._do(claim, True)

    def tell(self, batch_id: str, leg: Leg) -> None:
        """Note that all of a batch's spans, or runs, were handed over."""

        def mark(db: sqlite3.Connection) -> None:
            self._ensure(db, batch_id)
            db.execute(
                f"UPDATE submissions SET {leg} = 1 WHERE batch_id = ?",  # noqa: S608 - a Leg
                (batch_id,),
            )

        self._do(mark, None)

    @staticmethod
    def _ensure(db: sqlite3.Connection, batch_id: str) -> None:
        db.execute(
            "INSERT OR IGNORE INTO submissions (batch_id, request_count, carrier, models, made_at)"
            " VALUES (?, 0, '{}', '[]', ?)",
            (batch_id, time.time()),
        )

    def _do(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        with self._lock:
            if self._directory is None:
                return otherwise
            try:
                db = self._open(self._directory)
                with db:
                    db.execute("BEGIN IMMEDIATE")
                    return work(db)
            except (sqlite3.Error, OSError, ValueError) as error:
                logger.warning(
                    "The journal in %s cannot be used (%s); going on without it",
                    self._directory,
                    error,
                )
                self._directory = None
                return otherwise

    def _open(self, directory: Path) -> sqlite3.Connection:
        # A connection must not cross a fork.
        if self._connection is not None and self._owner == os.getpid():
            return self._connection
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / "journal.sqlite3"
        path.touch(mode=0o600)
        db = sqlite3.connect(
            path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        with db:
            db.execute("BEGIN IMMEDIATE")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
            elif version != VERSION:
                raise ValueError(f"it has version {version}; this is otel-bridge for {VERSION}")
            db.execute("DELETE FROM submissions WHERE made_at < ?", (time.time() - KEPT_SECONDS,))
        self._connection, self._owner = db, os.getpid()
        return db
