"""The shell's turns: who is told what when leadership, the disk or the node itself is lost."""

from __future__ import annotations

from typing import Any

import pytest

from raft.core import messages as ms
from raft.core import outputs as out
from raft.errors import (
    NodeStopped,
    OutcomeUnknown,
    Overloaded,
    RaftError,
    StateMachineFailed,
    StorageDamaged,
    StorageFailed,
    StorageFull,
    Superseded,
    Timeout,
)
from raft.node.shell import Shell
from raft.sparing import BURST_LINES
from raft.storage.records import encode_commands
from raft.transport.wire import SnapshotChunk
from tests.node.world import Node, Outcome, cluster, leader_of, others


def install(follower: Node, leader: Node) -> None:
    """Send the leader's newest snapshot by hand, whole."""
    meta, chunks = leader.storage.open_snapshot(leader.shell.server.snapshot_index)
    content = b"".join(chunks)
    import msgspec

    origin = msgspec.msgpack.encode((meta.time_us, meta.machine, meta.machine_version))
    for done, offset, piece in ((False, 0, content), (True, len(content), b"")):
        message = ms.InstallSnapshot(
            leader.shell.server.current_term,
            meta.index,
            meta.term,
            meta.configuration,
            meta.configuration_index,
            999_999,
            done,
        )
        chunk = SnapshotChunk.of(offset, piece, len(content) if done else -1, origin)
        follower.shell.receive(leader.id, message, b"", chunk)


def test_a_result_is_never_given_for_an_entry_that_a_snapshot_discarded() -> None:
    """L9, N6: what stood behind an installed snapshot's last entry is gone, and its callers know.

    The old leader appended entries that nobody else has. The new one's snapshot ends in the
    middle of them, with another entry there, so all of them go; then its own entries come.
    """
    world, wire, _nodes = cluster(3, trailing_entries=0, trailing_bytes=0)
    old = leader_of(wire)
    wire.isolate(old.id)
    lost = []
    for number in range(9):
        lost.append(old.write(["add", f"lost {number}"], 60.0))
        world.run()
    new = leader_of(wire, [node.id for node in others(wire, old)])
    for number in range(3):
        new.write(["add", f"kept {number}"])
    world.run(0.3)
    new.shell.snapshots.take()
    world.run(0.3)
    assert new.shell.server.log.first_index == new.applied + 1
    install(old, new)
    world.run(0.01)
    for number in range(20):
        new.write(["add", f"after {number}"])
    wire.heal()
    world.run(0.5)
    for told in lost:
        assert isinstance(told.value, OutcomeUnknown | Superseded), told.values
    assert old.machine.applied == new.machine.applied
    assert not any("lost" in str(command) for command in new.machine.applied)


def test_a_write_that_went_to_the_log_is_unknown_when_the_node_fails_in_the_same_turn() -> None:
    """L9: entries that were handed to the disk and to peers may be applied by others."""
    world, wire, _nodes = cluster(3)
    leader = leader_of(wire)
    told = leader.write(["add", 1])
    flush = leader.port.flush

    def broken() -> None:
        flush()
        raise StorageDamaged("x.wal", 7, "a read for another peer found this")

    leader.port.flush = broken  # type: ignore[method-assign]
    world.run()
    assert isinstance(told.value, OutcomeUnknown)
    assert [type(each) for each in leader.failures] == [StorageDamaged]
    new = leader_of(wire, [node.id for node in others(wire, leader)])
    world.run(0.5)
    assert new.machine.applied == [["add", 1]]


def test_writes_and_reads_that_never_left_the_queue_are_definitely_not_done() -> None:
    """sc-Q9."""
    _world, _wire, nodes = cluster(1)
    node = nodes["a"]
    told, asked = node.write(["add", 1]), node.read(0)
    node.stop()
    assert isinstance(told.value, NodeStopped)
    assert isinstance(asked.value, NodeStopped)
    assert isinstance(node.write(["add", 2]).value, NodeStopped)
    assert isinstance(node.read(0).value, NodeStopped)


@pytest.mark.parametrize("how", ["result", "error", "expiry", "read", "change", "apply"])
def test_stopping_from_within_any_callback_leaves_nothing_behind(how: str) -> None:
    world, _wire, nodes = cluster(1, snapshot_entries=1)
    node = nodes["a"]
    kept = world.getDelayedCalls()
    if how == "read":
        first = node.read(0)
    elif how == "expiry":
        first = node.write(["add", 1], 0.0)
    else:
        first = node.write(["refuse"] if how == "error" else ["add", 1])
    rest = [node.write(["add", 2], 0.0 if how == "expiry" else 3.0), node.read(0)]
    if how == "apply":
        node.machine.on_apply = node.shell.stop
    elif how == "change":
        node.on_change = lambda _: node.shell.stop()
        node.shell.changed(out.TransferEnded(None))
    else:
        first.deferred.addCallback(lambda _: node.shell.stop())
    world.run(0.05)
    assert not node.shell.running
    for each in (first, *rest):
        assert each.fired
    assert [call for call in world.getDelayedCalls() if call not in kept] == []
    assert world.getDelayedCalls() == []


