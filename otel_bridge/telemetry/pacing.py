"""Backpressure between a burst of spans and processors that drop when their queue is full."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

DEFAULT_QUEUE = 2048


def _slice_size() -> int:
    try:
        queue = int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", DEFAULT_QUEUE))
    except ValueError:
        queue = DEFAULT_QUEUE
    return max(1, queue // 2)


class Pacer:
    """Lets the provider drain after each slice of spans smaller than half its queue.

    `force_flush` heeds no timeout and proves no delivery, so it runs on a thread and is waited
    for at most `patience` seconds over the whole burst. After that spans go on unpaced: a backend
    that hangs costs telemetry, never the caller's time.
    """

    def __init__(self, provider: Any, patience: float = 20.0) -> None:
        self._flush = getattr(provider, "force_flush", None)
        self._patience = patience
        self._slice = _slice_size()
        self._emitted = 0
        self._thread: threading.Thread | None = None

    def emitted(self) -> None:
        """One span was ended."""
        self._emitted += 1
        if self._emitted >= self._slice:
            self._emitted = 0
            self.drain()

    def drain(self) -> bool:
        """Wait for the provider's processors; False when patience ran out first."""
        if self._flush is None:
            return True
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=self._flush, name="otel-bridge-flush", daemon=True
            )
            self._thread.start()
        started = time.monotonic()
        self._thread.join(max(self._patience, 0.0))
        self._patience -= time.monotonic() - started
        return not self._thread.is_alive()
