"""Tools for tests, ours and applications'.

For applications, and imported when they are first used:

- `SimCluster`: a whole cluster in one object and in simulated time, for a machine of your own;
- `check_determinism`: the same commands on several instances and in several processes;
- `MachineFault`: what both raise.

Beside them:

- `raft.testing.linearizability`: judges a history of operations; `raft check` is its command;
- `raft.testing.processes`: a cluster of real processes on loopback;
- `cores`, `whole`, `small`: our own simulators, of cores, of whole nodes, and of all that can
  happen to a cluster that is very small. Their insides may change.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raft.testing.cluster.sim_cluster import SimCluster
    from raft.testing.determinism import check_determinism
    from raft.testing.machine_fault import MachineFault

__all__ = ["MachineFault", "SimCluster", "check_determinism"]

_ROOM_OF = {
    "MachineFault": "raft.testing.machine_fault",
    "SimCluster": "raft.testing.cluster.sim_cluster",
    "check_determinism": "raft.testing.determinism",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'raft.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(_ROOM_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
