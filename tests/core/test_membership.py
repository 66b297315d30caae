"""Changes of the members, one server at a time: dissertation 4.1 to 4.3."""

from __future__ import annotations

import math
import random

import pytest
from attrs import evolve

from raft.core import membership
from raft.core.configuration import Configuration, Member
from raft.core.events import (
    ChangeConfiguration,
    PinIncarnations,
    Propose,
    SnapshotSaved,
    SnapshotSent,
    TransferLeadership,
    Unfit,
)
from raft.core.membership import CATCH_UP_ROUNDS
from raft.core.messages import (
    AppendEntries,
    AppendEntriesResult,
    InstallSnapshot,
    RequestVoteResult,
    Run,
    TimeoutNow,
)
from raft.core.outputs import (
    Accepted,
    ChangeAbandoned,
    ConfigurationCommitted,
    Configured,
    HardState,
    Outputs,
    Refusal,
    Rejected,
    Role,
    TransferEnded,
)
from raft.core.progress import Pace
from raft.core.server import Options, Server
from tests.core.cluster import (
    HEARTBEAT,
    TIMEOUT,
    append,
    build,
    campaign,
    configuration,
    elapse,
    elect,
    hear,
    leader,
    newcomer,
    only,
    save,
    step,
    time_out,
)

PATIENCE = 30.0


def change(server: Server, voters: str, learners: str = "", **keywords: object) -> Outputs:
    """Ask `server` to make those the members."""
    members = configuration(voters, learners).members
    return step(server, ChangeConfiguration(7, members, **keywords))


def answer(server: Server, peer: str, match: int | None = None) -> Outputs:
    """Let `peer` say that it holds everything, or that much."""
    last = server.log.last_index if match is None else match
    sequence = server.state.sequence
    return hear(server, peer, AppendEntriesResult(server.current_term, True, last, sequence, last))


def ready(id: str = "a", members: Configuration | None = None, **keywords: object) -> Server:
    """Return a leader of term 2 with all its log, [1, 2], committed and on every peer."""
    server = leader(id, members=members or configuration(), **keywords)
    for peer in server.peers:
        answer(server, peer)
    return server


def settle(server: Server, *silent: str) -> list[Configuration]:
    """Let all but the `silent` save and answer until nothing is new; return what was appended."""
    begin = server.log.configuration_index
    for _ in range(12):
        save(server)
        for peer in list(getattr(server.state, "progress", {})):
            if server.role is Role.LEADER and peer in server.state.progress and peer not in silent:
                answer(server, peer)
    return [each for index, each in server.log.configurations if index > begin]


def wait(server: Server, seconds: float, *silent: str, busy: bool = False) -> list[object]:
    """Let time pass, heartbeat by heartbeat, all but the `silent` answering; return the changes."""
    changes: list[object] = []
    end = server.now + seconds
    while server.now < end and server.role is Role.LEADER:
        if busy:
            step(server, Propose(1, 1, 100))
        changes += elapse(server, HEARTBEAT).changes
        changes += save(server).changes
        for peer in list(getattr(server.state, "progress", {})):
            if server.role is Role.LEADER and peer in server.state.progress and peer not in silent:
                changes += answer(server, peer).changes
    return changes


def refused(outputs: Outputs) -> Refusal | None:
    """Return why the change was refused; nothing was done then."""
    if not outputs.rejected:
        return None
    assert (outputs.save, outputs.accepted) == (None, ())
    (rejected,) = outputs.rejected
    assert rejected == Rejected(7, rejected.reason)
    return rejected.reason


# M1: a configuration counts from its append.


def test_what_a_smaller_quorum_holds_is_committed_at_the_append() -> None:
    """M1: the configuration in use is the latest, so an entry may commit at once (sc-C7)."""
    server = ready(members=configuration("ab"))
    step(server, Propose(1, 1, 100))
    save(server)
    assert server.commit_index == 2
    outputs = change(server, "a")
    assert (outputs.commit_index, server.log.last_index) == (3, 4)
    assert save(server).commit_index == 4


def test_leaving_a_joint_configuration_commits_at_the_append_too() -> None:
    """M1: commit is judged again at each append of a configuration (sc-C7)."""
    server = ready()
    change(server, "a")
    step(server, Propose(1, 1, 100))
    save(server)
    outputs = answer(server, "b", 3)
    assert server.configuration == configuration("a")
    assert (outputs.commit_index, server.log.last_index) == (4, 5)


def test_each_configuration_is_told_once_when_it_is_committed() -> None:
    """M1: keep latest and committed: what may still be undone is not told."""
    server = ready()
    outputs = change(server, "ab")
    assert outputs.accepted == (Accepted(7, 3, 4, 2),)
    assert outputs.save is not None
    assert outputs.save.append == (Configured(3, 2, configuration("ab")),)
    assert outputs.changes == save(server).changes == ()
    assert answer(server, "b").changes == (ConfigurationCommitted(3, configuration("ab")),)
    assert ConfigurationCommitted not in map(type, answer(server, "b").changes)


# M2: one at a time, and none before an entry of the own term is committed.


@pytest.mark.parametrize(("voters", "learners"), [("acd", "b"), ("abcde", ""), ("a", "")])
def test_no_change_before_an_entry_of_the_own_term_is_committed(voters: str, learners: str) -> None:
    """M2: a new leader knows not yet what its predecessor changed: refused (4.1; sc-M1)."""
    server = build("a")
    elect(server)
    assert refused(change(server, voters, learners)) is Refusal.CHANGE_IN_PROGRESS
    save(server)
    assert refused(change(server, voters, learners)) is Refusal.CHANGE_IN_PROGRESS
    answer(server, "b")
    assert refused(change(server, voters, learners)) is None


