"""Log replication from both ends: the paper's 5.3, and how a leader paces what it sends."""

from __future__ import annotations

import math

import pytest
from attrs import evolve

from raft.core.events import Propose, Received, Saved, SnapshotSaved, Unreachable
from raft.core.messages import (
    AppendEntries,
    AppendEntriesResult,
    Entries,
    InstallSnapshot,
    RequestVoteResult,
)
from raft.core.outputs import (
    Accepted,
    NoOp,
    Outputs,
    Proposed,
    Quarantined,
    Refusal,
    Rejected,
    Replicated,
    Role,
    RoleChanged,
    Save,
    Send,
    StartSnapshot,
)
from raft.core.progress import Pace
from raft.core.server import Server
from raft.errors import InvariantViolated
from tests.core.cluster import (
    ENTRY_BYTES,
    HEARTBEAT,
    TIMEOUT,
    Cluster,
    answer,
    append,
    build,
    configuration,
    elapse,
    elect,
    hear,
    leader,
    only,
    runs,
    save,
    step,
)

NO_OP_BYTES = 64


def yes(
    server: Server, match: int, received: int | None = None, sequence: int | None = None
) -> AppendEntriesResult:
    """Return a follower's success, by default to the leader's last message."""
    return AppendEntriesResult(
        server.current_term,
        True,
        match,
        server.state.sequence if sequence is None else sequence,
        match if received is None else received,
        promise_seconds=TIMEOUT,
    )


def no(
    server: Server, asked: int, last: int, hint: tuple[int, int], sequence: int | None = None
) -> AppendEntriesResult:
    """Return a follower's refusal of the entry `asked`."""
    return AppendEntriesResult(
        server.current_term,
        False,
        asked,
        server.state.sequence if sequence is None else sequence,
        last,
        *hint,
        TIMEOUT,
    )


def propose(server: Server, count: int = 1, request: int = 1) -> Outputs:
    return step(server, Propose(request, count, count * ENTRY_BYTES))


def replicating(**keywords: object) -> Server:
    """Return a leader of term 2 whose followers have its whole log, [1, 2]."""
    server = leader("a", **keywords)
    for peer in server.peers:
        hear(server, peer, yes(server, 2))
    return server


def spans(outputs: Outputs, receiver: str = "b") -> list[tuple[int, int]]:
    """Return the ranges of entries that are sent to `receiver`."""
    sent = only(outputs, AppendEntries, receiver)
    return [(each.entries.start, each.entries.end) for each in sent]


def pace(server: Server, peer: str = "b") -> Pace:
    return server.state.progress[peer].pace


# L1: what a follower acknowledges.


def test_an_acknowledgement_waits_for_its_save() -> None:
    """L1: a success tells at most what is saved; the rest follows when its ticket is (sc-R11)."""
    server = build("a")
    outputs = hear(server, "b", append((1, 1), [1, 1], sequence=5))
    assert outputs == Outputs(
        save=Save(1, append=(Replicated(2, 4, 0),)),
        changes=(RoleChanged(Role.FOLLOWER, 1, "b"),),
        next_deadline=server.election_deadline,
    )
    outputs = save(server)
    assert outputs.send == (
        Send("b", AppendEntriesResult(1, True, 3, 5, 3, promise_seconds=TIMEOUT)),
    )


def test_a_heartbeat_is_answered_at_once_but_for_what_is_saved() -> None:
    """L1: contact does not wait for the disk, acknowledgement does."""
    server = build("a")
    hear(server, "b", append((1, 1), [1, 1], sequence=5))
    result = answer(hear(server, "b", append((3, 1), sequence=6)))
    assert (result.success, result.match_index, result.last_log_index) == (True, 1, 3)


def test_a_follower_never_acknowledges_its_own_last_index() -> None:
    """L1: prev_index + len(entries), never the own last index: what follows may differ (sc-R2)."""
    server = build("a", [1, 1, 2, 2, 2])
    result = answer(hear(server, "b", append((2, 1), [], term=4)))
    assert (result.match_index, result.last_log_index) == (2, 2)
    hear(server, "b", append((2, 1), [2], term=4))
    result = answer(hear(server, "b", append((1, 1), [], term=4)))
    assert (result.match_index, result.last_log_index) == (3, 3)


