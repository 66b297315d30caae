"""`RaftClient` before real nodes in a storm: what it tells is held against what was applied.

The client, its connections, the listener, the desk, the passing on to the leader, the shells
and the sessions are those of a process; the clock, the wires and the disks are the test's.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from attrs import Factory, define

from raft.client import RaftClient, SavedSession
from raft.codec import PLAIN
from raft.errors import NotAppended, NotApplied, OutcomeUnknown, Overloaded, Timeout
from raft.node import forwarding
from raft.numbering import SessionCall
from raft.storage.records import SessionLimits
from raft.transport.arguments import unpack_results
from tests.node.pipes import Network, address_of
from tests.node.world import Node, Outcome, Wire, World, cluster, leader_of

SEEDS = (*range(10), 202, 222, 225)
"""In the last ones a command had got the number, and the result, of one that was given up."""
BLOWS = 220
LIMITS = SessionLimits(timeout_us=6_000_000, sessions=5, results=8, results_bytes=1 << 20)


@define(eq=False)
class Life:
    """What an application has in its journal: where its session was, and what it wrote then."""

    saved: SavedSession | None = None
    tags: list[int] = Factory(list)
    told: list[Outcome] = Factory(list)

    @property
    def is_open(self) -> bool:
        return any(not each.fired for each in self.told)


class Application:
    """Writes numbers, each once; sometimes it dies, and goes on with what it had saved."""

    def __init__(self, name: int, storm: Storm) -> None:
        self.name, self.storm, self.chance = name, storm, storm.chance
        self.life = Life()
        self.outcomes: dict[int, list[Outcome]] = {}
        self.next_tag = name * 1_000_000
        self.client = self.connect()

    def connect(self, session: SavedSession | None = None) -> RaftClient:
        return RaftClient(
            [address_of(id) for id in "abc"],
            reactor=self.storm.world,
            chance=random.Random(self.chance.random()),
            dial=self.storm.network.dial,
            timeout_seconds=3.0,
            session=session,
        )

    def write(self, tag: int, timeout: float) -> None:
        told = Outcome(self.client.write(["add", tag], timeout))
        self.outcomes.setdefault(tag, []).append(told)
        self.life.tags.append(tag)
        self.life.told.append(told)

    def act(self) -> None:
        if not self.life.is_open:
            self.life = Life(self.client.session)
        match self.chance.choices(["write", "die", "cancel", "nothing"], [60, 5, 4, 30])[0]:
            case "write":
                timeout = self.chance.choice([0.3, 2.0, 6.0, 14.0])
                if self.life.tags and self.life.saved is not None:
                    # What is saved is one turn's, so that all of it can be repeated.
                    self.life.saved = None
                for _ in range(self.chance.choice([1, 1, 2, 5, 20])):
                    self.write(self.next_tag, timeout)
                    self.next_tag += 1
            case "die":
                self.die()
            case "cancel":
                if self.life.told:
                    self.chance.choice(self.life.told).deferred.cancel()
                    self.life.saved = None

    def die(self) -> None:
        """Lose the process: nobody hears what its calls come to from here on."""
        life, self.life = self.life, Life()
        for each in life.told:
            if not each.fired:
                each.deferred.addBoth(lambda _: None)
        is_repeated = life.saved is not None and life.is_open
        self.client.close(keep_session=True)
        for told in life.told:
            told.values[:] = [each for each in told.values if isinstance(each, list)]
        self.client = self.connect(life.saved if is_repeated else None)
        if is_repeated:
            for tag in life.tags:
                self.write(tag, 6.0)

    def finish(self) -> None:
        self.client.close()


class Storm:
    """Three nodes, their wires, and the applications' connections."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.settings: dict[str, Any] = {
            "snapshot_entries": self.chance.choice([0, 15, 60]),
            "trailing_entries": self.chance.choice([0, 3]),
        }
        self.world: World
        self.wire: Wire
        self.world, self.wire, nodes = cluster(3, **self.settings)
        self.network = Network(self.world, self.chance)
        self.forwards = seed % 2 == 1
        for node in nodes.values():
            self.network.serve(node, LIMITS, self.forwards)
        self.applications = [Application(name, self) for name in range(1, 5)]

    @property
    def nodes(self) -> list[Node]:
        return [self.wire.nodes[id] for id in sorted(self.wire.nodes)]

    def blow(self) -> None:
        chance = self.chance
        node = chance.choice(self.nodes)
        leaders = [each for each in self.nodes if each.leads]
        if leaders and chance.random() < 0.7:
            node = chance.choice(leaders)
        pipe = chance.choice(self.network.pipes) if self.network.pipes else None
        what = [
            "isolate",
            "heal",
            "crash",
            "hang",
            "sync",
            "take",
            "break",
            "stall",
            "flow",
            "away",
        ]
        match chance.choices([*what, "nothing"], [2, 5, 1, 2, 8, 2, 5, 2, 6, 1, 60])[0]:
            case "isolate":
                self.wire.isolate(node.id)
            case "heal":
                self.wire.heal()
            case "crash":
                again = node.restarted(**self.settings)
                again.storage.automatic = True
                again.storage.complete()
                self.network.serve(again, LIMITS, self.forwards)
            case "hang":
                node.storage.automatic = False
            case "sync":
                self.sync()
            case "take":
                node.shell.snapshots.take().addErrback(lambda _: 0)
            case "break" if pipe:
                pipe.break_off(has_strays=chance.random() < 0.7)
            case "stall" if pipe:
                pipe.stall(True)
            case "flow":
                self.network.calm()
            case "away":
                self.world.run(chance.choice([2.0, 7.0]))
        self.world.run(chance.choice([0.0, 0.0, 0.01, 0.03, 0.2]))

    def sync(self) -> None:
        for each in self.nodes:
            each.storage.automatic = True
            each.storage.complete()

    def end(self) -> None:
        """Let all calm down, and every call come to its end."""
        self.wire.heal()
        self.sync()
        self.network.calm()
        self.world.run(1.0)
        leader_of(self.wire, seconds=10.0)
        calls = [told for each in self.applications for told in each.life.told]
        self.world.run(20.0, lambda: all(told.fired for told in calls))
        for each in self.applications:
            each.finish()
        self.world.run(6.0)


