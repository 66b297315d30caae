"""Builders for the paper tests: a server with any history, and a cluster moved by hand.

No mocks: everything here is a real `Server`, driven through its one door `step`.
`build` makes one server with a given log; `Cluster` makes several, whose network and
disks do only what a test says: nothing is delivered, saved or dropped by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

from attrs import Factory, define, evolve, frozen

from raft.core.configuration import Configuration, Member
from raft.core.events import ChangeConfiguration, Event, Propose, Received, Saved
from raft.core.messages import (
    AppendEntries,
    Entries,
    Message,
    PreVoteResult,
    RequestVoteResult,
    Run,
)
from raft.core.outputs import (
    Configured,
    HardState,
    NoOp,
    Outputs,
    Proposed,
    Replicated,
    Role,
    Save,
)
from raft.core.server import Options, Server

ENTRY_BYTES = 100
TIMEOUT = 0.3
HEARTBEAT = 0.06


def configuration(
    voters: Iterable[str] = "abc", learners: Iterable[str] = "", outgoing: Iterable[str] = ""
) -> Configuration:
    """Return a configuration of servers named by single letters."""
    return Configuration(
        tuple(Member(each) for each in voters)
        + tuple(Member(each, voter=False) for each in learners),
        frozenset(outgoing),
    )


def runs(start: int, terms: Iterable[int]) -> tuple[Run, ...]:
    """Sum up entries of those terms, from index `start` on."""
    found, end = [], start
    for term, group in groupby(terms):
        count = len(list(group))
        end += count
        found.append(Run(end, term, count * ENTRY_BYTES))
    return tuple(found)


def entries(
    start: int,
    terms: Iterable[int] = (),
    configurations: tuple[tuple[int, Configuration], ...] = (),
    arrival: int = 0,
) -> Entries:
    """Return entries of those terms, from index `start` on."""
    return Entries(start, runs(start, terms), configurations, arrival)


def build(
    id: str = "a",
    terms: Iterable[int] = (1,),
    *,
    term: int | None = None,
    voted_for: str | None = None,
    members: Configuration | None = None,
    seed: int = 1,
    now: float = 0.0,
    snapshot: tuple[int, int, Configuration, int] | None = None,
    first_index: int = 1,
    prev_term: int = 0,
    lost: tuple[int, int] = (0, 0),
    **options: Any,
) -> Server:
    """Return a follower, just recovered: entry 1 is the configuration, `terms` the log.

    With a `snapshot`, (index, term, configuration, its index), `terms` begin at `first_index`.
    """
    log = list(terms)
    current = term if term is not None else max([*log, prev_term, 0])
    return Server.recover(
        id,
        Options(**options),
        random.Random(seed),
        now,
        HardState(current, voted_for),
        snapshot,
        first_index,
        prev_term,
        runs(first_index, log),
        () if snapshot else ((1, members or configuration()),),
        lost=lost,
    )


def newcomer(id: str, **keywords: Any) -> Server:
    """Return a server that starts empty, and waits to hear who the members are."""
    server = build(id, [], **keywords)
    server.log.configurations = [(0, Configuration())]
    return server


def append(
    prev: tuple[int, int],
    new: Iterable[int] = (),
    *,
    term: int = 1,
    commit: int = 0,
    sequence: int = 1,
    configurations: tuple[tuple[int, Configuration], ...] = (),
) -> AppendEntries:
    """Return an AppendEntries after the entry `prev`, (index, term), with entries `new`."""
    found = entries(prev[0] + 1, new, configurations)
    return AppendEntries(term, *prev, found, commit, sequence)


def step(server: Server, *events: Event) -> Outputs:
    """Step `server` at the time it knows."""
    return server.step(events, server.now)


def hear(server: Server, sender: str, *messages: Message) -> Outputs:
    """Let messages of `sender` arrive in one turn."""
    return step(server, *(Received(sender, message) for message in messages))


def save(server: Server) -> Outputs:
    """Let everything that `server` asked to save be durable."""
    return step(server, Saved(server.last_ticket))


def elapse(server: Server, seconds: float) -> Outputs:
    """Let time pass for `server`, with nothing arriving."""
    return server.step((), server.now + seconds)


def time_out(server: Server) -> Outputs:
    """Let the server's next deadline pass."""
    return server.step((), server.election_deadline)


def only(outputs: Outputs, kind: type[Any], receiver: str | None = None) -> list[Any]:
    """Return the messages of that kind that are sent (to `receiver`), saved or not."""
    return [
        send.message
        for send in outputs.send
        if isinstance(send.message, kind) and receiver in (None, send.receiver)
    ]


def answer(outputs: Outputs) -> Any:
    """Return the one message that is sent."""
    (send,) = outputs.send
    return send.message


def campaign(server: Server) -> Outputs:
    """Make `server` a candidate with its vote saved; return what it did after that save."""
    outputs = time_out(server)
    if server.role is Role.PRE_CANDIDATE:
        wanted = server.current_term + 1
        for peer in server.peers:
            if server.role is Role.PRE_CANDIDATE:
                outputs = hear(server, peer, PreVoteResult(wanted, vote_granted=True))
    saved = save(server)
    return saved if server.role is Role.LEADER else outputs