def test_a_lost_acknowledgement_is_told_again_by_the_next_heartbeat() -> None:
    """L1: every answer tells all that is verified and saved, or a lost one hangs the write."""
    cluster = Cluster.of(a=build("a"), b=build("b", seed=2, members=configuration("ab")))
    cluster.nodes["a"].server = build("a", members=configuration("ab"))
    cluster.time_out("a")
    cluster.settle()
    cluster.propose("a", 1)
    cluster.save("a")
    cluster.deliver()
    cluster.save("b")
    assert [packet.sender for packet in cluster.drop()] == ["b"]
    assert cluster["a"].commit_index == 2
    cluster.beat("a")
    assert cluster["a"].commit_index == 3


def test_a_full_window_whose_acknowledgements_are_lost_opens_again() -> None:
    """L1: a heartbeat's answer frees the window (sc-R12)."""
    server = replicating(max_inflight_messages=2)
    for request in range(4):
        propose(server, request=request)
    assert (server.log.last_index, server.state.progress["b"].inflight_count) == (6, 2)
    outputs = elapse(server, HEARTBEAT)
    assert only(outputs, AppendEntries, "b")[0].prev_log_index == 2
    outputs = hear(server, "b", yes(server, 4))
    assert spans(outputs) == [(5, 7)]


def test_what_one_leader_verified_is_not_acknowledged_to_the_next() -> None:
    """L1: how far a log matches is known of one leader, in one term."""
    server = build("a")
    hear(server, "b", append((1, 1), [2, 2, 2], term=2))
    save(server)
    result = answer(hear(server, "c", append((1, 1), term=3)))
    assert (result.match_index, result.last_log_index) == (1, 1)


# L2: how a follower commits.


@pytest.mark.parametrize(("leader_commit", "committed"), [(1, 1), (3, 3), (9, 4)])
def test_a_follower_commits_what_the_leader_did_and_it_has_verified(
    leader_commit: int, committed: int
) -> None:
    """L2: min(leader_commit, prev + len(entries)) (sc-R3)."""
    server = build("a", [1, 1, 1, 1, 1, 1])
    hear(server, "b", append((2, 1), [1, 1], commit=leader_commit))
    assert server.commit_index == committed


def test_a_follower_applies_what_is_committed_and_saved() -> None:
    """L2: entries are applied up to min(commit index, saved)."""
    server = build("a")
    assert hear(server, "b", append((1, 1), [1, 1], commit=3)).apply_end == 2
    assert (server.commit_index, save(server).apply_end) == (3, 4)


def test_no_commit_index_is_past_the_end_of_the_log() -> None:
    """L2: whatever said so, there is nothing that could be applied."""
    server = build("a", [1, 1])
    server.commit_to(2)
    with pytest.raises(InvariantViolated, match="commit 3 is past the log's end 2"):
        server.commit_to(3)


def test_the_commit_index_never_goes_back() -> None:
    """L2: a late message does not lower the commit index (sc-C6)."""
    server = build("a", [1, 1, 1])
    hear(server, "b", append((3, 1), commit=3))
    outputs = hear(server, "b", append((1, 1), commit=1))
    assert (server.commit_index, outputs.apply_end) == (3, 4)


# L3: truncation.


def test_a_follower_truncates_at_the_first_entry_whose_term_differs() -> None:
    """L3: truncate only at the first index whose term differs (5.3)."""
    server = build("a", [1, 1, 2, 2, 2])
    outputs = hear(server, "b", append((1, 1), [1, 2, 4, 4], term=4))
    assert outputs.save is not None
    assert (outputs.save.truncate_from, outputs.save.append) == (4, (Replicated(4, 6, 0),))
    assert server.log.runs == runs(1, [1, 1, 2, 4, 4])


def test_a_late_shorter_append_truncates_nothing() -> None:
    """L3: a delayed message that holds less than what was taken in removes nothing (sc-R1)."""
    server = build("a")
    hear(server, "b", append((1, 1), [1, 1, 1]))
    save(server)
    outputs = hear(server, "b", append((1, 1), [1]))
    assert (outputs.save, server.log.last_index) == (None, 4)
    assert answer(outputs).match_index == 4


