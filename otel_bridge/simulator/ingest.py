"""What LangSmith's run ingestion refuses: ids, order, sizes and numbers of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

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
