"""A cluster with the load that is put on it: started, asked, measured, ended.

Every process is one that was started here: the nodes, each a twistd of its own, and the
load's. This process only gives orders and sleeps while something is measured.

    async with Stand(task) as stand:
        await stand.start_load(1000, 64)
        run = await stand.measured(3.0)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Mapping
from pathlib import Path

from attrs import Factory, define, field
from twisted.internet.defer import Deferred, gatherResults

from raft.bench.facts import Usage, usage
from raft.bench.inside import tac_of
from raft.bench.load import summary
from raft.bench.loader import Loader
from raft.bench.plan import START_SECONDS, Row, Task
from raft.bench.rows import COUNTED, Counts, most_term, parts, synced, used
from raft.errors import InvariantViolated, RaftError
from raft.testing.processes import ProcessCluster, start_process

TIMEOUT_SECONDS = 10.0
"""How long an operation may take."""
SEVERAL = ("connections", "clients")
"""The targets whose load may come from several processes."""


@define(eq=False)
class Stand:
    """One cluster and its load; `async with` starts the cluster and ends everything.

    Attributes:
        task: what is measured.
        nodes: how many; those of the plan by default.
        settings: what differs from the defaults in all nodes' files.
        leader: who leads, as it was found last.
    """

    task: Task
    nodes: int = Factory(lambda self: self.task.plan.nodes, takes_self=True)
    settings: Mapping[str, object] = Factory(dict)
    name: str = "cluster"
    cluster: ProcessCluster = field(init=False)
    leader: str = field(init=False, default="")
    _loaders: list[Loader] = Factory(list)
    _sockets: Path = Factory(lambda: Path(tempfile.mkdtemp(prefix="raft-")))
    """A path of its own, because a socket's may have no more than some 100 characters."""

    def __attrs_post_init__(self) -> None:
        self.cluster = ProcessCluster(
            self.directory, self.nodes, settings=self.settings, reactor=self.task.reactor
        )
        if self.task.workload.target == "inside":
            for node in self.cluster.nodes.values():
                tac = self.directory / f"{node.id}.tac"
                tac.write_text(tac_of(str(node.config_path), str(self._socket(node.id))), "utf-8")
                node.arguments = ["-y", str(tac)]

    @property
    def directory(self) -> Path:
        """Where the nodes' files are."""
        return self.task.directory / self.name

    async def __aenter__(self) -> Stand:
        """Start every node.

        Raises:
            Timeout: no leader was elected; what was started has been ended.
        """
        try:
            self.leader = await self.cluster.start(START_SECONDS)
            await self.cluster.wait_until_equal(1)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End everything."""
        await self.close()

    async def close(self) -> None:
        """End the load and every node, and remove what they wrote."""
        for loader in self._loaders:
            loader.close()
        await self.cluster.stop()
        shutil.rmtree(self._sockets, ignore_errors=True)
        # The next cluster may need the room.
        shutil.rmtree(self.directory, ignore_errors=True)

    def _socket(self, name: str) -> Path:
        return self._sockets / f"{name}.load"

    # -- Load --------------------------------------------------------------------------------

    async def start_load(self, outstanding: int, value_bytes: int, **special: object) -> None:
        """Keep so many operations outstanding, until `stop_load`; `special` goes into the job."""
        await self._connect()
        workload, count = self.task.workload, len(self._loaders)
        jobs = [
            {
                "order": "start",
                "target": workload.target,
                "operations": workload.operations,
                "outstanding": part,
                "value_bytes": value_bytes,
                "addresses": self.cluster.addresses,
                "leader": self.cluster.node(self.leader).address,
                "connections": max(1, self.task.plan.connections // count),
                "fill": number == 0 and not workload.writes,
                "spread": workload.spread,
                "clients": max(1, self.task.plan.clients // count),
                "loaders": count,
                "timeout_seconds": TIMEOUT_SECONDS,
                "seed": number,
                **special,
            }
            for number, part in enumerate(parts(outstanding, count))
        ]
        # One after the other: the first fills what the others read.
        for loader, job in zip(self._loaders, jobs, strict=True):
            await loader.order(job)

    async def stop_load(self) -> None:
        """Begin nothing more, and wait for the last answers."""
        await self._all([{"order": "stop"} for _ in self._loaders])

    async def _connect(self) -> None:
        if self._loaders:
            return
        if self.task.workload.target == "inside":
            inside = Loader(self.task.reactor, self._socket(self.leader), self._pids[self.leader])
            self._loaders.append(inside)
        else:
            several = self.task.workload.target in SEVERAL
            count = self.task.plan.load_processes if several else 1
            for number in range(1, count + 1):
                self._loaders.append(self._new_loader(f"load{number}"))
        for loader in self._loaders:
            await loader.connect()

    def _new_loader(self, name: str) -> Loader:
        socket = self._socket(name)
        command = [sys.executable, "-m", "raft.bench.worker", str(socket)]
        process: subprocess.Popen[bytes] = start_process(command, self.directory / f"{name}.log")
        return Loader(self.task.reactor, socket, process.pid, process)

    async def _all(self, orders: list[Row], seconds: float = 0.0) -> list[Row]:
        pairs = zip(self._loaders, orders, strict=True)
        return await gatherResults(
            [Deferred.fromCoroutine(loader.order(order, seconds)) for loader, order in pairs]
        )

    # -- What a span of it took ---------------------------------------------------------------

    async def measured(self, seconds: float, count: int = 0) -> Row:
        """Return the figures of so many seconds, or of the first `count` answers in them.

        Raises:
            InvariantViolated: nothing was answered.
        """
        before, counted = self._usages(), await self.counts()
        count_each = -(-count // len(self._loaders))
        orders: list[Row] = [
            {
                "order": "measure",
                "seconds": seconds,
                "count": count_each,
                "latencies": str(self.directory / f"latencies{number}"),
            }
            for number in range(len(self._loaders))
        ]
        begun = time.monotonic()
        answers = await self._all(orders, seconds)
        taken = time.monotonic() - begun
        after, counted_after = self._usages(), await self.counts()
        latencies, failures = _joined(orders, answers)
        row: Row = {**summary(latencies, max(answer["seconds"] for answer in answers))}
        row["seconds"] = taken
        row["failures"] = failures
        row["elections"] = most_term(counted_after) - most_term(counted)
        row["load"] = [answer.get("load", {}) for answer in answers]
        if not latencies:
            raise InvariantViolated(
                f"nothing was answered in {taken:.1f} s, {row['elections']} elections were held, "
                f"and {failures or 'nothing'} failed: is this machine busy with something else?"
            )
        row["processes"] = used(before, after, taken, self.leader, row["ops_per_second"])
        row["nodes"] = synced(counted, counted_after, taken)
        return row

    @property
    def _pids(self) -> dict[str, int]:
        nodes = self.cluster.nodes.values()
        return {node.id: node.process.pid for node in nodes if node.process is not None}

    def _usages(self) -> dict[str, Usage]:
        outside = [each for each in self._loaders if each.process is not None]
        pids = self._pids | {loader.path.stem: loader.pid for loader in outside}
        return {name: usage(pid) for name, pid in pids.items()}

    async def counts(self) -> Counts:
        """Return what each node that answers has counted so far."""
        statuses = await self.cluster.statuses()
        return {
            id: (*(int(str(status[name])) for name in COUNTED),)
            for id, status in statuses.items()
            if status is not None
        }

    async def number(self, id: str, key: str) -> int:
        """Return a number of a node's status; -1 where it does not answer."""
        status = await self.cluster.status(id)
        return -1 if status is None else int(str(status.get(key, -1)))


def _joined(orders: list[Row], answers: list[Row]) -> tuple[array[float], dict[str, int]]:
    """Return the latencies and failures of all generators of load."""
    latencies: array[float] = array("d")
    failures: dict[str, int] = {}
    for order, answer in zip(orders, answers, strict=True):
        path = Path(str(order["latencies"]))
        with path.open("rb") as file:
            latencies.frombytes(file.read())
        path.unlink()
        for name, number in answer["failures"].items():
            failures[name] = failures.get(name, 0) + number
    return latencies, failures


def failed(error: BaseException) -> str:
    """Return an error's own words, without its class's sentence."""
    return ": ".join(map(str, error.args)) if isinstance(error, RaftError) else str(error)
