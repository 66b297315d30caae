"""What a write costs in the client, beside the Deferred itself.

Run `python benchmarks/client.py [--writes N] [--outstanding N]`. The connection is a fake
that answers each box in the next turn of a fake reactor; encoding is the real one. The
baseline makes, fires and takes the same Deferreds and encodes the same commands.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from raft.client import RaftClient
from raft.codec import PLAIN
from raft.numbering import OpenedSession
from raft.transport.calls import Results
from raft.transport.greeting import Greeting


class Reactor:
    """Turns, and timers that never fire."""

    def __init__(self) -> None:
        self.due: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def seconds(self) -> float:
        return time.monotonic()

    def callLater(self, seconds: float, call: Callable[..., object], *args: Any) -> Reactor:
        if not seconds:
            self.due.append((call, args))
        return self

    def cancel(self) -> None:
        pass

    def active(self) -> bool:
        return False

    def turn(self) -> None:
        for _ in range(len(self.due)):
            call, args = self.due.popleft()
            call(*args)


class Connection:
    """Answers every box with a None for each command, one turn later."""

    def __init__(self, reactor: Reactor) -> None:
        self.connected = 1
        self.greeting = Greeting(1, "", "n1", "", "client")
        self.lost: Deferred[str] = Deferred()
        self.reactor = reactor

    def call(self, *_: Any, **__: Any) -> Deferred[Any]:
        return succeed({"leader": "n1", "address": ""})

    def open_session(self, nonce: bytes, timeout_ms: int) -> Deferred[OpenedSession]:
        return succeed(OpenedSession(b"s" * 16, 3600.0, 1000, 1 << 20))

    def write_batch(self, items: list[bytes], timeout_ms: int, *_: object) -> Deferred[Any]:
        answered: Deferred[Any] = Deferred()
        self.reactor.callLater(0, answered.callback, Results([None] * len(items)))
        return answered

    read_batch = write_batch

    def flush(self) -> None:
        pass


def client_seconds(writes: int, outstanding: int, command: object, sessions: bool) -> float:
    reactor = Reactor()
    client = RaftClient(
        "127.0.0.1:7001",
        reactor=reactor,
        dial=lambda _address, _seconds: succeed(Connection(reactor)),
        chance=random.Random(1),
        sessions=sessions,
    )
    left = writes
    running = 0

    def done(_: object) -> None:
        nonlocal running
        running -= 1

    begun = time.process_time()
    while left or running:
        write = client.write
        while left and running < outstanding:
            left -= 1
            running += 1
            write(command).addCallback(done)
        reactor.turn()
    return time.process_time() - begun


def bare_seconds(writes: int, outstanding: int, command: object) -> float:
    done = [].clear
    encode = PLAIN.encode
    begun = time.process_time()
    for _ in range(writes // outstanding):
        waiting = []
        for _ in range(outstanding):
            encode(command)
            request: Deferred[None] = Deferred()
            request.addCallback(lambda _: done())
            waiting.append(request)
        for request in waiting:
            request.callback(None)
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writes", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    command = ["set", "k" * 16, b"v" * 64]
    print("microseconds of a write beyond the bare Deferred: median [min..max]")
    print("outstanding   bare   without sessions       within a session")
    for outstanding in (1, 16, 100, 1000, 4000):
        bare: list[float] = []
        beyond: dict[bool, list[float]] = {False: [], True: []}
        count = given.writes if outstanding > 1 else given.writes // 10
        for _ in range(given.rounds):
            gc.collect()
            bare.append(bare_seconds(count, outstanding, command) / count * 1e6)
            for sessions, found in beyond.items():
                whole = client_seconds(count, outstanding, command, sessions) / count * 1e6
                found.append(whole - bare[-1])
        texts = [
            f"{statistics.median(each):5.2f} [{min(each):.2f}..{max(each):.2f}]"
            for each in beyond.values()
        ]
        print(f"{outstanding:11}   {statistics.median(bare):4.2f}   {'   '.join(texts)}")


if __name__ == "__main__":
    main()
