"""Reads at stated consistencies: by lease, local, bounded, and from an index on [RULES R8-R10]."""

from __future__ import annotations

import math
from typing import Any

import pytest
from attrs import evolve
from zope.interface import implementer

from raft.core import messages as ms
from raft.core.server import Options
from raft.errors import BadCommand, ElectionInProgress, Timeout
from raft.interfaces import Indexed, IPreparingStateMachine, ReadTerms
from raft.node.currency import NOTES, Currency
from tests.node.world import Journal, Node, Outcome, World, cluster, leader_of, others

HEARTBEAT = Options().heartbeat_seconds
TIMEOUT = Options().election_timeout_seconds
LEASED = Options(clock_drift_bound=1.25)


def led(**settings: Any) -> tuple[World, Any, Node, list[Node]]:
    """Return three servers with one command applied everywhere: the leader, and the others."""
    world, wire, _ = cluster(3, **settings)
    leader = leader_of(wire)
    leader.write(["add", 1])
    world.run(0.5)
    return world, wire, leader, others(wire, leader)


def asked(node: Node) -> int:
    """Count the reads' own messages: heartbeats and questions that left `node`."""
    return sum(isinstance(m, ms.AppendEntries | ms.ReadIndex) for _, m in node.port.sent)


def test_a_local_read_is_answered_at_once_from_what_is_applied_here() -> None:
    """R10: with the index and the age of the state, and without a word to anyone."""
    world, _wire, leader, followers = led()
    for node in (leader, *followers):
        before = asked(node)
        told = node.read_indexed([], consistency="local")
        world.run()
        assert told.value.value == 1
        assert told.value.index == node.applied
        assert 0 <= told.value.age_seconds <= 2 * HEARTBEAT
        assert asked(node) == before


def test_the_age_of_a_state_grows_once_nobody_vouches_for_it() -> None:
    """R10: cut off, a server answers local reads and says for how long it has heard nothing."""
    world, wire, _leader, (follower, _) = led()
    wire.isolate(follower.id)
    world.run(2.0)
    told = follower.read_indexed([], consistency="local")
    world.run()
    assert told.value.value == 1
    assert told.value.age_seconds == pytest.approx(2.0, abs=2 * HEARTBEAT)
    wire.heal()
    world.run(2.0)
    again = follower.read_indexed([], consistency="local")
    world.run()
    assert again.value.age_seconds <= 2 * HEARTBEAT


def test_a_leader_that_is_cut_off_ages_though_it_does_not_know_it_yet() -> None:
    """R10: its state is current as of its quorum's last answer, not because it leads."""
    world, wire, leader, _ = led()
    wire.isolate(leader.id)
    world.run(0.7 * TIMEOUT)
    assert leader.shell.server.leader_id == leader.id
    told = leader.read_indexed([], consistency="local")
    world.run()
    assert told.value.age_seconds == pytest.approx(0.7 * TIMEOUT, abs=2 * HEARTBEAT)
    assert told.value.age_seconds > HEARTBEAT


def test_a_server_that_never_heard_a_leader_has_no_age() -> None:
    """R10: what it recovered may be of any time."""
    world, wire, _leader, (follower, _) = led()
    wire.isolate(follower.id)
    again = follower.restarted()
    told = again.read_indexed([], consistency="local")
    world.run()
    assert told.value.age_seconds == math.inf


def test_the_age_counts_from_a_word_whose_entries_are_applied() -> None:
    """R10: a server that hears its leader, and has not what the leader has committed, ages."""
    world, wire, leader, (follower, _) = led()

    def entries_to_it(_: str, receiver: str, message: ms.Message) -> bool:
        return (
            receiver == follower.id
            and isinstance(message, ms.AppendEntries)
            and message.prev_log_index >= last
            and bool(message.entries.runs)
        )

    last = leader.shell.server.log.last_index
    wire.drop = entries_to_it
    leader.write(["add", 2])
    world.run(1.0)
    told = follower.read_indexed([], consistency="local")
    world.run()
    assert told.value.value == 1
    assert told.value.age_seconds == pytest.approx(1.0, abs=2 * HEARTBEAT)


def test_a_new_leaders_word_counts_once_an_entry_of_its_term_is_applied() -> None:
    """R1, R10: before, its commit index may lag behind what its predecessor acknowledged."""
    world, wire, leader, (heir, other) = led()
    wire.drop = lambda _s, _r, m: isinstance(m, ms.AppendEntries) and bool(m.entries.runs)
    wire.isolate(leader.id)
    world.run(5.0, lambda: heir.leads or other.leads)
    began = world.seconds()
    world.run(1.0)
    for node in (heir, other):
        told = node.read_indexed([], consistency="local")
        world.run()
        assert told.value.age_seconds > world.seconds() - began