def test_reads_and_writes_from_within_observers_are_the_next_turns() -> None:
    """sc-SM8."""
    world, wire, _nodes = cluster(3)
    leader = leader_of(wire)
    told: list[Any] = []

    def observe(change: out.Change) -> None:
        told.extend([leader.write(["add", 1]), leader.read(0)])

    leader.on_change = observe
    for other in others(wire, leader):
        other.shell.stop()
    world.run(2.0, lambda: told)
    world.run(5.0)
    assert all(each.fired for each in told)


def test_what_expires_before_the_append_is_dropped_and_after_it_is_unknown() -> None:
    world, wire, nodes = cluster(3)
    leader = leader_of(wire)
    for other in others(wire, leader):
        wire.cut |= {(leader.id, other.id), (other.id, leader.id)}
    early, late = leader.write(["add", 1], 0.0), leader.write(["add", 2], 0.1)
    world.run(0.25)
    assert (early.value.appended, late.value.appended) == (False, True)
    assert isinstance(early.value, Timeout)
    wire.heal()
    leader_of(wire)
    world.run(1.0)
    assert all(["add", 1] not in node.machine.applied for node in nodes.values())


def test_a_lost_leadership_answers_appended_writes_within_the_grace() -> None:
    """E7: what is not known after a while is reported as unknown, whatever its own deadline.

    sc-R10.
    """
    world, wire, _nodes = cluster(3)
    leader = leader_of(wire)
    wire.isolate(leader.id)
    told = leader.write(["add", 1], timeout=3600.0)
    world.run(6 * leader.options.election_timeout_seconds)
    assert isinstance(told.value, Timeout)
    assert told.value.appended


def test_an_entry_that_another_leader_commits_in_its_place_is_superseded() -> None:
    """L9: definite, once another entry is applied there."""
    world, wire, _nodes = cluster(3)
    old = leader_of(wire)
    wire.isolate(old.id)
    told = old.write(["add", "lost"], 60.0)
    new = leader_of(wire, [node.id for node in others(wire, old)])
    new.write(["add", "kept"])
    world.run(0.1)
    wire.heal()
    world.run(1.0, lambda: told.fired)
    assert isinstance(told.value, Superseded)
    assert old.machine.applied == [["add", "kept"]]


def test_an_entry_behind_one_of_a_later_term_is_superseded_at_once() -> None:
    """L9: terms never fall along a log, so nobody need write to where it stood."""
    world, wire, _nodes = cluster(3)
    old = leader_of(wire)
    wire.isolate(old.id)
    told = []
    for number in range(5):
        told.append(old.write(["add", number], 60.0))
        world.run()
    leader_of(wire, [node.id for node in others(wire, old)])
    wire.heal()
    world.run(0.5)
    assert [type(each.value) for each in told] == [Superseded] * 5


def test_an_entry_that_survives_its_leader_is_answered_with_its_result() -> None:
    world, wire, _nodes = cluster(3)
    old = leader_of(wire)
    told = old.write(["add", 1], 60.0)
    world.advance(0)
    world.advance(0.0011)  # The entries arrive; the acknowledgements never do.
    wire.isolate(old.id)
    world.run(0.05)
    assert not told.fired
    new = leader_of(wire, [node.id for node in others(wire, old)])
    wire.heal()
    world.run(2.0, lambda: told.fired)
    assert told.value[1] == 1
    assert new.machine.applied == [["add", 1]]


def test_a_full_disk_refuses_writes_and_serves_reads() -> None:
    """D4, sc-F8: reads go on."""
    world, _wire, nodes = cluster(1)
    node = nodes["a"]
    node.storage.full = True
    told, asked = node.write(["add", 1]), node.read(0)
    world.run(0.1)
    assert isinstance(told.value, StorageFull)
    assert asked.value == 0
    node.storage.full = False
    again = node.write(["add", 2])
    world.run(0.1)
    assert again.value[1] == 2


def test_a_poisoned_disk_stops_the_node_and_everybody_is_told() -> None:
    """D3, sc-P9, sc-F7: nothing is acknowledged any more."""
    world, wire, _nodes = cluster(3)
    leader = leader_of(wire)
    leader.storage.automatic = False
    told = leader.write(["add", 1])
    world.run(0.01)
    asked = leader.read(0)
    leader.storage.fail(StorageFailed("the disk died"))
    world.run()
    assert isinstance(told.value, OutcomeUnknown)
    assert asked.fired
    assert [type(each) for each in leader.failures] == [StorageFailed]
    sent = len(leader.port.sent)
    world.run(1.0)
    assert len(leader.port.sent) == sent


