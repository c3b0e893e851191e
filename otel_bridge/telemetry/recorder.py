"""The recorder: makes one recording of each batch, for whoever runs or reads it."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterable, Iterator, Mapping

from opentelemetry import context as otel_context

from otel_bridge import semconv
from otel_bridge.domain.batch import BatchInfo
from otel_bridge.propagation.carrier import context_of
from otel_bridge.telemetry.attempt import Attempt
from otel_bridge.telemetry.backends import Backends
from otel_bridge.telemetry.recording import BatchRecording
from otel_bridge.telemetry.spans import span_over


class BatchRecorder(Backends):
    """Records batches on a tracer and a meter provider, the global ones by default."""

    @contextlib.contextmanager
    def together(self, requests: int, batches: int) -> Iterator[None]:
        """Have one span over batches that one call creates; none over a single one."""
        if batches < 2:
            yield
            return
        attributes = {
            semconv.GEN_AI_PROVIDER_NAME: "anthropic",
            semconv.BATCH_REQUEST_COUNT: requests,
            semconv.BATCH_PART_COUNT: batches,
        }
        with span_over(lambda: self.tracer, "batches", attributes):
            yield

    def start(
        self,
        batch: BatchInfo,
        parent: otel_context.Context | None = None,
        models: Iterable[str] = (),
        attempt: Attempt | None = None,
        *,
        created: bool = False,
    ) -> BatchRecording:
        """Start the span of a batch, and return its recording.

        `parent` is the context of the submission, the current one by default. `models` are the
        models of the requests, as far as they are known. `attempt` says which batches this one
        follows up. `created` is True where this process has just created the batch. A batch that
        is exported already is summed up only: it gets no spans and no runs again.
        """
        recording = BatchRecording(
            self, batch, frozenset(models), already_exported=self.is_exported(batch.id)
        )
        recording.open(
            otel_context.get_current() if parent is None else parent,
            attempt or Attempt(),
            created=created,
        )
        return recording

    def start_from_carrier(
        self,
        batch: BatchInfo,
        carrier: Mapping[str, str],
        models: Iterable[str],
        *,
        created: bool = False,
    ) -> BatchRecording:
        """Open the span of a batch that was submitted elsewhere; otherwise as `start`.

        Its parent is the submitting span, by the carrier. With an empty carrier the batch has the
        trace that follows from its id. The caller's own span is never the parent: then each
        reader of the batch would make another span of it.
        """
        parent = context_of(carrier) or otel_context.Context()
        attempt = Attempt.from_carrier(carrier)
        context = contextvars.Context()
        return context.run(self.start, batch, parent, models, attempt, created=created)
