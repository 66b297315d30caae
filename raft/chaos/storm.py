"""One fault after another, drawn from a seed: which, when, for how long.

What is drawn for the n-th fault depends on the seed and n alone, never on what came of earlier
ones: the same seed gives the same schedule. Whom it strikes may depend on who leads.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from raft.chaos import changes, cuts, processes
from raft.chaos.stage import Nobody, Stage

Fault = Callable[[Stage, random.Random], Awaitable[None]]

FAULTS: Final[Mapping[str, tuple[Fault, float]]] = {
    "kill": (processes.kill, 5.0),
    "kill-all": (processes.kill_all, 1.0),
    "pause": (processes.pause, 3.0),
    "roll": (processes.roll, 0.3),
    "eio": (processes.disk_error, 1.0),
    "enospc": (processes.disk_full_call, 0.5),
    "full": (processes.disk_full, 1.0),
    "descriptors": (processes.few_descriptors, 0.5),
    "clock": (processes.wall_clock, 1.0),
    "strangers": (processes.strangers, 0.5),
    "transfer": (processes.transfer, 1.0),
    "one-way": (cuts.one_way, 2.0),
    "deaf": (cuts.deaf, 1.5),
    "mute": (cuts.mute, 1.0),
    "isolate": (cuts.isolate, 2.0),
    "sleeper": (cuts.sleeper, 1.0),
    "halves": (cuts.halves, 1.0),
    "black-hole": (cuts.black_hole, 1.0),
    "trickle": (cuts.trickle, 0.5),
    "delay": (cuts.delay, 1.0),
    "refuse": (cuts.refuse, 0.7),
    "flap": (cuts.flap, 0.5),
    "reset": (cuts.reset, 0.7),
    "duplicate": (cuts.duplicate, 0.7),
    "garbage": (cuts.garbage, 0.7),
    "clients": (cuts.clients_cut, 1.0),
    "replace": (changes.replace, 0.4),
    "learner": (changes.grow_and_shrink, 0.4),
    "wipe": (changes.wipe, 0.4),
}
"""By name: what is done, and how often in proportion to the others."""

STRACE: Final = ("eio", "enospc")

AT_ONCE: Final = 3
"""The most faults that go on at the same time."""

SWARM: Final = (0.0, 1.0, 1.0, 3.0)
"""What the share of each kind is multiplied with, drawn anew for every phase."""


def unavailable() -> dict[str, str]:
    """Return which faults are not possible on this machine, by name, and why."""
    found = {}
    if shutil.which("strace") is None:
        found = dict.fromkeys(STRACE, "strace is not installed")
    if sys.platform != "linux":
        found |= dict.fromkeys((*STRACE, "descriptors"), "only Linux can do that")
    if sys.platform != "linux" or os.geteuid() != 0:
        found["full"] = "only root may mount a small disk, on Linux"
    return found


class Storm:
    """Faults on a stage, until their time is over.

    Attributes:
        weights: of the kinds of faults, by name, as drawn for this phase.
        count: how many faults were drawn.
    """

    def __init__(
        self, stage: Stage, seed: str, kinds: Collection[str] = (), mean_seconds: float = 1.0
    ) -> None:
        """Draw the weights.

        Args:
            stage: what is struck.
            seed: of this phase.
            kinds: the names of the kinds to draw from, all of which come; every kind that the
                draw lets in where there are none.
            mean_seconds: the mean time between two faults.
        """
        chance, missing = random.Random(f"{seed} weights"), unavailable()
        self.weights = {
            name: weight * (1.0 if kinds else chance.choice(SWARM))
            for name, (_, weight) in FAULTS.items()
            if (not kinds or name in kinds) and name not in missing
        }
        self.count = 0
        self._stage = stage
        self._seed = seed
        self._mean_seconds = mean_seconds
        self._failure: Failure | None = None
        self._running: dict[int, Deferred[None]] = {}

    def draw(self, number: int) -> tuple[float, str, random.Random]:
        """Return what the fault of this number is: seconds before it, kind, and its own chance."""
        chance = random.Random(f"{self._seed} {number}")
        pause = min(4 * self._mean_seconds, chance.expovariate(1 / self._mean_seconds))
        (kind,) = chance.choices(list(self.weights), list(self.weights.values()))
        return pause, kind, chance

    async def rage(self, seconds: float) -> None:
        """Let faults come for so long, then wait until the last has ended."""
        end = time.monotonic() + seconds
        while True:
            self.count += 1
            pause, kind, chance = self.draw(self.count)
            left = end - time.monotonic()
            await self._stage.sleep(max(0.0, min(pause, left)))
            if pause >= left:
                break
            if len(self._running) >= AT_ONCE:
                self._stage.tally["left out"] += 1
                continue
            self._begin(kind, chance)
        await DeferredList(list(self._running.values()))
        if self._failure is not None:
            self._failure.raiseException()

    def _begin(self, kind: str, chance: random.Random) -> None:
        number, (fault, _) = self.count, FAULTS[kind]
        running = self._running[number] = Deferred.fromCoroutine(self._strike(fault, chance))
        running.addBoth(self._ended, number)

    def _ended(self, result: object, number: int) -> None:
        self._running.pop(number, None)
        if isinstance(result, Failure):
            # The fault itself went wrong, which says nothing of the cluster.
            self._failure = self._failure or result

    async def _strike(self, fault: Fault, chance: random.Random) -> None:
        try:
            await fault(self._stage, chance)
        except Nobody:
            self._stage.tally["left out"] += 1
