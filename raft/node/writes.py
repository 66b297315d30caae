"""Writes on their way: from the caller to the log, and from the machine back to the caller.

The unit is a batch: the commands of one client's box, or all that this process's own
callers wrote in one turn. A batch is appended whole, in the order of issue, and answered
once, when its last command is applied. Nothing is kept for a single command.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

from attrs import Factory, define

from raft.errors import OutcomeUnknown, RaftError, Superseded, Timeout
from raft.storage.records import HEADER_BYTES

Outcome = tuple[str, bytes]
"""One command's encoded result, as the replica gives it: (error code or "", MessagePack)."""


@define(eq=False)
class Batch:
    """Commands that are appended and answered together.

    `answer` takes all outcomes in order, or the error of the whole. `deadline` is in
    monotonic seconds. Entries [start, end) of `term` are the commands once appended.
    """

    payloads: list[bytes]
    deadline: float
    answer: Callable[[list[Outcome] | RaftError], None]
    taken: bool = False
    """Its commands are fixed: the step that appends them has begun."""
    start: int = 0
    end: int = 0
    term: int = 0
    outcomes: list[Outcome] = Factory(list)
    answered: bool = False

    @property
    def size_bytes(self) -> int:
        """The size of its records."""
        return sum(map(len, self.payloads)) + HEADER_BYTES * len(self.payloads)

    def finish(self, result: list[Outcome] | RaftError) -> None:
        """Answer, once; what comes after is dropped."""
        if not self.answered:
            self.answered = True
            self.payloads = []
            self.answer(result)


@define
class Writes:
    """All batches of one server: queued, proposed in this turn, and appended."""

    queued: list[Batch] = Factory(list)
    queued_bytes: int = 0
    proposed: dict[int, Batch] = Factory(dict)
    appended: deque[Batch] = Factory(deque)
    """In the order of their indexes, which never overlap."""
    replaced: list[Batch] = Factory(list)
    """Batches whose entries another leader's replaced, not yet definitely."""
    _deadlines: list[tuple[float, int, Batch]] = Factory(list)
    _count: int = 0

    def queue(self, batch: Batch) -> None:
        """Take a batch for this turn's step."""
        self._count += 1
        self.queued.append(batch)
        self.queued_bytes += batch.size_bytes
        heapq.heappush(self._deadlines, (batch.deadline, self._count, batch))

    def take_queued(self) -> list[Batch]:
        """Return what waits to be proposed, without what has been answered meanwhile."""
        taken, self.queued, self.queued_bytes = self.queued, [], 0
        for batch in taken:
            batch.taken = True
        return [batch for batch in taken if batch.payloads and not batch.answered]

    def accepted(self, request: int, start: int, end: int, term: int) -> None:
        """Note where a proposed batch stands in the log."""
        batch = self.proposed.pop(request)
        batch.start, batch.end, batch.term = start, end, term
        # Entries of an older term from `start` on were replaced before this one came.
        self.truncated(start)
        self.appended.append(batch)

    @property
    def wanted(self) -> tuple[int, int]:
        """The indexes [from, end) that somebody waits for, gaps included."""
        if not self.appended:
            return 0, 0
        return self.appended[0].start, self.appended[-1].end

    def applied(self, first: int, outcomes: list[Outcome]) -> None:
        """Hand outcomes of consecutive entries from `first` on to their batches."""
        end, at = first + len(outcomes), first
        while self.appended and self.appended[0].start < end:
            batch = self.appended[0]
            at = max(at, batch.start)
            part = outcomes[at - first : batch.end - first]
            batch.outcomes = batch.outcomes + part if batch.outcomes else part
            at += len(part)
            if at < batch.end:
                return
            self.appended.popleft()
            batch.finish(batch.outcomes)

    def truncated(self, start: int) -> None:
        """Another leader's entries stand from `start` on, for now.

        That is not definite yet: a server that still holds ours may be elected. The batch
        waits until an entry is applied in its place [RULES L9].
        """
        while self.appended and self.appended[-1].end > start:
            batch = self.appended.pop()
            if batch.start < start:
                batch.finish(OutcomeUnknown("part of the batch was replaced by another leader"))
            elif not batch.answered:
                self.replaced.append(batch)

    def settle_replaced(self, end: int, term_at: Callable[[int], int]) -> None:
        """Everything below `end` is committed: answer the replaced batches that began there."""
        waiting, self.replaced = self.replaced, []
        for batch in waiting:
            if batch.start >= end:
                self.replaced.append(batch)
            elif term_at(batch.start) == batch.term:
                batch.finish(OutcomeUnknown("the command came back with another leader"))
            else:
                batch.finish(Superseded())

    def swallowed(self, index: int) -> None:
        """An installed snapshot covers entries up to `index`: their outcomes are not known."""
        lost = [batch for batch in (*self.appended, *self.replaced) if batch.start <= index]
        self.replaced = [batch for batch in self.replaced if batch.start > index]
        while self.appended and self.appended[0].start <= index:
            self.appended.popleft()
        for batch in lost:
            batch.finish(OutcomeUnknown("an installed snapshot covers the command"))

    def give_up_by(self, deadline: float) -> None:
        """Leadership is lost: appended batches wait for a definite outcome till then at most."""
        for batch in (*self.appended, *self.replaced):
            if batch.deadline > deadline:
                batch.deadline = deadline
                self._count += 1
                heapq.heappush(self._deadlines, (deadline, self._count, batch))

    def fail_all(self, queued: RaftError, appended: RaftError) -> None:
        """End everything: `queued` for what never reached the log, `appended` for the rest."""
        for batch in [*self.take_queued(), *self.proposed.values()]:
            batch.finish(queued)
        self.proposed.clear()
        while self.appended:
            self.appended.popleft().finish(appended)
        for batch in self.replaced:
            batch.finish(appended)
        self.replaced.clear()
        self._deadlines.clear()

    @property
    def next_deadline(self) -> float | None:
        """When `expire` has something to do, or None."""
        while self._deadlines and self._deadlines[0][2].answered:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def expire(self, now: float) -> None:
        """Answer what is past its deadline. An appended batch keeps its place, unanswered."""
        while (deadline := self.next_deadline) is not None and deadline <= now:
            batch = heapq.heappop(self._deadlines)[2]
            if batch.end and now < batch.deadline:
                continue
            batch.finish(Timeout(appended=bool(batch.end)))
