"""Threads for what telemetry may wait for, apart from those that a service's own code is run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

T = TypeVar("T")

_THREADS = 40
_limiter: RunVar[CapacityLimiter] = RunVar("otel_bridge_threads")


async def run_in_thread(work: Callable[[], T]) -> T:
    """Run `work` on a thread of our own, and return what it returns.

    So a backend that hangs blocks neither the event loop nor the threads that anyio shares, on
    which FastAPI runs all code that is not async.
    """
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(_THREADS)
        _limiter.set(limiter)
    return await to_thread.run_sync(work, limiter=limiter)
