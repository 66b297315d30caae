"""The counter of counter.py in its second release: amounts must not be negative any more.

Run this file to see the switch without a cluster; docs/howto/upgrade.md explains it.
"""

from __future__ import annotations

from counter import Counter
from zope.interface import implementer

from raft.errors import CommandError
from raft.interfaces import Context, IVersionedStateMachine, Value


@implementer(IVersionedStateMachine)
class UpgradedCounter(Counter):
    version = 2  # the newest behaviour that this code can
    active_version = 1  # the one in force; the node sets it

    def apply(self, command: Value, context: Context) -> Value:
        match command:
            case ["add", _, int(amount)] if amount < 0 and self.active_version >= 2:
                raise CommandError("negative", "amounts must not be negative")
        return super().apply(command, context)

    def switch(self, version: int) -> None:
        """Drop what the second release would not have let in."""
        self.counts = {name: found for name, found in self.counts.items() if found[0] >= 0}


if __name__ == "__main__":
    from raft.codec import PLAIN
    from raft.replica import Replica
    from raft.storage.records import Kind, encode, encode_commands, encode_version

    replica = Replica(UpgradedCounter())
    payload = PLAIN.encode(["add", "debts", -5])
    log = encode_commands(1, 1, 0, [payload])
    log += encode(2, 1, 0, Kind.VERSION, encode_version(2))
    log += encode_commands(3, 1, 0, [payload])
    applied = replica.apply(log, want_from=1, want_end=4)
    for code, result in applied.results:
        print(code or "ok", PLAIN.decode_result(result))
