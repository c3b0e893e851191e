"""Faults of telemetry stay inside: each is counted, each kind is said once, none is raised."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from otel_bridge._core.display import safe_text

logger = logging.getLogger(__name__)

_MOST_SAID = 1_000
said: OrderedDict[str, None] = OrderedDict()
"""Warnings that were said once; a test forgets them."""
_lock = threading.Lock()

P = ParamSpec("P")
OnFault = Callable[[Exception], None]


class Shield:
    """A context manager that lets no Exception out of what is done within it.

    The first fault of each type is logged at WARNING, as `consequence` and the fault, unless that
    very text was logged before in this process. Every fault is logged with its traceback at DEBUG,
    counted in `faults`, and given to `on_fault`, which must not raise. One shield may be entered
    many times, by several threads.
    """

    def __init__(self, consequence: str, on_fault: OnFault | None = None) -> None:
        self.faults = 0
        """Number of faults so far."""
        self._consequence = consequence
        self._on_fault = on_fault
        self._types: set[type[BaseException]] = set()

    def __enter__(self) -> None:
        """Nothing is to be done before."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self.note(error)
        return True

    def note(self, error: Exception) -> None:
        """Count a fault that was caught elsewhere, as if it had happened within."""
        self.faults += 1
        if type(error) not in self._types:
            self._types.add(type(error))
            warn_once(logger, "%s: %s", self._consequence, brief(error))
        logger.debug("%s", self._consequence, exc_info=error)
        if self._on_fault is not None:
            self._on_fault(error)


class Shielded(Protocol):
    """What has a shield of its own."""

    @property
    def shield(self) -> Shield:
        """The shield over its methods."""


S = TypeVar("S", bound=Shielded)


def shielded(method: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
    """Run a method within the shield of its object; it returns nothing."""

    @wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
        with self.shield:
            method(self, *args, **kwargs)

    return call


def brief(error: BaseException) -> str:
    """Name the type of an error, and what it says, fit to be shown."""
    text = safe_text(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def warn_once(by: logging.Logger, message: str, *arguments: object) -> None:
    """Log a warning, unless this very text was logged in this process before."""
    text = message % arguments if arguments else message
    with _lock:
        if text in said:
            return
        said[text] = None
        while len(said) > _MOST_SAID:
            said.popitem(last=False)
    by.warning("%s", text)