def test_a_committed_configuration_is_not_enough_for_a_change() -> None:
    """M2: an entry of the own term is to be committed too, or two majorities may be apart."""
    server = build("a")
    hear(server, "b", append((1, 1), [1], commit=2))
    save(server)
    elect(server)
    assert server.log.configuration_index <= server.commit_index
    assert refused(change(server, "abcd")) is Refusal.CHANGE_IN_PROGRESS


def test_a_second_change_is_refused_in_every_phase_of_the_first() -> None:
    """M2: refused, definitely not done, until the first one is through (sc-M2)."""
    server = ready()
    phases = []
    change(server, "ade")
    for _ in range(12):
        phases.append(server.configuration)
        assert refused(change(server, "abc")) is Refusal.CHANGE_IN_PROGRESS
        save(server)
        for peer in list(server.state.progress):
            answer(server, peer)
        if server.commit_index == server.log.last_index and not server.configuration.target:
            break
    target = configuration("ade").members
    phase = [(each.is_joint, each.target) for each in dict.fromkeys(phases)]
    assert phase == [(False, target), (True, target), (False, ())]
    assert refused(change(server, "ad")) is None


def test_a_second_change_does_not_replace_one_whose_newcomers_catch_up() -> None:
    """M2: its first step is committed, and it is not through (sc-M2)."""
    server = ready()
    change(server, "abcd")
    save(server)
    answer(server, "b")
    assert membership.may_change(server)
    assert refused(change(server, "abe")) is Refusal.CHANGE_IN_PROGRESS


def test_a_change_does_not_begin_from_a_joint_configuration() -> None:
    """M3: a joint configuration that could not be left during a transfer is left first."""
    server = leader("a", members=configuration("abc", outgoing="ab"))
    step(server, TransferLeadership("b"))
    elapse(server, TIMEOUT / 2)
    for peer in "bc":
        answer(server, peer)
    elapse(server, TIMEOUT / 2)
    assert membership.may_change(server)
    assert server.configuration.is_joint
    outputs = change(server, "abd")
    assert outputs.rejected == (Rejected(7, Refusal.CHANGE_IN_PROGRESS),)
    assert server.configuration == configuration("abc")


@pytest.mark.parametrize(("known", "reason"), [(True, "NOT_LEADER"), (False, "NO_LEADER")])
def test_only_a_leader_changes_the_members(known: bool, reason: str) -> None:
    """M2: who does not lead says so, and does nothing."""
    server = build("a")
    if known:
        hear(server, "b", append((1, 1)))
    assert refused(change(server, "ab")) is Refusal[reason]


@pytest.mark.parametrize(
    "members",
    [(), (Member("a", voter=False),), (Member("a"), Member("a", voter=False))],
    ids=["nobody", "no voter", "twice"],
)
def test_nonsense_is_refused(members: tuple[Member, ...]) -> None:
    """M2: without a voter nothing is ever committed again; one id is one server."""
    server = ready()
    assert refused(step(server, ChangeConfiguration(7, members))) is Refusal.NO_VOTERS


# M3: one vote in one step, more by a joint configuration.


@pytest.mark.parametrize(
    ("before", "after", "steps"),
    [
        ("abc", "ab", ["ab"]),
        ("ab", "a", ["a"]),
        ("abc", "a", ["a+bc|abc", "a"]),
        ("a", "ab", ["a+b", "ab"]),
        ("abc", "abcd", ["abc+d", "abcd"]),
        ("abc", "abd", ["abc+d", "abd+c|abc", "abd"]),
        ("abc", "abcde", ["abc+de", "abcde|abc", "abcde"]),
        ("abc", "ade", ["abc+de", "ade+bc|abc", "ade"]),
        ("a", "b", ["a+b", "b+a|a", "b"]),
        ("abc", "abc", ["abc"]),
    ],
)
def test_the_way_to_the_target(before: str, after: str, steps: list[str]) -> None:
    """M3: one voter more or less goes in one step, anything else through joint (4.2, 4.3)."""
    server = ready(members=configuration(before))
    change(server, after)
    taken = [server.configuration, *settle(server)]
    assert [_told(each) for each in taken] == steps
    assert server.commit_index == server.log.last_index


def _told(config: Configuration) -> str:
    learners = "".join(member.id for member in config.members if not member.voter)
    outgoing = "|" + "".join(sorted(config.outgoing)) if config.is_joint else ""
    return "".join(sorted(config.voters)) + (f"+{learners}" if learners else "") + outgoing


def joint_leader() -> Server:
    """Return a leader of a, b, c that has just appended the joint way to a, d, e."""
    server = ready(members=configuration("abc", learners="de"))
    change(server, "ade")
    save(server)
    for peer in "bcde":
        answer(server, peer)
    assert _told(server.configuration) == "ade+bc|abc"
    save(server)
    return server


def test_a_joint_configuration_commits_by_both_majorities() -> None:
    """M3: neither the old nor the new voters alone commit while it is joint (4.3)."""
    for alone in ("bc", "de"):
        server = joint_leader()
        for peer in alone:
            answer(server, peer)
        assert server.commit_index == 3
    server = joint_leader()
    answer(server, "c", 4)
    answer(server, "e", 4)
    assert server.commit_index == 4
    assert server.configuration == configuration("ade")


@pytest.mark.parametrize(("votes", "won"), [("bc", False), ("de", False), ("bd", True)])
def test_a_joint_configuration_elects_by_both_majorities(votes: str, won: bool) -> None:
    """M3: an election needs the old and the new voters (4.3)."""
    members = Configuration(
        configuration("ade", learners="bc").members,
        frozenset("abc"),
        configuration("ade").members,
    )
    server = build("a", members=members)
    campaign(server)
    for peer in votes:
        hear(server, peer, RequestVoteResult(server.current_term, vote_granted=True))
    assert (server.role is Role.LEADER) is won


