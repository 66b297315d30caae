"""Snapshots on their way: taken beside `apply`, sent by windows, received, installed, resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from attrs import evolve
from twisted.internet.defer import CancelledError

from raft.codec import PLAIN
from raft.core import events as ev
from raft.core import messages as ms
from raft.core import outputs as out
from raft.errors import (
    NodeStopped,
    NotFound,
    RaftError,
    StateMachineFailed,
    StorageDamaged,
    StorageFull,
)
from raft.node.snapshot_receiving import Arrival
from raft.node.snapshot_sending import Reading
from raft.node.snapshots import Threads
from raft.storage.memory import MemorySnapshotWriter, MemoryStorage
from raft.transport.wire import SnapshotChunk
from tests.node.world import Journal, Node, Outcome, Wire, World, cluster, leader_of, others

MIB = 1 << 20


class Bulky(Journal):
    """A journal whose snapshots carry so many bytes of ballast, in pieces of half a MiB."""

    ballast = 12 * MIB

    def snapshot(self) -> Iterable[bytes]:
        packed = PLAIN.encode_result(self.applied)
        yield len(packed).to_bytes(4, "big") + packed
        for _ in range(self.ballast // (MIB // 2)):
            yield b"x" * (MIB // 2)

    def restore(self, chunks: Any) -> None:
        content = b"".join(chunks)
        length = int.from_bytes(content[:4], "big")
        self.applied = list(PLAIN.decode_result(content[4 : 4 + length]))  # type: ignore[arg-type]
        assert len(content) == 4 + length + self.ballast


class Breathing(Journal):
    """A journal whose snapshot takes some turns."""

    def snapshot(self) -> Iterable[bytes]:
        yield b""
        yield from super().snapshot()
        yield b""


def compacted(machine: type[Journal] = Bulky) -> tuple[World, Wire, Node, Node]:
    """Return a leader whose log begins behind what a cut-off follower has, and that follower."""
    world, wire, nodes = cluster(3, trailing_entries=0, trailing_bytes=0)
    for node in nodes.values():
        node.machine = node.replica.machine = machine()
    leader = leader_of(wire)
    behind = others(wire, leader)[0]
    world.run(1.0, lambda: behind.applied == leader.applied)
    wire.isolate(behind.id)
    for number in range(20):
        leader.write(["add", number])
    world.run(0.3)
    taken = Outcome(leader.shell.snapshots.take())
    world.run(0.1, lambda: taken.fired)
    assert taken.value == leader.applied
    leader.write(["add", "behind the snapshot"])
    world.run(0.2)
    assert leader.shell.server.log.first_index > behind.applied + 1
    return world, wire, leader, behind


def caught_up(world: World, node: Node, leader: Node, seconds: float = 5.0) -> None:
    world.run(seconds, lambda: node.applied == leader.applied)
    assert node.machine.applied == leader.machine.applied
    assert not node.failures
    assert not leader.failures


class Chunks:
    """Watches chunks on the wire, and loses what it is told to."""

    def __init__(self, wire: Wire) -> None:
        self.offsets: list[int] = []
        self.lose: Any = lambda count: False
        carry = wire.carry

        def watched(sender: str, receiver: str, message: Any, *beside: Any) -> bool:
            if isinstance(message, ms.InstallSnapshot):
                self.offsets.append(beside[1].offset_bytes)
                if self.lose(len(self.offsets)):
                    return True
            return carry(sender, receiver, message, *beside)

        wire.carry = watched  # type: ignore[method-assign]


def test_a_follower_far_behind_is_caught_up_while_writes_go_on() -> None:
    """N5, N6, sc-P3: a snapshot, then the log behind it."""
    world, wire, leader, behind = compacted()
    wire.heal()
    told = []
    for number in range(100):
        told.append(leader.write(["add", f"meanwhile {number}"]))
        world.run(0.01)
    caught_up(world, behind, leader)
    assert [each.value[1] for each in told] == [f"meanwhile {n}" for n in range(100)]
    assert len(behind.machine.applied) == 121


def test_who_leads_behind_an_installed_snapshot_goes_on_from_its_time_and_size() -> None:
    """S3, N3: cluster time never falls, also where no entry is left that tells it."""
    world, wire, leader, behind = compacted()
    world.run(50.0)
    leader.write(["add", "late"])
    world.run(0.1)
    taken = Outcome(leader.shell.snapshots.take())
    world.run(0.1, lambda: taken.fired)
    wire.heal()
    caught_up(world, behind, leader)
    assert behind.shell.snapshots.policy.size_bytes > Bulky.ballast
    assert behind.shell.server.log.first_index > behind.shell.server.log.last_index
    assert behind.shell.cache.end == behind.applied + 1
    time_us = behind.replica.last_time_us
    assert time_us > 50_000_000
    leader.stop()
    leads = leader_of(wire, [each.id for each in others(wire, leader)], 10.0)
    if leads is not behind:
        leads.shell.transfer(behind.id)
        world.run(2.0, lambda: behind.leads)
        assert leader_of(wire, [behind.id]) is behind
    assert time_us <= behind.shell.scribe.log_time_us < time_us + 60_000_000
    assert behind.replica.last_time_us >= time_us


def test_what_is_installed_outlives_the_power_with_the_log_behind_it() -> None:
    """N7: snapshot, then log."""
    world, wire, leader, behind = compacted()
    wire.heal()
    caught_up(world, behind, leader)
    again = behind.restarted()
    assert again.applied == leader.shell.server.snapshot_index
    world.run(0.5)
    leader.write(["add", "after"])
    world.run(0.5)
    caught_up(world, again, leader)
    assert again.replica.digest == leader.replica.digest


@pytest.mark.parametrize("lost", [1, 2, 9, 16, 17])
def test_a_lost_chunk_costs_a_pause_and_no_beginning_anew(lost: int) -> None:
    """N5, sc-S6: chunks are resumable, never begun at zero for a single late one."""
    world, wire, leader, behind = compacted()
    chunks = Chunks(wire)
    chunks.lose = lambda count: count == lost
    wire.heal()
    caught_up(world, behind, leader)
    assert chunks.offsets.count(0) == (2 if lost == 1 else 1)


def test_a_connection_that_breaks_in_the_middle_goes_on_where_the_receiver_stands() -> None:
    world, wire, leader, behind = compacted()
    chunks = Chunks(wire)
    cuts = [25, 45]

    def lose(count: int) -> bool:
        if cuts and count >= cuts[0]:
            cuts.pop(0)
            wire.isolate(behind.id)
            world.callLater(0.25, wire.heal)
        return False

    chunks.lose = lose
    wire.heal()
    caught_up(world, behind, leader, 10.0)
    assert not cuts
    assert chunks.offsets.count(0) == 1


def test_a_receiver_that_restarts_in_the_middle_gets_the_whole_again() -> None:
    """N5, sc-S7: what it acknowledged before is gone with its memory; the sender goes back."""
    world, wire, leader, behind = compacted()
    chunks = Chunks(wire)
    restarted: list[Node] = []
    chunks.lose = lambda count: count == 30 and restarted.append(behind.restarted()) is None
    wire.heal()
    world.run(1.0, lambda: restarted)
    # At once: it need not wait for the stall to be noticed.
    caught_up(world, restarted[0], leader, 0.9)


def test_pieces_with_other_borders_go_on_where_the_receiver_stands() -> None:
    """N5: after a restart with another rate none began there, so that it never moved again."""
    world, wire, leader, behind = compacted()
    chunks = Chunks(wire)
    chunks.lose = lambda count: count > 31
    wire.heal()
    world.run(1.0, lambda: len(chunks.offsets) > 31)
    world.run(0.02)
    held = behind.shell.snapshots.receiving.received_bytes(leader.id)
    assert 0 < held < Bulky.ballast
    wire.isolate(behind.id)
    # It is given up; the next one is begun as a restarted leader would.
    sending = leader.shell.snapshots.sending
    world.run(60.0, lambda: not sending.is_busy)
    sending.allowance.bytes_per_second, sending.sent_bytes = 2_100_000, 0
    chunks.lose = lambda count: False
    wire.heal()
    caught_up(world, behind, leader, 25.0)
    # What was there was not sent again, but for a piece or two.
    assert sending.sent_bytes < Bulky.ballast - held + MIB


def test_the_beginning_of_a_snapshot_that_nobody_goes_on_with_is_dropped() -> None:
    """N5: it lay there, with its file, until the next one came or the node stopped."""
    world, wire, leader, behind = compacted()
    chunks = Chunks(wire)
    chunks.lose = lambda count: count == 8 and leader.stop() is None
    aborted: list[object] = []
    abort = MemorySnapshotWriter.abort
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            MemorySnapshotWriter, "abort", lambda self: (aborted.append(self), abort(self))
        )
        wire.heal()
        world.run(1.0, lambda: not leader.shell.running)
        world.run(0.02)
        receiving = behind.shell.snapshots.receiving
        assert receiving.received_bytes(leader.id)
        heir = leader_of(wire, [each.id for each in others(wire, behind)], 10.0)
        caught_up(world, behind, heir, 10.0)
    assert len(aborted) == 1
    assert not receiving.received_bytes(leader.id)


def test_another_leader_sends_its_own_snapshot_when_the_first_is_gone() -> None:
    world, wire, leader, behind = compacted()
    heir = next(each for each in others(wire, leader) if each is not behind)
    taken = Outcome(heir.shell.snapshots.take())
    world.run(0.1)
    assert taken.fired
    chunks = Chunks(wire)
    chunks.lose = lambda count: count == 8 and leader.stop() is None
    wire.heal()
    world.run(1.0, lambda: not leader.shell.running)
    new = leader_of(wire, [heir.id, behind.id], 10.0)
    assert new is heir
    caught_up(world, behind, heir, 10.0)


def test_an_answer_to_an_earlier_transfer_does_not_move_a_later_one() -> None:
    world, wire, leader, behind = compacted()
    chunks = Chunks(wire)

    def lose(count: int) -> bool:
        if count == 1:
            old = ms.InstallSnapshotResult(
                leader.shell.server.current_term, 0, 1, False, offset_bytes=8 * MIB
            )
            world.callLater(0, leader.shell.receive, behind.id, old, b"", None)
            # The numbers of messages begin anew in each term.
            sequence = leader.shell.snapshots.sending._transfers[behind.id].sequence
            old = evolve(old, term=old.term - 1, sequence=sequence)
            world.callLater(0, leader.shell.receive, behind.id, old, b"", None)
        return False

    chunks.lose = lose
    wire.heal()
    caught_up(world, behind, leader, 3.0)
    assert chunks.offsets.count(0) == 1
    assert chunks.offsets == sorted(set(chunks.offsets))


def test_a_transfer_that_nobody_acknowledges_is_given_up_and_begun_anew() -> None:
    world, wire, leader, behind = compacted()
    chunks = Chunks(wire)
    chunks.lose = lambda count: world.seconds() < 60.0
    wire.heal()
    world.run(70.0 - world.seconds())
    caught_up(world, behind, leader)


def test_a_transfer_ends_with_the_leadership() -> None:
    world, wire, leader, _behind = compacted()
    chunks = Chunks(wire)
    chunks.lose = lambda count: True
    wire.heal()
    world.run(0.5)
    assert chunks.offsets
    wire.isolate(leader.id)
    world.run(2.0)
    count = len(chunks.offsets)
    assert not leader.leads
    world.run(3.0)
    assert list(chunks.offsets[count:]) == []


def test_a_transfer_ends_with_the_term_too() -> None:
    """Lost and won again within one turn, the leadership is another one."""
    world, wire, leader, behind = compacted()
    chunks = Chunks(wire)
    chunks.lose = lambda count: True
    wire.heal()
    sending, term = leader.shell.snapshots.sending, leader.shell.server.current_term
    world.run(1.0, lambda: sending.is_busy)
    sending.role_changed(out.RoleChanged(out.Role.LEADER, term, leader.id))
    assert sending.is_busy
    sending.role_changed(out.RoleChanged(out.Role.LEADER, term + 1, leader.id))
    assert not sending.is_busy
    assert not behind.failures


def offered(leader: Node, offset: int, piece: bytes, **changes: Any) -> tuple[Any, SnapshotChunk]:
    """Return a chunk of a snapshot far ahead, as the leader would send it."""
    origin = msgspec.msgpack.encode((7, "", 0))
    total = changes.pop("total", -1)
    meta = changes.pop("meta", origin)
    digest = changes.pop("digest", b"")
    facts = {"term": leader.shell.server.current_term, "index": 1000, "done": False, **changes}
    message = ms.InstallSnapshot(
        facts["term"],
        facts["index"],
        leader.shell.server.current_term,
        leader.shell.server.configuration,
        1,
        1 << 30,
        facts["done"],
    )
    return message, SnapshotChunk.of(offset, piece, total, meta, digest)


def test_gaps_duplicates_and_bad_descriptions_are_not_written() -> None:
    """sc-S6."""
    world, wire, _nodes = cluster(3)
    leader = leader_of(wire)
    follower = others(wire, leader)[0]

    def offer(*asked: Any, **changes: Any) -> int:
        message, chunk = offered(leader, *asked, **changes)
        follower.shell.receive(leader.id, message, b"", chunk)
        return follower.shell.snapshots.receiving.received_bytes(leader.id)

    assert offer(5, b"late") == 0
    assert offer(0, b"abc", meta=b"\xc1") == 0
    assert offer(0, b"abc", term=0) == 0
    assert offer(0, b"abc") == 3
    assert offer(0, b"abc") == 3
    assert offer(7, b"gap") == 3
    assert offer(3, b"def") == 6
    # Of another snapshot: begun anew.
    assert offer(6, b"x", index=2000) == 6
    assert offer(0, b"x", index=2000) == 1
    # An end that is not the end.
    assert offer(1, b"", index=2000, done=True, total=77) == 1
    world.run(0.2)
    assert not follower.failures
    assert follower.shell.server.snapshot_index == 0


def test_pieces_of_two_snapshots_of_one_index_are_not_joined(logged_texts: list[str]) -> None:
    """N5, sc-S6, SECURITY 36: the whole is verified before it is installed, not only its pieces."""
    _world, wire, _nodes = cluster(3)
    leader = leader_of(wire)
    follower = others(wire, leader)[0]
    digest = hashlib.sha256(b"abcdef").digest()

    def offer(*asked: Any, **changes: Any) -> int:
        message, chunk = offered(leader, *asked, **changes)
        follower.shell.receive(leader.id, message, b"", chunk)
        return follower.shell.snapshots.receiving.received_bytes(leader.id)

    assert offer(0, b"ABC") == 3
    # The leader was restarted, and goes on from there with another snapshot of the same index.
    assert offer(3, b"def") == 6
    assert offer(6, b"", done=True, total=6, digest=digest) == 0
    assert "not of one snapshot" in logged_texts[-1]
    assert follower.shell.server.snapshot_index == 0
    # One that is longer than the sender says is none either.
    assert offer(0, b"abcdefg") == 7
    assert offer(6, b"", done=True, total=6, digest=digest) == 0
    assert offer(0, b"abcdef") == 6
    arrival = follower.shell.snapshots.receiving._arrival
    offer(6, b"", done=True, total=6, digest=digest)
    assert arrival is not None
    assert arrival.finished
    assert not follower.failures


def test_a_receiver_that_finds_its_pieces_wrong_is_sent_the_whole_again() -> None:
    """N5: with the digest of all that was read, whoever began; and not in a circle without rest."""
    world, wire, leader, behind = compacted()
    chunks = Chunks(wire)
    spoiled = [2]
    check_whole = Arrival.check_whole

    def spoil(arrival: Arrival, last: SnapshotChunk) -> None:
        assert len(last.digest) == 32
        if spoiled[0]:
            spoiled[0] -= 1
            arrival.hash.update(b"something else")
        check_whole(arrival, last)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Arrival, "check_whole", spoil)
        wire.heal()
        caught_up(world, behind, leader, 20.0)
        assert chunks.offsets.count(0) == 3
        assert not spoiled[0]


def test_a_receiver_that_never_agrees_is_let_rest() -> None:
    """N5: who failed waits before the next try, each time longer."""
    world, wire, leader, _behind = compacted()
    chunks = Chunks(wire)

    def never(arrival: Arrival, last: SnapshotChunk) -> None:
        raise StateMachineFailed("it is not whole")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Arrival, "check_whole", never)
        wire.heal()
        world.run(5.0)
        assert leader.shell.snapshots.sending._failures
        assert chunks.offsets.count(0) < 40


def test_after_a_wait_the_snapshot_is_sent_that_is_the_newest_then() -> None:
    """N5: the one that was the newest before the wait is gone when the leader takes others."""
    world, wire, leader, behind = compacted()
    sending = leader.shell.snapshots.sending
    sending._failures[behind.id] = 5
    wire.heal()
    world.run(2.0, lambda: sending.is_busy)
    (first,) = sending.indexes
    for _ in range(2):
        leader.write(["add", "more"])
        world.run(0.2)
        leader.shell.snapshots.take()
        world.run(0.2)
    with pytest.raises(KeyError):
        leader.shell.storage.open_snapshot(first)
    assert sending.indexes == [first]
    caught_up(world, behind, leader, 9.0)


def test_a_full_disk_at_the_receiver_stops_nothing() -> None:
    """D4: a snapshot that finds no room is dropped; the node goes on, and so does the leader."""
    world, wire, leader, behind = compacted()
    commit, left = MemorySnapshotWriter.commit, [3]

    def full(writer: MemorySnapshotWriter) -> None:
        if left[0]:
            left[0] -= 1
            raise StorageFull("no room")
        commit(writer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemorySnapshotWriter, "commit", full)
        wire.heal()
        caught_up(world, behind, leader, 20.0)
    assert not left[0]


def test_all_who_ask_for_a_snapshot_get_the_same_outcome() -> None:
    world, _wire, nodes = cluster(1)
    node = nodes["a"]

    def broken(_: object) -> None:
        raise StorageFull("no room")

    node.write(["add", 1])
    world.run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemorySnapshotWriter, "commit", broken)
        # The machine's first breath is a turn, so the second one asks while it is taken.
        node.machine = node.replica.machine = Breathing()
        told = [Outcome(node.shell.snapshots.take()) for _ in range(3)]
        assert not told[0].fired
        world.run()
    assert [type(each.value) for each in told] == [StorageFull] * 3
    told = [Outcome(node.shell.snapshots.take()) for _ in range(3)]
    told[1].deferred.cancel()
    world.run()
    assert [told[0].value, told[2].value] == [node.applied] * 2
    # Nothing has come since: the one there is will do.
    assert Outcome(node.shell.snapshots.take()).value == node.applied


def test_nothing_applied_is_nothing_to_take() -> None:
    world = World()
    node = Node(Wire(world), "a")
    assert isinstance(Outcome(node.shell.snapshots.take()).value, NotFound)


def test_snapshots_are_taken_after_so_many_entries_and_the_log_gets_shorter() -> None:
    """N3: by count, staggered; N4: trailing entries stay."""
    world, wire, nodes = cluster(3, snapshot_entries=50, trailing_entries=10)
    leader = leader_of(wire)
    for number in range(300):
        leader.write(["add", number])
        if number % 5 == 0:
            world.run(0.02)
    world.run(0.5)
    for node in nodes.values():
        log = node.shell.server.log
        assert node.shell.snapshots.taken_count >= 3
        assert node.shell.server.snapshot_index - 10 <= log.first_index <= node.applied
        again = node.restarted()
        world.run(1.0)
        assert again.machine.applied == [["add", n] for n in range(300)]


class Slow:
    """Threads that end when the test says so; never two calls of one writer at a time."""

    def __init__(self, world: World) -> None:
        self.calls: list[Any] = []
        self.world = world
        self.pool = world.pool
        world.pool = self  # type: ignore[assignment]

    def callInThreadWithCallback(self, *call: Any, **named: Any) -> None:
        self.calls.append((call, named))

    def end(self) -> None:
        calls, self.calls = self.calls, []
        for call, named in calls:
            self.pool.callInThreadWithCallback(*call, **named)
        self.world.advance(0)


def test_a_stop_while_a_snapshot_is_taken_waits_for_the_thread_and_removes_the_file() -> None:
    """The file must not be closed while another thread writes to it."""
    world, _wire, nodes = cluster(1)
    node = nodes["a"]
    node.write(["add", 1])
    world.run()
    threads = Slow(world)
    told = Outcome(node.shell.snapshots.take())
    assert len(threads.calls) == 1
    node.shell.stop()
    idle = Outcome(node.shell.snapshots.idle())
    assert len(threads.calls) == 1
    assert not idle.fired
    threads.end()
    assert len(threads.calls) == 1
    threads.end()
    assert idle.fired
    assert isinstance(told.value, NodeStopped)
    assert world.getDelayedCalls() == []


def test_a_stop_while_a_snapshots_mark_is_written_answers_who_asked() -> None:
    world, _wire, nodes = cluster(1)
    node = nodes["a"]
    node.write(["add", 1])
    world.run()
    node.storage.automatic = False
    told = Outcome(node.shell.snapshots.take())
    world.run(0.1)
    assert not told.fired
    node.shell.stop()
    assert isinstance(told.value, RaftError)
    assert Outcome(node.shell.snapshots.idle()).fired


def test_a_snapshot_from_the_leader_may_overtake_ones_own() -> None:
    world, wire, leader, behind = compacted(Journal)
    behind.write(["add", "never"])
    world.run(0.1)
    threads = Slow(world)
    told = Outcome(behind.shell.snapshots.take())
    wire.heal()
    for _ in range(300):
        world.run(0.01)
        if behind.applied == leader.applied:
            break
        # Its own goes no further; the one that arrives does.
        write = "MemorySnapshotWriter.write of"
        own = [each for each in threads.calls if write in repr(each)]
        threads.calls = [each for each in threads.calls if write not in repr(each)]
        held = own
        threads.end()
        threads.calls += held
    assert behind.applied == leader.applied
    for _ in range(5):
        threads.end()
        world.run(0.05)
    assert told.value == behind.shell.server.snapshot_index
    assert behind.shell.server.snapshot_index >= leader.shell.server.snapshot_index
    # Its own is none that counts: the log has a later one.
    assert behind.shell.snapshots.taken_count == 0
    assert not behind.failures


def test_a_rate_bounds_all_transfers_together_and_none_times_out() -> None:
    """N5: rate limit; each chunk counts as contact, and the whole may take as long as it takes."""
    world, wire, nodes = cluster(
        3, trailing_entries=0, trailing_bytes=0, snapshot_bytes_per_second=100_000
    )
    for node in nodes.values():
        node.machine = node.replica.machine = Bulky()
    leader = leader_of(wire)
    behind = others(wire, leader)[0]
    wire.isolate(behind.id)
    leader.write(["add", 1])
    world.run(0.3)
    leader.shell.snapshots.take()
    world.run(0.1)
    term = leader.shell.server.current_term
    wire.heal()
    world.run(1.0, lambda: leader.shell.snapshots.sending.is_busy)
    begun, sent = world.seconds(), leader.shell.snapshots.sending.sent_bytes
    world.run(60.0)
    moved = leader.shell.snapshots.sending.sent_bytes - sent
    assert moved == pytest.approx(100_000 * (world.seconds() - begun), rel=0.02)
    caught_up(world, behind, leader, 90.0)
    assert leader.shell.server.current_term == term
    # Nothing was sent twice.
    assert leader.shell.snapshots.sending.sent_bytes < Bulky.ballast * 1.01


def test_a_slow_receiver_is_not_drowned_in_what_it_has_already() -> None:
    """N5, sc-N9: a time limit for a chunk, by what the receiver needed for the ones before."""
    world, wire, leader, behind = compacted()
    arrive, free_at = wire.arrive, [0.0]

    def slow(sender: str, receiver: str, message: Any, *beside: Any) -> None:
        if not isinstance(message, ms.InstallSnapshot) or not beside[1].chunk:
            arrive(sender, receiver, message, *beside)
            return
        # 200 KB a second: a piece of 256 KiB takes longer than a stall of one second.
        free_at[0] = max(free_at[0], world.seconds()) + len(beside[1].chunk) / 200_000
        world.callLater(free_at[0] - world.seconds(), arrive, sender, receiver, message, *beside)

    wire.arrive = slow  # type: ignore[method-assign]
    wire.heal()
    caught_up(world, behind, leader, 120.0)
    assert leader.shell.snapshots.sending.sent_bytes < 2 * Bulky.ballast


def test_failed_transfers_are_tried_again_at_growing_intervals() -> None:
    """N5: back off after failures."""
    world, wire, leader, behind = compacted()
    opened: list[float] = []
    left = [6]
    real = MemoryStorage.open_snapshot

    def broken(storage: MemoryStorage, index: int) -> Any:
        if storage is leader.storage and left[0]:
            left[0] -= 1
            opened.append(world.seconds())
            raise StorageFull("no descriptor is left")
        return real(storage, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryStorage, "open_snapshot", broken)
        wire.heal()
        caught_up(world, behind, leader, 40.0)
    gaps = [later - earlier for earlier, later in pairwise(opened)]
    assert len(gaps) == 5
    assert all(later > 1.5 * earlier for earlier, later in pairwise(gaps))


def test_a_damaged_snapshot_is_replaced_by_a_new_one() -> None:
    """sc-S8: nobody can be sent a file that is bad, so another one is made."""
    world, wire, leader, behind = compacted()
    index = leader.shell.server.snapshot_index
    real = MemoryStorage.open_snapshot

    def damaged(storage: MemoryStorage, asked: int) -> Any:
        if storage is leader.storage and asked == index:
            raise StorageDamaged("snapshot", 0, "a bit fell over")
        return real(storage, asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryStorage, "open_snapshot", damaged)
        wire.heal()
        caught_up(world, behind, leader, 10.0)
    assert leader.shell.server.snapshot_index > index


def test_a_transfer_that_ends_while_its_file_is_read_closes_it_afterwards() -> None:
    """A file must not be closed under the thread that reads it; nor stay open."""
    world = World()
    threads = Slow(world)
    closed: list[bool] = []

    def chunks() -> Any:
        try:
            yield b"one"
            yield b"two"
        finally:
            closed.append(True)

    reading = Reading(chunks(), Threads(world).call)
    told = Outcome(reading.next())
    threads.end()
    assert told.value == b"one"
    told = Outcome(reading.next())
    told.deferred.cancel()
    reading.close()
    assert not closed
    threads.end()
    assert closed
    assert isinstance(told.value, CancelledError)


def test_a_damaged_snapshot_is_replaced_where_nobody_writes_too() -> None:
    """sc-S8: nothing was applied since, so "the next one" was the damaged one, for ever."""
    world, wire, leader, behind = compacted()
    taken = Outcome(leader.shell.snapshots.take())
    world.run(0.1)
    index = taken.value
    assert index == leader.applied
    real = MemoryStorage.open_snapshot

    def damaged(storage: MemoryStorage, asked: int) -> Any:
        if storage is leader.storage and asked <= index:
            raise StorageDamaged("snapshot", 0, "a bit fell over")
        return real(storage, asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryStorage, "open_snapshot", damaged)
        wire.heal()
        caught_up(world, behind, leader, 20.0)
    assert leader.shell.server.snapshot_index > index


def test_a_term_is_saved_before_the_mark_of_a_snapshot_of_that_term(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """E1: heard and installed in one turn; a crash between the two left a log of a later term.

    Such a log was refused at the next start: its snapshot is of a term that was never saved.
    """
    _, _, leader, behind = compacted(Journal)
    storage, term = behind.shell.storage, behind.shell.server.current_term + 1
    meta, chunks = leader.shell.storage.open_snapshot(leader.shell.server.snapshot_index)
    meta = evolve(meta, term=term)
    writer = storage.create_snapshot(meta)
    for chunk in chunks:
        writer.write(chunk)
    writer.commit()
    told: list[object] = []
    save, mark = MemoryStorage.save, MemoryStorage.mark_snapshot

    def saving(self: MemoryStorage, *each: Any) -> bool:
        told.append(each[1])
        return save(self, *each)

    def marking(self: MemoryStorage, *each: Any) -> None:
        told.append("mark")
        mark(self, *each)

    monkeypatch.setattr(MemoryStorage, "save", saving)
    monkeypatch.setattr(MemoryStorage, "mark_snapshot", marking)
    message = ms.InstallSnapshot(
        term, meta.index, term, meta.configuration, meta.configuration_index, 1, done=True
    )
    behind.shell._carry_out(
        behind.shell.server.step([ev.Received(leader.id, message)], behind.shell.server.now),
        waits=True,
    )
    assert told[:2] == [out.HardState(term, None), "mark"]
