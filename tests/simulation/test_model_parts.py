"""The model world keeps its own promises: what it gets wrong would look like a core's bug."""

from __future__ import annotations

import random

import pytest

from raft.core.configuration import Configuration, Member
from raft.core.outputs import HardState
from raft.testing.cores.clock import LocalClock
from raft.testing.cores.disk import Disk, Entry, Records, StoredSnapshot, Write, summed_up
from raft.testing.cores.members import halves_of, is_quorum, quorums_meet, votes
from raft.testing.cores.monitors import Monitors
from raft.testing.cores.network import cut_links
from raft.testing.cores.past import give_past
from raft.testing.cores.swarm import Swarm
from raft.testing.cores.timeline import Timeline

ENTRIES: tuple[Entry, ...] = ((1, 1, 10), (1, 2, 10), (2, 3, 10))


def disk_with(*writes: Write) -> Disk:
    """Return a disk with that queue."""
    disk = Disk()
    disk.queue.extend(writes)
    return disk


def test_a_crash_keeps_a_prefix_of_the_queue() -> None:
    """D1: any prefix may survive, none and all included, and nothing else."""
    for count in range(4):
        disk = disk_with(*(Write(n, start=n, entries=(ENTRIES[n - 1],)) for n in (1, 2, 3)))
        survivors = disk.crash(count)
        assert disk.records.entries == list(ENTRIES[: len(survivors)])
        assert not disk.queue
        assert len(survivors) == count


def test_a_save_truncates_before_it_appends() -> None:
    """The order of `Save`: hard state, truncation, entries."""
    disk = disk_with(
        Write(1, hard_state=HardState(1), entries=ENTRIES[:2]),
        Write(2, truncate_from=2, start=2, entries=ENTRIES[2:]),
    )
    assert disk.sync().ticket == 1
    assert disk.holds(2, 1)
    assert disk.sync().ticket == 2
    assert not disk.holds(2, 1)
    assert disk.holds(2, 2)
    assert (disk.saved_ticket, disk.hard_state.current_term) == (2, 1)


def test_a_received_snapshot_replaces_the_log_unless_it_is_kept() -> None:
    """N6: the suffix after the snapshot's last entry stays only where that entry was held."""
    snapshot = StoredSnapshot(2, 1, Swarm(seed=0).configuration, 1, 7)
    for keep, end in ((True, 4), (False, 3)):
        disk = disk_with(Write(1, entries=ENTRIES), Write(2, snapshot=snapshot, keep_log=keep))
        disk.sync()
        disk.sync()
        assert disk.records.end == end
        assert disk.last_index == end - 1
        assert disk.holds(1, 99), "what a snapshot covers is held, whatever its term"


def test_a_damaged_snapshot_leaves_the_one_before_and_its_log() -> None:
    """N7: what the previous snapshot needs is kept until a newer one is its successor."""
    older, newer = (StoredSnapshot(n, 1, Swarm(seed=0).configuration, 1, 7) for n in (1, 2))
    disk = disk_with(Write(1, entries=ENTRIES), Write(2, snapshot=older), Write(compact=1))
    for _ in range(3):
        disk.sync()
    assert disk.records.first == 1, "there is nothing before the first snapshot but the log"
    disk.queue.extend((Write(3, snapshot=newer), Write(compact=2)))
    disk.sync()
    disk.sync()
    assert (disk.snapshot, disk.records.first) == (newer, 2)
    assert disk.may_fall_back
    disk.fall_back()
    assert (disk.snapshot, disk.may_fall_back) == (older, False)
    assert disk.records.between(2, 4) == list(ENTRIES[1:])


def test_a_snapshot_that_replaced_the_log_is_the_only_one() -> None:
    """N6, N7: the log before it is gone, so nothing older leads to what it covers."""
    snapshot = StoredSnapshot(2, 1, Swarm(seed=0).configuration, 1, 7)
    disk = disk_with(Write(1, entries=ENTRIES), Write(2, snapshot=snapshot, keep_log=False))
    disk.sync()
    disk.sync()
    assert not disk.may_fall_back


def test_compaction_keeps_the_term_before_the_log() -> None:
    """The consistency check needs the term of the entry before the first."""
    records = Records(entries=list(ENTRIES))
    records.compact(2)
    assert (records.first, records.prev_term, records.end) == (3, 1, 4)
    assert [records.term_at(index) for index in (1, 2, 3, 4)] == [None, 1, 2, None]
    assert records.between(2, 4) is None
    with pytest.raises(IndexError):
        records[2]


def test_entries_are_summed_up_by_term() -> None:
    """One run for each term, with its bytes."""
    runs = summed_up(5, ENTRIES)
    assert [(run.end, run.term, run.size_bytes) for run in runs] == [(7, 1, 20), (8, 2, 10)]
    assert summed_up(5, ()) == ()


