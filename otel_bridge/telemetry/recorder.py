"""The one recorder of batches: what happened to a batch becomes spans and metrics, once."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import metrics, trace

from otel_bridge import semconv
from otel_bridge._core.otel_sdk import exports_spans, sdk_provider
from otel_bridge.config import Settings
from otel_bridge.journal import journal_in
from otel_bridge.propagation.carrier import context_of
from otel_bridge.telemetry.attempt import Attempt
from otel_bridge.telemetry.batch import BatchFacts
from otel_bridge.telemetry.losses import losses
from otel_bridge.telemetry.metrics import BatchMetrics
from otel_bridge.telemetry.recording import BatchRecording
from otel_bridge.telemetry.spans import chosen_id_tracer, span_over
from otel_bridge.version import __version__


class BatchRecorder:
    """Makes recordings of batches on a tracer and a meter provider, the global ones by default."""

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings.from_env()
        self.journal = journal_in(self.settings.state_dir)
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        self.runs_dropped: Callable[[], int] = lambda: 0
        """Number of run updates that the mirror has lost so far; whoever adds a mirror sets it."""
        losses.watch()

    @property
    def provider(self) -> Any:
        """The tracer provider: a service may set the global one after this was made."""
        return sdk_provider(self._tracer_provider or trace.get_tracer_provider())

    @property
    def tracer(self) -> trace.Tracer:
        """Makes spans with chosen ids."""
        return chosen_id_tracer(self.provider, __version__)

    @cached_property
    def metrics(self) -> BatchMetrics:
        """The instruments, made when the first batch needs them."""
        return BatchMetrics(
            sdk_provider(self._meter_provider or metrics.get_meter_provider()),
            __version__,
            legacy=not self.settings.latest_semconv_only,
        )

    @contextlib.contextmanager
    def together(self, requests: int, batches: int) -> Iterator[None]:
        """One span over batches that are created as one."""
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

    @property
    def exports(self) -> bool:
        """Whether spans go anywhere but to our own mirror."""
        return exports_spans(self.provider, but="otel_bridge")

    def is_exported(self, batch_id: str) -> bool:
        """Whether all of the batch was exported to every backend that is configured."""
        submission = self.journal.get(batch_id)
        return (
            submission is not None
            and (submission.spans_exported or not self.exports)
            and (submission.runs_exported or not self.settings.langsmith_tracing)
        )

    def start(
        self,
        batch: BatchFacts,
        parent: otel_context.Context | None = None,
        models: Iterable[str] = (),
        attempt: Attempt | None = None,
        *,
        created: bool = False,
    ) -> BatchRecording:
        """Open the batch's span, visible at once where a backend shows open spans.

        `parent` is the submitting context, the current one by default; `models` are the models
        of the batch's requests where they are known, `attempt` what a follow-up follows, and
        `created` tells that this process has just created it. A batch that was exported before is
        recorded in silence: it is summed up, and nothing is emitted.
        """
        recording = BatchRecording(
            self, batch, frozenset(models), silent=self.is_exported(batch.id)
        )
        recording.open(
            otel_context.get_current() if parent is None else parent,
            attempt or Attempt(),
            created=created,
        )
        return recording

    def start_from_carrier(
        self,
        batch: BatchFacts,
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
