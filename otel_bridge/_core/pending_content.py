"""Content that only LangSmith may see, on its way from the recorder to the mirror.

It is no attribute of a span, for other processors of the provider see those. It is kept here for
`telemetry` and `langsmith` may not import each other, and `domain` holds no state.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from otel_bridge._core.lifecycle import renew_after_fork


@dataclass(frozen=True, slots=True)
class Content:
    """Inputs and outputs of one run, what was said of its failure, and its stop sequences."""

    inputs: dict[str, Any] | None
    outputs: dict[str, Any] | None
    error: str | None = None
    stops: list[str] | None = None


class ContentStore:
    """Content by span id; beyond `size` entries the oldest goes first."""

    def __init__(self, size: int = 20_000) -> None:
        self._contents: OrderedDict[int, Content] = OrderedDict()
        self._size = size
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """A lock that a thread held while its process forked would be held for ever."""
        self._lock = threading.Lock()

    def put(self, span_id: int, content: Content) -> None:
        """Keep content until the mirror asks for it."""
        with self._lock:
            self._contents[span_id] = content
            if len(self._contents) > self._size:
                self._contents.popitem(last=False)

    def pop(self, span_id: int) -> Content | None:
        """Remove and return a span's content, None where there is none."""
        with self._lock:
            return self._contents.pop(span_id, None)


pending_content = ContentStore()
