"""A capture backend for LangSmith's run ingestion."""

from __future__ import annotations

import math
import time
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_bridge.simulator.ingest import (
    MAX_BODY_BYTES,
    RefusedError,
    Run,
    Runs,
    SpanRuns,
    operations,
    usage_of,
)
from otel_bridge.simulator.otlp import CapturedSpan, spans_of
from otel_bridge.simulator.server import LoopbackServer, Request, Response

_TENANT = str(uuid5(NAMESPACE_URL, "otel-bridge simulator tenant"))
_DETAILS = {
    "cache_read": ("input_token_details", "cache_read"),
    "ephemeral_5m_input_tokens": ("input_token_details", "ephemeral_5m_input_tokens"),
    "ephemeral_1h_input_tokens": ("input_token_details", "ephemeral_1h_input_tokens"),
    "cache_creation": ("input_token_details", "cache_creation"),
    "reasoning": ("output_token_details", "reasoning"),
}


class LangSmithCapture(LoopbackServer):
    """Takes runs and keeps them, refusing what LangSmith refuses. Set LANGSMITH_ENDPOINT to `url`.

    `zstd` is what `/info` says of compressed bodies; `api_key` is the only key that is taken,
    any by default. Bodies of more than `max_body_bytes`, decompressed, are refused with 413.
    """

    def __init__(
        self,
        *,
        zstd: bool = True,
        api_key: str | None = None,
        latency: float = 0.0,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        super().__init__(latency=latency)
        self.zstd = zstd
        self.api_key = api_key
        self.max_body_bytes = max_body_bytes
        self._runs = Runs()
        self._spans = SpanRuns()
        self.refusals: list[str] = []
        """Why runs were refused."""
        self.conflicts: list[str] = []
        """Ids of runs that were posted again."""
        self.history: list[tuple[float, str, Run]] = []
        """Each post and patch that was taken: when (seconds since 1970), which verb, what."""

    @property
    def runs(self) -> dict[str, Run]:
        """Runs by id, each as its post and patches add up."""
        with self._lock:
            return dict(self._runs.merged)

    @property
    def waiting_spans(self) -> list[CapturedSpan]:
        """Spans that came over OTLP and make no run, since their parents have not come."""
        with self._lock:
            return self._spans.waiting

    def orphans(self) -> list[str]:
        """Runs that were never posted, and runs whose parent was not."""
        posted = self._runs.posted
        return [
            run_id
            for run_id, run in self.runs.items()
            if run_id not in posted or run.get("parent_run_id", run_id) not in posted
        ]

    def usage_totals(self, run_type: str = "llm") -> dict[str, float]:
        """Sums of `usage_metadata` over runs of a type, tokens by type and costs in USD."""
        usages = [usage_of(run) for run in self.runs.values() if run.get("run_type") == run_type]
        plain = ("input_tokens", "output_tokens", "input_cost", "output_cost", "total_cost")
        totals: dict[str, float] = {
            name: math.fsum(usage.get(name) or 0 for usage in usages) for name in plain
        }
        for name, (group, key) in _DETAILS.items():
            totals[name] = math.fsum((usage.get(group) or {}).get(key) or 0 for usage in usages)
        return totals

    def answer(self, request: Request) -> Response:
        path = request.path.removeprefix("/api/v1")
        if path == "/info":
            return Response.of_json(self._info())
        try:
            self._admit(request)
            match request.method, path:
                case "POST", "/runs/multipart":
                    self._take_multipart(request)
                case "POST", "/runs/batch":
                    body = request.json()
                    verbs = ("post", "patch")
                    self._take([(verb, run) for verb in verbs for run in body.get(verb) or ()])
                case "POST", "/runs":
                    self._take([("post", request.json())])
                case "PATCH", _ if path.startswith("/runs/"):
                    self._take([("patch", {"id": path.rpartition("/")[2], **request.json()})])
                case "POST", "/otel/v1/traces":
                    return self._take_spans(request)
                case "GET", "/sessions":
                    return Response.of_json([_session(request.query.get("name", "default"))])
                case _:
                    return Response.of_json({"detail": "Not Found"}, 404)
        except RefusedError as error:
            if error.status != 409:
                self.refusals.append(str(error))
            return Response.of_json({"detail": str(error)}, error.status)
        except (DecodeError, ValueError, LookupError, TypeError, AttributeError) as error:
            self.refusals.append(f"malformed: {error}")
            return Response.of_json({"detail": f"malformed: {error}"}, 422)
        return Response.of_json({"message": "Runs batch ingested"}, 202)

    def _info(self) -> dict[str, Any]:
        return {
            "version": "0.15.0",
            "instance_flags": {"zstd_compression_enabled": self.zstd},
            "batch_ingest_config": {
                "use_multipart_endpoint": True,
                "size_limit": 100,
                "size_limit_bytes": self.max_body_bytes,
                "scale_up_qsize_trigger": 1000,
                "scale_up_nthreads_limit": 16,
                "scale_down_nempty_trigger": 4,
            },
        }

    def _admit(self, request: Request) -> None:
        key = request.headers.get("x-api-key")
        if not key or (self.api_key is not None and key != self.api_key):
            raise RefusedError(401, "Invalid token")
        if len(request.body) > self.max_body_bytes:
            raise RefusedError(413, f"the body has more than {self.max_body_bytes} bytes")

    def _take_multipart(self, request: Request) -> None:
        if request.headers.get("content-encoding") == "zstd" and not self.zstd:
            raise RefusedError(422, "zstd is not enabled here")
        boundary = request.headers.get("content-type", "").partition("boundary=")[2].strip('"')
        self._take(operations(request.body, boundary))

    def _take(self, taken: list[tuple[str, Run]]) -> None:
        repeats = []
        with self._lock:
            for verb, run in taken:
                try:
                    (self._runs.post if verb == "post" else self._runs.patch)(run)
                except RefusedError as error:
                    if error.status != 409:
                        raise
                    repeats.append(run["id"])
                else:
                    self.history.append((time.time(), verb, run))
            self.conflicts += repeats
        if repeats:
            raise RefusedError(409, f"posted before: {', '.join(repeats[:3])}")

    def _take_spans(self, request: Request) -> Response:
        """Any OTLP request is answered with 200, whatever becomes of its spans."""
        if request.headers.get("content-type") != "application/x-protobuf":
            raise RefusedError(415, "content-type must be application/x-protobuf")
        spans = spans_of(request.body)
        project = request.headers.get("langsmith-project") or "default"
        with self._lock:
            for run in self._spans.take(spans, project, self._runs.merged):
                try:
                    self._take([("post", run)])
                except RefusedError as error:
                    if error.status != 409:
                        self.refusals.append(str(error))
        reply = ExportTraceServiceResponse().SerializeToString()
        return Response(200, reply, {"content-type": "application/x-protobuf"})


def _session(name: str) -> dict[str, Any]:
    return {
        "id": str(uuid5(NAMESPACE_URL, name)),
        "tenant_id": _TENANT,
        "name": name,
        "start_time": "2026-01-01T00:00:00+00:00",
        "reference_dataset_id": None,
    }
