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
    """Do what may take a while on a thread: the event loop must not wait.

    Nor must what a service does on anyio's own threads, as FastAPI does all that is not async:
    there are as many of these as a number of batches can hold while a backend hangs.
    """
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(_THREADS)
        _limiter.set(limiter)
    return await to_thread.run_sync(work, limiter=limiter)
