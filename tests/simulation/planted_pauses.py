"""Bugs that show when a process stands still, to be planted into whole nodes [RULES R9]."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from raft.core import reads
from raft.core.events import Event, Read
from raft.core.outputs import Outputs
from raft.core.server import Server
from raft.node.reads import ReadBatch, Reads
from tests.simulation.planted_nodes import planted, where_leases_are_hard


@planted("R9", "I18", where=lambda swarm: swarm.lease_share)
def a_lease_is_judged_before_the_state_is_there(patch: pytest.MonkeyPatch) -> None:
    """It was valid when the read was confirmed; the answer waits for a disk, or for its process."""
    ready = Reads.ready

    def hasty(
        reads: Reads, last_applied: int, clock: Callable[[], float], *rest: Any
    ) -> list[ReadBatch]:
        return ready(reads, last_applied, lambda: -math.inf, *rest)

    patch.setattr(Reads, "ready", hasty)


@planted("R9", "I18", where=where_leases_are_hard)
def a_lease_is_judged_by_the_clock_before_a_pause(patch: pytest.MonkeyPatch) -> None:
    """The time is kept from the turn before: of what arrived in a pause, it was never true."""
    kept: dict[int, float] = {}
    step, ask, ready = Server.step, reads.ask, Reads.ready

    def stepped(server: Server, events: Iterable[Event], now: float) -> Outputs:
        outputs = step(server, events, now)
        kept[id(server)] = now
        return outputs

    def asked(server: Server, read: Read) -> None:
        now, server.now = server.now, kept.get(id(server), server.now)
        ask(server, read)
        server.now = now

    def answered(
        reads: Reads, last_applied: int, clock: Callable[[], float], *rest: Any
    ) -> list[ReadBatch]:
        return ready(reads, last_applied, lambda: -math.inf, *rest)

    patch.setattr(Server, "step", stepped)
    patch.setattr(reads, "ask", asked)
    patch.setattr(Reads, "ready", answered)
