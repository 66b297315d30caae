"""A cluster under load: orders to those who put it on, and the figures of a span of it.

`Stand` is one that was started here, `RunningStand` one that somebody else runs. The load always
comes from processes of its own; this one only gives orders and sleeps while something is measured.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import Factory, define, field, frozen
from twisted.internet.defer import Deferred, gatherResults

from raft.bench.load import summary
from raft.bench.loader import Loader
from raft.bench.plan import Row, Task
from raft.bench.rows import COUNTED, Counts, most_term, parts, synced, used
from raft.errors import InvariantViolated, RaftError
from raft.testing.processes import start_process
from raft.usage import Usage, usage

TIMEOUT_SECONDS = 10.0
"""How long an operation may take."""
SEVERAL = ("connections", "clients")
"""The targets whose load may come from several processes."""
Statuses = Mapping[str, Mapping[str, object] | None]


@frozen
class Figures:
    """What every process has used so far, and what every node has counted, by name."""

    usages: Mapping[str, Usage]
    counts: Counts


@define(eq=False)
class Loaded(ABC):
    """One cluster and its load; `async with` prepares both and ends what was started.

    Attributes:
        task: what is measured.
        leader: who leads, as it was found last.
        nodes: how many servers hold a copy and vote.
    """

    task: Task
    nodes: int = Factory(lambda self: self.task.plan.nodes, takes_self=True)
    leader: str = field(init=False, default="")
    _loaders: list[Loader] = field(init=False, factory=list)
    _sockets: Path = field(init=False, factory=lambda: Path(tempfile.mkdtemp(prefix="raft-")))
    """A path of its own, because a socket's may have no more than some 100 characters."""

    async def __aenter__(self) -> Loaded:
        """Prepare the cluster.

        Raises:
            RaftError: it cannot be measured; what was started has been ended.
        """
        try:
            await self.prepare()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        """End what was started."""
        await self.close()

    async def close(self) -> None:
        """End the load, whether or not its operations are answered."""
        for loader in self._loaders:
            loader.close()
        self._loaders.clear()
        shutil.rmtree(self._sockets, ignore_errors=True)

    # -- The cluster ---------------------------------------------------------------------------

    @property
    @abstractmethod
    def directory(self) -> Path:
        """Where files of the load may go."""

    @property
    @abstractmethod
    def addresses(self) -> Sequence[str]:
        """The client addresses of the nodes."""

    @property
    @abstractmethod
    def leader_address(self) -> str:
        """The client address of the leader."""

    @abstractmethod
    async def prepare(self) -> None:
        """Start the cluster, or find it; learn who leads."""

    @abstractmethod
    async def statuses(self) -> Statuses:
        """Return what each node says of itself; None of one that does not answer."""

    @property
    def pids(self) -> dict[str, int]:
        """The processes of the nodes, as far as they run here and are known."""
        return {}

    # -- Load ----------------------------------------------------------------------------------

    async def start_load(self, outstanding: int, value_bytes: int, **special: object) -> None:
        """Keep so many operations outstanding, until `stop_load`; `special` goes into the job."""
        await self._connect()
        workload, plan, count = self.task.workload, self.task.plan, len(self._loaders)
        jobs = [
            {
                "order": "start",
                "target": workload.target,
                "operations": workload.operations,
                "outstanding": part,
                "value_bytes": value_bytes,
                "addresses": list(self.addresses),
                "leader": self.leader_address,
                "allow_plaintext": plan.running is not None and plan.running.allow_plaintext,
                "prefix": plan.running.prefix if plan.running is not None else "",
                "connections": max(1, plan.connections // count),
                "fill": number == 0 and not workload.writes,
                "spread": workload.spread,
                "clients": max(1, plan.clients // count),
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
            inside = Loader(self.task.reactor, self.socket(self.leader), self.pids[self.leader])
            self._loaders.append(inside)
        else:
            several = self.task.workload.target in SEVERAL
            count = self.task.plan.load_processes if several else 1
            for number in range(1, count + 1):
                self._loaders.append(self._new_loader(f"load{number}"))
        for loader in self._loaders:
            await loader.connect()

    def socket(self, name: str) -> Path:
        """Return where the worker `name` takes its orders."""
        return self._sockets / f"{name}.load"

    def _new_loader(self, name: str) -> Loader:
        socket = self.socket(name)
        command = [sys.executable, "-m", "raft.bench.worker", str(socket)]
        process: subprocess.Popen[bytes] = start_process(command, self.directory / f"{name}.log")
        return Loader(self.task.reactor, socket, process.pid, process)

    async def _all(self, orders: list[Row], seconds: float = 0.0) -> list[Row]:
        pairs = zip(self._loaders, orders, strict=True)
        return await gatherResults(
            [Deferred.fromCoroutine(loader.order(order, seconds)) for loader, order in pairs]
        )

    # -- What a span of it took ----------------------------------------------------------------

    async def measured(self, seconds: float, count: int = 0) -> Row:
        """Return the figures of so many seconds, or of the first `count` answers in them.

        Raises:
            InvariantViolated: nothing was answered.
        """
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
        before, begun = await self.figures(), time.monotonic()
        answers = await self._all(orders, seconds)
        taken, used_here = time.monotonic() - begun, self._used_here()
        after = await self.figures(used_here)
        latencies, failures = _joined(orders, answers)
        row: Row = {**summary(latencies, max(answer["seconds"] for answer in answers))}
        row["seconds"] = taken
        row["failures"] = failures
        row["elections"] = most_term(after.counts) - most_term(before.counts)
        row["load"] = [answer.get("load", {}) for answer in answers]
        if not latencies:
            raise InvariantViolated(
                f"nothing was answered in {taken:.1f} s, {row['elections']} elections were held, "
                f"and {failures or 'nothing'} failed: is this machine busy with something else?"
            )
        return row | self.told(before, after, taken, row["ops_per_second"])

    def told(self, before: Figures, after: Figures, seconds: float, rate: float) -> Row:
        """Return what processes used and nodes counted between two moments.

        `rate` is how many operations a second were answered, or 0 where that has no meaning.
        """
        nodes = {id: "leader" if id == self.leader else "follower" for id in after.counts}
        roles = nodes | {each.path.stem: "load" for each in self._outside}
        begun = {
            name
            for name, now in after.usages.items()
            if now.pid and (name not in before.usages or before.usages[name].pid != now.pid)
        }
        return {
            "processes": used(before.usages, after.usages, seconds, roles, rate),
            "nodes": synced(before.counts, after.counts, seconds, begun),
        }

    async def figures(self, used_here: Mapping[str, Usage] | None = None) -> Figures:
        """Return how much was used and counted so far; what runs here is read last, or given."""
        statuses = await self.statuses()
        # One that has stopped or was set aside tells little more than that.
        answered = {
            id: status
            for id, status in statuses.items()
            if status is not None and all(name in status for name in COUNTED)
        }
        counts = {
            id: (*(int(str(status[name])) for name in COUNTED),) for id, status in answered.items()
        }
        told = {
            id: Usage(
                float(str(status["cpu_seconds"])),
                int(str(status["resident_bytes"])),
                int(str(status.get("most_resident_bytes", 0))),
            )
            for id, status in answered.items()
            if "cpu_seconds" in status and "resident_bytes" in status
        }
        return Figures({**told, **(used_here or self._used_here())}, counts)

    @property
    def _outside(self) -> list[Loader]:
        return [each for each in self._loaders if each.process is not None]

    def _used_here(self) -> dict[str, Usage]:
        pids = self.pids | {loader.path.stem: loader.pid for loader in self._outside}
        found = {name: usage(pid) for name, pid in pids.items()}
        return {name: each for name, each in found.items() if each is not None}


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
