"""Compaction and InstallSnapshot: the paper's section 7, the dissertation's 5.1."""

from __future__ import annotations

import math

import pytest

from raft.core.events import Propose, Received, Saved, SnapshotSaved, SnapshotSent, Unreachable
from raft.core.messages import (
    AppendEntries,
    AppendEntriesResult,
    InstallSnapshot,
    InstallSnapshotResult,
)
from raft.core.outputs import (
    Compacted,
    ConfigurationCommitted,
    HardState,
    Outputs,
    RestoreSnapshot,
    Role,
    RoleChanged,
    Save,
    Send,
    StartSnapshot,
)
from raft.core.progress import Pace
from raft.core.server import Server
from raft.errors import InvariantViolated, LogLost
from tests.core.cluster import (
    HEARTBEAT,
    TIMEOUT,
    answer,
    append,
    build,
    configuration,
    elapse,
    hear,
    leader,
    newcomer,
    only,
    runs,
    save,
    step,
    time_out,
)

WIDER = configuration("abcd")


def offer(
    index: int = 5, last_term: int = 2, *, term: int = 3, done: bool = True, sequence: int = 9
) -> InstallSnapshot:
    return InstallSnapshot(term, index, last_term, WIDER, 4, sequence, done)


def success(server: Server, match: int, received: int | None = None) -> AppendEntriesResult:
    sequence = server.state.sequence
    return AppendEntriesResult(
        server.current_term, True, match, sequence, match if received is None else received
    )


def compacted_leader() -> Server:
    """Return a leader of term 2 that has compacted [1, 7); c has all, b is not heard."""
    server = leader("a", [1, 1, 1, 1])
    hear(server, "c", success(server, 5))
    step(server, Propose(1, 1, 100))
    save(server)
    hear(server, "c", success(server, 6))
    assert step(server, SnapshotSaved(6)).changes == (Compacted(6),)
    return server


# Own snapshots.


def test_an_own_snapshot_cuts_the_log_but_for_what_is_kept() -> None:
    """N6: the log is cut up to the snapshot, but for trailing entries."""
    server = build("a", [1] * 9)
    hear(server, "b", append((9, 1), commit=8))
    outputs = step(server, SnapshotSaved(6, keep=2))
    assert outputs.changes == (Compacted(4),)
    assert (server.log.first_index, server.log.prev_term, server.snapshot_index) == (5, 1, 6)
    assert server.log.runs == runs(5, [1] * 5)
    assert step(server, SnapshotSaved(5, keep=2)).changes == ()


def test_a_snapshot_of_what_is_not_applied_stops_the_server() -> None:
    """N6: a snapshot holds only what is applied."""
    server = build("a", [1] * 9)
    hear(server, "b", append((9, 1), commit=5))
    with pytest.raises(InvariantViolated, match="up to 6"):
        step(server, SnapshotSaved(6))


def test_compaction_keeps_the_configuration_of_the_logs_beginning() -> None:
    """M1: a snapshot stands for the configuration as of its last index."""
    server = build("a", [1])
    hear(server, "b", append((1, 1), [1, 1, 1], commit=4, configurations=((3, WIDER),)))
    save(server)
    step(server, SnapshotSaved(3))
    assert (server.configuration, server.log.configuration_index) == (WIDER, 3)
    assert server.log.configuration_at(4) == (3, WIDER)


# The follower's side.


def test_an_installed_snapshot_replaces_the_log() -> None:
    """N6: without its last entry in the log, the whole log is discarded (hashicorp #704)."""
    server = build("a", [1, 1, 1])
    outputs = hear(server, "b", offer())
    assert outputs == Outputs(
        restore=RestoreSnapshot(5, 2, WIDER, keep_log=False),
        save=Save(1, HardState(3, None)),
        send=(Send("b", InstallSnapshotResult(3, 5, 9, done=True), after=1),),
        apply_end=6,
        commit_index=5,
        changes=(ConfigurationCommitted(4, WIDER), RoleChanged(Role.FOLLOWER, 3, "b")),
        next_deadline=server.election_deadline,
    )
    assert (server.log.first_index, server.log.last_index, server.log.last_term) == (6, 5, 2)
    assert (server.configuration, server.log.configuration_index) == (WIDER, 4)


