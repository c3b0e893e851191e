"""The mirror as a span exporter, for pipelines set up by OTEL_TRACES_EXPORTER=otlp,langsmith."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_bridge.langsmith.processor import LangSmithSpanProcessor

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class LangSmithSpanExporter(SpanExporter):
    """Sends ended spans as runs; an exporter sees children before their parents.

    Spans of one export are put in order of their start, parents first; a parent that was not in
    the same export is unknown, and its children become runs of their own traces.
    """

    def __init__(self, processor: LangSmithSpanProcessor | None = None) -> None:
        self._processor = processor or LangSmithSpanProcessor()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        ids = {span.context.span_id for span in spans}
        ordered = sorted(
            spans,
            key=lambda span: (
                span.start_time or 0,
                span.parent is not None and span.parent.span_id in ids,
            ),
        )
        for span in ordered:
            self._processor.on_end(span)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self._processor.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._processor.force_flush(timeout_millis)
