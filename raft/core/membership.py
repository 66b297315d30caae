"""Changes of the configuration (dissertation chapter 4) [RULES M1-M7].

A caller names the members that are to be, all of them. The way there is decided here, one
entry at a time, and stands in the log (`Configuration.target`), so that a new leader goes on
where the old one was:

1. newcomers become learners, and catch up;
2. then one step where one vote is won or lost, or a joint configuration;
3. once a joint configuration is committed, the target alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve

from raft.core import transfer
from raft.core.configuration import Configuration, Member
from raft.core.outputs import ChangeAbandoned, Refusal, Rejected
from raft.core.progress import Pace
from raft.core.roles import CatchUp, Leader

if TYPE_CHECKING:
    from raft.core.events import ChangeConfiguration, PinIncarnations
    from raft.core.server import Server

CATCH_UP_ROUNDS = 10
"""A newcomer that has not caught up after so many rounds will not [D 4.2.1]."""


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


def change(server: Server, event: ChangeConfiguration) -> None:
    """Begin to make `event.members` the cluster, or say why not."""
    reason = _refusal(server, event)
    if reason is not None:
        server.turn.rejected.append(Rejected(event.request, reason))
        return
    before = server.configuration
    heading = Configuration(before.members, target=event.members)
    if heading.newcomers:
        server.append_configuration(_with_learners(heading))
    else:
        server.append_configuration(_towards(heading))


def _refusal(server: Server, event: ChangeConfiguration) -> Refusal | None:
    leader, configuration = server.state, server.configuration
    if not isinstance(leader, Leader):
        return Refusal.NOT_LEADER if server.leader_id else Refusal.NO_LEADER
    if leader.transfer is not None:
        return Refusal.TRANSFER_IN_PROGRESS
    if not may_change(server) or configuration.is_joint or configuration.target:
        return Refusal.CHANGE_IN_PROGRESS
    if event.expected_index not in (None, server.log.configuration_index):
        return Refusal.OTHER_CONFIGURATION
    voters = {member.id for member in event.members if member.voter}
    if not voters or len({member.id for member in event.members}) != len(event.members):
        return Refusal.NO_VOTERS
    if not event.force and not _is_alive(server, leader, voters):
        return Refusal.NO_LIVE_MAJORITY
    return None


def _is_alive(server: Server, leader: Leader, voters: set[str]) -> bool:
    """Tell whether a majority of `voters` lives, newcomers taken on trust till they caught up."""
    since = server.now - server.options.election_timeout_seconds
    dead = {
        peer
        for peer, progress in leader.progress.items()
        if progress.heard_at < since or progress.pace is Pace.QUARANTINED
    }
    return len(voters - dead) > len(voters) // 2


def _with_learners(heading: Configuration) -> Configuration:
    """Return today's members with the target's newcomers as learners [RULES M5]."""
    today = {member.id: member for member in heading.members}
    for member in heading.target:
        now = today.get(member.id)
        # Who is a member already keeps its vote until the step that changes votes.
        today[member.id] = evolve(member, voter=now.voter if now else False)
    return Configuration(tuple(today.values()), target=heading.target)


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
    _forget_departed(server, leader)
    if configuration.newcomers:
        _follow_newcomers(server, leader)
    else:
        leader.catching_up.clear()
    if not may_change(server):
        return
    if configuration.is_joint:
        server.append_configuration(Configuration(configuration.target or configuration.members))
    elif configuration.target:
        if all(_is_ready(leader, newcomer) for newcomer in configuration.newcomers):
            server.append_configuration(_towards(configuration))
    elif not server.is_voter:
        _leave(server, leader)


def _is_ready(leader: Leader, newcomer: str) -> bool:
    return newcomer in leader.catching_up and leader.catching_up[newcomer].is_ready


def _follow_newcomers(server: Server, leader: Leader) -> None:
    """Count the rounds of those who catch up; give the change up for one who cannot [RULES M5]."""
    for newcomer in server.configuration.newcomers:
        progress = leader.progress.get(newcomer)
        if progress is None:
            continue
        last = server.log.last_index
        catching_up = leader.catching_up.setdefault(
            newcomer, CatchUp(last, last, server.now, server.now)
        )
        catching_up.heard_at = max(catching_up.heard_at, progress.heard_at)
        reason = _judge(server, catching_up, progress.match_index)
        if reason is not None and may_change(server):
            _abandon_change(server, newcomer, reason)
            return


def _judge(server: Server, catching_up: CatchUp, match_index: int) -> str | None:
    """End a round where the newcomer has all of it; return why it cannot keep up, if so."""
    options = server.options
    if catching_up.is_ready:
        return None
    if server.now - catching_up.heard_at >= options.join_timeout_seconds:
        return f"it was not heard for {options.join_timeout_seconds:g} s"
    if match_index < catching_up.round_end:
        return None
    catching_up.rounds += 1
    took = server.now - catching_up.round_started
    if took < options.election_timeout_seconds and match_index >= catching_up.goal_index:
        catching_up.is_ready = True
    elif catching_up.rounds >= CATCH_UP_ROUNDS:
        return f"it did not keep up in {CATCH_UP_ROUNDS} rounds, the last took {took:.1f} s"
    catching_up.round_end, catching_up.round_started = server.log.last_index, server.now
    return None


def _abandon_change(server: Server, newcomer: str, reason: str) -> None:
    """Go back to where nobody votes who did not before: the newcomers leave again."""
    configuration = server.configuration
    newcomers = set(configuration.newcomers)
    members = tuple(member for member in configuration.members if member.id not in newcomers)
    server.turn.changes.append(ChangeAbandoned(newcomer, reason))
    server.append_configuration(Configuration(members))


def _forget_departed(server: Server, leader: Leader) -> None:
    """Stop sending to who is no member, once it knows so, or is silent for too long."""
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
        silent_seconds = server.now - progress.heard_at
        if knows or silent_seconds >= server.options.join_timeout_seconds:
            del leader.departing[peer], leader.progress[peer]


def _leave(server: Server, leader: Leader) -> None:
    """A leader outside the committed configuration hands over, then steps down [RULES M6]."""
    if leader.is_leaving:
        server.become_follower(None)
    else:
        leader.is_leaving = True
        transfer.begin(server, None)
