"""The LangSmith run in the headers between services, beside W3C trace context and baggage."""

from __future__ import annotations

from urllib.parse import quote, unquote

import orjson
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)

from otel_bridge.propagation.active_runs import (
    RunContext,
    nearest,
    thread_of,
    traceable_parent,
    with_remote_parent,
)
from otel_bridge.propagation.nesting import current_run

HEADER = "langsmith-trace"
PROJECT = "langsmith-project"
METADATA = "langsmith-metadata"


class LangSmithPropagator(TextMapPropagator):
    """Carries the LangSmith run across processes in the header `langsmith-trace`.

    That header is LangSmith's own (`RunTree.to_headers`). Project and thread have headers of
    their own: as items of `baggage`, where LangSmith writes them, they would overwrite W3C
    baggage. Items that a LangSmith client wrote there are read.
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
        items = _baggage(",".join(getter.get(carrier, "baggage") or ()))
        for name in (PROJECT, METADATA):
            if value := getter.get(carrier, name):
                items[name] = unquote(value[0])
        run.project = items.get(PROJECT)
        run.thread = _thread(items.get(METADATA, ""))
        return with_remote_parent(run, context)

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        run = nearest(current_run(context), traceable_parent())
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