def storm_of(seed: int, monkeypatch: Any) -> Storm:
    storm = Storm(seed)
    monkeypatch.setattr(
        forwarding, "dial", lambda _, address, seconds: storm.network.dial(address, seconds)
    )
    for _ in range(BLOWS):
        for application in storm.applications:
            if storm.chance.random() < 0.5:
                application.act()
        storm.blow()
    storm.end()
    return storm


def is_definite(value: Any) -> bool:
    return isinstance(value, NotApplied) or (isinstance(value, Timeout) and not value.appended)


def check(storm: Storm) -> Counter[str]:
    """Hold every outcome against the journal; return how often there was which."""
    journal = storm.nodes[0].machine.applied
    times = Counter(command[1] for command in journal)
    seen: Counter[str] = Counter()
    assert max(times.values()) == 1, "a command was applied twice"
    for application in storm.applications:
        own = [tag for tag in times if application.name == tag // 1_000_000]
        assert own == sorted(own), "applied out of order"
        for tag, outcomes in application.outcomes.items():
            for told in outcomes:
                for value in told.values:
                    if isinstance(value, list):
                        assert value[1] == tag, "a result was given to another caller"
                        assert times[tag] == 1, "an acknowledged write is lost"
                        seen["applied"] += 1
                    elif is_definite(value):
                        assert not times[tag], f"{tag}: {value!r}, but it was applied"
                        seen["not"] += 1
                    else:
                        assert isinstance(value, OutcomeUnknown | Timeout), value
                        seen[type(value).__name__] += 1
    return seen


@pytest.mark.parametrize("seed", SEEDS)
def test_what_clients_were_told_is_what_was_applied(seed: int, monkeypatch: Any) -> None:
    """S2, S7, S9: an acknowledged write counts once, a definite refusal never, the rest at most so.

    Connections break and stall, leaders fall, disks hang, sessions expire and make room, and
    applications die and repeat what they had saved.
    """
    storm = storm_of(seed, monkeypatch)
    nodes = storm.nodes
    assert [node.failures for node in nodes] == [[], [], []]
    assert all(node.machine.applied == nodes[0].machine.applied for node in nodes)
    assert len({node.replica.digest for node in nodes}) == 1
    check(storm)
    assert all(not node.shell.sequences.lines for node in nodes)


def test_the_storm_is_one(monkeypatch: Any) -> None:
    """The test above would pass where nothing ever went wrong."""
    seen: Counter[str] = Counter()
    for seed in (1, 2):
        seen += check(storm_of(seed, monkeypatch))
    assert seen["applied"] > 300
    assert seen["not"] > 5
    assert seen["OutcomeUnknown"] + seen["Timeout"] > 20


def test_behind_a_part_that_found_no_room_no_part_of_the_box_goes() -> None:
    """S9: it would only wait for its turn, and hold the answer up."""
    world, wire, _ = cluster(3, queued_bytes=1_500_000)
    leader = leader_of(wire)
    network = Network(world, random.Random(1))
    network.serve(leader, LIMITS, False)
    desk = network.served[leader.id].desk
    opened = Outcome(desk.open_session(bytes(8), 3.0))
    world.run(1.0, lambda: opened.fired)
    leader.write(["add", "x" * 600_000])
    commands = [PLAIN.encode(["add", "y" * size]) for size in (1_000_000, 500_000)]
    answers: list[Any] = []
    desk.write_batch(commands, 3.0, answers.append, session=SessionCall(opened.value.id, 1, 1))
    (packed,) = answers
    assert [type(each) for each in unpack_results(packed)] == [Overloaded, NotAppended]
    assert leader.shell.sequences.lines == {}


def test_what_was_passed_on_over_a_link_that_breaks_is_unknown(monkeypatch: Any) -> None:
    """S7: the leader may have it. Before it was passed on it is definitely not applied."""
    world, wire, _ = cluster(3)
    leader = leader_of(wire)
    network = Network(world, random.Random(1))
    monkeypatch.setattr(forwarding, "dial", lambda _, *given: network.dial(*given))
    for node in wire.nodes.values():
        network.serve(node, LIMITS, True)
    follower = next(each for each in network.served.values() if each.id != leader.id)
    world.run(1.0, lambda: follower.forwards)
    opened = Outcome(follower.open_session(3.0))
    world.run(1.0, lambda: opened.fired)
    (pipe,) = network.pipes
    answers: list[Any] = []

    def pass_on(number: int) -> None:
        call = SessionCall(opened.value.id, number, number)
        follower.desk.write_batch(
            [PLAIN.encode(["add", number])], 3.0, answers.append, session=call
        )

    pipe.stall(True)
    pass_on(1)
    world.run(0.1)
    pipe.break_off()
    assert [type(each) for each in answers] == [NotAppended]
    pass_on(2)
    world.run(0.1)
    assert len(answers) == 2
    for other in wire.nodes.values():
        other.storage.automatic = False
    pass_on(3)
    world.run(0.2)
    network.pipes[-1].break_off()
    assert [type(each) for each in answers[2:]] == [OutcomeUnknown]
