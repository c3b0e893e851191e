"""What LangSmith's ingestion makes of runs and of spans, and what of them it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from otel_bridge.simulator.otlp import CapturedSpan

RUNS_PER_TRACE = 25_000
MAX_BODY_BYTES = 20_971_520
RUN_TYPES = {"llm", "chain", "tool", "retriever", "embedding", "prompt", "parser"}
_SEGMENT_TIME = "%Y%m%dT%H%M%S%fZ"
_MICROSECOND = timedelta(microseconds=1)

Run = dict[str, Any]


class RefusedError(Exception):
    """The service would refuse the request with this status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Runs:
    """The runs that were taken, each merged from its post and its patches."""

    def __init__(self) -> None:
        self.merged: dict[str, Run] = {}
        self.posted: set[str] = set()
        self._per_trace: Counter[str] = Counter()

    def post(self, run: Run) -> None:
        """Take a new run. Raises RefusedError, 409 for a repeat."""
        run_id = run.get("id", "")
        if run_id in self.posted:
            raise RefusedError(409, f"run {run_id} was posted before")
        for name in ("id", "trace_id", "dotted_order", "name", "run_type", "start_time"):
            if not run.get(name):
                raise RefusedError(422, f"run {run_id}: {name} is missing")
        if run["run_type"] not in RUN_TYPES:
            raise RefusedError(422, f"run {run_id}: run_type {run['run_type']!r} is unknown")
        if not (run.get("session_name") or run.get("session_id")):
            raise RefusedError(422, f"run {run_id}: session_name is missing")
        self._check_ids(run)
        self._check_order(run)
        self._check_end(run)
        if self._per_trace[run["trace_id"]] >= RUNS_PER_TRACE:
            raise RefusedError(400, f"trace {run['trace_id']} has {RUNS_PER_TRACE} runs already")
        self._per_trace[run["trace_id"]] += 1
        self.posted.add(run_id)
        self._merge(run)

    def patch(self, run: Run) -> None:
        """Take news of a run, which may come before its post. Raises RefusedError."""
        for name in ("id", "trace_id", "dotted_order"):
            if not run.get(name):
                raise RefusedError(422, f"patch of run {run.get('id')}: {name} is missing")
        self._check_ids(run)
        self._check_end(run)
        self._merge(run)

    def _merge(self, run: Run) -> None:
        known = self.merged.setdefault(run["id"], {})
        known |= {name: value for name, value in run.items() if value is not None}

    def _check_end(self, run: Run) -> None:
        known = self.merged.get(run["id"], {})
        end = run.get("end_time") or known.get("end_time")
        start = run.get("start_time") or known.get("start_time")
        if end and start and _moment(end) < _moment(start):
            raise RefusedError(422, f"run {run['id']} ends before it starts")

    def _check_ids(self, run: Run) -> None:
        run_id = run["id"]
        if UUID(run_id).version != 7:
            raise RefusedError(422, f"run {run_id}: id is no UUIDv7")
        ids = [segment.split("Z", 1)[1] for segment in run["dotted_order"].split(".")]
        if ids[-1] != run_id:
            raise RefusedError(400, f"run {run_id}: dotted_order ends with another run")
        if len(ids) == 1 and run["trace_id"] != run_id:
            raise RefusedError(400, f"run {run_id}: a root's trace_id is its id")
        if ids[0] != run["trace_id"]:
            raise RefusedError(400, f"run {run_id}: dotted_order begins outside its trace")
        parent = ids[-2] if len(ids) > 1 else None
        if run.get("parent_run_id") != parent:
            raise RefusedError(400, f"run {run_id}: parent_run_id is not dotted_order's {parent}")

    def _check_order(self, run: Run) -> None:
        starts = [
            datetime.strptime(segment.split("Z", 1)[0] + "Z+0000", f"{_SEGMENT_TIME}%z")
            for segment in run["dotted_order"].split(".")
        ]
        if starts != sorted(starts):
            raise RefusedError(400, f"run {run['id']} starts before its parent")
        if abs(starts[-1] - _moment(run["start_time"])) > _MICROSECOND:
            raise RefusedError(400, f"run {run['id']}: dotted_order and start_time differ")
        parent = self.merged.get(run.get("parent_run_id") or "")
        if parent and run["dotted_order"].rpartition(".")[0] != parent["dotted_order"]:
            raise RefusedError(400, f"run {run['id']}: dotted_order does not extend its parent's")


def _moment(value: str | int) -> datetime:
    moment = datetime.fromisoformat(str(value))
    return moment if moment.tzinfo else datetime.fromisoformat(f"{value}+00:00")


def operations(body: bytes, boundary: str) -> list[tuple[str, Run]]:
    """The posts and patches of a multipart body, put together from their parts."""
    runs: dict[str, Run] = {}
    _, *parts, end = body.split(f"--{boundary}".encode())
    if not parts or end.strip() != b"--":
        raise RefusedError(422, "the multipart body is not whole")
    for part in parts:
        head, _, data = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = head.decode().lower()
        data = data.removesuffix(b"\r\n")
        name = headers.split('name="', 1)[1].split('"', 1)[0]
        verb, run_id, *fields = name.split(".")
        if verb not in ("post", "patch"):
            continue
        if "content-type: application/json" not in headers or "length" not in headers:
            raise RefusedError(422, "a part needs a JSON content type and a length")
        key = f"{verb}.{run_id}"
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise RefusedError(422, f"part {name} is not JSON") from None
        if fields:
            if key not in runs:
                raise RefusedError(422, f"part {name} comes before its run")
            runs[key][fields[0]] = value
        else:
            runs[key] = value
    return [(key.split(".")[0], run) for key, run in runs.items()]


def usage_of(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """The usage that LangSmith reads: the outputs' before the metadata's."""
    outputs = run.get("outputs") or {}
    metadata = (run.get("extra") or {}).get("metadata") or {}
    usage = outputs.get("usage_metadata") or metadata.get("usage_metadata") or {}
    return usage if isinstance(usage, Mapping) else {}


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
    start = _iso(span.start_ns)
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
        "end_time": max(_iso(span.end_ns), start).isoformat(),
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


def _iso(nanoseconds: int) -> datetime:
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