def test_a_conflicting_log_goes_with_all_that_follows() -> None:
    """N6: the last entry is there with another term: discard the whole log."""
    server = build("a", [1] * 9)
    outputs = hear(server, "b", offer())
    assert outputs.restore == RestoreSnapshot(5, 2, WIDER, keep_log=False)
    assert server.log.last_index == 5


def test_a_log_that_holds_the_snapshots_last_entry_keeps_what_follows() -> None:
    """N6: the same last entry: the entries after it stay (section 7; sc-S4)."""
    server = build("a", [1, 1, 1, 2, 2, 2, 2])
    outputs = hear(server, "b", offer())
    assert outputs.restore == RestoreSnapshot(5, 2, WIDER, keep_log=True)
    assert server.log.runs == runs(6, [2, 2])
    assert answer(outputs).match_index == 5


@pytest.mark.parametrize("index", [2, 3])
def test_a_stale_offer_is_answered_and_changes_nothing(index: int) -> None:
    """N6: ignore what is not above the commit index, and reply to it (sc-S3)."""
    server = build("a", [1] * 5)
    hear(server, "b", append((5, 1), term=3, commit=3))
    save(server)
    outputs = hear(server, "b", offer(index, 1))
    assert (outputs.restore, outputs.save) == (None, None)
    assert answer(outputs) == InstallSnapshotResult(3, 5, 9, done=True)
    assert server.log.runs == runs(1, [1] * 5)


def test_a_repeated_offer_is_answered_the_same_again() -> None:
    """N6: reply to duplicates too: the first answer may be lost."""
    server = build("a", [1])
    hear(server, "b", offer())
    save(server)
    outputs = hear(server, "b", offer())
    assert (outputs.restore, answer(outputs)) == (None, InstallSnapshotResult(3, 5, 9, done=True))


def test_an_offer_is_acknowledged_once_its_mark_is_saved() -> None:
    """N6: the snapshot counts when it is marked in the log, not before (L1)."""
    server = build("a", [1])
    hear(server, "b", append((1, 1), term=3))
    save(server)
    outputs = hear(server, "b", offer())
    assert outputs.save is not None
    assert [send.after for send in outputs.send] == [outputs.save.ticket]
    again = hear(server, "b", offer())
    assert [send.after for send in again.send] == [outputs.save.ticket]


def test_no_heartbeat_acknowledges_a_snapshot_before_its_mark_is_saved() -> None:
    """L1: entries that the snapshot replaced do not pass for saved ones."""
    server = build("a", [1] * 9)
    hear(server, "b", offer())
    heartbeat = append((5, 2), term=3, commit=5, sequence=10)
    result = answer(hear(server, "b", heartbeat))
    assert (result.match_index, result.last_log_index) == (0, 5)
    outputs = save(server)
    assert outputs.apply_end == 6
    assert answer(hear(server, "b", heartbeat)).match_index == 5


def test_an_older_save_does_not_acknowledge_the_snapshot_either() -> None:
    """L1: a save asked before the snapshot came says nothing of it."""
    server = build("a", [1])
    hear(server, "b", append((1, 1), [1] * 8, term=2))
    hear(server, "b", offer())
    step(server, Saved(1))
    assert answer(hear(server, "b", append((5, 2), term=3))).match_index == 0
    step(server, Saved(2))
    assert answer(hear(server, "b", append((5, 2), term=3))).match_index == 5