def test_a_conflict_with_a_committed_entry_stops_the_server() -> None:
    """L3: never truncate at or below the commit index: halt instead."""
    server = build("a", [1, 1, 1])
    hear(server, "b", append((3, 1), commit=3))
    with pytest.raises(InvariantViolated, match="entry 3 conflicts"):
        hear(server, "c", append((2, 1), [2], term=2))


def test_truncating_a_configuration_reverts_it() -> None:
    """L3: truncating a configuration's entry reverts to the one before (sc-M3, M1)."""
    server = build("a")
    wider = configuration("abcd")
    hear(server, "b", append((1, 1), [2, 2], term=2, configurations=((3, wider),)))
    assert server.configuration == wider
    hear(server, "c", append((1, 1), [3], term=3))
    assert (server.configuration, server.log.configuration_index) == (configuration(), 1)


def test_entries_that_come_and_go_in_one_turn_are_never_written() -> None:
    """L3: one save says what the turn left behind, not what passed through it."""
    server = build("a", [1, 1])
    outputs = hear(server, "b", append((1, 1), [2, 2, 2], term=2), append((3, 2), [], term=2))
    assert outputs.save is not None
    assert outputs.save.truncate_from == 2
    for kept in (0, 1):
        server = build("a", [1, 1])
        outputs = step(
            server,
            Received("b", append((2, 1), [2, 2, 2], term=2)),
            Received("c", append((2 + kept, 1 + kept), [3], term=3)),
        )
        assert outputs.save is not None
        assert outputs.save.truncate_from is None
        written = (Replicated(3, 3 + kept, 0), Replicated(3 + kept, 4 + kept, 0))
        assert outputs.save.append == written[1 - kept :]


def test_entries_that_are_saved_already_are_acknowledged_at_once() -> None:
    """L1: the answer waits for no save where there is nothing to save."""
    server = build("a")
    hear(server, "b", append((1, 1), [1, 1]))
    save(server)
    result = answer(hear(server, "b", append((1, 1), [1, 1], sequence=2)))
    assert (result.match_index, result.sequence) == (3, 2)


def test_a_save_that_no_entry_waits_for_is_not_acknowledged() -> None:
    """L1: an answer that was given is not given again; a snapshot's mark has its own."""
    server = build("a")
    hear(server, "b", append((1, 1), [1, 1]))
    assert len(save(server).send) == 1
    hear(server, "b", InstallSnapshot(1, 9, 1, configuration(), 1, 2, done=True))
    assert save(server).send == ()


@pytest.mark.parametrize(("first", "then"), [(2, 4), (4, 2)])
def test_the_earliest_truncation_of_a_turn_is_the_one_that_is_written(
    first: int, then: int
) -> None:
    """L3: all that stood on the disk behind it goes, though entries came and went since."""
    server = build("a", [1] * 9)
    earlier = [2] * (9 - first)
    outputs = step(
        server,
        Received("b", append((first, 1), earlier, term=2)),
        Received("c", append((then, 2 if then > first else 1), [3], term=3)),
    )
    assert outputs.save is not None
    assert outputs.save.truncate_from == 3
    assert server.log.runs == runs(1, [1, 1, *([2, 2] if then > first else []), 3])
    assert [(each.start, each.end) for each in outputs.save.append] == (
        [(3, 5), (5, 6)] if then > first else [(3, 4)]
    )


def test_a_rewritten_entry_is_not_acknowledged_by_its_first_copys_save() -> None:
    """L1: saves go by ticket: an entry truncated and written again waits for its own."""
    server = build("a")
    hear(server, "b", append((1, 1), [2, 2], term=2))
    hear(server, "c", append((1, 1), [3, 3], term=3, sequence=7))
    early = only(step(server, Saved(1)), AppendEntriesResult)
    assert [result.match_index for result in early] == [1]
    result = answer(step(server, Saved(2)))
    assert (result.match_index, result.sequence) == (3, 7)


def test_a_previous_entry_below_the_compaction_point_matches() -> None:
    """L3: what is compacted is committed and so the same: no truncation (sc-R6)."""
    snapshot = (4, 1, configuration(), 1)
    server = build("a", [1, 1], snapshot=snapshot, first_index=5, prev_term=1)
    outputs = hear(server, "b", append((2, 1), [1, 1, 1, 1, 2], term=2))
    assert outputs.save is not None
    assert (outputs.save.truncate_from, outputs.save.append) == (None, (Replicated(7, 8, 0),))
    save(server)
    assert answer(hear(server, "b", append((0, 0), term=2))).match_index == 7


