"""The submitting context as headers, for whoever reads the batch's results in another process."""

from __future__ import annotations

import contextvars
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from opentelemetry import propagate
from opentelemetry.context import Context

from otel_bridge._core.shield import Shield
from otel_bridge.langsmith import LangSmithPropagator
from otel_bridge.telemetry import Attempt

if TYPE_CHECKING:
    from otel_bridge.domain.batch import BatchInfo
    from otel_bridge.telemetry import BatchRecorder, BatchRecording

_langsmith = LangSmithPropagator()
_WITHOUT = "A batch is recorded without the trace context of its submission"


def current() -> dict[str, str]:
    """The current trace context and LangSmith run."""
    carrier: dict[str, str] = {}
    with Shield(_WITHOUT):
        propagate.inject(carrier)
        _langsmith.inject(carrier)
    return carrier


def context_of(carrier: Mapping[str, str]) -> Context | None:
    """What `current` told of, None where that is nothing."""
    if carrier:
        with Shield(_WITHOUT):
            return _langsmith.extract(carrier, propagate.extract(carrier))
    return None


def begin(
    recorder: BatchRecorder,
    facts: BatchInfo,
    carrier: Mapping[str, str],
    models: Iterable[str],
    *,
    created: bool = False,
) -> BatchRecording:
    """Begin the recording of a batch that was submitted elsewhere, with what its carrier told.

    It belongs below its submitter or, where nobody knows that, in the trace that follows from its
    id; never below what merely reads it, or each reader would make another one.
    """
    parent = context_of(carrier) or Context()
    attempt = Attempt.from_carrier(carrier)
    context = contextvars.Context()
    return context.run(recorder.start, facts, parent, models, attempt, created=created)
