"""A machine that is right, and the same with one bug planted in each: a table of who works at what.

Commands are ["join", worker], ["leave", worker], ["assign", job] (the worker that got it) and
["finish", job] (how long it took).
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from time import time as now
from typing import Any

from zope.interface import implementer

from raft.errors import CommandError
from raft.interfaces import Context, IStateMachine, Value

WORKERS = [f"worker {letter}" for letter in "abcdefgh"]


def commands(chance: random.Random) -> Value:
    """Draw a command."""
    match chance.randrange(8):
        case 0 | 1:
            return ["join", chance.choice(WORKERS)]
        case 2:
            return ["leave", chance.choice(WORKERS)]
        case 3 | 4 | 5:
            return ["assign", chance.randrange(20)]
    return ["finish", chance.randrange(20)]


def queries(chance: random.Random) -> Value:
    """Draw a query."""
    return chance.randrange(20)


@implementer(IStateMachine)
class Jobs:
    """Right."""

    def __init__(self) -> None:
        self.workers: set[str] = set()
        self.jobs: dict[int, list[Any]] = {}

    def apply(self, command: Any, context: Context) -> Value:
        match command:
            case ["join", worker]:
                self.workers.add(worker)
            case ["leave", worker]:
                if worker not in self.workers:
                    raise CommandError("unknown", worker)
                self.workers.remove(worker)
            case ["assign", job]:
                return self.assign(job, context)
            case ["finish", job]:
                if job not in self.jobs:
                    raise CommandError("unknown", str(job))
                return self.clock(context) - self.jobs.pop(job)[1]
        return None

    def assign(self, job: int, context: Context) -> Value:
        worker = self.pick()
        if job in self.jobs:
            raise CommandError("taken", str(self.jobs[job][0]))
        self.jobs[job] = [worker, self.clock(context)]
        return worker

    def pick(self) -> str:
        if not self.workers:
            raise CommandError("nobody")
        return sorted(self.workers)[0]

    def clock(self, context: Context) -> float:
        return context.time

    def query(self, query: Any) -> Value:
        return self.jobs.get(query)

    def snapshot(self) -> Iterable[bytes]:
        state = [sorted(self.workers), sorted(self.jobs.items())]
        return [json.dumps(state).encode()]

    def restore(self, chunks: Iterator[bytes]) -> None:
        workers, jobs = json.loads(b"".join(chunks))
        self.workers = set(workers)
        self.jobs = dict(jobs)


class LooksAtTheClock(Jobs):
    """Bug: the wall clock, which no two computers share."""

    def clock(self, context: Context) -> float:
        return time.time()


class CountsSeconds(Jobs):
    """Bug: the same, in whole seconds, by a function of another name."""

    def clock(self, context: Context) -> float:
        return int(now())


class LooksAtTheDate(Jobs):
    """Bug: the date, which two computers share most of the day."""

    def clock(self, context: Context) -> float:
        return date.today().toordinal()  # noqa: DTZ011


class TellsTheTime(Jobs):
    """Bug: datetime's clock."""

    def clock(self, context: Context) -> float:
        return datetime.now().timestamp()  # noqa: DTZ005


class TakesTheFirstOfASet(Jobs):
    """Bug: whoever comes first in a set, whose order depends on its past and on the process."""

    def pick(self) -> str:
        if not self.workers:
            raise CommandError("nobody")
        return next(iter(self.workers))


class HashesStrings(Jobs):
    """Bug: hash() of a str differs from process to process, and nowhere within one."""

    def pick(self) -> str:
        return min(self.workers or {""}, key=hash)


class DrawsLots(Jobs):
    """Bug: chance that the log knows nothing of."""

    def pick(self) -> str:
        return random.choice(sorted(self.workers or {""}))


class ChangesThenChecks(Jobs):
    """Bug: the worker is put aside before it is known whether the job is free."""

    def assign(self, job: int, context: Context) -> Value:
        worker = self.pick()
        self.workers.remove(worker)
        if job in self.jobs:
            raise CommandError("taken", str(self.jobs[job][0]))
        self.jobs[job] = [worker, context.time]
        return worker


class Stumbles(Jobs):
    """Bug: an exception that nobody foresaw, halfway."""

    def apply(self, command: Any, context: Context) -> Value:
        if command[0] == "finish":
            self.workers.discard(min(self.workers, default=""))
            return self.jobs.pop(command[1])[1] - context.time
        return super().apply(command, context)


class ForgetsInSnapshots(Jobs):
    """Bug: a snapshot leaves out since when each works."""

    def snapshot(self) -> Iterable[bytes]:
        jobs = [(job, [worker, 0.0]) for job, (worker, _) in sorted(self.jobs.items())]
        return [json.dumps([sorted(self.workers), jobs]).encode()]


class SnapshotsWhatComesLater(Jobs):
    """Bug: a snapshot shows what was applied after it was taken."""

    def snapshot(self) -> Iterator[bytes]:
        yield b""
        yield from super().snapshot()


class RestoresLess(Jobs):
    """Bug: what is restored lacks the jobs, of which no result tells."""

    def apply(self, command: Any, context: Context) -> Value:
        super().apply(["assign", context.index] if self.workers else ["join", "ann"], context)
        return None

    def restore(self, chunks: Iterator[bytes]) -> None:
        super().restore(chunks)
        self.jobs = {}


class LivesInAZone(Jobs):
    """Bug: the hour of day is another one where the computer stands elsewhere."""

    def clock(self, context: Context) -> float:
        return time.localtime(context.time).tm_hour


class RefusesItsOwn(Jobs):
    """Bug: what it wrote it cannot read."""

    def restore(self, chunks: Iterator[bytes]) -> None:
        json.loads(b"".join(chunks) + b"]")


class ChangesWithQueries(Jobs):
    """Bug: a query drops what it tells."""

    def query(self, query: Any) -> Value:
        return self.jobs.pop(query, None)


class RunsOutOfFiles(Jobs):
    """Bug: an exception that stops the server, on all of them."""

    def assign(self, job: int, context: Context) -> Value:
        if job == 7:
            raise OSError("too many open files")
        return super().assign(job, context)