# L4 is in test_commit. L5: what a leader learns.


def test_only_a_leader_knows_how_far_others_are() -> None:
    """L5: of nobody else's log, and of no stranger's, is anything known."""
    assert build("a", [1, 1]).match_index("b") == 0
    assert replicating().match_index("z") == 0


def test_match_only_grows() -> None:
    """L5: a late success does not lower match_index."""
    server = replicating()
    hear(server, "b", yes(server, 1, sequence=1))
    assert server.match_index("b") == 2


@pytest.mark.parametrize("asked", [1, 2])
@pytest.mark.parametrize("late", [True, False])
def test_a_late_rejection_moves_nothing(asked: int, late: bool) -> None:
    """L5: a rejection at or below the match that was sent before it was learnt (sc-R7)."""
    server = replicating()
    progress = server.state.progress["b"]
    sequence = 1 if late else progress.match_sequence
    outputs = hear(server, "b", no(server, asked, 0, (0, 0), sequence))
    assert (progress.match_index, progress.next_index, outputs.changes) == (2, 3, ())
    assert (progress.pace, outputs.send) == (Pace.REPLICATE, ())


def test_a_refusal_that_comes_twice_is_answered_once() -> None:
    """L5: what was refused before the last probe was sent moves no probe (sc-R7)."""
    server = leader("a", [1, 1, 1, 1])
    refusal = no(server, 4, 1, (1, 1), sequence=1)
    (probe,) = only(hear(server, "b", refusal), AppendEntries, "b")
    assert probe.prev_log_index == 1
    assert hear(server, "b", refusal).send == ()


def test_a_refusal_ahead_of_the_match_leads_back_to_a_probe() -> None:
    """L5: messages overtook each other, or one was lost: the log ends where they meet."""
    server = replicating()
    for request in range(3):
        propose(server, request=request)
    (again,) = only(hear(server, "b", no(server, 4, 3, (3, 2))), AppendEntries, "b")
    assert (pace(server), again.prev_log_index) == (Pace.PROBE, 3)


def test_replies_of_another_term_are_ignored() -> None:
    """L5: a reply of an earlier term tells nothing of this one's log."""
    server = replicating()
    old = AppendEntriesResult(1, True, 2, 99, 2)
    assert hear(server, "b", old).changes == ()
    assert server.state.progress["b"].acked_sequence < 99


@pytest.mark.parametrize(
    ("asked", "last"),
    [(2, 1), (2, 5), (3, 1)],
    ids=["it is gone", "it is another", "it is gone, which an entry after it shows"],
)
def test_a_follower_whose_disk_went_back_is_quarantined(asked: int, last: int) -> None:
    """L5: a rejection below the match of a later message: the disk went back (sc-R4)."""
    server = replicating()
    propose(server, 1)
    propose(server, 1)
    outputs = elapse(server, HEARTBEAT)
    outputs = hear(server, "b", no(server, asked, last, (1, 1)))
    assert outputs.changes == (Quarantined("b", 2, last),)
    assert server.match_index("b") == 0
    propose(server)
    assert only(elapse(server, HEARTBEAT), AppendEntries, "b") == []


def test_the_cluster_goes_on_beside_a_quarantined_follower() -> None:
    """L5: what a follower without its disk says counts for nothing; the others commit (sc-R4)."""
    server = replicating()
    elapse(server, HEARTBEAT)
    hear(server, "b", no(server, 2, 1, (1, 1)))
    assert len(only(elapse(server, HEARTBEAT), AppendEntries, "c")) == 1
    propose(server)
    save(server)
    hear(server, "b", yes(server, 3))
    assert server.commit_index == 2
    hear(server, "c", yes(server, 3))
    assert server.commit_index == 3


