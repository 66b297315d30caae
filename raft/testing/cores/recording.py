"""Writes a run down as it happens: each act, with what chance decided within it.

The parts of the simulator are as they are; their children here note what the outside does to them
before it is done. What nodes do of themselves is no act, so an act within another is not written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

from attrs import Factory, define

from raft.core.configuration import Member
from raft.core.messages import Message
from raft.core.server import Server
from raft.testing.choices import Json
from raft.testing.cores.acts import Act, Scenario
from raft.testing.cores.clock import Dice
from raft.testing.cores.faults import Faults
from raft.testing.cores.model_node import ModelNode
from raft.testing.cores.network import Network
from raft.testing.cores.session_clients import SessionClient, SessionClients
from raft.testing.cores.simulator import Failure, Simulation
from raft.testing.cores.swarm import Swarm
from raft.testing.cores.timeline import Action, Timeline
from raft.testing.cores.wipes import Wipes
from raft.testing.cores.workload import Workload

CONTINUATIONS = {
    "_save": "snapshot",
    "_send_last": "chunk",
    "_give_up": "patience",
    "_ask_late": "copy",
}
"""What was begun in one act and goes on in another, by the name of the method and of the act."""


@define(eq=False)
class Recorder(Timeline):
    """A timeline that keeps the list of acts."""

    acts: list[Act] = Factory(list)
    current: Act | None = None
    _left: dict[tuple[int, str], tuple[Message, tuple[int, str, int]]] = Factory(dict)
    """Each message by its identity and receiver, with (act, type, place) by which it is named."""
    _counts: dict[tuple[object, ...], int] = Factory(dict)

    @contextmanager
    def act(self, actor: str, verb: str, *args: Json) -> Iterator[None]:
        """Write an act down and be in it; within another act, write nothing."""
        if self.current is not None:
            yield
            return
        self.current = Act(len(self.acts) + 1, self.now, actor, verb, args)
        self.acts.append(self.current)
        try:
            yield
        finally:
            self.current = None

    def note(self, name: str, value: Json) -> None:
        """Write down what chance decided in the present act."""
        if self.current is not None:
            self.current.notes[name] = value

    def rolled(self, value: float) -> None:
        """Write down what a server's dice showed."""
        if self.current is not None:
            self.current.notes.setdefault("dice", []).append(value)

    def leaves(self, receiver: str, message: Message) -> None:
        """Name a message that leaves in the present act."""
        if self.current is None:
            return
        kind = type(message).__name__
        place = self.count(self.current.number, receiver, kind)
        self._left[id(message), receiver] = (message, (self.current.number, kind, place))

    def named(self, receiver: str, message: Message) -> tuple[int, str, int] | None:
        """Return the act, type and place by which a message is named, if it has left in an act."""
        found = self._left.get((id(message), receiver))
        return found[1] if found is not None and found[0] is message else None

    def count(self, *key: object) -> int:
        """Return how often that key was counted before."""
        self._counts[key] = self._counts.get(key, 0) + 1
        return self._counts[key] - 1

    def at(self, moment: float, action: Action, *args: object) -> None:
        """Call `action` at `moment`; what is a continuation is an act then."""
        super().at(moment, *self._continued(action, args))

    def after(self, delay_seconds: float, action: Action, *args: object) -> None:
        """Call `action` once `delay_seconds` have passed; what is a continuation is an act then."""
        super().after(delay_seconds, *self._continued(action, args))

    def _continued(self, action: Action, args: tuple[object, ...]) -> tuple[Any, ...]:
        label = CONTINUATIONS.get(action.__name__)
        if label is None or self.current is None:
            return (action, *args)
        number = self.current.number
        name = (number, label, self.count(number, label))
        owner = getattr(action, "__self__", None)
        actor = getattr(getattr(owner, "node", None), "id", "clients")
        return (self._continue, actor, name, action, args)

    def _continue(
        self, actor: str, name: tuple[int, str, int], action: Action, args: tuple[object, ...]
    ) -> None:
        with self.act(actor, "continues", *name):
            action(*args)