def test_entries_that_the_snapshot_replaces_in_the_same_turn_are_not_verified() -> None:
    """N6: what came in the same turn and went with the log is not there any more."""
    server = build("a", [1])
    step(
        server,
        Received("b", append((1, 1), [1, 1, 2, 2, 3, 3], term=3)),
        Received("b", offer()),
    )
    assert server.log.last_index == 5
    outputs = hear(server, "b", append((5, 2), term=3, commit=7))
    assert server.commit_index == 5
    assert answer(outputs).last_log_index == 5


def test_a_log_that_conflicts_on_disk_is_not_kept_for_what_came_in_the_same_turn() -> None:
    """N6: the mark is saved before this turn's entries, over the old ones in their places (L3).

    Kept, a crash between the two would leave a log that contradicts its snapshot.
    """
    server = build("a", [1] * 9)
    outputs = step(
        server,
        Received("b", append((3, 1), [2, 2, 2], term=3)),
        Received("b", offer()),
    )
    assert outputs.restore == RestoreSnapshot(5, 2, WIDER, keep_log=False)
    assert outputs.save is not None
    assert (outputs.save.truncate_from, outputs.save.append) == (None, ())
    assert server.log.last_index == 5


def test_each_chunk_counts_as_hearing_the_leader() -> None:
    """N6: a transfer under way keeps the follower from campaigning."""
    server = build("a", [1])
    deadline = server.election_deadline
    outputs = hear(server, "b", offer(done=False))
    assert outputs.restore is None
    assert answer(outputs) == InstallSnapshotResult(3, 0, 9)
    assert (server.leader_id, server.heard_at) == ("b", server.now)
    assert server.election_deadline != deadline


def test_a_candidate_installs_the_snapshot_of_its_terms_leader() -> None:
    """N6: a server that waits for a snapshot and campaigns steps down to take it (sc-S16)."""
    server = build("a", [1], pre_vote=False)
    time_out(server)
    save(server)
    hear(server, "b", offer(term=2, last_term=1))
    assert (server.role, server.leader_id, server.commit_index) == (Role.FOLLOWER, "b", 5)


def test_the_log_goes_on_after_the_snapshot_in_the_same_turn() -> None:
    """N6: entries after the snapshot are taken in behind it, in one save."""
    server = build("a", [1])
    outputs = step(
        server, Received("b", offer()), Received("b", append((5, 2), [3, 3], term=3, commit=7))
    )
    assert outputs.restore is not None
    assert outputs.save is not None
    assert [(entry.start, entry.end) for entry in outputs.save.append] == [(6, 8)]
    assert (outputs.commit_index, outputs.apply_end) == (7, 6)
    assert save(server).apply_end == 8


def test_the_snapshots_of_two_leaders_are_not_mixed() -> None:
    """N6: a newer leader's snapshot wins, the older's late offer is refused (sc-S5)."""
    server = build("a", [1])
    hear(server, "b", offer(done=False))
    hear(server, "c", offer(8, 3, term=4))
    outputs = hear(server, "b", offer(term=3))
    assert (outputs.restore, answer(outputs)) == (None, InstallSnapshotResult(4, 0, 0))
    assert server.commit_index == 8


# The leader's side.


def test_a_leader_sends_a_snapshot_where_its_log_begins_too_late() -> None:
    """N6: the next entry is compacted away: a snapshot, no exception (sc-S15)."""
    server = compacted_leader()
    refusal = AppendEntriesResult(2, False, 4, server.state.sequence, 1, 1, 1)
    outputs = hear(server, "b", refusal)
    progress = server.state.progress["b"]
    assert (progress.pace, progress.snapshot_index) == (Pace.SNAPSHOT, 6)
    assert outputs.start_snapshots == (StartSnapshot("b", server.state.sequence),)
    assert only(outputs, AppendEntries, "b") == []


def sending() -> Server:
    server = compacted_leader()
    hear(server, "b", AppendEntriesResult(2, False, 4, server.state.sequence, 1, 1, 1))
    assert server.state.progress["b"].pace is Pace.SNAPSHOT
    return server


