"""Watchers of whole nodes speak when they should: each is shown something wrong, by hand.

Those that the simulator of cores has as well stand in `test_monitors`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from raft.client import RaftClient
from raft.core.configuration import Configuration, Member
from raft.testing.choices import Choices
from raft.testing.cores.ghost import Violation
from raft.testing.whole.bounds import MARGIN_BYTES, QueueBounds
from raft.testing.whole.host import Host
from raft.testing.whole.operator import Order
from raft.testing.whole.run import Failure, simulate
from raft.testing.whole.swarm import Swarm
from raft.testing.whole.verdict import Verdict, Witness
from raft.testing.whole.world import World
from tests.conftest import LoggedErrors

QUIET = evolve(
    Swarm.draw(1),
    voters=3,
    spares=0,
    change_seconds=0.0,
    troubles=(),
    chaos_seconds=1.0,
    steady_seconds=1.0,
    clients=1,
    burst=3,
)


@pytest.fixture
def _worlds_are_forgotten(logged_errors: LoggedErrors) -> Iterator[None]:
    """A world that was broken off leaves failures that nobody takes any more."""
    yield
    gc.collect()
    logged_errors.flush()


# What a node keeps of its queues.


class Anything:
    """Whatever one asks of it."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def queues(queued_bytes: int = 0, clients: int = 0, peers: int = 0) -> Any:
    """Return what looks like a service with such queues, and room for 5 of each."""
    limits = Anything(queue_bytes=5, connections=5)
    outgoing = [Anything(queued_bytes=queued_bytes)]
    return Anything(
        id="n1",
        network=Anything(_outgoing=outgoing, _incoming=[None] * peers, limits=limits),
        listener=Anything(connection_count=clients, limits=limits),
    )


@pytest.mark.parametrize(
    ("full", "more"),
    [
        ({"queued_bytes": 5 + MARGIN_BYTES}, "queued_bytes"),
        ({"clients": 5}, "clients"),
        ({"peers": 5}, "peers"),
    ],
)
def test_a_queue_beyond_its_bound_is_seen(full: dict[str, int], more: str) -> None:
    """I21: what is full is well, one more is not."""
    verdict = Verdict()
    QueueBounds(verdict).look(queues(**full))
    assert verdict.first is None
    QueueBounds(verdict).look(queues(**{more: full[more] + 1}))
    assert verdict.first is not None
    assert verdict.first.rule == "I21"


# What clients were told.


def carried_out(witness: Witness) -> None:
    witness.executed(1, 7, ["set", "k", 1], None)


@pytest.mark.parametrize(
    ("rule", "then"),
    [
        ("I16", lambda witness: witness.executed(1, 8, ["set", "k", 1], None)),
        ("I7", lambda witness: witness.executed(1, 7, ["set", "k", 1], 1)),
        ("I16", lambda witness: witness.done(1, 1)),
        ("I17", lambda witness: witness.done(2, None)),
        ("I17", lambda witness: witness.deny(1)),
        ("I17", lambda witness: (witness.deny(3), witness.executed(3, 9, [], None))),
        ("U1", lambda witness: witness.behaved(7, 2)),
    ],
)
def test_a_witness_hears_what_contradicts_it(rule: str, then: Callable[[Witness], object]) -> None:
    """I7, I16, I17, U1: and nothing else troubles it."""
    witness = Witness(Verdict())
    witness.behaved(7, 1)
    carried_out(witness)
    carried_out(witness)
    witness.done(1, None)
    with pytest.raises(Violation) as caught:
        then(witness)
    assert caught.value.rule == rule


@pytest.mark.usefixtures("_worlds_are_forgotten")
def test_an_error_that_nobody_handled_ends_a_world() -> None:
    """What Twisted logs as unhandled would pass unseen."""
    world = World(QUIET, Choices.drawing(1))
    with world.running():
        try:
            raise KeyError("lost")
        except KeyError:
            Logger().failure("a callback failed")
    assert world.verdict.first is not None
    assert world.verdict.first.rule == "raised"
    assert "KeyError" in world.verdict.first.reason


@pytest.mark.usefixtures("_worlds_are_forgotten")
def test_a_call_without_an_outcome_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """I22: who waits for ever is found at the end."""
    write: Any = RaftClient.write
    calls = iter(range(1 << 30))

    def forgetful(client: RaftClient, *asked: Any) -> Any:
        return Deferred() if next(calls) == 0 else write(client, *asked)

    monkeypatch.setattr(RaftClient, "write", forgetful)
    with pytest.raises(Failure, match="I22: calls without an outcome"):
        simulate(1, swarm=QUIET)


@pytest.mark.usefixtures("_worlds_are_forgotten")
def test_a_node_that_does_not_stop_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last thing that a world asks of its nodes."""
    stop = Host.stop
    monkeypatch.setattr(Host, "stop", lambda host: None if host.id == "n2" else stop(host))
    with pytest.raises(Failure, match=r"stop: \['n2'\] have not stopped"):
        simulate(1, swarm=QUIET)


@pytest.mark.parametrize(
    ("kind", "ids", "is_met"),
    [
        ("add", ("n1",), True),
        ("add", ("n2",), False),
        ("learn", ("n2",), True),
        ("learn", ("n1",), False),
        ("promote", ("n9",), False),
        ("remove", ("n1",), False),
        ("remove", ("n9",), True),
        ("replace", ("n9", "n1"), True),
        ("replace", ("n1", "n9"), False),
    ],
)
def test_an_order_is_done_when_the_members_are_as_ordered(
    kind: str, ids: tuple[str, ...], is_met: bool
) -> None:
    """I17: of one voter, n1, and one learner, n2."""
    members = Configuration((Member("n1"), Member("n2", voter=False)))
    assert Order(kind, ids, 0.0, 0, "leave").is_met_by(members) is is_met
