"""A run as attributes of its span, from which LangSmith's OTLP endpoint builds the same run.

Source: docs.langchain.com/langsmith/trace-with-opentelemetry, supported attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from otel_bridge import semconv

_FIELDS = {
    semconv.LANGSMITH_SPAN_ID: "id",
    semconv.LANGSMITH_TRACE_ID: "trace_id",
    semconv.LANGSMITH_SPAN_PARENT_ID: "parent_run_id",
    semconv.LANGSMITH_SPAN_DOTTED_ORDER: "dotted_order",
    semconv.LANGSMITH_TRACE_SESSION_NAME: "session_name",
    semconv.LANGSMITH_TRACE_NAME: "name",
    semconv.LANGSMITH_SPAN_KIND: "run_type",
}


def stamps(run: Mapping[str, Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What to add to a span that has `attributes`.

    Metadata that copies an attribute of the span is left to the span.
    """
    metadata = dict(run["extra"]["metadata"])
    usage = metadata.pop("usage_metadata", None)
    told = {name: run[field] for name, field in _FIELDS.items() if run.get(field) is not None}
    told |= {
        semconv.LANGSMITH_METADATA_PREFIX + name: value
        for name, value in metadata.items()
        if value is not None and name not in attributes
    }
    if usage is not None:
        told[semconv.LANGSMITH_USAGE_METADATA] = orjson.dumps(usage).decode()
    return told
