"""Log replication and commitment (5.3, 5.4.2, dissertation 10.2.1) [RULES L1-L10, E7].

A leader sends before its own disk is done and counts itself only when it is. A follower
acknowledges what is saved. Entries commit by counting only in the leader's own term.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from raft.core import elections, membership, reads, snapshots
from raft.core.events import Propose
from raft.core.messages import AppendEntries, AppendEntriesResult, Entries
from raft.core.outputs import (
    Accepted,
    LogRepaired,
    Proposed,
    Quarantined,
    Refusal,
    Rejected,
    Replicated,
)
from raft.core.progress import Pace, Progress
from raft.core.roles import Departure, Follower, Leader
from raft.errors import InvariantViolated

if TYPE_CHECKING:
    from raft.core.server import Server


def become_leader(server: Server) -> None:
    """Lead the current term, beginning with its no-op [RULES R1]."""
    leader = Leader(
        progress={},
        first_index=server.log.last_index + 1,
        heartbeat_deadline=server.now + server.options.heartbeat_seconds,
        elected_at=server.now,
    )
    server.state = leader
    server.election_deadline = math.inf
    _follow_removed(server, leader)
    follow_configuration(server, leader)
    server.append_no_op()


def _follow_removed(server: Server, leader: Leader) -> None:
    """Begin with those before a configuration that may not be committed [RULES M6].

    Whom it removed may not have heard so from its author.
    """
    log = server.log
    if log.configuration_index > server.commit_index:
        for peer in sorted(log.configuration_before.ids - {server.id}):
            leader.progress[peer] = Progress(log.last_index + 1, server.now)


def follow_configuration(server: Server, leader: Leader) -> None:
    """Keep progress for the members of the latest configuration, and for who must hear of it.

    A removed server is sent the entry that removes it before it is forgotten [RULES M6]. One
    that comes back may come with an empty directory: what it answered before is not believed.
    """
    peers, index = server.peers, server.log.configuration_index
    deadline = server.now + server.options.join_timeout_seconds
    for peer in set(leader.progress).difference(peers):
        leader.departing.setdefault(peer, Departure(index, deadline))
    for peer in peers:
        comes_back = leader.departing.pop(peer, None) is not None
        if comes_back or peer not in leader.progress:
            # A leader's own configuration is the first entry to try: it leaves at once.
            begin = index if index >= leader.first_index else server.log.last_index + 1
            first = leader.sequence + 1 if leader.sequence else 0
            leader.progress[peer] = Progress(begin, server.now, first_sequence=first)


def propose(server: Server, proposal: Propose) -> None:
    """Append commands if this server leads, is not handing over and has room [RULES L10]."""
    reason = _refusal(server, proposal.size_bytes)
    if reason is not None:
        server.turn.rejected.append(Rejected(proposal.request, reason))
        return
    start = server.log.last_index + 1
    end, term = start + proposal.count, server.current_term
    server.append(end, proposal.size_bytes, Proposed(start, end, term, proposal.request))
    server.turn.accepted.append(Accepted(proposal.request, start, end, term))


def _refusal(server: Server, size_bytes: int) -> Refusal | None:
    if not isinstance(server.state, Leader):
        return Refusal.NOT_LEADER if server.leader_id else Refusal.NO_LEADER
    if server.state.transfer or server.state.is_leaving:
        return Refusal.TRANSFER_IN_PROGRESS
    if any(each.reason is Refusal.OVERLOADED for each in server.turn.rejected):
        # Commands of one turn are appended in their order: a smaller one must not go past.
        return Refusal.OVERLOADED
    uncommitted = server.log.size_bytes(server.commit_index + 1, server.log.last_index + 1)
    if uncommitted and uncommitted + size_bytes > server.options.max_uncommitted_bytes:
        return Refusal.OVERLOADED
    return None


# The follower's side.


def receive_entries(server: Server, sender: str, request: AppendEntries) -> None:
    """Take in what the leader of this term sent; refuse what does not fit (5.3)."""
    if request.term < server.current_term:
        _refuse(server, sender, request)
        return
    follower = hear_leader(server, sender, request.sequence)
    log = server.log
    if request.prev_log_index >= log.first_index and not log.matches(
        request.prev_log_index, request.prev_log_term
    ):
        _refuse(server, sender, request)
        return
    _append_new(server, request.entries)
    verified = request.prev_log_index
    if request.entries.runs:
        verified = request.entries.end - 1
    follower.verified_index = max(follower.verified_index, verified)
    server.commit_to(min(request.leader_commit, max(follower.verified_index, server.commit_index)))
    if request.entries.runs and log.saved_index < verified:
        follower.owes_acknowledgement = True
    else:
        _acknowledge(server, sender, follower, request.sequence)


def hear_leader(server: Server, sender: str, sequence: int) -> Follower:
    """Follow `sender`, the leader of the current term, and reset the timer."""
    if isinstance(server.state, Leader) or server.leader_id not in (None, sender):
        raise InvariantViolated(
            f"{sender} leads term {server.current_term}, and so does {server.leader_id}"
        )
    follower = server.become_follower(sender)
    server.heard_at = server.now
    server.failed_elections = server.excluded_index = 0
    elections.reset_timer(server)
    follower.sequence = max(follower.sequence, sequence)
    return follower


def _append_new(server: Server, entries: Entries) -> None:
    """Append what is missing, truncating only at a real conflict [RULES L3]."""
    start = server.log.first_difference(entries)
    if start >= entries.end:
        return
    if start <= server.log.last_index:
        server.truncate(start)
    server.log.append_received(entries, start)
    server.turn.append.append(Replicated(start, entries.end, entries.arrival))
    server.log_changed()
    server.configuration_changed()


def _refuse(server: Server, sender: str, request: AppendEntries) -> None:
    """Answer no, with the last entry here of a term not above the one asked for [RULES L6].

    Sequences belong to their term. One of an earlier term is not echoed: the sender may
    lead this term too, and would take it for an answer to a message of this term, which
    confirms reads and tells of lost disks.
    """
    hint_index, hint_term = server.log.last_of_term_at_most(
        request.prev_log_index, request.prev_log_term
    )
    result = AppendEntriesResult(
        term=server.current_term,
        success=False,
        match_index=request.prev_log_index,
        sequence=request.sequence if request.term == server.current_term else 0,
        last_log_index=server.log.last_index,
        hint_index=hint_index,
        hint_term=hint_term,
        promise_seconds=server.options.election_timeout_seconds,
        repairing=server.is_repairing,
    )
    server.send(sender, result)


def _acknowledge(server: Server, leader: str, follower: Follower, sequence: int) -> None:
    """Answer yes, for at most what is verified and saved [RULES L1].

    Every answer tells all of that, a heartbeat's too: an earlier answer may be lost, and
    nothing else would tell the leader when no new entries come.
    """
    result = AppendEntriesResult(
        term=server.current_term,
        success=True,
        match_index=min(follower.verified_index, server.log.saved_index),
        sequence=sequence,
        last_log_index=follower.verified_index,
        promise_seconds=server.options.election_timeout_seconds,
    )
    server.send(leader, result)


def judge_repair(server: Server) -> None:
    """End the repair of a damaged log once it is saved as far as it was [RULES D1].

    The order of elections decides: a log that ends with an entry of a later term holds all that was
    committed before that term, and one of the same term and no lower index holds all that was lost.
    """
    log = server.log
    if not server.is_repairing or log.saved_index < log.first_index - 1:
        return
    if (log.term_at(log.saved_index), log.saved_index) >= server.lost:
        server.lost = (0, 0)
        server.turn.changes.append(LogRepaired(log.saved_index))
        elections.reset_timer(server)


def acknowledge_saved(server: Server) -> None:
    """After a save: send the answer that waited for it, with all that is saved by now."""
    follower = server.state
    if isinstance(follower, Follower) and follower.leader and follower.owes_acknowledgement:
        follower.owes_acknowledgement = server.log.saved_index < follower.verified_index
        _acknowledge(server, follower.leader, follower, follower.sequence)


# The leader's side.


def receive_result(server: Server, sender: str, result: AppendEntriesResult) -> None:
    """Learn from a follower's answer how far it matches, or where to try next [RULES L5]."""
    found = answering(server, sender, result.term, result.sequence)
    if found is None:
        return
    leader, progress = found
    progress.promise_seconds = result.promise_seconds
    if result.success:
        _advance_match(server, leader, progress, result)
        return
    if not result.sequence:
        # It refused a message of an earlier term: no more than a sign of life.
        return
    if not result.last_log_index and membership.forget_departing(leader, sender):
        return
    asked, match = result.match_index, progress.match_index
    went_back = result.sequence > progress.match_sequence and (
        result.last_log_index < match or asked <= match
    )
    probing = progress.pace is Pace.PROBE and asked == progress.next_index - 1
    ahead = progress.pace is Pace.REPLICATE and asked > match
    if went_back and result.repairing:
        _begin_anew(server, leader, sender, result)
    elif went_back:
        server.turn.changes.append(Quarantined(sender, match, result.last_log_index))
        progress.quarantine()
    elif probing or ahead:
        _search(server, progress, result)


