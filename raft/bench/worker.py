"""Who puts load on a cluster when told to: one line of JSON in, one line of JSON out.

`python -m raft.bench.worker SOCKET` is a process of its own; `raft.bench.inside` puts the same
into a node's. The orders are `start` (a job), `measure` (for so many seconds) and `stop`.
Latencies go into a file, not through the socket: there may be millions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from raft.bench.load import Issue, Load, keys, operations
from raft.bench.paced import Paced
from raft.client import RaftClient
from raft.codec import PLAIN
from raft.errors import InvariantViolated
from raft.service import RaftService
from raft.transport.calls import ClientConnection
from raft.transport.dialling import dial

FILL_AT_ONCE = 500

Job = dict[str, Any]


class Worker:
    """Does jobs, one at a time."""

    def __init__(self, reactor: Any, node: RaftService | None = None) -> None:
        """Load `node` where a job says "inside"; other jobs say whom."""
        self._reactor = reactor
        self._node = node
        self._load: Load | Paced | None = None
        self._close: list[Callable[[], Any]] = []

    async def obey(self, order: Job) -> Job:
        """Carry out one order; return what it led to."""
        orders: dict[str, Callable[[Job], Awaitable[Job]]] = {
            "start": self._start,
            "measure": self._measure,
            "stop": self._stop,
        }
        return await orders[order["order"]](order)

    async def _start(self, job: Job) -> Job:
        await self._stop(job)
        issue = await self._target(job)
        if job["fill"]:
            value_bytes = job.get("fill_bytes") or job["value_bytes"]
            await fill(issue, value_bytes, job.get("fill_keys", 0), job["prefix"])
        drawn = operations(job["operations"], job["value_bytes"], job["seed"], job["prefix"])
        if "per_second" in job:
            self._load = Paced(self._reactor, issue, drawn, job["per_second"] / job["loaders"])
        else:
            self._load = Load(self._reactor, issue, drawn, job["outstanding"])
        self._load.start()
        return {}

    async def _measure(self, order: Job) -> Job:
        if self._load is None:
            raise InvariantViolated("nothing was started that could be measured")
        seconds = await self._load.measure(order["seconds"], order["count"])
        with open(order["latencies"], "wb") as file:
            self._load.latencies.tofile(file)
        load = self._load
        return {"seconds": seconds, "failures": load.failures, "load": load.told()}

    async def _stop(self, _: Job) -> Job:
        if self._load is not None:
            load, self._load = self._load, None
            await load.stop()
        closing, self._close = self._close, []
        for close in closing:
            await (close() or _nothing())
        return {}

    async def _target(self, job: Job) -> Issue:
        match job["target"]:
            case "inside" if self._node is not None:
                return through(self._node)
            case "client" | "clients":
                count = job["clients"] if job["target"] == "clients" else 1
                return among([through(await self._client(job)) for _ in range(count)])
            case "connections":
                connections = [
                    await dial(self._reactor, job["leader"]) for _ in range(job["connections"])
                ]
                self._close += [connection.close for connection in connections]
                return alone(connections, job["timeout_seconds"])
        raise InvariantViolated(f"no target {job['target']!r} here")

    async def _client(self, job: Job) -> RaftClient:
        client = RaftClient(
            job["addresses"],
            timeout_seconds=job["timeout_seconds"],
            spread_reads=job["spread"],
            allow_plaintext=job["allow_plaintext"],
        )
        self._close.append(client.close)
        await client.leader()
        return client


def among(issues: Sequence[Issue]) -> Issue:
    """Return what issues by each of `issues` in turn."""
    if len(issues) == 1:
        return issues[0]
    count = len(issues)

    def issue(place: int, is_read: int, command: list[Any]) -> Deferred[Any]:
        return issues[place % count](place, is_read, command)

    return issue


def through(target: RaftService | RaftClient) -> Issue:
    """Return what issues an operation through a node's or a client's own methods."""
    read, write = target.read, target.write

    def issue(_: int, is_read: int, command: list[Any]) -> Deferred[Any]:
        return read(command) if is_read else write(command)

    return issue


def alone(connections: list[ClientConnection], timeout_seconds: float) -> Issue:
    """Return what issues each operation as a question of its own, joined with no other."""
    count, encode, timeout_ms = len(connections), PLAIN.encode, int(timeout_seconds * 1000)

    def issue(place: int, is_read: int, command: list[Any]) -> Deferred[Any]:
        connection = connections[place % count]
        if is_read:
            return connection.read_batch([encode(command)], timeout_ms)
        return connection.write_batch([encode(command)], timeout_ms)

    return issue


async def fill(issue: Issue, value_bytes: int, count: int = 0, prefix: str = "") -> None:
    """Write every key that the load uses once, or `count` others that it leaves alone."""
    names = [f"filled-{number}" for number in range(count)] or keys(value_bytes, prefix)
    value = "v" * value_bytes
    for begin in range(0, len(names), FILL_AT_ONCE):
        part = names[begin : begin + FILL_AT_ONCE]
        await gatherResults([issue(0, 0, ["set", key, value]) for key in part])


async def _nothing() -> None:
    return None


class Orders(LineOnlyReceiver):
    """The connection over which orders come; what goes wrong is an answer too."""

    delimiter = b"\n"

    def __init__(self, worker: Worker) -> None:
        """Let `worker` obey."""
        self._worker = worker

    def lineReceived(self, line: bytes) -> None:
        """Obey one order and answer it."""
        obeyed = Deferred.fromCoroutine(self._worker.obey(json.loads(line)))
        obeyed.addErrback(lambda failure: {"error": told(failure)}).addCallback(self._answer)

    def _answer(self, answer: Job) -> None:
        self.sendLine(json.dumps(answer).encode())  # type: ignore[no-untyped-call]


def told(failure: Failure) -> str:
    """Return a failure as one line."""
    # What gatherResults raises wraps the first failure.
    inner: Any = getattr(failure.value, "subFailure", failure)
    return f"{inner.type.__name__}: {inner.getErrorMessage()}"


def serve(reactor: Any, path: str, worker: Worker) -> Deferred[Any]:
    """Take orders on the Unix socket `path`."""
    factory = Factory.forProtocol(lambda: Orders(worker))
    factory.noisy = False
    listening: Deferred[Any] = UNIXServerEndpoint(reactor, path, mode=0o600).listen(factory)
    return listening


def main(path: str) -> None:
    """Run a worker until the process is ended."""
    from twisted.internet import reactor

    serve(reactor, path, Worker(reactor))
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1])
