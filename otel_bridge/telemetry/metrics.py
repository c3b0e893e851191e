"""The metrics of batches: GenAI's usage counters and histograms, and a batch's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from otel_bridge import semconv
from otel_bridge._core.otel_sdk import BoundedFlush, has_metric_readers, record_many
from otel_bridge.pricing import at_list_price, without_cache
from otel_bridge.telemetry.batch import SUCCEEDED, BatchFacts
from otel_bridge.telemetry.losses import losses
from otel_bridge.telemetry.observed import waiting_batches
from otel_bridge.telemetry.sums import Measured

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider

# GenAI conventions, gen_ai.client.inference.operation.*: powers of 4.
TOKEN_BUCKETS = [4**exponent for exponent in range(14)]
COST_BUCKETS = [1e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5, 1, 5, 10]
# The conventions' duration buckets end at 81.92 s; a batch may take 24 hours.
DURATION_BUCKETS = [1, 10, 30, 60, 300, 600, 1800, 3600, 7200, 14400, 28800, 43200, 64800, 86400]

Attributes = dict[str, str]

_PROVIDER: Attributes = {semconv.GEN_AI_PROVIDER_NAME: "anthropic"}


class BatchMetrics:
    """The instruments on a meter provider, and which batches they have counted."""

    def __init__(self, provider: MeterProvider, version: str, *, legacy: bool) -> None:
        self._provider = provider
        self._flush = BoundedFlush(provider)
        self._unproven: set[str] = set()
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
        self._waiting = waiting_batches(meter)

    @property
    def read(self) -> bool:
        """Whether anybody reads these metrics."""
        return has_metric_readers(self._provider)

    def exported(self, timeout: float = 5.0) -> set[str]:
        """Have what was recorded exported; the ids of batches whose metrics are out.

        Waits at most `timeout` seconds. What an exporter does not take now goes out with a later
        export of this process, since sums are cumulative, and is proven by it.
        """
        lost, unproven = losses.metrics, set(self._unproven)
        if not self._flush(timeout) or losses.metrics > lost:
            return set()
        self._unproven -= unproven
        return unproven

    def submitted(self) -> None:
        """A batch was created."""
        self._submitted.add(1, _PROVIDER)

    def wait(self, batch: BatchFacts) -> None:
        """A batch is being waited for."""
        self._waiting[batch.id] = batch
        self._active.add(1, _PROVIDER)

    def stop_waiting(self, batch_id: str) -> None:
        """A batch is no longer waited for."""
        self._waiting.pop(batch_id, None)
        self._active.add(-1, _PROVIDER)

    def ended(
        self,
        batch: BatchFacts,
        models: Mapping[str, Measured],
        outcomes: Counter[tuple[str, str | None]],
        context: Context,
    ) -> None:
        """All of one batch at once; `context` holds its span, which exemplars then name."""
        self._unproven.add(batch.id)
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

    def _distribute(
        self, batch: BatchFacts, model: str, measured: Measured, context: Context
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