def test_no_entries_go_beside_a_snapshot() -> None:
    """L7: snapshot: no appends, but heartbeats."""
    server = sending()
    assert only(step(server, Propose(2, 1, 100)), AppendEntries, "b") == []
    (beat,) = only(elapse(server, HEARTBEAT), AppendEntries, "b")
    assert (beat.prev_log_index, beat.prev_log_term, beat.entries.runs) == (0, 0, ())


def test_an_installed_snapshot_is_followed_by_the_log() -> None:
    """N6: the follower is at the snapshot's end: go on after it."""
    server = sending()
    step(server, Propose(2, 1, 100))
    outputs = hear(server, "b", InstallSnapshotResult(2, 6, 9, done=True))
    (sent,) = only(outputs, AppendEntries, "b")
    assert (sent.prev_log_index, sent.prev_log_term, sent.entries.end) == (6, 2, 8)
    assert server.match_index("b") == 6


@pytest.mark.parametrize("ok", [True, False])
def test_the_end_of_a_transfer_is_a_probe(ok: bool) -> None:
    """L7: the transfer's end, well or not, leads back to a probe: it never stays for ever."""
    server = sending()
    outputs = step(server, SnapshotSent("b", 6, ok))
    assert outputs.start_snapshots == ()
    if not ok:
        elapse(server, HEARTBEAT)
        outputs = hear(server, "b", success(server, 0, 0))
    else:
        (beat,) = only(elapse(server, HEARTBEAT), AppendEntries, "b")
        assert beat.prev_log_index == 6
        outputs = hear(server, "b", AppendEntriesResult(2, False, 6, beat.sequence, 1, 1, 1))
    assert len(outputs.start_snapshots) == 1


def test_chunks_answered_are_contact_and_nothing_more() -> None:
    """E7: the answers to chunks keep the leader in office."""
    server = sending()
    for _ in range(3):
        elapse(server, TIMEOUT / 2)
        hear(server, "b", InstallSnapshotResult(2, 6, 0))
    assert (server.role, server.match_index("b")) == (Role.LEADER, 0)
    assert server.state.progress["b"].pace is Pace.SNAPSHOT


def test_a_snapshot_whose_installation_was_not_heard_is_told_by_the_next_heartbeat() -> None:
    """L7: the follower acknowledges what the snapshot holds: the log goes on."""
    server = sending()
    hear(server, "b", success(server, 6))
    assert server.state.progress["b"].pace is Pace.REPLICATE


def test_a_refusal_that_comes_twice_begins_no_second_snapshot() -> None:
    """L7: a snapshot is on its way: what was refused before it says nothing new."""
    server = compacted_leader()
    refusal = AppendEntriesResult(2, False, 4, 1, 1, 1, 1)
    assert len(hear(server, "b", refusal).start_snapshots) == 1
    assert hear(server, "b", refusal).start_snapshots == ()


def test_an_unreachable_follower_keeps_its_snapshot() -> None:
    """L7: the shell ends its transfer itself; the core waits for that."""
    server = sending()
    outputs = step(server, Unreachable("b"))
    assert (outputs.start_snapshots, server.state.progress["b"].pace) == ((), Pace.SNAPSHOT)


def test_a_server_that_does_not_lead_ends_no_transfer() -> None:
    """L7: a transfer of an earlier leadership is of no account."""
    server = build("a")
    assert step(server, SnapshotSent("b", 6, True)).send == ()


def test_compaction_beside_replication_needs_no_snapshot_where_nothing_is_lost() -> None:
    """N6: what is on its way was sent before it was compacted (sc-S15)."""
    server = leader("a", [1, 1])
    for peer in "bc":
        hear(server, peer, success(server, 3))
    step(server, Propose(1, 4, 400))
    save(server)
    hear(server, "c", success(server, 7))
    step(server, SnapshotSaved(6))
    outputs = hear(server, "b", success(server, 7))
    assert (outputs.start_snapshots, server.match_index("b")) == ((), 7)


