"""When snapshots are taken, by servers in turn, and what of the log stays behind them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from raft.core import outputs as out
from raft.core.configuration import Configuration, Member
from raft.core.server import Options, Server
from raft.errors import StorageFull
from raft.node.bounds import Bounds
from raft.node.snapshot_policy import SnapshotPolicy, first_kept, stagger
from raft.storage.memory import MemorySnapshotWriter
from tests.node.world import Journal, cluster, leader_of, others

ENTRY_BYTES = 1000


def server(id: str = "a", members: str = "abc", entries: int = 0) -> Server:
    """Return a follower with so many entries of `ENTRY_BYTES` after a snapshot up to 10."""
    found = Server.recover(
        id,
        Options(),
        random.Random(0),
        0.0,
        out.HardState(1),
        (10, 1, Configuration(tuple(Member(each) for each in members)), 1),
        11,
        1,
    )
    found.log.append(11 + entries, 1, entries * ENTRY_BYTES)
    return found


def due_after(policy: SnapshotPolicy, id: str = "a", sending: bool = False) -> int:
    """Return the number of entries after which a snapshot is due; at most 10,000."""
    for count in range(1, 10_000):
        if policy.is_due(server(id, entries=count), 10 + count, sending):
            return count
    return 10_000


def in_step(size_bytes: int = 0, **bounds: Any) -> SnapshotPolicy:
    settings = {"snapshot_entries": 0, "snapshot_factor": 4.0, "snapshot_floor_bytes": 50_000}
    policy = SnapshotPolicy(Bounds(**{**settings, **bounds}))
    policy.taken(size_bytes, by_policy=True)
    return policy


@pytest.mark.parametrize(
    ("size_bytes", "bounds", "entries"),
    [
        (100_000, {}, 400),
        (100_000, {"snapshot_factor": 2.5}, 250),
        (1_000, {}, 50),
        (0, {}, 50),
        (0, {"snapshot_floor_bytes": 0}, 1),
        (100_000, {"snapshot_entries": 70}, 70),
        (100_000, {"snapshot_entries": 700}, 400),
        (100_000, {"snapshot_entries": 700, "snapshot_factor": 0}, 700),
        (0, {"snapshot_factor": 0}, 10_000),
    ],
)
def test_a_snapshot_is_due_by_the_size_of_the_last_one_or_by_count(
    size_bytes: int, bounds: dict[str, Any], entries: int
) -> None:
    """N3: log bytes > factor x last snapshot, at least the floor; or by count."""
    assert due_after(in_step(size_bytes, **bounds)) == entries


def test_servers_take_turns_from_the_first_period_on() -> None:
    """N3: staggered: who has not ended a period by itself waits for its place."""
    assert [stagger(server(id)) for id in "abc"] == [0, pytest.approx(1 / 6), pytest.approx(1 / 3)]
    assert stagger(server("x")) == 0
    policy = in_step(100_000)
    policy.taken(100_000, by_policy=False)
    assert [due_after(policy, id) for id in "abc"] == [400, 467, 534]
    policy.taken(100_000, by_policy=True)
    assert [due_after(policy, id) for id in "abc"] == [400, 400, 400]


def test_after_a_failure_the_next_attempt_waits_for_a_tenth_of_a_period() -> None:
    policy = in_step(100_000)
    policy.failed(server(entries=410), 420)
    assert due_after(policy) == 450
    policy.failed(server(entries=450), 460)
    assert due_after(policy) == 490
    policy.taken(100_000, by_policy=True)
    assert due_after(policy) == 400


def test_a_transfer_puts_the_next_snapshot_off_by_so_much_log() -> None:
    """N4: a newer one would take from the follower what it needs next; but not for ever."""
    policy = in_step(100_000, trailing_bytes=60_000)
    assert due_after(policy, sending=True) == 460


def test_a_follower_keeps_trailing_entries_within_the_bound_in_bytes() -> None:
    """N4: up to a bound; entries may be large."""

    def kept(**bounds: int) -> int:
        return 1011 - first_kept(server(entries=1000), 1010, Bounds(**bounds), [], 0)

    assert kept(trailing_entries=100) == 100
    assert kept(trailing_entries=0) == 0
    assert kept(trailing_entries=5000) == 1000
    assert kept(trailing_entries=5000, trailing_bytes=0) == 0


def test_what_is_sent_keeps_the_log_behind_it() -> None:
    """N4: never drop what a live transfer needs, up to a bound."""
    one = server()
    for number in range(100):
        one.log.append(12 + number, 1, 70_000)

    def kept(sent: list[int], sending_bytes: int) -> int:
        bounds = Bounds(trailing_entries=5, trailing_bytes=1 << 20)
        return first_kept(one, 110, bounds, sent, sending_bytes)

    assert kept([], 1 << 30) == 106
    assert kept([40, 30], 1 << 30) == 31
    assert kept([40, 30], 35 * 70_000) == 76
    # What is gone already cannot be kept.
    assert kept([3], 1 << 30) == 106


def test_a_transfer_whose_log_is_gone_takes_it_from_no_other() -> None:
    """N4: beside one hopelessly slow follower nothing was kept for any, so none caught up."""
    one = server()
    for number in range(100):
        one.log.append(12 + number, 1, 70_000)
    bounds = Bounds(trailing_entries=5, trailing_bytes=1 << 20)
    assert first_kept(one, 110, bounds, [3, 40], 1 << 30) == 41


def test_a_follower_heard_lately_gets_log_and_no_snapshot() -> None:
    """N4: the leader keeps what a follower lacks that was there a moment ago."""
    world, wire, _nodes = cluster(3, trailing_entries=0)
    leader = leader_of(wire)
    behind, other = others(wire, leader)
    wire.isolate(behind.id)
    for number in range(20):
        leader.write(["add", number])
    world.run(0.3)
    for node in (leader, other):
        node.shell.snapshots.take()
        world.run(0.1)
    assert leader.shell.server.log.first_index == behind.shell.server.log.last_index + 1
    # A follower does not know what another one lacks.
    assert other.shell.server.log.first_index == other.applied + 1
    wire.heal()
    world.run(0.5)
    assert behind.machine.applied == leader.machine.applied
    assert behind.shell.server.snapshot_index == 0


def test_who_was_not_heard_for_long_does_not_hold_the_log() -> None:
    world, wire, _nodes = cluster(3, trailing_entries=0)
    leader = leader_of(wire)
    behind = others(wire, leader)[0]
    wire.isolate(behind.id)
    leader.write(["add", 1])
    world.run(61.0)
    leader.shell.snapshots.take()
    world.run(0.1)
    assert leader.shell.server.log.first_index == leader.applied + 1


def test_the_age_of_the_log_is_that_of_its_first_entry() -> None:
    """N4: "oldest log age" tells for how long one may be away without needing a snapshot."""
    world, wire, _nodes = cluster(3, trailing_entries=1, trailing_bytes=1)
    leader = leader_of(wire)
    for number in range(5):
        leader.write(["add", number])
        world.run(1.0)
    assert leader.shell.log_age.seconds() == pytest.approx(4.0, abs=0.5)
    leader.shell.snapshots.take()
    world.run(0.1)
    assert leader.shell.log_age.seconds() == 0.0
    leader.write(["add", "a"])
    world.run(2.0)
    leader.write(["add", "b"])
    world.run(0.1)
    assert leader.shell.log_age.seconds() == pytest.approx(2.0, abs=0.2)


def test_a_snapshot_that_fails_is_counted_and_told_and_tried_again() -> None:
    """sc-S13: the log stays, the node serves on."""
    world, _wire, nodes = cluster(1, snapshot_entries=10, trailing_entries=0)
    node = nodes["a"]

    def full(_: object) -> None:
        raise StorageFull("no room at all")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemorySnapshotWriter, "commit", full)
        for number in range(12):
            node.write(["add", number])
            world.run(0.02)
        assert node.shell.snapshots.failed_count >= 2
        assert "no room at all" in node.shell.snapshots.last_error
        assert node.shell.server.log.first_index == 1
    for number in range(4):
        node.write(["add", number])
        world.run(0.02)
    assert node.shell.snapshots.taken_count == 1
    assert node.shell.snapshots.last_error == ""
    assert isinstance(node.machine, Journal)
    assert not node.failures