def test_a_machine_that_fails_on_this_node_stops_it_and_its_neighbours_in_the_slice_too() -> None:
    """sc-P7, sc-P9."""
    world, _wire, nodes = cluster(1)
    node = nodes["a"]
    told = [node.write(each) for each in (["add", 1], ["local"], ["add", 2])]
    world.run(0.1)
    assert [type(each.value) for each in told] == [OutcomeUnknown] * 3
    assert isinstance(node.failures[0], StateMachineFailed)
    assert world.getDelayedCalls() == []


def test_entries_are_applied_in_slices_and_answered_whole() -> None:
    """R5: a turn applies for a few milliseconds; a batch is answered when its last is applied.

    sc-O3.
    """
    world, _wire, nodes = cluster(1)
    node = nodes["a"]
    slow = [0.0]

    def clock() -> float:
        return world.seconds() + slow[0]

    node.shell.clock = node.replica._clock = clock

    told: list[Outcome] = []
    counts: list[int] = []

    def apply() -> None:
        slow[0] += 0.001
        counts[-1] += 1
        assert not told[0].fired

    node.machine.on_apply = apply
    turn = node.replica.apply

    def counted(*asked: Any) -> Any:
        counts.append(0)
        return turn(*asked)

    node.replica.apply = counted  # type: ignore[method-assign]
    told += [node.write(["add", n]) for n in range(100)]
    world.run()
    assert [each.value[1] for each in told] == list(range(100))
    assert node.machine.applied == [["add", n] for n in range(100)]
    assert sum(counts) == 100
    assert max(counts) <= 8


def test_entries_that_left_the_cache_are_read_back_for_peers_and_for_the_machine() -> None:
    """sc-O2."""
    world, wire, _nodes = cluster(3, cache_bytes=200)
    leader = leader_of(wire)
    behind = others(wire, leader)[0]
    wire.isolate(behind.id)
    for number in range(50):
        leader.write(["add", number])
        world.run(0.02)
    assert leader.shell.cache.size_bytes < 500
    wire.heal()
    world.run(2.0, lambda: behind.applied == leader.applied)
    assert behind.machine.applied == [["add", n] for n in range(50)]


def test_damaged_records_are_dropped_and_the_leader_is_heard_no_less(
    logged_texts: list[str],
) -> None:
    """sc-O7: however many come, a few lines tell of them, and a counter of all."""
    world, wire, _nodes = cluster(3)
    leader = leader_of(wire)
    follower = others(wire, leader)[0]
    server = follower.shell.server
    records = encode_commands(server.log.last_index + 1, server.current_term, 0, [b"\xc0"])
    bad = records[:-1] + b"\xc3"
    entries = ms.Entries(server.log.last_index + 1)
    message = ms.AppendEntries(
        server.current_term, server.log.last_index, server.log.last_term, entries, 0, 5
    )
    before = server.log.last_index
    for _ in range(1000):
        follower.shell.receive(leader.id, message, bad, None)
    world.run(0.2)
    assert follower.shell.bad_record_count == 1000
    told = [text for text in logged_texts if "bad AppendEntries" in text]
    assert len(told) == BURST_LINES
    assert follower.shell.complaints.left_out_count == 1000 - BURST_LINES
    assert server.log.last_index == before
    assert not follower.failures


def test_a_stalled_process_hears_its_leader_before_it_judges_deadlines() -> None:
    """sc-P6: after a stall, what has arrived is drained before any deadline is judged."""
    world, wire, _nodes = cluster(3)
    leader = leader_of(wire)
    follower = others(wire, leader)[0]
    server, term = follower.shell.server, follower.shell.server.current_term
    world.run(0.2)
    asked = len(follower.port.sent)
    # Nothing ran on this node for a second, and a turn was due when it stopped. The reactor
    # runs what is due before it reads its sockets.
    follower.shell.clock = lambda: world.seconds() + 1.0
    follower.shell.schedule()
    heartbeat = ms.AppendEntries(term, 0, 0, ms.Entries(1), 0, 1 << 20)
    world.callLater(0, follower.shell.receive, leader.id, heartbeat, b"", None)
    world.advance(0)
    assert (server.role, server.leader_id) == (out.Role.FOLLOWER, leader.id)
    assert not [message for _, message in follower.port.sent[asked:] if type(message) is ms.PreVote]


