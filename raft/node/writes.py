"""Writes on their way: from the caller to the log, and from the machine back to the caller.

The unit is a batch: the commands of one client's box, or all that this process's own
callers wrote in one turn. A batch is appended whole, in the order of issue, and answered
once, when its last command is applied. Nothing is kept for a single command.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import Final

from attrs import Factory, define

from raft.errors import (
    InvariantViolated,
    OutcomeUnknown,
    RaftError,
    Superseded,
    Timeout,
)
from raft.node.answers import Answered, Answers, Outcome, nobody
from raft.node.deadlines import Deadlines
from raft.node.sequences import Place, too_early
from raft.outcomes import NOTHING
from raft.storage.records import HEADER_BYTES, Kind

COMMAND: Final = Kind.COMMAND.value
TURN_BYTES: Final = 64 << 10
"""Who is answered may write anew: after so much of that, a turn comes before more answers."""
GROUP_BYTES: Final = 64 << 10
"""The most that is joined to one proposal; the core's log joins sizes up to as much."""


@define(eq=False)
class Batch:
    """Commands that are appended and answered together.

    `answer` takes all outcomes in order, or the error of the whole. `deadline` is in
    monotonic seconds. Entries [start, end) of `term` are the commands once appended.
    """

    payloads: list[bytes]
    deadline: float
    answer: Answered
    kind: int = COMMAND
    """Of its entries, as their records say; all of one kind."""
    place: Place | None = None
    """Its numbers, where its commands are those of a session."""
    frees_log: bool = False
    """The log can be compacted only behind it: it is appended on a full disk too [RULES D4]."""
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
        payloads = self.payloads
        if len(payloads) == 1:
            # Asked three times for each box, and most clients' boxes hold one command.
            return len(payloads[0]) + HEADER_BYTES
        return sum(map(len, payloads)) + HEADER_BYTES * len(payloads)

    def close(self) -> Answered:
        """Count as answered, keep nothing more, and return whom to tell."""
        if self.place is not None:
            self.place.closed(self)
        answer, self.answer, self.answered = self.answer, nobody, True
        self.payloads, self.outcomes = [], []
        return answer

    def finish(self, result: list[Outcome] | RaftError) -> None:
        """Answer at once, if it is not answered yet: for the caller's own call only."""
        if not self.answered:
            self.close()(result)


@define(eq=False)
class Group:
    """Batches that are one proposal to the core; each is still answered for itself."""

    batches: list[Batch]
    size_bytes: int

    @property
    def payloads(self) -> list[bytes]:
        """The commands of all of them, in order."""
        if len(self.batches) == 1:
            return self.batches[0].payloads
        return [payload for batch in self.batches for payload in batch.payloads]

    @property
    def kind(self) -> int:
        """What their entries are; the same for all of them."""
        return self.batches[0].kind

    @property
    def count(self) -> int:
        """How many commands there are."""
        return sum(len(batch.payloads) for batch in self.batches)


def groups_of(batches: list[Batch]) -> list[Group]:
    """Join batches of one kind, in order, to groups of at most GROUP_BYTES, or of one batch.

    What a proposal costs the core and the scribe is so paid for a turn's boxes together, and
    not for each: a thousand clients with one write each are the rule, not the exception.
    """
    groups: list[Group] = []
    kind = -1
    for batch in batches:
        size_bytes = batch.size_bytes
        if batch.kind == kind and groups[-1].size_bytes + size_bytes <= GROUP_BYTES:
            groups[-1].batches.append(batch)
            groups[-1].size_bytes += size_bytes
        else:
            kind = batch.kind
            groups.append(Group([batch], size_bytes))
    return groups