def test_a_refused_message_of_an_earlier_term_is_only_a_sign_of_life() -> None:
    """L5: sequences belong to their term: one of an earlier term quarantines nobody.

    The leader led before, and a heartbeat of that time comes late: its number is
    greater than all that this term has used.
    """
    follower = build("b", [1, 2, 4], term=4)
    late = append((2, 2), term=2, sequence=500)
    result = answer(hear(follower, "a", late))
    assert (result.success, result.sequence) == (False, 0)
    server = replicating()
    progress = server.state.progress["b"]
    before = (progress.acked_sequence, progress.next_index)
    elapse(server, 0.01)
    outputs = hear(server, "b", no(server, 3, 3, (1, 1), sequence=0))
    assert outputs.changes == ()
    assert (progress.acked_sequence, progress.next_index) == before
    assert (progress.pace, progress.heard_at) == (Pace.REPLICATE, server.now)


# L6: finding where the logs part.


def test_a_refusal_hints_at_the_last_entry_of_a_term_not_above() -> None:
    """L6: (hint index, its term): the largest index whose term is at most the probe's."""
    server = build("a", [1, 1, 2, 2, 5, 5, 5])
    outputs = hear(server, "b", append((6, 4), [6], term=6))
    assert answer(outputs) == AppendEntriesResult(6, False, 6, 1, 7, 4, 2, TIMEOUT)
    outputs = hear(server, "b", append((30, 6), [6], term=6))
    assert answer(outputs) == AppendEntriesResult(6, False, 30, 1, 7, 7, 5, TIMEOUT)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        # The dissertation's Figure 3.6, the follower beside the leader.
        ([1, 1, 1, 4, 4, 5, 5, 6, 6, 6], [1, 1, 1, 4, 4, 5, 5, 6, 6]),
        ([1, 1, 1, 4, 4, 5, 5, 6, 6, 6], [1, 1, 1, 4]),
        ([1, 1, 1, 4, 4, 5, 5, 6, 6, 6], [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6]),
        ([1, 1, 1, 4, 4, 5, 5, 6, 6, 6], [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7]),
        ([1, 1, 1, 4, 4, 5, 5, 6, 6, 6], [1, 1, 1, 4, 4, 4, 4]),
        ([1, 1, 1, 4, 4, 5, 5, 6, 6, 6], [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]),
        ([1, *[2] * 300, *[6] * 50], [1, *[3] * 400, *[4] * 200]),
        ([1, *range(2, 60, 2)], [1, *range(3, 61, 2)]),
    ],
    ids=["a", "b", "c", "d", "e", "f", "long", "alternating"],
)
def test_logs_are_repaired_in_at_most_one_probe_a_term(ours: list[int], theirs: list[int]) -> None:
    """L6: at most one probe for each term, however many entries differ (sc-R5)."""
    pair = configuration("ab")
    last = max(*ours, *theirs)
    cluster = Cluster.of(
        a=build("a", ours, term=last, members=pair, check_quorum=False, pre_vote=False),
        b=build("b", theirs, term=last, members=pair, seed=2),
    )
    server = cluster["a"]
    cluster.time_out("a")
    cluster.save("a")
    cluster.drop()
    cluster.step("a", Received("b", RequestVoteResult(server.current_term, vote_granted=True)))
    probes = 0
    while cluster["b"].log.last_index != server.log.last_index or probes == 0:
        probes += 1
        cluster.save("a")
        cluster.deliver()
        cluster.save("b")
        cluster.deliver()
        assert probes < 80
    cluster.settle()
    assert cluster["b"].log.runs == server.log.runs
    terms = len({*ours, *theirs})
    assert probes <= terms + 2


# L7: the pace.


def test_a_new_leader_probes_with_one_message() -> None:
    """L7: probe: one message in flight until the logs are known to match."""
    server = build("a", [1, 1, 1])
    outputs = elect(server)
    (probe,) = only(outputs, AppendEntries, "b")
    assert (probe.prev_log_index, probe.prev_log_term, probe.entries.end) == (3, 1, 5)
    assert propose(server).send == ()
    outputs = hear(server, "b", yes(server, 3, 4, sequence=1))
    assert pace(server) is Pace.REPLICATE
    assert only(outputs, AppendEntries, "b")[0].prev_log_index == 4


def test_replicating_sends_ahead_of_the_answers() -> None:
    """L7: replicate: a window of messages, each after the last."""
    server = replicating()
    for request in range(3):
        (sent,) = only(propose(server, request=request), AppendEntries, "b")
        assert (sent.prev_log_index, sent.entries.end) == (2 + request, 4 + request)


