"""The mirror as a span exporter, for pipelines set up by OTEL_TRACES_EXPORTER=otlp,langsmith.

Exporters get children before their parents; LangSmith must get parents first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_bridge._core.display import safe_text
from otel_bridge._core.lifecycle import close_with_process, renew_after_fork
from otel_bridge._core.shield import warn_once
from otel_bridge.config import Settings
from otel_bridge.langsmith.client import NOT_MIRRORED
from otel_bridge.langsmith.delivery import Delivery
from otel_bridge.langsmith.mirroring import Mirror

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

logger = logging.getLogger(__name__)

_MAX_RELEASED = 50_000

Release = Callable[[Sequence["ReadableSpan"]], None]


class LangSmithSpanExporter(SpanExporter):
    """Sends ended spans as runs, parents first, except those that a `LangSmithSpanProcessor` sent.

    An exporter gets spans when they have ended. So no run is shown before its span ends, and a span
    below a `@traceable` run or a remote parent begins a trace of its own in LangSmith. `patience`
    in seconds and `limit` in spans bound the wait for a parent. LANGSMITH_TRACING=false turns the
    exporter off; so does OTEL_BRIDGE_LANGSMITH_ROUTE=collector, for which spans must be stamped
    before they are exported.
    """

    def __init__(
        self,
        delivery: Delivery | None = None,
        settings: Settings | None = None,
        *,
        patience: float = 60.0,
        limit: int = 20_000,
    ) -> None:
        settings = settings or Settings.from_env()
        self._mirror: Mirror | None = None
        self._delivery = delivery
        self._waiting = ParentFirstQueue(self._send, patience=patience, limit=limit)
        if settings.langsmith_tracing is False:
            return
        if settings.langsmith_route == "collector":
            logger.warning(
                "OTEL_TRACES_EXPORTER=langsmith sends nothing with "
                "OTEL_BRIDGE_LANGSMITH_ROUTE=collector; use LANGSMITH_TRACING=true instead"
            )
            return
        try:
            self._delivery = delivery or Delivery(state_dir=settings.state_dir)
        except Exception as error:  # noqa: BLE001 - other exporters go on without it
            warn_once(logger, NOT_MIRRORED, safe_text(str(error), 500) or type(error).__name__)
            return
        self._mirror = Mirror(settings, self._delivery)
        close_with_process(self)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._mirror is not None:
            self._waiting.add(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.close()

    def close(self) -> None:
        """Send all spans, those that wait for a parent included, and close the delivery."""
        self._waiting.drain()
        if self._delivery is not None:
            self._delivery.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        self._waiting.drain()
        return self._delivery is None or self._delivery.flush(timeout_millis / 1000, patient=False)

    def _send(self, spans: Sequence[ReadableSpan]) -> None:
        if self._mirror is not None:
            self._mirror.close_all(spans)


class ParentFirstQueue:
    """Holds ended spans until their parents have ended, and passes them to `release` after these.

    `release` must not raise. A parent in another process is not waited for. A span waits at most
    `patience` seconds, and at most `limit` spans wait; beyond either, the spans that have waited
    longest are released without their parent.
    """

    def __init__(self, release: Release, *, patience: float = 60.0, limit: int = 20_000) -> None:
        self._release = release
        self._patience = patience
        self._limit = limit
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Leave what waits to the parent process, whose thread does not run here."""
        self._wake = threading.Condition(threading.RLock())
        self._children: OrderedDict[int, list[ReadableSpan]] = OrderedDict()
        self._waiting_since: dict[int, float] = {}
        self._parent_ids: dict[int, int] = {}
        """Of the spans that wait, by their own ids."""
        self._released: OrderedDict[int, None] = OrderedDict()
        self._thread: threading.Thread | None = None

    def add(self, spans: Iterable[ReadableSpan]) -> None:
        """Add ended spans, and release those that wait for no parent."""
        with self._wake:
            ready = []
            for span in spans:
                parent = span.parent
                if parent is None or parent.is_remote or parent.span_id in self._released:
                    ready.append(span)
                else:
                    self._wait_for_parent(span, parent.span_id)
            self._release_with_children(ready)
            while len(self._parent_ids) > self._limit:
                self._release_oldest()
            if self._children and self._thread is None:
                self._thread = threading.Thread(
                    target=self._release_expired, name="otel-bridge-ordering", daemon=True
                )
                self._thread.start()

    def drain(self) -> None:
        """Release all spans, with or without their parents."""
        with self._wake:
            while self._children:
                self._release_oldest()
            self._wake.notify_all()

    def _wait_for_parent(self, span: ReadableSpan, parent_id: int) -> None:
        if parent_id not in self._children:
            self._children[parent_id] = []
            self._waiting_since[parent_id] = time.monotonic()
        self._children[parent_id].append(span)
        self._parent_ids[span.context.span_id] = parent_id

    def _pop_children(self, parent_id: int) -> list[ReadableSpan]:
        spans = self._children.pop(parent_id, [])
        self._waiting_since.pop(parent_id, None)
        for span in spans:
            self._parent_ids.pop(span.context.span_id, None)
        return spans

    def _release_oldest(self) -> None:
        """Release what has waited longest, with its waiting ancestors, the topmost first."""
        parent_id = next(iter(self._children))
        while parent_id in self._parent_ids:
            parent_id = self._parent_ids[parent_id]
        self._release_with_children(self._pop_children(parent_id))

    def _release_with_children(self, spans: list[ReadableSpan]) -> None:
        for span in spans:  # grows by the children of each
            span_id = span.context.span_id
            self._released[span_id] = None
            spans += self._pop_children(span_id)
        while len(self._released) > _MAX_RELEASED:
            self._released.popitem(last=False)
        if spans:
            self._release(spans)

    def _release_expired(self) -> None:
        with self._wake:
            while self._children:
                # Groups stand in the order in which they began to wait.
                oldest = next(iter(self._children))
                left = self._waiting_since[oldest] + self._patience - time.monotonic()
                if left > 0:
                    self._wake.wait(left)
                else:
                    self._release_oldest()
            self._thread = None
