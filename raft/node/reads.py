"""Reads on their way: queries that wait for their index to be confirmed, then applied."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from attrs import Factory, define

from raft.errors import RaftError, Timeout
from raft.node.writes import Outcome


@define(eq=False)
class ReadBatch:
    """Queries that are answered together, once, from one state of the machine."""

    queries: Sequence[bytes]
    deadline: float
    answer: Callable[[list[Outcome] | RaftError], None]
    answered: bool = False

    def finish(self, result: list[Outcome] | RaftError) -> None:
        """Answer, once; what comes after is dropped."""
        if not self.answered:
            self.answered = True
            self.answer(result)


@define
class Reads:
    """All reads of one server. Those of one turn share one request to the core [RULES R4]."""

    queued: list[ReadBatch] = Factory(list)
    asked: dict[int, list[ReadBatch]] = Factory(dict)
    """By the request's number: the core has not confirmed them yet."""
    confirmed: list[tuple[int, list[ReadBatch]]] = Factory(list)
    """(index, reads): to be answered once the index is applied."""
    _deadlines: list[tuple[float, int, ReadBatch]] = Factory(list)
    _count: int = 0
    _number: int = 0

    def queue(self, batch: ReadBatch) -> None:
        """Take a batch for this turn's step."""
        self._count += 1
        self.queued.append(batch)
        heapq.heappush(self._deadlines, (batch.deadline, self._count, batch))

    def ask(self) -> int:
        """Put what is queued under one request number, and return it; 0 if there is nothing."""
        waiting = [batch for batch in self.queued if not batch.answered]
        self.queued = []
        if not waiting:
            return 0
        self._number += 1
        self.asked[self._number] = waiting
        return self._number

    def confirm(self, request: int, index: int) -> None:
        """The core says that the state at `index` will do."""
        if waiting := self.asked.pop(request, None):
            self.confirmed.append((index, waiting))

    def fail(self, request: int, error: RaftError) -> None:
        """The core refused or lost the request; reads are safe to retry."""
        for batch in self.asked.pop(request, ()):
            batch.finish(error)

    def ready(self, last_applied: int) -> list[ReadBatch]:
        """Return the batches that may be answered from the state at `last_applied` [RULES R5]."""
        due = [pair for pair in self.confirmed if pair[0] <= last_applied]
        if not due:
            return []
        self.confirmed = [pair for pair in self.confirmed if pair[0] > last_applied]
        return [batch for _, waiting in due for batch in waiting if not batch.answered]

    def fail_all(self, error: RaftError) -> None:
        """End everything."""
        groups = [self.queued, *self.asked.values(), *(waiting for _, waiting in self.confirmed)]
        self.queued, self.asked, self.confirmed = [], {}, []
        self._deadlines.clear()
        for group in groups:
            for batch in group:
                batch.finish(error)

    @property
    def next_deadline(self) -> float | None:
        """When `expire` has something to do, or None."""
        while self._deadlines and self._deadlines[0][2].answered:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def expire(self, now: float) -> tuple[int, ...]:
        """Answer what is past its deadline; return requests that nobody waits for any more."""
        expired = False
        while (deadline := self.next_deadline) is not None and deadline <= now:
            batch = heapq.heappop(self._deadlines)[2]
            batch.finish(Timeout(appended=False, message="the read was not answered in time"))
            expired = True
        if not expired:
            return ()
        gone = tuple(n for n, waiting in self.asked.items() if all(b.answered for b in waiting))
        for number in gone:
            del self.asked[number]
        return gone
