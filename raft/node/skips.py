"""Which entries of the log skip others, as long as the machine has not come to both.

A server must know of them before it comes to what they name. All that enters the log is
looked at: what storage recovers, what a leader sends, what this server appends. One that is not
committed yet may still be replaced, so that what it names can neither be executed nor passed by.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import Factory, define

from raft.replica import Replica


@define(eq=False)
class LogSkips:
    """Those of one server's log: by their index, which entry each of them names."""

    named: dict[int, int] = Factory(dict)

    def found(self, skips: Mapping[int, int], start: int, end: int) -> None:
        """Take those of `skips` which stand in [start, end)."""
        self.named.update((at, named) for at, named in skips.items() if start <= at < end)

    def truncated(self, start: int) -> None:
        """Forget what stood from `start` on."""
        if self.named:
            self.named = {at: named for at, named in self.named.items() if at < start}

    def at(self, index: int) -> int:
        """Return where the log skips entry `index` first, or 0."""
        return min((at for at, named in self.named.items() if named == index), default=0)

    def heed(self, replica: Replica, end: int) -> int:
        """Tell `replica` what to pass by; return the end of what it may apply, at most `end`.

        Entries below `end` are committed and saved.
        """
        if not self.named:
            return end
        last_applied, allowed = replica.last_applied, end
        self.named = {at: named for at, named in self.named.items() if at > last_applied}
        for at, named in self.named.items():
            if named > last_applied:
                if at < end:
                    replica.skips.expect(named)
                else:
                    allowed = min(allowed, named)
        return allowed