@pytest.mark.parametrize(
    ("kind", "open_pairs"),
    [
        ("halves", {"ab", "ba", "cd", "dc"}),
        ("isolate", {"bc", "cb", "bd", "db", "cd", "dc"}),
        ("ring", {"ab", "ba", "bc", "cb", "cd", "dc", "da", "ad"}),
        ("bridge", {"ab", "ba", "ac", "ca", "ad", "da", "bd", "db"}),
        ("deaf", {"ab", "ac", "ad", "bc", "cb", "bd", "db", "cd", "dc"}),
        ("mute", {"ba", "ca", "da", "bc", "cb", "bd", "db", "cd", "dc"}),
    ],
)
def test_a_partition_cuts_what_its_name_says(kind: str, open_pairs: set[str]) -> None:
    """Of four nodes a, b, c, d: who may still send to whom."""
    cut = {sender + receiver for sender, receiver in cut_links(kind, list("abcd"))}
    assert {a + b for a in "abcd" for b in "abcd" if a != b} - cut == open_pairs


def test_an_unknown_partition_is_refused() -> None:
    """A misspelt fault must not pass for a quiet world."""
    with pytest.raises(ValueError, match="no such partition"):
        cut_links("halfs", ["a", "b"])


def test_a_clock_rings_at_its_latest_deadline_only() -> None:
    """A deadline that moved on costs nothing; one that moved forward rings in time."""
    timeline, rings = Timeline(), []
    clock = LocalClock(timeline, 2.0, lambda: rings.append(clock.now()))
    clock.start(100.0)
    clock.arm(110.0)
    clock.arm(120.0)
    timeline.run(9.0, lambda: True)
    assert rings == []
    clock.arm(119.0)
    timeline.run(20.0, lambda: True)
    assert rings == [119.0]
    assert clock.now() == 140.0


def test_a_stopped_clock_does_not_ring() -> None:
    """A crashed node's timer is gone."""
    timeline, rings = Timeline(), []
    clock = LocalClock(timeline, 1.0, lambda: rings.append(clock.now()))
    clock.start(0.0)
    clock.arm(1.0)
    clock.stop()
    timeline.run(2.0, lambda: True)
    assert rings == []


def test_the_timeline_keeps_the_order_of_one_moment() -> None:
    """What is due at once happens in the order it was put."""
    timeline, seen = Timeline(), []
    for name in ("first", "second", "third"):
        timeline.at(1.0, seen.append, name)
    timeline.run(2.0, lambda: len(seen) < 2)
    assert (seen, timeline.now) == (["first", "second"], 1.0)


def test_a_past_is_one_that_could_have_been() -> None:
    """Each log is a prefix of one leader's; terms never fall and stand below the node's."""
    swarm = Swarm(seed=0, voters=5)
    for seed in range(30):
        disks = {member.id: Disk() for member in swarm.configuration.members}
        give_past(disks, swarm.configuration, Monitors(), random.Random(seed))
        longest = max((disk.records.entries for disk in disks.values()), key=len)
        for disk in disks.values():
            terms = [entry[0] for entry in disk.records.entries]
            assert disk.records.entries == longest[: len(terms)]
            assert terms == sorted(terms)
            assert terms[-1] < disk.hard_state.current_term


def members(voters: str, outgoing: str = "", learners: str = "") -> Configuration:
    """Return a configuration of servers with one letter each."""
    listed = [Member(id) for id in voters] + [Member(id, voter=False) for id in learners]
    return Configuration(tuple(listed), frozenset(outgoing))


@pytest.mark.parametrize(
    ("configuration", "servers", "expected"),
    [
        (members("abc"), "ab", True),
        (members("abc"), "a", False),
        (members("abcd"), "ab", False),
        (members("ab", learners="cd"), "acd", False),
        (members("cde", outgoing="abc"), "abde", True),
        (members("cde", outgoing="abc"), "acd", True),
        (members("cde", outgoing="abc"), "abd", False),
        (members(""), "abc", False),
    ],
)
def test_the_monitors_count_a_quorum_by_themselves(
    configuration: Configuration, servers: str, expected: bool
) -> None:
    """I8: more than half of every half; who is no voter counts for nothing."""
    assert is_quorum(configuration, servers) is expected
    assert configuration.majority(servers) is expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (members("abc"), members("abcd"), True),
        (members("abc"), members("ab"), True),
        (members("abc"), members("abcde"), False),
        (members("abc"), members("abd"), False),
        (members("abc"), members("abd", outgoing="abc"), True),
        (members("def", outgoing="abc"), members("def"), True),
        (members("a"), members("b"), False),
        (members("ab", learners="c"), members("ab", learners="cde"), True),
    ],
)
def test_the_monitors_know_which_quorums_meet(
    one: Configuration, other: Configuration, expected: bool
) -> None:
    """I14: one voter more or less, or by way of a joint configuration."""
    assert quorums_meet(one, other) is expected
    assert quorums_meet(other, one) is expected


def test_an_outgoing_voter_votes_until_the_joint_configuration_is_left() -> None:
    """M3: it stands in the old half."""
    joint = members("bc", outgoing="ab", learners="d")
    assert halves_of(joint) == (frozenset("bc"), frozenset("ab"))
    assert [server for server in "abcd" if votes(joint, server)] == ["a", "b", "c"]
