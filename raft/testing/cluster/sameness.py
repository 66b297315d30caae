"""Whether the nodes of a simulated cluster that have applied the same are the same."""

from __future__ import annotations

from typing import Any

from raft.testing.cluster.auditor import NAME, Auditor
from raft.testing.cluster.node import SimNode
from raft.testing.cluster.wire import Wire
from raft.testing.machine_fault import (
    DIFFERENT_BYTES,
    NOT_DETERMINISTIC,
    MachineFault,
    first_difference,
    table,
)
from raft.testing.watched import States


def check_alike(wire: Wire[SimNode], auditor: Auditor) -> MachineFault | None:
    """Return the first thing that is wrong with the states of the nodes, if anything is."""
    auditor.settle()
    if auditor.ledger.faults:
        return auditor.ledger.faults[0]
    audited = auditor.replica
    first = {audited.last_applied: (NAME, auditor.machine, audited.digest)}
    for id, node in sorted(wire.nodes.items()):
        if node.failures:
            return MachineFault(
                "stopped", f"{id} has stopped: {node.failures[0]}", node.applied + 1
            )
        if node.shell.snapshots.is_taking or node.shell.restoring.is_active:
            # A machine has one snapshot at a time; this one is compared another time.
            continue
        mine = (id, node.machine.machine, node.replica.digest)
        seen = first.setdefault(node.applied, mine)
        if seen is mine:
            continue
        if fault := _compared(node.applied, seen, mine, auditor.states):
            return fault
    return None


def _compared(
    index: int,
    one: tuple[str, Any, int],
    other: tuple[str, Any, int],
    states: States,
) -> MachineFault | None:
    (name, machine, digest), (other_name, other_machine, other_digest) = one, other
    left, right = states.of(machine), states.of(other_machine)
    if states.differ(left, right):
        shown_left, shown_right = first_difference(left, right)
        rows = [(name, shown_left), (other_name, shown_right)]
        text = (
            f"the same {index} entries have left different states:\n\n"
            f"{table(rows)}\n\n{NOT_DETERMINISTIC}\n{DIFFERENT_BYTES}"
        )
        return MachineFault("state", text, index)
    if digest != other_digest:
        text = f"{name} and {other_name} have different digests of the same {index} entries"
        return MachineFault("state", text, index)
    return None
