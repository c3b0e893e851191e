"""Which requests get a span of their own under the cap, chosen on a stream."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(order=True, slots=True)
class _Ranked(Generic[T]):
    rank: tuple[bool, int]
    item: T = field(compare=False)


class Selection(Generic[T]):
    """Keeps the `cap` best-ranked items of a stream; whatever falls out comes back at once.

    Rank is a failure before a success, then a hash: a function of ids and outcomes, so the same
    items stay whatever the order of arrival.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._heap: list[_Ranked[T]] = []

    def offer(self, item: T, *, failed: bool, spread: int) -> T | None:
        """Take an item in; return the one that now has no place, if any."""
        ranked = _Ranked((failed, spread), item)
        if len(self._heap) < self._cap:
            heapq.heappush(self._heap, ranked)
            return None
        if not self._cap:
            return item
        return heapq.heappushpop(self._heap, ranked).item

    def drain(self) -> list[T]:
        """What was kept."""
        kept = [ranked.item for ranked in self._heap]
        self._heap = []
        return kept