def test_a_learner_that_was_never_reached_gets_a_snapshot_without_any_write() -> None:
    """N6: caught up by heartbeats and a snapshot alone after the partition heals (sc-R8)."""
    members = configuration("ac", learners="b")
    server = leader("a", [1, 1, 1], members=members)
    hear(server, "c", success(server, 4))
    step(server, SnapshotSaved(4))
    (beat,) = only(elapse(server, HEARTBEAT), AppendEntries, "b")
    fresh = build("b", [], term=0)
    fresh.log.configurations = fresh.log.configurations[:1]
    result = answer(hear(fresh, "a", beat))
    outputs = hear(server, "b", result)
    assert len(outputs.start_snapshots) == 1
    snapshot = InstallSnapshot(2, 4, 2, members, 1, outputs.start_snapshots[0].sequence, True)
    outputs = hear(fresh, "a", snapshot)
    assert outputs.restore == RestoreSnapshot(4, 2, members, keep_log=False)
    hear(server, "b", answer(outputs))
    assert server.match_index("b") == 4


def test_a_snapshot_cuts_off_a_single_entry_too() -> None:
    """N6: everything up to the snapshot but for what is kept, be it one entry."""
    server = build("a", [1] * 9)
    hear(server, "b", append((9, 1), commit=8))
    assert step(server, SnapshotSaved(6, keep=5)).changes[-1] == Compacted(1)
    assert step(server, SnapshotSaved(6, keep=5)).changes == ()


def test_an_older_snapshot_takes_nothing_back() -> None:
    """N6: the newest snapshot of the own ones is the one that is sent."""
    server = build("a", [1] * 9)
    hear(server, "b", append((9, 1), commit=8))
    step(server, SnapshotSaved(6))
    step(server, SnapshotSaved(3))
    assert server.snapshot_index == 6


def test_a_snapshot_is_offered_under_a_number_of_its_own() -> None:
    """L5: an answer to it is none to a message before it, nor the other way round."""
    server = compacted_leader()
    before = server.state.sequence
    refusal = AppendEntriesResult(2, False, 4, before, 1, 1, 1)
    (start,) = hear(server, "b", refusal).start_snapshots
    assert start.sequence == before + 1
    (beat, _) = only(elapse(server, HEARTBEAT), AppendEntries)
    assert beat.sequence == before + 2


def test_the_end_of_a_transfer_that_nobody_waits_for_changes_nothing() -> None:
    """L7: a follower that left meanwhile, or has caught up otherwise, is not probed for it."""
    server = compacted_leader()
    before = server.state.progress["c"].next_index
    for peer in "cz":
        assert step(server, SnapshotSent(peer, 3, True)).send == ()
    progress = server.state.progress["c"]
    assert (progress.pace, progress.next_index) == (Pace.REPLICATE, before)


def test_a_transfer_that_failed_begins_again_once_the_follower_is_heard() -> None:
    """L7: from behind its match; what fails at once is not begun again at once."""
    server = sending()
    step(server, SnapshotSent("b", 6, False))
    progress = server.state.progress["b"]
    assert (progress.pace, progress.paused, progress.next_index) == (Pace.PROBE, True, 1)


def test_a_transfer_that_ended_well_lets_the_entries_follow_at_once() -> None:
    """L7: the follower has the snapshot: what comes after it needs no heartbeat first."""
    server = sending()
    step(server, Propose(2, 1, 100))
    (sent,) = only(step(server, SnapshotSent("b", 6, True)), AppendEntries, "b")
    assert (sent.prev_log_index, sent.entries.end) == (6, 8)


def test_an_answer_to_an_older_offer_ends_no_transfer() -> None:
    """L7: entries go on once the follower has the snapshot that is on its way."""
    server = sending()
    assert hear(server, "b", InstallSnapshotResult(2, 5, 9, done=True)).start_snapshots == ()
    progress = server.state.progress["b"]
    assert (progress.pace, progress.match_index) == (Pace.SNAPSHOT, 5)


