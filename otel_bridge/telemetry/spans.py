"""Spans with chosen ids on whatever provider the service uses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.id_generator import IdGenerator

from otel_bridge import semconv
from otel_bridge._core.otel_sdk import unwrap_tracer
from otel_bridge._core.shield import Shield

_chosen: ContextVar[tuple[int, int] | None] = ContextVar("otel_bridge_chosen_ids", default=None)


class ChosenIdGenerator(IdGenerator):
    """Gives the ids chosen for the span being started, else the former generator's."""

    def __init__(self, fallback: IdGenerator) -> None:
        self.fallback = fallback

    def generate_span_id(self) -> int:
        chosen = _chosen.get()
        return chosen[1] if chosen else self.fallback.generate_span_id()

    def generate_trace_id(self) -> int:
        chosen = _chosen.get()
        return chosen[0] if chosen else self.fallback.generate_trace_id()

    def is_trace_id_random(self) -> bool:
        return _chosen.get() is None and self.fallback.is_trace_id_random()


def chosen_id_tracer(provider: trace.TracerProvider, version: str) -> trace.Tracer:
    """A tracer of our own scope that can make spans with chosen ids.

    The SDK keeps one tracer per scope, so the scope's id generator is ours alone: no other
    tracer of the provider is touched.
    """
    tracer = provider.get_tracer(semconv.SCOPE, version)
    real = unwrap_tracer(tracer)
    if isinstance(real, SdkTracer) and not isinstance(real.id_generator, ChosenIdGenerator):
        real.id_generator = ChosenIdGenerator(real.id_generator)
    return tracer


def start_span(
    tracer: trace.Tracer,
    name: str,
    *,
    trace_id: int,
    span_id: int,
    parent: otel_context.Context,
    kind: trace.SpanKind,
    start_ns: int,
    attributes: dict[str, Any],
    links: Sequence[trace.Link] = (),
) -> trace.Span:
    """Start a span with a chosen id; `trace_id` counts where `parent` holds no span."""
    token = _chosen.set((trace_id, span_id))
    try:
        return tracer.start_span(
            name, context=parent, kind=kind, start_time=start_ns, attributes=attributes, links=links
        )
    finally:
        _chosen.reset(token)


@contextlib.contextmanager
def span_over(
    tracer: Callable[[], trace.Tracer], name: str, attributes: Mapping[str, Any]
) -> Iterator[trace.Span]:
    """Have a span in the current context over what is done within.

    No fault of telemetry is raised. An error raised within is on the span by its type alone, since
    its message may quote a request.
    """
    span: trace.Span | None = None
    shield = Shield(f"The span {name!r} is incomplete")
    with shield:
        span = tracer().start_span(name, attributes=attributes)
    if span is None:
        yield trace.INVALID_SPAN
        return
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield span
    except BaseException as error:
        with shield:
            span.set_attribute(semconv.ERROR_TYPE, type(error).__qualname__)
            span.set_status(trace.Status(trace.StatusCode.ERROR))
        raise
    finally:
        with shield:
            span.end()