def elect(server: Server) -> Outputs:
    """Make `server` the leader; return the Outputs of the step in which it won."""
    outputs = campaign(server)
    for peer in server.peers:
        if server.role is Role.CANDIDATE:
            outputs = hear(server, peer, RequestVoteResult(server.current_term, vote_granted=True))
    return outputs


def leader(id: str = "a", terms: Iterable[int] = (1,), **keywords: Any) -> Server:
    """Return a leader whose log is saved, its no-op too; its peers know nothing of it."""
    server = build(id, terms, **keywords)
    elect(server)
    save(server)
    return server


@frozen
class Packet:
    """A message on its way."""

    sender: str
    receiver: str
    message: Message
    payloads: tuple[object, ...] = ()


@define
class Disk:
    """What a server has on stable storage."""

    hard_state: HardState = HardState()
    terms: list[int] = Factory(list)
    payloads: list[object] = Factory(list)
    lost: tuple[int, int] = (0, 0)
    """Term and index of the last entry before it was damaged."""


@define
class Node:
    """A server with its disk, the saves that wait and the messages that wait for them."""

    server: Server
    disk: Disk = Factory(Disk)
    payloads: list[object] = Factory(list)
    """What the entries say, from index 1 on, saved or not."""
    waiting: list[tuple[Save, tuple[object, ...]]] = Factory(list)
    held: list[tuple[int, Packet]] = Factory(list)
    arrived: dict[int, tuple[int, tuple[object, ...]]] = Factory(dict)
    confirmed: dict[int, int] = Factory(dict)
    lost: set[int] = Factory(set)
    applied: list[object] = Factory(list)
    outputs: Outputs = Outputs()