def test_a_new_leader_leaves_the_joint_configuration() -> None:
    """M3: leaving is re-proposed by whoever leads, once that is allowed (sc-M12)."""
    joint = Configuration(
        configuration("ade", learners="bc").members,
        frozenset("abc"),
        configuration("ade").members,
    )
    server = build("d", members=joint)
    elect(server)
    save(server)
    answer(server, "a")
    assert server.configuration == joint
    answer(server, "b")
    assert server.configuration == configuration("ade")


def test_a_joint_configuration_without_a_target_is_left_for_its_members() -> None:
    """M3: a joint configuration is never kept, whatever wrote it."""
    server = ready(members=configuration("abc", outgoing="ab"))
    assert server.configuration == configuration("abc")


# M4: compare and set.


def test_a_change_may_name_the_configuration_it_starts_from() -> None:
    """M4: another configuration than the one looked at: refused."""
    server = ready()
    step(server, PinIncarnations((("a", "A"),)))
    save(server)
    answer(server, "b")
    reason = refused(change(server, "ab", expected_index=1))
    assert reason is Refusal.OTHER_CONFIGURATION
    assert refused(change(server, "ab", expected_index=3)) is None


# M5: newcomers catch up first.


def test_a_newcomer_learns_first_and_counts_nowhere() -> None:
    """M5: a newcomer joins as a learner: no majority asks it (4.2.1; sc-M8)."""
    server = ready(members=configuration("a"))
    change(server, "ab")
    save(server)
    assert server.configuration == Configuration(
        configuration("a", learners="b").members, target=configuration("ab").members
    )
    assert step(server, Propose(1, 1, 100)).accepted
    assert save(server).commit_index == 4


def test_a_newcomers_answer_to_the_first_message_counts() -> None:
    """M5: only what was sent before it joined was sent to another."""
    server = leader("a", members=configuration("a", "b"))
    (first,) = only(change(server, "a", "bd"), AppendEntries, "d")
    late = AppendEntriesResult(2, False, 2, first.sequence - 1, 0)
    hear(server, "d", late)
    assert not server.state.progress["d"].has_answered
    hear(server, "d", evolve(late, sequence=first.sequence))
    assert server.state.progress["d"].has_answered


def test_a_newcomer_votes_once_it_has_the_log_of_when_it_joined() -> None:
    """M5: promote when the match reaches the leader's last index at join time (ra)."""
    server = ready()
    change(server, "abcd")
    save(server)
    answer(server, "b")
    answer(server, "d", 2)
    assert not server.configuration.is_voter("d")
    answer(server, "d", 3)
    assert server.configuration == configuration("abcd")


def test_a_newcomer_that_lags_stalls_nothing() -> None:
    """M5: a learner that lags far is not promoted, and writes go on meanwhile (sc-M11)."""
    server = ready()
    change(server, "abcd")
    for _ in range(20):
        step(server, Propose(1, 1, 100))
        elapse(server, HEARTBEAT)
        save(server)
        for peer in "bc":
            answer(server, peer)
        answer(server, "d", 2)
        assert server.commit_index == server.log.last_index
    assert not server.configuration.is_voter("d")


def test_the_last_round_must_be_short() -> None:
    """M5: one round too long, the next one short: then it keeps up, and may vote (4.2.1)."""
    server = ready()
    change(server, "abcd")
    wait(server, 3 * TIMEOUT, "d", busy=True)
    end = server.log.last_index
    answer(server, "d", end - 1)
    assert not server.configuration.is_voter("d")
    wait(server, 2 * HEARTBEAT)
    assert server.configuration == configuration("abcd")


def test_who_caught_up_and_fell_behind_again_must_catch_up_again() -> None:
    """M5: promotion asks who keeps up, not who once did (sc-M11)."""
    server = ready()
    change(server, "abde")
    wait(server, TIMEOUT, "e")
    assert server.state.catching_up["d"].is_ready
    wait(server, 2 * TIMEOUT, "d", "e", busy=True)
    for peer in "de":
        answer(server, peer, server.log.last_index - 1)
    assert not server.configuration.is_joint
    wait(server, TIMEOUT)
    assert server.configuration == configuration("abde")


def test_who_takes_in_nothing_more_is_not_ready_any_more() -> None:
    """M5: it answers, and its round does not end: then it does not keep up (sc-M11)."""
    server = ready()
    change(server, "abde")
    wait(server, TIMEOUT, "e")
    step(server, Propose(1, 1, 100))
    stuck = server.log.last_index - 1
    for _ in range(8):
        wait(server, HEARTBEAT, "d", "e")
        answer(server, "d", stuck)
    for _ in range(8):
        wait(server, HEARTBEAT, "d")
        answer(server, "d", stuck)
    assert server.state.catching_up["e"].is_ready
    assert not server.configuration.is_joint


def test_who_keeps_up_may_lack_what_was_appended_just_now() -> None:
    """M5: it is ready while its last round was short, and the round under way still is."""
    server = ready()
    change(server, "abde")
    wait(server, HEARTBEAT, "e")
    step(server, Propose(1, 1, 100))
    step(server, Propose(2, 1, 100))
    assert server.state.progress["d"].match_index < server.log.last_index
    answer(server, "e", server.state.catching_up["e"].round_end)
    assert server.configuration.is_joint


def test_ten_rounds_that_are_too_long_end_the_change() -> None:
    """M5: at most ten rounds of catching up, else give up with an error (4.2.1; sc-M11)."""
    server = ready()
    change(server, "abcd")
    changes: list[object] = []
    for _ in range(CATCH_UP_ROUNDS):
        assert server.configuration.target
        end = server.state.catching_up["d"].round_end if server.state.catching_up else 3
        changes += wait(server, 1.5 * TIMEOUT, "d", busy=True)
        changes += answer(server, "d", end).changes
    (abandoned,) = [each for each in changes if isinstance(each, ChangeAbandoned)]
    index = server.log.configuration_index
    assert abandoned == ChangeAbandoned("d", "it did not keep up in 10 rounds", index)
    assert server.configuration == configuration("abc")