def _search(server: Server, progress: Progress, result: AppendEntriesResult) -> None:
    """Probe where the logs may meet, by the follower's hint: a term at a time [RULES L6]."""
    index, _ = server.log.last_of_term_at_most(result.hint_index, result.hint_term)
    progress.probe(min(index + 1, result.match_index))


def _begin_anew(server: Server, leader: Leader, peer: str, result: AppendEntriesResult) -> None:
    """Forget how far a member matched that says it repairs a damaged log [RULES D1].

    It knows what it has lost, and votes by it, so it need not be quarantined [RULES L5]. Answers
    to what was sent before this moment may be those of before the damage: they are not believed.
    """
    progress = Progress(result.match_index, server.now, first_sequence=leader.sequence + 1)
    _search(server, progress, result)
    leader.progress[peer] = progress


def answering(
    server: Server, sender: str, term: int, sequence: int
) -> tuple[Leader, Progress] | None:
    """Return what this leader knows of a member that answers in its term, noting the contact."""
    leader = server.state
    if not isinstance(leader, Leader) or term != server.current_term:
        return None
    progress = leader.progress.get(sender)
    if progress is None or progress.pace is Pace.QUARANTINED or sequence < progress.first_sequence:
        return None
    progress.heard(server.now, sequence)
    reads.note_answer(leader, progress)
    return leader, progress


