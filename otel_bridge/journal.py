"""What was submitted and what was told of it, across processes: one SQLite file.

The journal saves work and keeps counters from counting twice. Without it, or where it cannot be
read or written, ids are still functions of what the API knows, so spans and runs stay the same.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from otel_bridge.owner import Owner
from otel_bridge.process import renew_after_fork

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
    owner TEXT NOT NULL DEFAULT '',
    awaited INTEGER NOT NULL DEFAULT 0,
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
_COLUMNS = "intent, batch_id, request_count, carrier, models, made_at, owner, counted, spans, runs"


@dataclass(frozen=True, slots=True)
class Part:
    """What is to become one batch."""

    request_count: int
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Submission:
    """One batch, or the intent of one whose id is not known yet. `made_at` is Unix time in s.

    `counted` tells whether its metrics were exported, `spans` and `runs` whether all of these
    were handed over. `owner` is who made the intent.
    """

    intent: int
    batch_id: str | None
    request_count: int
    carrier: Mapping[str, str]
    models: tuple[str, ...]
    made_at: float
    owner: str
    counted: bool
    spans: bool
    runs: bool

    @classmethod
    def of_row(cls, row: tuple[Any, ...]) -> Submission:
        """Read a row of `_COLUMNS`."""
        intent, batch_id, count, carrier, models, made_at, owner, counted, spans, runs = row
        return cls(
            intent,
            batch_id,
            count,
            json.loads(carrier),
            tuple(json.loads(models)),
            made_at,
            owner,
            bool(counted),
            bool(spans),
            bool(runs),
        )


class Journal:
    """The journal in a directory, None for none; safe for several threads and processes.

    A process has one for each directory, which `journal_in` gives.

    A journal that is unwritable, corrupt or of a newer version is left alone after one warning:
    nothing is then known, every claim is granted and the caller goes on.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._owner = Owner(directory) if directory else None
        self._connection: sqlite3.Connection | None = None
        self._telling: set[str] = set()
        self._underway: set[int | None] = set()
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Neither a lock nor a connection survives a fork; the parent's stays its own."""
        self._lock = threading.RLock()
        self._working = False
        self._inherited, self._connection = self._connection, None
        self._telling.clear()
        self._underway.clear()

    def intend(
        self,
        whole: str,
        parts: Sequence[Part],
        carrier: Mapping[str, str],
        *,
        awaited: bool = False,
    ) -> list[int | None]:
        """Note that batches are about to be created, the parts of what is submitted as a whole.

        `whole` is a fingerprint of all their requests; `awaited` tells that who submits them
        means to collect them, too.
        """

        def write(db: sqlite3.Connection) -> list[int | None]:
            made_at, owner = time.time(), self._name
            intents = [
                db.execute(
                    "INSERT INTO submissions (fingerprint, request_count, carrier, models,"
                    " made_at, owner, awaited) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        whole,
                        part.request_count,
                        json.dumps(dict(carrier)),
                        json.dumps(part.models),
                        made_at,
                        owner,
                        awaited,
                    ),
                ).lastrowid
                for part in parts
            ]
            self._underway.update(intents)
            return intents

        return self._do(write, [None] * len(parts))

    def settle(self, intent: int | None, batch_id: str) -> None:
        """Note the batch that an intent became."""
        self._do(
            lambda db: db.execute(
                "UPDATE OR IGNORE submissions SET batch_id = ? WHERE intent = ?",
                (batch_id, intent),
            ),
            None,
        )

    def drop(self, intents: Iterable[int | None]) -> None:
        """Note that intents came to nothing."""
        self._do(
            lambda db: db.executemany(
                "DELETE FROM submissions WHERE intent = ? AND batch_id IS NULL",
                [(intent,) for intent in intents],
            ),
            None,
        )

    def unfinished(self, whole: str, *, awaited: bool = False) -> list[Submission]:
        """The parts of an earlier submission of these very requests that broke off.

        Parts with a batch were created; whether one without was, is not known. With `awaited`,
        also a submission that was to be collected and was not. One that somebody is still at is
        none of the caller's business.
        """

        def read(db: sqlite3.Connection) -> list[Submission]:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM submissions WHERE fingerprint = ? AND made_at ="  # noqa: S608
                " (SELECT min(made_at) FROM submissions WHERE fingerprint = ?"
                " AND (batch_id IS NULL OR awaited AND ?)) ORDER BY intent",
                (whole, whole, awaited),
            )
            found = [Submission.of_row(row) for row in rows]
            underway = any(
                each.intent in self._underway or self._lives(each.owner) for each in found
            )
            return [] if underway else found

        return self._do(read, [])

    def take_over(self, intents: Sequence[int | None]) -> None:
        """Note that the caller goes on with what another began."""

        def take(db: sqlite3.Connection) -> None:
            self._underway.update(intents)
            db.executemany(
                "UPDATE submissions SET owner = ? WHERE intent = ?",
                [(self._name, intent) for intent in intents],
            )

        self._do(take, None)

    def leave(self, intents: Iterable[int | None]) -> None:
        """Note that the caller does no more about its intents."""
        self._underway.difference_update(intents)

    def received(self, batch_id: str) -> None:
        """Note that a batch's results were read to their end."""
        self._do(
            lambda db: db.execute(
                "UPDATE submissions SET awaited = 0 WHERE batch_id = ?", (batch_id,)
            ),
            None,
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

    def claim_telling(self, batch_id: str) -> bool:
        """Whether the caller is to tell of the batch, and nobody else until `end_telling`."""

        def claim(db: sqlite3.Connection) -> bool:
            self._ensure(db, batch_id)
            (teller,) = db.execute(
                "SELECT teller FROM submissions WHERE batch_id = ?", (batch_id,)
            ).fetchone()
            if batch_id in self._telling or self._lives(teller):
                return False
            db.execute(
                "UPDATE submissions SET teller = ? WHERE batch_id = ?", (self._name, batch_id)
            )
            self._telling.add(batch_id)
            return True

        return self._do(claim, True)

    def end_telling(self, batch_id: str) -> None:
        """Let others tell of the batch again, should it be needed."""

        def end(db: sqlite3.Connection) -> None:
            self._telling.discard(batch_id)
            db.execute(
                "UPDATE submissions SET teller = '' WHERE batch_id = ? AND teller = ?",
                (batch_id, self._name),
            )

        self._do(end, None)

    def claim_count(self, batch_id: str) -> bool:
        """Whether the caller, and nobody else, is to record the batch's metrics.

        The claim of a process that ended before `counted` lapses: its metrics went with it.
        """

        def claim(db: sqlite3.Connection) -> bool:
            self._ensure(db, batch_id)
            counted, counter = db.execute(
                "SELECT counted, counter FROM submissions WHERE batch_id = ?", (batch_id,)
            ).fetchone()
            if counted or (counter and (counter == self._name or self._lives(counter))):
                return False
            db.execute(
                "UPDATE submissions SET counter = ? WHERE batch_id = ?", (self._name, batch_id)
            )
            return True

        return self._do(claim, True)

    def counted(self, batch_ids: Iterable[str]) -> None:
        """Note that batches' metrics were exported."""
        self._do(
            lambda db: db.executemany(
                "UPDATE submissions SET counted = 1 WHERE batch_id = ?",
                [(batch_id,) for batch_id in batch_ids],
            ),
            None,
        )

    def tell(self, batch_id: str, leg: Leg) -> None:
        """Note that all of a batch's spans, or runs, were handed over."""

        def mark(db: sqlite3.Connection) -> None:
            self._ensure(db, batch_id)
            db.execute(
                f"UPDATE submissions SET {leg} = 1 WHERE batch_id = ?",  # noqa: S608 - a Leg
                (batch_id,),
            )

        self._do(mark, None)

    def sum_up(self, batch_id: str, totals: Mapping[str, Any]) -> None:
        """Note what a batch came to, JSON-ready."""

        def write(db: sqlite3.Connection) -> None:
            self._ensure(db, batch_id)
            db.execute(
                "UPDATE submissions SET totals = ? WHERE batch_id = ?",
                (json.dumps(dict(totals)), batch_id),
            )

        self._do(write, None)

    def totals(self) -> dict[str, dict[str, Any]]:
        """What each batch came to, by id, as `sum_up` was told."""

        def read(db: sqlite3.Connection) -> dict[str, dict[str, Any]]:
            rows = db.execute("SELECT batch_id, totals FROM submissions WHERE totals IS NOT NULL")
            return {batch_id: json.loads(totals) for batch_id, totals in rows}

        return self._do(read, {})

    def _lives(self, owner: str) -> bool:
        return self._owner is not None and owner != self._owner.name and self._owner.lives(owner)

    @property
    def _name(self) -> str:
        return self._owner.name if self._owner else ""

    @staticmethod
    def _ensure(db: sqlite3.Connection, batch_id: str) -> None:
        db.execute(
            "INSERT OR IGNORE INTO submissions (batch_id, request_count, carrier, models, made_at)"
            " VALUES (?, 0, '{}', '[]', ?)",
            (batch_id, time.time()),
        )

    def _do(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        with self._lock:
            # A reader that is garbage may be closed, and ask, while its thread works here.
            if self._directory is None or self._working:
                return otherwise
            self._working = True
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
            finally:
                self._working = False

    def _open(self, directory: Path) -> sqlite3.Connection:
        if self._connection is not None:
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
        self._connection = db
        return db


journal_in = cache(Journal)
"""The process's journal in a directory."""
