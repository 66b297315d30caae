"""What `IStorage` promises, kept by the log on files and by its twin in memory alike."""

from __future__ import annotations

import pytest
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from raft.core.configuration import Configuration, Member
from raft.core.outputs import HardState
from raft.errors import InvariantViolated
from raft.interfaces import ISnapshotWriter, IStorage, Recovered, SnapshotMeta
from raft.storage.records import Kind, encode, encode_configuration, encode_skip

CONFIGURATION = Configuration((Member("a", "1f", "tcp:a", "tcp:b"), Member("b", voter=False)))


def meta(index, term=1, time_us=0):
    return SnapshotMeta(index, term, CONFIGURATION, 1, time_us, "kv", 3)


def test_both_provide_the_interface(store):
    assert verifyObject(IStorage, store.storage)
    writer = store.storage.create_snapshot(meta(1))
    assert verifyObject(ISnapshotWriter, writer)
    writer.abort()


def test_an_empty_store_recovers_to_nothing(store):
    assert store.recovered == Recovered()


def test_what_was_saved_is_read_back(store):
    """D5: an acknowledged entry can be read."""
    store.vote(1)
    records = store.append(1, 5)
    assert store.read_all(1, 6) == records


def test_what_was_saved_is_recovered(store):
    """E1: term, vote and entries come back together."""
    store.vote(3, "b")
    records = store.append(1, 4, term=2) + store.append(5, 3, term=3)
    found = store.reopen().recovered
    assert found.hard_state == HardState(3, "b")
    assert (found.first_index, found.prev_term) == (1, 0)
    assert [(run.end, run.term) for run in found.runs] == [(5, 2), (8, 3)]
    assert sum(run.size_bytes for run in found.runs) == sum(map(len, records))
    assert found.last_time_us == 70
    assert store.read_all(1, 8) == records


def test_a_vote_without_a_candidate_is_not_a_vote_for_nobody_else(store):
    """E1: a term's vote is forgotten with its term."""
    store.vote(3, "b")
    store.vote(4)
    assert store.reopen().recovered.hard_state == HardState(4, None)


def test_one_report_answers_all_that_was_queued(store):
    """D2: tickets are cumulative, and grow."""
    store.vote(1)
    for index in range(1, 50):
        store.queue(start=index, records=store.entries(index, 1))
    store.wait(50)
    assert store.saved == sorted(set(store.saved))
    assert store.saved[-1] == 50


def test_configurations_in_the_log_are_recovered(store):
    store.vote(1)
    payload = encode_configuration(CONFIGURATION)
    store.save(start=1, records=encode(1, 1, 5, Kind.CONFIGURATION, payload))
    store.append(2, 1)
    store.save(start=3, records=encode(3, 1, 5, Kind.CONFIGURATION, payload))
    assert store.reopen().recovered.configurations == ((1, CONFIGURATION), (3, CONFIGURATION))
    store.save(truncate_from=3)
    assert store.reopen().recovered.configurations == ((1, CONFIGURATION),)


def test_entries_that_skip_others_are_recovered(store):
    """sc-P14: a server knows of them before it comes to the entries that they name."""
    store.vote(1)
    store.append(1, 3)
    store.save(start=4, records=encode(4, 1, 5, Kind.SKIP, encode_skip(2)))
    store.append(5, 1)
    store.save(start=6, records=encode(6, 1, 5, Kind.SKIP, encode_skip(3)))
    assert store.reopen().recovered.skips == {4: 2, 6: 3}
    store.save(truncate_from=6)
    assert store.reopen().recovered.skips == {4: 2}


def test_a_truncation_replaces_what_follows(store):
    """D2, L3: the second copy of an entry is read, never the first."""
    store.vote(1)
    kept = store.append(1, 6)
    replaced = store.entries(4, 1, term=2)
    store.save(HardState(2), 4, 4, replaced)
    assert store.read_all(1, 5) == [*kept[:3], replaced]
    with pytest.raises(KeyError):
        store.storage.read(5, 6, 100)
    found = store.reopen().recovered
    assert [(run.end, run.term) for run in found.runs] == [(4, 1), (5, 2)]
    assert store.read_all(1, 5) == [*kept[:3], replaced]
    more = store.append(5, 2, term=2)
    assert store.read_all(1, 7) == [*kept[:3], replaced, *more]


def test_a_queued_truncation_hides_what_it_removes(store):
    """read() never returns what a queued truncation removes, saved or not."""
    store.vote(1)
    store.append(1, 6)
    ticket = store.queue(HardState(2), 3, 3, store.entries(3, 2, term=2))
    try:
        _, found = store.storage.read(3, 5, 100)
    except KeyError:
        pass
    else:
        assert int.from_bytes(found[16:24], "little") == 2
    store.wait(ticket)
    assert len(store.read_all(1, 5)) == 4


def test_truncating_everything_leaves_an_empty_log(store):
    store.vote(1)
    store.append(1, 3)
    store.save(truncate_from=1)
    with pytest.raises(KeyError):
        store.storage.read(1, 2, 100)
    found = store.reopen().recovered
    assert (found.first_index, found.runs) == (1, ())
    store.append(1, 1)


