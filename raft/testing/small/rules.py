"""What the servers of a small world promise together, held against each step of a search.

`Ghost` is the history that no server remembers, and part of the world's state: two ways to the
same place with another history are two states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from attrs import define, evolve, frozen

from raft.core.outputs import Role
from raft.testing.cores.disk import configurations_among
from raft.testing.cores.ghost import Violation
from raft.testing.cores.members import is_quorum
from raft.testing.small.situations import Log, View, shown_log


@frozen
class Ghost:
    """Who led which term, what was ever committed and in which term, and what reads must see."""

    leaders: tuple[tuple[int, str], ...] = ()
    committed: Log = ()
    commit_terms: tuple[int, ...] = ()
    reads: tuple[tuple[int, int], ...] = ()
    """(request, the least index that its answer must tell)."""


def violated(rule: str, reason: str) -> NoReturn:
    """Stop: `rule` is broken."""
    raise Violation(rule, reason)


@define(eq=False)
class Step:
    """One server went from `before` to `after`; `views` are those of all after it."""

    before: View
    after: View
    views: Sequence[View]
    restarted: bool

    def judge(self, ghost: Ghost) -> Ghost:
        """Return the history with this step in it; raise `Violation` where a promise is broken."""
        before, after = self.before, self.after
        if after.role is Role.LEADER and (before.role, before.term) != (Role.LEADER, after.term):
            ghost = self._elected(ghost)
        if after.commit_index > before.commit_index or self.restarted:
            ghost = self._committed(ghost)
        if after.log != before.log:
            self._logs_match()
        if ghost.committed:
            self._kept(ghost)
        self._matched()
        return ghost

    def answer(self, ghost: Ghost, confirmed: Sequence[tuple[int, int]]) -> Ghost:
        """I18: a read tells at least what was committed when it was asked."""
        needed = dict(ghost.reads)
        for request, index in confirmed:
            least = needed.pop(request, 0)
            if index < least:
                violated("I18", f"{self.after.id} answers a read from {index}, not {least}")
        return evolve(ghost, reads=tuple(sorted(needed.items()))) if confirmed else ghost

    def _elected(self, ghost: Ghost) -> Ghost:
        """I1, I6 and I15: one leader a term, chosen by a quorum, with all that is committed."""
        view = self.after
        term = view.term
        for known, leader in ghost.leaders:
            if known == term and leader != view.id:
                violated("I1", f"{leader} and {view.id} both lead term {term}")
        voters = [other.id for other in self.views if dict(other.votes).get(term) == view.id]
        if not is_quorum(view.configuration, voters):
            violated("I15", f"{view.id} leads term {term} by {voters} of {view.configuration}")
        # Entries committed in this term or later came after this election, even where its last
        # vote arrived late.
        earlier = sum(each < term for each in ghost.commit_terms)
        if view.log[:earlier] != ghost.committed[:earlier]:
            violated(
                "I6",
                f"{view.id} leads {term} with {shown_log(view.log)}, "
                f"committed is {shown_log(ghost.committed)}",
            )
        return evolve(ghost, leaders=tuple(sorted({*ghost.leaders, (term, view.id)})))

    def _committed(self, ghost: Ghost) -> Ghost:
        """I7 and I8: all commit the same, a leader what a quorum holds of its own term."""
        view, index = self.after, self.after.commit_index
        if view.role is Role.LEADER and index > self.before.commit_index:
            self._counted(view, index)
        ours, theirs = view.log[:index], ghost.committed
        length = min(len(ours), len(theirs))
        if ours[:length] != theirs[:length]:
            violated("I7", f"{view.id} commits {shown_log(ours)}, committed is {shown_log(theirs)}")
        if index <= len(theirs):
            return ghost
        terms = (view.term,) * (index - len(theirs))
        return evolve(ghost, committed=ours, commit_terms=ghost.commit_terms + terms)

    def _counted(self, view: View, index: int) -> None:
        if view.log[index - 1][0] != view.term:
            violated(
                "I8", f"{view.id} commits {index} of {shown_log(view.log)} in term {view.term}"
            )
        holders = [other.id for other in self.views if other.disk.log[:index] == view.log[:index]]
        # A step may commit, and append the next configuration then.
        known = (view.configuration, self.before.configuration)
        if not any(is_quorum(each, holders) for each in known):
            violated("I8", f"{view.id} commits {index}, {holders} hold it of {known[0]}")

    def _logs_match(self) -> None:
        """I5: where two logs have an entry of equal index and term, they are equal up to it."""
        for other in self.views:
            if other.id != self.after.id and not _match(self.after.log, other.log):
                violated(
                    "I5",
                    f"{self.after.id} holds {shown_log(self.after.log)}, "
                    f"{other.id} {shown_log(other.log)}",
                )

    def _kept(self, ghost: Ghost) -> None:
        """I9: a quorum holds durably what is committed."""
        committed = ghost.committed
        end = len(committed)
        holders = [view.id for view in self.views if view.disk.log[:end] == committed]
        # An entry commits by the configuration that its leader has by then.
        known = {view.configuration for view in self.views if view.log}
        known.update(configuration for _, configuration in configurations_among(1, committed)[-2:])
        if not any(is_quorum(each, holders) for each in known):
            violated("I9", f"only {holders} hold what is committed: {shown_log(committed)}")

    def _matched(self) -> None:
        """I10: a match index stands for entries that are durable there, and the same."""
        by_id = {view.id: view for view in self.views}
        for leader in self.views:
            for peer, index in leader.match:
                follower = by_id[peer]
                # A later leader may have replaced what this one will never commit.
                if follower.term > leader.term:
                    continue
                if index > len(leader.log) or follower.disk.log[:index] != leader.log[:index]:
                    violated(
                        "I10",
                        f"{leader.id} matches {peer} to {index}: {shown_log(follower.disk.log)}",
                    )


def _match(ours: Log, theirs: Log) -> bool:
    common = 0
    for index, (one, other) in enumerate(zip(ours, theirs, strict=False), 1):
        if one[0] == other[0]:
            common = index
    return ours[:common] == theirs[:common]
