"""Ended spans, children first as exporters see them, put in order: parents first."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from otel_bridge._core.lifecycle import renew_after_fork

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_REMEMBERED = 50_000

Release = Callable[[Sequence["ReadableSpan"]], None]


class Ordering:
    """Holds spans until their parents have come, and gives them to `release` after these.

    `release` must not raise.

    A parent in another process never comes and is not waited for. A child waits `patience`
    seconds at most, and `limit` spans at most wait; beyond either, those that have waited longest
    are released without their parent.
    """

    def __init__(self, release: Release, *, patience: float = 60.0, limit: int = 20_000) -> None:
        self._release = release
        self._patience = patience
        self._limit = limit
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """What waits is the parent process's to send, and its thread is not here."""
        self._wake = threading.Condition(threading.RLock())
        self._children: OrderedDict[int, list[ReadableSpan]] = OrderedDict()
        self._since: dict[int, float] = {}
        self._held: dict[int, int] = {}
        """Parents' ids of the spans that wait."""
        self._released: OrderedDict[int, None] = OrderedDict()
        self._thread: threading.Thread | None = None

    def take(self, spans: Iterable[ReadableSpan]) -> None:
        """Take ended spans; release what waits for no parent any more."""
        with self._wake:
            ready = []
            for span in spans:
                parent = span.parent
                if parent is None or parent.is_remote or parent.span_id in self._released:
                    ready.append(span)
                else:
                    self._hold(span, parent.span_id)
            self._let_go(ready)
            while len(self._held) > self._limit:
                self._give_up()
            if self._children and self._thread is None:
                self._thread = threading.Thread(
                    target=self._expire, name="otel-bridge-ordering", daemon=True
                )
                self._thread.start()

    def drain(self) -> None:
        """Release all, whether parents have come or not."""
        with self._wake:
            while self._children:
                self._give_up()
            self._wake.notify_all()

    def _hold(self, span: ReadableSpan, parent_id: int) -> None:
        if parent_id not in self._children:
            self._children[parent_id] = []
            self._since[parent_id] = time.monotonic()
        self._children[parent_id].append(span)
        self._held[span.context.span_id] = parent_id

    def _pop(self, parent_id: int) -> list[ReadableSpan]:
        spans = self._children.pop(parent_id, [])
        self._since.pop(parent_id, None)
        for span in spans:
            self._held.pop(span.context.span_id, None)
        return spans

    def _give_up(self) -> None:
        """Release what has waited longest, from the topmost of its ancestors that are here."""
        parent_id = next(iter(self._children))
        while parent_id in self._held:
            parent_id = self._held[parent_id]
        self._let_go(self._pop(parent_id))

    def _let_go(self, spans: list[ReadableSpan]) -> None:
        for span in spans:  # it grows by what waited for those before
            span_id = span.context.span_id
            self._released[span_id] = None
            spans += self._pop(span_id)
        while len(self._released) > _REMEMBERED:
            self._released.popitem(last=False)
        if spans:
            self._release(spans)

    def _expire(self) -> None:
        with self._wake:
            while self._children:
                # Groups stand in the order in which they began to wait.
                oldest = next(iter(self._children))
                left = self._since[oldest] + self._patience - time.monotonic()
                if left > 0:
                    self._wake.wait(left)
                else:
                    self._give_up()
            self._thread = None