class RecordedDice(Dice):
    """Dice whose numbers are written down."""

    def __init__(self, seed: float, recorder: Recorder) -> None:
        """Begin with `seed`."""
        super().__init__(seed)
        self._recorder = recorder

    def random(self) -> float:
        """Return a number in [0, spread)."""
        found = super().random()
        self._recorder.rolled(found)
        return found


class RecordedNode(ModelNode):
    """A node whose life is written down."""

    @property
    def recorder(self) -> Recorder:
        """Where."""
        return cast(Recorder, self.timeline)

    def start(self) -> None:
        """Start."""
        with self.recorder.act(self.id, "starts"):
            if self.clock.rate != 1.0:
                self.recorder.note("rate", self.clock.rate)
            super().start()

    def crash(self) -> None:
        """Lose power; within a step, before its messages leave."""
        with self.recorder.act(self.id, "crashes"):
            super().crash()

    def _kept(self) -> int:
        kept = super()._kept()
        self.recorder.note("kept", kept)
        return kept

    def _reading(self) -> float:
        reading = super()._reading()
        self.recorder.note("reading", reading)
        return reading

    def _finds_damage(self) -> bool:
        found = super()._finds_damage()
        if found:
            self.recorder.note("damaged", found)
        return found

    def _new_dice(self) -> Dice:
        return RecordedDice(self.rng.random(), self.recorder)

    def drift(self, rate: float) -> None:
        """Let the clock run otherwise."""
        with self.recorder.act(self.id, "drifts", rate):
            super().drift(rate)

    def pause(self, seconds: float) -> None:
        """Stand still."""
        with self.recorder.act(self.id, "pauses"):
            super().pause(seconds)

    def _resume(self, epoch: int) -> None:
        if epoch == self.epoch and self.is_paused:
            with self.recorder.act(self.id, "resumes"):
                super()._resume(epoch)

    def _turn(self, epoch: int) -> None:
        if epoch == self.epoch and not self.is_paused:
            with self.recorder.act(self.id, "turns"):
                super()._turn(epoch)

    def _ring(self) -> None:
        if not self.is_paused:
            with self.recorder.act(self.id, "rings"):
                super()._ring()

    def sync(self, count: int) -> None:
        """Become durable."""
        with self.recorder.act(self.id, "syncs", count):
            super().sync(count)

    def receive(self, sender: str, message: Message, attachment: object) -> None:
        """Hear a message."""
        name = self.recorder.named(self.id, message)
        if not self.up or name is None:
            super().receive(sender, message, attachment)
            return
        number, kind, place = name
        with self.recorder.act(
            self.id, "hears", sender, number, kind, *((place,) if place else ())
        ):
            super().receive(sender, message, attachment)

    def unreachable(self, peer: str) -> None:
        """Hear that a connection broke."""
        if self.up:
            with self.recorder.act(self.id, "misses", peer):
                super().unreachable(peer)


class RecordedNetwork(Network):
    """A network that names what leaves."""

    def send(self, sender: str, receiver: str, message: Message, attachment: object) -> None:
        """Send a message."""
        cast(Recorder, self.timeline).leaves(receiver, message)
        super().send(sender, receiver, message, attachment)


class RecordedWipes(Wipes):
    """Losses of directories, written down."""

    def wipe(self, kind: str, node: ModelNode) -> None:
        """Take the directory away."""
        with cast(RecordedNode, node).recorder.act(node.id, "loses", kind):
            super().wipe(kind, node)


class RecordedFaults(Faults):
    """Faults: those of links show in what is not heard."""

    wipes_class: ClassVar[type[Wipes]] = RecordedWipes