@pytest.mark.parametrize("before", ["a", "ab", "abc"])
def test_a_newcomer_that_is_dead_ends_the_change_where_it_began(before: str) -> None:
    """M5: a misspelt or dead newcomer costs nobody a vote, and no write (sc-M8)."""
    server = ready(members=configuration(before))
    change(server, before + "d")
    changes = wait(server, PATIENCE - 1, "d", busy=True)
    assert server.configuration.target
    assert server.commit_index == server.log.last_index
    changes += wait(server, 2, "d", busy=True)
    (abandoned,) = [each for each in changes if isinstance(each, ChangeAbandoned)]
    assert abandoned.server == "d"
    assert ConfigurationCommitted(abandoned.index, configuration(before)) in changes
    assert server.commit_index == server.log.last_index
    assert refused(change(server, before + "e")) is None


def test_a_newcomer_that_answers_and_takes_in_nothing_ends_the_change() -> None:
    """M5: alive is not enough: a full disk would keep the change under way for ever."""
    server = ready()
    change(server, "abcd")
    for _ in range(int((PATIENCE + 1) / HEARTBEAT)):
        elapse(server, HEARTBEAT)
        save(server)
        for peer in "bc":
            answer(server, peer)
        answer(server, "d", 0)
    assert server.configuration == configuration("abc")


def test_snapshots_that_fail_again_and_again_end_the_change() -> None:
    """M5: a snapshot on its way is patience, ten that failed are none."""
    server = ready()
    step(server, SnapshotSaved(2))
    change(server, "abcd")
    save(server)
    answer(server, "b")
    hear(server, "d", AppendEntriesResult(2, False, 2, server.state.sequence, 0))
    for _ in range(CATCH_UP_ROUNDS):
        assert server.state.progress["d"].pace is Pace.SNAPSHOT
        wait(server, PATIENCE * 0.7, "d")
        answer(server, "d", 0)
        wait(server, PATIENCE * 0.7, "d")
        assert server.configuration.target
        step(server, SnapshotSent("d", 2, ok=False))
        answer(server, "d", 0)
    settle(server, "d")
    assert server.configuration == configuration("abc")


def test_a_learner_that_cannot_be_promoted_stays_a_learner() -> None:
    """M5: a change that is given up ends where it began: nobody is removed by it."""
    server = ready(members=configuration("abc", learners="d"))
    change(server, "abcde", "f")
    assert _told(server.configuration) == "abc+def"
    wait(server, PATIENCE + 1, "d", "e")
    assert server.configuration == configuration("abc", learners="d")


def test_who_joined_stays_a_learner_where_the_log_no_longer_tells_who_did() -> None:
    """M5: after compaction nobody knows who was a member before: better one too many."""
    server = ready(members=configuration("abc", learners="d"))
    change(server, "abcde")
    save(server)
    answer(server, "b")
    step(server, SnapshotSaved(3))
    wait(server, PATIENCE + 1, "d", "e")
    assert server.configuration == configuration("abc", learners="de")


def test_nobody_is_removed_where_the_log_tells_of_no_configuration_before() -> None:
    """M5: an empty log knows no members; a change that is given up then removes none of them."""
    amid = Configuration(
        configuration("abc", learners="de").members, target=configuration("abde").members
    )
    server = leader("a", members=amid, join_timeout_seconds=1.0)
    wait(server, 1.5, "d", "e")
    assert server.configuration == configuration("abc", learners="de")


def test_a_change_to_a_dead_majority_is_refused_unless_forced() -> None:
    """M5: what would break the quorum is refused: it would count from its append (sc-M8)."""
    server = ready()
    wait(server, 2 * TIMEOUT, "c")
    assert refused(change(server, "ac")) is Refusal.NO_LIVE_MAJORITY
    assert refused(change(server, "cd")) is Refusal.NO_LIVE_MAJORITY
    assert refused(change(server, "ac", force=True)) is None


def test_two_to_one_while_the_other_is_down() -> None:
    """M5: the survivor alone is a live majority of what it asks for, and commits it (sc-M7)."""
    server = ready(members=configuration("ab"))
    elapse(server, TIMEOUT * 0.9)
    assert refused(change(server, "a")) is None
    assert save(server).changes == (ConfigurationCommitted(3, configuration("a")),)
    assert server.role is Role.LEADER
    wait(server, PATIENCE + 1, "b", busy=True)
    assert server.commit_index == server.log.last_index
    assert server.state.progress == {}


def test_two_to_one_that_is_down_is_refused() -> None:
    """M5: the one that is to stay is down: refused before anything is appended (sc-M7)."""
    server = ready(members=configuration("ab"), check_quorum=False)
    elapse(server, TIMEOUT + HEARTBEAT)
    assert refused(change(server, "b")) is Refusal.NO_LIVE_MAJORITY


def test_a_member_that_is_quarantined_is_no_part_of_a_live_majority() -> None:
    """M5: who lost its entries lives, and can vote for nothing (sc-F20)."""
    server = ready()
    elapse(server, HEARTBEAT)
    hear(server, "b", AppendEntriesResult(2, False, 2, server.state.sequence, 0))
    assert server.state.progress["b"].pace is Pace.QUARANTINED
    assert refused(change(server, "ab")) is Refusal.NO_LIVE_MAJORITY


