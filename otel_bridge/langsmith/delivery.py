"""Delivery of runs to LangSmith by an owner that knows what became of each."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Protocol

import requests
from langsmith import Client
from langsmith import utils as ls_utils
from urllib3 import Retry

from otel_bridge.langsmith.multipart import Body, Operation, encode

logger = logging.getLogger(__name__)

_RUNS_PER_BODY = 500
_BYTES_PER_BODY = 8_000_000
_HELD_BYTES = 64_000_000
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """What became of the operations (posts and patches of runs) handed to LangSmith."""

    sent: int = 0
    held_back: int = 0
    refused: int = 0
    reason: str | None = None


class Overflow(Protocol):
    """Where bodies wait that LangSmith did not take."""

    def put(self, body: Body) -> bool:
        """Keep a body; False when there is no room."""

    def peek(self) -> Body | None:
        """The oldest body that waits."""

    def done(self) -> None:
        """The oldest body need not wait any more."""


class MemoryOverflow:
    """Keeps bodies in memory up to a bound in bytes, the oldest first."""

    def __init__(self, limit: int = _HELD_BYTES) -> None:
        self._bodies: deque[Body] = deque()
        self._limit = limit
        self._size = 0

    def put(self, body: Body) -> bool:
        if self._size + len(body.data) > self._limit:
            return False
        self._size += len(body.data)
        self._bodies.append(body)
        return True

    def peek(self) -> Body | None:
        return self._bodies[0] if self._bodies else None

    def done(self) -> None:
        self._size -= len(self._bodies.popleft().data)


class Delivery:
    """Sends operations in order on one thread; retries byte-identical bodies with backoff.

    A body that LangSmith does not take now (down, slow, 429, 5xx) waits in the overflow, and
    everything after it waits behind it, so that a run is always posted before it is patched. A
    permanent refusal (other 4xx) is counted and said once. Conflicts (409) are repeats and count
    as sent. Nothing here raises into the caller.
    """

    def __init__(self, client: Client | None = None, overflow: Overflow | None = None) -> None:
        # The explicit mode beats LANGSMITH_TRACING_MODE=otel, which would make a loop.
        # Retrying is this class's work: retries beneath it would only hide time and reason.
        self._client = client or Client(
            tracing_mode="langsmith",
            auto_batch_tracing=False,
            retry_config=Retry(total=0),
            timeout_ms=(3_000, 10_000),
        )
        self._overflow = overflow or MemoryOverflow()
        self._queue: deque[Operation] = deque()
        self._wake = threading.Condition()
        self._in_flight = 0
        self._flushes = 0
        self._rounds = 0
        self._thread: threading.Thread | None = None
        self._report = DeliveryReport()
        self._held = 0
        self._zstd: bool | None = None
        self._pause = 0.0
        self._retry_at = 0.0
        self._closed = False

    @property
    def endpoint(self) -> str:
        """URL of the LangSmith API."""
        return self._client.api_url

    @property
    def report(self) -> DeliveryReport:
        """What became of all operations so far."""
        with self._wake:
            waiting = self._held + self._in_flight + len(self._queue)
            return replace(self._report, held_back=self._report.held_back + waiting)

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
            if self._closed:
                self._report = replace(self._report, held_back=self._report.held_back + 1)
                return
            self._queue.append(operation)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._work, name="otel-bridge-langsmith", daemon=True
                )
                self._thread.start()
            if len(self._queue) >= _RUNS_PER_BODY:
                self._wake.notify_all()

    def flush(self, timeout: float = 15.0) -> bool:
        """Try to send all that waits, for at most `timeout` seconds; True when nothing waits."""
        deadline = time.monotonic() + timeout
        with self._wake:
            if self._thread is None:
                return True
            self._flushes += 1
            self._retry_at = min(self._retry_at, time.monotonic())
            # A round that began before now may have passed over what waits already.
            rounds = self._rounds + 2
            self._wake.notify_all()
            while (
                self._queue or self._in_flight or self._rounds < rounds
            ) and self._thread.is_alive():
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._wake.wait(min(left, 0.5))
            self._flushes -= 1
            return not (self._queue or self._in_flight or self._held)

    def close(self, timeout: float = 15.0) -> None:
        """Flush, then take no more."""
        self.flush(timeout)
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._rounds += 1
                self._wake.notify_all()
                if not self._queue and self._closed:
                    return
                if not self._flushes and len(self._queue) < _RUNS_PER_BODY:
                    self._wake.wait(0.2 if self._queue or self._held else 5.0)
                operations = self._take()
                self._in_flight = len(operations)
            try:
                self._replay()
                if operations:
                    self._deliver(encode(operations, zstd=self._use_zstd()))
            except Exception as error:  # noqa: BLE001 - the thread must outlive any fault
                with self._wake:
                    lost, self._in_flight = self._in_flight, 0
                    reason = f"{type(error).__name__}: {error}"
                    self._count(DeliveryReport(refused=lost, reason=reason))

    def _take(self) -> list[Operation]:
        operations: list[Operation] = []
        size = 0
        while self._queue and len(operations) < _RUNS_PER_BODY:
            size += self._queue[0].size
            if operations and (size > _BYTES_PER_BODY or self._queue[0].alone):
                break
            operations.append(self._queue.popleft())
            if operations[0].alone:
                break
        return operations

    def _replay(self) -> None:
        while (body := self._overflow.peek()) and time.monotonic() >= self._retry_at:
            outcome = self._send(body)
            if outcome is None:
                return
            self._overflow.done()
            with self._wake:
                self._held -= body.runs
                self._count(outcome)

    def _deliver(self, body: Body) -> None:
        outcome = None if self._held else self._send(body)
        with self._wake:
            self._in_flight = 0
            if outcome is not None:
                self._count(outcome)
            elif self._overflow.put(body):
                self._held += body.runs
            else:
                self._count(DeliveryReport(held_back=body.runs))

    def _send(self, body: Body) -> DeliveryReport | None:
        """What became of the body, None when it has to wait."""
        if time.monotonic() < self._retry_at:
            return None
        try:
            self._client.request_with_retries(
                "POST",
                "/runs/multipart",
                request_kwargs={
                    "data": body.data,
                    "headers": body.headers,
                },
            )
        except ls_utils.LangSmithConflictError:
            pass
        except (ls_utils.LangSmithError, requests.RequestException) as error:
            if self._passes(error):
                return None
            return DeliveryReport(refused=body.runs, reason=_reason(error))
        self._pause = 0.0
        return DeliveryReport(sent=body.runs)

    def _passes(self, error: Exception) -> bool:
        """Whether the fault is one that passes; if so, wait before anything more is sent."""
        response = _response(error)
        if response is not None and not _is_transient(response.status_code):
            return False
        self._pause = min(max(self._pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
        asked = response.headers.get("retry-after", "") if response is not None else ""
        pause = max(self._pause, float(asked)) if asked.isdecimal() else self._pause
        with self._wake:
            self._retry_at = time.monotonic() + pause
            self._count(DeliveryReport(reason=_reason(error)))
        return True

    def _use_zstd(self) -> bool:
        if self._zstd is None and time.monotonic() >= self._retry_at:
            try:
                info = self._client.request_with_retries("GET", "/info").json()
            except (ls_utils.LangSmithError, requests.RequestException, ValueError) as error:
                if self._passes(error):
                    return False
                info = {}
            flags = info.get("instance_flags") or {}
            self._zstd = bool(flags.get("zstd_compression_enabled"))
        return bool(self._zstd)

    def _count(self, news: DeliveryReport) -> None:
        with self._wake:
            before = self._report
            self._report = DeliveryReport(
                before.sent + news.sent,
                before.held_back + news.held_back,
                before.refused + news.refused,
                news.reason or before.reason,
            )
        if news.reason and before.reason is None:
            logger.warning("LangSmith at %s does not take runs: %s", self.endpoint, news.reason)


def _is_transient(status: int) -> bool:
    return status in (408, 425, 429) or status >= 500


def _response(error: Exception) -> requests.Response | None:
    """What LangSmith answered, None where it gave no answer."""
    # The SDK's errors carry no status; each is raised while its HTTPError is handled.
    context = error.__context__
    return context.response if isinstance(context, requests.HTTPError) else None


def _reason(error: Exception) -> str:
    """One short line; the SDK's own text has several, with parts of the key in it."""
    response = _response(error)
    if response is not None:
        return f"HTTP {response.status_code} {' '.join(response.text.split())[:200]}".rstrip()
    return "no answer in time" if "timed out" in str(error) else "no connection"
