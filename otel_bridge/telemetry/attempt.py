"""Which attempt at its requests a batch is, as span links and attributes, across processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import Link, SpanContext, TraceFlags

from otel_bridge import semconv

_KEY = "otel-bridge-attempt"


@dataclass(frozen=True, slots=True)
class Attempt:
    """The `number` of an attempt, from 1, and the batches that it follows, with their spans."""

    number: int = 1
    previous: tuple[tuple[str, SpanContext], ...] = ()

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the batch's span; none for a first attempt."""
        if self.number < 2:
            return {}
        return {
            semconv.BATCH_ATTEMPT: self.number,
            semconv.BATCH_PREVIOUS_IDS: [batch_id for batch_id, _ in self.previous],
        }

    @property
    def links(self) -> list[Link]:
        """Links from the batch's span to those of the attempt before."""
        return [
            Link(context, {semconv.BATCH_ID: batch_id})
            for batch_id, context in self.previous
            if context.is_valid
        ]

    def to_carrier(self) -> dict[str, str]:
        """The form that travels with a batch's trace context."""
        batches = (
            f"{batch_id}/{context.trace_id:032x}/{context.span_id:016x}"
            for batch_id, context in self.previous
        )
        return {_KEY: ",".join((str(self.number), *batches))}

    @classmethod
    def from_carrier(cls, carrier: Mapping[str, str]) -> Attempt:
        """Read what `to_carrier` wrote; a first attempt where it is absent or malformed."""
        number, *batches = carrier.get(_KEY, "1").split(",")
        try:
            split = [each.split("/") for each in batches]
            previous = tuple((batch_id, _context(trace, span)) for batch_id, trace, span in split)
            return cls(int(number), previous)
        except ValueError:
            return cls()


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
