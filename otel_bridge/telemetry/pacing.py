"""Backpressure between a burst of spans and processors that drop when their queue is full."""

from __future__ import annotations

import os
import time
from typing import Any

from otel_bridge._core.otel_sdk import BoundedFlush, smallest_queue
from otel_bridge.telemetry.losses import losses

_DEFAULT_QUEUE = 2048


def _default_queue() -> int:
    try:
        return int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", _DEFAULT_QUEUE))
    except ValueError:
        return _DEFAULT_QUEUE


class Pacer:
    """Lets the provider drain after each slice of spans smaller than half its queue.

    The other half is for the spans that the service ends meanwhile. `force_flush` proves no
    delivery; `patience` is the time in seconds that flushes of one burst may take which fail or do
    not return. After that spans go on unpaced: a backend that hangs costs telemetry, never the
    caller's time. A backend that is merely slow is waited for. A processor that `force_flush` does
    not drain cannot be slowed.
    """

    def __init__(self, provider: Any, patience: float = 20.0) -> None:
        self._flush = BoundedFlush(provider)
        self._patience = patience
        self._slice = max(1, smallest_queue(provider, _default_queue()) // 2)
        self._emitted = 0

    def emitted(self) -> None:
        """One span was ended."""
        self._emitted += 1
        if self._emitted >= self._slice:
            self._emitted = 0
            self.drain()

    def drain(self) -> bool:
        """Wait for the provider's processors; False when patience ran out first."""
        started, lost = time.monotonic(), losses.spans
        drained = self._flush(self._patience)
        if not drained or losses.spans > lost:
            self._patience -= time.monotonic() - started
        return drained
