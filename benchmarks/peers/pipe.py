"""The limit of W5: bare TCP pipes of Twisted and fdatasync, with the copies of three servers.

A client sends values to a leader, which sends each to two followers and writes it to its own disk;
all three sync, and the leader answers what two of them have. No records, no checksums, no
elections, no machine: what is left is sockets, files and one thread for the disk.

    python pipe.py SIZE_BYTES OUTSTANDING WARM_UP_SECONDS SECONDS DIRECTORY

Prints one JSON object. Starts its own processes, and ends them.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet import reactor as any_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

reactor: Any = any_reactor
FILE_BYTES = 256 << 20
MAJORITY = 2
COUNT_BYTES = 8


class Disk:
    """One thread: all that is queued goes out in one write and one sync."""

    def __init__(self, path: str, saved: Callable[[int], None]) -> None:
        """Write into a file of zeros, in a circle; tell how many bytes are durable so far."""
        self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.posix_fallocate(self.file, 0, FILE_BYTES)
        self.queue: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.saved, self.offset, self.total = saved, 0, 0
        threading.Thread(target=self.write, daemon=True).start()

    def write(self) -> None:
        """Write and sync for ever."""
        while True:
            pieces = [self.queue.get()]
            while not self.queue.empty():
                pieces.append(self.queue.get())
            joined = b"".join(pieces)
            if self.offset + len(joined) > FILE_BYTES:
                self.offset = 0
            os.pwrite(self.file, joined, self.offset)
            os.fdatasync(self.file)
            self.offset += len(joined)
            self.total += len(joined)
            reactor.callFromThread(self.saved, self.total)


class Counts(Protocol):
    """Hears how many bytes the other end has made durable; the newest count alone matters."""

    def __init__(self, heard: Callable[[int], None]) -> None:
        """Tell `heard`."""
        self.heard, self.pending = heard, b""

    def connectionMade(self) -> None:
        """Send small pieces at once."""
        self.transport.setTcpNoDelay(True)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        """Take the last whole count."""
        self.pending += data
        whole = len(self.pending) // COUNT_BYTES * COUNT_BYTES
        if whole:
            last = self.pending[whole - COUNT_BYTES : whole]
            self.pending = self.pending[whole:]
            self.heard(int.from_bytes(last, "big"))


class Server(Protocol):
    """A leader with its followers, or a follower with none."""

    def __init__(self, path: str, followers: list[int]) -> None:
        """Keep what comes in `path`; pass it on to the ports of `followers`."""
        self.disk, self.path = Disk(path, self.own_saved), path
        self.durable = [0] * (1 + len(followers))
        self.needed = MAJORITY if followers else 1
        self.told = 0
        self.peers = [Counts(partial(self.heard, 1 + each)) for each in range(len(followers))]
        self.ports = followers

    def reach_followers(self) -> Deferred[Any]:
        """Connect to the followers; fire once all are there."""
        return gatherResults(
            [
                connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), peer)
                for port, peer in zip(self.ports, self.peers, strict=True)
            ]
        )

    def connectionMade(self) -> None:
        """Send answers at once."""
        self.transport.setTcpNoDelay(True)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        """Pass it on and save it."""
        for peer in self.peers:
            peer.transport.write(data)  # type: ignore[union-attr]
        self.disk.queue.put(data)

    def own_saved(self, total: int) -> None:
        """Count the own disk."""
        self.heard(0, total)

    def heard(self, number: int, count: int) -> None:
        """Answer what a majority has."""
        self.durable[number] = count
        agreed = sorted(self.durable, reverse=True)[self.needed - 1]
        if agreed > self.told:
            self.told = agreed
            self.transport.write(agreed.to_bytes(COUNT_BYTES, "big"))  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End with who sends."""
        if reactor.running:
            reactor.stop()


class Load(Counts):
    """Keeps so many values outstanding."""

    def __init__(self, size: int, outstanding: int, warm_up: float, seconds: float) -> None:
        """Issue nothing yet."""
        super().__init__(self.answered)
        self.value, self.outstanding = b"v" * size, outstanding
        self.warm_up, self.seconds = warm_up, seconds
        self.sent: deque[float] = deque()
        self.done = 0
        self.latencies: list[float] = []

    def connectionMade(self) -> None:
        """Fill all places."""
        super().connectionMade()
        self.begin = time.perf_counter() + self.warm_up
        self.end = self.begin + self.seconds
        for _ in range(self.outstanding):
            self.issue()

    def issue(self) -> None:
        """Send one value."""
        self.sent.append(time.perf_counter())
        self.transport.write(self.value)  # type: ignore[union-attr]

    def answered(self, count: int) -> None:
        """Take the times of what is whole, and send as much again."""
        now = time.perf_counter()
        while self.done < count // len(self.value):
            self.done += 1
            issued = self.sent.popleft()
            if self.begin < now < self.end:
                self.latencies.append(now - issued)
            self.issue()
        if now > self.end:
            self.tell()

    def tell(self) -> None:
        """Print the figures and end."""
        ordered = sorted(self.latencies)
        shares = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
        told = {key: 1000 * ordered[int(share * len(ordered))] for key, share in shares.items()}
        print(json.dumps({"ops_per_second": len(ordered) / self.seconds, **told}), flush=True)
        reactor.stop()


def listen(path: str, followers: list[int]) -> None:
    """Serve one connection; tell the port on standard output."""
    server = Server(path, followers)

    def serve(_: object) -> None:
        port = reactor.listenTCP(0, Factory.forProtocol(lambda: server), interface="127.0.0.1")
        print(port.getHost().port, flush=True)

    reactor.callWhenRunning(lambda: server.reach_followers().addCallback(serve))
    reactor.run()


def main() -> None:
    """Start two followers and a leader, load them from here, and end them."""
    words = sys.argv[1:]
    if words[0] == "serve":
        listen(words[1], [int(port) for port in words[2:]])
        return
    size, outstanding, warm_up, seconds = int(words[0]), int(words[1]), *map(float, words[2:4])
    started: list[subprocess.Popen[str]] = []

    def server(*followers: int) -> int:
        command = [sys.executable, __file__, "serve", f"{words[4]}/pipe{len(started)}"]
        process = subprocess.Popen(
            [*command, *map(str, followers)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return int((process.stdout or sys.stdin).readline())

    try:
        leader = server(server(), server())
        load = Load(size, outstanding, warm_up, seconds)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", leader)
        reactor.callWhenRunning(connectProtocol, endpoint, load)
        reactor.run()
    finally:
        for process in started:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
