"""The one place where entries become records, and where arrived records are looked at.

A leader's entries are encoded here, once. What arrives from a leader is verified here,
once, and summed up for the core while the bytes wait beside it.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import Factory, define, evolve

from raft.core import messages as ms
from raft.core import outputs as out
from raft.node.records import offset_of
from raft.node.skips import LogSkips
from raft.storage.records import (
    BadRecord,
    Kind,
    encode,
    encode_commands,
    encode_configuration,
    note_skip,
    summarise,
)


@define(eq=False)
class Scribe:
    """Encodes and verifies records; keeps the cluster's time while this server leads.

    Attributes:
        seed: makes what a leader's no-op carries, 16 random bytes.
        log_time_us: the cluster's time as of the last entry that was written here.
        skips: the entries of the log that skip others.
    """

    clock: Callable[[], float]
    seed: Callable[[], bytes]
    log_time_us: int = 0
    skips: LogSkips = Factory(LogSkips)
    _led_since: tuple[int, float] | None = None
    """(cluster time in microseconds, monotonic seconds) when this server began to lead."""
    _number: int = 0
    _arrivals: dict[int, tuple[int, int, bytes, dict[int, int]]] = Factory(dict)
    """Number -> (start, end, records, which of them skip which) that arrived in this turn."""

    def arrived(self, message: ms.AppendEntries, records: bytes) -> ms.AppendEntries:
        """Return `message` with what the core must know of `records`.

        Raises:
            BadRecord: they are damaged, do not follow prev_log_index, or are of a later term.
        """
        start = message.prev_log_index + 1
        self._number += 1
        skips: dict[int, int] = {}
        entries = summarise(records, self._number, start, skips)
        if entries.start != start:
            raise BadRecord(0, f"entries from {entries.start} where {start} must follow")
        if entries.runs and entries.runs[-1].term > message.term:
            raise BadRecord(0, f"entries of term {entries.runs[-1].term} from term {message.term}")
        self._arrivals[self._number] = (start, entries.end, records, skips)
        return evolve(message, entries=entries)

    def forget_arrivals(self) -> None:
        """The turn is over: what the core wanted of the arrived records it has taken."""
        self._arrivals.clear()

    @property
    def leads(self) -> bool:
        """Whether cluster time runs on this server's clock."""
        return self._led_since is not None

    def lead_from(self, time_us: int) -> None:
        """Begin to lead: cluster time goes on from `time_us` by this server's clock."""
        self.log_time_us = max(self.log_time_us, time_us)
        self._led_since = (self.log_time_us, self.clock())

    def advance_to(self, time_us: int) -> None:
        """Let cluster time go on from `time_us` where it has not come so far yet."""
        if self.now_us() < time_us:
            self.log_time_us = time_us
            if self._led_since is not None:
                self._led_since = (time_us, self.clock())

    def stop_leading(self) -> None:
        """Cluster time stands still here until a leader's entries arrive."""
        self._led_since = None

    def records_of(self, entry: out.Append, payloads: list[bytes], kind: int = 1) -> bytes:
        """Return the records of `entry`.

        `payloads` are its commands, all of one `kind`, where it is Proposed.
        """
        if isinstance(entry, out.Replicated):
            first, end, records, skips = self._arrivals[entry.arrival]
            if skips:
                self.skips.found(skips, entry.start, entry.end)
            begin = offset_of(records, first, entry.start) if entry.start > first else 0
            stop = offset_of(records, first, entry.end) if entry.end < end else len(records)
            return records[begin:stop]
        time_us = self.now_us()
        if isinstance(entry, out.Proposed):
            # What was truncated within the same step is not in the log, and skips nothing.
            payloads = payloads[: entry.end - entry.start]
            if kind == Kind.SKIP:
                for index, payload in enumerate(payloads, entry.start):
                    note_skip(self.skips.named, index, payload)
            return encode_commands(entry.start, entry.term, time_us, payloads, kind)
        if isinstance(entry, out.NoOp):
            return encode(entry.index, entry.term, time_us, Kind.NO_OP, self.seed())
        payload = encode_configuration(entry.configuration)
        return encode(entry.index, entry.term, time_us, Kind.CONFIGURATION, payload)

    def now_us(self) -> int:
        """Return the cluster's time, in microseconds.

        Who does not lead lets it stand: the first entry must be the same on all founders.
        """
        if self._led_since is not None:
            base_us, since = self._led_since
            now_us = base_us + int((self.clock() - since) * 1_000_000)
            self.log_time_us = max(self.log_time_us, now_us)
        return self.log_time_us
