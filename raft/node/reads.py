"""Reads on their way: queries that wait for their index to be confirmed, then applied.

Those of a lease are confirmed at once, for a time; where it is over before the index is
applied, they take the long way after all. Local ones wait for nothing but the state itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from attrs import Factory, define

from raft.errors import RaftError, Timeout
from raft.interfaces import PLAIN_TERMS, ReadTerms
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
    terms: ReadTerms = PLAIN_TERMS
    answered: bool = False
    index: int = 0
    """Once answered: the last entry that the state had applied."""
    age_seconds: float = 0.0
    """Once answered: for how long that state had not been known to be current."""
    valid_until: float = math.inf
    """Once it may be answered: until when, for a lease."""
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
    leased: list[ReadBatch] = Factory(list)
    """Queued too, for a lease."""
    local: list[ReadBatch] = Factory(list)
    """Those that the core is not asked about; answered as soon as the state will do."""
    asked: dict[int, list[ReadBatch]] = Factory(dict)
    """By the request's number: the core has not confirmed them yet."""
    confirmed: list[tuple[int, float, list[ReadBatch]]] = Factory(list)
    """(index, end of the lease, reads): to be answered once the index is applied, before that."""
    waiting_bytes: int = 0
    """The size of all that is not answered."""
    deadlines: Deadlines[ReadBatch] = Factory(Deadlines)

    def queue(self, batch: ReadBatch) -> None:
        """Take a batch for this turn's step."""
        batch.reads = self
        self.waiting_bytes += batch.size_bytes
        if batch.terms.is_local:
            self.local.append(batch)
        elif batch.terms.consistency == "lease":
            self.leased.append(batch)
        else:
            self.queued.append(batch)
        self.deadlines.add(batch.deadline, batch)

    def ask(self, request: int, lease: bool = False) -> bool:
        """Put what is queued (for a lease) under the number `request`; tell if there is any."""
        queued = self.leased if lease else self.queued
        waiting = [batch for batch in queued if not batch.answered]
        queued.clear()
        if waiting:
            self.asked[request] = waiting
        return bool(waiting)

    def confirm(self, request: int, index: int, valid_until: float = math.inf) -> None:
        """The core says that the state at `index` will do, until `valid_until`."""
        waiting = self.asked.pop(request, None) or []
        for batch in waiting:
            if batch.terms.min_index > index:
                self.confirmed.append((batch.terms.min_index, valid_until, [batch]))
        if plain := [batch for batch in waiting if batch.terms.min_index <= index]:
            self.confirmed.append((index, valid_until, plain))

    def fail(self, request: int, error: RaftError) -> None:
        """The core refused or lost the request; reads are safe to retry."""
        for batch in self.asked.pop(request, ()):
            self.answers.put(batch, error)

    def ready(
        self,
        last_applied: int,
        clock: Callable[[], float] = lambda: -math.inf,
        age_seconds: Callable[[], float] = lambda: math.inf,
    ) -> list[ReadBatch]:
        """Return the batches that may be answered from the state at `last_applied` [RULES R5].

        It is the state of this very moment: what a lease allows is asked of `clock` here.
        """
        found = self._ready_locally(last_applied, age_seconds) if self.local else []
        due = [each for each in self.confirmed if each[0] <= last_applied]
        if due:
            self.confirmed = [each for each in self.confirmed if each[0] > last_applied]
        for _, valid_until, waiting in due:
            batches = [batch for batch in waiting if not batch.answered]
            if valid_until == math.inf or clock() < valid_until:
                found += batches
                for batch in batches:
                    batch.valid_until = valid_until
            else:
                # The lease is over: a quorum is asked, as for any other read [RULES R9].
                self.queued += batches
        for batch in found:
            batch.index = last_applied
        return found

    def postpone(self, batch: ReadBatch) -> None:
        """Let a batch that is ready wait for another turn, when it is judged anew."""
        if batch.terms.is_local:
            self.local.append(batch)
        else:
            self.confirmed.append((batch.index, batch.valid_until, [batch]))

    def _ready_locally(
        self, last_applied: int, age_seconds: Callable[[], float]
    ) -> list[ReadBatch]:
        found, waiting, age = [], [], age_seconds()
        for batch in self.local:
            oldest = batch.terms.max_age_seconds
            if batch.answered:
                continue
            if batch.terms.min_index > last_applied or (oldest is not None and age > oldest):
                waiting.append(batch)
            else:
                batch.age_seconds = age
                found.append(batch)
        self.local = waiting
        return found

    def fail_all(self, error: RaftError) -> None:
        """End everything."""
        groups = [self.queued, self.leased, self.local, *self.asked.values()]
        groups += [waiting for *_, waiting in self.confirmed]
        self.queued, self.leased, self.local, self.asked, self.confirmed = [], [], [], {}, []
        self.deadlines.clear()
        for group in groups:
            for batch in group:
                self.answers.put(batch, error)

    def expire(self, now: float) -> tuple[int, ...]:
        """Answer what is past its deadline; return requests that nobody waits for any more."""
        for batch in self.deadlines.due(now):
            self.answers.put(batch, Timeout(appended=False, message=_too_late(batch.terms)))
        gone = tuple(n for n, waiting in self.asked.items() if all(b.answered for b in waiting))
        for number in gone:
            del self.asked[number]
        return gone


def _too_late(terms: ReadTerms) -> str:
    if terms.max_age_seconds is not None:
        return f"the state here stayed older than max_age = {terms.max_age_seconds:g} s"
    if terms.is_local:
        return f"entry {terms.min_index} (min_index) was not applied here in time"
    return "the read was not answered in time"
