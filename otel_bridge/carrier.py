"""The submitting context as headers, for whoever reads the batch's results in another process."""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from opentelemetry import propagate
from opentelemetry.context import Context

from otel_bridge.langsmith import LangSmithPropagator
from otel_bridge.telemetry import Attempt

if TYPE_CHECKING:
    from otel_bridge.telemetry import BatchFacts, BatchRecorder, BatchRecording

logger = logging.getLogger(__name__)

_langsmith = LangSmithPropagator()


@contextlib.contextmanager
def never_in_the_way(what: str) -> Iterator[None]:
    """A propagator's or a progress display's fault must not lose a batch that is paid for."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is
        logger.warning("%s failed; going on without it: %s: %s", what, type(error).__name__, error)


def current() -> dict[str, str]:
    """The current trace context and LangSmith run."""
    carrier: dict[str, str] = {}
    with never_in_the_way("Noting the trace context"):
        propagate.inject(carrier)
        _langsmith.inject(carrier)
    return carrier


def context_of(carrier: Mapping[str, str]) -> Context | None:
    """What `current` told of, None where that is nothing."""
    if carrier:
        with never_in_the_way("Reading the trace context"):
            return _langsmith.extract(carrier, propagate.extract(carrier))
    return None


def begin(
    recorder: BatchRecorder,
    facts: BatchFacts,
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