def test_what_was_waiting_in_a_stalled_process_is_not_taken_for_news() -> None:
    """R10: a stopped process finds old heartbeats in its buffers; they are not of this moment."""
    world, _, leader, (follower, _) = led()
    server, replica = follower.shell.server, follower.replica
    currency, now = Currency(), world.seconds()
    beat = [m for to, m in leader.port.sent if to == follower.id][-1]
    told = []
    for at in (now, now + HEARTBEAT, now + 10.0, now + 10.0 + HEARTBEAT):
        currency.heard(leader.id, beat)  # type: ignore[arg-type]
        currency.judge(server, replica, at)
        told.append(currency.age_seconds(server, replica, at))
    assert told == pytest.approx([math.inf, 0.0, 10.0 - HEARTBEAT, 0.0])


def test_only_the_present_leaders_word_counts() -> None:
    """R10: a deposed leader vouches for nothing."""
    world, _, leader, (follower, other) = led()
    server, replica = follower.shell.server, follower.replica
    beat: Any = [m for to, m in leader.port.sent if to == follower.id][-1]
    currency, now = Currency(), world.seconds()
    for sender, message in ((other.id, beat), (leader.id, evolve(beat, term=beat.term - 1))):
        for at in (now, now + HEARTBEAT):
            currency.heard(sender, message)
            currency.judge(server, replica, at)
        assert currency.age_seconds(server, replica, now + HEARTBEAT) == math.inf


def test_a_bounded_read_waits_until_the_state_is_young_enough() -> None:
    """R10."""
    world, wire, _leader, (follower, _) = led()
    wire.isolate(follower.id)
    world.run(2.0)
    told = follower.read([], timeout=9.0, consistency="bounded", max_age_seconds=1.0)
    world.run(1.0)
    assert not told.fired
    wire.heal()
    world.run(3.0, lambda: told.fired)
    assert told.value == 1


def test_a_bounded_read_of_a_state_that_stays_old_times_out() -> None:
    world, wire, _leader, (follower, _) = led()
    wire.isolate(follower.id)
    world.run(2.0)
    told = follower.read([], timeout=0.5, consistency="bounded", max_age_seconds=1.0)
    world.run(1.0)
    assert isinstance(told.value, Timeout)
    assert "max_age" in str(told.value)
    assert not follower.shell.reads.local
    assert follower.shell.reads.waiting_bytes == 0


@pytest.mark.parametrize("consistency", ["linearizable", "local", "bounded"])
def test_min_index_gives_ones_own_writes_on_any_server(consistency: str) -> None:
    """R10, sc-D7: wait while last_applied < min_index; and the index of a write is known."""
    world, _wire, leader, (follower, _) = led()
    written = [Outcome(leader.writes.write(["add", n], 3.0, indexed=True)) for n in range(3)]
    plain = leader.write(["add", 3])
    world.run(0.2, lambda: plain.fired)
    found = [each.value for each in written]
    assert [each.value for each in found] == [[each.index, n] for n, each in enumerate(found)]
    assert plain.value[0] == found[-1].index + 1
    # The follower learns of the commit with the next heartbeat.
    terms = {"max_age_seconds": 5.0} if consistency == "bounded" else {}
    told = follower.read_indexed([], consistency=consistency, min_index=found[-1].index, **terms)
    world.run(1.0, lambda: told.fired)
    assert told.value.index >= found[-1].index
    assert told.value.value >= 4


def test_an_index_that_does_not_come_in_time_is_a_time_out() -> None:
    world, _wire, _leader, (follower, _) = led()
    for consistency in ("local", "linearizable"):
        told = follower.read([], timeout=0.5, consistency=consistency, min_index=10**6)
        world.run(1.0)
        assert isinstance(told.value, Timeout)
    assert follower.shell.reads.waiting_bytes == 0


def test_a_lease_answers_without_a_word_and_a_follower_asks_its_leader() -> None:
    """R9: a leader whose lease is valid asks nobody."""
    world, _wire, leader, (follower, _) = led(options=LEASED)
    before = asked(leader)
    told = leader.read_indexed([], consistency="lease")
    world.run()
    assert told.value == Indexed(1, leader.applied, 0.0)
    assert asked(leader) == before
    before = asked(follower)
    there = follower.read([], consistency="lease")
    world.run(0.2)
    assert there.value == 1
    assert asked(follower) > before


