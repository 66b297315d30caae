"""Start a cluster and its load, measure, and end both.

Every process is one that was started here: three nodes, each a twistd of its own, and the
load's. This process only gives orders and sleeps while something is measured.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import Factory, define, field, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from raft.bench.facts import Usage, usage
from raft.bench.inside import tac_of
from raft.bench.load import summary
from raft.bench.workloads import Workload
from raft.client import RaftClient
from raft.errors import InvariantViolated, OutcomeUnknown, RaftError, Timeout
from raft.testing.processes import ProcessCluster, start_process

START_SECONDS = 30.0
ANSWER_SECONDS = 60.0
"""How much longer than asked an order may take before the load counts as lost."""
FAILOVER_SECONDS = 30.0
POLL_SECONDS = 0.02
CALM_SECONDS = 0.3
MILLION = 1_000_000


@frozen
class Plan:
    """How to measure; times in seconds.

    Attributes:
        runs: how often each point is measured; medians are told.
        seconds: how long each of them takes.
        warm_up_seconds: how long load runs before the first.
        connections: of W2 and W4c, all together.
        load_processes: what W2 and W4c are issued by, together.
        kills: how often W7 kills the leader.
    """

    runs: int = 3
    seconds: float = 3.0
    warm_up_seconds: float = 1.0
    connections: int = 100
    load_processes: int = 1
    kills: int = 20
    nodes: int = 3


Row = dict[str, Any]
Counts = Mapping[str, tuple[int, ...]]


class _Answers(Protocol):
    """One connection to a worker: orders out, answers in."""

    transport: Any

    def __init__(self) -> None:
        self._received = b""
        self._waiting: Deferred[Row] | None = None

    def order(self, order: Row) -> Deferred[Row]:
        """Send an order; fires with its answer."""
        self._waiting = Deferred()
        self.transport.write(json.dumps(order).encode() + b"\n")
        return self._waiting

    def dataReceived(self, data: bytes) -> None:
        """Take an answer, once it is whole."""
        self._received += data
        if self._received.endswith(b"\n") and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            line, self._received = self._received, b""
            waiting.callback(json.loads(line))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End who waits: the worker is gone."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.errback(InvariantViolated("the process that puts load on has ended"))


@define(eq=False)
class Loader:
    """One worker, as seen from here; `process` is None for one inside a node."""

    reactor: Any
    path: Path
    pid: int
    process: subprocess.Popen[bytes] | None = None
    _answers: _Answers = Factory(_Answers)

    async def connect(self) -> None:
        """Connect to the worker, which may still be starting.

        Raises:
            Timeout: it does not answer.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                endpoint = UNIXClientEndpoint(self.reactor, str(self.path))
                await connectProtocol(endpoint, self._answers)
                return
            except ConnectError as error:
                if time.monotonic() > deadline:
                    raise Timeout(False, f"no load generator on {self.path}") from error
            await deferLater(self.reactor, POLL_SECONDS)

    async def order(self, order: Row, seconds: float = 0.0) -> Row:
        """Give an order and return the answer.

        Raises:
            InvariantViolated: the worker failed; the text says how.
        """
        waiting = self._answers.order(order)
        answer = await waiting.addTimeout(seconds + ANSWER_SECONDS, self.reactor)
        if "error" in answer:
            raise InvariantViolated(f"the load failed: {answer['error']}")
        return answer

    def close(self) -> None:
        """Leave the worker, and end it where it is a process of its own."""
        if self._answers.transport is not None:
            self._answers.transport.loseConnection()
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@define(eq=False)
class Stand:
    """A cluster with its load, for one workload: `run` gives its rows."""

    reactor: Any
    directory: Path
    workload: Workload
    plan: Plan
    note: Callable[[str], object]
    _cluster: ProcessCluster = field(init=False)
    _loaders: list[Loader] = Factory(list)
    _sockets: Path = Factory(lambda: Path(tempfile.mkdtemp(prefix="raft-")))
    """A path of its own, because a socket's may have no more than some 100 characters."""

    def __attrs_post_init__(self) -> None:
        self._cluster = ProcessCluster(self.directory, self.plan.nodes, reactor=self.reactor)
        if self.workload.target == "inside":
            for node in self._cluster.nodes.values():
                tac = self.directory / f"{node.id}.tac"
                socket = str(self._socket(node.id))
                tac.write_text(tac_of(str(node.config_path), socket), "utf-8")
                node.arguments = ["-y", str(tac)]

    def _socket(self, name: str) -> Path:
        return self._sockets / f"{name}.load"

    async def run(self) -> list[Row]:
        """Start everything, measure every point, end everything.

        Raises:
            RaftError: no leader was elected, or the load failed.
        """
        try:
            leader = await self._cluster.start(START_SECONDS)
            await self._cluster.wait_until_equal(1)
            if self.workload.operations == "failover":
                return [await self._failover()]
            self._loaders = [loader async for loader in self._start_load(leader)]
            return [await self._point(*point, leader) for point in self.workload.points()]
        finally:
            for loader in self._loaders:
                loader.close()
            await self._cluster.stop()
            shutil.rmtree(self._sockets, ignore_errors=True)

    async def _start_load(self, leader: str) -> Any:
        if self.workload.target == "inside":
            loaders = [Loader(self.reactor, self._socket(leader), self._pids[leader])]
        else:
            several = self.workload.target == "connections"
            count = self.plan.load_processes if several else 1
            loaders = [self._new_loader(f"load{number}") for number in range(1, count + 1)]
        for loader in loaders:
            await loader.connect()
            yield loader

    def _new_loader(self, name: str) -> Loader:
        socket = self._socket(name)
        command = [sys.executable, "-m", "raft.bench.worker", str(socket)]
        process = start_process(command, self.directory / f"{name}.log")
        loader = Loader(self.reactor, socket, process.pid, process)
        # Known before it answers, so that whatever fails, it is ended.
        self._loaders.append(loader)
        return loader

    @property
    def _pids(self) -> dict[str, int]:
        nodes = self._cluster.nodes.values()
        return {node.id: node.process.pid for node in nodes if node.process is not None}

    # -- One point -------------------------------------------------------------------------

    async def _point(self, outstanding: int, value_bytes: int, leader: str) -> Row:
        what = f"{self.workload.name}, {outstanding} outstanding, {value_bytes} bytes"
        self.note(f"{what}: warming up")
        count = len(self._loaders)
        jobs = [
            {
                "order": "start",
                "target": self.workload.target,
                "operations": self.workload.operations,
                "outstanding": part,
                "value_bytes": value_bytes,
                "addresses": self._cluster.addresses,
                "leader": self._cluster.node(leader).address,
                "connections": max(1, self.plan.connections // count),
                "fill": number == 0 and not self.workload.writes,
                "seed": number,
            }
            for number, part in enumerate(_parts(outstanding, count))
        ]
        # One after the other: the first fills what the others read.
        for loader, job in zip(self._loaders, jobs, strict=True):
            await loader.order(job)
        await deferLater(self.reactor, self.plan.warm_up_seconds)
        runs = []
        for number in range(self.plan.runs):
            self.note(f"{what}: run {number + 1} of {self.plan.runs}")
            runs.append(await self._run(leader))
        await self._all([{"order": "stop"} for _ in self._loaders])
        return self._row(outstanding, value_bytes, runs)

    async def _run(self, leader: str) -> Row:
        before, counted = self._usages(), await self._counts()
        seconds = self.plan.seconds
        orders = [
            {
                "order": "measure",
                "seconds": seconds,
                "latencies": str(self.directory / f"latencies{number}"),
            }
            for number in range(len(self._loaders))
        ]
        begun = time.monotonic()
        answers = await self._all(orders, seconds)
        taken = time.monotonic() - begun
        after, counted_after = self._usages(), await self._counts()
        latencies: array[float] = array("d")
        failures: dict[str, int] = {}
        for order, answer in zip(orders, answers, strict=True):
            _extend(latencies, Path(str(order["latencies"])))
            for name, number in answer["failures"].items():
                failures[name] = failures.get(name, 0) + number
        row: Row = {**summary(latencies, max(answer["seconds"] for answer in answers))}
        row["failures"] = failures
        row["elections"] = _most_term(counted_after) - _most_term(counted)
        if not latencies:
            raise InvariantViolated(
                f"nothing was answered in {taken:.1f} s, {row['elections']} elections were held, "
                f"and {failures or 'nothing'} failed: is this machine busy with something else?"
            )
        row["processes"] = self._used(before, after, taken, leader, row["ops_per_second"])
        row["nodes"] = _synced(counted, counted_after)
        return row

    async def _all(self, orders: list[Row], seconds: float = 0.0) -> list[Row]:
        pairs = zip(self._loaders, orders, strict=True)
        return await gatherResults(
            [Deferred.fromCoroutine(loader.order(order, seconds)) for loader, order in pairs]
        )

    def _usages(self) -> dict[str, Usage]:
        outside = [each for each in self._loaders if each.process is not None]
        pids = self._pids | {loader.path.stem: loader.pid for loader in outside}
        return {name: usage(pid) for name, pid in pids.items()}

    def _used(
        self,
        before: Mapping[str, Usage],
        after: Mapping[str, Usage],
        seconds: float,
        leader: str,
        rate: float,
    ) -> dict[str, Row]:
        found = {}
        for name, now in after.items():
            cores = (now.cpu_seconds - before[name].cpu_seconds) / seconds
            found[name] = {
                "role": _role(name, leader),
                "cores": round(cores, 3),
                "us_per_operation": round(MILLION * cores / rate, 2) if rate else None,
                "resident_bytes": now.resident_bytes,
                "most_resident_bytes": now.most_resident_bytes,
            }
        return found

    async def _counts(self) -> Counts:
        """Return (syncs, entries, term) of each node that answers."""
        statuses = await self._cluster.statuses()
        return {
            id: (*(int(str(status[name])) for name in ("sync_count", "entry_count", "term")),)
            for id, status in statuses.items()
            if status is not None
        }

    def _row(self, outstanding: int, value_bytes: int, runs: list[Row]) -> Row:
        rates = [run["ops_per_second"] for run in runs]
        row: Row = {
            "workload": self.workload.name,
            "text": self.workload.text,
            "outstanding": outstanding,
            "value_bytes": value_bytes,
            "ops_per_second": round(statistics.median(rates), 1),
            "ops_per_second_least": round(min(rates), 1),
            "ops_per_second_most": round(max(rates), 1),
            "bytes_per_second": round(statistics.median(rates) * value_bytes),
        }
        for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms"):
            row[name] = round(statistics.median(run[name] for run in runs), 4)
        row["failures"] = sum(sum(run["failures"].values()) for run in runs)
        row["elections"] = sum(run["elections"] for run in runs)
        row["syncs_per_second"] = _median(runs, "syncs", self.plan.seconds)
        row["entries_per_sync"] = _median(runs, "entries_per_sync")
        if self.workload.writes:
            _require_durable(runs, self.plan.nodes)
        row["runs"] = runs
        return row

    # -- Failover ----------------------------------------------------------------------------

    async def _failover(self) -> Row:
        client = self._cluster.client(timeout_seconds=FAILOVER_SECONDS)
        gaps: list[float] = []
        try:
            for number in range(self.plan.kills):
                self.note(f"W7: kill {number + 1} of {self.plan.kills}")
                gaps.append(await self._kill(client))
        finally:
            await client.close()
        ordered = sorted(1000 * gap for gap in gaps)
        return {
            "workload": self.workload.name,
            "text": self.workload.text,
            "outstanding": 1,
            "value_bytes": self.workload.value_bytes[0],
            "ops_per_second": None,
            "p50_ms": round(statistics.median(ordered), 1),
            "p99_ms": None,
            "p999_ms": None,
            "max_ms": round(ordered[-1], 1),
            "failures": 0,
            "elections": self.plan.kills,
            "runs": [{"failover_ms": round(each, 1)} for each in ordered],
        }

    async def _kill(self, client: RaftClient) -> float:
        """Kill the leader; return how long until a write issued later was acknowledged."""
        leader = await self._cluster.wait_for_leader(START_SECONDS)
        await client.write(["set", "before", 1])
        # A leader is killed in calm: what came before must not be in the figure.
        await deferLater(self.reactor, CALM_SECONDS)
        begun = time.monotonic()
        self._cluster.kill(leader)
        while True:
            # It left before the client had heard of the end: the next one tells.
            with suppress(OutcomeUnknown):
                await client.write(["set", "after", 1])
                break
        taken = time.monotonic() - begun
        await self._cluster.restart(leader, START_SECONDS)
        await self._cluster.wait_until_equal(timeout_seconds=START_SECONDS)
        return taken


def _parts(whole: int, count: int) -> Iterator[int]:
    """Cut `whole` into `count` parts as equal as can be, each at least one."""
    for number in range(count):
        yield max(1, whole // count + (number < whole % count))


def _role(name: str, leader: str) -> str:
    if not name.startswith("node"):
        return "load"
    return "leader" if name == leader else "follower"


def _extend(latencies: array[float], path: Path) -> None:
    with path.open("rb") as file:
        latencies.frombytes(file.read())
    path.unlink()


def _most_term(counts: Counts) -> int:
    return max((term for _, _, term in counts.values()), default=0)


def _synced(before: Counts, after: Counts) -> dict[str, Row]:
    found = {}
    for id, (syncs, entries, _) in after.items():
        if id in before:
            new, added = syncs - before[id][0], entries - before[id][1]
            batch = round(added / new, 1) if new else 0.0
            found[id] = {"syncs": new, "entries": added, "entries_per_sync": batch}
    return found


def _median(runs: list[Row], key: str, divisor: float = 1.0) -> float:
    """Return the median over nodes and runs."""
    found = [node[key] / divisor for run in runs for node in run["nodes"].values()]
    return round(statistics.median(found), 1) if found else 0.0


def _require_durable(runs: list[Row], nodes: int) -> None:
    """Hold the figures to what they claim: a majority synced while writes were answered.

    Raises:
        InvariantViolated: it did not.
    """
    for run in runs:
        synced = [node for node in run["nodes"].values() if node["syncs"] and node["entries"]]
        if run["ops_per_second"] and len(synced) <= nodes // 2:
            raise InvariantViolated("writes were answered, and no majority has synced its log")


def failed(error: BaseException) -> str:
    """Return an error's own words, without its class's sentence."""
    return ": ".join(map(str, error.args)) if isinstance(error, RaftError) else str(error)
