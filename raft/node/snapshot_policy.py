"""When a server takes a snapshot, and how much of the log it leaves [RULES N3, N4].

Log is bytes to be read again after a restart, a snapshot is bytes to be written now: a log
of four times the last snapshot's size keeps both within bounds, whatever the size of the
state. Below a floor the comparison would only make work.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import define

from raft.core.progress import Pace
from raft.core.roles import Leader
from raft.core.server import Server
from raft.node.bounds import Bounds

LATEST_SHARE = 0.5
"""The last server of a cluster waits for so much of a period longer than the first."""

AFTER_FAILURE_SHARE = 0.1
"""After a failure the log grows by so much of a period before the next attempt."""

RECENT_SECONDS = 60.0
"""A follower that was heard within this time is expected to go on from where it stands."""


@define(eq=False)
class SnapshotPolicy:
    """When the next snapshot is due, by what was applied since the last one.

    A *period* is over when either measure is reached: entries, or bytes of log against the
    size of the last snapshot. The servers of a cluster apply the same entries, so their
    periods are equally long. Whoever begins one without having ended one before (it has
    started, was told to take a snapshot, or got one) waits for a part of a period more, by
    its place among the members: from then on they take turns.

    Attributes:
        size_bytes: the machine bytes of the last snapshot; 0 where it is not known.
    """

    bounds: Bounds
    size_bytes: int = 0
    _is_in_step: bool = False
    _failed_at: float = 0.0
    """The share of a period at which the last attempt failed, or 0."""

    @property
    def period_bytes(self) -> int:
        """So many bytes of log call for a snapshot; 0 where they never do."""
        if not self.bounds.snapshot_factor:
            return 0
        scaled_bytes = int(self.bounds.snapshot_factor * self.size_bytes)
        return max(1, self.bounds.snapshot_floor_bytes, scaled_bytes)

    @property
    def sending_bytes(self) -> int:
        """So many bytes of log may wait for a peer that is being sent the last snapshot."""
        return self.period_bytes + self.bounds.trailing_bytes

    def is_due(self, server: Server, last_applied: int, sending: bool) -> bool:
        """Tell whether a snapshot up to `last_applied` should be begun.

        Not while a peer is `sending` for: a newer snapshot would take from it the log that it
        needs next. Its time is bounded by `sending_bytes` of log.
        """
        share = self._share(server, last_applied)
        if share < 1.0:
            return False
        if self._failed_at and share < self._failed_at + AFTER_FAILURE_SHARE:
            return False
        if not self._is_in_step and share < 1.0 + stagger(server):
            return False
        return not sending or self._bytes_since(server, last_applied) >= self.sending_bytes

    def _share(self, server: Server, last_applied: int) -> float:
        entries, period_bytes = self.bounds.snapshot_entries, self.period_bytes
        share = 0.0
        if entries:
            share = (last_applied - server.snapshot_index) / entries
        if period_bytes:
            share = max(share, self._bytes_since(server, last_applied) / period_bytes)
        return share

    def _bytes_since(self, server: Server, last_applied: int) -> int:
        return server.log.size_bytes(server.snapshot_index + 1, last_applied + 1)

    def failed(self, server: Server, last_applied: int) -> None:
        """Put the next attempt off."""
        self._failed_at = max(1.0, self._share(server, last_applied))

    def taken(self, size_bytes: int, by_policy: bool) -> None:
        """A period begins: a snapshot of so many machine bytes was taken, or received."""
        self.size_bytes = size_bytes
        self._is_in_step = by_policy
        self._failed_at = 0.0


def stagger(server: Server) -> float:
    """Return the share of a period by which this server comes after the cluster's first."""
    ids = sorted(member.id for member in server.configuration.members)
    return LATEST_SHARE * ids.index(server.id) / len(ids) if server.id in ids else 0.0


def first_kept(
    server: Server, index: int, bounds: Bounds, sent: Iterable[int], sending_bytes: int
) -> int:
    """Return the first entry that a snapshot up to `index` leaves in the log.

    It is the first that somebody may still ask for, within bounds in bytes: the last few
    entries, on every server; on a leader those that a follower lacks which was heard
    lately; and the entries after the snapshots that are being `sent`, up to `sending_bytes`.
    """
    log, end = server.log, index + 1
    wanted = end - bounds.trailing_entries
    if isinstance(server.state, Leader):
        for progress in server.state.progress.values():
            following = progress.match_index + 1
            is_recent = server.now - progress.heard_at <= RECENT_SECONDS
            # Who needs what is gone already gets a snapshot, or nothing.
            if progress.pace in (Pace.PROBE, Pace.REPLICATE) and is_recent:
                wanted = min(wanted, following if following >= log.first_index else end)
    kept = max(wanted, log.start_within(end, bounds.trailing_bytes))
    # Behind one whose log is gone already there is nothing to keep; the others still need theirs.
    following = min((each + 1 for each in sent if each + 1 >= log.first_index), default=end)
    if following < kept:
        kept = max(following, log.start_within(end, sending_bytes))
    return min(max(kept, 1), end)
