"""Bugs of leases, to be planted into the real core [RULES R9]."""

from __future__ import annotations

import math

import pytest

from raft.core import elections, reads
from raft.core.progress import Progress
from raft.core.roles import Leader
from raft.core.server import Server
from tests.simulation.planted import planted


@planted("R9", "I18")
def a_lease_is_kept_after_a_timeout_now(patch: pytest.MonkeyPatch) -> None:
    """[R9]: it lets its target campaign in spite of all promises."""
    lease_end = reads.lease_end

    def kept(server: Server, leader: Leader) -> float:
        given_up, leader.lease_given_up = leader.lease_given_up, False
        until = lease_end(server, leader)
        leader.lease_given_up = given_up
        return until

    patch.setattr(reads, "lease_end", kept)


@planted("R9", "I18")
def a_lease_counts_from_the_answer(patch: pytest.MonkeyPatch) -> None:
    """[R9]: the voter's promise began when it was sent to, not when its answer arrived."""

    def note_answer(_: Leader, progress: Progress) -> None:
        progress.answered_since = progress.heard_at

    patch.setattr(reads, "note_answer", note_answer)


@planted("R9", "I18")
def a_restarted_voter_forgets_its_promise(patch: pytest.MonkeyPatch) -> None:
    """[R9]: it may have heard a leader just before it lost its memory."""
    patch.setattr(elections, "_may_have_promised", lambda _: False)


@planted("R9", "I18")
def a_lease_trusts_all_clocks(patch: pytest.MonkeyPatch) -> None:
    """[R9]: the promise is counted by a clock that may run faster than the leader's."""
    lease_end = reads.lease_end

    def trusting(server: Server, leader: Leader) -> float:
        bound = server.options.clock_drift_bound or 1.0
        return lease_end(server, leader) + server.options.election_timeout_seconds * (1 - 1 / bound)

    patch.setattr(reads, "lease_end", trusting)


@planted("R9", "I18")
def a_lease_never_ends(patch: pytest.MonkeyPatch) -> None:
    """[R9]: who has once had it has it for the whole term."""
    lease_end = reads.lease_end

    def endless(server: Server, leader: Leader) -> float:
        return math.inf if lease_end(server, leader) > -math.inf else -math.inf

    patch.setattr(reads, "lease_end", endless)
