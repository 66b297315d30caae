"""How old the oldest entry of the log is: what one may miss and still need no snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define

from raft.storage.records import decode

if TYPE_CHECKING:
    from raft.node.shell import Shell


@define(eq=False)
class LogAge:
    """Knows when the log's first entry was made; reads it anew only when another is the first."""

    shell: Shell
    _index: int = 0
    _time_us: int = 0

    def seconds(self) -> float:
        """Return the age of the oldest entry in the log, by the cluster's time; 0 without one."""
        shell = self.shell
        log, now_us = shell.server.log, shell.replica.last_time_us
        if log.first_index > log.last_index:
            return 0.0
        if self._index != log.first_index:
            try:
                _, records = shell.cache.slice(log.first_index, log.first_index + 1, 1)
            except KeyError:
                # It is not saved yet, so it is no older than a moment.
                return 0.0
            self._index, self._time_us = log.first_index, next(decode(records)).time_us
        return max(0, now_us - self._time_us) / 1_000_000
