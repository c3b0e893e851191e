"""Which requests' results were read, over one or more passes through a batch's results."""

from __future__ import annotations

from collections.abc import Collection


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
        self.current = 0
        """Number of the pass that goes on."""

    def take(self, custom_id: str) -> int:
        """Note that a result was read; the pass in which it was read before, 0 for none."""
        before = self._passes.get(custom_id, 0)
        self._passes[custom_id] = self.current
        if not before:
            self._unrequested += not self.requested(custom_id)
        return before

    def requested(self, custom_id: str) -> bool:
        """Whether the id was submitted, as far as that is known."""
        return not self._expected or custom_id in self._expected

    @property
    def missing(self) -> int:
        """Number of requests without a result so far."""
        return max(self._count - len(self._passes) + self._unrequested, 0)
