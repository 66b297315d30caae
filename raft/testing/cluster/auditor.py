"""A replica beside the cluster: it meets each committed entry, and what nodes meet rarely.

It is restored from its own snapshots all the time, which are read while further entries are
applied; it looks at the state before and after each command that failed. All entries are applied
by it once, in the order of the log, as soon as any node has applied them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, Final

from attrs import Factory, define, field

from raft.errors import NodeFailed
from raft.interfaces import SnapshotMeta
from raft.replica import Replica
from raft.storage.records import HEADER, HEADER_BYTES
from raft.testing.machine_fault import (
    DIFFERENT_BYTES,
    HALF_CHANGED,
    NOT_DETERMINISTIC,
    QUERY_CHANGES,
    MachineFault,
    first_difference,
    shown,
    table,
)
from raft.testing.watched import Ledger, States, Told, Watched

ALWAYS_LOOKED_AT: Final = 300
"""So many failed commands are looked at; of those that follow, one in ten."""

RESTORED_EVERY: Final = 6
"""One entry in so many has a snapshot taken behind it."""

READ_BYTES: Final = 256 * 1024

NAME: Final = "a replay"


@define(eq=False)
class Auditor:
    """Applies what the cluster has committed, and looks closely."""

    make: Callable[[str], Watched]
    ledger: Ledger
    chance: random.Random
    states: States = States()
    replica: Replica = field(init=False)
    restored_count: int = 0
    failed_count: int = 0
    """Commands that failed and were looked at."""
    _taken: tuple[SnapshotMeta, Iterator[bytes]] | None = None
    """A snapshot that is not read yet."""
    _since: list[bytes] = Factory(list)
    """The records applied since it was taken."""
    _is_over: bool = False

    def __attrs_post_init__(self) -> None:
        """Begin before the first entry."""
        self.replica = self._new()

    def _new(self) -> Replica:
        # Its clock stands still: no slice ever ends before its entries do.
        return Replica(self.make(NAME), self.ledger.words.codec, clock=lambda: 0.0)

    @property
    def machine(self) -> Any:
        """The application's machine."""
        return self.replica.machine.machine  # type: ignore[attr-defined]

    def follow(self, applied: int, read: Callable[[int, int, int], tuple[int, bytes]]) -> None:
        """Apply up to `applied` what `read` gives of the log, where it is there still."""
        while not self._is_over and self.replica.last_applied < applied:
            try:
                _, records = read(self.replica.last_applied + 1, applied + 1, READ_BYTES)
            except KeyError:
                # Compacted there: another node has it, or had it when it applied it.
                return
            try:
                for record in split(records):
                    self._meet(record)
            except NodeFailed as failure:
                self._is_over = True
                index = self.replica.last_applied + 1
                self.ledger.faults.append(
                    MachineFault("stopped", f"the machine would stop its server: {failure}", index)
                )

    def _meet(self, record: bytes) -> None:
        index = HEADER.unpack_from(record)[2]
        told = self.ledger.told.get(index)
        if told is not None and told.outcome[0] and self._looks():
            self.settle()
            before = self.current_state()
            self.replica.apply(record)
            self._compare(index, told, before)
        else:
            self.replica.apply(record)
        if self._taken is not None:
            self._since.append(record)
            if self.chance.random() < 0.5:
                self.settle()
        elif self.chance.random() * RESTORED_EVERY < 1:
            self._take()

    def _looks(self) -> bool:
        self.failed_count += 1
        return self.failed_count <= ALWAYS_LOOKED_AT or self.chance.random() < 0.1

    def current_state(self) -> object:
        """Return the state of the machine, as it is compared."""
        return self.states.of(self.machine)

    def _compare(self, index: int, told: Told, before: object) -> None:
        after = self.current_state()
        if after == before:
            return
        words = self.ledger.words
        one, other = first_difference(before, after)
        command = words.command(told.command)
        rows = [("command", shown(command)), ("outcome", words.outcome(told.outcome))]
        rows += [("before", one), ("after", other)]
        text = (
            f"the machine changed its state with a command that failed (entry {index}):\n\n"
            f"{table(rows)}\n\n{HALF_CHANGED}"
        )
        self.ledger.faults.append(MachineFault("exception", text, index, command))

    def _take(self) -> None:
        try:
            self._taken = self.replica.snapshot()
        except Exception as error:
            self._snapshot_failed("snapshot()", error)

    def settle(self) -> None:
        """Read a snapshot that was taken, if any, and go on with a machine that is made of it."""
        if self._taken is None:
            return
        (meta, chunks), self._taken = self._taken, None
        since, self._since = self._since, []
        replica, step = self._new(), "reading a snapshot"
        try:
            content = list(chunks)
            step = "restore()"
            replica.restore(meta, iter(content))
        except Exception as error:
            self._snapshot_failed(step, error)
            return
        for record in since:
            replica.apply(record)
        self.restored_count += 1
        before, self.replica = self.current_state(), replica
        after = self.current_state()
        if self.states.differ(before, after):
            one, other = first_difference(before, after)
            rows = [("as it was", one), ("restored", other)]
            text = (
                "a machine restored from a snapshot is not as the one that it was taken of "
                f"(taken at entry {meta.index}, compared at {replica.last_applied}):\n\n"
                f"{table(rows)}\n\n{NOT_DETERMINISTIC}\n{DIFFERENT_BYTES}"
            )
            self.ledger.faults.append(MachineFault("snapshot", text, replica.last_applied))

    def _snapshot_failed(self, step: str, error: Exception) -> None:
        cause = error.__cause__ or error
        index = self.replica.last_applied
        text = f"{step} failed at entry {index}: {type(cause).__name__}: {cause}"
        self.ledger.faults.append(MachineFault("snapshot", text, index))

    def ask(self, payload: bytes) -> None:
        """Ask a query here too, and see that it changes nothing."""
        self.settle()
        before = self.current_state()
        self.replica.query(payload)
        after = self.current_state()
        if after != before:
            one, other = first_difference(before, after)
            query = self.ledger.words.command(payload)
            rows = [("query", shown(query)), ("before", one), ("after", other)]
            text = (
                f"the machine changed its state with a query:\n\n{table(rows)}\n\n{QUERY_CHANGES}"
            )
            fault = MachineFault("query", text, self.replica.last_applied, query)
            self.ledger.faults.append(fault)


def split(records: bytes) -> Iterator[bytes]:
    """Yield the records one by one."""
    offset = 0
    while offset < len(records):
        stop = offset + HEADER_BYTES + int(HEADER.unpack_from(records, offset)[1])
        yield records[offset:stop]
        offset = stop
