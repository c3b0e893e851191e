"""A capture backend for OTLP over HTTP with protobuf: traces and metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from otel_bridge.simulator.server import LoopbackServer, Request, Response

Attributes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SpanLink:
    """A link to another span; ids are hexadecimal."""

    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class CapturedSpan:
    """A span as it arrived; ids are hexadecimal, times nanoseconds since 1970."""

    name: str
    trace_id: str
    span_id: str
    parent_span_id: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: Attributes
    events: tuple[tuple[str, int, Attributes], ...]
    status_code: int
    status_message: str
    resource: Attributes
    scope: str
    links: tuple[SpanLink, ...]


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """A data point: its value (a histogram's sum), and a histogram's count and buckets."""

    name: str
    unit: str
    attributes: Attributes
    value: float
    count: int
    bounds: tuple[float, ...]
    buckets: tuple[int, ...]


class OtlpCapture(LoopbackServer):
    """Takes OTLP traces and metrics, and keeps them. Set OTEL_EXPORTER_OTLP_ENDPOINT to `url`."""

    def __init__(self, *, latency: float = 0.0) -> None:
        super().__init__(latency=latency)
        self.spans: list[CapturedSpan] = []
        """Every span received, repeats included."""
        self.refusals: list[str] = []
        """Why something was refused."""
        self._cumulative: dict[Any, MetricPoint] = {}
        self._deltas: list[MetricPoint] = []

    def unique_spans(self) -> list[CapturedSpan]:
        """Spans by trace and span id, as a trace backend shows them: the last one counts."""
        return list({(span.trace_id, span.span_id): span for span in self.spans}.values())

    def metric_points(self, name: str) -> list[MetricPoint]:
        """The metric's current points; those of several processes stand beside each other."""
        points = [*self._cumulative.values(), *self._deltas]
        return [point for point in points if point.name == name]

    def metric_sum(self, name: str, **attributes: Any) -> float:
        """Sum over the points that carry the attributes."""
        return math.fsum(point.value for point in self._matching(name, attributes))

    def metric_count(self, name: str, **attributes: Any) -> int:
        """Number of measurements of a histogram over the points that carry the attributes."""
        return sum(point.count for point in self._matching(name, attributes))

    def _matching(self, name: str, attributes: Mapping[str, Any]) -> list[MetricPoint]:
        return [
            point
            for point in self.metric_points(name)
            if attributes.items() <= point.attributes.items()
        ]

    def answer(self, request: Request) -> Response:
        if request.headers.get("content-type") != "application/x-protobuf":
            self.refusals.append("content-type must be application/x-protobuf")
            return Response.of_json({"message": self.refusals[-1]}, 415)
        try:
            match request.path:
                case "/v1/traces":
                    spans = spans_of(request.body)
                    with self._lock:
                        self.spans += spans
                    reply: Any = ExportTraceServiceResponse()
                case "/v1/metrics":
                    self._take_metrics(ExportMetricsServiceRequest.FromString(request.body))
                    reply = ExportMetricsServiceResponse()
                case "/v1/logs":
                    reply = ExportLogsServiceResponse()
                case _:
                    return Response(404)
        except (DecodeError, ValueError) as error:
            self.refusals.append(str(error))
            return Response.of_json({"message": str(error)}, 400)
        return Response(200, reply.SerializeToString(), {"content-type": "application/x-protobuf"})

    def _take_metrics(self, message: ExportMetricsServiceRequest) -> None:
        with self._lock:
            for resource in message.resource_metrics:
                source = repr(sorted(_attributes(resource.resource.attributes).items()))
                for scoped in resource.scope_metrics:
                    for metric in scoped.metrics:
                        self._take_metric(metric, (source, scoped.scope.name))

    def _take_metric(self, metric: Any, source: tuple[str, str]) -> None:
        kind = metric.WhichOneof("data")
        data = getattr(metric, kind)
        for raw in data.data_points:
            histogram = kind in ("histogram", "exponential_histogram")
            point = MetricPoint(
                metric.name,
                metric.unit,
                _attributes(raw.attributes),
                raw.sum if histogram else getattr(raw, raw.WhichOneof("value")),
                raw.count if histogram else 1,
                tuple(raw.explicit_bounds) if kind == "histogram" else (),
                tuple(raw.bucket_counts) if kind == "histogram" else (),
            )
            temporality = getattr(data, "aggregation_temporality", None)
            if temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA:
                self._deltas.append(point)
                continue
            labels = repr(sorted(point.attributes.items()))
            self._cumulative[source, metric.name, labels, raw.start_time_unix_nano] = point


def spans_of(body: bytes) -> list[CapturedSpan]:
    """The spans of an OTLP export request. Raises DecodeError and ValueError."""
    return [
        _span(span, _attributes(resource.resource.attributes), scoped.scope.name)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scoped in resource.scope_spans
        for span in scoped.spans
    ]


def _span(span: Any, resource: Attributes, scope: str) -> CapturedSpan:
    if len(span.trace_id) != 16 or len(span.span_id) != 8:
        raise ValueError(f"span {span.name!r}: ids must have 16 and 8 bytes")
    if span.end_time_unix_nano < span.start_time_unix_nano:
        raise ValueError(f"span {span.name!r} ends before it starts")
    return CapturedSpan(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _attributes(span.attributes),
        tuple(
            (event.name, event.time_unix_nano, _attributes(event.attributes))
            for event in span.events
        ),
        span.status.code,
        span.status.message,
        resource,
        scope,
        tuple(
            SpanLink(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes))
            for link in span.links
        ),
    )


def _attributes(pairs: Iterable[Any]) -> Attributes:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind) if kind else None
