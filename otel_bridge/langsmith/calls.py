"""Which of several spans over one call of a model counts it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import StatusCode

from otel_bridge import semconv
from otel_bridge._core.lifecycle import renew_after_fork

if TYPE_CHECKING:
    from otel_bridge.langsmith.runs import View

_REMEMBERED = 10_000


class Calls:
    """The first span over a call to end counts it; the others become chains without usage.

    That is the one nearest to the wire, which knows most: the Anthropic SDK's own span tells the
    service tier and how long caches live, and libraries that wrap it end their spans later. Spans
    are of one call when one is an ancestor of the other, or when they tell of the same answer
    (`gen_ai.response.id`), since some libraries do not make their span the parent.
    """

    def __init__(self) -> None:
        self._answers: OrderedDict[Any, int] = OrderedDict()
        self._covered: OrderedDict[int, None] = OrderedDict()
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """A lock that a thread held while its process forked would be held for ever."""
        self._lock = threading.Lock()

    def claim(self, view: View, ancestors: Iterable[int]) -> None:
        """Count an ended model call, unless another span did; `ancestors` are span ids."""
        attributes, span = view.attributes, view.span
        counted = semconv.GEN_AI_USAGE_INPUT_TOKENS in attributes
        if not counted and span.status.status_code is not StatusCode.ERROR:
            return
        answer = attributes.get(semconv.GEN_AI_RESPONSE_ID)
        with self._lock:
            if counted and answer is not None:
                self._answers.setdefault(answer, span.context.span_id)
                _bound(self._answers)
            for span_id in ancestors:
                self._covered[span_id] = None
            _bound(self._covered)

    def counts(self, view: View) -> bool:
        """Whether the span counts its call."""
        span_id = view.span.context.span_id
        answer = view.attributes.get(semconv.GEN_AI_RESPONSE_ID)
        with self._lock:
            return span_id not in self._covered and self._answers.get(answer, span_id) == span_id


def _bound(remembered: OrderedDict[Any, Any]) -> None:
    while len(remembered) > _REMEMBERED:
        remembered.popitem(last=False)
