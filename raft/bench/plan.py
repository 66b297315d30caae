"""How to measure, and what a measurement is given and gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import frozen

from raft.bench.workloads import Workload

START_SECONDS = 30.0
"""How long a cluster may take to elect its first leader, or a node to answer after a start."""

Row = dict[str, Any]
"""One line of the table and of `--json`."""


@frozen
class Running:
    """A cluster that runs already, which nothing is started for.

    Attributes:
        addresses: client addresses of some of its nodes; the others are learnt.
        prefix: what every key begins with that is written, and removed in the end.
        allow_plaintext: whether it may be talked to without encryption on other machines.
    """

    addresses: tuple[str, ...]
    prefix: str
    allow_plaintext: bool = False


@frozen
class Plan:
    """How to measure; times in seconds.

    Attributes:
        runs: how often each point is measured; medians are told.
        seconds: how long each of them takes.
        warm_up_seconds: how long load runs before the first.
        connections: of W2, W4c and W10c, all together.
        clients: of W10, all together.
        load_processes: what W2, W4c and W10 are issued by, together.
        kills: how often W7 kills the leader.
        nodes: of the cluster, but for W9, which has sizes of its own.
        entries: of W8: written since the last snapshot, and that a follower is behind.
        megabytes: of W8: the size of the snapshot that is installed, in MB (10^6 bytes).
        growth: of W9: it writes 10 to the power of this.
        sizes: of W9: how many servers, in turn.
        running: the cluster to be measured; one of our own for each workload where it is None.
    """

    runs: int = 3
    seconds: float = 3.0
    warm_up_seconds: float = 1.0
    connections: int = 100
    clients: int = 8
    load_processes: int = 1
    kills: int = 20
    nodes: int = 3
    entries: int = 200_000
    megabytes: int = 32
    growth: int = 6
    sizes: tuple[int, ...] = (3, 5, 7)
    running: Running | None = None


@frozen
class Task:
    """One workload to be measured.

    Attributes:
        reactor: what everything runs on.
        directory: holds all that its clusters write; made if need be.
        workload: what to measure.
        plan: how.
        note: told what goes on.
    """

    reactor: Any
    directory: Path
    workload: Workload
    plan: Plan
    note: Callable[[str], object]
