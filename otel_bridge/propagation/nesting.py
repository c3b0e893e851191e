"""`@traceable` code nests below the run that is current in OpenTelemetry's context."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING
from urllib.parse import quote

from opentelemetry import trace

from otel_bridge._core.shield import Shield
from otel_bridge.propagation.active_runs import (
    RunContext,
    active_runs,
    nearest,
    remote_parent,
    traceable_parent,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context


def current_run(context: Context | None) -> RunContext | None:
    """Return the run of the span that is current in `context`, else its remote parent."""
    span = trace.get_current_span(context).get_span_context()
    run = active_runs.get(span.span_id) if span.is_valid else None
    return run or remote_parent(context)


def nest_traceable() -> AbstractContextManager[None]:
    """Let `@traceable` code in the block nest below the current mirrored span.

    With OTEL_PYTHON_CONTEXT=langsmith every span of every tracer does so by itself.
    """
    run = _run_below(None)
    return contextlib.nullcontext() if run is None else _below(run)


def enter(context: Context) -> AbstractContextManager[None] | None:
    """Enter LangSmith's context of the run that is current in `context`.

    Returns what to exit, None where nothing was entered.
    """
    with Shield("LangSmith's context does not follow OpenTelemetry's"):
        run = _run_below(context)
        if run is None:
            return None
        nested = _below(run)
        nested.__enter__()
        return nested
    return None


def _run_below(context: Context | None) -> RunContext | None:
    run = current_run(context)
    if run is None:
        return None
    active = traceable_parent()
    if active is not None and (active.id == run.id or nearest(run, active) is active):
        return None  # LangSmith knows a nearer one
    return run


@contextlib.contextmanager
def _below(run: RunContext) -> Iterator[None]:
    from langsmith import RunTree, get_tracing_context, tracing_context  # noqa: PLC0415 - if needed

    headers: dict[str | bytes, str | bytes] = {"langsmith-trace": run.dotted_order}
    if run.project:
        headers["baggage"] = f"langsmith-project={quote(run.project)}"
    now = get_tracing_context()
    with tracing_context(
        parent=RunTree.from_headers(headers, client=now["client"]),
        metadata={**(now["metadata"] or {}), **run.thread},
        **{name: now[name] for name in ("project_name", "address", "tags", "enabled", "client")},
    ):
        yield
