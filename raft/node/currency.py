"""Since when a server knows its own state to be current: the age of local reads [RULES R10].

A leader says in every AppendEntries up to where the log is committed. Whoever has applied so
much, and an entry of that leader's own term with it, has all that was committed when the
message left: a new leader's word alone may lag behind what its predecessor had acknowledged.
A leader's own state is current as of the last contact with a quorum.
"""

from __future__ import annotations

import math
from collections import deque

from attrs import Factory, define

from raft.core import messages as ms
from raft.core.replication import quorum_contact
from raft.core.roles import Leader
from raft.core.server import Server
from raft.replica import Replica

NOTES = 1024
"""So many words of a leader are kept while the machine is behind them."""

LONG_TURN_HEARTBEATS = 2


@define(eq=False)
class Currency:
    """What a server was told of the commit index, and when; `known_at` is what came of it."""

    known_at: float = -math.inf
    """The state is known to have been current at this time (monotonic seconds)."""
    _arrived: list[tuple[str, int, int]] = Factory(list)
    """(leader, term, commit index) of this turn's messages."""
    _notes: deque[tuple[int, int, float]] = Factory(deque)
    """(commit index, term, time), not applied yet."""
    _turned_at: float = -math.inf

    def heard(self, sender: str, message: ms.AppendEntries) -> None:
        """Take a message; `judge` tells after the step whether its sender leads."""
        self._arrived.append((sender, message.term, message.leader_commit))

    def judge(self, server: Server, replica: Replica, now: float) -> None:
        """Believe what arrived from the present leader.

        What arrives after a long silence may have been waiting in this stalled process, so it
        counts from the turn before: from when it can have arrived at the earliest.
        """
        longest = LONG_TURN_HEARTBEATS * server.options.heartbeat_seconds
        at = now if now - self._turned_at <= longest else self._turned_at
        self._turned_at = now
        self._settle(replica)
        for sender, term, commit_index in self._arrived:
            if term == server.current_term and sender == server.leader_id:
                self._note(commit_index, term, at)
        self._arrived.clear()

    def age_seconds(self, server: Server, replica: Replica, now: float) -> float:
        """Return for how long the state has not been known to be current; may be infinite."""
        if isinstance(server.state, Leader):
            contact = quorum_contact(server, server.state)
            self._note(server.commit_index, server.current_term, contact)
        self._settle(replica)
        return max(0.0, now - self.known_at)

    def _settle(self, replica: Replica) -> None:
        notes = self._notes
        while notes and _has(replica, notes[0]):
            self.known_at = max(self.known_at, notes.popleft()[2])

    def _note(self, commit_index: int, term: int, at: float) -> None:
        notes = self._notes
        same = notes and notes[-1][:2] == (commit_index, term)
        if same or len(notes) >= NOTES:
            # The later word stands for the earlier one: it asks for no less, and is newer.
            at = max(at, notes.pop()[2])
        notes.append((commit_index, term, at))


def _has(replica: Replica, note: tuple[int, int, float]) -> bool:
    commit_index, term, _ = note
    return replica.last_applied >= commit_index and replica.last_applied_term >= term
