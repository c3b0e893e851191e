"""Delivery of runs to LangSmith by an owner that knows what became of each."""

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
from otel_bridge.langsmith.connecting import Destination, connect
from otel_bridge.langsmith.multipart import Body, Operation, encode
from otel_bridge.langsmith.sending import Refusal, Sender
from otel_bridge.langsmith.spool import LeftBehind, Spool

logger = logging.getLogger(__name__)

_RUNS_PER_BODY = 500
_BYTES_PER_BODY = 8_000_000
QUEUE_BYTES = 16_000_000
_GATHER_SECONDS = 0.2
_MEMORY_SECONDS = 5.0
IDLE_SECONDS = 60.0
_FAULT_SECONDS = 1.0
_TOO_LARGE = 413


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """What became of the operations (posts and patches of runs) handed to LangSmith.

    `held_back` ones wait, `spooled` of them on disk; `dropped` ones found no room there. Of the
    `refused` ones `set_apart` are on disk, too.
    """

    sent: int = 0
    held_back: int = 0
    refused: int = 0
    dropped: int = 0
    spooled: int = 0
    set_apart: int = 0
    reason: str | None = None

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
    """Sends operations in order on one thread; retries byte-identical bodies with backoff.

    A body that LangSmith does not take now (down, slow, 429, 5xx) goes to the spool, and
    everything after it waits behind it, so that a run is always posted before it is patched. So
    does what a slow LangSmith leaves in the queue beyond bounds of bytes and of time, and what is
    left at `close`. A permanent refusal (other 4xx) is counted, said once and set apart; a body
    that is too large is split. Conflicts (409) are repeats and count as sent. Nothing here raises
    into the caller. Raises ConfigurationError where no client can be made.
    """

    def __init__(self, client: Client | None = None, *, state_dir: Path | None = None) -> None:
        self._client = client or connect()
        self._sender = Sender(self._client)
        self._spool = Spool(state_dir, Destination.of(self._client))
        self._begin()
        if self._spool.adopt():
            with self._wake:
                self._start()
        close_with_process(self)
        renew_after_fork(self)

    def _begin(self) -> None:
        self._queue: deque[tuple[float, Operation]] = deque()
        self._queued_bytes = 0
        self._wake = threading.Condition()
        self._sending: Body | None = None
        self._encoding = 0
        self._flushes = 0
        self._thread: threading.Thread | None = None
        self._report = DeliveryReport()
        self._said = False
        self._replayed = DeliveryReport()
        self._retry_at = 0.0
        self._asked = False
        self._looked = time.monotonic()
        self._last_key = 0
        self._closed = False

    def after_fork(self) -> None:
        """In a forked process: what waits is the parent's to send."""
        self._begin()
        self._spool.forget()
        self._sender.after_fork()

    @property
    def endpoint(self) -> str:
        """Where the LangSmith API is, fit to be shown."""
        return safe_endpoint(self._client.api_url)

    @property
    def report(self) -> DeliveryReport:
        """What became of all operations so far."""
        with self._wake:
            spooled = self._spool.runs
            return self._report + DeliveryReport(
                held_back=self._waiting() + spooled,
                spooled=0 if self._spool.volatile else spooled,
            )

    @property
    def replayed(self) -> DeliveryReport:
        """What became of the operations that ended processes left."""
        with self._wake:
            return self._replayed + DeliveryReport(held_back=self._spool.adopted_runs)

    @property
    def spool_size(self) -> int:
        """Bytes of the spool on disk."""
        return self._spool.size

    def run_url(self, run_id: str, project: str) -> str | None:
        """URL of a run in LangSmith's UI, None where it cannot be known."""
        try:
            project_url = self._client.read_project(project_name=project).url
        except Exception:  # noqa: BLE001 - a link is a convenience
            return None
        return f"{project_url}/r/{run_id}?poll=true" if project_url else None

    def submit(self, operation: Operation) -> None:
        """Hand an operation over; returns at once."""
        with self._wake:
            self._queue.append((time.monotonic(), operation))
            self._queued_bytes += operation.size
            if self._closed or self._queued_bytes > QUEUE_BYTES:
                self._spill()
                return
            self._start()
            if len(self._queue) in (1, _RUNS_PER_BODY):  # to begin gathering, or to end it
                self._wake.notify_all()

    def drop(self, reason: str) -> None:
        """Count an operation that could not be made, for a `reason` that was said elsewhere."""
        with self._wake:
            self._report += DeliveryReport(dropped=1, reason=reason)

    @property
    def left(self) -> LeftBehind:
        """What is on disk that `adopt` leaves there unless it is asked for."""
        with self._wake:
            return self._spool.left()

    def adopt(self, *, refused: bool = False, other_keys: bool = False) -> int:
        """Take over what ended processes left for this API, key and workspace.

        With `refused`, also what was set apart; with `other_keys`, also what was meant for other
        keys and workspaces at this API. Returns the number of operations.
        """
        with self._wake:
            found = self._spool.adopt(refused=refused, other_keys=other_keys)
            if found:
                self._start()
            return found

    def flush(self, timeout: float = 15.0, *, patient: bool = True) -> bool:
        """Send all that waits, for at most `timeout` seconds; True when all is safe.

        Safe is what LangSmith took, what it will never take, and what is in the spool on disk;
        `report.dropped` tells of what is lost.
        Unless `patient`, nothing is waited for while LangSmith is known not to answer, and only
        for what is this process's.
        """
        deadline = time.monotonic() + timeout
        with self._wake:
            if self._thread is None:
                return True
            self._flushes += 1
            if patient and not self._asked:
                self._retry_at = min(self._retry_at, time.monotonic())
            self._wake.notify_all()
            while self._thread.is_alive() and self._due(patient=patient):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                if not patient and time.monotonic() < self._retry_at and not self._encoding:
                    break
                self._wake.wait(min(left, 0.5))
            self._flushes -= 1
            self._spill()
            return not (self._waiting() or self._spool.volatile)

    def close(self, timeout: float = 5.0) -> None:
        """Flush; what is left then goes to the spool, and so does all that comes later."""
        with self._wake:
            if self._closed:
                return
        self.flush(timeout)
        with self._wake:
            self._closed = True
            if self._sending is not None:
                self._spool.put(self._sending)  # nobody may wait for its answer any more
            self._spill()
            self._spool.close()
            self._wake.notify_all()

    def _waiting(self) -> int:
        sending = self._sending
        fresh = sending is not None and not sending.adopted and not self._spool.holds(sending)
        return len(self._queue) + self._encoding + (sending.runs if sending and fresh else 0)

    def _due(self, *, patient: bool) -> bool:
        """Whether there is something to wait for; the spool only while LangSmith answers."""
        if self._waiting():
            return True
        return bool(self._spool) if patient else self._spool.runs > 0 and not self._sender.failing

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=self._work, name="otel-bridge-langsmith", daemon=True
            )
            self._thread.start()

    def _work(self) -> None:
        while True:
            try:
                with self._wake:
                    work = self._next()
                    if work is None:
                        return
                    self._encoding = 0 if isinstance(work, Body) else len(work[0])
                body = work if isinstance(work, Body) else encode(*work)
                with self._wake:
                    self._encoding, self._sending = 0, body
                refusal = self._sender.send(body)
                with self._wake:
                    self._sending = None
                    self._settle(body, refusal)
                    self._wake.notify_all()
            except Exception as error:  # noqa: BLE001 - the thread must outlive any fault
                with self._wake:
                    lost, adopted = self._encoding, False
                    if self._sending is not None:
                        lost, adopted = self._sending.runs, self._sending.adopted
                        self._spool.pass_over(self._sending)  # or it would fail for ever
                    self._encoding, self._sending = 0, None
                    reason = f"{type(error).__name__}: {error}"
                    self._count(DeliveryReport(dropped=lost, reason=reason), adopted=adopted)
                    self._retry_at = time.monotonic() + _FAULT_SECONDS

    def _next(self) -> Body | tuple[list[Operation], str] | None:
        """Wait for what is to be sent next, the oldest first; None when there is no more."""
        gathered = False
        while not self._closed:
            now = time.monotonic()
            if now - self._looked > IDLE_SECONDS:
                self._looked = now
                self._spool.adopt()
            full = len(self._queue) >= _RUNS_PER_BODY or self._queued_bytes >= _BYTES_PER_BODY
            age = now - self._queue[0][0] if self._queue else 0.0
            pause = self._retry_at - now
            if age >= _MEMORY_SECONDS or (pause > 0 and (full or self._flushes)):
                self._spill()
                self._wake.notify_all()
                age = 0.0
            if pause > 0:
                self._wake.wait(min(pause, _MEMORY_SECONDS - age))
                gathered = True
            elif body := self._spool.oldest():
                return body
            elif self._queue and (full or gathered or self._flushes):
                return self._take()
            else:
                gathered = bool(self._queue)
                self._wake.wait(_GATHER_SECONDS if gathered else IDLE_SECONDS)
        return None

    def _take(self) -> tuple[list[Operation], str]:
        operations: list[Operation] = []
        size = 0
        while self._queue and len(operations) < _RUNS_PER_BODY:
            _, operation = self._queue[0]
            if operations and (size + operation.size > _BYTES_PER_BODY or operation.alone):
                break
            self._queue.popleft()
            operations.append(operation)
            size += operation.size
            if operation.alone:
                break
        self._queued_bytes -= size
        self._last_key = max(self._last_key + 1, time.time_ns())
        return operations, f"{self._last_key:020d}-{secrets.token_hex(2)}"

    def _spill(self) -> None:
        """Move the queue to the spool."""
        while self._queue:
            self._keep(encode(*self._take()))

    def _keep(self, body: Body) -> None:
        if not self._spool.put(body):
            self._count(DeliveryReport(dropped=body.runs, reason="the spool is full"))

    def _settle(self, body: Body, refusal: Refusal | None) -> None:
        if refusal is None:
            self._asked = False
            self._spool.done(body)
            self._count(DeliveryReport(sent=body.runs), adopted=body.adopted)
            return
        if refusal.pause is not None:
            news = DeliveryReport(reason=refusal.reason)
            self._retry_at = time.monotonic() + refusal.pause
            self._asked = refusal.asked
            self._keep(body)
        else:
            self._asked = False
            news = self._refused(body, refusal)
        self._count(news, adopted=body.adopted)

    def _refused(self, body: Body, refusal: Refusal) -> DeliveryReport:
        parts = body.split() if refusal.status == _TOO_LARGE else []
        for part in parts:
            self._keep(part)
        if parts:
            self._spool.done(body)
            # Halves lose nothing; a run that cannot be halved loses its content, which is said.
            return DeliveryReport(reason=None if len(parts) > 1 else refusal.reason)
        apart = body.runs if self._spool.refuse(body, refusal.reason) else 0
        return DeliveryReport(refused=body.runs, set_apart=apart, reason=refusal.reason)

    def _count(self, news: DeliveryReport, *, adopted: bool = False) -> None:
        if adopted:
            self._replayed += news
        else:
            self._report += news
        if news.reason and not self._said:
            self._said = True
            logger.warning("LangSmith at %s does not take runs: %s", self.endpoint, news.reason)
