"""Leader election (dissertation chapter 3.4, 4.2.3, 6.2 and 9.6) [RULES E1-E9].

Pre-vote, leader stickiness and check-quorum belong together: alone, none of them gives
both liveness and stability.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from raft.core import founding, replication
from raft.core.messages import PreVote, PreVoteResult, RequestVote, RequestVoteResult
from raft.core.roles import Candidate, Follower, Leader, PreCandidate

if TYPE_CHECKING:
    from raft.core.server import Server


def reset_timer(server: Server) -> None:
    """Draw the next election deadline anew; who may not campaign forgets a silent leader then.

    Timeouts lengthen by a quarter after each failure in a row, up to twice [RULES E9].
    """
    if not server.may_campaign:
        follows = server.leader_id not in (None, server.id)
        forgets_at = server.now + server.options.election_timeout_seconds
        server.election_deadline = forgets_at if follows else math.inf
        return
    timeout = server.options.election_timeout_seconds * (1 + server.rng.random())
    begin = max(server.now, founding.waits_until(server))
    server.election_deadline = begin + timeout * min(2.0, 1 + 0.25 * server.failed_elections)


def heard_leader(server: Server, asker: str) -> bool:
    """Tell whether this server heard a leader within its minimum election timeout.

    The one predicate behind pre-vote and stickiness [RULES E5, E6]. A leader counts itself as
    heard while its quorum answers. A known leader that itself asks has restarted: not heard.
    """
    if not server.options.check_quorum:
        return False
    if server.options.clock_drift_bound and _may_have_promised(server):
        return True
    if isinstance(server.state, Leader):
        contact = replication.quorum_contact(server, server.state)
        return server.now - contact < server.options.election_timeout_seconds
    return server.leader_id not in (None, asker) and _heard_of_late(server)


def _heard_of_late(server: Server) -> bool:
    return server.now - server.heard_at < server.options.election_timeout_seconds


def _may_have_promised(server: Server) -> bool:
    """Tell whether a lease may rest on a leader that this server heard and has forgotten.

    It forgets in a restart, and when it learns a newer term, from whatever message. A whole
    election timeout later no lease can rest on that [RULES R9].
    """
    if server.leader_id is None and _heard_of_late(server):
        return True
    return server.now - server.started_at < server.options.election_timeout_seconds


def leave_elections(server: Server, index: int) -> None:
    """Stand for no election: the committed configuration at `index` has no such member [RULES M6].

    It was removed while it was away, and nobody sends it anything that would say so. Whoever
    lacks a committed entry wins no election, so no cluster needs this one to stand. A leader that
    is heard knows better: it may have come back since. It may also have fallen silent because of
    this very removal, so what was said meanwhile is looked at when none is heard any more.
    """
    if _heard_of_late(server):
        server.told_excluded_index = max(server.told_excluded_index, index)
    elif _is_excluded(server, index):
        server.excluded_index = index
        if not isinstance(server.state, Leader):
            server.become_follower(None)
            reset_timer(server)


def _is_excluded(server: Server, index: int) -> bool:
    """Tell whether the configuration at `index` is newer than any that has this server."""
    own, log = server.configuration, server.log
    is_newer = index > log.configuration_index or (
        index == log.configuration_index and server.id not in own.ids
    )
    return is_newer and bool(log.configuration_index)


def judge_deadlines(server: Server) -> None:
    """Campaign where no leader was heard in time; a leader has no such deadline.

    Who may not campaign names no leader any more: it would send clients astray for good.
    """
    if server.now < server.election_deadline:
        return
    told_index, server.told_excluded_index = server.told_excluded_index, 0
    if told_index and _is_excluded(server, told_index):
        server.excluded_index = told_index
    if not server.may_campaign:
        server.election_deadline = math.inf
        server.become_follower(None)
        return
    if not isinstance(server.state, Follower):
        server.failed_elections += 1
    if server.options.pre_vote:
        become_pre_candidate(server)
    else:
        become_candidate(server)


def become_pre_candidate(server: Server) -> None:
    """Ask whether an election would succeed, changing neither term nor vote [RULES E5]."""
    server.leave_role()
    server.state = PreCandidate(granted={server.id})
    reset_timer(server)
    request = PreVote(server.current_term + 1, server.log.last_index, server.log.last_term)
    for peer in _other_voters(server):
        server.send(peer, request)
    if server.configuration.majority(server.state.granted):
        become_candidate(server)


def become_candidate(server: Server, leadership_transfer: bool = False) -> None:
    """Increment the term, vote for self, ask for votes (5.2).

    The own vote counts, and the requests leave, once term and vote are saved.
    """
    server.adopt_term(server.current_term + 1)
    server.vote_for(server.id)
    server.state = Candidate()
    reset_timer(server)
    request = RequestVote(
        server.current_term, server.log.last_index, server.log.last_term, leadership_transfer
    )
    for peer in _other_voters(server):
        server.send(peer, request)


def _other_voters(server: Server) -> list[str]:
    return [peer for peer in server.peers if server.configuration.is_voter(peer)]


def answer_pre_vote(server: Server, sender: str, request: PreVote) -> None:
    """Say whether `sender` would get this server's vote; change nothing [RULES E5]."""
    granted = (
        request.term >= server.current_term
        and server.would_elect(request.last_log_index, request.last_log_term)
        and founding.may_elect(server, sender, request.last_log_term)
        and not heard_leader(server, sender)
    )
    term = request.term if granted else server.current_term
    server.send(sender, PreVoteResult(term, granted))


def count_pre_vote(server: Server, sender: str, result: PreVoteResult) -> None:
    """Count a grant of the term asked for; a refusal from a newer term is adopted."""
    state = server.state
    if not result.vote_granted:
        if result.term > server.current_term:
            server.adopt_term(result.term)
    elif isinstance(state, PreCandidate) and result.term == server.current_term + 1:
        state.granted.add(sender)
        if server.configuration.majority(state.granted):
            become_candidate(server)


def answer_vote_request(server: Server, sender: str, request: RequestVote) -> None:
    """Grant or refuse this term's vote (5.2, 5.4.1).

    Who heard a leader refuses without adopting the term, unless the leader itself wants
    the election [RULES E6]. The answer leaves once the vote is saved.
    """
    disruption = heard_leader(server, sender) and not request.leadership_transfer
    if request.term < server.current_term or disruption:
        server.send(sender, RequestVoteResult(server.current_term, vote_granted=False))
        return
    if request.term > server.current_term:
        server.adopt_term(request.term)
    granted = (
        server.voted_for in (None, sender)
        and server.leader_id is None
        and founding.may_elect(server, sender, request.last_log_term)
        and server.would_elect(request.last_log_index, request.last_log_term)
    )
    if granted:
        server.vote_for(sender)
        server.become_follower(None)
        reset_timer(server)
    server.send(sender, RequestVoteResult(server.current_term, granted))


def count_vote(server: Server, sender: str, result: RequestVoteResult) -> None:
    """Count a vote of this term and this election: a set of voters, never a number [RULES E3]."""
    state = server.state
    if isinstance(state, Candidate) and result.term == server.current_term and result.vote_granted:
        state.granted.add(sender)
        _judge(server, state)


def count_own_vote(server: Server) -> None:
    """Count the candidate's own vote once it is on its disk."""
    state = server.state
    if isinstance(state, Candidate) and server.saved_ticket >= server.hard_state_ticket:
        state.granted.add(server.id)
        _judge(server, state)


def _judge(server: Server, candidate: Candidate) -> None:
    if server.id in candidate.granted and server.configuration.majority(candidate.granted):
        server.failed_elections = 0
        replication.become_leader(server)
