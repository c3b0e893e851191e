"""What the end of a process, and its forking, mean for those who hold something."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

if TYPE_CHECKING:
    from types import FrameType


class Closing(Protocol):
    """Somebody with something to hand over before the process ends."""

    def close(self) -> None:
        """Hand it over, in bounded time."""


class Forking(Protocol):
    """Somebody whose locks, threads or connections do not survive a fork."""

    def after_fork(self) -> None:
        """Begin anew in the forked process: what was held is the parent's."""


_closing: WeakSet[Any] = WeakSet()
_forking: WeakSet[Any] = WeakSet()


def close_with_process(holder: Closing) -> None:
    """Have `holder` closed at exit and at SIGTERM.

    SIGTERM is caught only where nobody else does, and the process still ends by it: servers like
    gunicorn have handlers of their own, which end in a normal exit.
    """
    _closing.add(holder)
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, _terminated)


def renew_after_fork(holder: Forking) -> None:
    """Have `holder` begin anew in every forked process."""
    _forking.add(holder)


def _close_all() -> None:
    for holder in list(_closing):
        holder.close()


def _renew_all() -> None:
    for holder in list(_forking):
        holder.after_fork()


def _terminated(signum: int, _frame: FrameType | None) -> None:
    _close_all()
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