@define
class Writes:
    """All batches of one server: queued, proposed in this turn, and appended."""

    answers: Answers
    queued: list[Batch] = Factory(list)
    queued_bytes: int = 0
    proposed: dict[int, Group] = Factory(dict)
    appended: deque[Batch] = Factory(deque)
    """In the order of their indexes, which never overlap."""
    replaced: list[Batch] = Factory(list)
    """Batches whose entries another leader's replaced, not yet definitely."""
    deadlines: Deadlines[Batch] = Factory(Deadlines)

    def queue(self, batch: Batch) -> None:
        """Take a batch for this turn's step."""
        self.queued.append(batch)
        self.queued_bytes += batch.size_bytes
        self.deadlines.add(batch.deadline, batch)

    def is_worth_a_turn(self) -> bool:
        """Tell whether so much is queued that followers should have it before more is written."""
        return self.queued_bytes >= TURN_BYTES

    def take_queued(self) -> list[Batch]:
        """Return what waits to be proposed, without what has been answered meanwhile."""
        taken, self.queued, self.queued_bytes = self.queued, [], 0
        for batch in taken:
            batch.taken = True
            if not batch.payloads:
                self.answers.put(batch, [])
        return [batch for batch in taken if not batch.answered]

    def accepted(self, request: int, start: int, end: int, term: int) -> None:
        """Note where the batches of a proposal stand in the log."""
        batches = self.proposed.pop(request).batches
        # Entries of an older term from `start` on were replaced before these came.
        self.truncated(start)
        for batch in batches:
            batch.start, batch.term = start, term
            start += len(batch.payloads)
            batch.end = start
            # The records are made: the cache and the disk have them.
            batch.payloads = []
        if start != end:
            raise InvariantViolated(f"a proposal's commands end at {start}, its entries at {end}")
        self.appended.extend(batches)

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
            self.answers.put(batch, batch.outcomes)

    def committed(self, end: int) -> None:
        """Answer the batches that stand below index `end`: their entries have no results here."""
        while self.appended and self.appended[0].end <= end:
            batch = self.appended.popleft()
            self.answers.put(batch, [NOTHING] * (batch.end - batch.start))

    def truncated(self, start: int) -> None:
        """Another leader's entries stand from `start` on, for now.

        That is not definite yet: a server that still holds ours may be elected. The batch
        waits until an entry is applied in its place [RULES L9].
        """
        while self.appended and self.appended[-1].end > start:
            batch = self.appended.pop()
            if batch.start < start:
                unknown = OutcomeUnknown("part of the batch was replaced by another leader")
                self.answers.put(batch, unknown)
            elif not batch.answered:
                self.replaced.append(batch)

    def settle_replaced(self, end: int, last_term: int, term_at: Callable[[int], int]) -> None:
        """Answer the replaced batches of which the entries below `end` tell the fate.

        All of those are committed, the last one in `last_term`. Terms never fall along a
        log: behind an entry of a later term than its own, a batch can never come back.
        """
        waiting, self.replaced = self.replaced, []
        for batch in waiting:
            if batch.start >= end:
                if last_term > batch.term:
                    self.answers.put(batch, Superseded())
                else:
                    self.replaced.append(batch)
            elif term_at(batch.start) == batch.term:
                unknown = OutcomeUnknown("the command came back with another leader")
                self.answers.put(batch, unknown)
            else:
                self.answers.put(batch, Superseded())

    def swallowed(self, index: int) -> None:
        """An installed snapshot covers entries up to `index`: their outcomes are not known."""
        lost = [batch for batch in (*self.appended, *self.replaced) if batch.start <= index]
        self.replaced = [batch for batch in self.replaced if batch.start > index]
        while self.appended and self.appended[0].start <= index:
            self.appended.popleft()
        for batch in lost:
            self.answers.put(batch, OutcomeUnknown("an installed snapshot covers the command"))

    def give_up_by(self, deadline: float) -> None:
        """Leadership is lost: appended batches wait for a definite outcome till then at most."""
        for batch in (*self.appended, *self.replaced):
            if batch.deadline > deadline:
                batch.deadline = deadline
                self.deadlines.add(deadline, batch)

    def fail_all(self, queued: RaftError, appended: RaftError) -> None:
        """End everything: `queued` for what never reached the core, `appended` for the rest.

        What is proposed was taken by a step that did not come to its end. It may be on its
        way to the disk and to peers.
        """
        for batch in self.take_queued():
            self.answers.put(batch, queued)
        groups = [group.batches for group in self.proposed.values()]
        for batch in chain(*groups, self.appended, self.replaced):
            self.answers.put(batch, appended)
        self.proposed.clear()
        self.appended.clear()
        self.replaced.clear()
        self.deadlines.clear()

    def expire(self, now: float) -> None:
        """Answer what is past its deadline. An appended batch keeps its place, unanswered."""
        for batch in self.deadlines.due(now):
            place = batch.place
            if place is None or batch.deadline <= now:
                # Of a copy somebody else's entries are under way.
                under_way = bool(batch.end) or (place is not None and place.is_copy)
                self.answers.put(batch, Timeout(appended=under_way))
            elif place.is_early:
                self.answers.put(batch, too_early(place))
