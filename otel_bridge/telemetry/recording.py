"""One batch from its submission to the last of its results, as spans and metrics."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from otel_bridge import identity, semconv
from otel_bridge._core.shield import Shield, shielded
from otel_bridge.domain.batch import DUPLICATE, MISSING, OUTCOMES, SUCCEEDED, BatchInfo
from otel_bridge.domain.pricing import Cost
from otel_bridge.domain.reader import Params, ReadResult, ResultTracker
from otel_bridge.domain.usage import TokenUsage
from otel_bridge.telemetry.attempt import Attempt
from otel_bridge.telemetry.backends import Backends
from otel_bridge.telemetry.backpressure import Pacer, export_errors
from otel_bridge.telemetry.request_spans import RequestSpans
from otel_bridge.telemetry.spans import start_span
from otel_bridge.telemetry.totals import Measured, Outcomes, Sum, batch_totals, journal_totals

logger = logging.getLogger(__name__)


class BatchRecording:
    """Spans, metrics and totals of one batch.

    With `already_exported`, and where another process records the batch, results are summed up
    and nothing is emitted.
    """

    def __init__(
        self,
        backends: Backends,
        batch: BatchInfo,
        models: frozenset[str],
        *,
        already_exported: bool,
    ) -> None:
        self.shield = Shield(f"Telemetry of batch {batch.id} is incomplete")
        """Over all that is recorded: one span that fails must not make the totals wrong."""
        self.missing = 0
        """Number of requests without a result when the batch was recorded to its end."""
        self._backends = backends
        self._emits = not already_exported
        self._settings = backends.settings
        self._batch = batch
        self._models = models
        self._attempt = Attempt()
        self._span: trace.Span = trace.INVALID_SPAN
        self._spans: RequestSpans | None = None
        self._parent = otel_context.Context()
        self._pacer = Pacer(backends.provider)
        self._tracker: ResultTracker | None = None
        self._outcomes: Outcomes = Counter()
        self._measured: defaultdict[str, Measured] = defaultdict(Measured)
        self._has_lease = False
        self._export_errors = export_errors.spans
        self._runs_lost = backends.runs_lost()
        self._waited_for = False
        self._ended = False

    @property
    def batch(self) -> BatchInfo:
        """The batch as the API described it last."""
        return self._batch

    @property
    def trace_id(self) -> str | None:
        """Hexadecimal trace id, None where nothing is recorded."""
        context = self._span.get_span_context()
        return f"{context.trace_id:032x}" if context.is_valid else None

    @property
    def attempt(self) -> int:
        """Number of the attempt at its requests that the batch is, from 1."""
        return self._attempt.number

    @property
    def span_context(self) -> trace.SpanContext:
        """The batch's span, for links; invalid where nothing is recorded."""
        return self._span.get_span_context()

    @property
    def usage(self) -> TokenUsage:
        """Tokens of all results so far."""
        return self._total().usage

    @property
    def cost(self) -> Cost | None:
        """Cost of all results so far in USD, None where a model has no known price."""
        return self._total().cost

    @property
    def outcomes(self) -> dict[str, int]:
        """Number of results so far by outcome."""
        counts = dict.fromkeys(OUTCOMES, 0)
        for (kind, _), count in self._outcomes.items():
            counts[kind] = counts.get(kind, 0) + count
        return counts

    @property
    def missing_results_message(self) -> str | None:
        """How many results are missing and what to do about it, None where none are."""
        if not self.missing:
            return None
        batch = self._batch
        return (
            f"{self.missing:,} of batch {batch.id}'s {batch.request_count:,} results are missing; "
            f"`otel-bridge collect {batch.id}` reads them again"
        )

    def track(self, params: Mapping[str, Params], *, complete: bool = True) -> ResultTracker:
        """Return the tracker of the batch's results, the same one for each pass through them.

        `params` are the requests' parameters by custom id, of all requests unless `complete` is
        False. Those of the first call count.
        """
        if self._tracker is None:
            self._tracker = ResultTracker(self._batch, params, self._models, complete=complete)
        return self._tracker

    @shielded
    def open(self, parent: otel_context.Context, attempt: Attempt, *, created: bool) -> None:
        """Start the batch's span below `parent`; `created` is True for a batch of this process."""
        self._attempt = attempt
        batch = self._batch
        if created:
            self._backends.metrics.submitted()
        if not self._emits:
            self._span = _exported_span(batch, parent)
            return
        tracer = self._backends.tracer
        model = next(iter(self._models)) if len(self._models) == 1 else None
        cap = self._settings.max_request_spans
        span_count = batch.request_count if cap is None else min(cap, batch.request_count)
        self._span = start_span(
            tracer,
            f"batch {model}" if model else "batch",
            trace_id=identity.batch_trace_id(batch.id),
            span_id=identity.batch_span_id(batch.id),
            parent=parent,
            kind=SpanKind.INTERNAL,
            start_ns=batch.start_ns,
            attributes=_batch_attributes(batch, model, span_count) | attempt.attributes,
            links=attempt.links,
        )
        self._parent = trace.set_span_in_context(self._span, parent)
        self._spans = RequestSpans(
            tracer, batch, self._parent, self._settings, self._pacer, self.shield
        )
        if not created:  # who creates a batch may leave the wait to others
            self._start_waiting(batch)

    @shielded
    def update(self, batch: BatchInfo) -> None:
        """Note what the API says of the batch now; a change of state is an event on its span."""
        if self._ended:
            return
        self._start_waiting(batch)
        if batch.status != self._batch.status:
            self._span.add_event(
                semconv.BATCH_STATE_EVENT,
                {
                    semconv.BATCH_PROCESSING_STATUS: batch.status,
                    f"{semconv.BATCH_PROCESSING_STATUS}.previous": self._batch.status,
                },
                batch.end_ns if batch.status == "ended" else None,
            )
            self._span.set_attribute(semconv.BATCH_PROCESSING_STATUS, batch.status)
        self._batch = batch
        if self._spans is not None:
            self._spans.update(batch)

    @shielded
    def add_result(self, result: ReadResult) -> None:
        """Record one result. That of a request which was never submitted has its own outcome."""
        if self._ended:
            return
        self._acquire_lease()
        if not result.requested:
            result = replace(result, outcome=result.outcome.unrequested())
        outcome = result.outcome
        if outcome.message is not None:
            self._measured[outcome.model].add(outcome.usage, outcome.cost)
        self._outcomes[outcome.kind, outcome.error_type] += 1
        if self._spans is not None:
            self._spans.add(result)

    @shielded
    def end(self, batch: BatchInfo, *, duplicates: int = 0, missing: int = 0) -> None:
        """End the batch's span: all results that there are were recorded.

        `duplicates` is the number of results that repeat a custom id, `missing` the number of
        requests without a result. While results are missing, the batch does not count as exported
        and has no metrics. A later reading that has them emits the same spans again, the missing
        ones, and the metrics. Of a batch beyond the cap no request has a span until then, since
        the choice among the requests depends on all of them.
        """
        if self._ended:
            return
        self._acquire_lease()
        self.missing = missing
        if duplicates:
            self._outcomes[DUPLICATE, "repeated_custom_id"] += duplicates
            logger.warning("%s of batch %s's results are repeats", duplicates, batch.id)
        if missing:
            self._outcomes[MISSING, "missing_result"] += missing
            logger.warning("%s", self.missing_results_message)
        self.update(batch)
        self._ended = True
        if self._spans is not None:
            if not missing:
                self._spans.finish()
            self._end_span(batch)
        self._record_metrics(batch)
        self._save_totals(batch)
        self._stop_waiting()
        self._mark_exported()

    def mark_runs_exported(self) -> None:
        """Note in the journal that the mirror has delivered the batch, unless some of it was lost.

        To be called once the mirror was flushed.
        """
        backends = self._backends
        if not self._emits or self.shield.faults or self.missing:
            return
        if backends.runs_lost() > self._runs_lost:
            logger.warning(
                "Runs of batch %s did not all arrive; collect it again to send them again",
                self._batch.id,
            )
            return
        backends.journal.mark_exported(self._batch.id, "runs")

    def abandon(self) -> None:
        """Stop waiting for the batch; its span stays open for whoever collects it."""
        self._stop_waiting()
        if self._has_lease:
            self._has_lease = False
            self._backends.journal.release_export_lease(self._batch.id)

    def _acquire_lease(self) -> None:
        # Only now, for others may wait for the batch, too: who reads results first exports it.
        if not self._has_lease and self._emits:
            self._has_lease = self._backends.journal.acquire_export_lease(self._batch.id)
            if not self._has_lease:
                self._emits, self._spans = False, None

    @shielded
    def _record_metrics(self, batch: BatchInfo) -> None:
        backends = self._backends
        if self.missing:
            return  # a metric cannot be taken back, nor a result be counted again
        if backends.metrics.have_readers and backends.journal.claim_metrics(batch.id):
            backends.metrics.ended(batch, self._measured, self._outcomes, self._parent)

    @shielded
    def _save_totals(self, batch: BatchInfo) -> None:
        totals = journal_totals(batch, self._measured, self._outcomes)
        self._backends.journal.save_totals(batch.id, totals)

    def _mark_exported(self) -> None:
        """Note in the journal which metrics and spans have certainly left the process."""
        backends = self._backends
        backends.journal.mark_metrics_exported(backends.metrics.flush())
        if not self._emits:
            return
        drained = self._pacer.drain()
        complete = not (self.shield.faults or self._spans is None or self.missing)
        if export_errors.spans > self._export_errors:
            logger.warning(
                "Spans of batch %s did not all arrive; collect it again to send them again",
                self._batch.id,
            )
        elif drained and complete and backends.exports_spans:
            backends.journal.mark_exported(self._batch.id, "spans")

    def _start_waiting(self, batch: BatchInfo) -> None:
        if batch.status != "ended" and not self._waited_for and self._emits:
            self._waited_for = True
            self._backends.metrics.wait(batch)

    def _stop_waiting(self) -> None:
        if self._waited_for:
            self._waited_for = False
            with self.shield:
                self._backends.metrics.stop_waiting(self._batch.id)

    def _total(self) -> Sum:
        total = Sum()
        for measured in self._measured.values():
            total.merge(measured)
        return total

    @shielded
    def _end_span(self, batch: BatchInfo) -> None:
        counts = self.outcomes
        total = self._total()
        self._span.set_attributes(batch_totals(counts, total.usage, total.cost))
        if not counts[SUCCEEDED] and batch.request_count:
            self._span.set_attribute(semconv.ERROR_TYPE, "no_request_succeeded")
            self._span.set_status(Status(StatusCode.ERROR, "no request of the batch succeeded"))
        self._span.end(batch.end_ns)
        self._pacer.emitted()