@pytest.mark.parametrize("bound", [{"max_inflight_bytes": 150}, {"max_inflight_messages": 2}])
def test_the_window_is_bounded_in_messages_and_bytes(bound: dict[str, int]) -> None:
    """L7: a window of messages and bytes."""
    server = replicating(**bound)
    assert len(only(propose(server, request=1), AppendEntries, "b")) == 1
    assert len(only(propose(server, request=2), AppendEntries, "b")) == 1
    assert only(propose(server, request=3), AppendEntries, "b") == []
    (sent,) = only(hear(server, "b", yes(server, 4)), AppendEntries, "b")
    assert sent.entries.start == 5


def test_a_window_that_is_just_full_is_full() -> None:
    """L7: its bound in bytes is the most that is on its way but for the last message."""
    server = replicating(max_inflight_bytes=2 * NO_OP_BYTES)
    sent = [spans(step(server, Propose(request, 1, NO_OP_BYTES))) for request in range(3)]
    assert sent == [[(3, 4)], [(4, 5)], []]


def test_one_entry_is_sent_however_large() -> None:
    """L7: an entry above the message's limit is sent alone (sc-R14)."""
    server = replicating(max_append_bytes=10, max_inflight_bytes=1)
    assert spans(propose(server)) == [(3, 4)]


def test_a_lost_append_is_noticed_by_the_next_heartbeat() -> None:
    """L7: an answer to a later message that has not seen the entries: back to a probe."""
    server = replicating()
    propose(server)
    elapse(server, HEARTBEAT)
    outputs = hear(server, "b", yes(server, 2))
    (again,) = only(outputs, AppendEntries, "b")
    assert (pace(server), again.entries.start) == (Pace.PROBE, 3)
    elapse(server, HEARTBEAT)
    outputs = hear(server, "b", yes(server, 2))
    assert (pace(server), spans(outputs)) == (Pace.PROBE, [(3, 4)])


@pytest.mark.parametrize(
    ("later", "received"),
    [(-1, 2), (0, 2), (1, 3)],
    ids=["it was sent before", "it had no room for them", "they are not saved yet"],
)
def test_an_answer_that_tells_of_no_loss_keeps_the_window(later: int, received: int) -> None:
    """L7: only who heard of a later message, and has not seen the entries, has lost them."""
    server = replicating()
    (sent,) = only(propose(server), AppendEntries, "b")
    elapse(server, HEARTBEAT)
    assert hear(server, "b", yes(server, 2, received, sent.sequence + later)).send == ()
    assert pace(server) is Pace.REPLICATE


def test_what_was_received_and_is_not_saved_is_not_sent_again() -> None:
    """L7: entries in the middle are lost: the probe begins where the follower is."""
    server = replicating()
    propose(server, request=1)
    propose(server, request=2)
    elapse(server, HEARTBEAT)
    assert spans(hear(server, "b", yes(server, 2, 3))) == [(4, 5)]


def test_an_unreachable_follower_is_probed() -> None:
    """L7: unreachable: back to a probe, after what is known to match."""
    server = replicating()
    propose(server)
    outputs = step(server, Unreachable("b"))
    (again,) = only(outputs, AppendEntries, "b")
    assert (pace(server), again.entries.start) == (Pace.PROBE, 3)


def test_who_is_no_member_is_not_probed() -> None:
    """L7: a connection that breaks may be that of a server which was removed."""
    assert step(replicating(), Unreachable("z")).send == ()


def test_an_unreachable_follower_that_has_all_needs_no_probe() -> None:
    """L7: it answers the next heartbeat, and there is nothing that it may have missed."""
    server = replicating()
    step(server, Unreachable("b"))
    elapse(server, HEARTBEAT)
    assert hear(server, "b", yes(server, 2)).send == ()
    assert pace(server) is Pace.REPLICATE


def test_an_unreachable_follower_is_not_probed_in_a_circle() -> None:
    """L7: a probe into a broken connection is followed by none until a heartbeat is answered."""
    server = replicating()
    propose(server)
    step(server, Unreachable("b"))
    assert step(server, Unreachable("b")).send == ()
    elapse(server, HEARTBEAT)
    (again,) = only(hear(server, "b", yes(server, 2)), AppendEntries, "b")
    assert again.entries.start == 3


