"""What the end of a process, and its forking, mean for those who hold something."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
from multiprocessing import parent_process, util
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

if TYPE_CHECKING:
    from types import FrameType


class Closing(Protocol):
    """An object that must be closed before the process ends."""

    def close(self) -> None:
        """Send or store what is left, in bounded time."""


class Forking(Protocol):
    """An object with locks, threads or connections, which do not survive a fork."""

    def after_fork(self) -> None:
        """Start anew in the forked process: what was held belongs to the parent."""


_AFTER_ALL_ELSE = -100
_closing: WeakKeyDictionary[Any, None] = WeakKeyDictionary()
_forking: WeakSet[Any] = WeakSet()


def close_with_process(holder: Closing) -> None:
    """Have `holder` closed at exit, at the end of a multiprocessing worker and at SIGTERM.

    Who came last is closed first. SIGTERM is caught only where nobody else does, and the process
    still ends by it: servers like gunicorn have handlers of their own, which end in a normal exit.
    """
    _closing[holder] = None
    _close_with_worker()
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, _terminated)


def renew_after_fork(holder: Forking) -> None:
    """Have `holder` begin anew in every forked process."""
    _forking.add(holder)


def _close_all() -> None:
    for holder in reversed(list(_closing)):
        with contextlib.suppress(Exception):  # each has its turn, whatever became of the others
            holder.close()


def _close_with_worker(_: object = None) -> None:
    """Have all closed with a multiprocessing worker, which ends by os._exit: atexit is not heard.

    A worker begins by forgetting the finalizers that it inherits.
    """
    if parent_process() is not None:
        util.Finalize(None, _close_all, exitpriority=_AFTER_ALL_ELSE)


def _renew_all() -> None:
    for holder in list(_forking):
        holder.after_fork()


def _terminated(signum: int, _frame: FrameType | None) -> None:
    _close_all()
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


atexit.register(_close_all)
util.register_after_fork(_close_all, _close_with_worker)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
