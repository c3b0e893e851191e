"""Keeps faults of telemetry out of the caller's way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

logger = logging.getLogger(__name__)

P = ParamSpec("P")
S = TypeVar("S", bound="Guarded")


class Guarded:
    """Says its first fault, and goes on: one span that fails must not take the sums with it."""

    faulty = False


def guarded(
    method: Callable[Concatenate[S, P], None],
) -> Callable[Concatenate[S, P], None]:
    """Keep a fault of telemetry out of the caller's way: one warning, then silence."""

    @wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            if not self.faulty:
                self.faulty = True
                logger.warning(
                    "Telemetry of this batch is incomplete: %s: %s", type(error).__name__, error
                )
            logger.debug("Telemetry fault", exc_info=True)

    return call
