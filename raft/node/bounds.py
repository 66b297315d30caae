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
        snapshot_factor: a snapshot is taken when the log since the last one is so many times
            as large as that was; 0 for never.
        snapshot_floor_bytes: but not for fewer bytes of log than these.
        snapshot_entries: a snapshot is taken after so many entries, too; 0 for never.
        trailing_entries: entries a snapshot leaves in the log for those nearly there.
        trailing_bytes: so many bytes of log are left at most, for them and for followers that
            were heard lately.
        snapshot_bytes_per_second: of all snapshots that are being sent, together; 0 for no limit.
    """

    queued_bytes: int = 64 << 20
    cache_bytes: int = 64 << 20
    unapplied_bytes: int = 256 << 20
    snapshot_factor: float = 4.0
    snapshot_floor_bytes: int = 64 << 20
    snapshot_entries: int = 1_000_000
    trailing_entries: int = 10_000
    trailing_bytes: int = 256 << 20
    snapshot_bytes_per_second: int = 0
