"""Reads on their way: queries that wait for their index to be confirmed, then applied."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import Factory, define

from raft.errors import RaftError, Timeout
from raft.node.answers import Answered, Answers, Outcome, nobody
from raft.node.deadlines import Deadlines

BATCH_BYTES = 256
"""What a batch of queries costs, about, besides its queries."""


@define(eq=False)
class ReadBatch:
    """Queries that are answered together, once, from one state of the machine."""

    queries: Sequence[bytes]
    deadline: float
    answer: Answered
    answered: bool = False
    reads: Reads | None = None
    """Where it waits and is counted."""

    @property
    def size_bytes(self) -> int:
        """What keeping it costs, about."""
        return sum(map(len, self.queries)) + BATCH_BYTES

    def close(self) -> Answered:
        """Count as answered, keep nothing more, and return whom to tell."""
        answer, self.answer, self.answered = self.answer, nobody, True
        if self.reads is not None:
            self.reads.waiting_bytes -= self.size_bytes
            self.reads = None
        self.queries = ()
        return answer

    def finish(self, result: list[Outcome] | RaftError) -> None:
        """Answer at once, if it is not answered yet: for the caller's own call only."""
        if not self.answered:
            self.close()(result)


@define(eq=False)
class Reads:
    """All reads of one server. Those of one turn share one request to the core [RULES R4]."""

    answers: Answers
    queued: list[ReadBatch] = Factory(list)
    asked: dict[int, list[ReadBatch]] = Factory(dict)
    """By the request's number: the core has not confirmed them yet."""
    confirmed: list[tuple[int, list[ReadBatch]]] = Factory(list)
    """(index, reads): to be answered once the index is applied."""
    waiting_bytes: int = 0
    """The size of all that is not answered."""
    deadlines: Deadlines[ReadBatch] = Factory(Deadlines)

    def queue(self, batch: ReadBatch) -> None:
        """Take a batch for this turn's step."""
        batch.reads = self
        self.waiting_bytes += batch.size_bytes
        self.queued.append(batch)
        self.deadlines.add(batch.deadline, batch)

    def ask(self, request: int) -> bool:
        """Put what is queued under the number `request`; tell whether there is anything."""
        waiting = [batch for batch in self.queued if not batch.answered]
        self.queued = []
        if waiting:
            self.asked[request] = waiting
        return bool(waiting)

    def confirm(self, request: int, index: int) -> None:
        """The core says that the state at `index` will do."""
        if waiting := self.asked.pop(request, None):
            self.confirmed.append((index, waiting))

    def fail(self, request: int, error: RaftError) -> None:
        """The core refused or lost the request; reads are safe to retry."""
        for batch in self.asked.pop(request, ()):
            self.answers.put(batch, error)

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
        self.deadlines.clear()
        for group in groups:
            for batch in group:
                self.answers.put(batch, error)

    def expire(self, now: float) -> tuple[int, ...]:
        """Answer what is past its deadline; return requests that nobody waits for any more."""
        for batch in self.deadlines.due(now):
            error = Timeout(appended=False, message="the read was not answered in time")
            self.answers.put(batch, error)
        gone = tuple(n for n, waiting in self.asked.items() if all(b.answered for b in waiting))
        for number in gone:
            del self.asked[number]
        return gone