def test_the_same_answer_again_sends_nothing_again() -> None:
    """L7: what is on its way after the snapshot stays on its way."""
    server = sending()
    told = InstallSnapshotResult(2, 6, 9, done=True)
    hear(server, "b", told)
    step(server, Propose(2, 1, 100))
    assert server.state.progress["b"].inflight_count == 1
    assert hear(server, "b", told).send == ()
    assert server.state.progress["b"].inflight_count == 1


def test_the_answer_of_a_stranger_or_of_another_term_is_no_answer() -> None:
    """L5: only members that answer this term's leader are counted."""
    server = sending()
    hear(server, "z", InstallSnapshotResult(2, 6, 9, done=True))
    hear(server, "b", InstallSnapshotResult(1, 6, 9, done=True))
    assert (server.match_index("b"), "z" in server.state.progress) == (0, False)


def test_no_answer_makes_a_follower_match_more_than_the_log() -> None:
    """L5: a follower matches what this leader has, whatever it says."""
    server = sending()
    hear(server, "b", InstallSnapshotResult(2, 99, 9, done=True))
    assert server.match_index("b") == server.log.last_index


@pytest.mark.parametrize(("start", "kept"), [(6, False), (7, True)])
def test_the_snapshots_last_entry_must_be_on_the_disk_as_it_is(start: int, kept: bool) -> None:
    """N6: one that came in this very turn is saved after the mark: the log begins anew (L3)."""
    server = build("a", [1, 1, 2, 2, 2, 2, 2])
    outputs = step(
        server,
        Received("b", append((start - 1, 2), [3, 3], term=3)),
        Received("b", offer(6, 3 if start == 6 else 2)),
    )
    assert outputs.restore is not None
    assert outputs.restore.keep_log is kept


def test_a_snapshot_of_the_entry_that_just_came_begins_the_log_anew() -> None:
    """N6: the mark is saved before this turn's entries; the last of them is not there yet."""
    server = build("a", [1, 1, 2, 2])
    outputs = step(
        server,
        Received("b", append((4, 2), [2, 2], term=3)),
        Received("b", offer()),
    )
    assert outputs.restore == RestoreSnapshot(5, 2, WIDER, keep_log=False)


@pytest.mark.parametrize("conflict", [6, 7])
def test_what_follows_a_snapshot_and_conflicts_in_the_same_turn_truncates_no_disk(
    conflict: int,
) -> None:
    """N6: behind the mark there is nothing on the disk that could be cut off."""
    server = build("a", [1] * 9)
    outputs = step(
        server,
        Received("b", offer()),
        Received("b", append((5, 2), [3, 3, 3], term=3)),
        Received("c", append((conflict - 1, 2 if conflict == 6 else 3), [4], term=4)),
    )
    assert outputs.save is not None
    assert outputs.save.truncate_from is None
    places = [(entry.start, entry.end) for entry in outputs.save.append]
    assert places == [(start, start + 1) for start in range(6, conflict + 1)]


def test_a_second_conflict_is_cut_off_where_the_snapshot_kept_the_log() -> None:
    """N6: what the disk holds behind the snapshot is truncated there, like any other."""
    server = build("a", [1, 1, 1, 2, 2, 2, 2])
    outputs = step(
        server,
        Received("b", offer()),
        Received("b", append((5, 2), [3], term=3)),
    )
    assert outputs.save is not None
    assert (outputs.restore.keep_log, outputs.save.truncate_from) == (True, 6)


def test_a_snapshot_that_makes_a_voter_winds_its_clock() -> None:
    """N6: the configuration in it counts at once, for the election timer too (M1)."""
    server = newcomer("a")
    hear(server, "b", offer())
    assert server.is_voter
    assert server.election_deadline < math.inf