def test_reading_stops_at_the_limit_but_gives_at_least_one(store):
    store.vote(1)
    records = store.append(1, 10, size=100)
    size = len(records[0])
    assert store.storage.read(1, 11, 3 * size) == (4, b"".join(records[:3]))
    assert store.storage.read(1, 11, 3 * size - 1) == (3, b"".join(records[:2]))
    assert store.storage.read(5, 11, 1) == (6, records[4])
    assert store.storage.read(9, 100, 1 << 20) == (11, b"".join(records[8:]))
    assert store.read_all(1, 11, 250) == records


@pytest.mark.parametrize("start", [0, 11, 12, 1000])
def test_reading_what_is_not_there_is_a_key_error(store, start):
    store.vote(1)
    store.append(1, 10)
    with pytest.raises(KeyError):
        store.storage.read(start, start + 1, 100)


def test_a_snapshot_is_read_back(store):
    """N1: the machine's bytes and what the snapshot says of itself."""
    chunks = [b"a" * 1000, b"b", b"c" * 70000]
    store.vote(1)
    store.append(1, 5)
    store.snapshot(meta(4, time_us=9), *chunks)
    found, got = store.storage.open_snapshot(4)
    assert found == meta(4, time_us=9)
    assert b"".join(got) == b"".join(chunks)
    with pytest.raises(KeyError):
        store.storage.open_snapshot(3)


def test_an_aborted_snapshot_is_not_there(store):
    writer = store.storage.create_snapshot(meta(4))
    writer.write(b"x")
    writer.abort()
    with pytest.raises(KeyError):
        store.storage.open_snapshot(4)
    with pytest.raises(InvariantViolated):
        writer.write(b"x")


def test_a_snapshot_counts_only_with_its_mark(store):
    """N1: written, then marked; without the mark it is forgotten at a restart."""
    store.vote(1)
    store.append(1, 5)
    store.snapshot(meta(4), b"x")
    assert store.reopen().recovered.snapshot is None
    with pytest.raises(KeyError):
        store.storage.open_snapshot(4)


def test_a_mark_needs_its_snapshot(store):
    """A mark for a file that is not there would cost the log."""
    with pytest.raises(InvariantViolated):
        store.storage.mark_snapshot(1, 7, 1, False, 8)


def test_the_log_goes_on_after_a_marked_snapshot(store):
    store.vote(1)
    records = store.append(1, 20, size=900)
    store.snapshot(meta(10, time_us=1), b"ten")
    store.mark(10, 1, keep_from=8)
    records += store.append(21, 10, size=900)
    store.snapshot(meta(25, time_us=1), b"twentyfive")
    store.mark(25, 1, keep_from=24)
    found = store.reopen().recovered
    assert found.snapshot == meta(25, time_us=1)
    assert found.first_index <= 11, "N7: the previous snapshot's log is kept"
    assert found.runs[-1].end == 31
    start = found.first_index
    assert store.read_all(start, 31) == records[start - 1 :]
    assert b"".join(store.storage.open_snapshot(10)[1]) == b"ten"


def test_an_installed_snapshot_replaces_the_log(store):
    """N6: without keep_log, before and after go."""
    store.vote(2)
    store.append(1, 8)
    store.snapshot(meta(5, term=2, time_us=77), b"other")
    store.mark(5, 2, keep_log=False, keep_from=6)
    for index in (1, 5, 6, 8):
        with pytest.raises(KeyError):
            store.storage.read(index, index + 1, 100)
    found = store.reopen().recovered
    assert (found.first_index, found.prev_term, found.runs) == (6, 2, ())
    assert (found.snapshot, found.last_time_us) == (meta(5, term=2, time_us=77), 77)
    records = store.append(6, 2, term=2)
    assert store.read_all(6, 8) == records
    assert store.reopen().recovered.runs[-1].end == 8


def test_a_mark_below_the_newest_changes_nothing(store):
    store.vote(1)
    store.append(1, 9)
    store.snapshot(meta(5), b"5")
    store.snapshot(meta(3), b"3")
    store.mark(5, 1)
    store.mark(3, 1, keep_log=False)
    assert store.reopen().recovered.snapshot == meta(5)


def test_an_entry_out_of_place_poisons(store):
    """D3: better stopped than wrong."""
    store.vote(1)
    store.queue(start=3, records=store.entries(3, 1))
    store.pump.until(lambda: store.failed)
    assert isinstance(store.failed[0], InvariantViolated)
    before = list(store.saved)
    store.queue(HardState(9, "x"))
    store.stop()
    assert store.saved == before
    assert len(store.failed) == 1


def test_after_stop_nothing_is_called_back(store):
    """Late reports are dropped; late saves too."""
    store.vote(1)
    before = list(store.saved)
    store.queue(start=1, records=store.entries(1, 1))
    ignored = len(store.saved)
    store.stop()
    store.storage.save(99, HardState(9, "z"), None, 0, 0, b"")
    store.pump.drain()
    assert store.saved[ignored:] == []
    assert before == store.saved[: len(before)]
    store.open()
    assert store.recovered.hard_state == HardState(1)
    assert store.recovered.runs[-1].end == 2, "what was queued before stop is finished"


def test_stop_can_be_asked_for_twice(store):
    stopped = []
    for _ in range(2):
        store.storage.stop().addBoth(stopped.append)
    store.pump.until(lambda: len(stopped) == 2)
    assert not any(isinstance(one, Failure) for one in stopped)


def test_recovering_twice_is_refused(store):
    with pytest.raises(InvariantViolated):
        store.storage.recover()
