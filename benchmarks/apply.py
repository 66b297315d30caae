"""What applying one committed entry costs: `python benchmarks/apply.py [entries]`.

The built-in key-value store, `set` of 64-byte values under 10,000 keys, in batches of 500
records as the log holds them. The leader encodes every result, a follower none. Shown is CPU
time: the best of the rounds, and the median to tell how quiet the computer was.
"""

from __future__ import annotations

import statistics
import sys
import time

from raft.codec import PLAIN
from raft.machines.kv import KeyValueStore
from raft.replica import Replica
from raft.storage.records import encode_commands

BATCH = 500
ROUNDS = 7


def batches(entries: int) -> list[bytes]:
    """Return the records of `entries` commands, cut into batches."""
    payloads = [
        PLAIN.encode(["set", f"key-{number % 10_000:012}", "v" * 64]) for number in range(entries)
    ]
    return [
        encode_commands(start + 1, 1, 1_000 * start, payloads[start : start + BATCH])
        for start in range(0, entries, BATCH)
    ]


def microseconds(records: list[bytes], entries: int, want_end: int) -> list[float]:
    """Return the cost of one entry, for each round."""
    rounds = []
    for _ in range(ROUNDS):
        replica = Replica(KeyValueStore(), slice_seconds=60.0)
        began = time.process_time()
        for batch in records:
            replica.apply(batch, 0, 0, want_end)
        rounds.append((time.process_time() - began) / entries * 1e6)
        if replica.last_applied != entries:
            raise SystemExit(f"applied {replica.last_applied} of {entries} entries")
    return rounds


def codec_microseconds(entries: int) -> list[float]:
    """Return what the gateway's check of one command costs, for each round."""
    payload = PLAIN.encode(["set", "key-000000000001", "v" * 64])
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(entries):
            PLAIN.check(payload)
        rounds.append((time.process_time() - began) / entries * 1e6)
    return rounds


def main() -> None:
    """Measure and print one line for each role."""
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    records = batches(entries)
    for role, rounds in (
        ("leader, results encoded", microseconds(records, entries, entries + 1)),
        ("follower, no results", microseconds(records, entries, 0)),
        ("gateway, Codec.check", codec_microseconds(entries)),
    ):
        best, median = min(rounds), statistics.median(rounds)
        print(f"{role:24} {best:6.3f} us an entry (median {median:.3f} of {ROUNDS})")


if __name__ == "__main__":
    main()