def test_a_new_leader_takes_nobody_for_alive_that_has_not_answered_it() -> None:
    """M5: its election is no sign of life of those who did not vote for it (sc-M8)."""
    server = leader("a")
    answer(server, "b")
    assert server.commit_index == server.log.last_index
    assert not membership.knows_who_lives(server)
    assert refused(change(server, "ac")) is Refusal.NO_LIVE_MAJORITY
    answer(server, "c")
    assert membership.knows_who_lives(server)
    assert refused(change(server, "ac")) is None


def test_who_does_not_answer_a_new_leader_has_had_the_time_to() -> None:
    """M5: after an election timeout of silence it is known who does not live."""
    server = leader("a")
    answer(server, "b")
    wait(server, TIMEOUT, "c")
    assert membership.knows_who_lives(server)
    assert refused(change(server, "ac")) is Refusal.NO_LIVE_MAJORITY
    assert refused(change(server, "ab")) is None
    assert not membership.knows_who_lives(build("b"))


def test_votes_change_only_before_a_live_majority() -> None:
    """M5: a voter that died while newcomers caught up must come back first, or it is given up."""
    for back in (True, False):
        server = ready()
        change(server, "cd")
        save(server)
        answer(server, "b")
        wait(server, 2 * TIMEOUT, "c", "d")
        wait(server, 2 * TIMEOUT, "c")
        assert server.state.catching_up["d"].is_ready
        assert _told(server.configuration) == "abc+d"
        if back:
            wait(server, 2 * TIMEOUT)
            assert server.configuration == configuration("cd")
        else:
            changes = wait(server, PATIENCE + 1, "c")
            (abandoned,) = [each for each in changes if isinstance(each, ChangeAbandoned)]
            assert abandoned.server == "c"
            assert server.configuration == configuration("abc")


def test_a_change_that_was_blocked_may_be_tried_again() -> None:
    """M5: the next try has as much patience with the voters that are to be as the first."""
    server = ready()
    change(server, "cd")
    save(server)
    answer(server, "b")
    wait(server, 2 * TIMEOUT, "c", "d")
    wait(server, PATIENCE + 1, "c")
    assert server.configuration == configuration("abc")
    wait(server, PATIENCE, "c")
    change(server, "cd", force=True)
    save(server)
    answer(server, "d")
    answer(server, "b")
    wait(server, TIMEOUT, "c")
    assert server.configuration.target


def test_patience_with_silent_voters_begins_anew_once_the_newcomers_are_ready_again() -> None:
    """M5: as long as somebody catches up, nothing waits for those who are not heard."""
    server = ready(join_timeout_seconds=2.0)
    change(server, "cd")
    save(server)
    answer(server, "b")
    wait(server, 2 * TIMEOUT, "c", "d")
    wait(server, 2 * TIMEOUT, "c")
    assert server.state.blocked_since < server.now
    wait(server, 1.0, "c")
    wait(server, 2 * TIMEOUT, "c", "d", busy=True)
    assert not server.state.catching_up["d"].is_ready
    wait(server, 1.0, "c")
    assert server.state.catching_up["d"].is_ready
    assert server.configuration.target
    changes = wait(server, 1.5, "c")
    assert ChangeAbandoned in map(type, changes)


def test_a_change_that_went_well_takes_no_patience_from_the_next() -> None:
    """M5: who is up to date at once, and must wait for others, waits as long as anyone."""
    server = ready(members=configuration("abc", learners="de"), join_timeout_seconds=1.0)
    change(server, "abcd", "e")
    settle(server)
    assert server.configuration == configuration("abcd", learners="e")
    wait(server, 2.0, "c")
    change(server, "ce", force=True)
    save(server)
    answer(server, "e")
    wait(server, 0.5, "c")
    assert server.state.catching_up["e"].is_ready
    assert server.configuration.target


@pytest.mark.parametrize("after", ["de", "abde"])
def test_a_newcomer_that_dies_while_others_catch_up_is_not_promoted(after: str) -> None:
    """M5: that it once kept up says nothing, whether or not a majority needs it."""
    server = ready()
    change(server, after)
    wait(server, TIMEOUT, "e")
    assert server.state.catching_up["d"].is_ready
    wait(server, 2 * TIMEOUT, "d", "e")
    wait(server, 2 * TIMEOUT, "d")
    assert not server.configuration.is_joint
    wait(server, PATIENCE + 1, "d")
    assert server.configuration == configuration("abc")


def test_an_unfit_newcomer_ends_the_change_at_once_however_well_it_keeps_up() -> None:
    """M5: a server that must not vote, for a reason of its own, is not waited for."""
    server = ready()
    change(server, "abcd")
    save(server)
    # The configuration with the newcomer is not committed: too early, and harmless.
    assert step(server, Unfit("d", "too old")).changes == ()
    for peer in "bc":
        answer(server, peer)
    assert server.commit_index == server.log.last_index
    outputs = step(server, Unfit("d", "too old"))
    index = server.log.configuration_index
    assert ChangeAbandoned("d", "too old", index) in outputs.changes
    assert server.configuration == configuration("abc")


def test_nobody_else_is_unfit() -> None:
    """M5: a member, a stranger, and who is no leader to say so: nothing happens."""
    server = ready()
    before = server.log.last_index
    for name in "abx":
        assert step(server, Unfit(name, "too old")).changes == ()
    assert server.log.last_index == before
    follower = build("b")
    assert step(follower, Unfit("d", "too old")).save is None


def test_a_change_that_was_given_up_may_be_tried_again() -> None:
    """M5: the next try begins anew: what the last one counted is forgotten."""
    server = ready()
    for _ in range(2):
        change(server, "abcd")
        wait(server, PATIENCE + 1, "d")
        assert server.configuration == configuration("abc")
    change(server, "abcd")
    wait(server, PATIENCE - 1, "d")
    assert server.configuration.target
    wait(server, TIMEOUT)
    assert server.configuration == configuration("abcd")


