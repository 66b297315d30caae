"""What may queue up inside one node."""

from __future__ import annotations

from attrs import frozen


@frozen
class Bounds:
    """What may queue up inside one node, in bytes, and when it takes snapshots.

    Attributes:
        queued_bytes: commands that wait for their turn.
        cache_bytes: records kept in memory once they are applied and saved.
        unapplied_bytes: committed records the machine has not taken yet.
        snapshot_entries: a snapshot is taken after so many entries; 0 for never.
        trailing_entries: entries a snapshot leaves in the log for those nearly there.
    """

    queued_bytes: int = 64 << 20
    cache_bytes: int = 64 << 20
    unapplied_bytes: int = 256 << 20
    snapshot_entries: int = 100_000
    trailing_entries: int = 10_000
