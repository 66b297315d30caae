"""What a client's box costs the leader from the desk to the answer, with a session and without.

One node, alone in its cluster, on a clock that is moved by hand, with its log in memory: what
is left is the work of the process itself. Boxes of one command and of 500, in CPU time.

    python benchmarks/desk.py
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock

from raft.codec import PLAIN
from raft.core import events as ev
from raft.core.configuration import Configuration, Member
from raft.core.server import Options
from raft.machines.kv import KeyValueStore
from raft.node.bounds import Bounds
from raft.node.desk import ClientDesk
from raft.node.shell import Shell
from raft.node.writes import Batch
from raft.numbering import SessionCall
from raft.replica import Replica
from raft.storage.memory import MemoryStorage
from raft.storage.records import Kind, encode_registration, session_id

ROUNDS = 9
TURNS = 6
SHAPES = ((1000, 1), (4, 500))
"""(boxes in a turn, commands in a box)."""
UNANSWERED = 500
"""How many numbers a session's low mark is behind."""


class Reactor(Clock):
    """A clock that the storage's thread may call."""

    def callFromThread(self, call: Any, *args: Any, **named: Any) -> None:
        self.callLater(0, call, *args, **named)


class Leader:
    """A sole voter, and the desk in front of it."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        replica = Replica(KeyValueStore(), PLAIN, clock=self.reactor.seconds)
        nobody: Any = SimpleNamespace(send=lambda *_: True, flush=lambda: None)
        storage = MemoryStorage()
        self.shell = Shell(
            *(self.reactor, self.reactor.seconds, storage, replica, nobody),
            *(lambda _: None, lambda: None, print, Bounds(snapshot_entries=0)),
        )
        self.shell.start("a", Options(), random.Random(1), storage.recover())
        self.shell.post(ev.Bootstrap(Configuration((Member("a", incarnation="1"),))))
        self.run(lambda: self.shell.server.leader_id == "a")
        node: Any = SimpleNamespace(
            serves=True, clock=self.reactor.seconds, forwards=False, shell=self.shell
        )
        self.desk = ClientDesk(node, PLAIN)
        self.answers: list[Any] = []
        self.session, self.sequence = self.opened(), 1

    def run(self, done: Any) -> None:
        for _ in range(1000):
            if done():
                return
            self.reactor.advance(0.001)
        raise SystemExit("it did not come to an end")

    def opened(self) -> bytes:
        index = self.shell.server.log.last_index + 1
        registration = [encode_registration(bytes(8))]
        self.shell.write(Batch(registration, 1e9, self.answers.append, Kind.REGISTER))
        self.run(lambda: self.answers)
        self.answers.clear()
        return session_id(index, bytes(8))

    def turn(self, boxes: int, commands: list[bytes], in_session: bool) -> None:
        put, session = self.answers.append, None
        for _ in range(boxes):
            if in_session:
                low_mark = max(1, self.sequence - UNANSWERED)
                session = SessionCall(self.session, self.sequence, low_mark)
                self.sequence += len(commands)
            self.desk.write_batch(commands, 3.0, put, False, session)
        self.run(lambda: len(self.answers) == boxes)
        if not all(isinstance(each, bytes) for each in self.answers):
            raise SystemExit(f"not answered: {self.answers[0]}")
        self.answers.clear()


def measure(boxes: int, count: int, in_session: bool) -> list[float]:
    """Return microseconds a command, of each round."""
    leader = Leader()
    commands = [PLAIN.encode(["set", f"key-{n:012d}", "v" * 64]) for n in range(count)]
    for _ in range(3):
        leader.turn(boxes, commands, in_session)
    found = []
    gc.disable()
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(TURNS):
            leader.turn(boxes, commands, in_session)
        found.append((time.process_time() - begun) / (TURNS * boxes * count) * 1e6)
    gc.enable()
    return found


def main() -> None:
    for boxes, count in SHAPES:
        for in_session in (False, True):
            found = measure(boxes, count, in_session)
            name = f"boxes of {count}, {'in a session' if in_session else 'plain'}"
            median = statistics.median(found)
            print(f"{name:28} {min(found):6.2f} us a command (median {median:.2f} of {ROUNDS})")


if __name__ == "__main__":
    main()
