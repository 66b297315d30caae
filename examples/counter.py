"""A state machine in twenty lines: named counters.

Run this file to see it work without a cluster; docs/howto/state-machine.md explains it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from zope.interface import implementer

from raft.errors import CommandError
from raft.interfaces import Context, IStateMachine, Value


@implementer(IStateMachine)
class Counter:
    def __init__(self) -> None:
        self.counts: dict[str, list[float]] = {}  # name -> [count, when it last changed]

    def apply(self, command: Value, context: Context) -> Value:
        match command:
            case ["add", str(name), int(amount)]:
                count = self.counts.get(name, [0, 0.0])[0] + amount
                self.counts[name] = [count, context.time]
                return count
        raise CommandError("bad-command", 'expected ["add", name, amount]')

    def query(self, query: Value) -> Value:
        return list(self.counts.get(str(query), [0, 0.0]))

    def snapshot(self) -> Iterable[bytes]:
        return [json.dumps(self.counts).encode()]

    def restore(self, chunks: Iterator[bytes]) -> None:
        self.counts = json.loads(b"".join(chunks))


if __name__ == "__main__":
    from raft.codec import PLAIN
    from raft.replica import Replica
    from raft.storage.records import encode_commands

    replica = Replica(Counter())
    commands = [PLAIN.encode(["add", "visits", amount]) for amount in (1, 2, 39)]
    applied = replica.apply(encode_commands(1, 1, 7_000_000, commands), want_from=1, want_end=4)
    print([PLAIN.decode_result(result) for _, result in applied.results])
    code, answer = replica.query(PLAIN.encode("visits"))
    print(code or "ok", PLAIN.decode_result(answer))