def test_whoever_lost_the_answer_hears_from_the_next_that_the_snapshot_is_there() -> None:
    """L1: each answer tells all that is verified and saved, the snapshot included."""
    server = build("a", [1])
    hear(server, "b", offer())
    save(server)
    beat = append((0, 0), term=3, commit=5, sequence=10)
    assert answer(hear(server, "b", beat)).match_index == 5


def test_entries_behind_a_snapshot_are_acknowledged_as_far_as_they_are_saved() -> None:
    """L1: an old offer is answered with all that is verified, and on this server's disk."""
    server = build("a", [1])
    step(server, Received("b", offer()), Received("b", append((5, 2), [3, 3], term=3)))
    assert answer(hear(server, "b", offer(4, 1))).match_index == 4
    save(server)
    assert answer(hear(server, "b", offer(4, 1))).match_index == 7


# Recovery.


def test_a_recovered_log_must_join_its_snapshot() -> None:
    """N6: a gap, a shorter log or another term at the snapshot's index: refuse (sc-S2)."""
    members = configuration()
    snapshot = (6, 2, members, 1)
    with pytest.raises(InvariantViolated, match="does not join"):
        build("a", [2], snapshot=snapshot, first_index=9, prev_term=2)
    with pytest.raises(InvariantViolated, match="does not join"):
        build("a", [1, 1], snapshot=snapshot, first_index=1)
    with pytest.raises(InvariantViolated, match="does not join"):
        build("a", [1] * 8, term=2, snapshot=snapshot, first_index=1)
    with pytest.raises(InvariantViolated, match="does not join"):
        build("a", [2], first_index=4, prev_term=1)
    assert build("a", [1] * 5 + [2] * 3, snapshot=snapshot).apply_end == 7


def recovered(applied: tuple[int, int]) -> Server:
    """Return a server with a snapshot up to 6, [5, 8] in its log, and a machine that is ahead."""
    snapshot, log = (6, 2, WIDER, 4), runs(5, [2, 2, 2, 3])
    state, rng, options = HardState(3), leader().rng, leader().options
    return Server.recover("a", options, rng, 0.0, state, snapshot, 5, 1, log, (), applied)


@pytest.mark.parametrize("applied", [(7, 2), (8, 3)])
def test_what_a_durable_machine_has_applied_is_committed(applied: tuple[int, int]) -> None:
    """L3: what was applied was committed, so it is neither truncated nor repeated (5.3)."""
    server = recovered(applied)
    assert (server.commit_index, server.apply_end) == (applied[0], applied[0] + 1)
    outputs = step(server, SnapshotSaved(applied[0]))
    assert (server.snapshot_index, outputs.apply_end) == (applied[0], applied[0] + 1)


def test_a_machine_that_is_not_ahead_changes_nothing() -> None:
    """N7: after a restart the snapshot, then the log."""
    for applied in ((0, 0), (6, 2)):
        server = recovered(applied)
        assert (server.commit_index, server.apply_end) == (6, 7)


@pytest.mark.parametrize(("applied", "text"), [((9, 3), "ends with entry 8"), ((8, 2), "another")])
def test_a_machine_that_has_what_the_log_lost_is_no_server(
    applied: tuple[int, int], text: str
) -> None:
    """M9: what it acknowledged is gone, so it must not vote (sc-F26)."""
    with pytest.raises(LogLost, match=text) as caught:
        recovered(applied)
    assert (caught.value.last_applied, caught.value.last_index) == (applied[0], 8)
    assert "join again with empty directories" in str(caught.value)


def test_the_configuration_comes_back_from_snapshot_and_log() -> None:
    """M1: snapshots store the configuration as of their last index (sc-M4)."""
    server = Server.recover(
        "a",
        leader().options,
        leader().rng,
        0.0,
        HardState(2),
        (6, 2, WIDER, 4),
        5,
        1,
        runs(5, [2] * 4),
        ((3, configuration("a")), (4, configuration("a")), (8, configuration("ab"))),
    )
    assert server.log.configurations == [(4, WIDER), (8, configuration("ab"))]
