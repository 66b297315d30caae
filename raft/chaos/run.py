"""A whole run: phases of storm, each followed by healing and judgement."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

from attrs import Factory, define, frozen
from twisted.internet.defer import DeferredList
from twisted.internet.task import LoopingCall

from raft.chaos.changes import reconcile
from raft.chaos.clients import KEYS, Crowd, Notes
from raft.chaos.cluster import ChaosCluster, Template
from raft.chaos.direct import DirectReader
from raft.chaos.mesh import Mesh
from raft.chaos.processes import all_started
from raft.chaos.stage import Stage
from raft.chaos.storm import Storm
from raft.chaos.verdict import (
    Logs,
    descriptors_are_few,
    equal,
    found_under,
    idle,
    judged,
    kept,
    resident_bytes,
)
from raft.client import RaftClient
from raft.errors import CommandError, CommandFailed, RaftError
from raft.interfaces import Value

HEALING_SECONDS: Final = 30.0
HEALING_UNITS: Final = 40.0
"""Within the longer of these a healed cluster has a leader, and a fresh write is done."""

EQUAL_SECONDS: Final = 60.0
START_SECONDS: Final = 60.0
BATCH: Final = 200
YOUNG_SECONDS: Final = 30.0
OLD_SECONDS: Final = 60.0
MEMORY_SECONDS: Final = 5.0
"""How often memory is looked at."""
KEPT_KEYS: Final = 100
"""So many keys of each phase's ledger stay, and must still be there at the very end."""


@frozen
class Plan:
    """What a run shall be.

    Attributes:
        seconds: how long storms rage, all together.
        phase_seconds: how long one of them does.
        seed: of everything that is drawn.
        nodes: how many.
        clients: how many, at most 8.
        faults: the names of the kinds; all where it is empty.
        mean_seconds: between two faults.
        small_disks: whether small file systems may be mounted.
        draw: draws commands for a machine other than the key-value store; None for that.
    """

    seconds: float
    phase_seconds: float = 40.0
    seed: int = 0
    nodes: int = 3
    clients: int = 6
    faults: Collection[str] = ()
    mean_seconds: float = 1.0
    small_disks: bool = True
    draw: Callable[[random.Random], Value] | None = None


@define
class Outcome:
    """What came of a run.

    Attributes:
        seed: it was drawn from.
        violations: sentences; none where all is well.
        undecided: histories that could not be judged within the time for it.
        faults: how often what was done.
        outcomes: how many operations ended how.
        judged: how many operations were judged in histories.
        phases: how many.
        longest_seconds: the longest time in which no write was acknowledged.
        healing_seconds: the longest time from healing to a fresh write.
        memory_slope: of the nodes' resident bytes per hour, where it could be told.
    """

    seed: int
    violations: list[str] = Factory(list)
    undecided: list[str] = Factory(list)
    faults: Counter[str] = Factory(Counter)
    outcomes: Counter[str] = Factory(Counter)
    judged: int = 0
    phases: int = 0
    longest_seconds: float = 0.0
    healing_seconds: float = 0.0
    memory_slope: float | None = None