def test_without_a_bound_on_drift_a_lease_read_takes_a_round() -> None:
    """R9: off by default; what is asked for is given all the same."""
    world, _wire, leader, _ = led()
    before = asked(leader)
    told = leader.read([], consistency="lease")
    world.run(0.2)
    assert told.value == 1
    assert asked(leader) > before


def test_a_lease_that_ends_before_the_answer_takes_a_round() -> None:
    """R9: the clock is read immediately before the answer, not when the lease was looked at.

    sc-D4, sc-P4.
    """
    world, wire, leader, (_, _other) = led(options=LEASED)
    slept = [0.0]
    step = leader.shell.server.step

    def then_sleep(*arguments: Any) -> Any:
        outputs = step(*arguments)
        if outputs.confirmed and outputs.confirmed[0].valid_until < math.inf:
            # The process is stopped between the lease and the answer.
            slept[0] = TIMEOUT
        return outputs

    leader.shell.clock = lambda: world.seconds() + slept[0]
    type(leader.shell.server).step, restored = (
        lambda server, *a: (
            then_sleep(*a) if server is leader.shell.server else restored(server, *a)
        ),
        type(leader.shell.server).step,
    )
    try:
        wire.isolate(leader.id)
        told = leader.read([], consistency="lease")
        world.run(0.1)
    finally:
        type(leader.shell.server).step = restored
    assert slept[0]
    # It asked a quorum, and has none.
    assert isinstance(told.value, ElectionInProgress)


def test_terms_that_mean_nothing_are_refused_with_the_remedy() -> None:
    for terms, remedy in [
        ({"consistency": "sloppy"}, "linearizable, lease, local, bounded"),
        ({"min_index": -1}, "0 or more"),
        ({"min_index": True}, "0 or more"),
        ({"min_index": 1 << 63}, "0 or more"),
        ({"consistency": "bounded"}, "both or neither"),
        ({"consistency": "local", "max_age": 1.0}, "both or neither"),
        ({"consistency": "bounded", "max_age": math.nan}, "seconds, 0 or more"),
        ({"consistency": "bounded", "max_age": -1}, "seconds, 0 or more"),
    ]:
        terms = {key.replace("max_age", "max_age_seconds"): value for key, value in terms.items()}
        with pytest.raises(BadCommand, match=remedy):
            ReadTerms(**terms)


def test_many_words_of_a_leader_take_a_bounded_room() -> None:
    """R10: a machine far behind keeps so many notes, and is never called younger than it is."""
    currency = Currency()
    for step in range(3 * NOTES):
        currency._note(10**6 + step, 1, float(step))
    assert len(currency._notes) == NOTES
    assert currency._notes[-1] == (10**6 + 3 * NOTES - 1, 1, 3.0 * NOTES - 1)


@implementer(IPreparingStateMachine)
class Unready(Journal):
    """A journal that needs some turns before it answers `["slow"]`."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 10
        self.worked: list[bool] = []

    def prepare(self, query: Any, may_work: bool) -> bool:
        if query != ["slow"]:
            return True
        self.worked.append(may_work)
        if may_work and self.left:
            self.left -= 1
        return not self.left


@pytest.mark.parametrize("consistency", ["linearizable", "local"])
def test_a_query_that_takes_work_waits_for_it_while_others_are_answered(consistency: str) -> None:
    """R5: it is then answered from the state of that moment, within its time."""
    machine = Unready()
    world, wire, _nodes = cluster(1, machine=machine)
    leader = leader_of(wire)
    world.run(0.2)
    later = world.callLater
    world.callLater = lambda delay, *call, **named: later(  # type: ignore[method-assign]
        max(delay, 0.0005), *call, **named
    )
    slow = [leader.read(["slow"], consistency=consistency) for _ in range(3)]
    world.run(0.03)
    assert not slow[0].fired
    quick = leader.read(None, consistency=consistency)
    world.run(0.02)
    assert quick.fired
    assert not slow[0].fired
    world.run(1.0, lambda: all(each.fired for each in slow))
    assert [each.value for each in slow] == [0, 0, 0]
    # One piece of work in a turn, however many ask.
    assert machine.worked.count(True) == 10 + 2
    machine.left = 1 << 30
    late = leader.read(["slow"], 0.2, consistency=consistency)
    world.run(0.5)
    assert isinstance(late.value, Timeout)
