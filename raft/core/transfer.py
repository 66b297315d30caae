"""Leadership transfer (dissertation 3.10) [RULES M10]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.core import elections
from raft.core.messages import TimeoutNow
from raft.core.outputs import Refusal, TransferEnded
from raft.core.progress import Pace
from raft.core.roles import Leader, Transfer

if TYPE_CHECKING:
    from raft.core.server import Server


def begin(server: Server, target: str | None, request: int = 0) -> None:
    """Stop taking proposals and hand over, if this server leads and `target` votes."""
    leader = server.state
    if not isinstance(leader, Leader):
        reason = Refusal.NOT_LEADER if server.leader_id else Refusal.NO_LEADER
        server.turn.changes.append(TransferEnded(reason, request))
        return
    if leader.transfer is not None:
        server.turn.changes.append(TransferEnded(Refusal.TRANSFER_IN_PROGRESS, request))
        return
    if target is None:
        target = _best_voter(server, leader)
    if target not in leader.progress or target not in server.configuration.voters:
        server.turn.changes.append(TransferEnded(Refusal.NOT_A_VOTER, request))
        return
    deadline = server.now + server.options.election_timeout_seconds
    leader.transfer = Transfer(target, deadline, request=request)


def _best_voter(server: Server, leader: Leader) -> str:
    """Return the voter whose log is longest and who was heard last; empty without any other."""
    voters = [peer for peer in leader.progress if peer in server.configuration.voters]
    return max(
        voters,
        key=lambda peer: (leader.progress[peer].match_index, leader.progress[peer].heard_at, peer),
        default="",
    )


def advance(server: Server) -> None:
    """Tell the target to campaign once it has everything; give up after an election timeout."""
    leader = server.state
    if not isinstance(leader, Leader) or leader.transfer is None:
        return
    transfer = leader.transfer
    # The target stays a member: no configuration is appended during a transfer.
    progress = leader.progress[transfer.target]
    if progress.pace is Pace.QUARANTINED or server.now >= transfer.deadline:
        abandon(server)
    elif not transfer.sent and progress.match_index == server.log.last_index:
        transfer.sent = True
        leader.lease_given_up = True
        server.send(transfer.target, TimeoutNow(server.current_term))


def abandon(server: Server) -> None:
    """End a transfer that is under way; proposals are taken again."""
    if isinstance(server.state, Leader) and server.state.transfer is not None:
        ended = TransferEnded(None, server.state.transfer.request)
        server.state.transfer = None
        server.turn.changes.append(ended)


def timeout_now(server: Server, sender: str, message: TimeoutNow) -> None:
    """Campaign at once, without a pre-vote, because the leader of this term wishes it.

    Who does not vote by its own configuration never campaigns [RULES E8], nor who lacks what its
    log once held [RULES D1]. Whoever leads the term is its own leader, and nobody's target.
    """
    if (
        message.term == server.current_term
        and server.is_voter
        and not server.is_repairing
        and server.leader_id in (None, sender)
    ):
        elections.become_candidate(server, leadership_transfer=True)
