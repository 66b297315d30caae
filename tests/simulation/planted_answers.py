"""Bugs that swallow answers, or drop what others count on; see `planted`."""

from __future__ import annotations

import pytest

from raft.core import reads, replication
from raft.core.events import Propose
from raft.core.outputs import Refusal
from raft.core.roles import Leader
from raft.core.server import Server
from tests.simulation.planted import planted


@planted("I22")
def reads_are_forgotten_with_the_role(patch: pytest.MonkeyPatch) -> None:
    """[R6]: whoever asked waits for an answer that nobody is going to give."""
    fail_all = reads.fail_all

    def silent(server: Server) -> None:
        lost = list(server.turn.lost)
        fail_all(server)
        server.turn.lost[:] = lost

    patch.setattr(reads, "fail_all", silent)


@planted("I22")
def a_write_during_a_transfer_is_swallowed(patch: pytest.MonkeyPatch) -> None:
    """[M10]: it is not appended, and nobody is told so."""
    propose = replication.propose

    def deaf(server: Server, proposal: Propose) -> None:
        propose(server, proposal)
        server.turn.rejected[:] = [
            each for each in server.turn.rejected if each.reason is not Refusal.TRANSFER_IN_PROGRESS
        ]

    patch.setattr(replication, "propose", deaf)


@planted("I9", "I8", "I6", "raised")
def a_new_term_drops_what_is_not_known_as_committed(patch: pytest.MonkeyPatch) -> None:
    """[L3]: a follower hears of a commit late, and was counted for it before."""
    adopt_term = Server.adopt_term

    def tidy(server: Server, term: int) -> None:
        if not isinstance(server.state, Leader) and 1 < server.commit_index < server.log.last_index:
            server.truncate(server.commit_index + 1)
        adopt_term(server, term)

    patch.setattr(Server, "adopt_term", tidy)


@planted("L4")
def a_leader_resigns_after_a_while(patch: pytest.MonkeyPatch) -> None:
    """Safe, and served again soon; but nobody who is well has a reason to."""
    judge_deadlines = replication.judge_deadlines

    def weary(server: Server) -> None:
        leader = server.state
        lasting = 8 * server.options.election_timeout_seconds
        if isinstance(leader, Leader) and server.now > leader.elected_at + lasting:
            server.become_follower(None)
        judge_deadlines(server)

    patch.setattr(replication, "judge_deadlines", weary)
