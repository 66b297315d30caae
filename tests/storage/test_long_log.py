"""A log of a million entries is read in a time that grows no faster than the log."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from raft.core.outputs import HardState
from raft.storage.records import encode_commands
from raft.storage.wal import WriteAheadLog

FRAME = 1000


async def write_log(directory: Path, count: int) -> None:
    """Write a log of `count` entries of 64 bytes each."""
    from twisted.internet import reactor

    directory.mkdir()
    log = WriteAheadLog(str(directory))
    log.recover()
    saved: Deferred[None] = Deferred()

    def note(ticket: int) -> None:
        if ticket == count // FRAME:
            saved.callback(None)

    log.start(reactor.callFromThread, note, saved.errback)  # type: ignore[attr-defined]
    for ticket in range(1, count // FRAME + 1):
        start = 1 + (ticket - 1) * FRAME
        records = encode_commands(start, 1, 0, [b"x" * 64] * FRAME, 1)
        log.save(ticket, HardState(1, None), None, start, start + FRAME, records)
    await saved
    await log.stop()


def read_seconds(directory: Path, count: int) -> float:
    log = WriteAheadLog(str(directory))
    begun = time.perf_counter()
    recovered = log.recover()
    taken = time.perf_counter() - begun
    assert (recovered.first_index, recovered.runs[-1].end) == (1, count + 1)
    log.stop()
    return taken


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_a_million_entries_take_no_longer_by_entry_than_fifty_thousand(
    tmp_path: Path,
) -> None:
    """sc-O10: what a start costs is in proportion to the log, some 0.7 us an entry here."""
    few, many = 50_000, 1_000_000
    await write_log(tmp_path / "few", few)
    await write_log(tmp_path / "many", many)
    short = min(read_seconds(tmp_path / "few", few) for _ in range(3))
    long = min(read_seconds(tmp_path / "many", many) for _ in range(2))
    assert long < 5 * short * (many / few)