def test_a_lost_probe_is_sent_again_after_a_heartbeat() -> None:
    """L7: a heartbeat's answer un-pauses the probe."""
    server = leader("a", [1, 1, 1])
    (beat,) = only(elapse(server, HEARTBEAT), AppendEntries, "b")
    assert (beat.prev_log_index, beat.entries.runs) == (3, ())
    (again,) = only(hear(server, "b", yes(server, 3)), AppendEntries, "b")
    assert again.entries.start == 4


def test_a_follower_without_room_is_sent_one_message_a_heartbeat() -> None:
    """L7: who hears its leader but takes nothing in is not flooded with windows.

    Its disk is full or its machine behind: it answers as to a heartbeat.
    """
    server = replicating(max_append_bytes=ENTRY_BYTES, max_append_entries=1)
    for request in range(9):
        propose(server, request=request)
    for _ in range(5):
        elapse(server, HEARTBEAT)
        outputs = hear(server, "b", yes(server, 2))
        assert spans(outputs) == [(3, 4)]
        assert hear(server, "b", yes(server, 2)).send == ()
    outputs = hear(server, "b", yes(server, 3))
    assert spans(outputs) == [(start, start + 1) for start in range(4, 12)]


def test_a_lost_probe_whose_place_is_compacted_turns_into_a_snapshot() -> None:
    """L7: the probe is lost, then compacted away: a heartbeat's answer must un-pause it."""
    server = leader("a", [1, 1, 1, 1])
    hear(server, "b", no(server, 4, 1, (1, 1)))
    hear(server, "c", yes(server, 5))
    propose(server)
    save(server)
    hear(server, "c", yes(server, 6))
    step(server, SnapshotSaved(6))
    (beat,) = only(elapse(server, HEARTBEAT), AppendEntries, "b")
    assert beat.prev_log_index == 0
    outputs = hear(server, "b", yes(server, 0, 0))
    assert outputs.start_snapshots == (StartSnapshot("b", server.state.sequence),)


def test_a_follower_that_restarts_is_caught_up_without_a_new_write() -> None:
    """L7: what a restarted follower lost is sent again, by heartbeats alone (sc-R9)."""
    cluster = Cluster.of(a=build("a"), b=build("b", seed=2), c=build("c", seed=3))
    cluster.time_out("a")
    cluster.settle()
    cluster.propose("a", 1)
    cluster.save("a")
    cluster.deliver()
    cluster.crash("b")
    assert cluster["b"].log.last_index == 2
    for _ in range(4):
        cluster.beat("a")
    assert cluster.nodes["b"].applied[-1] == (1, 0)
    assert not any(isinstance(change, Quarantined) for change in cluster.nodes["a"].outputs.changes)


def test_a_heartbeat_keeps_a_slow_follower_in_touch() -> None:
    """L7: heartbeats pass a full window, and carry no entries."""
    server = replicating(max_inflight_messages=1)
    propose(server, request=1)
    propose(server, request=2)
    beats = only(elapse(server, HEARTBEAT), AppendEntries)
    assert [(beat.prev_log_index, beat.entries) for beat in beats] == [(2, Entries(3))] * 2


# L8: the leader sends first.


def test_a_leader_sends_before_its_own_save() -> None:
    """L8: the leader may send before its fsync; one turn is one message to each (10.2.1)."""
    server = replicating()
    outputs = step(server, Propose(1, 2, 200), Propose(2, 1, 100))
    assert outputs.save == Save(3, append=(Proposed(3, 5, 2, 1), Proposed(5, 6, 2, 2)))
    assert outputs.accepted == (Accepted(1, 3, 5, 2), Accepted(2, 5, 6, 2))
    assert [(send.receiver, send.after) for send in outputs.send] == [("b", 0), ("c", 0)]
    assert spans(outputs) == [(3, 6)]


# L10: bounds; proposals.


