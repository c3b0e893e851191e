"""The journal in an SQLite database of the state directory."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from otel_bridge._core.lifecycle import renew_after_fork
from otel_bridge._core.process_lock import ProcessLock
from otel_bridge.journal.contract import PlannedBatch, Signal, Submission
from otel_bridge.journal.sqlite_file import JournalFile

_SUBMISSION = (
    "id, batch_id, request_count, carrier, models, started_at, owner,"
    " tentative, metrics_exported, spans_exported, runs_exported"
)
_BATCH = (
    "batch_id, request_count, carrier, models, started_at, lease_owner, metrics_owner,"
    " metrics_exported, spans_exported, runs_exported, totals"
)


class Journal:
    """The journal in a directory, None for none; safe for several threads and processes.

    A process has one journal for each directory: use `journal_in`.

    No method raises. Where the file cannot be used, readers find nothing, every claim and lease
    is granted, and writes are lost.
    """

    def __init__(self, directory: Path | None) -> None:
        self._file = JournalFile(directory)
        self._process = ProcessLock(directory) if directory else None
        self._leased: set[str] = set()
        self._owned: set[int | None] = set()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's leases and submissions: the child owns none of them."""
        self._leased.clear()
        self._owned.clear()

    @property
    def is_persistent(self) -> bool:
        """Whether later processes can read what is written."""
        return self._file.is_usable

    def begin_submission(
        self,
        fingerprint: str,
        planned: Sequence[PlannedBatch],
        carrier: Mapping[str, str],
        *,
        awaits_collection: bool = False,
        started_at: float | None = None,
    ) -> list[int | None]:
        """Record that the planned batches are about to be created, and own their submissions.

        `fingerprint` identifies all requests that are submitted together. `awaits_collection`
        keeps the submissions unfinished until `mark_collected`. `started_at` is the time of an
        earlier try at some of the same batches in Unix s, now by default.

        Returns the id of each submission, None for each where the file cannot be used.
        """
        moment = time.time() if started_at is None else started_at

        def write(db: sqlite3.Connection) -> list[int | None]:
            owner = self._name
            ids = [
                db.execute(
                    "INSERT INTO submissions (fingerprint, request_count, carrier, models,"
                    " started_at, owner, awaits_collection) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        fingerprint,
                        each.request_count,
                        json.dumps(dict(carrier)),
                        json.dumps(each.models),
                        moment,
                        owner,
                        awaits_collection,
                    ),
                ).lastrowid
                for each in planned
            ]
            self._owned.update(ids)
            return ids

        return self._file.run(write, [None] * len(planned))

    def bind_batch(
        self, submission_id: int | None, batch_id: str, *, tentative: bool = False
    ) -> None:
        """Bind a submission to its batch id.

        `tentative=True` when the match is by time and size only. A binding that is not tentative
        replaces a tentative one of another submission to the same batch.
        """

        def write(db: sqlite3.Connection) -> None:
            if not tentative:
                db.execute(
                    "UPDATE submissions SET batch_id = NULL, tentative = 0"
                    " WHERE batch_id = ? AND tentative AND id IS NOT ?",
                    (batch_id, submission_id),
                )
            db.execute(
                "UPDATE OR IGNORE submissions SET batch_id = ?, tentative = ? WHERE id = ?",
                (batch_id, tentative, submission_id),
            )

        self._file.write(write)

    def unbind_batch(self, submission_id: int | None) -> None:
        """Free a submission for another batch.

        What was exported of its old batch stays recorded under the batch's id.
        """

        def write(db: sqlite3.Connection) -> None:
            batch = db.execute(
                f"SELECT {_BATCH} FROM submissions WHERE id = ?"  # noqa: S608
                " AND (metrics_exported OR spans_exported OR runs_exported"
                " OR totals IS NOT NULL)",
                (submission_id,),
            ).fetchone()
            db.execute(
                "UPDATE submissions SET batch_id = NULL, tentative = 0, lease_owner = '',"
                " metrics_owner = '', metrics_exported = 0, spans_exported = 0,"
                " runs_exported = 0, totals = NULL WHERE id = ?",
                (submission_id,),
            )
            if batch:
                values = ", ".join("?" * len(batch))
                db.execute(f"INSERT INTO submissions ({_BATCH}) VALUES ({values})", batch)  # noqa: S608

        self._file.write(write)

    def discard(self, submission_ids: Iterable[int | None]) -> None:
        """Delete those of the submissions that have no batch."""
        rows = [(each,) for each in submission_ids]
        self._file.write(
            lambda db: db.executemany(
                "DELETE FROM submissions WHERE id = ? AND batch_id IS NULL", rows
            )
        )

    def abandon(self, submissions: Sequence[Submission]) -> None:
        """Finish submissions that nobody continues; their batches count as collected."""
        self.discard(each.id for each in submissions)
        for each in submissions:
            if each.batch_id is not None:
                self.mark_collected(each.batch_id)

    def unfinished(
        self, fingerprint: str, *, include_uncollected: bool = False
    ) -> list[Submission]:
        """Find the earliest interrupted submissions of the same requests, in order.

        Where one of them has no batch, a batch may exist all the same. `include_uncollected`
        also finds submissions that await collection and have all their batches. Submissions that
        a living process or this one works on are not returned.
        """

        def read(db: sqlite3.Connection) -> list[Submission]:
            rows = db.execute(
                f"SELECT {_SUBMISSION} FROM submissions WHERE fingerprint = ? AND started_at ="  # noqa: S608
                " (SELECT min(started_at) FROM submissions WHERE fingerprint = ?"
                " AND (batch_id IS NULL OR awaits_collection AND ?)) ORDER BY id",
                (fingerprint, fingerprint, include_uncollected),
            )
            found = [_submission(row) for row in rows]
            owned = any(each.id in self._owned or self._is_alive(each.owner) for each in found)
            return [] if owned else found

        return self._file.run(read, [])

    def take_ownership(self, submission_ids: Sequence[int | None]) -> None:
        """Make this process the owner of submissions that another process began."""
        self._owned.update(submission_ids)
        self._file.write(
            lambda db: db.executemany(
                "UPDATE submissions SET owner = ? WHERE id = ?",
                [(self._name, each) for each in submission_ids],
            )
        )

    def release(self, submission_ids: Iterable[int | None]) -> None:
        """End this process's work on submissions, so that it may find them unfinished."""
        self._owned.difference_update(submission_ids)

    def mark_collected(self, batch_id: str) -> None:
        """Record that a batch's results were read to their end."""
        self._file.write(
            lambda db: db.execute(
                "UPDATE submissions SET awaits_collection = 0 WHERE batch_id = ?", (batch_id,)
            )
        )

    def get(self, batch_id: str) -> Submission | None:
        """Return the submission of a batch, None for an unknown batch."""

        def read(db: sqlite3.Connection) -> Submission | None:
            row = db.execute(
                f"SELECT {_SUBMISSION} FROM submissions WHERE batch_id = ?",  # noqa: S608
                (batch_id,),
            ).fetchone()
            return _submission(row) if row else None

        return self._file.run(read, None)

    def acquire_export_lease(self, batch_id: str) -> bool:
        """Let the caller alone export the batch, until `release_export_lease`.

        Returns False while the lease is held here or by another living process.
        """

        def acquire(db: sqlite3.Connection) -> bool:
            _ensure_row(db, batch_id)
            (owner,) = db.execute(
                "SELECT lease_owner FROM submissions WHERE batch_id = ?", (batch_id,)
            ).fetchone()
            if batch_id in self._leased or self._is_alive(owner):
                return False
            db.execute(
                "UPDATE submissions SET lease_owner = ? WHERE batch_id = ?", (self._name, batch_id)
            )
            self._leased.add(batch_id)
            return True

        return self._file.run(acquire, True)

    def release_export_lease(self, batch_id: str) -> None:
        """Let others export the batch again."""

        def release(db: sqlite3.Connection) -> None:
            self._leased.discard(batch_id)
            db.execute(
                "UPDATE submissions SET lease_owner = '' WHERE batch_id = ? AND lease_owner = ?",
                (batch_id, self._name),
            )

        self._file.write(release)

    def claim_metrics(self, batch_id: str) -> bool:
        """Let the caller alone record the batch's metrics, once.

        Returns False where the metrics were exported, or this or another living process has
        claimed them. The claim of a process that ends before `mark_metrics_exported` lapses.
        """

        def claim(db: sqlite3.Connection) -> bool:
            _ensure_row(db, batch_id)
            exported, owner = db.execute(
                "SELECT metrics_exported, metrics_owner FROM submissions WHERE batch_id = ?",
                (batch_id,),
            ).fetchone()
            if exported or (owner and (owner == self._name or self._is_alive(owner))):
                return False
            db.execute(
                "UPDATE submissions SET metrics_owner = ? WHERE batch_id = ?",
                (self._name, batch_id),
            )
            return True

        return self._file.run(claim, True)

    def mark_metrics_exported(self, batch_ids: Iterable[str]) -> None:
        """Record that the metrics of batches were exported."""
        rows = [(batch_id,) for batch_id in batch_ids]
        self._file.write(
            lambda db: db.executemany(
                "UPDATE submissions SET metrics_exported = 1 WHERE batch_id = ?", rows
            )
        )

    def mark_exported(self, batch_id: str, signal: Signal) -> None:
        """Record that all spans, or all runs, of a batch were exported."""

        def mark(db: sqlite3.Connection) -> None:
            _ensure_row(db, batch_id)
            db.execute(
                f"UPDATE submissions SET {signal}_exported = 1 WHERE batch_id = ?",  # noqa: S608
                (batch_id,),
            )

        self._file.write(mark)

    def save_totals(self, batch_id: str, totals: Mapping[str, Any]) -> None:
        """Save the totals of a batch, which are JSON-ready."""
        text = json.dumps(dict(totals))

        def write(db: sqlite3.Connection) -> None:
            _ensure_row(db, batch_id)
            db.execute("UPDATE submissions SET totals = ? WHERE batch_id = ?", (text, batch_id))

        self._file.write(write)

    def totals(self) -> dict[str, dict[str, Any]]:
        """Return the saved totals of all batches by batch id."""

        def read(db: sqlite3.Connection) -> dict[str, dict[str, Any]]:
            rows = db.execute("SELECT batch_id, totals FROM submissions WHERE totals IS NOT NULL")
            return {batch_id: json.loads(totals) for batch_id, totals in rows}

        return self._file.run(read, {})

    def _is_alive(self, owner: str) -> bool:
        """Whether another process of that name lives; False for this one's own."""
        process = self._process
        return process is not None and owner != process.name and process.is_alive(owner)

    @property
    def _name(self) -> str:
        return self._process.name if self._process else ""


journal_in = cache(Journal)
"""The process's journal in a directory."""


def _submission(row: tuple[Any, ...]) -> Submission:
    """Read a row of the columns `_SUBMISSION`."""
    submission_id, batch_id, count, carrier, models, started_at, owner, *flags = row
    return Submission(
        submission_id,
        batch_id,
        count,
        json.loads(carrier),
        tuple(json.loads(models)),
        started_at,
        owner,
        *map(bool, flags),
    )


def _ensure_row(db: sqlite3.Connection, batch_id: str) -> None:
    db.execute(
        "INSERT OR IGNORE INTO submissions (batch_id, request_count, carrier, models, started_at)"
        " VALUES (?, 0, '{}', '[]', ?)",
        (batch_id, time.time()),
    )
