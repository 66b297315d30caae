"""What is measured, by name. The names are fixed: figures of years are compared by them."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve, frozen

from raft.errors import BadConfiguration

VALUE_BYTES = 64
OUTSTANDING_BYTES = 8 << 20
"""Large values are outstanding in fewer places: a client has a bound in bytes."""

OVERLOAD_BYTES = 1024
"""With smaller values the load could not offer four times what is sustainable."""

LETTERS = "abcdefghijklmnopqrstuvwxyz"

COUNTS = {"most_outstanding": 100_000, "most_value_bytes": 2 << 20}


@frozen
class Workload:
    """One line of the table, for each number outstanding and size of values.

    Attributes:
        name: W0 and so on.
        text: what it is, for people.
        target: who issues: "inside" the leader, one "client", or "connections" of their own.
        operations: "write", "read" or "mixed".
        measure: what measures it, by name in `raft.bench.measures`.
        spread: whether reads are spread over all members.
    """

    name: str
    text: str
    target: str
    operations: str
    outstanding: tuple[int, ...]
    value_bytes: tuple[int, ...] = (VALUE_BYTES,)
    measure: str = "points"
    spread: bool = False

    @property
    def needs_own_processes(self) -> bool:
        """Whether it starts, kills or fills the nodes that it measures."""
        return self.target == "inside" or self.measure not in ("points", "overload")

    @property
    def writes(self) -> bool:
        """Whether every operation of it is a write."""
        return self.operations == "write"

    def points(self) -> list[tuple[int, int]]:
        """Return each (outstanding, value_bytes) to be measured."""
        return [
            (min(count, max(1, OUTSTANDING_BYTES // size)), size)
            for size in self.value_bytes
            for count in self.outstanding
        ]


CURVE = (1, 16, 64, 256, 1000, 4000)
SIZES = (1 << 10, 16 << 10, 256 << 10, 1 << 20)

WORKLOADS: tuple[Workload, ...] = (
    Workload("W0", "writes from inside the leader's process", "inside", "write", (2500,)),
    Workload("W1", "writes of one client over the network", "client", "write", CURVE),
    Workload("W2", "writes of 1,000 clients, none joined", "connections", "write", (1000,)),
    Workload("W3i", "one write at a time, inside the leader", "inside", "write", (1,)),
    Workload("W3n", "one write at a time, over the network", "client", "write", (1,)),
    Workload("W4p", "linearizable reads of one client", "client", "read", (1000,)),
    Workload("W4c", "linearizable reads of 1,000 clients", "connections", "read", (1000,)),
    Workload(
        *("W4f", "linearizable reads spread over all members", "client", "read", (1000,)),
        spread=True,
    ),
    Workload("W4l", "one linearizable read at a time", "client", "read", (1,)),
    Workload("W5", "writes by size", "client", "write", (1000,), SIZES),
    Workload("W6", "90 % reads, 10 % writes, Zipf keys", "client", "mixed", (1000,)),
    Workload(
        *("W7", "SIGKILL of the leader to the next write", "client", "write", (1,)),
        measure="failover",
    ),
    Workload(*("W8r", "restart", "client", "write", (1000,)), measure="restart"),
    Workload(*("W8b", "follower behind", "client", "write", (1000,)), measure="behind"),
    Workload(*("W8s", "snapshot to a follower", "client", "write", (256,)), measure="install"),
    Workload(*("W9", "writes as the log grows", "client", "write", (1000,)), measure="growth"),
    Workload(
        *("W10", "writes of 8 clients, offered", "clients", "write", (1000,), (OVERLOAD_BYTES,)),
        measure="overload",
    ),
    Workload(
        *("W10c", "writes of 1,000 programs, offered", "connections", "write", (1000,)),
        measure="overload",
    ),
)


def chosen(
    names: Sequence[str], outstanding: Sequence[int] = (), value_bytes: Sequence[int] = ()
) -> list[Workload]:
    """Return the workloads of `names` (all for none), with other numbers where some are given.

    "W3" stands for W3i and W3n, "W4" for all that begin so.

    Raises:
        BadConfiguration: a name is none, or a number is out of bounds.
    """
    for number, most in (
        *((number, COUNTS["most_outstanding"]) for number in outstanding),
        *((number, COUNTS["most_value_bytes"]) for number in value_bytes),
    ):
        if not 0 < number <= most:
            raise BadConfiguration(f"{number} is not from 1 to {most}")
    found: list[Workload] = []
    for name in names or [each.name for each in WORKLOADS]:
        fitting = [each for each in WORKLOADS if each.name.lower() == name.lower()] or [
            each for each in WORKLOADS if each.name.rstrip(LETTERS).lower() == name.lower()
        ]
        if not fitting:
            known = ", ".join(each.name for each in WORKLOADS)
            raise BadConfiguration(f"there is no workload {name!r}; there are {known}")
        found += [each for each in fitting if each not in found]
    return [
        evolve(
            each,
            outstanding=tuple(outstanding) or each.outstanding,
            value_bytes=tuple(value_bytes) or each.value_bytes,
        )
        for each in found
    ]