# M6: who leaves.


def test_a_leader_outside_the_configuration_does_not_count_itself() -> None:
    """M6: it replicates without counting itself, until the change is committed (4.2.2; sc-M6)."""
    server = ready()
    change(server, "bc")
    save(server)
    answer(server, "b")
    assert (server.commit_index, server.role) == (2, Role.LEADER)
    assert answer(server, "c").commit_index == 3


def test_a_leader_that_is_removed_hands_over() -> None:
    """M6: once the change is committed it asks the best voter to campaign (sc-M6)."""
    server = ready()
    change(server, "bc")
    save(server)
    answer(server, "b")
    outputs = answer(server, "c")
    assert only(outputs, TimeoutNow, "c") == [TimeoutNow(2)]
    assert step(server, Propose(1, 1, 100)).rejected == (Rejected(1, Refusal.TRANSFER_IN_PROGRESS),)
    assert refused(change(server, "abc")) is Refusal.TRANSFER_IN_PROGRESS


def test_a_removed_leader_that_nobody_relieves_steps_down() -> None:
    """M6: it steps down once its successor had an election timeout, and never campaigns."""
    server = ready()
    change(server, "bc")
    settle(server)
    changes = wait(server, TIMEOUT / 2)
    assert server.role is Role.LEADER
    changes += elapse(server, server.state.transfer.deadline - server.now).changes
    assert server.role is Role.LEADER
    outputs = step(server, Propose(1, 1, 100))
    assert (outputs.accepted, len(outputs.rejected)) == ((), 1)
    changes += wait(server, TIMEOUT)
    assert TransferEnded(None) in changes
    assert (server.role, server.is_voter) == (Role.FOLLOWER, False)
    assert server.election_deadline == math.inf


def test_a_leader_that_is_demoted_hands_over_too() -> None:
    """M6: a learner does not lead; its successor goes on sending to it (sc-M17)."""
    server = ready()
    change(server, "bc", "a")
    save(server)
    answer(server, "b")
    assert only(answer(server, "c"), TimeoutNow) == [TimeoutNow(2)]


def test_a_removed_leader_takes_no_change_before_it_hands_over() -> None:
    """M6: it cannot let itself catch up: the change would never end."""
    server = ready()
    change(server, "bc")
    save(server)
    answer(server, "b")
    step(server, TransferLeadership("c"))
    answer(server, "c")
    elapse(server, TIMEOUT / 2)
    for peer in "bc":
        answer(server, peer)
    outputs = elapse(server, TIMEOUT / 2)
    assert outputs.changes == (TransferEnded(None),)
    assert refused(change(server, "abc")) is Refusal.TRANSFER_IN_PROGRESS
    assert server.state.is_leaving


def test_a_voter_that_is_demoted_counts_no_more() -> None:
    """M6: neither its vote nor its acknowledgement counts from the append on (sc-M17)."""
    server = ready()
    change(server, "ab", "c")
    save(server)
    answer(server, "c")
    assert server.commit_index == 2
    answer(server, "b")
    assert server.commit_index == 3
    other = build("b", [1, 2], members=configuration("ab", learners="c"))
    campaign(other)
    hear(other, "c", RequestVoteResult(other.current_term, vote_granted=True))
    assert other.role is not Role.LEADER


def test_a_removed_server_is_told_and_then_forgotten() -> None:
    """M6: it gets the entry, and the news that it is committed; then nothing more."""
    server = ready()
    outputs = change(server, "ab")
    assert [sent.entries.end for sent in only(outputs, AppendEntries, "c")] == [4]
    save(server)
    answer(server, "c")
    assert answer(server, "b").commit_index == 3
    answer(server, "c")
    assert "c" in server.state.progress
    outputs = elapse(server, HEARTBEAT)
    assert [sent.leader_commit for sent in only(outputs, AppendEntries, "c")] == [3]
    answer(server, "c")
    assert sorted(server.state.progress) == ["b"]
    assert only(elapse(server, HEARTBEAT), AppendEntries, "c") == []


def test_the_first_message_that_tells_of_the_commit_is_enough() -> None:
    """M6: whoever answers it knows that it is out, and is sent nothing more."""
    server = ready()
    change(server, "ac")
    for peer in "bc":
        save(server)
        answer(server, peer)
    assert server.commit_index == 3
    (beat,) = only(elapse(server, HEARTBEAT), AppendEntries, "b")
    hear(server, "b", AppendEntriesResult(2, True, 3, beat.sequence - 1, 3))
    assert "b" in server.state.progress
    hear(server, "b", AppendEntriesResult(2, True, 3, beat.sequence, 3))
    assert "b" not in server.state.progress


def test_a_removed_server_is_not_forgotten_before_it_has_the_entry() -> None:
    """M6: it answers, and its disk lags behind: until then it believes that it votes."""
    server = ready()
    change(server, "ab")
    save(server)
    answer(server, "b")
    for _ in range(3):
        elapse(server, HEARTBEAT)
        answer(server, "b")
        answer(server, "c", 2)
    assert "c" in server.state.progress
    answer(server, "c", 3)
    assert "c" not in server.state.progress


def test_a_removed_server_that_is_down_is_forgotten_in_time() -> None:
    """M6: it is sent to until a time-out, whether it answers or not."""
    for match in (None, 0):
        server = ready()
        change(server, "ab")
        for _ in range(int(PATIENCE / HEARTBEAT) + 2):
            elapse(server, HEARTBEAT)
            save(server)
            answer(server, "b")
            if match is not None and "c" in server.state.progress:
                answer(server, "c", match)
        assert sorted(server.state.progress) == ["b"]


