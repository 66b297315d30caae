"""A past for the nodes: unequal logs and terms, as years of trouble may leave them.

Liveness is hardest where who has the newest term has the shortest log: each refuses the
other, for ever if a refusal does not say why [TESTING 3.5]. Chaos alone rarely leads there.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

from raft.core.configuration import Configuration
from raft.core.outputs import HardState
from raft.testing.cores.disk import Disk, Entry

if TYPE_CHECKING:
    from raft.testing.cores.monitors import Monitors

FIRST_PAYLOAD = 1_000_000_000
"""Above all that clients of the present write."""
ENTRY_BYTES = 64


def give_past(
    disks: Mapping[str, Disk], configuration: Configuration, monitors: Monitors, rng: random.Random
) -> None:
    """Write a prefix of one old leader's log, and a term above it, to each of the empty `disks`.

    None of it is committed, as far as anybody knows. In half of the worlds the terms are
    ordered against the lengths of the logs.
    """
    history: list[Entry] = [(1, configuration, ENTRY_BYTES)]
    for payload in range(FIRST_PAYLOAD, FIRST_PAYLOAD + rng.randint(2, 12)):
        history.append((history[-1][0] + rng.choice((0, 0, 1)), payload, ENTRY_BYTES))
    before = 0
    for index, entry in enumerate(history, 1):
        monitors.created[index, entry[0]] = (before, entry)
        before = entry[0]
    lengths = [rng.randint(1, len(history)) for _ in disks]
    terms = [before + rng.randint(1, 3 * len(disks)) for _ in disks]
    if rng.random() < 0.5:
        lengths.sort()
        terms = [before + 1 + rng.randint(2, 3) * place for place in range(len(disks), 0, -1)]
    for disk, length, term in zip(disks.values(), lengths, terms, strict=True):
        disk.hard_state = HardState(term)
        disk.records.entries.extend(history[:length])