def test_what_waits_for_a_hung_disk_is_bounded() -> None:
    """sc-F10, sc-O1."""
    world, wire, _nodes = cluster(3)
    node = others(wire, leader_of(wire))[0]
    node.storage.automatic = False
    term = node.shell.server.current_term
    for number in range(4_600):
        vote = ms.RequestVote(term + 1 + number, 1 << 40, term + number, True)
        node.shell.receive("b" if node.id != "b" else "c", vote, b"", None)
    world.advance(0)
    sent = len(node.port.sent)
    node.storage.complete()
    world.advance(0)
    assert 0 < len(node.port.sent) - sent <= 4_200


def test_a_core_that_raises_stops_its_node_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch, logged_errors: Any
) -> None:
    """sc-P10: better stopped than wrong; the others elect a leader and go on."""
    world, wire, _nodes = cluster(3)
    leader = leader_of(wire)
    told = leader.write(["add", 1])
    world.run(0.5, lambda: told.fired)

    def fails(*_: Any) -> Any:
        raise ZeroDivisionError

    lost, asked = leader.write(["add", 2]), leader.read([])
    with monkeypatch.context() as patched:
        patched.setattr(type(leader.shell.server), "step", fails)
        world.advance(0)
        # Whoever had a turn meanwhile would have failed as well.
        assert [node for node in wire.nodes.values() if node.failures] == [leader]
    assert not leader.shell.running
    assert all(isinstance(each.value, RaftError) for each in (lost, asked))
    assert isinstance(leader.write(["add", 3]).value, NodeStopped)
    rest = others(wire, leader)
    next_one = leader_of(wire, [each.id for each in rest])
    told = next_one.write(["add", 4])
    world.run(0.5, lambda: told.fired)
    assert told.value[1] == 4
    assert not any(each.failures for each in rest)
    assert logged_errors.flush(ZeroDivisionError)


def test_a_command_that_calls_its_node_is_not_carried_out_within_itself() -> None:
    """sc-SM8: what a machine writes or reads while it applies is the next turn's."""
    world, _wire, nodes = cluster(1)
    node = nodes["a"]
    told: list[Outcome] = []
    depth, deepest = [0], [0]

    def again() -> None:
        depth[0] += 1
        deepest[0] = max(deepest[0], depth[0])
        if len(told) < 20:
            told.extend([node.write(["add", len(told)]), node.read([])])
        depth[0] -= 1

    node.machine.on_apply = again
    node.write(["add", "first"])
    world.run(1.0, lambda: len(told) == 20 and all(each.fired for each in told))
    assert deepest == [1]
    assert [each.value[1] for each in told[::2]] == list(range(0, 20, 2))
    assert [command[1] for command in node.machine.applied] == ["first", *range(0, 20, 2)]


def test_writes_are_refused_while_the_machine_is_far_behind_and_heartbeats_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """sc-O3: what is committed and not applied is bounded; the refusal is definite."""
    world, wire, _nodes = cluster(3, unapplied_bytes=2_000)
    leader = leader_of(wire)
    term, slow, apply = leader.shell.server.current_term, [True], Shell.apply

    def apply_nothing(shell: Shell) -> None:
        """Give the leader's machine no time at all."""
        if shell is not leader.shell or not slow[0]:
            apply(shell)

    monkeypatch.setattr(Shell, "apply", apply_nothing)
    told = []
    for number in range(60):
        told.append(leader.write(["add", number, "x" * 100], 30.0))
        world.run(0.02)
    refused = [each for each in told if each.fired and isinstance(each.value, Overloaded)]
    assert 20 < len(refused) < 60
    assert leader.leads
    assert leader.shell.server.current_term == term
    slow[0] = False
    world.run(2.0, lambda: all(each.fired for each in told))
    applied = [each.value[1] for each in told if each not in refused]
    assert [command[1] for command in leader.machine.applied] == applied
    again = leader.write(["add", "again"])
    world.run(0.5, lambda: again.fired)
    assert again.value[1] == "again"


def test_a_node_that_stops_at_an_entry_again_and_again_stops_nobody_else() -> None:
    """sc-P14, sc-SM2: its disk or memory is its own; it goes on where it stood once it is well."""
    world, wire, nodes = cluster(3)
    leader = leader_of(wire)
    ill = others(wire, leader)[0]

    def fails() -> None:
        raise MemoryError

    ill.machine.on_apply = fails
    told = leader.write(["add", 0])
    world.run(0.5, lambda: told.fired and not ill.shell.running)
    for number in range(1, 4):
        ill = ill.restarted()
        ill.machine.on_apply = fails
        told = leader.write(["add", number])
        world.run(1.0, lambda: told.fired and not ill.shell.running)  # noqa: B023
        assert isinstance(ill.failures[0], StateMachineFailed)
        assert leader.leads
    ill = ill.restarted()
    world.run(1.0, lambda: ill.applied == leader.applied)
    assert ill.machine.applied == leader.machine.applied == [["add", n] for n in range(4)]
    assert len(nodes) == 3
