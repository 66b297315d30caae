"""Linearizable reads by ReadIndex (dissertation 6.4) [RULES R1-R9].

One round of messages, sent after the reads arrived, serves all of them. While it is under
way, new reads wait for the next round. A follower asks its leader.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from raft.core import replication
from raft.core.messages import ReadIndex, ReadIndexResult
from raft.core.outputs import ReadConfirmed, Refusal, Rejected
from raft.core.roles import Leader, Question, ReadOrigin, ReadRound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raft.core.events import Read
    from raft.core.progress import Progress
    from raft.core.server import Server


def ask(server: Server, read: Read) -> None:
    """Take a read of this server's own shell."""
    leader = server.state
    if isinstance(leader, Leader):
        until = lease_end(server, leader) if read.lease else -math.inf
        if server.now < until:
            confirmed = ReadConfirmed(read.request, server.commit_index, until)
            server.turn.confirmed.append(confirmed)
        else:
            leader.waiting_reads.append(ReadOrigin(read.request))
    elif server.leader_id is None:
        server.turn.rejected.append(Rejected(read.request, Refusal.NO_LEADER))
    else:
        # The number on the wire is never one of an earlier life or question (sc-D3).
        server.next_question += 1
        server.asked_leader[server.next_question] = Question(read.request, server.now)
        server.send(server.leader_id, ReadIndex(server.current_term, server.next_question))


def ask_again(server: Server) -> None:
    """Repeat the questions that the leader should have answered long ago [RULES R8]."""
    if server.leader_id is None:
        return
    for number, question in server.asked_leader.items():
        if server.now - question.asked_at >= server.options.election_timeout_seconds:
            question.asked_at = server.now
            server.send(server.leader_id, ReadIndex(server.current_term, number))


# Leases (6.4.1) [RULES R9].


def note_beat(server: Server, leader: Leader) -> None:
    """Remember when a heartbeat was sent: an answer to it, or to a later one, extends a lease."""
    if not server.options.clock_drift_bound:
        return
    # Rounds of reads may beat a thousand times a second; some of them are enough.
    spacing = server.options.heartbeat_seconds / 4
    if not leader.beats or server.now - leader.beats[-1][1] >= spacing:
        leader.beats.append((leader.sequence + 1, server.now))
    while server.now - leader.beats[0][1] > 2 * server.options.election_timeout_seconds:
        leader.beats.popleft()


def note_answer(leader: Leader, progress: Progress) -> None:
    """Learn from an answer since when, at least, the follower has been hearing this leader."""
    for sequence, sent_at in reversed(leader.beats):
        if sequence <= progress.acked_sequence:
            progress.answered_since = sent_at
            return


def lease_end(server: Server, leader: Leader) -> float:
    """Return until when no other leader can have been elected, by this server's clock.

    It counts from when the round that a quorum answered was *sent*, for the shortest time for
    which the voters promised to hear no other candidate, divided by the drift of clocks.
    There is none at the start of a term, nor after a TimeoutNow.
    """
    bound = server.options.clock_drift_bound
    if (
        not bound
        or not server.options.check_quorum
        or leader.lease_given_up
        or server.commit_index < leader.first_index
    ):
        return -math.inf

    def since(peer: str) -> float:
        if peer == server.id:
            return server.now
        progress = leader.progress[peer]
        return progress.answered_since if progress.promise_seconds else -math.inf

    promises = [
        progress.promise_seconds
        for peer, progress in leader.progress.items()
        if progress.promise_seconds and server.configuration.is_voter(peer)
    ]
    shortest = min([*promises, server.options.election_timeout_seconds])
    return server.configuration.agreed(since) + shortest / bound


def answer_read_index(server: Server, sender: str, request: ReadIndex) -> None:
    """Take a follower's read; whoever does not lead this term says so at once."""
    if isinstance(server.state, Leader) and request.term == server.current_term:
        server.state.waiting_reads.append(ReadOrigin(request.request, sender))
    else:
        server.send(sender, ReadIndexResult(server.current_term, request.request, None))


def receive_read_index(server: Server, result: ReadIndexResult) -> None:
    """Pass the leader's answer on; answers nobody waits for are dropped [RULES R8]."""
    question = server.asked_leader.pop(result.request, None)
    if question is None:
        return
    if result.index is None or result.term < server.current_term:
        server.turn.lost.append(question.request)
    else:
        server.turn.confirmed.append(ReadConfirmed(question.request, result.index))


def cancel(server: Server, requests: Sequence[int]) -> None:
    """Forget reads nobody waits for."""
    gone = set(requests)
    server.asked_leader = {
        number: question
        for number, question in server.asked_leader.items()
        if question.request not in gone
    }
    leader = server.state
    if isinstance(leader, Leader):
        leader.waiting_reads = _without(leader.waiting_reads, gone)
        if leader.round:
            leader.round.origins = _without(leader.round.origins, gone)


def _without(origins: list[ReadOrigin], gone: set[int]) -> list[ReadOrigin]:
    return [origin for origin in origins if origin.peer or origin.request not in gone]


def fail_all(server: Server) -> None:
    """The role or the leader changes: no pending read may be confirmed any more [RULES R6]."""
    server.turn.lost += [question.request for question in server.asked_leader.values()]
    server.asked_leader = {}
    leader = server.state
    if not isinstance(leader, Leader):
        return
    origins = leader.waiting_reads + (leader.round.origins if leader.round else [])
    leader.waiting_reads, leader.round = [], None
    for origin in origins:
        if origin.peer is None:
            server.turn.lost.append(origin.request)
        else:
            server.send(origin.peer, ReadIndexResult(server.current_term, origin.request, None))


def advance(server: Server) -> None:
    """Confirm the round that a quorum has answered, and begin the next [RULES R3, R4]."""
    leader = server.state
    if not isinstance(leader, Leader):
        ask_again(server)
        return
    _end_round(server, leader)
    if leader.round is None and leader.waiting_reads and server.commit_index >= leader.first_index:
        origins, leader.waiting_reads = leader.waiting_reads, []
        # Only answers to messages that are sent from here on count [RULES R3].
        leader.round = ReadRound(leader.sequence + 1, server.commit_index, origins)
        replication.heartbeat(server, leader)
        _end_round(server, leader)


def _end_round(server: Server, leader: Leader) -> None:
    """Answer the round's reads if a quorum of voters (of both halves) still follows."""
    if leader.round is None or _confirmed_sequence(server, leader) < leader.round.sequence:
        return
    finished, leader.round = leader.round, None
    for origin in finished.origins:
        if origin.peer is None:
            server.turn.confirmed.append(ReadConfirmed(origin.request, finished.index))
        else:
            result = ReadIndexResult(server.current_term, origin.request, finished.index)
            server.send(origin.peer, result)


def _confirmed_sequence(server: Server, leader: Leader) -> float:
    def acked(peer: str) -> float:
        return math.inf if peer == server.id else leader.progress[peer].acked_sequence

    return server.configuration.agreed(acked)