def _advance_match(
    server: Server, leader: Leader, progress: Progress, result: AppendEntriesResult
) -> None:
    if max(result.match_index, result.last_log_index) > server.log.last_index:
        raise InvariantViolated(
            f"a follower matches {result.last_log_index}, the log ends at {server.log.last_index}"
        )
    probed, received = progress.next_index, result.last_log_index
    progress.matched(result.match_index, leader.sequence)
    if progress.pace is Pace.PROBE:
        if received >= probed or probed > server.log.last_index:
            progress.replicate(received)
        elif result.sequence > progress.append_sequence:
            # It has not seen the probe, which is lost, or had no room for it: send one more.
            # A window would only be lost like it.
            progress.paused = False
    elif progress.pace is Pace.SNAPSHOT:
        if progress.match_index >= progress.snapshot_index:
            progress.replicate(received)
    elif result.sequence > progress.append_sequence and received < progress.next_index - 1:
        # It answered a message sent after the entries and has not seen them: they are lost.
        progress.probe(received + 1)


def unreachable(server: Server, peer: str) -> None:
    """What was in flight to `peer` may be lost: go back to one message at a time [RULES L7].

    A probe that is in flight stays so until a heartbeat is answered: to send another into
    a broken connection would only break again, in a circle.
    """
    progress = server.state.progress.get(peer) if isinstance(server.state, Leader) else None
    if progress is not None and progress.pace is Pace.REPLICATE:
        progress.probe(progress.match_index + 1)


