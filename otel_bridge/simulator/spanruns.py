"""How LangSmith's OTLP endpoint makes runs of spans."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from otel_bridge.simulator.ingest import Run
from otel_bridge.simulator.otlp import CapturedSpan

_RUN_TYPES = {"chat": "llm", "completion": "llm", "embedding": "embedding"}
_METADATA = "langsmith.metadata."
_CONTENT = {
    "inputs": ("input.value", "gen_ai.prompt"),
    "outputs": ("output.value", "gen_ai.completion"),
}
_MESSAGES = {"inputs": "gen_ai.input.messages", "outputs": "gen_ai.output.messages"}
_USAGE = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "total_tokens": "gen_ai.usage.total_tokens",
}


class SpanRuns:
    """Makes runs of spans, parents first; a span whose parent has not come waits.

    `langsmith.*` attributes come before what the span itself tells, as LangSmith documents
    (docs.smith.langchain.com, "Trace with OpenTelemetry").
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[CapturedSpan, str]] = []
        self._runs: dict[tuple[str, str], Run] = {}

    @property
    def waiting(self) -> list[CapturedSpan]:
        """Spans whose parents have not come."""
        return [span for span, _ in self._waiting]

    def take(
        self, spans: Iterable[CapturedSpan], project: str, known: Mapping[str, Run]
    ) -> Iterator[Run]:
        """The runs that these spans make possible; `known` are all runs so far, by id.

        `project` is where runs go whose spans name none.
        """
        waiting = [*self._waiting, *((span, project) for span in spans)]
        before = len(waiting) + 1
        while len(waiting) < before:
            before, left = len(waiting), []
            for span, place in waiting:
                try:
                    parent = self._parent(span, known)
                except LookupError:
                    left.append((span, place))
                else:
                    run = _run(span, parent, place)
                    self._runs[span.trace_id, span.span_id] = run
                    yield run
            waiting = left
        self._waiting = waiting

    def _parent(self, span: CapturedSpan, known: Mapping[str, Run]) -> Run | None:
        """The parent's run, None for a root. Raises LookupError when it has not come."""
        order = span.attributes.get("langsmith.span.dotted_order", "")
        above = order.rpartition(".")[0].rpartition(".")[2].partition("Z")[2]
        parent_id = span.attributes.get("langsmith.span.parent_id") or above
        if parent_id:
            return known[parent_id]
        if order or not span.parent_span_id:
            return None
        return self._runs[span.trace_id, span.parent_span_id]


def _run(span: CapturedSpan, parent: Run | None, project: str) -> Run:
    attributes = span.attributes
    run_id = attributes.get("langsmith.span.id") or str(_derived_id(span))
    order = attributes.get("langsmith.span.dotted_order")
    start = _moment(span.start_ns)
    if order:
        time = order.rpartition(".")[2].partition("Z")[0]
        start = datetime.strptime(f"{time}+0000", "%Y%m%dT%H%M%S%f%z")
    else:
        segment = f"{start:%Y%m%dT%H%M%S%f}Z{run_id}"
        order = f"{parent['dotted_order']}.{segment}" if parent else segment
    return {
        "id": run_id,
        "trace_id": attributes.get("langsmith.trace.id")
        or (parent["trace_id"] if parent else run_id),
        "parent_run_id": parent["id"] if parent else None,
        "dotted_order": order,
        "name": attributes.get("langsmith.trace.name") or span.name,
        "run_type": str(
            attributes.get("langsmith.span.kind")
            or _RUN_TYPES.get(attributes.get("gen_ai.operation.name", ""), "chain")
        ).lower(),
        "start_time": start.isoformat(),
        "end_time": max(_moment(span.end_ns), start).isoformat(),
        "session_name": attributes.get("langsmith.trace.session_name") or project,
        "inputs": _content(attributes, "inputs"),
        "outputs": _content(attributes, "outputs"),
        "error": _error(span),
        "tags": _tags(attributes.get("langsmith.span.tags")),
        "extra": {"metadata": _metadata(attributes)},
    }


def _derived_id(span: CapturedSpan) -> UUID:
    """A UUIDv7 (RFC 9562) of the span's start and its id."""
    span_id = int(span.span_id, 16)
    free = (span_id >> 52) << 64 | 0b10 << 62 | span_id & (1 << 52) - 1
    return UUID(int=span.start_ns // 1_000_000 << 80 | 7 << 76 | free)


def _moment(nanoseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)


def _content(attributes: Mapping[str, Any], side: str) -> dict[str, Any]:
    for name in _CONTENT[side]:
        if name in attributes:
            value = _loads(attributes[name])
            return value if isinstance(value, dict) else {side.removesuffix("s"): value}
    messages = _loads(attributes.get(_MESSAGES[side]))
    return {"messages": messages} if messages else {}


def _error(span: CapturedSpan) -> str | None:
    if span.status_code != 2:
        return None
    return span.status_message or str(span.attributes.get("error.type", "error"))


def _tags(value: Any) -> list[str] | None:
    if value is None:
        return None
    return list(value) if isinstance(value, list) else [tag.strip() for tag in value.split(",")]


def _metadata(attributes: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {
        name.removeprefix(_METADATA): value
        for name, value in attributes.items()
        if name.startswith(_METADATA)
    }
    # The service knows the former name alone.
    metadata.setdefault("ls_provider", attributes.get("gen_ai.system"))
    metadata.setdefault("ls_model_name", attributes.get("gen_ai.request.model"))
    usage = {name: attributes[flat] for name, flat in _USAGE.items() if flat in attributes}
    metadata["usage_metadata"] = _loads(attributes.get("langsmith.usage_metadata")) or usage
    return {name: value for name, value in metadata.items() if value not in (None, {})}


def _loads(value: Any) -> Any:
    try:
        return orjson.loads(value)
    except (orjson.JSONDecodeError, TypeError):
        return value
