"""Durable appends: ours beside a bare file and SQLite, in one run.

`python benchmarks/wal.py [directory]` appends entries of 100 bytes, 1 and 64 to a batch, and
waits for the disk after each batch. The rows take turns, several times over; medians are
shown. Give a directory on the disk that is to be measured (not one in memory).

- bare file: `pwrite` and `fdatasync` into a file that was filled with zeros before: the floor.
- log: frames, checksums and index, without the writer's thread.
- log, thread: what a node does: queue, writer's thread, and back again.
- log, thread, 32 deep: as above with 32 batches under way.
- SQLite: journal_mode WAL, synchronous FULL, one transaction for each batch.

The last lines: what a save costs the reactor's thread, and how fast a log is recovered.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from queue import SimpleQueue

from raft.core.outputs import HardState
from raft.storage.records import encode_commands
from raft.storage.wal import WriteAheadLog

ROUNDS = 5
ROUND_SECONDS = 0.7
PAYLOAD = b"x" * 100
FILE_BYTES = 64 << 20
CLOSE_SECONDS = 30.0


class Bare:
    """The floor: a file of zeros, one write and one sync for each batch."""

    def __init__(self, directory: str) -> None:
        self.fd = os.open(os.path.join(directory, "bare"), os.O_RDWR | os.O_CREAT, 0o600)
        zeros = bytes(1 << 20)
        for offset in range(0, FILE_BYTES, len(zeros)):
            os.pwrite(self.fd, zeros, offset)
        os.fsync(self.fd)
        self.offset = 0

    def run(self, batches: list[bytes]) -> None:
        for batch in batches:
            if self.offset + len(batch) > FILE_BYTES:
                self.offset = 0
            os.pwrite(self.fd, batch, self.offset)
            os.fdatasync(self.fd)
            self.offset += len(batch)

    def close(self) -> None:
        os.close(self.fd)


class Sqlite:
    """One row for each entry, one transaction for each batch."""

    def __init__(self, directory: str) -> None:
        self.connection = sqlite3.connect(os.path.join(directory, "sqlite"), isolation_level=None)
        self.connection.execute("pragma journal_mode=wal")
        self.connection.execute("pragma synchronous=full")
        self.connection.execute("create table log (i integer primary key, term integer, body blob)")
        self.index = 0

    def run(self, batches: list[bytes]) -> None:
        count = len(batches[0]) // (len(PAYLOAD) + 33)
        for _ in batches:
            self.connection.execute("begin")
            self.connection.executemany(
                "insert into log values (?, 1, ?)",
                [(self.index + n, PAYLOAD) for n in range(1, count + 1)],
            )
            self.connection.execute("commit")
            self.index += count

    def close(self) -> None:
        self.connection.close()


class Log:
    """Our log: `deep` batches under way through the thread, or 0 for none."""

    def __init__(self, directory: str, deep: int) -> None:
        self.path = os.path.join(directory, f"log-{deep}")
        os.mkdir(self.path)
        self.deep = deep
        self.queue: SimpleQueue[int] = SimpleQueue()
        self.store = WriteAheadLog(self.path)
        self.store.recover()
        self.ticket = self.index = 1
        writer = self.store._writer
        if writer is None:
            raise SystemExit("the log was not recovered")
        self.writer = writer
        writer.write([(0, HardState(1), None, 0, 0, b"")])
        if deep:
            self.store.start(lambda f, *a: f(*a), self.queue.put, self.failed)

    @staticmethod
    def failed(error: BaseException) -> None:
        raise SystemExit(str(error))

    def run(self, batches: list[bytes]) -> None:
        count = len(batches[0]) // (len(PAYLOAD) + 33)
        saved = last = self.ticket
        for _ in batches:
            # Encoding is the leader's cost, not the log's, and is part of every round alike.
            records = encode_commands(self.index, 1, 0, [PAYLOAD] * count)
            end = self.index + count
            self.ticket += 1
            if self.deep:
                self.store.save(self.ticket, None, None, self.index, end, records)
                while self.ticket - saved >= self.deep:
                    saved = self.queue.get()
            else:
                self.writer.write([(self.ticket, None, None, self.index, end, records)])
            self.index = end
        while self.deep and saved < self.ticket and self.ticket > last:
            saved = self.queue.get()

    def close(self) -> None:
        self.store.stop()


def rate(subject: Bare | Sqlite | Log, batch: bytes) -> float:
    """Return batches a second."""
    subject.run([batch] * 20)
    done = 0
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < ROUND_SECONDS:
        subject.run([batch] * 200)
        done += 200
    return done / elapsed


def table(directory: str) -> None:
    """Print the table of appends."""
    makers: dict[str, Callable[[str], Bare | Sqlite | Log]] = {
        "bare file": Bare,
        "log": lambda path: Log(path, 0),
        "log, thread": lambda path: Log(path, 1),
        "log, thread, 32 deep": lambda path: Log(path, 32),
        "SQLite WAL/FULL": Sqlite,
    }
    heads = f"{'batch':>6}{'batches/s':>12}{'entries/s':>12}{'of the floor':>14}{'spread':>10}"
    print(f"{'':22}{heads}")
    for count in (1, 64):
        batch = encode_commands(1, 1, 0, [PAYLOAD] * count)
        rates: dict[str, list[float]] = {name: [] for name in makers}
        for _ in range(ROUNDS):
            for name, make in makers.items():
                path = tempfile.mkdtemp(dir=directory)
                subject = make(path)
                rates[name].append(rate(subject, batch))
                subject.close()
                shutil.rmtree(path, ignore_errors=True)
        floor = statistics.median(rates["bare file"])
        for name, found in rates.items():
            median = statistics.median(found)
            spread = (max(found) - min(found)) / median
            print(
                f"{name:22}{count:6}{median:12,.0f}{median * count:12,.0f}"
                f"{median / floor:14.2f}{spread:10.0%}"
            )


def costs(directory: str) -> None:
    """Print what a save costs the reactor's thread, and the speed of recovery and reading."""
    path = tempfile.mkdtemp(dir=directory)
    log = Log(path, 1)
    records = [encode_commands(1 + 64 * n, 1, 0, [PAYLOAD] * 64) for n in range(5000)]
    began = time.perf_counter()
    for n, batch in enumerate(records):
        log.store.save(n + 1, None, None, 1 + 64 * n, 65 + 64 * n, batch)
    queued = time.perf_counter() - began
    while log.queue.get() < len(records):
        pass
    written = time.perf_counter() - began
    entries = 64 * len(records)
    closed: SimpleQueue[None] = SimpleQueue()
    # Called by the writer's thread, as all that it says here; the reader must not come before.
    log.store.stop().addCallback(closed.put)
    closed.get(timeout=CLOSE_SECONDS)
    began = time.perf_counter()
    store = WriteAheadLog(log.path)
    store.recover()
    recovered = time.perf_counter() - began
    began = time.perf_counter()
    index = 1
    while index <= entries:
        index, _ = store.read(index, entries + 1, 1 << 18)
    read = time.perf_counter() - began
    store.stop()
    shutil.rmtree(path, ignore_errors=True)
    print(f"\nqueueing a save       {queued / len(records) * 1e6:12.2f} microseconds")
    print(f"group commit, flooded {entries / written:12,.0f} entries/s")
    print(f"recovery              {entries / recovered:12,.0f} entries/s")
    print(f"reading back          {entries / read:12,.0f} entries/s")


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else os.getcwd()
    table(where)
    costs(where)
