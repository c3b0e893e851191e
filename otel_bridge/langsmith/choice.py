"""Which spans are mirrored, told in well under a microsecond for those that are not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from otel_bridge import semconv
from otel_bridge.langsmith import dialects

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

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
_TAKEN = "_otel_bridge_taken_by"


class Choice:
    """Chooses by scope, then by attribute names, which are judged once each."""

    def __init__(self, *, everything: bool, rate: float) -> None:
        self._everything = everything
        self._rate = rate
        self._verdicts: dict[int, bool | None] = {}
        self._scopes: list[Any] = []
        self._plain: set[str] = set()
        self._all_plain = self._plain.issuperset

    def mirrors(self, span: ReadableSpan) -> bool:
        """Whether a span becomes a run, as far as its attributes tell by now."""
        # This runs twice for each span of the service; the SDK's properties would triple its cost.
        try:
            verdict = self._verdicts[id(span._instrumentation_scope)]  # noqa: SLF001
        except (AttributeError, KeyError):
            verdict = self._judge(span.instrumentation_scope)
        if verdict is not None:
            return verdict
        try:
            attributes = span._attributes._dict  # type: ignore[union-attr]  # noqa: SLF001
        except AttributeError:
            attributes = span.attributes or {}
        if self._all_plain(attributes) or not self._look(attributes):
            return False
        return _LOOKS.fullmatch(span.name) is None

    def samples(self, span: ReadableSpan) -> bool:
        """Whether the span's trace is sampled, here and by LANGSMITH_TRACING_SAMPLING_RATE."""
        context = span.context
        if not context.trace_flags.sampled:
            return False
        # By trace id, so that every process keeps or drops a trace whole.
        return self._rate >= 1 or (context.trace_id & (1 << 56) - 1) < self._rate * (1 << 56)

    def _judge(self, scope: InstrumentationScope | None) -> bool | None:
        """What a scope tells of its spans, None where each of them has to."""
        verdict = self._verdicts[id(scope)] = self._of_scope(scope.name if scope else "")
        self._scopes.append(scope)  # while it lives, nothing else has its id
        return verdict

    def _of_scope(self, name: str) -> bool | None:
        if name == semconv.LANGSMITH_SCOPE:
            return False
        if self._everything or name == semconv.SCOPE:
            return True
        return False if _INFRASTRUCTURE.fullmatch(name) else None

    def _look(self, attributes: Mapping[str, Any]) -> bool:
        if attributes.get("logfire.span_type") == "pending_span":
            return False  # a copy of a span that is still open
        if dialects.is_genai(attributes):
            return True
        if len(self._plain) < _NAMES:
            self._plain.update(attributes)
        return False


def first_to_take(span: ReadableSpan) -> bool:
    """Whether nobody took the span before, whichever of several ways brought it."""
    me = object()
    return vars(span).setdefault(_TAKEN, me) is me


def taken(span: ReadableSpan) -> bool:
    """Whether somebody took the span."""
    return _TAKEN in vars(span)
