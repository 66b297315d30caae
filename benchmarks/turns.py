"""What one write costs the turns of a leader and of a follower, one write at a time.

Three nodes' shells in one process, with their logs in memory and messages handed on as objects:
what is left is the work between a socket and a disk. CPU time, the least of several rounds.

    python benchmarks/turns.py [--profile]
"""

from __future__ import annotations

import cProfile
import gc
import pstats
import random
import sys
import time
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock

from raft.codec import PLAIN
from raft.core import events as ev
from raft.core import messages as ms
from raft.core.configuration import Configuration, Member
from raft.core.server import Options
from raft.machines.kv import KeyValueStore
from raft.node.bounds import Bounds
from raft.node.shell import Shell
from raft.node.writes import Batch
from raft.replica import Replica
from raft.storage.memory import MemoryStorage

IDS = ("a", "b", "c")
ROUNDS, WRITES = 12, 400


class Reactor(Clock):
    """A clock that the storage's thread may call."""

    def callFromThread(self, call: Any, *args: Any, **named: Any) -> None:
        self.callLater(0, call, *args, **named)


class Node:
    """One shell; what it sends waits in `sent`."""

    def __init__(self, name: str, nodes: dict[str, Node], spent: Counter[str]) -> None:
        self.name, self.nodes, self.spent = name, nodes, spent
        self.reactor = Reactor()
        self.sent: list[tuple[str, ms.Message, bytes]] = []
        network: Any = SimpleNamespace(
            send=lambda peer, message, records=b"", chunk=None: self.sent.append(
                (peer, message, records)
            ),
            flush=lambda: None,
            is_connected=lambda peer: True,
        )
        storage = MemoryStorage()
        replica = Replica(KeyValueStore(), PLAIN, clock=self.reactor.seconds)
        self.shell = Shell(
            *(self.reactor, self.reactor.seconds, storage, replica, network),
            *(lambda _: None, lambda: None, print, Bounds(snapshot_entries=0)),
        )
        self.shell.start(name, Options(), random.Random(ord(name)), storage.recover())
        self.shell.post(
            ev.Bootstrap(Configuration(tuple(Member(id, incarnation="1") for id in IDS)))
        )

    def turn(self, seconds: float = 0.0) -> None:
        began = time.process_time_ns()
        self.reactor.advance(seconds)
        self.spent[self.name] += time.process_time_ns() - began

    def deliver(self) -> bool:
        sent, self.sent = self.sent, []
        for peer, message, records in sent:
            other = self.nodes[peer]
            began = time.process_time_ns()
            other.shell.receive(self.name, message, records, None)
            self.spent[peer] += time.process_time_ns() - began
            other.turn()
        return bool(sent)


def settle(nodes: dict[str, Node], seconds: float = 0.0) -> None:
    for node in nodes.values():
        node.turn(seconds)
    busy = True
    while busy:
        busy = False
        for node in nodes.values():
            node.turn()
            busy = node.deliver() or busy


def main() -> None:
    spent: Counter[str] = Counter()
    nodes: dict[str, Node] = {}
    for name in IDS:
        nodes[name] = Node(name, nodes, spent)
    for _ in range(2000):
        settle(nodes, 0.001)
        if any(node.shell.server.leader_id == node.name for node in nodes.values()):
            break
    (leader,) = [n for n in nodes.values() if n.shell.server.leader_id == n.name]
    for _ in range(100):
        settle(nodes, 0.001)
    payload = PLAIN.encode(["set", "key-000000000001", "v" * 64])
    answers: list[Any] = []

    def write() -> None:
        batch = Batch([payload], leader.reactor.seconds() + 3.0, answers.append)
        began = time.process_time_ns()
        leader.shell.write(batch)
        spent[leader.name] += time.process_time_ns() - began
        while not answers:
            settle(nodes, 0.0)
        answers.clear()
        settle(nodes, 0.0001)

    for _ in range(300):
        write()
    gc.disable()
    best = dict.fromkeys(IDS, float("inf"))
    profiled = cProfile.Profile()
    if "--profile" in sys.argv:
        turn = leader.turn
        leader.turn = partial(profiled.runcall, turn)  # type: ignore[method-assign]
    for _ in range(ROUNDS):
        spent.clear()
        for _ in range(WRITES):
            write()
        for name in IDS:
            best[name] = min(best[name], spent[name] / WRITES / 1000)
    for name in IDS:
        role = "leader" if name == leader.name else "follower"
        print(f"{name} {role:9} {best[name]:7.1f} us of CPU a write")
    if "--profile" in sys.argv:
        pstats.Stats(profiled).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main()
