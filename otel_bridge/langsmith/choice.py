"""Which spans are mirrored, told in well under a microsecond for those that are not."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING
from weakref import WeakSet

from otel_bridge import semconv
from otel_bridge.langsmith import dialects
from otel_bridge.process import renew_after_fork
from otel_bridge.providers import attribute_names

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_INFRASTRUCTURE = re.compile(
    r"opentelemetry\.instrumentation\.(aio\w+|asgi|wsgi|fastapi|starlette|flask|django|tornado"
    r"|falcon|pyramid|requests|httpx2?|urllib3?|grpc|sqlalchemy|psycopg2?|asyncpg|dbapi|mysql\w*"
    r"|pymysql|pymongo|redis|sqlite3|celery|kafka\w*|confluent_kafka|pika|boto\w*|jinja2|logging"
    r"|threading|asyncio|click|cassandra|elasticsearch|pymemcache|remoulade|tortoiseorm)(\..*)?"
)
"""Scopes whose spans are never of GenAI; their attributes need no look."""
_NAMES = 5_000


class Choice:
    """Chooses by scope, then by attribute names, which are judged once each."""

    def __init__(self, *, everything: bool, rate: float) -> None:
        self._everything = everything
        self._rate = rate
        self._scopes: dict[str, bool | None] = {}
        self._plain: set[str] = set()
        self._all_plain = self._plain.issuperset

    def mirrors(self, span: ReadableSpan) -> bool:
        """Whether a span becomes a run, as far as its attributes tell by now."""
        scope = span.instrumentation_scope
        name = scope.name if scope is not None else ""
        try:
            verdict = self._scopes[name]
        except KeyError:
            verdict = self._scopes[name] = self._of_scope(name)
        if verdict is not None:
            return verdict
        return not self._all_plain(attribute_names(span)) and self._look(span)

    def samples(self, span: ReadableSpan) -> bool:
        """Whether the span's trace is sampled, here and by LANGSMITH_TRACING_SAMPLING_RATE."""
        context = span.context
        if not context.trace_flags.sampled:
            return False
        # By trace id, so that every process keeps or drops a trace whole.
        return self._rate >= 1 or (context.trace_id & (1 << 56) - 1) < self._rate * (1 << 56)

    def _of_scope(self, name: str) -> bool | None:
        if name == semconv.LANGSMITH_SCOPE:
            return False
        if self._everything:
            return True
        return False if _INFRASTRUCTURE.fullmatch(name) else None

    def _look(self, span: ReadableSpan) -> bool:
        attributes = span.attributes or {}
        if attributes.get("logfire.span_type") == "pending_span":
            return False  # a copy of a span that is still open
        if dialects.is_genai(attributes):
            return True
        if len(self._plain) < _NAMES:
            self._plain.update(attributes)
        return False


class Once:
    """What was taken or posted in this process, whichever of several ways brought it."""

    def __init__(self) -> None:
        self._spans: WeakSet[ReadableSpan] = WeakSet()
        self._posted: set[str] = set()
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """A lock that a thread held while its process forked would be held for ever."""
        self._lock = threading.Lock()

    def took(self, span: ReadableSpan) -> bool:
        """Whether somebody took the span."""
        return span in self._spans

    def take(self, span: ReadableSpan) -> bool:
        """Whether nobody took the span before."""
        with self._lock:
            if span in self._spans:
                return False
            self._spans.add(span)
            return True

    def post(self, run_id: str) -> bool:
        """Whether nobody posted the open run before."""
        with self._lock:
            if run_id in self._posted:
                return False
            self._posted.add(run_id)
            return True

    def posted(self, run_id: str) -> bool:
        """Whether the run, which has ended, was posted while it was open."""
        with self._lock:
            known = run_id in self._posted
            self._posted.discard(run_id)
            return known