def test_a_removed_server_hears_of_it_from_the_next_leader_too() -> None:
    """M6: its author may have died: whoever finds the entry uncommitted tells again."""
    server = build("a", [1])
    hear(server, "b", append((1, 1), [1], configurations=((2, configuration("abd")),)))
    (first,) = only(elect(server), AppendEntries, "c")
    assert (first.prev_log_index, first.entries.end) == (2, 4)
    assert sorted(server.state.progress) == ["b", "c", "d"]
    assert list(server.state.departing) == ["c"]
    settle(server)
    wait(server, 3 * HEARTBEAT)
    assert sorted(server.state.progress) == ["b", "d"]


def test_a_configuration_known_to_be_committed_is_told_by_its_author_only() -> None:
    """M6: nobody looks for a server that left long ago."""
    server = build("a", [1])
    entry = append((1, 1), [1], commit=2, configurations=((2, configuration("abd")),))
    hear(server, "b", entry)
    elect(server)
    assert sorted(server.state.progress) == ["b", "d"]


def test_a_removed_server_counts_for_nothing_while_it_is_told() -> None:
    """M6: it is answered, and in no majority."""
    server = ready(members=configuration("abcd"))
    change(server, "abd")
    save(server)
    answer(server, "c")
    assert server.commit_index == 2
    answer(server, "b")
    assert server.commit_index == 3


def test_a_removed_server_is_sent_no_snapshot() -> None:
    """M6: a server that left needs no state; gigabytes would go to nobody."""
    for is_member in (True, False):
        server = leader("a")
        answer(server, "b")
        if not is_member:
            change(server, "ab")
            save(server)
            answer(server, "b")
        step(server, SnapshotSaved(2))
        behind = AppendEntriesResult(2, False, 1, server.state.sequence, 0)
        outputs = hear(server, "c", behind)
        assert bool(outputs.start_snapshots) is is_member


def test_a_server_that_comes_back_is_a_stranger() -> None:
    """M6: it may come back empty: what was known of it, and late answers, say nothing."""
    server = ready()
    change(server, "ab")
    save(server)
    answer(server, "b")
    late = AppendEntriesResult(2, True, 3, server.state.sequence, 3)
    assert server.state.progress["c"].match_index == 2
    change(server, "abc")
    save(server)
    hear(server, "c", late)
    assert server.state.progress["c"].match_index == 0
    assert "c" not in server.state.departing
    elapse(server, HEARTBEAT)
    empty = AppendEntriesResult(2, False, 4, server.state.sequence, 0)
    assert hear(server, "c", empty).changes == ()
    settle(server)
    assert server.configuration == configuration("abc")


# M7: who a server is.


PINNED = Configuration((Member("a", "A", "old"), Member("b", "B", "old"), Member("c", "C", "old")))


def test_a_member_keeps_its_incarnation_through_a_change() -> None:
    """M7: callers name servers, not directories: whom they name stays who it is."""
    server = ready(members=PINNED)
    change(server, "abd")
    settle(server)
    assert [member.incarnation for member in server.configuration.members] == ["A", "B", ""]


def test_a_pin_amid_a_change_outlasts_it() -> None:
    """M7: what is heard while newcomers catch up is pinned in the target as well."""
    server = ready(members=configuration("ab"))
    change(server, "acd")
    save(server)
    answer(server, "b")
    pins = PinIncarnations((("a", "A"), ("b", "B"), ("c", "C")))
    assert step(server, pins).save is not None
    settle(server)
    assert [(m.id, m.incarnation) for m in server.configuration.members] == [
        *(("a", "A"), ("c", "C"), ("d", "")),
    ]


def test_a_member_is_not_replaced_under_its_id() -> None:
    """M7: another directory is another server: remove the old one first (sc-M9)."""
    server = ready(members=PINNED)
    wanted = (Member("a"), Member("b", "other"), Member("c"))
    assert refused(step(server, ChangeConfiguration(7, wanted))) is Refusal.OTHER_CONFIGURATION
    change(server, "ac")
    settle(server)
    assert refused(step(server, ChangeConfiguration(7, wanted))) is None
    settle(server)
    assert server.configuration.member("b") == Member("b", "other")


def test_addresses_are_changed_through_the_log() -> None:
    """M7: identity is the id and incarnation; an address is changed in one step (sc-M13)."""
    server = ready(members=PINNED)
    moved = (Member("a", "", "old"), Member("b", "B", "new"), Member("c", "C", "old"))
    step(server, ChangeConfiguration(7, moved))
    assert settle(server) == []
    assert server.configuration == Configuration(
        (Member("a", "A", "old"), Member("b", "B", "new"), Member("c", "C", "old"))
    )
    assert sorted(server.state.progress) == ["b", "c"]


def test_addresses_change_with_the_votes() -> None:
    """M7: a change that is given up moves nobody."""
    server = ready(members=PINNED)
    moved = (Member("a", "A", "new"), Member("b", "B", "old"), Member("c", "C", "old"))
    step(server, ChangeConfiguration(7, (*moved, Member("d"))))
    assert server.configuration.member("a") == Member("a", "A", "old")
    wait(server, PATIENCE + 1, "d")
    assert server.configuration == PINNED


# M10: transfers and changes.


def test_no_change_is_taken_during_a_transfer() -> None:
    """M10: an entry that the target lacks could cost it the election; refused, not queued."""
    server = ready()
    step(server, TransferLeadership("b"))
    assert refused(change(server, "ab")) is Refusal.TRANSFER_IN_PROGRESS


def test_a_change_waits_for_a_transfer_and_then_goes_on() -> None:
    """M10: the next step is not appended during a transfer, and is after it."""
    server = ready()
    change(server, "ade")
    save(server)
    answer(server, "b")
    step(server, TransferLeadership("b"))
    for peer in "cde":
        answer(server, peer)
    assert _told(server.configuration) == "abc+de"
    wait(server, TIMEOUT + 2 * HEARTBEAT)
    assert server.configuration == configuration("ade")