def test_uncommitted_bytes_are_bounded() -> None:
    """L10: above the bound of uncommitted bytes proposals are refused at once (sc-O1)."""
    server = replicating(max_uncommitted_bytes=2 * NO_OP_BYTES)
    save(server)
    # As large as the no-op before them: sizes within a run of entries are its mean.
    for _ in range(2):
        assert step(server, Propose(1, 1, NO_OP_BYTES)).accepted
    outputs = step(server, Propose(7, 1, 1))
    assert (outputs.rejected, outputs.save) == ((Rejected(7, Refusal.OVERLOADED),), None)
    save(server)
    hear(server, "b", yes(server, 4))
    assert propose(server, 1).accepted


def test_a_small_proposal_does_not_go_past_a_large_one_that_found_no_room() -> None:
    """L10: commands of one step are appended in their order, or not at all [RULES S9]."""
    server = replicating(max_uncommitted_bytes=10 * ENTRY_BYTES)
    propose(server, 5)
    small, large = Propose(2, 1, ENTRY_BYTES), Propose(3, 8, 8 * ENTRY_BYTES)
    outputs = step(server, small, large, Propose(4, 1, ENTRY_BYTES))
    assert [each.request for each in outputs.accepted] == [2]
    assert outputs.rejected == (
        Rejected(3, Refusal.OVERLOADED),
        Rejected(4, Refusal.OVERLOADED),
    )
    assert propose(server, request=5).accepted


def test_a_configuration_counts_by_the_members_that_it_lists() -> None:
    """L10: those that are to be are listed too."""
    sizes = []
    for target in ("", "abc"):
        server = replicating()
        before = server.log.size_bytes(1, 3)
        server.append_configuration(evolve(configuration(), target=configuration(target).members))
        sizes.append(server.log.size_bytes(1, 4) - before)
    assert 3 * 100 < sizes[0] < 3 * 200 < sizes[1] < 6 * 200


def test_one_proposal_passes_however_large() -> None:
    """L10: with nothing uncommitted one proposal is taken, or it could never be."""
    server = replicating(max_uncommitted_bytes=250)
    save(server)
    assert propose(server, 9).accepted


@pytest.mark.parametrize(("known", "reason"), [(True, "NOT_LEADER"), (False, "NO_LEADER")])
def test_a_follower_takes_no_proposals(known: bool, reason: str) -> None:
    """L9: a refusal before the append is definite: nothing was appended."""
    server = build("a")
    if known:
        hear(server, "b", append((1, 1)))
    outputs = propose(server, request=4)
    assert (outputs.rejected, outputs.save) == ((Rejected(4, Refusal[reason]),), None)


def test_a_proposal_is_named_by_index_and_term() -> None:
    """L9: (index, term) is what tells the own entry from another leader's in its place."""
    cluster = Cluster.of(a=build("a"), b=build("b", seed=2), c=build("c", seed=3))
    cluster.time_out("a")
    cluster.settle()
    cluster.isolate("a")
    outputs = cluster.propose("a", 9)
    assert outputs.accepted == (Accepted(9, 3, 4, 2),)
    cluster.run(8 * TIMEOUT)
    (new,) = [id for id in cluster.leaders if id != "a"]
    cluster.propose(new, 8)
    cluster.heal()
    cluster.run(8 * TIMEOUT)
    assert cluster["a"].log.term_at(3) == cluster[new].current_term
    assert (9, 0) not in cluster.nodes["a"].applied
    assert cluster.nodes["a"].applied == cluster.nodes[new].applied


def test_an_impossible_acknowledgement_stops_the_leader() -> None:
    """L5: a follower cannot match what the leader does not have."""
    server = replicating()
    for match, received in [(9, 9), (9, 2), (2, 9), (2, 3), (3, 2)]:
        with pytest.raises(InvariantViolated, match=f"matches {received}, the log ends at 2"):
            hear(replicating(), "b", yes(server, match, received))


def test_a_new_leader_appends_its_no_op_at_once() -> None:
    """R1: an entry of the own term is appended at once on election (sc-C2)."""
    server = build("a", [1, 1])
    outputs = elect(server)
    assert outputs.save == Save(2, append=(NoOp(3, 2),))
    assert outputs.changes == (RoleChanged(Role.LEADER, 2, "a"),)
    assert outputs.next_deadline == server.now + HEARTBEAT


def test_a_leader_has_no_election_deadline() -> None:
    """E8: who leads does not campaign, until it steps down."""
    assert leader("a").election_deadline == math.inf
