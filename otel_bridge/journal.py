"""What was submitted and what was told of it, across processes.

The journal saves work and keeps counters from counting twice. Without it, or where it cannot be
read or written, ids are still functions of what the API knows, so spans and runs stay the same.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from otel_bridge._core.lifecycle import renew_after_fork
from otel_bridge._core.process_lock import ProcessLock
from otel_bridge.journal_file import JournalFile

Leg = Literal["spans", "runs"]

_COLUMNS = (
    "intent, batch_id, request_count, carrier, models, made_at, owner,"
    " adopted, counted, spans, runs"
)
_OF_BATCH = (
    "batch_id, request_count, carrier, models, made_at, teller, counter,"
    " counted, spans, runs, totals"
)


@dataclass(frozen=True, slots=True)
class Part:
    """What is to become one batch."""

    request_count: int
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Submission:
    """One batch, or the intent of one whose id is not known yet. `made_at` is Unix time in s.

    `counted` tells whether its metrics were exported, `spans` and `runs` whether all of these
    were handed over. `owner` is who made the intent. `adopted` tells that the batch was found
    in the API's list, and that whose it is will show when it has ended.
    """

    intent: int
    batch_id: str | None
    request_count: int
    carrier: Mapping[str, str]
    models: tuple[str, ...]
    made_at: float
    owner: str
    adopted: bool
    counted: bool
    spans: bool
    runs: bool

    @classmethod
    def of_row(cls, row: tuple[Any, ...]) -> Submission:
        """Read a row of `_COLUMNS`."""
        intent, batch_id, count, carrier, models, made_at, owner, *flags = row
        return cls(
            intent,
            batch_id,
            count,
            json.loads(carrier),
            tuple(json.loads(models)),
            made_at,
            owner,
            *map(bool, flags),
        )


class Journal:
    """The journal in a directory, None for none; safe for several threads and processes.

    A process has one for each directory, which `journal_in` gives.

    Where the file cannot be used, nothing is known, every claim is granted and the caller goes on.
    """

    def __init__(self, directory: Path | None) -> None:
        self._file = JournalFile(directory)
        self._owner = ProcessLock(directory) if directory else None
        self._telling: set[str] = set()
        self._underway: set[int | None] = set()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """What the parent is at is none of the child's."""
        self._telling.clear()
        self._underway.clear()

    @property
    def kept(self) -> bool:
        """Whether anything will be known to whoever asks later."""
        return self._file.usable

    def intend(
        self,
        whole: str,
        parts: Sequence[Part],
        carrier: Mapping[str, str],
        *,
        awaited: bool = False,
        made_at: float | None = None,
    ) -> list[int | None]:
        """Note that batches are about to be created, the parts of what is submitted as a whole.

        `whole` is a fingerprint of all their requests; `awaited` tells that who submits them
        means to collect them, too; `made_at` is that of the first parts where these are more.
        """
        moment = time.time() if made_at is None else made_at

        def write(db: sqlite3.Connection) -> list[int | None]:
            owner = self._name
            intents = [
                db.execute(
                    "INSERT INTO submissions (fingerprint, request_count, carrier, models,"
                    " made_at, owner, awaited) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        whole,
                        part.request_count,
                        json.dumps(dict(carrier)),
                        json.dumps(part.models),
                        moment,
                        owner,
                        awaited,
                    ),
                ).lastrowid
                for part in parts
            ]
            self._underway.update(intents)
            return intents

        return self._file.do(write, [None] * len(parts))

    def settle(self, intent: int | None, batch_id: str, *, adopted: bool = False) -> None:
        """Note the batch that an intent became, or with `adopted` most likely became."""

        def write(db: sqlite3.Connection) -> None:
            if not adopted:
                db.execute(
                    "UPDATE submissions SET batch_id = NULL, adopted = 0"
                    " WHERE batch_id = ? AND adopted AND intent IS NOT ?",
                    (batch_id, intent),
                )
            db.execute(
                "UPDATE OR IGNORE submissions SET batch_id = ?, adopted = ? WHERE intent = ?",
                (batch_id, adopted, intent),
            )

        self._file.note(write)

    def reopen(self, intent: int | None) -> None:
        """Note that an intent's batch cannot serve it; what was told of that batch stays known."""

        def write(db: sqlite3.Connection) -> None:
            told = db.execute(
                f"SELECT {_OF_BATCH} FROM submissions WHERE intent = ?"  # noqa: S608
                " AND (counted OR spans OR runs OR totals IS NOT NULL)",
                (intent,),
            ).fetchone()
            db.execute(
                "UPDATE submissions SET batch_id = NULL, adopted = 0, teller = '', counter = '',"
                " counted = 0, spans = 0, runs = 0, totals = NULL WHERE intent = ?",
                (intent,),
            )
            if told:
                places = ", ".join("?" * len(told))
                db.execute(f"INSERT INTO submissions ({_OF_BATCH}) VALUES ({places})", told)  # noqa: S608

        self._file.note(write)

    def drop(self, intents: Iterable[int | None]) -> None:
        """Note that intents came to nothing."""
        rows = [(intent,) for intent in intents]
        self._file.note(
            lambda db: db.executemany(
                "DELETE FROM submissions WHERE intent = ? AND batch_id IS NULL", rows
            )
        )

    def give_up(self, submissions: Sequence[Submission]) -> None:
        """Note that nobody goes on with what was begun."""
        self.drop(each.intent for each in submissions)
        for each in submissions:
            if each.batch_id is not None:
                self.received(each.batch_id)

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
                each.intent in self._underway or self._is_alive(each.owner) for each in found
            )
            return [] if underway else found

        return self._file.do(read, [])

    def take_over(self, intents: Sequence[int | None]) -> None:
        """Note that the caller goes on with what another began."""
        self._underway.update(intents)
        self._file.note(
            lambda db: db.executemany(
                "UPDATE submissions SET owner = ? WHERE intent = ?",
                [(self._name, intent) for intent in intents],
            )
        )

    def leave(self, intents: Iterable[int | None]) -> None:
        """Note that the caller does no more about its intents."""
        self._underway.difference_update(intents)

    def received(self, batch_id: str) -> None:
        """Note that a batch's results were read to their end."""
        self._file.note(
            lambda db: db.execute(
                "UPDATE submissions SET awaited = 0 WHERE batch_id = ?", (batch_id,)
            )
        )

    def recall(self, batch_id: str) -> Submission | None:
        """What is known of a batch."""

        def read(db: sqlite3.Connection) -> Submission | None:
            row = db.execute(
                f"SELECT {_COLUMNS} FROM submissions WHERE batch_id = ?",  # noqa: S608
                (batch_id,),
            ).fetchone()
            return Submission.of_row(row) if row else None

        return self._file.do(read, None)

    def claim_telling(self, batch_id: str) -> bool:
        """Whether the caller is to tell of the batch, and nobody else until `end_telling`."""

        def claim(db: sqlite3.Connection) -> bool:
            self._ensure(db, batch_id)
            (teller,) = db.execute(
                "SELECT teller FROM submissions WHERE batch_id = ?", (batch_id,)
            ).fetchone()
            if batch_id in self._telling or self._is_alive(teller):
                return False
            db.execute(
                "UPDATE submissions SET teller = ? WHERE batch_id = ?", (self._name, batch_id)
            )
            self._telling.add(batch_id)
            return True

        return self._file.do(claim, True)

    def end_telling(self, batch_id: str) -> None:
        """Let others tell of the batch again, should it be needed."""

        def end(db: sqlite3.Connection) -> None:
            self._telling.discard(batch_id)
            db.execute(
                "UPDATE submissions SET teller = '' WHERE batch_id = ? AND teller = ?",
                (batch_id, self._name),
            )

        self._file.note(end)

    def claim_count(self, batch_id: str) -> bool:
        """Whether the caller, and nobody else, is to record the batch's metrics.

        The claim of a process that ended before `counted` lapses: its metrics went with it.
        """

        def claim(db: sqlite3.Connection) -> bool:
            self._ensure(db, batch_id)
            counted, counter = db.execute(
                "SELECT counted, counter FROM submissions WHERE batch_id = ?", (batch_id,)
            ).fetchone()
            if counted or (counter and (counter == self._name or self._is_alive(counter))):
                return False
            db.execute(
                "UPDATE submissions SET counter = ? WHERE batch_id = ?", (self._name, batch_id)
            )
            return True

        return self._file.do(claim, True)

    def counted(self, batch_ids: Iterable[str]) -> None:
        """Note that batches' metrics were exported."""
        rows = [(batch_id,) for batch_id in batch_ids]
        self._file.note(
            lambda db: db.executemany("UPDATE submissions SET counted = 1 WHERE batch_id = ?", rows)
        )

    def tell(self, batch_id: str, leg: Leg) -> None:
        """Note that all of a batch's spans, or runs, were handed over."""

        def mark(db: sqlite3.Connection) -> None:
            self._ensure(db, batch_id)
            db.execute(
                f"UPDATE submissions SET {leg} = 1 WHERE batch_id = ?",  # noqa: S608 - a Leg
                (batch_id,),
            )

        self._file.note(mark)

    def sum_up(self, batch_id: str, totals: Mapping[str, Any]) -> None:
        """Note what a batch came to, JSON-ready."""
        summed = json.dumps(dict(totals))

        def write(db: sqlite3.Connection) -> None:
            self._ensure(db, batch_id)
            db.execute("UPDATE submissions SET totals = ? WHERE batch_id = ?", (summed, batch_id))

        self._file.note(write)

    def totals(self) -> dict[str, dict[str, Any]]:
        """What each batch came to, by id, as `sum_up` was told."""

        def read(db: sqlite3.Connection) -> dict[str, dict[str, Any]]:
            rows = db.execute("SELECT batch_id, totals FROM submissions WHERE totals IS NOT NULL")
            return {batch_id: json.loads(totals) for batch_id, totals in rows}

        return self._file.do(read, {})

    def _is_alive(self, owner: str) -> bool:
        return self._owner is not None and owner != self._owner.name and self._owner.is_alive(owner)

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


journal_in = cache(Journal)
"""The process's journal in a directory."""
