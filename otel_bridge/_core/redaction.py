"""The user's hook that redacts content; content is withheld where the hook fails."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from otel_bridge._core.shield import warn_once

logger = logging.getLogger(__name__)

Hook = Callable[[Any], Any]
"""Gets content as JSON values (prompts, answers, tool arguments); returns what may leave of it."""


class Redaction:
    """A hook that never raises: content is withheld, and one warning given, when it fails.

    `hook` is a callable, or its import path as `package.module:callable`, which is imported when
    content is first seen, since the module may import this package.
    """

    def __init__(self, hook: Hook | str) -> None:
        self._named = hook

    def __str__(self) -> str:
        return str(self._named)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Redaction) and self._named == other._named

    def __hash__(self) -> int:
        return hash(self._named)

    def __call__(self, value: Any) -> Any:
        try:
            hook = self.resolve()
        except ValueError as error:
            _warn(f"OTEL_BRIDGE_REDACTION={self._named!r} cannot be used: {error}")
            return None
        try:
            return hook(value)
        except Exception as error:  # noqa: BLE001 - whatever the user's code raises
            # Its message may quote what it was to redact.
            _warn(f"The redaction hook raised {type(error).__name__}")
            return None

    def resolve(self) -> Hook:
        """The callable. Raises ValueError when its path cannot be imported."""
        return _imported(self._named) if isinstance(self._named, str) else self._named


@lru_cache(maxsize=64)
def _imported(path: str) -> Hook:
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError("use package.module:callable")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not callable(found):
        raise ValueError(f"{name} is not callable")  # noqa: TRY004 - as any other bad value
    hook: Hook = found
    return hook


def _warn(message: str) -> None:
    warn_once(logger, "%s; content is withheld", message)
