"""Which spans are mirrored, told in well under a microsecond for those that are not."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING
from weakref import WeakSet

from otel_bridge import semconv
from otel_bridge.langsmith import dialects

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_INFRASTRUCTURE = re.compile(
    r"opentelemetry\.instrumentation\.(aio\w+|asgi|wsgi|fastapi|starlette|flask|django|tornado"
    r"|falcon|pyramid|requests|httpx2?|urllib3?|grpc|sqlalchemy|psycopg2?|asyncpg|dbapi|mysql\w*"
    r"|pymysql|pymongo|redis|sqlite3|celery|kafka\w*|confluent_kafka|pika|boto\w*|jinja2|logging"
    r"|threading|asyncio|click|cassandra|elasticsearch|pymemcache|remoulade|tortoiseorm)(\..*)?"
)
"""Scopes whose spans are never of GenAI; their attributes need no look."""
_LOOKS = re.compile(r"anthropic\.messages\.batches\.(retrieve|list|results)")
"""The anthropic SDK's own spans of calls that look at a batch: there may be one a poll."""
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
        return not self._all_plain(span.attributes or ()) and self._look(span)

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
        if _LOOKS.fullmatch(span.name):
            return False
        if dialects.is_genai(attributes):
            return True
        if len(self._plain) < _NAMES:
            self._plain.update(attributes)
        return False


class Once:
    """Spans that were taken, whichever of several ways brought them."""

    def __init__(self) -> None:
        self._spans: WeakSet[ReadableSpan] = WeakSet()
        self._lock = threading.Lock()

    def take(self, span: ReadableSpan) -> bool:
        """Whether nobody took the span before."""
        with self._lock:
            if span in self._spans:
                return False
            self._spans.add(span)
            return True
