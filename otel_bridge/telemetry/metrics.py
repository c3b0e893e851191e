"""Metrics of batches: the GenAI conventions' counters and histograms, and our own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from otel_bridge import semconv
from otel_bridge._core.otel_sdk import has_metric_readers, record_many
from otel_bridge.domain.batch import SUCCEEDED, BatchInfo
from otel_bridge.domain.pricing import at_list_price, without_cache
from otel_bridge.telemetry.backpressure import BoundedFlush, export_errors
from otel_bridge.telemetry.totals import Measured, Outcomes

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider

# GenAI conventions, gen_ai.client.inference.operation.*: powers of 4.
TOKEN_BUCKETS = [4**exponent for exponent in range(14)]
COST_BUCKETS = [1e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5, 1, 5, 10]
# The conventions' duration buckets end at 81.92 s; a batch may take 24 hours.
DURATION_BUCKETS = [1, 10, 30, 60, 300, 600, 1800, 3600, 7200, 14400, 28800, 43200, 64800, 86400]

Attributes = dict[str, str]
Waiting = dict[str, BatchInfo]

_LIFE = 24 * 3600.0
"""Seconds until a batch expires for which the API gives no time."""
_waiting_of: WeakKeyDictionary[Meter, Waiting] = WeakKeyDictionary()
_lock = threading.Lock()

_PROVIDER: Attributes = {semconv.GEN_AI_PROVIDER_NAME: "anthropic"}


class BatchMetrics:
    """The instruments on a meter provider, and the batches whose metrics are not exported yet."""

    def __init__(self, provider: MeterProvider, version: str, *, legacy: bool) -> None:
        self._provider = provider
        self._flush = BoundedFlush(provider)
        self._unexported: set[str] = set()
        meter = provider.get_meter(semconv.SCOPE, version)
        self._legacy = legacy
        self._counters = {
            name: meter.create_counter(name, "{token}", description)
            for name, description in (
                (semconv.METRIC_USAGE_INPUT, "Input tokens used, cached ones included"),
                (semconv.METRIC_USAGE_OUTPUT, "Output tokens used"),
                (semconv.METRIC_USAGE_CACHE_READ, "Input tokens read from the cache"),
                (semconv.METRIC_USAGE_CACHE_WRITE, "Input tokens written to the cache"),
                (semconv.METRIC_USAGE_REASONING, "Output tokens used for reasoning"),
            )
        }
        self._operation_input = meter.create_histogram(
            semconv.METRIC_OPERATION_INPUT,
            "{token}",
            "Input tokens per request",
            explicit_bucket_boundaries_advisory=TOKEN_BUCKETS,
        )
        self._operation_output = meter.create_histogram(
            semconv.METRIC_OPERATION_OUTPUT,
            "{token}",
            "Output tokens per request",
            explicit_bucket_boundaries_advisory=TOKEN_BUCKETS,
        )
        self._token_usage = meter.create_histogram(
            semconv.METRIC_TOKEN_USAGE,
            "{token}",
            "Tokens per request (former name)",
            explicit_bucket_boundaries_advisory=TOKEN_BUCKETS,
        )
        self._cost = meter.create_histogram(
            semconv.METRIC_COST,
            "USD",
            "Cost per request",
            explicit_bucket_boundaries_advisory=COST_BUCKETS,
        )
        self._duration = meter.create_histogram(
            semconv.METRIC_BATCH_DURATION,
            "s",
            "Time from a batch's creation to its end",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._requests = meter.create_counter(
            semconv.METRIC_BATCH_REQUESTS, "{request}", "Requests of ended batches by outcome"
        )
        self._active = meter.create_up_down_counter(
            semconv.METRIC_BATCH_ACTIVE, "{batch}", "Batches that this process waits for"
        )
        self._submitted = meter.create_counter(
            semconv.METRIC_BATCH_SUBMITTED, "{batch}", "Batches that this process created"
        )
        self._at_list = meter.create_counter(
            semconv.METRIC_COST_AT_LIST, "USD", "What the requests would have cost at list price"
        )
        self._uncached = meter.create_counter(
            semconv.METRIC_COST_UNCACHED, "USD", "What they would have cost without a cache"
        )
        self._waiting = _waiting_batches(meter)

    @property
    def have_readers(self) -> bool:
        """Whether anybody reads these metrics."""
        return has_metric_readers(self._provider)

    def flush(self, timeout: float = 5.0) -> set[str]:
        """Export what was recorded; returns the ids of batches whose metrics are exported by it.

        Waits at most `timeout` seconds. Sums are cumulative: what an exporter does not accept now
        goes out with a later export of this process, and the batch is among the ids then.
        """
        errors, recorded = export_errors.metrics, set(self._unexported)
        if not self._flush(timeout) or export_errors.metrics > errors:
            return set()
        self._unexported -= recorded
        return recorded

    def submitted(self) -> None:
        """Count a batch that was created."""
        self._submitted.add(1, _PROVIDER)

    def wait(self, batch: BatchInfo) -> None:
        """Count a batch that is waited for from now on."""
        self._waiting[batch.id] = batch
        self._active.add(1, _PROVIDER)

    def stop_waiting(self, batch_id: str) -> None:
        """Count a batch as waited for no longer."""
        self._waiting.pop(batch_id, None)
        self._active.add(-1, _PROVIDER)

    def ended(
        self,
        batch: BatchInfo,
        models: Mapping[str, Measured],
        outcomes: Outcomes,
        context: Context,
    ) -> None:
        """Record all of an ended batch; exemplars name the span that `context` holds."""
        for model, measured in models.items():
            usage = measured.usage
            self._distribute(batch, model, measured, context)
            attributes = _attributes(model) | {semconv.GEN_AI_TOKEN_MODALITY: "text"}
            for name, tokens in (
                (semconv.METRIC_USAGE_INPUT, usage.total_input_tokens),
                (semconv.METRIC_USAGE_OUTPUT, usage.output_tokens),
                (semconv.METRIC_USAGE_CACHE_READ, usage.cache_read_input_tokens),
                (semconv.METRIC_USAGE_CACHE_WRITE, usage.cache_creation_input_tokens),
                (semconv.METRIC_USAGE_REASONING, usage.thinking_tokens),
            ):
                if tokens:
                    self._counters[name].add(tokens, attributes, context)
        for (kind, error_type), count in outcomes.items():
            labels = {semconv.BATCH_OUTCOME: kind}
            if kind != SUCCEEDED and error_type:
                labels[semconv.ERROR_TYPE] = error_type
            self._requests.add(count, labels, context)
        self._duration.record((batch.end_ns - batch.start_ns) / 1e9, _PROVIDER, context)
        self._unexported.add(batch.id)  # last: what met a fault is not marked as exported

    def _distribute(
        self, batch: BatchInfo, model: str, measured: Measured, context: Context
    ) -> None:
        attributes = _attributes(model)
        sides = (
            ("input", measured.inputs, self._operation_input),
            ("output", measured.outputs, self._operation_output),
        )
        for kind, values, histogram in sides:
            record_many(histogram, values, attributes, context)
            if self._legacy:
                former = attributes | {semconv.GEN_AI_TOKEN_TYPE: kind}
                record_many(self._token_usage, values, former, context)
        record_many(self._cost, measured.costs, attributes, context)
        cost = measured.cost
        if cost is not None:
            self._at_list.add(at_list_price(cost), attributes, context)
            self._uncached.add(without_cache(cost, model, batch.created_at), attributes, context)


def _attributes(model: str) -> Attributes:
    attributes = {
        semconv.GEN_AI_OPERATION_NAME: "chat",
        semconv.GEN_AI_PROVIDER_NAME: "anthropic",
    }
    if model:
        attributes[semconv.GEN_AI_REQUEST_MODEL] = model
        attributes[semconv.GEN_AI_RESPONSE_MODEL] = model
    return attributes


def _waiting_batches(meter: Meter) -> Waiting:
    """The batches that are waited for, by id; observable instruments read them when asked.

    The SDK has one meter per provider and scope, so recorders on one provider share the batches.
    """
    with _lock:
        known = _waiting_of.get(meter)
        if known is not None:
            return known
        waiting = _waiting_of[meter] = Waiting()
    meter.create_observable_gauge(
        semconv.METRIC_BATCH_OLDEST_AGE,
        [_over(waiting, lambda batches: time.time() - min(map(_created, batches)))],
        "s",
        "Age of the oldest batch that this process waits for",
    )
    meter.create_observable_gauge(
        semconv.METRIC_BATCH_NEXT_EXPIRY,
        [_over(waiting, lambda batches: min(map(_expires, batches)) - time.time())],
        "s",
        "Time until the first batch that this process waits for expires",
    )
    meter.create_observable_counter(
        semconv.METRIC_SPANS_DROPPED,
        [lambda _: [Observation(export_errors.spans)]],
        "{report}",
        "Times that OpenTelemetry said that it lost spans",
    )
    return waiting


def _over(
    waiting: Waiting, figure: Callable[[list[BatchInfo]], float]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    """A callback that observes nothing while no batch is waited for."""

    def callback(_: CallbackOptions) -> Iterable[Observation]:
        batches = list(waiting.values())
        return [Observation(figure(batches))] if batches else []

    return callback


def _created(batch: BatchInfo) -> float:
    return batch.created_at.timestamp()


def _expires(batch: BatchInfo) -> float:
    return batch.expires_at.timestamp() if batch.expires_at else _created(batch) + _LIFE