@define
class Cluster:
    """Several servers; a test delivers, drops and saves by hand, or lets all `settle`."""

    nodes: dict[str, Node]
    network: list[Packet] = Factory(list)
    cut: set[frozenset[str]] = Factory(set)
    """Pairs of servers that lose what they send each other."""
    now: float = 0.0
    arrivals: int = 0
    options: dict[str, Any] = Factory(dict)

    @classmethod
    def of(cls, **servers: Server) -> Cluster:
        """Put servers that were built for it into one cluster; their logs are on their disks."""
        cluster = cls({})
        for id, server in servers.items():
            node = Node(server)
            node.disk.hard_state = HardState(server.current_term, server.voted_for)
            node.disk.terms = [server.log.term_at(i + 1) for i in range(server.log.last_index)]
            node.disk.payloads = [("old", i, term) for i, term in enumerate(node.disk.terms)]
            node.payloads = list(node.disk.payloads)
            cluster.nodes[id] = node
        return cluster

    def __getitem__(self, id: str) -> Server:
        """Return the server of that id."""
        return self.nodes[id].server

    @property
    def leader(self) -> str:
        """The id of the one that leads the latest term."""
        return max(self.leaders, key=lambda id: self[id].current_term)

    @property
    def leaders(self) -> list[str]:
        """The ids of those that lead, each in its own view."""
        return [id for id in self.nodes if self[id].role is Role.LEADER]

    def step(self, id: str, *events: Event) -> Outputs:
        """Step one server; what it sends goes to the network, what it saves waits."""
        node = self.nodes[id]
        outputs = node.outputs = node.server.step(events, self.now)
        if outputs.save is not None:
            node.waiting.append((outputs.save, self._take_in(node, outputs.save)))
        for send in outputs.send:
            packet = self._packet(node, id, send.receiver, send.message)
            if send.after:
                node.held.append((send.after, packet))
            else:
                self._leave(packet)
        node.confirmed.update((read.request, read.index) for read in outputs.confirmed)
        node.lost.update(outputs.lost)
        node.applied = node.payloads[: outputs.apply_end - 1]
        return outputs

    def _take_in(self, node: Node, written: Save) -> tuple[object, ...]:
        if written.truncate_from is not None:
            del node.payloads[written.truncate_from - 1 :]
        for new in written.append:
            match new:
                case Proposed():
                    node.payloads += [(new.request, i) for i in range(new.end - new.start)]
                case Replicated():
                    start, payloads = node.arrived[new.arrival]
                    node.payloads += payloads[new.start - start : new.end - start]
                case NoOp():
                    node.payloads.append(("no-op", new.term))
                case Configured():
                    node.payloads.append(new.configuration)
        return tuple(node.payloads)

    def _packet(self, node: Node, sender: str, receiver: str, message: Message) -> Packet:
        payloads: tuple[object, ...] = ()
        if isinstance(message, AppendEntries):
            payloads = tuple(node.payloads[message.entries.start - 1 : message.entries.end - 1])
        return Packet(sender, receiver, message, payloads)

    def _leave(self, packet: Packet) -> None:
        if frozenset({packet.sender, packet.receiver}) not in self.cut:
            self.network.append(packet)

    def propose(self, id: str, request: int, count: int = 1) -> Outputs:
        """Propose commands to a server."""
        return self.step(id, Propose(request, count, count * ENTRY_BYTES))

    def change(self, id: str, voters: str, learners: str = "", force: bool = False) -> Outputs:
        """Ask a server to make those the members."""
        members = configuration(voters, learners).members
        return self.step(id, ChangeConfiguration(0, members, force=force))

    def time_out(self, id: str) -> Outputs:
        """Let time pass until the server's next deadline; nobody else is stepped."""
        self.now = max(self.now, self._deadline(id))
        return self.step(id)

    def save(self, id: str) -> None:
        """Let all that a server asked to save be durable; what waited for it leaves."""
        node = self.nodes[id]
        for written, payloads in node.waiting:
            node.disk.hard_state = written.hard_state or node.disk.hard_state
            node.disk.payloads = list(payloads)
        if not node.waiting:
            return
        ticket = node.waiting[-1][0].ticket
        node.waiting.clear()
        log = node.server.log
        node.disk.terms = [log.term_at(i + 1) for i in range(log.last_index)]
        node.held, held = [], node.held
        for after, packet in held:
            if after <= ticket:
                self._leave(packet)
            else:
                node.held.append((after, packet))
        self.step(id, Saved(ticket))

    def deliver(self, which: Callable[[Packet], bool] = lambda _: True) -> int:
        """Deliver the messages that are on their way at the moment, in order."""
        going = [packet for packet in self.network if which(packet)]
        self.network = [packet for packet in self.network if not which(packet)]
        for packet in going:
            self._arrive(packet)
        return len(going)

    def _arrive(self, packet: Packet) -> None:
        message = packet.message
        if packet.receiver not in self.nodes:
            return
        if isinstance(message, AppendEntries):
            self.arrivals += 1
            found = message.entries
            self.nodes[packet.receiver].arrived[self.arrivals] = (found.start, packet.payloads)
            message = evolve(message, entries=evolve(found, arrival=self.arrivals))
        self.step(packet.receiver, Received(packet.sender, message))

    def drop(self, which: Callable[[Packet], bool] = lambda _: True) -> list[Packet]:
        """Lose messages that are on their way; return them, to be delivered late."""
        gone = [packet for packet in self.network if which(packet)]
        self.network = [packet for packet in self.network if not which(packet)]
        return gone

    def settle(self) -> None:
        """Deliver and save until all is quiet, at one moment in time."""
        for _ in range(200):
            for id in self.nodes:
                self.save(id)
            if not self.deliver() and not any(node.waiting for node in self.nodes.values()):
                return
        raise AssertionError("the cluster does not come to rest")

    def run(self, seconds: float) -> None:
        """Let time pass: each deadline is met when it comes, and everything settles at once."""
        end = self.now + seconds
        while True:
            deadline, id = min((self._deadline(id), id) for id in self.nodes)
            if deadline > end:
                self.now = end
                return
            self.now = max(self.now, deadline)
            self.step(id)
            self.settle()

    def _deadline(self, id: str) -> float:
        return self.nodes[id].outputs.next_deadline or self[id].election_deadline

    def beat(self, id: str) -> None:
        """Let a leader's next heartbeat come, and everything settle."""
        self.time_out(id)
        self.settle()

    def isolate(self, id: str) -> None:
        """Cut a server off from all others."""
        self.cut |= {frozenset({id, other}) for other in self.nodes if other != id}

    def heal(self) -> None:
        """Let all messages pass again."""
        self.cut.clear()

    def crash(self, id: str) -> None:
        """Lose a server's memory, and start it again with what its disk holds."""
        node = self.nodes[id]
        old, disk = node.server, node.disk
        if not old.is_repairing:
            disk.lost = (0, 0)
        self._restart(id, old, disk)

    def damage(self, id: str, kept: int) -> None:
        """Crash a server, and lose its log behind entry `kept`; it knows how far it was."""
        node = self.nodes[id]
        self.crash(id)
        disk = node.disk
        if kept < len(disk.terms):
            disk.lost = max(disk.lost, (disk.terms[-1], len(disk.terms)))
            del disk.terms[kept:], disk.payloads[kept:]
            self._restart(id, node.server, disk)

    def _restart(self, id: str, old: Server, disk: Disk) -> None:
        # The first entry of a log that was built says nothing: it is a configuration for all.
        reached = [pair for pair in old.log.configurations if pair[0] == 1 <= len(disk.terms)]
        reached += [
            (index, payload)
            for index, payload in enumerate(disk.payloads, 1)
            if isinstance(payload, Configuration)
        ]
        server = Server.recover(
            id,
            old.options,
            random.Random(old.rng.random()),
            self.now,
            disk.hard_state,
            None,
            1,
            0,
            runs(1, disk.terms),
            tuple(reached),
            lost=disk.lost,
        )
        self.nodes[id] = Node(server, disk, list(disk.payloads))
