"""Clients that write and read while everything goes wrong, and note what they are told.

Each kind does something of its own: what must be linearizable goes into a history; what must not
be lost, into a ledger; who reads stale states must at least never go back.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from attrs import Factory, define
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from raft.client import RaftClient
from raft.errors import (
    CommandError,
    CommandFailed,
    NotApplied,
    OutcomeUnknown,
    RaftError,
    Refused,
    Timeout,
)
from raft.interfaces import Value

KEYS: Final = "aaaabcd"
"""Half of everything meets under one key: what is stale shows only where others have written."""

LISTS: Final = "xyz"
CALL_SECONDS: Final = 2.0
PAUSE_SECONDS: Final = 0.02
"""The mean time between two operations of a client."""


@define(eq=False)
class Notes:
    """What all clients of a phase were told.

    Attributes:
        phase: the beginning of all keys.
        acknowledged: by key, what must be there.
        unknown: by key, what may be there.
        outcomes: how many operations ended how.
        asked: how many operations each client began, by its name.
        done: how many of these were done.
        violations: sentences about what no client may see.
        last_ns: when a write was last acknowledged.
        longest_seconds: the longest time without that.
    """

    phase: str
    path: Path
    acknowledged: dict[str, Value] = Factory(dict)
    unknown: dict[str, Value] = Factory(dict)
    refused: dict[str, Value] = Factory(dict)
    outcomes: Counter[str] = Factory(Counter)
    asked: Counter[str] = Factory(Counter)
    done: Counter[str] = Factory(Counter)
    violations: list[str] = Factory(list)
    last_ns: int = Factory(time.monotonic_ns)
    longest_seconds: float = 0.0
    _file: Any = None

    def acknowledge(self, key: str, value: Value) -> None:
        """Note on the disk, before anything else, that a write was acknowledged."""
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
        self._file.write(json.dumps([key, value]).encode() + b"\n")
        os.fdatasync(self._file.fileno())
        self.acknowledged[key] = value

    def progress(self) -> None:
        """Note that a write was acknowledged just now."""
        now = time.monotonic_ns()
        self.longest_seconds = max(self.longest_seconds, (now - self.last_ns) / 1e9)
        self.last_ns = now

    def close(self) -> None:
        """Write no more."""
        self.progress()
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def prefix(self) -> str:
        """The beginning of the ledger's keys."""
        return f"{self.phase}/ledger/"

    def lost(self, found: Mapping[str, Value]) -> list[str]:
        """Return what was acknowledged and is not in `found`, keys of the ledger."""
        return [
            f"{key} was acknowledged as {value!r} and is {found.get(key)!r}"
            for key, value in self.acknowledged.items()
            if found.get(key) != value
        ]

    def differences(self, found: Mapping[str, Value]) -> list[str]:
        """Return what in `found`, all keys of the ledger, breaks a promise."""
        wrong = self.lost(found)
        for key, value in found.items():
            if key in self.refused:
                wrong.append(f"{key} was definitely not applied and is {value!r}")
            elif key not in self.acknowledged and self.unknown.get(key) != value:
                wrong.append(f"{key} is {value!r}, which nobody wrote")
        return wrong


Step = Callable[["Worker"], Awaitable[object]]


@define(eq=False)
class Worker:
    """One client, which takes one step after another until it is told to stop."""

    name: str
    client: RaftClient
    notes: Notes
    chance: random.Random
    step: Step
    numbers: Any = Factory(lambda: itertools.count(1))
    seen: dict[str, int] = Factory(dict)
    goes_on: bool = True

    async def run(self, reactor: Any) -> None:
        """Take steps."""
        while self.goes_on:
            await self.step(self)
            await deferLater(reactor, self.chance.expovariate(1 / PAUSE_SECONDS))

    async def ask(self, call: Deferred[Any], writes: bool) -> tuple[str, Any]:
        """Await a call; return how it ended, as "ok", "refused" or "unknown", and the result."""
        outcome, result = "ok", None
        self.notes.asked[self.name] += 1
        try:
            result = await call
        except (CommandError, CommandFailed):
            outcome = "ok"
        except Refused as error:
            # No outage explains it.
            self.notes.violations.append(f"{self.name} was refused: {error!r}")
            outcome = "refused"
        except NotApplied:
            outcome = "refused"
        except Timeout as error:
            outcome = "unknown" if error.appended and writes else "refused"
        except OutcomeUnknown:
            outcome = "unknown"
        except RaftError as error:
            self.notes.violations.append(f"{self.name} was told {error!r}")
            outcome = "unknown"
        self.notes.outcomes[outcome] += 1
        self.notes.done[self.name] += outcome == "ok"
        if writes and outcome == "ok":
            self.notes.progress()
        return outcome, result


async def registers(worker: Worker) -> None:
    """Put, read, compare-and-set and delete a few keys; the history is judged."""
    chance, client = worker.chance, worker.client
    key = f"{worker.notes.phase}/{chance.choice(KEYS)}"
    value = f"{worker.name}{next(worker.numbers)}"
    kind = chance.randrange(10)
    if kind < 4:
        await worker.ask(client.read(["get", key], CALL_SECONDS), False)
    elif kind < 7:
        await worker.ask(client.write(["set", key, value], CALL_SECONDS), True)
    elif kind < 9:
        expected = await worker.ask(client.read(["get", key], CALL_SECONDS), False)
        await worker.ask(client.write(["cas", key, expected[1], value], CALL_SECONDS), True)
    else:
        await worker.ask(client.write(["delete", key], CALL_SECONDS), True)