class RecordedClients(SessionClients):
    """Clients with sessions, written down by their places."""

    @property
    def recorder(self) -> Recorder:
        """Where."""
        return cast(Recorder, self.workload.timeline)

    def _name(self, client: SessionClient) -> str:
        return f"c{self.clients.index(client)}"

    def register(self, client: SessionClient, nonce: bytes) -> None:
        """Ask for a session."""
        with self.recorder.act(self._name(client), "registers", f"x{nonce.hex()}"):
            super().register(client, nonce)

    def keep_alive(self, client: SessionClient) -> None:
        """Keep the session."""
        with self.recorder.act(self._name(client), "keeps-alive"):
            super().keep_alive(client)

    def close(self, client: SessionClient) -> None:
        """Close the session."""
        with self.recorder.act(self._name(client), "closes"):
            super().close(client)

    def cancel(self, client: SessionClient, sequence: int) -> None:
        """Wait no more."""
        with self.recorder.act(self._name(client), "cancels", sequence):
            super().cancel(client, sequence)

    def send(self, client: SessionClient, refused: Any) -> None:
        """Send new commands."""
        with self.recorder.act(self._name(client), "sends", *(bool(each) for each in refused)):
            super().send(client, refused)

    def send_again(self, client: SessionClient, sequence: int) -> None:
        """Send a copy."""
        with self.recorder.act(self._name(client), "repeats", sequence):
            super().send_again(client, sequence)

    def _late_seconds(self) -> float:
        late_seconds = super()._late_seconds()
        if late_seconds:
            self.recorder.note("late", late_seconds)
        return late_seconds


class RecordedWorkload(Workload):
    """Clients without sessions, and operators."""

    clients_class: ClassVar[type[SessionClients]] = RecordedClients

    @property
    def recorder(self) -> Recorder:
        """Where."""
        return cast(Recorder, self.timeline)

    def somebody(self) -> ModelNode | None:
        """Return a node that is up; it is noted whom a client with a session asked."""
        found = super().somebody()
        self.recorder.note("at", found.id if found else None)
        return found

    def pin(self, node: ModelNode, incarnations: tuple[tuple[str, str], ...]) -> None:
        """Let `node` hear of incarnations."""
        told: list[Json] = [f"{id}={incarnation}" for id, incarnation in incarnations]
        with self.recorder.act(node.id, "pins", *told):
            super().pin(node, incarnations)

    def transfer(self, node: ModelNode, target: str | None) -> None:
        """Ask for a transfer."""
        with self.recorder.act(node.id, "hands-over", target):
            super().transfer(node, target)

    def write(self, node: ModelNode, count: int = 1, size_bytes: int = 0) -> int:
        """Ask for a write."""
        size_bytes = size_bytes or self._rng.randint(40, 120)
        with self.recorder.act(node.id, "writes", count, size_bytes):
            return super().write(node, count, size_bytes)

    def read(self, node: ModelNode, *, lease: bool | None = None) -> int:
        """Ask for a read."""
        if lease is None:
            share = self.swarm.lease_share
            lease = bool(share) and self._lease_rng.random() < share
        with self.recorder.act(node.id, "reads", *(("lease",) if lease else ())):
            return super().read(node, lease=lease)

    def change(
        self,
        node: ModelNode,
        members: tuple[Member, ...],
        expected_index: int | None = None,
        *,
        force: bool = False,
    ) -> int:
        """Ask for a change of the members."""
        named = ",".join(_member(each) for each in members)
        with self.recorder.act(node.id, "changes", named, expected_index, force):
            return super().change(node, members, expected_index, force=force)


def _member(member: Member) -> str:
    incarnation = f"@{member.incarnation}" if member.incarnation else ""
    return f"{member.id}{incarnation}{'' if member.voter else '~'}"


@define(eq=False)
class RecordedSimulation(Simulation):
    """A run that is written down."""

    network_class: ClassVar[type[Network]] = RecordedNetwork
    faults_class: ClassVar[type[Faults]] = RecordedFaults
    workload_class: ClassVar[type[Workload]] = RecordedWorkload
    node_class: ClassVar[type[ModelNode]] = RecordedNode
    timeline: Timeline = Factory(Recorder)

    @property
    def scenario(self) -> Scenario:
        """What was written down so far."""
        return Scenario(self.swarm, tuple(cast(Recorder, self.timeline).acts))

    def _heal(self) -> None:
        # An act of its own, within which nothing else is one: it marks where the trouble ends.
        with cast(Recorder, self.timeline).act("world", "heals"):
            pass
        super()._heal()


def record(
    seed: int, server_class: type[Server] = Server, swarm: Swarm | None = None
) -> tuple[Scenario, Failure | None]:
    """Run a seed; return it in acts, and how it failed, if it did."""
    simulation = RecordedSimulation(swarm or Swarm.draw(seed), server_class)
    failure = None
    try:
        simulation.run()
    except Failure as caught:
        failure = caught
    return simulation.scenario, failure
