"""Bugs that are planted into storage: each must be found by enumerating crashes.

Machinery that misses a bug which is known to be there proves nothing by finding no other. The
table of what finds which stands in `docs/internals/storage.md`.
"""

from __future__ import annotations

import contextlib
import os

import pytest

from raft.errors import RaftError
from raft.storage import frames, segments, snapshots, writer
from raft.storage.frames import Frame
from raft.storage.marks import Mark
from raft.storage.recovery import Recovery
from raft.storage.segments import Segment
from raft.storage.snapshots import SnapshotWriter
from raft.storage.writer import LogWriter
from tests.storage.crashes import (
    appends,
    compaction,
    compaction_of_many_segments,
    conflicts,
    die_everywhere,
    enumerate_crashes,
    fail_everywhere,
    rolls,
    truncates_into_an_older_segment,
)


class Without:
    """Files on which some calls are left out."""

    def __init__(self, files, *left_out):
        self._files = files
        self._left_out = left_out

    def __getattr__(self, name):
        return (lambda *arguments: None) if name in self._left_out else getattr(self._files, name)


def no_sync(patch):
    """A frame is written and not synced."""
    patch.setattr(writer, "sync", lambda files, fd: None)


def acknowledged_before_the_sync(patch):
    """A frame is synced when the next one is written: after it was acknowledged."""
    late = []

    def sync(files, fd):
        for each in late:
            # A segment that was closed meanwhile stays unsynced.
            with contextlib.suppress(OSError):
                files.fdatasync(each)
        late[:] = [fd]

    patch.setattr(writer, "sync", sync)


def segment_without_directory_sync(patch):
    """A new segment's name is not on the disk when it is written to."""
    prepare = segments.prepare
    patch.setattr(
        segments, "prepare", lambda files, *rest: prepare(Without(files, "sync_directory"), *rest)
    )


def segment_without_sync(patch):
    """A new segment is named before its header is on the disk."""
    patch.setattr(segments, "sync", lambda files, fd: None)


def deleted_first(patch):
    """Segments go before the mark that lets them go is on the disk."""
    write_mark = LogWriter.write_mark

    def delete_first(self, save):
        before = self.ledger.mark
        self.ledger.mark = Mark(save.index, save.term, save.keep_from, save.index)
        while self.ledger.removable:
            self._remove_oldest()
        self.ledger.mark = before
        write_mark(self, save)

    patch.setattr(LogWriter, "write_mark", delete_first)


def snapshot_without_sync(patch):
    """A snapshot is named before its content is on the disk."""
    patch.setattr(snapshots, "sync", lambda files, fd: None)


def snapshot_without_directory_sync(patch):
    """A snapshot is marked before its name is on the disk."""
    commit = SnapshotWriter.commit

    def nameless(self):
        files, self._snapshots.files = (
            self._snapshots.files,
            Without(self._snapshots.files, "sync_directory"),
        )
        try:
            commit(self)
        finally:
            self._snapshots.files = files

    patch.setattr(SnapshotWriter, "commit", nameless)


def tail_logged_again(patch):
    """A conflict removes one entry more than it must, and writes that one anew after it."""
    flush = LogWriter._flush

    def log_again(self, batch):
        start = batch.truncate_from
        if start is not None and start > self.ledger.first:
            _, record = self.reader.read(start - 1, start, 1 << 20)
            flush(self, writer._Batch(start - 1, start - 1, None, start - 1))
            batch.truncate_from = None
            batch.start = start - 1
            batch.records.insert(0, record)
        flush(self, batch)

    patch.setattr(LogWriter, "_flush", log_again)


def unordered_unlinks(patch):
    """Several segments are unlinked, and no directory sync orders that."""
    remove = LogWriter._remove_oldest

    def unordered(self):
        files, self.files = self.files, Without(self.files, "sync_directory")
        try:
            remove(self)
        finally:
            self.files = files

    patch.setattr(LogWriter, "_remove_oldest", unordered)


