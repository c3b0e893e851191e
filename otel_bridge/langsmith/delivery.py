"""Delivers runs to LangSmith, and counts what became of each."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from langsmith import Client

from otel_bridge._core.display import safe_endpoint
from otel_bridge._core.lifecycle import close_with_process, renew_after_fork
from otel_bridge._core.shield import brief
from otel_bridge.langsmith.client import Destination, Refusal, Sender, connect
from otel_bridge.langsmith.multipart import Body, RunUpdate, encode_body
from otel_bridge.langsmith.spool import LeftBehind, Spool

logger = logging.getLogger(__name__)

QUEUE_BYTES = 16_000_000
"""Beyond this the queue moves to the spool."""
IDLE_SECONDS = 60.0
"""How often the thread looks for what ended processes left."""
_UPDATES_PER_BODY = 500
_BYTES_PER_BODY = 8_000_000
_GATHER_SECONDS = 0.2
_QUEUE_SECONDS = 5.0
_FAULT_SECONDS = 1.0
_TOO_LARGE = 413


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """What became of run updates (posts and patches of runs), as numbers of updates.

    `held_back` counts those that wait, `spooled` those of them that are on disk. `dropped` counts
    those that are lost. `refused` counts those that LangSmith will not accept, `set_apart` those of
    them that are on disk. `reason` is the last error.
    """

    sent: int = 0
    held_back: int = 0
    refused: int = 0
    dropped: int = 0
    spooled: int = 0
    set_apart: int = 0
    reason: str | None = None

    @property
    def lost(self) -> int:
        """Number of updates that LangSmith does not have and that are not on disk."""
        return self.dropped + self.refused - self.set_apart

    def __add__(self, other: DeliveryReport) -> DeliveryReport:
        return DeliveryReport(
            self.sent + other.sent,
            self.held_back + other.held_back,
            self.refused + other.refused,
            self.dropped + other.dropped,
            self.spooled + other.spooled,
            self.set_apart + other.set_apart,
            other.reason or self.reason,
        )


class Delivery:
    """Sends run updates in order on one thread, and retries byte-identical bodies with backoff.

    A body that LangSmith cannot accept now (no answer, 429, 5xx) goes to the spool. All later
    updates wait behind it, so that a run is always posted before it is patched. The queue moves to
    the spool when it exceeds its bounds of bytes and of time, and at `close`. A body that LangSmith
    refuses for good (other 4xx) is counted, logged once and set apart; one that is too large is
    split. A conflict (409) answers a repeat and counts as sent. No method raises for a fault of
    LangSmith or of the disk. Raises ConfigurationError where no client can be made.
    """

    def __init__(self, client: Client | None = None, *, state_dir: Path | None = None) -> None:
        self._client = client or connect()
        self._sender = Sender(self._client)
        self._spool = Spool(state_dir, Destination.of(self._client))
        self._reset()
        self.inherit()
        close_with_process(self)
        renew_after_fork(self)

    def _reset(self) -> None:
        self._queue: deque[tuple[float, RunUpdate]] = deque()
        """Updates, each with the time at which it was submitted."""
        self._queued_bytes = 0
        self._wake = threading.Condition()
        self._encoding = 0
        """Number of updates that have left the queue and are not yet a body."""
        self._sending: Body | None = None
        self._flushes = 0
        """Number of threads that are in `flush`."""
        self._thread: threading.Thread | None = None
        self._report = DeliveryReport()
        self._inherited_report = DeliveryReport()
        self._warned = False
        self._retry_at = 0.0
        self._pause_requested = False
        self._inherited_at = time.monotonic()
        self._last_key = 0
        self._closed = False

    def after_fork(self) -> None:
        """Leave what waits to the parent process."""
        self._reset()
        self._spool.clear()
        self._sender.after_fork()

    @property
    def endpoint(self) -> str:
        """URL of the LangSmith API, without secrets."""
        return safe_endpoint(self._client.api_url)

    @property
    def report(self) -> DeliveryReport:
        """What became of all updates of this process so far."""
        with self._wake:
            spooled = self._spool.own_updates
            return self._report + DeliveryReport(
                held_back=self._in_memory() + spooled,
                spooled=0 if self._spool.volatile else spooled,
            )

    @property
    def replayed(self) -> DeliveryReport:
        """What became of the updates that ended processes left."""
        with self._wake:
            held_back = self._spool.inherited_updates
            return self._inherited_report + DeliveryReport(held_back=held_back)

    @property
    def spool_size(self) -> int:
        """Bytes of the spool on disk."""
        return self._spool.size

    @property
    def left(self) -> LeftBehind:
        """What is on disk and is not inherited by default."""
        with self._wake:
            return self._spool.left_behind()

    def run_url(self, run_id: str, project: str) -> str | None:
        """Return the URL of a run in LangSmith's UI, None where LangSmith does not tell it."""
        try:
            project_url = self._client.read_project(project_name=project).url
        except Exception:  # noqa: BLE001 - a link is a convenience
            return None
        return f"{project_url}/r/{run_id}?poll=true" if project_url else None

    def submit(self, update: RunUpdate) -> None:
        """Queue an update to be sent; returns at once."""
        with self._wake:
            self._queue.append((time.monotonic(), update))
            self._queued_bytes += update.size
            if self._closed or self._queued_bytes > QUEUE_BYTES:
                self._spool_queue()
                return
            self._start_thread()
            if len(self._queue) in (1, _UPDATES_PER_BODY):  # to begin gathering, or to end it
                self._wake.notify_all()

    def drop(self, reason: str) -> None:
        """Count an update that could not be made as dropped; the caller has logged `reason`."""
        with self._wake:
            self._report += DeliveryReport(dropped=1, reason=reason)

    def inherit(self, *, refused: bool = False, other_keys: bool = False) -> int:
        """Take over the updates that ended processes left for this API, key and workspace.

        With `refused`, also those that were set apart. With `other_keys`, also those for other keys
        and workspaces at this API. Returns the number of updates.
        """
        with self._wake:
            found = self._spool.inherit(refused=refused, other_keys=other_keys)
            if found:
                self._start_thread()
            return found

    def flush(self, timeout: float = 15.0, *, patient: bool = True) -> bool:
        """Send what waits, and move to the spool what is not sent within `timeout` seconds.

        Returns True when no update is in memory only: each was sent, refused for good, dropped, or
        is on disk. `report` has the numbers.

        A patient flush retries at once, unless LangSmith has asked for a pause, and waits for all
        that is in the spool. An impatient one returns as soon as LangSmith is known to fail, and
        does not wait for what other processes left.
        """
        deadline = time.monotonic() + timeout
        with self._wake:
            if self._thread is None:
                return True
            self._flushes += 1
            if patient and not self._pause_requested:
                self._retry_at = min(self._retry_at, time.monotonic())
            self._wake.notify_all()
            try:
                self._wait_until_sent(deadline, patient=patient)
            finally:
                self._flushes -= 1
            self._spool_queue()
            return not (self._in_memory() or self._spool.volatile)

    def close(self, timeout: float = 5.0) -> None:
        """Flush within `timeout` seconds; later updates go to the spool."""
        with self._wake:
            if self._closed:
                return
        self.flush(timeout)
        with self._wake:
            self._closed = True
            if self._sending is not None:
                self._spool.add(self._sending)  # the process may end before the answer
            self._spool_queue()
            self._spool.close()
            self._wake.notify_all()

    def _wait_until_sent(self, deadline: float, *, patient: bool) -> None:
        while self._thread is not None and self._thread.is_alive():
            now = time.monotonic()
            failing = now < self._retry_at and not self._encoding
            if now >= deadline or (failing and not patient) or not self._has_work(patient=patient):
                return
            self._wake.wait(min(deadline - now, 0.5))

    def _has_work(self, *, patient: bool) -> bool:
        if self._in_memory():
            return True
        if patient:
            return bool(self._spool)
        return self._spool.own_updates > 0 and not self._sender.failing

    def _in_memory(self) -> int:
        """Return the number of this process's updates that are not in the spool."""
        sending = self._sending
        if sending is None or sending.inherited or self._spool.holds(sending):
            return len(self._queue) + self._encoding
        return len(self._queue) + self._encoding + sending.updates

    def _start_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=self._run, name="otel-bridge-langsmith", daemon=True
            )
            self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                with self._wake:
                    work = self._wait_for_work()
                    if work is None:
                        return
                    self._encoding = 0 if isinstance(work, Body) else len(work[0])
                body = work if isinstance(work, Body) else encode_body(*work)
                with self._wake:
                    self._encoding, self._sending = 0, body
                refusal = self._sender.send(body)
                with self._wake:
                    self._sending = None
                    self._handle_answer(body, refusal)
                    self._wake.notify_all()
            except Exception as error:  # noqa: BLE001 - the thread must outlive any fault
                with self._wake:
                    self._handle_fault(error)

    def _wait_for_work(self) -> Body | tuple[list[RunUpdate], str] | None:
        """Wait for the oldest body or the next updates and their key; None after `close`."""
        gathered = False
        while not self._closed:
            now = time.monotonic()
            if now - self._inherited_at > IDLE_SECONDS:
                self._inherited_at = now
                self._spool.inherit()
            full = len(self._queue) >= _UPDATES_PER_BODY or self._queued_bytes >= _BYTES_PER_BODY
            age = now - self._queue[0][0] if self._queue else 0.0
            pause = self._retry_at - now
            if age >= _QUEUE_SECONDS or (pause > 0 and (full or self._flushes)):
                self._spool_queue()
                self._wake.notify_all()
                age = 0.0
            if pause > 0:
                self._wake.wait(min(pause, _QUEUE_SECONDS - age))
                gathered = True
            elif body := self._spool.oldest():
                return body
            elif self._queue and (full or gathered or self._flushes):
                return self._pop_updates()
            else:
                gathered = bool(self._queue)
                self._wake.wait(_GATHER_SECONDS if gathered else IDLE_SECONDS)
        return None

    def _pop_updates(self) -> tuple[list[RunUpdate], str]:
        """Remove the updates of one body from the queue; return them with the body's key."""
        updates: list[RunUpdate] = []
        size = 0
        while self._queue and len(updates) < _UPDATES_PER_BODY:
            _, update = self._queue[0]
            if updates and (size + update.size > _BYTES_PER_BODY or update.own_body):
                break
            self._queue.popleft()
            updates.append(update)
            size += update.size
            if update.own_body:
                break
        self._queued_bytes -= size
        self._last_key = max(self._last_key + 1, time.time_ns())
        return updates, f"{self._last_key:020d}-{secrets.token_hex(2)}"

    def _spool_queue(self) -> None:
        while self._queue:
            self._add_to_spool(encode_body(*self._pop_updates()))

    def _add_to_spool(self, body: Body) -> None:
        if not self._spool.add(body):
            report = DeliveryReport(dropped=body.updates, reason="the spool is full")
            self._count(report, inherited=body.inherited)

    def _handle_answer(self, body: Body, refusal: Refusal | None) -> None:
        self._pause_requested = refusal is not None and refusal.pause_requested
        if refusal is None:
            self._spool.remove(body)
            report = DeliveryReport(sent=body.updates)
        elif refusal.pause is not None:
            self._retry_at = time.monotonic() + refusal.pause
            self._add_to_spool(body)
            report = DeliveryReport(reason=refusal.reason)
        else:
            report = self._handle_refused(body, refusal)
        self._count(report, inherited=body.inherited)

    def _handle_refused(self, body: Body, refusal: Refusal) -> DeliveryReport:
        smaller = body.split() if refusal.status == _TOO_LARGE else []
        for each in smaller:
            self._add_to_spool(each)
        if smaller:
            self._spool.remove(body)
            # Halves lose nothing; a run that cannot be halved loses its content, which is reported.
            return DeliveryReport(reason=None if len(smaller) > 1 else refusal.reason)
        set_apart = body.updates if self._spool.set_apart(body, refusal.reason) else 0
        return DeliveryReport(refused=body.updates, set_apart=set_apart, reason=refusal.reason)

    def _handle_fault(self, error: Exception) -> None:
        """Drop what the thread was working on, which would fail again, and pause."""
        lost, inherited = self._encoding, False
        if self._sending is not None:
            lost, inherited = self._sending.updates, self._sending.inherited
            self._spool.skip(self._sending)
        self._encoding, self._sending = 0, None
        self._count(DeliveryReport(dropped=lost, reason=brief(error)), inherited=inherited)
        self._retry_at = time.monotonic() + _FAULT_SECONDS

    def _count(self, report: DeliveryReport, *, inherited: bool = False) -> None:
        if inherited:
            self._inherited_report += report
        else:
            self._report += report
        if report.reason and not self._warned:
            self._warned = True
            logger.warning("LangSmith at %s does not take runs: %s", self.endpoint, report.reason)