def test_who_is_about_to_lose_its_vote_is_no_target() -> None:
    """M10: an outgoing voter would have to hand over again."""
    server = joint_leader()
    assert step(server, TransferLeadership("b")).changes == (TransferEnded(Refusal.NOT_A_VOTER),)


# Snapshots, truncation, restarts.


LEARNING = Configuration(
    configuration("abc", learners="de").members, target=configuration("ade").members
)
JOINT = Configuration(
    configuration("ade", learners="bc").members, frozenset("abc"), configuration("ade").members
)


@pytest.mark.parametrize("amid", [LEARNING, JOINT], ids=["learning", "joint"])
def test_a_snapshot_amid_a_change_carries_the_change(amid: Configuration) -> None:
    """M1: the configuration of a snapshot is restored exactly, and gone on with (sc-M4)."""
    server = build("d", [])
    server.log.configurations = [(0, Configuration())]
    hear(server, "a", InstallSnapshot(2, 9, 2, amid, 7, 1, done=True))
    save(server)
    assert (server.configuration, server.log.configuration_index) == (amid, 7)
    restarted = build("a", [], term=2, snapshot=(9, 2, amid, 7), first_index=10, prev_term=2)
    assert restarted.configuration == amid
    elect(restarted)
    settle(restarted)
    assert restarted.configuration == configuration("ade")


def test_a_snapshot_amid_a_change_has_the_configuration_as_of_its_index() -> None:
    """M1: what is appended and not committed is no part of a snapshot (sc-M16)."""
    server = ready()
    change(server, "ab")
    step(server, SnapshotSaved(2))
    assert server.log.configuration_at(2) == (1, configuration())
    assert server.configuration == configuration("ab")
    assert server.log.configurations[0] == (1, configuration())


@pytest.mark.parametrize("lost", [LEARNING, JOINT, configuration("ab")])
def test_a_change_that_is_truncated_never_was(lost: Configuration) -> None:
    """M1: a configuration that a new leader lacks is rolled back to the one before (sc-M3)."""
    server = build("b")
    hear(server, "a", append((1, 1), [1], configurations=((2, lost),)))
    assert server.configuration == lost
    outputs = hear(server, "c", append((1, 1), [2], term=2, commit=2))
    assert (server.configuration, server.log.configuration_index) == (configuration(), 1)
    assert outputs.changes[0] == ConfigurationCommitted(1, configuration())


def test_a_restart_amid_a_change_takes_no_step_twice() -> None:
    """M1: a replayed configuration counts, and is appended by nobody again (sc-M18)."""
    final = configuration("ade")
    server = Server.recover(
        "a",
        Options(),
        random.Random(1),
        0.0,
        HardState(1),
        runs=(Run(5, 1, 400),),
        configurations=((1, configuration()), (2, LEARNING), (3, JOINT), (4, final)),
    )
    assert server.configuration == final
    elect(server)
    assert settle(server) == []
    assert server.log.configuration_index == 4
    assert server.commit_index == server.log.last_index == 5


def pinned_member(id: str, incarnation: str, voter: bool = True) -> Member:
    return Member(id, incarnation, voter=voter)


def test_who_joins_under_an_old_id_does_not_vote_by_its_predecessors_configuration() -> None:
    """M7: catching up from the first entry, it once took itself for the only voter there was.

    It stood for an election of which its own vote was the majority, and committed alone.
    """
    alone = Configuration((pinned_member("a", "old"),))
    server = newcomer("a")
    server.incarnation = "new"
    hear(server, "b", append((0, 0), [1], term=3, commit=1, configurations=((1, alone),)))
    save(server)
    assert not server.is_voter
    assert not server.may_campaign
    for _ in range(5):
        elapse(server, 3 * TIMEOUT)
    assert (server.role, server.current_term) == (Role.FOLLOWER, 3)
    # Nor by one that may yet be taken back, nor as one of the outgoing voters.
    joint = Configuration((pinned_member("a", "old", False), Member("b")), frozenset("a"))
    hear(server, "b", append((1, 1), [1], term=3, commit=1, configurations=((2, joint),)))
    assert not server.may_campaign
    both = Configuration((pinned_member("a", "new"), Member("b")))
    hear(server, "b", append((2, 1), [3], term=3, commit=2, configurations=((3, both),)))
    assert server.is_voter
    time_out(server)
    assert server.role is Role.PRE_CANDIDATE


def test_a_voter_whose_incarnation_is_not_pinned_yet_may_campaign() -> None:
    """M7: founders vote before anybody has heard their incarnations."""
    server = build("a", [1], members=configuration())
    server.incarnation = "new"
    assert server.is_voter
    time_out(server)
    assert server.role is Role.PRE_CANDIDATE


def test_who_was_removed_and_is_empty_gets_no_log() -> None:
    """M7: sent the old log, it believed a configuration from before anybody was pinned.

    Others who had lost their logs elected it beside the cluster (seed 200492).
    """
    server = ready()
    change(server, "ab")
    sequence = server.state.sequence
    assert "c" in server.state.departing
    empty = AppendEntriesResult(2, False, server.log.last_index, sequence, 0)
    outputs = hear(server, "c", empty)
    assert "c" not in server.state.progress
    assert outputs.changes == ()
    assert not only(outputs, AppendEntries, "c")
    assert outputs.changes == ()
    elapse(server, HEARTBEAT)
    assert not only(elapse(server, HEARTBEAT), AppendEntries, "c")
    # One that still has a log is told that it is out.
    change(other := ready(), "ab")
    behind = AppendEntriesResult(2, False, other.log.last_index, other.state.sequence, 2, 2, 2)
    hear(other, "c", behind)
    assert "c" in other.state.progress