def _exported_span(batch: BatchInfo, parent: otel_context.Context) -> trace.Span:
    """A stand-in for the span of a batch that was exported before."""
    above = trace.get_current_span(parent).get_span_context()
    return trace.NonRecordingSpan(
        trace.SpanContext(
            above.trace_id or identity.batch_trace_id(batch.id),
            identity.batch_span_id(batch.id),
            is_remote=True,
        )
    )


def _batch_attributes(batch: BatchInfo, model: str | None, span_count: int) -> dict[str, Any]:
    """What is known of a batch when it begins; `span_count` is the number of request spans."""
    attributes: dict[str, Any] = {
        semconv.GEN_AI_OPERATION_NAME: "batch",
        semconv.GEN_AI_PROVIDER_NAME: "anthropic",
        semconv.BATCH_ID: batch.id,
        semconv.BATCH_REQUEST_COUNT: batch.request_count,
        semconv.BATCH_REQUEST_SPAN_COUNT: span_count,
        semconv.BATCH_PROCESSING_STATUS: batch.status,
    }
    if model:
        attributes[semconv.GEN_AI_REQUEST_MODEL] = model
    if batch.shift:
        attributes[semconv.BATCH_CREATED_AT] = batch.created_at.isoformat()
        if batch.ended_at:
            attributes[semconv.BATCH_ENDED_AT] = batch.ended_at.isoformat()
    return attributes
