"""Which requests' results were read, over one or more passes through a batch's results."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from otel_bridge._core.json import as_object, as_text

_NAMELESS = "line "
"""With a space, which the API allows in no custom id."""


@dataclass(slots=True)
class Line:
    """A decoded line: an object with a custom id, if need be one of our own.

    `before` is the number of the pass in which it was read before, 0 for none.
    """

    custom_id: str
    value: Mapping[str, Any]
    before: int


class Tally:
    """Knows for each custom id the pass in which it was read last.

    It grows by about 120 bytes a request, and by nothing else. `count` is the number of requests;
    `expected` are their ids, empty where they are not known.
    """

    def __init__(self, count: int, expected: Collection[str] = ()) -> None:
        self._count = count
        self._expected = expected
        self._passes: dict[str, int] = {}
        self._unrequested = 0
        self.passes = 0
        """Number of the pass that began last."""
        self.unrecorded: deque[Line] = deque()
        """What was given to the caller and is not recorded yet."""

    def take(self, custom_id: str, number: int) -> int:
        """Note that pass `number` read a result; the pass that did so before, 0 for none."""
        before = self._passes.get(custom_id, 0)
        self._passes[custom_id] = number
        if not before:
            self._unrequested += not self.requested(custom_id)
        return before

    def requested(self, custom_id: str) -> bool:
        """Whether the id was submitted, as far as that is known; a line without one may be it."""
        return not self._expected or custom_id in self._expected or custom_id.startswith(_NAMELESS)

    @property
    def missing(self) -> int:
        """Number of requests without a result so far."""
        return max(self._count - len(self._passes) + self._unrequested, 0)


class Pass:
    """One pass through a batch's results, line by line."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        tally.passes += 1
        self.number = tally.passes
        self.duplicates = 0
        """Lines so far that repeat a custom id."""
        self._nameless: Counter[str] = Counter()

    def take(self, raw: bytes) -> Line | None:
        """Decode a line, whatever JSON it is; None for a blank one.

        Raises ValueError for one that is none, as where a stream was cut.
        """
        if not raw.strip():
            return None
        value = as_object(orjson.loads(raw))
        custom_id = as_text(value.get("custom_id"))
        if custom_id is None:
            custom_id = self._name(raw)
            value = {**value, "custom_id": custom_id}
        before = self.tally.take(custom_id, self.number)
        self.duplicates += before == self.number
        return Line(custom_id, value, before)

    def _name(self, raw: bytes) -> str:
        # By what the line holds, so that a later pass names it alike, in whatever order.
        digest = hashlib.sha256(raw.strip()).hexdigest()[:16]
        self._nameless[digest] += 1
        return f"{_NAMELESS}{digest} {self._nameless[digest]}"
