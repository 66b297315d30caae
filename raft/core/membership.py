"""Changes of the configuration (dissertation chapter 4) [RULES M1-M7].

A caller names the members that are to be, all of them. The way there is decided here, one
entry at a time, and stands in the log (`Configuration.target`), so that a new leader goes on
where the old one was:

1. newcomers become learners, and catch up; who cannot makes the change end where it began;
2. then one step where one vote is won or lost, or a joint configuration;
3. once a joint configuration is committed, the target alone.

Nobody gains or loses a vote but in 2 and 3, and never without a majority of the voters that
are to be, seen alive: what is appended counts at once, and without them nothing is
committed any more, not even the way back.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrs import evolve

from raft.core import replication, transfer
from raft.core.configuration import Configuration, Member
from raft.core.outputs import Accepted, ChangeAbandoned, Refusal, Rejected
from raft.core.progress import Pace, Progress
from raft.core.roles import CatchUp, Leader

if TYPE_CHECKING:
    from raft.core.events import ChangeConfiguration, PinIncarnations, Unfit
    from raft.core.server import Server

CATCH_UP_ROUNDS = 10
"""A newcomer will not catch up after so many rounds that were too long [D 4.2.1]."""


def may_change(server: Server) -> bool:
    """Tell whether a new configuration may be appended [RULES M2].

    Only a leader that has committed an entry of its own term may, and only when the
    latest configuration is committed. During a transfer of leadership nothing is appended:
    the target must have the whole log [RULES M10].
    """
    return (
        isinstance(server.state, Leader)
        and server.state.transfer is None
        and server.commit_index >= server.state.first_index
        and server.log.configuration_index <= server.commit_index
    )


def pin(server: Server, event: PinIncarnations) -> None:
    """Write into the configuration which data directory each member was first heard with.

    Nothing else changes, and no majority does. A pinned member that comes back with
    another directory is not the same server [RULES M7, M9].
    """
    if not may_change(server):
        return
    known = dict(event.incarnations)

    def pinned(member: Member) -> Member:
        return (
            member if member.incarnation else evolve(member, incarnation=known.get(member.id, ""))
        )

    before = server.configuration
    after = Configuration(
        tuple(map(pinned, before.members)), before.outgoing, tuple(map(pinned, before.target))
    )
    if after != before:
        server.append_configuration(after)


def knows_who_lives(server: Server) -> bool:
    """Tell whether each voter has answered this leader, or has had the time to.

    A new leader has heard nobody yet but those who elected it. Who asks it for a change at once
    would be refused because of voters that are merely about to answer.
    """
    leader = server.state
    return isinstance(leader, Leader) and (
        server.now >= leader.elected_at + server.options.election_timeout_seconds
        or all(
            leader.progress[peer].has_answered
            for peer in server.configuration.voters.intersection(leader.progress)
        )
    )


def change(server: Server, event: ChangeConfiguration) -> None:
    """Begin to make `event.members` the cluster, or say why not."""
    reason = _refusal(server, event)
    if reason is not None:
        server.turn.rejected.append(Rejected(event.request, reason))
        return
    heading = Configuration(
        server.configuration.members, target=_still_pinned(server, event.members)
    )
    after = _with_learners(heading) if heading.newcomers else _towards(heading)
    index = server.append_configuration(after)
    server.turn.accepted.append(Accepted(event.request, index, index + 1, server.current_term))


def _refusal(server: Server, event: ChangeConfiguration) -> Refusal | None:
    leader, configuration = server.state, server.configuration
    if not isinstance(leader, Leader):
        return Refusal.NOT_LEADER if server.leader_id else Refusal.NO_LEADER
    if leader.transfer is not None:
        return Refusal.TRANSFER_IN_PROGRESS
    if not may_change(server) or configuration.is_joint or configuration.target:
        return Refusal.CHANGE_IN_PROGRESS
    if not server.is_voter:
        # It is about to hand over, and cannot let itself catch up.
        return Refusal.TRANSFER_IN_PROGRESS
    if event.expected_index not in (None, server.log.configuration_index):
        return Refusal.OTHER_CONFIGURATION
    voters = {member.id for member in event.members if member.voter}
    if not voters or len({member.id for member in event.members}) != len(event.members):
        return Refusal.NO_VOTERS
    if any(_is_other(configuration.member(member.id), member) for member in event.members):
        return Refusal.OTHER_CONFIGURATION
    if not event.force and not _is_alive(server, leader, voters):
        return Refusal.NO_LIVE_MAJORITY
    return None


def _is_other(known: Member | None, wanted: Member) -> bool:
    """Tell whether a member would become another server under its old id [RULES M7].

    It must be removed first, and join again: votes and entries of the old one are lost.
    """
    return known is not None and wanted.incarnation not in ("", known.incarnation)


def _still_pinned(server: Server, members: tuple[Member, ...]) -> tuple[Member, ...]:
    """Return `members`, those known already with the incarnation that is pinned [RULES M7]."""
    known = {member.id: member.incarnation for member in server.configuration.members}
    return tuple(
        evolve(member, incarnation=member.incarnation or known.get(member.id, ""))
        for member in members
    )


def _silent(server: Server, leader: Leader, voters: set[str]) -> set[str]:
    """Return those members among `voters` of whom nothing is heard, or nothing good."""
    since = server.now - server.options.election_timeout_seconds
    known = {peer: leader.progress[peer] for peer in voters.intersection(server.peers)}
    return {
        peer
        for peer, progress in known.items()
        if not progress.has_answered
        or progress.heard_at < since
        or progress.pace is Pace.QUARANTINED
    }


def _is_alive(server: Server, leader: Leader, voters: set[str]) -> bool:
    """Tell whether a majority of `voters` lives; who is no member yet is taken on trust."""
    return len(voters - _silent(server, leader, voters)) > len(voters) // 2


def _with_learners(heading: Configuration) -> Configuration:
    """Return today's members, as they are, with the target's new ones as learners [RULES M5]."""
    today = {member.id for member in heading.members}
    joining = tuple(evolve(m, voter=False) for m in heading.target if m.id not in today)
    return Configuration(heading.members + joining, target=heading.target)


def _towards(heading: Configuration) -> Configuration:
    """Return the next step to the target: the whole of it, or the joint one before it.

    One voter more or less may go in one step: any two majorities still meet [D 4.2].
    """
    final = Configuration(heading.target)
    if len(final.voters ^ heading.voters) <= 1:
        return final
    kept = {member.id for member in final.members}
    leaving = tuple(evolve(m, voter=False) for m in heading.members if m.id not in kept)
    return Configuration(final.members + leaving, heading.voters, heading.target)


def advance(server: Server) -> None:
    """Go on with a change under way, whoever began it [RULES M3, M5, M6]."""
    leader = server.state
    if not isinstance(leader, Leader):
        return
    configuration = server.configuration
    if leader.departing:
        _forget_departed(server, leader)
    if configuration.is_joint:
        if may_change(server):
            final = Configuration(configuration.target or configuration.members)
            _go_on(server, leader, final)
    elif configuration.target:
        _follow_newcomers(server, leader)
        if may_change(server):
            _end_catching_up(server, leader)
    elif not server.is_voter and may_change(server):
        _leave(server, leader)


def _go_on(server: Server, leader: Leader, configuration: Configuration) -> int:
    """Append the next `configuration` of the change under way, and return its index.

    Entries that wait may have the majority that it asks for (sc-C7).
    """
    leader.catching_up.clear()
    leader.blocked_since = math.inf
    index = server.append_configuration(configuration)
    replication.advance(server)
    return index


def _follow_newcomers(server: Server, leader: Leader) -> None:
    for newcomer in server.configuration.newcomers:
        catching_up = leader.catching_up.setdefault(
            newcomer, CatchUp(server.log.last_index, server.now, server.now)
        )
        _follow_rounds(server, catching_up, leader.progress[newcomer])


def _follow_rounds(server: Server, catching_up: CatchUp, progress: Progress) -> None:
    """End the round where the newcomer has all of it, and begin the next [D 4.2.1].

    It is ready while its last round was short, and this one is. A snapshot on its way moves
    no index; that it is heard is then all that is known of it.
    """
    now = server.now
    if progress.match_index > catching_up.match_index:
        catching_up.match_index, catching_up.moved_at = progress.match_index, now
    has_all = progress.match_index >= catching_up.round_end
    if has_all or progress.pace is Pace.SNAPSHOT:
        catching_up.moved_at = max(catching_up.moved_at, progress.heard_at)
    is_short = now - catching_up.round_started < server.options.election_timeout_seconds
    if has_all:
        catching_up.is_ready = is_short
        catching_up.long_rounds += not is_short
        catching_up.round_end, catching_up.round_started = server.log.last_index, now
    elif not is_short:
        catching_up.is_ready = False


def transfer_failed(leader: Leader, peer: str) -> None:
    """Count a failed snapshot as a round too long: they could fail for ever [RULES M5]."""
    if peer in leader.catching_up:
        leader.catching_up[peer].long_rounds += 1


def _end_catching_up(server: Server, leader: Leader) -> None:
    """Let the newcomers vote once they can, or give the change up [RULES M5]."""
    for newcomer, catching_up in leader.catching_up.items():
        reason = _why_hopeless(server, catching_up)
        if reason is not None:
            _abandon(server, leader, newcomer, reason)
            return
    configuration = server.configuration
    if not all(catching_up.is_ready for catching_up in leader.catching_up.values()):
        leader.blocked_since = math.inf
        return
    voters = {member.id for member in configuration.target if member.voter}
    silent = _silent(server, leader, voters)
    if not silent.intersection(leader.catching_up) and _is_alive(server, leader, voters):
        _go_on(server, leader, _towards(configuration))
        return
    leader.blocked_since = min(leader.blocked_since, server.now)
    patience_seconds = server.options.join_timeout_seconds
    if server.now - leader.blocked_since >= patience_seconds:
        reason = f"too few of the voters that are to be were heard for {patience_seconds:g} s"
        _abandon(server, leader, min(silent), reason)


def unfit(server: Server, event: Unfit) -> None:
    """Give up the change because of a newcomer that must not vote, however well it keeps up."""
    leader = server.state
    if (
        isinstance(leader, Leader)
        and event.server in server.configuration.newcomers
        and may_change(server)
    ):
        _abandon(server, leader, event.server, event.reason)


def _why_hopeless(server: Server, catching_up: CatchUp) -> str | None:
    """Return why a newcomer will not catch up, if so."""
    patience_seconds = server.options.join_timeout_seconds
    if server.now - catching_up.moved_at >= patience_seconds:
        return f"it was not heard, or took in nothing, for {patience_seconds:g} s"
    if catching_up.long_rounds >= CATCH_UP_ROUNDS:
        return f"it did not keep up in {CATCH_UP_ROUNDS} rounds"
    return None


def _abandon(server: Server, leader: Leader, culprit: str, reason: str) -> None:
    """Go back to where the change began: nobody's vote has changed yet.

    Who was no member leaves again. Where the log no longer tells who that is, they stay as
    learners: that costs nobody a vote, and to remove a member by mistake could cost data.
    """
    members, before = server.configuration.members, _before_change(server)
    if before is not None:
        members = tuple(member for member in members if before.member(member.id))
    index = _go_on(server, leader, Configuration(members))
    server.turn.changes.append(ChangeAbandoned(culprit, reason, index))


def _before_change(server: Server) -> Configuration | None:
    """Return the last configuration before the change under way; None when compacted away."""
    known = (configuration for _, configuration in reversed(server.log.configurations))
    return next((each for each in known if each.members and not each.target), None)


def _forget_departed(server: Server, leader: Leader) -> None:
    """Stop sending to who is no member once it knows so, or has had its time [RULES M6]."""
    for peer, departure in list(leader.departing.items()):
        progress = leader.progress[peer]
        if not departure.sequence and server.commit_index >= departure.index:
            # Every message from here on carries the commit index.
            departure.sequence = leader.sequence + 1
        knows = (
            departure.sequence
            and progress.match_index >= departure.index
            and progress.acked_sequence >= departure.sequence
        )
        if knows or server.now >= departure.deadline:
            del leader.departing[peer], leader.progress[peer]


def forget_departing(leader: Leader, peer: str) -> bool:
    """Send no more to `peer` if it was removed; it is empty, so there is nothing it must unlearn.

    It may be another server by now, under the old id. With the log it would get configurations
    in which it votes, from before anybody's incarnation was known [RULES M7, M9].
    """
    if leader.departing.pop(peer, None) is None:
        return False
    del leader.progress[peer]
    return True


def _leave(server: Server, leader: Leader) -> None:
    """A leader outside the committed configuration hands over, then steps down [RULES M6]."""
    if leader.is_leaving:
        server.become_follower(None)
    else:
        leader.is_leaving = True
        transfer.begin(server, None)
