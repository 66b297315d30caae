"""A model network: it loses, delays, reorders, duplicates, replays and cuts."""

from __future__ import annotations

import random
from collections import deque
from typing import Protocol

from attrs import Factory, define, field

from raft.core.messages import Message, RequestVoteResult
from raft.testing.cores.swarm import Swarm
from raft.testing.cores.timeline import Timeline

Link = tuple[str, str]
Packet = tuple[str, str, Message, object]
"""(sender, receiver, message, what travels beside it: entries or a snapshot)."""

MUSEUM_SIZE = 40
HEALED_DELAY_SECONDS = (0.0005, 0.003)


class Listener(Protocol):
    """A node, as the network sees it."""

    def receive(self, sender: str, message: Message, attachment: object) -> None:
        """Take in a message."""

    def unreachable(self, peer: str) -> None:
        """Hear that what was last sent to `peer` may be lost."""


@define(eq=False)
class Network:
    """Directed links between nodes, with the swarm's loss, delays and duplicates."""

    swarm: Swarm
    timeline: Timeline
    listeners: dict[str, Listener] = Factory(dict)
    cut: set[Link] = Factory(set)
    """Links over which nothing passes, in this direction."""
    slow: dict[Link, float] = Factory(dict)
    """How much longer (seconds) what is sent over a link takes, for links that are slow."""
    delivered: int = 0
    dropped: int = 0
    _rng: random.Random = field(init=False)
    _resets: dict[Link, int] = Factory(dict)
    """How often the connection of a link was reset: what was on its way then is lost."""
    _last_arrival: dict[Link, float] = Factory(dict)
    _museum: deque[Packet] = field(factory=lambda: deque(maxlen=MUSEUM_SIZE))
    """Old messages, which may come back."""
    _votes: deque[Packet] = field(factory=lambda: deque(maxlen=MUSEUM_SIZE))
    """Old votes: few among all messages, and the most harmful when they come back."""
    _loss: float = field(init=False)
    _duplicate: float = field(init=False)
    _delay: tuple[float, float] = field(init=False)
    _in_order: bool = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Start with the swarm's troubles."""
        self._rng = random.Random(f"{self.swarm.seed}/network")
        self._loss, self._duplicate = self.swarm.loss, self.swarm.duplicate
        self._delay, self._in_order = self.swarm.delay_seconds, self.swarm.in_order

    def send(self, sender: str, receiver: str, message: Message, attachment: object) -> None:
        """Put a message on its way, or lose it."""
        rng = self._rng
        link = (sender, receiver)
        if link in self.cut:
            self.dropped += 1
            if rng.random() < 0.2:
                self._tell_unreachable(sender, receiver)
            return
        if self._loss and rng.random() < self._loss:
            self.dropped += 1
            return
        packet = (sender, receiver, message, attachment)
        self._carry(link, packet)
        if type(message) is RequestVoteResult:
            self._votes.append(packet)
        if self._duplicate:
            if rng.random() < self._duplicate:
                self._carry(link, packet)
            if rng.random() < 0.1:
                self._museum.append(packet)

    def _carry(self, link: Link, packet: Packet) -> None:
        low, high = self._delay
        moment = self.timeline.now + low + (high - low) * self._rng.random()
        if self.slow:
            moment += self.slow.get(link, 0.0)
        if self._in_order:
            moment = max(moment, self._last_arrival.get(link, 0.0))
            self._last_arrival[link] = moment
        self.timeline.at(moment, self._arrive, link, self._resets.get(link, 0), packet)

    def _arrive(self, link: Link, resets: int, packet: Packet) -> None:
        if link in self.cut or resets != self._resets.get(link, 0):
            self.dropped += 1
            return
        self.delivered += 1
        self.listeners[packet[1]].receive(packet[0], packet[2], packet[3])

    def _tell_unreachable(self, sender: str, receiver: str) -> None:
        delay = self._delay[0]
        self.timeline.after(delay, self.listeners[sender].unreachable, receiver)

    def reset(self, one: str, other: str) -> None:
        """Break the connections between two nodes: both hear of it, what was under way is lost."""
        for sender, receiver in ((one, other), (other, one)):
            self._resets[sender, receiver] = self._resets.get((sender, receiver), 0) + 1
            self._tell_unreachable(sender, receiver)

    @property
    def has_old_messages(self) -> bool:
        """Whether there is anything to replay."""
        return bool(self._museum)

    def forget(self, node: str) -> None:
        """Lose all that is on its way from or to `node`, and what could be replayed of it."""
        for other in self.listeners:
            for link in ((node, other), (other, node)):
                self._resets[link] = self._resets.get(link, 0) + 1
        for packets in (self._museum, self._votes):
            kept = [packet for packet in packets if node not in packet[:2]]
            packets.clear()
            packets.extend(kept)

    def replay(self, count: int) -> None:
        """Deliver up to `count` old messages once more."""
        if not self._museum:
            return
        for _ in range(count):
            packet = self._rng.choice(self._museum)
            self._carry((packet[0], packet[1]), packet)

    def replay_votes(self, candidate: str) -> None:
        """Deliver to `candidate` once more what it was answered in older elections."""
        for packet in self._votes:
            if packet[1] == candidate:
                self._carry((packet[0], candidate), packet)

    def heal(self) -> None:
        """Open all links and lose, delay and repeat nothing from now on.

        What is under way still arrives, as late as it was meant to.
        """
        self.open()
        self._museum.clear()
        self._loss = self._duplicate = 0.0
        self._delay, self._in_order = HEALED_DELAY_SECONDS, False

    def open(self) -> None:
        """Open all links that are cut, and let none be slow."""
        self.cut.clear()
        self.slow.clear()

    def partition(self, kind: str, rng: random.Random, leader: str | None = None) -> None:
        """Cut links in the shape of `kind`; what was cut before is opened."""
        self.open()
        ids = list(self.listeners)
        rng.shuffle(ids)
        if kind in ("isolate", "deaf", "mute") and leader and rng.random() < 0.5:
            ids.remove(leader)
            ids.insert(0, leader)
        self.cut.update(cut_links(kind, ids))

    def isolate(self, node: str, friends: frozenset[str] = frozenset()) -> None:
        """Cut `node`, with its `friends`, from all others."""
        inside = friends | {node}
        others = [other for other in self.listeners if other not in inside]
        for one in sorted(inside):
            for other in others:
                self.cut.update(((one, other), (other, one)))

    def isolate_pair(self, one: str, other: str) -> None:
        """Cut two nodes from each other."""
        self.cut.update(((one, other), (other, one)))


def cut_links(kind: str, ids: list[str]) -> list[Link]:
    """Return the directed links to cut for a partition of that shape; `ids` are shuffled."""
    count = len(ids)
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    half = count // 2
    match kind:
        case "halves":
            found = [(i, j) for i, j in pairs if (i < half) != (j < half)]
        case "isolate":
            found = [(i, j) for i, j in pairs if 0 in (i, j)]
        case "ring":
            found = [(i, j) for i, j in pairs if (i - j) % count not in (1, count - 1)]
        case "bridge":
            # Node 0 sees everyone; the halves beside it do not see each other.
            found = [(i, j) for i, j in pairs if 0 not in (i, j) and (i % 2) != (j % 2)]
        case "deaf":
            found = [(i, j) for i, j in pairs if j == 0]
        case "mute":
            found = [(i, j) for i, j in pairs if i == 0]
        case _:
            raise ValueError(f"no such partition: {kind!r}")
    return [(ids[i], ids[j]) for i, j in found]