def recycled_segments_without_a_chain(patch):
    """Old segments are used again as they are, and frames tell neither owner nor predecessor."""
    prepare, remove = segments.prepare, LogWriter._remove_oldest
    id = 7

    def keep_oldest(self):
        files = self.files
        self.files = Without(files, "unlink")
        path = self.ledger.segments[0].path
        files.rename(path, path.replace(".wal", ".old"))
        try:
            remove(self)
        finally:
            self.files = files

    def reuse(files, directory, number, size_bytes, incarnation):
        old = [name for name in files.names(directory) if name.endswith(".old")]
        if not old:
            return (yield from prepare(files, directory, number, size_bytes, incarnation))
        path = os.path.join(directory, segments.name(number))
        fd = files.open(os.path.join(directory, old[0]))
        files.pwrite(fd, [segments.encode_header(id, number, incarnation, size_bytes)], 0)
        files.fdatasync(fd)
        files.rename(os.path.join(directory, old[0]), path)
        files.sync_directory(directory)
        return Segment(number, id, path, fd, files.size(fd))

    patch.setattr(segments.secrets, "randbits", lambda bits: id)
    patch.setattr(segments, "prepare", reuse)
    patch.setattr(LogWriter, "_remove_oldest", keep_oldest)
    patch.setattr(Recovery, "_check_chain", lambda *arguments: None)


def hard_state_after_the_entries(patch):
    """The entries of a new term are on the disk before the term."""
    flush = LogWriter._flush

    def late(self, batch):
        hard_state = batch.hard_state
        if hard_state is not None and batch.records:
            batch.hard_state = None
            flush(self, batch)
            batch = writer._Batch(batch.end, batch.end, hard_state)
        flush(self, batch)

    patch.setattr(LogWriter, "_flush", late)


def torn_frames_pass(patch):
    """The checksum of a frame is not looked at."""

    def trusting(content, offset, segment):
        if len(content) - offset < frames.HEADER_BYTES:
            return None
        magic, checksum, previous, length, owner, sequence = frames.HEADER.unpack_from(
            content, offset
        )
        body = offset + frames.HEADER_BYTES
        if magic != frames.MAGIC or owner != segment or body + length > len(content):
            return None
        return Frame(sequence, previous, checksum, body, body + length)

    patch.setattr(frames, "find", trusting)


def truncation_that_is_not_written(patch):
    """A truncation is known in memory only."""
    patch.setattr(writer, "encode_truncate", lambda start, term: b"")


def last_frame_not_written_again(patch):
    """What recovery has read from the page cache passes for what is on the disk."""
    patch.setattr(Recovery, "_rewrite_last_frame", lambda self: None)


def directory_not_synced_at_the_start(patch):
    """The names that recovery sees pass for those that are on the disk."""

    def remove_leftovers(self):
        with contextlib.suppress(FileNotFoundError):
            self.files.unlink(os.path.join(self.directory, segments.TEMPORARY_NAME))

    patch.setattr(Recovery, "_remove_leftovers", remove_leftovers)


PLANTED = [
    (no_sync, enumerate_crashes, appends),
    (acknowledged_before_the_sync, enumerate_crashes, appends),
    (segment_without_directory_sync, enumerate_crashes, rolls),
    (segment_without_sync, enumerate_crashes, rolls),
    (deleted_first, enumerate_crashes, compaction_of_many_segments),
    (snapshot_without_sync, enumerate_crashes, compaction),
    (snapshot_without_directory_sync, enumerate_crashes, compaction),
    (tail_logged_again, enumerate_crashes, conflicts),
    (unordered_unlinks, enumerate_crashes, compaction_of_many_segments),
    (recycled_segments_without_a_chain, enumerate_crashes, truncates_into_an_older_segment),
    (hard_state_after_the_entries, enumerate_crashes, conflicts),
    (torn_frames_pass, enumerate_crashes, appends),
    (truncation_that_is_not_written, enumerate_crashes, conflicts),
    (last_frame_not_written_again, fail_everywhere, rolls),
    (directory_not_synced_at_the_start, die_everywhere, rolls),
]


@pytest.mark.parametrize(
    ("bug", "look", "scenario"), PLANTED, ids=[bug.__name__ for bug, *_ in PLANTED]
)
def test_a_planted_bug_is_found(bug, look, scenario, monkeypatch):
    """TESTING 3.7, 3.11: the enumeration finds it, with one scenario.

    sc-F14, sc-F15, sc-F22.
    """
    bug(monkeypatch)
    with pytest.raises((AssertionError, RaftError, KeyError)):
        look(scenario)


@pytest.mark.slow
def test_what_is_enumerated_here_finds_nothing_where_nothing_is_planted():
    for look, scenario in {(look, scenario) for _, look, scenario in PLANTED[7:]}:
        look(scenario)