async def lists(worker: Worker) -> None:
    """Append to a few lists, and read them; a list grows to a few dozen values."""
    chance, client = worker.chance, worker.client
    number = next(worker.numbers)
    key = f"{worker.notes.phase}/{chance.choice(LISTS)}{number // 100}"
    if chance.random() < 0.5:
        await worker.ask(client.read(["get", key], CALL_SECONDS), False)
    else:
        command: list[Value] = ["append", key, f"{worker.name}{number}"]
        await worker.ask(client.write(command, CALL_SECONDS), True)


async def ledger(worker: Worker) -> None:
    """Write keys of its own, each once, and note on the disk what is acknowledged."""
    notes, number = worker.notes, next(worker.numbers)
    key = f"{notes.prefix}{worker.name}/{number}"
    notes.unknown[key] = number
    outcome, _ = await worker.ask(worker.client.write(["set", key, number], CALL_SECONDS), True)
    if outcome != "unknown":
        del notes.unknown[key]
        if outcome == "ok":
            notes.acknowledge(key, number)
        else:
            notes.refused[key] = number


async def counter(worker: Worker) -> None:
    """Count up under one key, for those who read stale states."""
    key = f"{worker.notes.phase}/counter"
    await worker.ask(worker.client.write(["set", key, next(worker.numbers)], CALL_SECONDS), True)


async def stale_reads(worker: Worker) -> None:
    """Read from anybody, as old as it may be; with `monotonic`, what is seen never goes back."""
    key = f"{worker.notes.phase}/counter"
    outcome, found = await worker.ask(
        worker.client.read(["get", key], CALL_SECONDS, consistency="local"), False
    )
    before = worker.seen.get(key, 0)
    if outcome == "ok":
        # Nothing under the key is the oldest state of all.
        seen = found or 0
        if seen < before:
            worker.notes.violations.append(
                f"{worker.name} saw {before} under {key}, and {found} later"
            )
        worker.seen[key] = max(before, seen)


async def lease_reads(worker: Worker) -> None:
    """Read by lease from the leader; the history is judged like any other."""
    key = f"{worker.notes.phase}/{worker.chance.choice(KEYS)}"
    await worker.ask(worker.client.read(["get", key], CALL_SECONDS, consistency="lease"), False)


def drawn(draw: Callable[[random.Random], Value]) -> Step:
    """Return a step that writes what `draw` draws; what the machine refuses is an answer."""

    async def commands(worker: Worker) -> None:
        await worker.ask(worker.client.write(draw(worker.chance), CALL_SECONDS), True)

    return commands


Options = Mapping[str, Any]

KINDS: Final[tuple[tuple[Step, Options], ...]] = (
    (registers, {}),
    (ledger, {}),
    (registers, {"sessions": False}),
    (lists, {}),
    (counter, {}),
    (stale_reads, {"monotonic": True, "spread_reads": True}),
    (registers, {"spread_reads": True}),
    (ledger, {"sessions": False}),
)
"""What clients do, and how they are made; the first so many of these are run."""

LEASES: Final[tuple[Step, Options]] = (lease_reads, {})
UNRECORDED: Final = frozenset({ledger, counter, stale_reads})


class Crowd:
    """All clients of a phase."""

    def __init__(
        self,
        make: Callable[..., RaftClient],
        count: int,
        notes: Notes,
        history: Path,
        chance: random.Random,
        leases: bool,
        draw: Callable[[random.Random], Value] | None = None,
    ) -> None:
        """Make so many clients; those whose results are judged write into `history`.

        With `draw`, all of them write what it draws and nothing else: nobody here knows what
        the machine's results should be.
        """
        self.notes = notes
        self.workers = []
        kinds = [*KINDS[: max(1, count - leases)], *([LEASES] if leases else [])]
        if draw is not None:
            kinds = [(drawn(draw), {"sessions": number % 2 == 0}) for number in range(count)]
        for number, (step, options) in enumerate(kinds):
            given = dict(options)
            if draw is None and step not in UNRECORDED:
                given["record"] = history
            client = make(timeout_seconds=CALL_SECONDS, **given)
            name = "pqrstuvwxyz"[number]
            own = random.Random(chance.getrandbits(64))
            self.workers.append(Worker(name, client, notes, own, step))
        self._running: list[Deferred[None]] = []

    def start(self, reactor: Any) -> None:
        """Let all begin."""
        self._running = [Deferred.fromCoroutine(each.run(reactor)) for each in self.workers]

    async def stop(self) -> None:
        """Let all end what they do, and close their clients."""
        for worker in self.workers:
            worker.goes_on = False
        try:
            await gatherResults(self._running, consumeErrors=True)
        finally:
            for worker in self.workers:
                await worker.client.close()
            self.notes.close()