class Run:
    """One run, in a directory of its own."""

    def __init__(
        self,
        reactor: Any,
        directory: Path,
        plan: Plan,
        template: Template,
        report: Callable[[str], object],
    ) -> None:
        """Write the nodes' files into `directory`; start nothing."""
        self.directory = directory
        self.plan = plan
        self.outcome = Outcome(plan.seed)
        self.reactor = reactor
        self._report = report
        directory.mkdir(parents=True, exist_ok=True)
        self._began = time.monotonic()
        self._events = (directory / "events.log").open("a", buffering=1)
        self._mesh = Mesh(reactor)
        self._cluster = ChaosCluster(
            directory, plan.nodes, self._mesh, template, reactor, plan.small_disks
        )
        self._client: RaftClient = self._cluster.client(timeout_seconds=10.0, sessions=False)
        self.stage = Stage(
            reactor,
            self._cluster,
            self._mesh,
            self._client,
            template.election_timeout_seconds,
            self._tell,
        )
        self.outcome.violations = self.stage.violations
        self.outcome.faults = self.stage.tally
        self._leases = bool(template.settings.get("clock_drift"))
        self._logs = Logs()
        self._sampling: LoopingCall | None = None
        self._memory: dict[int, list[tuple[float, int]]] = {}
        self._ledgers: list[Notes] = []
        self._asked: Counter[str] = Counter()
        self._done: Counter[str] = Counter()

    def _tell(self, text: str) -> None:
        self._events.write(f"{time.monotonic() - self._began:9.3f} {text}\n")
        self._report(text)

    async def run(self) -> Outcome:
        """Do all of it, and end every process that was started.

        Raises:
            RaftError: the nodes cannot even be started.
        """
        try:
            await self.start()
            left = self.plan.seconds
            while left > 0 and not self.outcome.violations:
                self.outcome.phases += 1
                await self._phase(min(left, self.plan.phase_seconds))
                left -= self.plan.phase_seconds
            for text in idle(self._asked, self._done):
                self.stage.violated(text)
            if not self.outcome.outcomes["ok"]:
                self.stage.violated("no operation of any client was done")
            if not self.outcome.violations:
                await self._reckon()
        finally:
            await self.end()
        return self.outcome

    async def start(self) -> None:
        """Start the nodes, and watch them.

        Raises:
            RaftError: there is no leader in time.
        """
        await self._cluster.start(START_SECONDS)
        self.stage.watch()
        self._sampling = LoopingCall(self._sample_memory)
        self._sampling.start(MEMORY_SECONDS)

    async def _reckon(self) -> None:
        """Hold the cluster, at the very end, to what it promised long ago."""
        for notes in self._ledgers:
            found = await found_under(self._client, notes.prefix)
            for text in notes.lost(found):
                self.stage.violated(text)

    async def end(self) -> None:
        """End everything that was started."""
        self.stage.rest()
        if self._sampling is not None and self._sampling.running:
            self._sampling.stop()
        self.outcome.memory_slope = slope(list(self._memory.values()))
        await self._client.close()
        await self._cluster.stop()
        await self._mesh.close()
        self._cluster.destroy()
        self._events.close()

    # -- A phase ---------------------------------------------------------------------------------

    async def _phase(self, seconds: float) -> None:
        number = self.outcome.phases
        crowd, notes, history = self.crowd(f"p{number}")
        self._tell(f"phase {number}: storm for {seconds:.0f} s")
        reader = self.direct_reader(notes, history)
        crowd.start(self.reactor)
        try:
            seed = f"{self.plan.seed} {number}"
            storm = Storm(self.stage, seed, self.plan.faults, self.plan.mean_seconds)
            await storm.rage(seconds)
            await self.heal(notes.phase)
        finally:
            if reader is not None:
                reader.stop()
            await crowd.stop()
        await self.judge(notes, history)

    def crowd(self, phase: str) -> tuple[Crowd, Notes, Path]:
        """Return the clients of a phase, what they will note, and the file of their history."""
        notes = Notes(phase, self.directory / f"{phase}.acknowledged")
        history = self.directory / f"{phase}.history.jsonl"
        crowd = Crowd(
            self._cluster.outside_client,
            self.plan.clients,
            notes,
            history,
            random.Random(f"{self.plan.seed} {phase}"),
            self._leases,
            self.plan.draw,
        )
        return crowd, notes, history

    def direct_reader(self, notes: Notes, history: Path) -> DirectReader | None:
        """Return who reads from each node for itself, and has begun; None for other machines."""
        if self.plan.draw is not None:
            return None
        key = f"{notes.phase}/{KEYS[0]}"
        reader = DirectReader(self.reactor, lambda: self._cluster.doors, key, history)
        reader.start()
        return reader

    async def heal(self, phase: str) -> None:
        """Undo every fault; then a leader, and a fresh write, must come within a bound."""
        stage = self.stage
        self._tell("healing")
        self._mesh.heal()
        began = time.monotonic()
        bound = max(HEALING_SECONDS, HEALING_UNITS * stage.unit_seconds)
        if not await all_started(stage, bound):
            stage.violated(f"not all nodes answer {bound:.0f} s after everything was healed")
        left = max(1.0, began + bound - time.monotonic())
        try:
            await self._fresh_write(phase, left)
        except RaftError as error:
            stage.violated(f"no write is done {bound:.0f} s after everything was healed: {error!r}")
            return
        took = time.monotonic() - began
        self.outcome.healing_seconds = max(self.outcome.healing_seconds, took)
        self._tell(f"a fresh write {took:.2f} s after healing")
        try:
            await reconcile(stage, self.plan.nodes)
        except RaftError as error:
            stage.violated(f"the members cannot be put in order: {error!r}")

    async def _fresh_write(self, phase: str, seconds: float) -> None:
        draw = self.plan.draw
        command = ["set", f"{phase}/healed", 1] if draw is None else draw(random.Random(phase))
        try:
            await self._client.write(command, seconds)
        except (CommandError, CommandFailed):
            # The machine refused what was committed and applied.
            pass

    async def judge(self, notes: Notes, history: Path) -> None:
        """Hold the cluster to everything that clients were told in this phase."""
        violations = list(notes.violations)
        violations += await equal(self.stage, EQUAL_SECONDS)
        if self.plan.draw is None:
            violations += await kept(self._client, notes)
            violations += await self._judge_history(history)
        violations += await descriptors_are_few(self.stage)
        nodes = [*self._cluster.nodes.values(), *self._cluster.retired]
        violations += self._logs.complaints(nodes)
        for text in violations:
            self.stage.violated(text)
        self.outcome.outcomes += notes.outcomes
        self._asked += notes.asked
        self._done += notes.done
        self.outcome.longest_seconds = max(self.outcome.longest_seconds, notes.longest_seconds)
        if not self.stage.violations:
            await self._thin_out(notes)

    async def _judge_history(self, history: Path) -> list[str]:
        """Return what is wrong with a history; one that is well goes."""
        judgement = await judged(history, history.with_suffix(".svg"))
        self._tell(f"history of {judgement.operations} operations: {judgement.verdict}")
        self.outcome.judged += judgement.operations
        if judgement.verdict == "unknown":
            self.outcome.undecided.append(f"{history}: {judgement.text}")
        elif judgement.verdict != "linearizable":
            return [f"{history.name} is {judgement.verdict}: {judgement.text}"]
        else:
            history.unlink(missing_ok=True)
        return []

    async def _thin_out(self, notes: Notes) -> None:
        """Keep some keys until the end, and delete the others: the state must not only grow."""
        gone = [*list(notes.acknowledged)[KEPT_KEYS:], *notes.unknown, *notes.refused]
        for start in range(0, len(gone), BATCH):
            deleting = [self._client.write(["delete", key]) for key in gone[start : start + BATCH]]
            await DeferredList(deleting, consumeErrors=True)
        notes.acknowledged = dict(itertools.islice(notes.acknowledged.items(), KEPT_KEYS))
        notes.path.unlink(missing_ok=True)
        self._ledgers.append(notes)

    def _sample_memory(self) -> None:
        now = time.monotonic()
        for node in self._cluster.nodes.values():
            if node.running and node.process is not None:
                pid = node.process.pid
                self._memory.setdefault(pid, []).append((now, resident_bytes(pid)))


def slope(samples: list[list[tuple[float, int]]]) -> float | None:
    """Return by how many bytes an hour processes grow, of those that were seen often enough.

    Each process is measured against itself alone, from half a minute after its start: one that
    has just started is small, and few live long.
    """
    above = below = 0.0
    for seen in samples:
        each = [(when, size) for when, size in seen if when >= seen[0][0] + YOUNG_SECONDS]
        if len(each) >= 2 and each[-1][0] - each[0][0] >= OLD_SECONDS:
            mean = sum(when for when, _ in each) / len(each)
            level = sum(size for _, size in each) / len(each)
            above += sum((when - mean) * (size - level) for when, size in each)
            below += sum((when - mean) ** 2 for when, _ in each)
    return above / below * 3600 if below else None
