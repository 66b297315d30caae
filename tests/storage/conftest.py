"""A pump in the reactor's place, and stores of both kinds, for the storage tests."""

from __future__ import annotations

import random
from queue import Empty, SimpleQueue

import pytest
from attrs import define, field

from raft.core.outputs import HardState
from raft.storage.memory import MemoryStorage
from raft.storage.records import HEADER_BYTES, encode
from raft.storage.wal import WriteAheadLog

DEADLINE_SECONDS = 10.0


class Pump:
    """Runs what other threads ask for, in this one, until something is so."""

    def __init__(self):
        self.queue = SimpleQueue()

    def call_from_thread(self, function, *arguments):
        self.queue.put((function, arguments))

    def until(self, condition):
        while not condition():
            try:
                function, arguments = self.queue.get(timeout=DEADLINE_SECONDS)
            except Empty:
                raise AssertionError("nothing happened within the deadline") from None
            function(*arguments)

    def drain(self):
        while not self.queue.empty():
            function, arguments = self.queue.get()
            function(*arguments)


def split(records: bytes) -> list[bytes]:
    found = []
    offset = 0
    while offset < len(records):
        stop = offset + HEADER_BYTES + int.from_bytes(records[offset + 4 : offset + 8], "little")
        found.append(records[offset:stop])
        offset = stop
    return found


@define
class Store:
    """One storage under test, of either kind, started and driven through a pump."""

    make: object
    storage: object = None
    recovered: object = None
    pump: Pump = field(factory=Pump)
    saved: list = field(factory=list)
    failed: list = field(factory=list)
    ticket: int = 0
    chance: random.Random = field(factory=lambda: random.Random(1))

    def open(self):
        self.storage = self.make(self.storage)
        self.recovered = self.storage.recover()
        self.storage.start(self.pump.call_from_thread, self.saved.append, self.failed.append)
        return self

    def entries(self, start, count, term=1, size=20):
        return b"".join(
            encode(index, term, index * 10, 1, self.chance.randbytes(size))
            for index in range(start, start + count)
        )

    def queue(self, hard_state=None, truncate_from=None, start=0, records=b""):
        self.ticket += 1
        end = start + len(split(records))
        self.storage.save(self.ticket, hard_state, truncate_from, start, end, records)
        return self.ticket

    def save(self, *arguments, **named):
        ticket = self.queue(*arguments, **named)
        self.wait(ticket)
        return ticket

    def vote(self, term, server=None):
        self.save(HardState(term, server))

    def append(self, start, count, term=1, size=20):
        records = self.entries(start, count, term, size)
        self.save(start=start, records=records)
        return split(records)

    def snapshot(self, meta, *chunks):
        writer = self.storage.create_snapshot(meta)
        for chunk in chunks:
            writer.write(chunk)
        writer.commit()

    def mark(self, index, term, keep_log=True, keep_from=1):
        self.ticket += 1
        self.storage.mark_snapshot(self.ticket, index, term, keep_log, keep_from)
        self.wait(self.ticket)

    def wait(self, ticket):
        self.pump.until(lambda: self.failed or (self.saved and self.saved[-1] >= ticket))
        assert not self.failed, self.failed

    def read_all(self, start, end, limit_bytes=1 << 20):
        found = []
        while start < end:
            start, records = self.storage.read(start, end, limit_bytes)
            found += split(records)
        return found

    def stop(self):
        stopped = []
        self.storage.stop().addCallback(stopped.append)
        self.pump.until(lambda: stopped)

    def reopen(self):
        self.stop()
        self.saved.clear()
        return self.open()


@pytest.fixture
def files_store(tmp_path):
    store = Store(lambda old: WriteAheadLog(str(tmp_path), segment_size_bytes=8192))
    yield store
    if store.storage is not None:
        store.stop()


@pytest.fixture(params=["files", "memory"])
def store(request, tmp_path):
    """A store of each kind, open; both must pass the same tests."""
    if request.param == "files":
        made = Store(lambda old: WriteAheadLog(str(tmp_path), segment_size_bytes=8192))
    else:
        made = Store(lambda old: MemoryStorage() if old is None else old.crash())
    yield made.open()
    made.stop()