def quorum_contact(server: Server, leader: Leader) -> float:
    """Return since when (at least) a quorum has answered: the time of its oldest last answer."""

    def heard_at(peer: str) -> float:
        if peer == server.id:
            return server.now
        progress = leader.progress[peer]
        return -math.inf if progress.pace is Pace.QUARANTINED else progress.heard_at

    return server.configuration.agreed(heard_at)


def judge_deadlines(server: Server) -> None:
    """Step down without a working disk, or at a heartbeat without a quorum [RULES E7]; else beat.

    The rounds of reads move the heartbeat on, so the disk is judged at every step. They
    end by a quorum's answers only, so the quorum need not be.
    """
    leader = server.state
    if not isinstance(leader, Leader):
        return
    options = server.options
    if server.now - server.unsaved_since >= options.disk_timeout_seconds:
        server.become_follower(None)
        return
    if server.now < leader.heartbeat_deadline:
        return
    unheard = server.now - quorum_contact(server, leader)
    if options.check_quorum and unheard >= options.election_timeout_seconds:
        server.become_follower(None)
        return
    heartbeat(server, leader)


def heartbeat(server: Server, leader: Leader) -> None:
    """Send every member an empty AppendEntries.

    While probing it asks at the probe's place again, so a lost probe costs one interval.
    Otherwise it asks where the follower is known to match: always accepted, however
    many entries are still on their way; the answer tells what was received.
    """
    leader.heartbeat_deadline = server.now + server.options.heartbeat_seconds
    reads.note_beat(server, leader)
    for peer, progress in leader.progress.items():
        if progress.pace is Pace.QUARANTINED:
            continue
        prev_index = progress.match_index
        if progress.pace is Pace.PROBE:
            prev_index = progress.next_index - 1
        if prev_index < server.log.first_index - 1:
            prev_index = 0
        _send_entries(server, leader, peer, prev_index, Entries(prev_index + 1))


def advance(server: Server) -> None:
    """Commit what a majority has saved, if it is of this term (5.4.2) [RULES L4]."""
    leader = server.state
    if not isinstance(leader, Leader):
        return
    agreed = server.configuration.agreed(server.match_index)
    if agreed > server.commit_index:
        index = int(agreed)
        if server.log.term_at(index) == server.current_term:
            server.commit_to(index)


def replicate(server: Server) -> None:
    """Send each follower what it may be sent: at the end of a step, so one turn is one message."""
    leader = server.state
    if isinstance(leader, Leader):
        for peer, progress in leader.progress.items():
            _replicate_to(server, leader, peer, progress)


def _replicate_to(server: Server, leader: Leader, peer: str, progress: Progress) -> None:
    options = server.options
    while progress.next_index <= server.log.last_index and _may_send(server, progress):
        prev_index = progress.next_index - 1
        if prev_index < server.log.first_index - 1:
            # Who is no member needs no state to learn that it is none.
            if peer not in leader.departing:
                snapshots.start(server, leader, peer, progress)
            return
        entries = server.log.cut(
            progress.next_index, options.max_append_bytes, options.max_append_entries
        )
        _send_entries(server, leader, peer, prev_index, entries)
        progress.sent(entries.end, entries.size_bytes, leader.sequence)


def _may_send(server: Server, progress: Progress) -> bool:
    if progress.pace is Pace.PROBE:
        return not progress.paused
    return (
        progress.pace is Pace.REPLICATE
        and progress.inflight_count < server.options.max_inflight_messages
        and progress.inflight_bytes < server.options.max_inflight_bytes
    )


def _send_entries(
    server: Server, leader: Leader, peer: str, prev_index: int, entries: Entries
) -> None:
    leader.sequence += 1
    message = AppendEntries(
        term=server.current_term,
        prev_log_index=prev_index,
        prev_log_term=server.log.term_at(prev_index) if prev_index else 0,
        entries=entries,
        leader_commit=server.commit_index,
        sequence=leader.sequence,
    )
    server.send(peer, message)
