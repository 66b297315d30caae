"""What applying one committed entry costs: `python benchmarks/apply.py [entries]`.

The built-in key-value store, `set` of 64-byte values under 10,000 keys, in batches of 500
records as the log holds them. The leader encodes every result, a follower none. The same again
in a session: consecutive numbers, all of a batch without an answer yet. Shown is CPU time: the
best of the rounds, and the median to tell how quiet the computer was. The rounds of all kinds
take turns, so that a noisy moment does not fall on one of them alone. The ratio is to the obvious
twin: a dict, and records taken apart one by one, with no index, session, digest or result kept.
"""

from __future__ import annotations

import statistics
import sys
import time

from raft.codec import PLAIN
from raft.machines.kv import KeyValueStore
from raft.replica import Replica
from raft.storage.records import (
    Kind,
    decode,
    encode,
    encode_commands,
    encode_registration,
    session_id,
    session_payloads,
)

BATCH = 500
ROUNDS = 7


NONCE = b"8 octets"
OPENED = encode(1, 1, 0, Kind.REGISTER, encode_registration(NONCE))
SESSION = session_id(1, NONCE)


def commands(entries: int) -> list[bytes]:
    """Return the encoded commands."""
    return [
        PLAIN.encode(["set", f"key-{number % 10_000:012}", "v" * 64]) for number in range(entries)
    ]


def batches(entries: int) -> list[bytes]:
    """Return the records of `entries` commands behind a registration, cut into batches."""
    payloads = commands(entries)
    return [
        encode_commands(start + 2, 1, 1_000 * start, payloads[start : start + BATCH])
        for start in range(0, entries, BATCH)
    ]


def session_batches(entries: int) -> list[bytes]:
    """Return the same, as commands of one session."""
    payloads = commands(entries)
    return [
        encode_commands(
            start + 2,
            1,
            1_000 * start,
            session_payloads(SESSION, start + 1, start + 1, payloads[start : start + BATCH]),
            Kind.SESSION_COMMAND,
        )
        for start in range(0, entries, BATCH)
    ]


def microseconds(records: list[bytes], entries: int, want_end: int) -> float:
    """Return the cost of one entry in one round."""
    replica = Replica(KeyValueStore(), slice_seconds=60.0)
    replica.apply(OPENED)
    began = time.process_time()
    for batch in records:
        replica.apply(batch, 0, 0, want_end)
    spent = (time.process_time() - began) / entries * 1e6
    if replica.last_applied != entries + 1 or replica.command_errors:
        raise SystemExit(f"applied {replica.last_applied} entries, {replica.command_errors} failed")
    return spent


def twin_microseconds(records: list[bytes], entries: int) -> float:
    """Return what one entry costs where nothing is done but what a dict needs."""
    values: dict[object, object] = {}
    began = time.process_time()
    for batch in records:
        for record in decode(batch):
            command = PLAIN.decode(record.payload)
            values[command[1]] = command[2]
    spent = (time.process_time() - began) / entries * 1e6
    if len(values) != min(entries, 10_000):
        raise SystemExit(f"the twin holds {len(values)} keys")
    return spent


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
    """Measure and print one line for each kind."""
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    plain, sessions = batches(entries), session_batches(entries)
    kinds = {
        "leader, results encoded": (plain, entries + 2),
        "follower, no results": (plain, 0),
        "leader, in a session": (sessions, entries + 2),
        "follower, in a session": (sessions, 0),
    }
    rounds: dict[str, list[float]] = {kind: [] for kind in kinds}
    twin: list[float] = []
    for _ in range(ROUNDS):
        for kind, (records, want_end) in kinds.items():
            rounds[kind].append(microseconds(records, entries, want_end))
        twin.append(twin_microseconds(plain, entries))
    rounds["the twin"] = twin
    rounds["gateway, Codec.check"] = codec_microseconds(entries)
    for kind, spent in rounds.items():
        best, median = min(spent), statistics.median(spent)
        ratio = best / min(twin)
        print(f"{kind:24} {best:6.3f} us an entry (median {median:.3f} of {ROUNDS}) {ratio:5.2f} x")


if __name__ == "__main__":
    main()
