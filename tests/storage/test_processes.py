"""A real process on a real disk, killed in the middle of writing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from raft.storage.directory import DataDirectory
from raft.storage.records import HEADER_BYTES, decode
from raft.storage.wal import WriteAheadLog

KILLS = 4
WRITER = """
import sys, threading
from raft.core.outputs import HardState
from raft.storage.directory import DataDirectory
from raft.storage.records import encode
from raft.storage.wal import WriteAheadLog

directory = DataDirectory.open(sys.argv[1], "a")
store = WriteAheadLog(directory.path, segment_size_bytes=1 << 16,
                      incarnation=directory.identity.incarnation)
found = store.recover()
term = found.hard_state.current_term + 1
index = found.runs[-1].end if found.runs else found.first_index
free = threading.Semaphore(50)
def saved(ticket):
    print(ticket, flush=True)
    for _ in range(50):
        free.release()
store.start(lambda f, *a: f(*a), saved, lambda error: sys.exit(str(error)))
store.save(index, HardState(term, "a"), None, index, index + 1, encode(index, term, 0, 1, b"first"))
while True:
    index += 1
    free.acquire()
    store.save(index, None, None, index, index + 1, encode(index, term, 0, 1, b"%d" % index * 20))
"""


@pytest.mark.integration
def test_what_a_killed_process_had_acknowledged_is_there(tmp_path):
    """D5: the ticket is the index: whatever was printed must be recovered, whole and in order.

    sc-P1, sc-R11.
    """
    path = str(tmp_path / "node")
    for term in range(1, KILLS + 1):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True
        ) as process:
            acknowledged = 0
            for _ in range(30 * term):
                acknowledged = int(process.stdout.readline())
            process.kill()
            acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
        directory = DataDirectory.open(path, "a")
        store = WriteAheadLog(
            path, segment_size_bytes=1 << 16, incarnation=directory.identity.incarnation
        )
        found = store.recover()
        assert found.hard_state.current_term == term
        end = found.runs[-1].end
        assert end > acknowledged
        index, size_bytes = 1, 0
        while index < end:
            after, records = store.read(index, end, 5000)
            for number, record in enumerate(decode(records), index):
                assert record.index == number
                assert record.payload in (b"first", b"%d" % number * 20)
                size_bytes += HEADER_BYTES + len(record.payload)
            index = after
        assert size_bytes == sum(run.size_bytes for run in found.runs)
        store.stop()
        directory.release()
