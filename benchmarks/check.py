"""How many operations a second `raft.testing.linearizability` judges, in seconds of CPU.

    python benchmarks/check.py [OPERATIONS]

Histories of a lone copy with random delays: many keys, then one key and 20 clients at once.
"""

from __future__ import annotations

import heapq
import random
import sys
import time

from raft.machines.kv import KeyValueStore
from raft.replica import CommandContext
from raft.testing.history import Operation
from raft.testing.linearizability import check

CONTEXT = CommandContext(b"")


def history(count: int, keys: int, clients: int, values: int, unknown: float) -> list[Operation]:
    """Let clients ask a store, each operation taking effect at some moment of it, or later."""
    dice, store = random.Random(1), KeyValueStore()
    free = [(dice.randrange(400), client) for client in range(clients)]
    asked = []
    for number in range(count):
        call, client = heapq.heappop(free)
        end = call + dice.randrange(1, 1000)
        heapq.heappush(free, (end + dice.randrange(200), client))
        known = dice.random() >= unknown
        moment = dice.randint(call, end) if known else call + dice.randrange(20_000)
        asked.append((moment, number, client, call, end, known))
    told = []
    for _, number, client, call, end, known in sorted(asked):
        op, key = dice.choice(("get", "put", "delete", "cas")), f"k{dice.randrange(keys)}"
        value, expected, output = number % values, None, None
        took_effect = known or dice.random() < 0.5
        if op == "get":
            value, output = None, store.query(["get", key])
        elif op == "cas":
            expected = store.query(["get", key]) if dice.random() < 0.6 else number % 7
            output = store.apply(["cas", key, expected, value], CONTEXT) if took_effect else None
        elif op == "put" and took_effect:
            store.apply(["set", key, value], CONTEXT)
        elif op == "delete":
            value, output = None, store.apply(["delete", key], CONTEXT) if took_effect else None
        told.append(
            Operation(
                f"c{client}", op, key, value, expected, output if known else None,
                known or None, call, end if known else None,
            )
        )  # fmt: skip
    return told


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    for name, operations in (
        (f"{count} operations, {count // 100} keys", history(count, count // 100, 20, count, 0.02)),
        ("10000 operations, 1 key", history(10_000, 1, 20, 10_000, 0.0)),
        ("10000 operations, 1 key, 10 % unknown", history(10_000, 1, 20, 10_000, 0.1)),
        ("2000 operations, 1 key, 5 values, 10 % unknown", history(2_000, 1, 20, 5, 0.1)),
    ):
        began = time.process_time()
        report = check(operations, budget_steps=20_000_000)
        seconds = time.process_time() - began
        rate = len(operations) / seconds
        print(f"{name:48} {report.verdict.name:8} {seconds:7.2f} s {rate:9.0f}/s")


if __name__ == "__main__":
    main()
