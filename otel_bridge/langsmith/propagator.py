"""The LangSmith run in the headers between services, beside W3C trace context and baggage."""

from __future__ import annotations

from urllib.parse import quote, unquote

import orjson
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)

from otel_bridge.langsmith.context import (
    RunContext,
    ancestry,
    nearest,
    thread_of,
    traceable_parent,
)

HEADER = "langsmith-trace"
PROJECT = "langsmith-project"
METADATA = "langsmith-metadata"
_KEY = otel_context.create_key("otel-bridge-langsmith-run")


class LangSmithPropagator(TextMapPropagator):
    """Carries the LangSmith run across processes as `langsmith-trace`.

    The header is LangSmith's own (`RunTree.to_headers`). Project and thread travel in headers of
    their own, since LangSmith's way, as items of `baggage`, would overwrite W3C baggage; items
    that a LangSmith client wrote there are read.
    """

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        context = Context() if context is None else context
        header = getter.get(carrier, HEADER)
        run = RunContext.from_dotted_order(header[0].strip()) if header else None
        if run is None:
            return context
        told = _baggage(",".join(getter.get(carrier, "baggage") or ()))
        for name in (PROJECT, METADATA):
            if value := getter.get(carrier, name):
                told[name] = unquote(value[0])
        run.project = told.get(PROJECT)
        run.thread = _thread(told.get(METADATA, ""))
        return otel_context.set_value(_KEY, run, context)

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        span = trace.get_current_span(context).get_span_context()
        known = ancestry.get(span.span_id) if span.is_valid else None
        run = nearest(known or remote_parent(context), traceable_parent())
        if run is None:
            return
        setter.set(carrier, HEADER, run.dotted_order)
        if run.project:
            setter.set(carrier, PROJECT, quote(run.project))
        if run.thread:
            setter.set(carrier, METADATA, quote(orjson.dumps(run.thread)))

    @property
    def fields(self) -> set[str]:
        return {HEADER, PROJECT, METADATA}


def remote_parent(context: Context | None) -> RunContext | None:
    """The run that `LangSmithPropagator` extracted into `context`."""
    run = otel_context.get_value(_KEY, context)
    return run if isinstance(run, RunContext) else None


def _baggage(header: str) -> dict[str, str]:
    items = (item.partition("=") for item in header.split(","))
    return {
        name.strip(): unquote(value.partition(";")[0].strip())
        for name, _, value in items
        if name.strip() in (PROJECT, METADATA)
    }


def _thread(text: str) -> dict[str, str]:
    try:
        metadata = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return thread_of(metadata) if isinstance(metadata, dict) else {}
