"""Which spans are mirrored, decided in well under a microsecond for those that are not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from otel_bridge import semconv
from otel_bridge._core.otel_sdk import span_predicate
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
"""Scopes whose spans are never GenAI spans; their attributes are not inspected."""
_POLLING = re.compile(r"anthropic\.messages\.batches\.(retrieve|list|results)")
"""Names of the anthropic SDK's own spans of calls that read a batch: one for each poll."""
_MAX_NAMES = 5_000
_CLAIM = "_otel_bridge_claim"


class SpanFilter:
    """Selects spans by scope, then by attribute names; each scope and name is judged once."""

    def __init__(self, *, everything: bool, rate: float) -> None:
        self._everything = everything
        self._rate = rate
        self._verdicts: dict[int, bool | None] = {}
        self._scopes: list[Any] = []
        self._other_names: set[str] = set()
        self.matches: Callable[[ReadableSpan], bool] = span_predicate(
            self._verdicts, self._judge_scope, self._other_names.issuperset, self._judge_span
        )
        """Whether a span becomes a run, judged by the attributes that it has now."""

    def samples(self, span: ReadableSpan) -> bool:
        """Whether the span's trace is sampled, here and by LANGSMITH_TRACING_SAMPLING_RATE."""
        context = span.context
        if not context.trace_flags.sampled:
            return False
        # By trace id, so that every process keeps or drops the same traces.
        return self._rate >= 1 or (context.trace_id & (1 << 56) - 1) < self._rate * (1 << 56)

    def _judge_scope(self, scope: InstrumentationScope | None) -> bool | None:
        """Whether all spans of a scope are mirrored, None where their attributes decide."""
        verdict = self._verdicts[id(scope)] = self._judge_name(scope.name if scope else "")
        self._scopes.append(scope)  # while it lives, nothing else has its id
        return verdict

    def _judge_name(self, name: str) -> bool | None:
        if name == semconv.LANGSMITH_SCOPE:
            return False
        if self._everything or name == semconv.SCOPE:
            return True
        return False if _INFRASTRUCTURE.fullmatch(name) else None

    def _judge_span(self, span: ReadableSpan, attributes: Mapping[str, Any]) -> bool:
        if attributes.get("logfire.span_type") == "pending_span":
            return False  # a copy of a span that is still open
        if dialects.is_genai(attributes):
            return _POLLING.fullmatch(span.name) is None
        if len(self._other_names) < _MAX_NAMES:
            self._other_names.update(attributes)
        return False


def claim_span(span: ReadableSpan) -> bool:
    """Claim an ended span for one mirror; False when another processor or exporter has it."""
    claim = object()
    return vars(span).setdefault(_CLAIM, claim) is claim


def is_claimed(span: ReadableSpan) -> bool:
    """Whether a mirror has claimed the span."""
    return _CLAIM in vars(span)
