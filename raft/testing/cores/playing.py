"""Plays a list of acts: no chance, no timers, and nothing but what the list says.

What a node sends waits until an act lets somebody hear it; what it writes, until an act makes it
durable; its clock rings when an act says so. An act that has become impossible, because what it
builds on is not in the list, is passed over: any part of a list can be played. Where `heals` is
the last act, the world goes on by itself from there, as after the chaos of a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

from attrs import Factory, define

from raft.core.configuration import Member
from raft.core.messages import Message
from raft.core.outputs import Outputs, Role
from raft.core.server import Server
from raft.testing.cores.acts import Act, Scenario
from raft.testing.cores.clock import Dice
from raft.testing.cores.faults import NOBODY, Faults
from raft.testing.cores.model_node import ModelNode
from raft.testing.cores.network import Network
from raft.testing.cores.recording import CONTINUATIONS
from raft.testing.cores.session_clients import SessionClient, SessionClients
from raft.testing.cores.simulator import Failure, Simulation
from raft.testing.cores.timeline import Action, Timeline
from raft.testing.cores.workload import Workload

REST = Act(0, 0.0, "world", "heals")
MOST_SYNCS = 100


@define(eq=False)
class Stage(Timeline):
    """A timeline on which nothing comes due, until the world is left to itself."""

    act: Act = REST
    is_live: bool = False
    rolled: int = 0
    """How many dice the present act has shown."""
    pending: dict[tuple[Any, ...], tuple[Action, tuple[object, ...]]] = Factory(dict)
    """What was begun and may go on, by (act, label, place)."""
    sent: dict[tuple[Any, ...], tuple[str, Message, object]] = Factory(dict)
    """(sender, message, attachment) by (receiver, act, type, place)."""
    _counts: dict[tuple[object, ...], int] = Factory(dict)

    def at(self, moment: float, action: Action, *args: object) -> None:
        """Forget timers; keep what an act may continue."""
        if self.is_live:
            super().at(moment, action, *args)
            return
        label = CONTINUATIONS.get(action.__name__)
        if label is not None:
            number = self.act.number
            self.pending[number, label, self._count_of(number, label)] = (action, args)

    def after(self, delay_seconds: float, action: Action, *args: object) -> None:
        """Forget timers; keep what an act may continue."""
        self.at(self.now + delay_seconds, action, *args)

    def leaves(self, sender: str, receiver: str, message: Message, attachment: object) -> None:
        """Keep what was sent until somebody hears it."""
        kind, number = type(message).__name__, self.act.number
        key = (receiver, number, kind, self._count_of(number, receiver, kind))
        self.sent[key] = (sender, message, attachment)

    def forget(self, node: str) -> None:
        """Lose all that `node` has sent, and what was sent to it."""
        gone = [key for key, packet in self.sent.items() if node in (key[0], packet[0])]
        for key in gone:
            del self.sent[key]

    def _count_of(self, *key: object) -> int:
        self._counts[key] = self._counts.get(key, 0) + 1
        return self._counts[key] - 1


class PlayedDice(Dice):
    """Dice that show what the act says, and the least where it says nothing."""

    def __init__(self, seed: str, stage: Stage) -> None:
        """Begin; `seed` is for when the world is left to itself."""
        super().__init__(seed)
        self._stage = stage

    def random(self) -> float:
        """Return a number in [0, 1)."""
        if self._stage.is_live:
            return super().random()
        shown: list[float] = self._stage.act.notes.get("dice", [])
        self._stage.rolled += 1
        return shown[self._stage.rolled - 1] if self._stage.rolled <= len(shown) else 0.0


class PlayedNode(ModelNode):
    """A node to which only acts happen."""

    def __attrs_post_init__(self) -> None:
        """Begin with a clock that is right."""
        super().__attrs_post_init__()
        self.clock.rate = 1.0

    @property
    def stage(self) -> Stage:
        """Where it is played."""
        return cast(Stage, self.timeline)

    def start(self) -> None:
        """Start."""
        if not self.stage.is_live:
            self.clock.rate = self.stage.act.notes.get("rate", self.clock.rate)
        super().start()

    def _finds_damage(self) -> bool:
        return bool(self.stage.act.notes.get("damaged"))

    def _reading(self) -> float:
        return float(self.stage.act.notes.get("reading", 0.0))

    def _new_dice(self) -> Dice:
        return PlayedDice(f"{self.swarm.seed}/{self.id}/{self.epoch}", self.stage)

    def _kept(self) -> int:
        return min(int(self.stage.act.notes.get("kept", 0)), len(self.disk.queue))

    def goes_on(self) -> None:
        """Do by itself, from now on, what waits to be done."""
        self.clock.rearm()
        if self._inbox and not self.is_paused:
            self.timeline.after(0.0, self._turn, self.epoch)
        if self.disk.queue:
            self._schedule_sync()


class PlayedNetwork(Network):
    """A network that keeps what was sent."""

    def send(self, sender: str, receiver: str, message: Message, attachment: object) -> None:
        """Keep it until somebody hears it."""
        stage = cast(Stage, self.timeline)
        if stage.is_live:
            super().send(sender, receiver, message, attachment)
        else:
            stage.leaves(sender, receiver, message, attachment)

    def forget(self, node: str) -> None:
        """Lose what is on its way from or to `node`."""
        cast(Stage, self.timeline).forget(node)
        super().forget(node)


class PlayedFaults(Faults):
    """Nothing befalls anybody but what the acts say."""

    def before_send(self, node: ModelNode, outputs: Outputs) -> str | None:
        """Let the power fail within a step, where the act says so."""
        if node.role is not Role.LEADER or not outputs.send:
            return None
        self.armed = False
        node.crash()
        return NOBODY


class PlayedClients(SessionClients):
    """Clients with sessions, without chance."""

    def _late_seconds(self) -> float:
        return float(cast(Stage, self.workload.timeline).act.notes.get("late", 0.0))


class PlayedWorkload(Workload):
    """Clients who ask whom the act names."""

    clients_class: ClassVar[type[SessionClients]] = PlayedClients

    def somebody(self) -> ModelNode | None:
        """Return whom the act names, if it is up."""
        stage = cast(Stage, self.timeline)
        if stage.is_live:
            return super().somebody()
        found = self.nodes.get(stage.act.notes.get("at") or "")
        return found if found is not None and found.up else None


@define(eq=False)
class Player(Simulation):
    """A scenario, played once."""

    network_class: ClassVar[type[Network]] = PlayedNetwork
    faults_class: ClassVar[type[Faults]] = PlayedFaults
    workload_class: ClassVar[type[Workload]] = PlayedWorkload
    node_class: ClassVar[type[ModelNode]] = PlayedNode
    timeline: Timeline = Factory(Stage)
    scenario: Scenario | None = None
    performed: list[Act] = Factory(list)
    """The acts that were possible, the one that broke a rule included."""

    @property
    def stage(self) -> Stage:
        """The timeline, as it is."""
        return cast(Stage, self.timeline)

    def _play(self) -> None:
        if self.scenario is None:
            return
        stage, acts = self.stage, self.scenario.acts
        self.workload.clients._active = True
        first = {act.actor: act.verb for act in reversed(acts)}
        for node in self.nodes.values():
            if first.get(node.id) != "starts":
                node.start()
                node.sync(len(node.disk.queue))
        for act in acts:
            stage.act = act
            stage.rolled = 0
            stage.now = max(stage.now, act.moment)
            self.performed.append(act)
            self.faults.armed = "kept" in act.notes and act.verb not in ("crashes", "loses")
            if _DEEDS[act.verb](self, act):
                self._fold(act)
            else:
                self.performed.pop()
        if acts and acts[-1].verb == "heals":
            stage.is_live = True
            self._go_on()
            self._recover()
        self.monitors.check_all()

    def _fold(self, act: Act) -> None:
        """Do at once what would be acts of their own: a turn, and what makes writes durable."""
        node = self.nodes.get(act.actor)
        if node is None or not node.up or not act.notes:
            return
        if act.notes.get("turns") and node._inbox and not node.is_paused:
            node._turn(node.epoch)
        syncs = MOST_SYNCS if act.notes.get("syncs") else 0
        while syncs and node.up and node.disk.queue:
            syncs -= 1
            node.sync(len(node.disk.queue))

    def _go_on(self) -> None:
        self.stage.now += 1e-9
        for action, args in self.stage.pending.values():
            self.timeline.after(0.0, action, *args)
        for node in self.nodes.values():
            if node.up:
                cast(PlayedNode, node).goes_on()

    # Deeds: each tells whether it was possible.

    def _starts(self, act: Act) -> bool:
        node = self.nodes.get(act.actor)
        if node is None or node.up:
            return False
        node.start()
        return True

    def _to_node(self, act: Act) -> bool:
        """Let an act befall a node that is up."""
        node = self.nodes.get(act.actor)
        return node is not None and node.up and _BEFALLS[act.verb](self, node, act)

    def _loses(self, act: Act) -> bool:
        node, kind = self.nodes.get(act.actor), str(act.args[0])
        if node is None or node not in self.faults.wipes.possible(kind):
            return False
        self.faults.wipes.wipe(kind, node)
        return True

    def _continues(self, act: Act) -> bool:
        found = self.stage.pending.pop(act.args, None)
        if found is None:
            return False
        found[0](*found[1])
        return True

    def _heals(self, act: Act) -> bool:
        return True

    def _of_client(self, act: Act) -> bool:
        """Let a client with a session do something."""
        clients = self.workload.clients
        named = {f"c{place}": client for place, client in enumerate(clients.clients)}
        client = named.get(act.actor)
        if client is None:
            return False
        if (act.verb == "registers") is bool(client.session):
            return False
        return _CLIENTS[act.verb](clients, client, act)

    # What befalls a node that is up.

    def _crashes(self, node: ModelNode, _: Act) -> bool:
        node.crash()
        return True

    def _pauses(self, node: ModelNode, _: Act) -> bool:
        node.pause(0.0)
        return True

    def _resumes(self, node: ModelNode, _: Act) -> bool:
        if node.is_paused:
            node._resume(node.epoch)
            return True
        return False

    def _drifts(self, node: ModelNode, act: Act) -> bool:
        node.drift(float(cast(float, act.args[0])))
        return True

    def _hears(self, node: ModelNode, act: Act) -> bool:
        sender, number, kind, place = (*act.args, 0)[:4]
        packet = self.stage.sent.get((node.id, number, kind, place))
        if packet is None or packet[0] != sender:
            return False
        node.receive(*packet)
        return True

    def _misses(self, node: ModelNode, act: Act) -> bool:
        node.unreachable(str(act.args[0]))
        return True

    def _turns(self, node: ModelNode, _: Act) -> bool:
        if not (node._inbox or node._turn_due) or node.is_paused:
            return False
        node._turn(node.epoch)
        return True

    def _rings(self, node: ModelNode, _: Act) -> bool:
        clock = node.clock
        if node.is_paused or clock.deadline == float("inf"):
            return False
        self.stage.now = max(self.stage.now, clock.due_at)
        clock.ring_now()
        return True

    def _syncs(self, node: ModelNode, act: Act) -> bool:
        queued = len(node.disk.queue)
        if not queued:
            return False
        node.sync(min(int(cast(int, act.args[0])), queued))
        return True

    def _writes(self, node: ModelNode, act: Act) -> bool:
        self.workload.write(node, *(int(cast(int, each)) for each in act.args))
        return True

    def _reads(self, node: ModelNode, act: Act) -> bool:
        self.workload.read(node, lease=bool(act.args))
        return True

    def _pins(self, node: ModelNode, act: Act) -> bool:
        told = [str(each).partition("=") for each in act.args]
        true = {other.id: other.incarnation for other in self.nodes.values()}
        known = tuple((id, name) for id, _, name in told if true.get(id) == name)
        if known:
            self.workload.pin(node, known)
        return bool(known)

    def _changes(self, node: ModelNode, act: Act) -> bool:
        named, expected, force = act.args
        members = tuple(map(_member, str(named).split(",")))
        if not self.changes.allows(node, members):
            return False
        index = None if expected is None else int(cast(int, expected))
        self.workload.change(node, members, index, force=bool(force))
        return True

    def _hands_over(self, node: ModelNode, act: Act) -> bool:
        target = act.args[0]
        self.workload.transfer(node, None if target is None else str(target))
        return True


def _registers(clients: SessionClients, client: SessionClient, act: Act) -> bool:
    clients.register(client, bytes.fromhex(str(act.args[0])[1:]))
    return True


def _sends(clients: SessionClients, client: SessionClient, act: Act) -> bool:
    clients.send(client, [bool(each) for each in act.args])
    return True


def _repeats(clients: SessionClients, client: SessionClient, act: Act) -> bool:
    sequence = int(cast(int, act.args[0]))
    if sequence in client.waiting:
        clients.send_again(client, sequence)
    return sequence in client.waiting


def _cancels(clients: SessionClients, client: SessionClient, act: Act) -> bool:
    sequence = int(cast(int, act.args[0]))
    if sequence not in client.waiting:
        return False
    clients.cancel(client, sequence)
    return True


def _keeps_alive(clients: SessionClients, client: SessionClient, _: Act) -> bool:
    clients.keep_alive(client)
    return True


def _closes(clients: SessionClients, client: SessionClient, _: Act) -> bool:
    clients.close(client)
    return True


def _member(named: str) -> Member:
    """Read a member as a change names it: `n1`, a learner `n1~`, with an incarnation `n1@n1/2`."""
    id, _, incarnation = named.removesuffix("~").partition("@")
    return Member(id, incarnation, voter=not named.endswith("~"))


_CLIENTS: dict[str, Callable[[SessionClients, SessionClient, Act], bool]] = {
    "registers": _registers,
    "sends": _sends,
    "repeats": _repeats,
    "cancels": _cancels,
    "keeps-alive": _keeps_alive,
    "closes": _closes,
}

_BEFALLS: dict[str, Callable[[Player, ModelNode, Act], bool]] = {
    verb: getattr(Player, f"_{verb.replace('-', '_')}")
    for verb in (
        *("crashes", "pauses", "resumes", "drifts", "hears", "misses", "turns", "rings"),
        *("syncs", "writes", "reads", "pins", "changes", "hands-over"),
    )
}

_DEEDS: dict[str, Callable[[Player, Act], bool]] = {
    "starts": Player._starts,
    "loses": Player._loses,
    "continues": Player._continues,
    "heals": Player._heals,
    **dict.fromkeys(_CLIENTS, Player._of_client),
    **dict.fromkeys(_BEFALLS, Player._to_node),
}


def play(scenario: Scenario | str, server_class: type[Server] = Server) -> Player:
    """Play a scenario to its end; raise `Failure` where a promise is broken.

    Args:
        scenario: The acts, or their lines.
        server_class: The core under test.
    """
    if isinstance(scenario, str):
        scenario = Scenario.parse(scenario)
    player = Player(scenario.world, server_class, scenario=scenario)
    player.replay = "python -m raft.testing.cores.simulator --choices FILE --transcript 40"
    player.run()
    return player


def failure_of(
    scenario: Scenario, server_class: type[Server] = Server
) -> tuple[Failure | None, list[Act]]:
    """Play a scenario; return how it failed, if it did, and the acts that were possible."""
    player = Player(scenario.world, server_class, scenario=scenario)
    try:
        player.run()
    except Failure as failure:
        return failure, player.performed
    return None, player.performed
