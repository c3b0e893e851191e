"""Ids as functions of what the API knows, so that any process makes the same ones.

A span's id hashes the batch's id and what the span stands for. A LangSmith run's id is a UUIDv7
(RFC 9562) of the span's start in milliseconds and its span id; `dotted_order` follows from both.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b

_VERSION_AND_VARIANT = 0x7 << 76 | 0b10 << 62
_52_BITS = (1 << 52) - 1


def _hash(size: int, kind: str, *parts: str) -> int:
    # NUL cannot stand in an API id, so no two lists of parts join to the same bytes.
    digest = blake2b("\0".join((kind, *parts)).encode(), digest_size=size).digest()
    return int.from_bytes(digest, "big") or 1


def batch_trace_id(batch_id: str) -> int:
    """128-bit trace id of a batch that was submitted under no known parent."""
    return _hash(16, "trace", batch_id)


def batch_span_id(batch_id: str) -> int:
    """64-bit id of the batch's span."""
    return _hash(8, "batch", batch_id)


def request_span_id(batch_id: str, custom_id: str) -> int:
    """64-bit id of the span of one request."""
    return _hash(8, "request", batch_id, custom_id)


def rollup_span_id(batch_id: str, model: str, outcome: str) -> int:
    """64-bit id of the span that sums up requests of one model and outcome."""
    return _hash(8, "rollup", batch_id, model, outcome)


def continuation_span_id(batch_id: str, part: int) -> int:
    """64-bit id from which the root run of a batch's continuation trace is made."""
    return _hash(8, "continuation", batch_id, str(part))


def spread(batch_id: str, custom_id: str) -> int:
    """A 64-bit number that orders a batch's requests evenly and whatever their arrival."""
    return _hash(8, "spread", batch_id, custom_id)


def run_id(span_id: int, start_ns: int) -> str:
    """LangSmith run id of a span: 48 bits of time in ms, then the 64 bits of the span id.

    The span id's 64 bits go into the 74 bits that UUIDv7 leaves free: 12 in `rand_a`, 52 in
    `rand_b`, so that no bit is lost.
    """
    milliseconds = start_ns // 1_000_000 & (1 << 48) - 1
    number = milliseconds << 80 | _VERSION_AND_VARIANT | (span_id >> 52) << 64 | span_id & _52_BITS
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


@lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%S")


def dotted_order(run: str, start_ns: int, parent: str | None = None) -> str:
    """LangSmith's sort key of a run: its parent's, a dot, its start in µs and its id."""
    seconds, nanoseconds = divmod(start_ns, 1_000_000_000)
    segment = f"{_second(seconds)}{nanoseconds // 1000:06d}Z{run}"
    return f"{parent}.{segment}" if parent else segment
