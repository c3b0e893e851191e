"""One batch from its submission to the last of its results, as spans and metrics."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from otel_bridge import identity, semconv
from otel_bridge._core.shield import Shield, shielded
from otel_bridge.pricing import Cost, price
from otel_bridge.telemetry.attempt import Attempt
from otel_bridge.telemetry.attributes import batch_attributes, batch_totals
from otel_bridge.telemetry.batch import (
    DUPLICATE,
    MISSING,
    OUTCOMES,
    SUCCEEDED,
    BatchFacts,
    Outcome,
    model_of,
    tier_of,
)
from otel_bridge.telemetry.losses import losses
from otel_bridge.telemetry.pacing import Pacer
from otel_bridge.telemetry.request_spans import Params, Request, RequestSpans
from otel_bridge.telemetry.selection import Selection
from otel_bridge.telemetry.spans import start_span
from otel_bridge.telemetry.sums import Measured, Sum
from otel_bridge.telemetry.tally import Tally
from otel_bridge.telemetry.totals import totals_of
from otel_bridge.usage import TokenUsage

if TYPE_CHECKING:
    from otel_bridge.telemetry.recorder import BatchRecorder

logger = logging.getLogger(__name__)


class BatchRecording:
    """One batch from its submission to the last of its results."""

    def __init__(
        self, recorder: BatchRecorder, batch: BatchFacts, models: frozenset[str], *, silent: bool
    ) -> None:
        self.shield = Shield(f"Telemetry of batch {batch.id} is incomplete")
        """Over all that is recorded: one span that fails must not take the sums with it."""
        self._recorder = recorder
        self._silent = silent
        self._settings = recorder.settings
        self._batch = batch
        self._models = models
        self._span: trace.Span = trace.INVALID_SPAN
        self._spans: RequestSpans | None = None
        self._parent = otel_context.Context()
        self._pacer = Pacer(recorder.provider)
        self._outcomes: Counter[tuple[str, str | None]] = Counter()
        self._measured: defaultdict[str, Measured] = defaultdict(Measured)
        self._rolled: defaultdict[tuple[str, str], Sum] = defaultdict(Sum)
        self._selection: Selection[Request] | None = None
        self.tally: Tally | None = None
        """What was read so far, by whoever reads the results."""
        self._attempt = Attempt()
        self._claimed = False
        self._lost = losses.spans
        self._runs_dropped = recorder.runs_dropped()
        self._active = False
        self._ended = False
        self.missing = 0
        """Number of requests without a result when the batch was recorded to its end."""

    @property
    def facts(self) -> BatchFacts:
        """The batch as the API described it last."""
        return self._batch

    @property
    def trace_id(self) -> str | None:
        """Hexadecimal trace id, None where nothing is recorded."""
        context = self._span.get_span_context()
        return f"{context.trace_id:032x}" if context.is_valid else None

    def _total(self) -> Sum:
        total = Sum()
        for measured in self._measured.values():
            total.merge(measured)
        return total

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

    @shielded
    def open(self, parent: otel_context.Context, attempt: Attempt, *, created: bool) -> None:
        self._attempt = attempt
        batch = self._batch
        if created:
            self._recorder.metrics.submitted()
        model = next(iter(self._models)) if len(self._models) == 1 else None
        cap = self._settings.max_request_spans
        count = batch.request_count
        spans = count if cap is None else min(cap, count)
        if self._silent:
            told = trace.get_current_span(parent).get_span_context()
            self._span = trace.NonRecordingSpan(
                trace.SpanContext(
                    told.trace_id or identity.batch_trace_id(batch.id),
                    identity.batch_span_id(batch.id),
                    is_remote=True,
                )
            )
            return
        tracer = self._recorder.tracer
        self._span = start_span(
            tracer,
            f"batch {model}" if model else "batch",
            trace_id=identity.batch_trace_id(batch.id),
            span_id=identity.batch_span_id(batch.id),
            parent=parent,
            kind=SpanKind.INTERNAL,
            start_ns=batch.start_ns,
            attributes=batch_attributes(batch, model, spans) | attempt.attributes,
            links=attempt.links,
        )
        self._parent = trace.set_span_in_context(self._span, parent)
        self._spans = RequestSpans(
            tracer, batch, self._span, self._parent, self._settings, self._pacer, self.shield
        )
        if cap is not None and count > cap:
            self._selection = Selection(cap)
        if not created:  # who creates a batch may leave the wait to others
            self._wait(batch)

    def _wait(self, batch: BatchFacts) -> None:
        if batch.status != "ended" and not self._active and not self._silent:
            self._active = True
            self._recorder.metrics.wait(batch)

    @shielded
    def update(self, batch: BatchFacts) -> None:
        """The API described the batch anew: a change of state is an event on its span."""
        if self._ended:
            return
        self._wait(batch)
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
            self._spans.batch = batch

    @shielded
    def result(
        self, line: Mapping[str, Any], params: Params | None = None, *, requested: bool = True
    ) -> None:
        """One decoded line of the results, with the request's `params` where they are known.

        One that was not `requested` has an outcome of its own, and its tokens count all the same.
        """
        if self._ended:
            return
        self._claim()
        outcome = Outcome.from_line(line)
        if not requested:
            outcome = outcome.unrequested()
        model = self._model(outcome, params)
        cost: Cost | None = Cost()  # only what succeeded is billed
        if outcome.message is not None:
            tier = tier_of(outcome.message) or "batch"
            cost = price(outcome.usage, model, tier=tier, at=self._batch.created_at)
            self._measured[model].add(outcome.usage, cost)
        self._outcomes[outcome.kind, outcome.error_type] += 1
        if self._spans is None:
            return
        request = Request(outcome, model, cost, params)
        if self._selection is None:
            self._spans.emit(request)
            return
        spare = self._selection.offer(
            request,
            failed=outcome.kind != SUCCEEDED,
            spread=identity.spread(self._batch.id, outcome.custom_id),
        )
        if spare is not None:
            self._rolled[spare.model, spare.outcome.kind].add(spare.outcome.usage, spare.cost)

    @shielded
    def end(self, batch: BatchFacts, *, duplicates: int = 0, missing: int = 0) -> None:
        """All results were recorded: emit what waits, the sums, and close the batch's span.

        `duplicates` are results that are no request's, `missing` requests without a result. While
        some are missing the batch is neither marked as exported nor counted in metrics: a later
        reading that has them makes the same spans again and the others, and counts all of it, once.
        Of a batch beyond the cap these are the batch's alone, for which requests stand alone and
        which are in a sum depends on all.
        """
        if self._ended:
            return
        self._claim()
        self.missing = missing
        if duplicates:
            self._outcomes[DUPLICATE, "repeated_custom_id"] += duplicates
            logger.warning("%s of batch %s's results are repeats", duplicates, batch.id)
        if missing:
            self._outcomes[MISSING, "missing_result"] += missing
            logger.warning("%s", self.lack)
        self.update(batch)
        self._ended = True
        if self._spans is not None:
            if self._selection is not None and not missing:
                self._emit_chosen(self._spans, self._selection)
            self._end_span(batch)
        self._count(batch)
        self._sum_up(batch)
        self._stop_waiting()
        self._prove()

    def _emit_chosen(self, spans: RequestSpans, selection: Selection[Request]) -> None:
        for request in selection.drain():
            spans.emit(request)
        for (model, kind), rolled in sorted(self._rolled.items()):
            spans.emit_rollup(model, kind, rolled)

    def _claim(self) -> None:
        # Not before the first result: others may wait for the batch, too, and the first to read
        # its results exports it.
        if not self._claimed and not self._silent:
            self._claimed = self._recorder.journal.acquire_export_lease(self._batch.id)
            if not self._claimed:
                self._silent, self._spans = True, None

    @property
    def lack(self) -> str | None:
        """What is missing and what to do about it, None where nothing is."""
        if not self.missing:
            return None
        batch = self._batch
        return (
            f"{self.missing:,} of batch {batch.id}'s {batch.request_count:,} results are missing; "
            f"`otel-bridge collect {batch.id}` reads them again"
        )

    @shielded
    def _count(self, batch: BatchFacts) -> None:
        recorder = self._recorder
        if self.missing:
            return  # a metric cannot be taken back, nor a result be counted again
        if recorder.metrics.read and recorder.journal.claim_metrics(batch.id):
            recorder.metrics.ended(batch, self._measured, self._outcomes, self._parent)

    @shielded
    def _sum_up(self, batch: BatchFacts) -> None:
        totals = totals_of(batch, self._measured, self._outcomes)
        self._recorder.journal.save_totals(batch.id, totals)

    def _prove(self) -> None:
        """Have the journal know what has certainly left the process."""
        recorder = self._recorder
        recorder.journal.mark_metrics_exported(recorder.metrics.exported())
        if self._silent:
            return
        drained = self._pacer.drain()
        lost = losses.spans - self._lost
        if lost:
            logger.warning(
                "Spans of batch %s did not all arrive; collect it again to send them again",
                self._batch.id,
            )
        elif drained and self._whole and recorder.exports:
            recorder.journal.mark_exported(self._batch.id, "spans")

    def prove_runs(self) -> None:
        """The mirror has handed over all that it got: note so, unless something of it was lost."""
        recorder = self._recorder
        if self._silent or self.shield.faults or self.missing:
            return
        if recorder.runs_dropped() > self._runs_dropped:
            logger.warning(
                "Runs of batch %s did not all arrive; collect it again to send them again",
                self._batch.id,
            )
            return
        recorder.journal.mark_exported(self._batch.id, "runs")

    @property
    def _whole(self) -> bool:
        return not (self.shield.faults or self._spans is None or self.missing)

    def abandon(self) -> None:
        """Stop waiting for the batch; its span stays open for whoever collects it."""
        self._stop_waiting()
        if self._claimed:
            self._claimed = False
            self._recorder.journal.release_export_lease(self._batch.id)

    def _stop_waiting(self) -> None:
        if self._active:
            self._active = False
            with contextlib.suppress(Exception):
                self._recorder.metrics.stop_waiting(self._batch.id)

    def _model(self, outcome: Outcome, params: Params | None) -> str:
        model = model_of(outcome.message, params)
        return next(iter(self._models)) if not model and len(self._models) == 1 else model

    @shielded
    def _end_span(self, batch: BatchFacts) -> None:
        counts = self.outcomes
        total = self._total()
        self._span.set_attributes(batch_totals(counts, total.usage, total.cost))
        if not counts[SUCCEEDED] and batch.request_count:
            self._span.set_attribute(semconv.ERROR_TYPE, "no_request_succeeded")
            self._span.set_status(Status(StatusCode.ERROR, "no request of the batch succeeded"))
        self._span.end(batch.end_ns)
        self._pacer.emitted()
