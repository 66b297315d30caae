"""One timer for the deadlines of all batches."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from raft.client.batches import Batch


class Deadlines:
    """Calls `expire` with each batch that is not done at its deadline.

    The timer is set to the earliest deadline and looks again when it fires: answering a
    batch costs nothing here, and a clock that `reactor` reads wrongly only wakes it early.
    """

    def __init__(
        self, reactor: Any, seconds: Callable[[], float], expire: Callable[[Batch], None]
    ) -> None:
        """Start without a deadline; `seconds` is the clock of all of them."""
        self._reactor = reactor
        self._seconds = seconds
        self._expire = expire
        self._heap: list[tuple[float, int, Batch]] = []
        self._timer: Any = None
        self._due = 0.0

    def add(self, batch: Batch) -> None:
        """Watch `batch`."""
        heap = self._heap
        while heap and heap[0][2].done:
            heapq.heappop(heap)
        heapq.heappush(heap, (batch.deadline, batch.number, batch))
        if self._timer is None or batch.deadline < self._due:
            self._arm()

    def stop(self) -> None:
        """Forget all of them."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = self._heap[0][0]
        wait = max(0.0, self._due - self._seconds())
        self._timer = self._reactor.callLater(wait, self._fired)

    def _fired(self) -> None:
        self._timer = None
        now = self._seconds()
        heap = self._heap
        while heap and (heap[0][2].done or heap[0][0] <= now):
            batch = heapq.heappop(heap)[2]
            if not batch.done:
                self._expire(batch)
        # A callback of an expired request may have armed it, or closed the client.
        if heap and self._timer is None:
            self._arm()
