"""The deadlines of all who wait, the nearest first."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from attrs import Factory, define

SWEPT_AT_LEAST = 1024


class Waiting(Protocol):
    """A batch with a deadline of its own."""

    answered: bool


W = TypeVar("W", bound=Waiting)


@define(eq=False)
class Deadlines(Generic[W]):
    """Deadlines in monotonic seconds; those of what is answered meanwhile go by and by.

    Most batches are answered long before their deadline. They are swept out when they are
    more than half of all, so that a time-out of a day keeps nothing for a day.
    """

    _heap: list[tuple[float, int, W]] = Factory(list)
    _count: int = 0
    _sweep_at: int = SWEPT_AT_LEAST

    def __len__(self) -> int:
        """Return how many are kept, answered ones among them."""
        return len(self._heap)

    def add(self, deadline: float, batch: W) -> None:
        """Let `batch` be due at `deadline`."""
        if len(self._heap) >= self._sweep_at:
            self._heap = [each for each in self._heap if not each[2].answered]
            heapq.heapify(self._heap)
            self._sweep_at = max(SWEPT_AT_LEAST, 2 * len(self._heap))
        self._count += 1
        heapq.heappush(self._heap, (deadline, self._count, batch))

    @property
    def next(self) -> float:
        """When the next one is due; infinity for never."""
        heap = self._heap
        while heap and heap[0][2].answered:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    def due(self, now: float) -> Iterator[W]:
        """Remove and yield what is past its deadline and not answered."""
        while self.next <= now:
            yield heapq.heappop(self._heap)[2]

    def clear(self) -> None:
        """Forget them all."""
        self._heap.clear()
