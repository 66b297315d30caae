"""What making and checking records costs, beside the obvious twins, in one run.

    python benchmarks/records.py

Entries of 100 bytes. *make* is what a leader does with a turn's commands, *sum up* what a follower
does with what arrives. The twins: one record at a time (`encode`, `decode`), and the same entries
as one array of MessagePack, which checks nothing. The floor is the checksums alone. CPU time, the
best of several rounds that take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from zlib import crc32

import msgspec

from raft.storage.records import HEADER_BYTES, Kind, decode, encode, encode_commands, summarise

ENTRIES = 20_000
ROUNDS = 7
BATCHES = (1, 64, 1000)

Work = Callable[[], object]


def each_made(payloads: list[bytes]) -> bytes:
    """Make records one by one: the twin of `encode_commands`."""
    return b"".join(
        [encode(index, 3, 0, Kind.COMMAND, payload) for index, payload in enumerate(payloads, 1)]
    )


def each_summed(records: bytes) -> tuple[int, int]:
    """Check records one by one: the twin of `summarise`; return end and size in bytes."""
    end = size_bytes = 0
    for record in decode(records):
        if end and record.index != end:
            raise SystemExit("a record is missing")
        end = record.index + 1
        size_bytes += HEADER_BYTES + len(record.payload)
    return end, size_bytes


def microseconds(work: Work, count: int) -> float:
    """Return the CPU time of one entry where a call of `work` does `count`."""
    calls = max(1, ENTRIES // count)
    begun = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - begun) / (calls * count) * 1e6


def compared(count: int) -> dict[str, Work]:
    """Return what takes turns, for batches of `count`."""
    payloads = [b"%0100d" % number for number in range(count)]
    records = encode_commands(1, 3, 0, payloads)
    entries = [(index, 3, 0, 1, payload) for index, payload in enumerate(payloads, 1)]
    packed = msgspec.msgpack.encode(entries)
    summed = summarise(records)
    if each_made(payloads) != records or each_summed(records) != (summed.end, summed.size_bytes):
        raise SystemExit("the twins disagree")
    size = len(records) // count
    return {
        "make": lambda: encode_commands(1, 3, 0, payloads),
        "make, one by one": lambda: each_made(payloads),
        "make, MessagePack": lambda: msgspec.msgpack.encode(entries),
        "sum up": lambda: summarise(records),
        "sum up, one by one": lambda: each_summed(records),
        "read, MessagePack": lambda: msgspec.msgpack.decode(packed),
        "checksums alone": lambda: [crc32(records[at : at + size]) for at in range(count)],
    }


def main() -> None:
    """Print microseconds an entry, and the ratio to ours."""
    print(f"{'us an entry, in batches of':28}{''.join(f'{count:>16}' for count in BATCHES)}")
    columns = []
    for count in BATCHES:
        works = compared(count)
        best = dict.fromkeys(works, float("inf"))
        for _ in range(ROUNDS):
            for name, work in works.items():
                best[name] = min(best[name], microseconds(work, count))
        columns.append(best)
    for name in columns[0]:
        ours = "make" if name.startswith("make") else "sum up"
        cells = [f"{best[name]:8.2f}{best[name] / best[ours]:6.1f} x" for best in columns]
        print(f"{name:28}{''.join(f'{cell:>16}' for cell in cells)}")


if __name__ == "__main__":
    main()
