"""Bits that rot on a disk, in what other servers have as well."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raft.testing.whole.host import Host


def strike(host: Host, chance: random.Random) -> bool:
    """Flip a bit in an older file of the log, or in a snapshot; tell whether there was one.

    The newest segment is left alone: its last frame cannot be told from one that was torn by a
    loss of power, and what it acknowledged would be lost without a word.
    """
    names = sorted(host.disk.names_seen)
    logs = [name for name in names if name.endswith(".wal")]
    # A spare segment may stand behind the one that is written.
    candidates = logs[:-2] + [name for name in names if name.endswith(".snap")]
    if not candidates:
        return False
    name = chance.choice(candidates)
    size_bytes = len(host.disk.names_seen[name].seen)
    if not size_bytes:
        return False
    offset, bit = chance.randrange(size_bytes), chance.randrange(8)
    host.disk.flip(name, offset, bit)
    host.is_damaged = host.view.is_damaged = True
    host.world.tell(host.id, f"bit {bit} of byte {offset} of {name} rots")
    return True
