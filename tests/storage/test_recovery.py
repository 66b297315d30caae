"""From files to a log or a refusal: logs made by hand, frame by frame [RULES D1].

Each frame's checksum is right, and each is chained to the one before, unless a test says otherwise:
what is refused here is refused for what it says.
"""

from __future__ import annotations

import os

import pytest

from raft.core.configuration import Configuration, Member
from raft.core.messages import Run
from raft.core.outputs import HardState
from raft.errors import StorageDamaged
from raft.storage import frames, segments
from raft.storage.imagined import ImaginedDisk
from raft.storage.marks import (
    How,
    Mark,
    encode_hard_state,
    encode_mark,
    encode_segment,
    encode_truncate,
)
from raft.storage.records import (
    HEADER_BYTES,
    RUN_BYTES,
    Kind,
    encode,
    encode_configuration,
    encode_skip,
    summarise,
)
from raft.storage.recovery import Recovery
from raft.storage.writer import MarkSave

DIRECTORY = "/imagined"
SEGMENT_BYTES = 4096
BLOCK = segments.HEADER_BLOCK_BYTES
CONFIGURATION = Configuration((Member("a"),))
VOTE = encode_hard_state(HardState(3, "a"))


def record(index, term=1, size=10, kind=1, time_us=0):
    return encode(index, term, time_us, kind, bytes([index % 256]) * size)


def opening(index=1, term=0, hard_state=VOTE):
    """Return the records that begin a segment."""
    return encode_segment(index, term) + hard_state


def chained(bodies, number=1, sequence=0, previous=0):
    """Return frames of segment `number` around the bodies, with the last one's place in the chain.

    The first one follows the frame `sequence` of checksum `previous`.
    """
    made = []
    for body in bodies:
        sequence += 1
        header, previous = frames.encode_header(number, sequence, previous, [body])
        made.append(header + body)
    return made, sequence, previous


def segment_of(number, made, size_bytes=SEGMENT_BYTES):
    """Return a segment file with these frames behind its header; its id is its number."""
    header = segments.encode_header(number, number, 0, size_bytes)
    return (header.ljust(BLOCK, b"\0") + b"".join(made)).ljust(size_bytes, b"\0")


def log_of(*segments_bodies, size_bytes=SEGMENT_BYTES):
    """Return the files of a log: for each segment the bodies of its frames."""
    files, sequence, previous = {}, 0, 0
    for number, bodies in enumerate(segments_bodies, 1):
        made, sequence, previous = chained(bodies, number, sequence, previous)
        files[segments.name(number)] = segment_of(number, made, size_bytes)
    return files


def recovering(files):
    return Recovery(ImaginedDisk.holding(files), DIRECTORY, SEGMENT_BYTES, 0)


def recovered(files):
    """Recover; return what was found, once without any file left open but the newest."""
    recovery = recovering(files)
    recovery.run()
    assert len(recovery.files._open) == 1
    return recovery


def refused(files, reason):
    """Recover, and return where the damage was told to be: the segment's number, the offset."""
    recovery = recovering(files)
    with pytest.raises(StorageDamaged, match=reason) as told:
        recovery.run()
    assert recovery.files._open == {}
    assert recovery.files.contents() == files
    number = segments.number_of(os.path.basename(told.value.path))
    return number, told.value.offset


def after(*bodies):
    """Return where the frame behind these begins."""
    return BLOCK + sum(frames.HEADER_BYTES + len(body) for body in bodies)


def test_what_frames_say_is_what_is_recovered():
    """Entries, terms, times, configurations, skips: those that were not truncated."""
    configured = encode(2, 1, 20, Kind.CONFIGURATION, encode_configuration(CONFIGURATION))
    skip = encode(3, 1, 30, Kind.SKIP, encode_skip(1))
    log = recovered(
        log_of(
            [opening(), record(1) + configured + skip, record(4)],
            [opening(5, 1) + record(5, 2), encode_truncate(4, 1) + record(4, 3, time_us=44)],
        )
    )
    assert list(log.entries.terms) == [1, 1, 1, 3]
    assert list(log.entries.times) == [0, 20, 30, 44]
    assert log.entries.configurations == [(2, CONFIGURATION)]
    assert log.entries.skips == {3: 1}
    assert (log.ledger.first, log.ledger.next_index, log.dropped_bytes) == (1, 5, 0)
    assert log.ledger.hard_state == HardState(3, "a")


@pytest.mark.parametrize("start", [1, 2, 3, 4])
def test_what_is_truncated_is_forgotten_with_all_that_it_said(start):
    """D2: its term, its time, its configuration, what it skips."""
    configured = encode(2, 1, 20, Kind.CONFIGURATION, encode_configuration(CONFIGURATION))
    entries = record(1) + configured + encode(3, 1, 30, Kind.SKIP, encode_skip(1))
    log = recovered(log_of([opening(), entries, encode_truncate(start, min(start - 1, 1))]))
    assert log.ledger.next_index == start
    assert list(log.entries.terms) == [1] * (start - 1)
    assert log.entries.configurations == ([(2, CONFIGURATION)] if start > 2 else [])
    assert log.entries.skips == ({3: 1} if start > 3 else {})


def test_runs_are_cut_like_those_that_arrive():
    """A leader that restarted can cut what it sends as finely as before."""
    half = RUN_BYTES // 2
    sizes = [half, half, half, half - 1, 40, 33, 33]
    terms = [1, 1, 1, 1, 1, 2, 3]
    body = b"".join(
        record(index, term, size - HEADER_BYTES)
        for index, (size, term) in enumerate(zip(sizes, terms, strict=True), 1)
    )
    log = recovered(log_of([opening(), body], size_bytes=1 << 18))
    assert log.entries.runs(1) == summarise(body).runs
    assert log.entries.runs(1)[0] == Run(3, 1, RUN_BYTES)
    assert recovered(log_of([opening()])).entries.runs(9) == ()


def test_marks_are_replayed_for_what_they_do():
    """N6, N7: one keeps the log, one begins it anew, one only says again what was."""
    two = record(1) + record(2)
    kept = recovered(log_of([opening(), two, encode_mark(Mark(2, 1, 1, 0), How.KEEP_LOG)]))
    assert (kept.ledger.first, kept.ledger.next_index, len(kept.entries.terms)) == (1, 3, 2)
    anew = [opening(), two, encode_mark(Mark(9, 2, 10, 9), How.DISCARD_LOG)]
    log = recovered(log_of(anew))
    assert (log.ledger.first, log.ledger.prev_term, log.ledger.next_index) == (10, 2, 10)
    assert (len(log.entries.terms), log.ledger.mark) == (0, Mark(9, 2, 10, 9))
    again = opening(10, 2) + encode_mark(Mark(9, 2, 10, 9), How.REPEATED)
    for files in (log_of(anew, [again, record(10, 2)]), {}):
        if not files:
            made, *_ = chained([again, record(10, 2)], 7, 50, 123)
            files = {segments.name(7): segment_of(7, made)}
        log = recovered(files)
        assert (log.ledger.first, log.ledger.prev_term, log.ledger.next_index) == (10, 2, 11)
        assert (list(log.entries.terms), log.ledger.mark) == ([2], Mark(9, 2, 10, 9))
        assert log.ledger.segments[-1].start == 10


LAST = record(2)
FIRST = [opening(), record(1)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (encode_segment(2, 1), "kind 131 is out of place"),
        (encode(2, 1, 0, 140, b""), "kind 140 is unknown"),
        (VOTE + record(2) + VOTE, "entry 0 of term 3 after 2 of 1"),
        (record(3), "entry 3 of term 1 after 1 of 1"),
        (record(1), "entry 1 of term 1 after 1 of 1"),
        (record(2, 0), "entry 2 of term 0 after 1 of 1"),
        (record(2, 2) + record(3, 1), "entry 3 of term 1 after 2 of 2"),
        (record(2, 4), "before that term was saved"),
        (record(2)[:-1] + b"!", "wrong length or checksum"),
        (record(2)[:-1], "wrong length or checksum"),
        (encode(2, 1, 0, 1, b"\0")[:-1], "wrong length or checksum"),
        (record(2) + encode(3, 1, 0, 128, b""), "entry 3 of term 1 after 2 of 1"),
        (record(2) + record(3)[:32], "truncated header"),
        (record(2)[:20], "truncated header"),
        (VOTE[:-1], "past the end"),
        (VOTE[:-1] + b"!", "wrong checksum"),
        (encode(0, 3, 0, Kind.HARD_STATE, b"\x02a"), "unknown form"),
        (encode(0, 3, 0, Kind.HARD_STATE, b"\x01\xff"), "not UTF-8"),
        (encode_truncate(3, 1), "the log ends at 2"),
        (encode_mark(Mark(2, 1, 1, 0), How.KEEP_LOG), "a log that ends at 2"),
        (encode(2, 1, 0, Kind.SNAPSHOT, b""), "no snapshot mark"),
        (encode(2, 1, 0, Kind.CONFIGURATION, b"\xc1"), "no configuration"),
    ],
)
def test_a_frame_that_says_what_cannot_be_is_damage(body, reason):
    """D1, E1: its checksum is good, and it is not passed over: file and offset are told."""
    assert refused(log_of([*FIRST, body]), reason) == (1, after(*FIRST))


@pytest.mark.parametrize(
    "bodies",
    [
        [VOTE, record(1)],
        [record(1)],
        [VOTE + encode_segment(1, 0)],
        [encode_segment(1, 0) + encode_segment(1, 0)],
    ],
)
def test_a_segment_begins_with_where_it_begins_and_says_so_once(bodies):
    assert refused(log_of(bodies), "kind|before that term") == (1, BLOCK)


@pytest.mark.parametrize("begins", [(3, 1), (1, 1), (2, 2), (2, 0)])
def test_a_segment_goes_on_where_the_one_before_ended(begins):
    """D1: the entry and the term before it, both."""
    place = refused(log_of(FIRST, [opening(*begins)]), "the segment goes on with entry")
    assert place == (2, BLOCK)
    assert recovered(log_of(FIRST, [opening(2, 1)])).ledger.next_index == 2


def test_a_log_without_entries_goes_on_after_the_term_of_its_snapshot():
    anew = encode_mark(Mark(9, 2, 10, 9), How.DISCARD_LOG)
    assert recovered(log_of([opening(), anew], [opening(10, 2)])).ledger.first == 10
    refused(log_of([opening(), anew], [opening(10, 1)]), "the segment goes on with entry")
    refused(log_of([opening(), anew, record(10, 1)]), "entry 10 of term 1 after 9 of 2")


def test_the_last_segment_may_be_full_to_its_last_byte():
    """An empty frame there, and one whose content cannot be."""
    room = SEGMENT_BYTES - after(*FIRST) - frames.HEADER_BYTES
    filled = record(2, size=room - frames.HEADER_BYTES - HEADER_BYTES)
    log = recovered(log_of([*FIRST, filled, b""]))
    assert log.ledger.next_index == 3
    assert refused(
        log_of([*FIRST, record(2, size=room - 10 - HEADER_BYTES) + b"x" * 10]), "cannot be"
    ) == (
        1,
        after(*FIRST),
    )
    short = record(2, size=room - frames.HEADER_BYTES - HEADER_BYTES - 10)
    assert refused(log_of([*FIRST, short, b"x" * 10]), "cannot be") == (1, after(*FIRST, short))


@pytest.mark.parametrize(("kept", "sealed"), [([], False), ([b""], True)])
def test_a_log_that_was_sealed_is_not_sealed_again(kept, sealed):
    """A start and a stop of a server that does nothing write nothing."""
    writer = recovering(log_of([*FIRST, *kept])).run()
    assert writer.sealed is sealed
    writer.seal()
    assert writer.offset == after(*FIRST) + frames.HEADER_BYTES


def torn(files, number, offset, tail):
    """Return the files with `tail` in the place of all that stands behind `offset`."""
    name = segments.name(number)
    content = (files[name][:offset] + tail).ljust(len(files[name]), b"\0")
    return {**files, name: content[: len(files[name])]}


def test_what_was_never_acknowledged_is_dropped_and_its_extent_told():
    """D1: one frame whose sync did not return, in the newest segment, begun or not."""
    files = log_of([*FIRST, LAST])
    place = after(*FIRST)
    log = recovered(torn(files, 1, place, b"\xf5RFr torn"))
    assert (log.ledger.next_index, log.dropped_bytes) == (2, 9)
    files = {**log_of(FIRST), segments.name(2): segment_of(2, [b"\xf5RFr", b"torn opening"])}
    log = recovered(files)
    assert (log.ledger.next_index, log.dropped_bytes) == (2, 16)
    files = torn(files, 1, after(opening()), b"torn")
    log = recovered(files)
    assert (log.ledger.next_index, log.dropped_bytes) == (1, 16)


@pytest.mark.parametrize("gap", [1, 8])
def test_a_frame_that_follows_what_is_none_makes_it_damage(gap):
    """D1: whatever stands before it was synced once: the next number is enough."""
    files = log_of([*FIRST, LAST])
    place = after(*FIRST)
    shifted = torn(files, 1, place, b"\0" * gap + files[segments.name(1)][place:])
    assert refused(shifted, f"a valid one follows at {place + gap}") == (1, place)


def test_old_frames_behind_the_last_one_prove_nothing():
    """D1: a number that was reached before says nothing of what comes after."""
    files = log_of([*FIRST, LAST])
    name = segments.name(1)
    old = files[name][after(opening()) : after(*FIRST)]
    log = recovered(torn(files, 1, after(*FIRST, LAST), b"torn" + old))
    assert log.ledger.next_index == 3


def test_a_frame_out_of_its_place_is_told_where_it_stands():
    """D1, sc-F21: within a segment the frame itself, between two the one that is gone."""
    made, _, _ = chained([*FIRST, record(2), record(3)])
    lost = {segments.name(1): segment_of(1, [made[0], made[1], made[3]])}
    assert refused(lost, "frame 4 stands where 3 must follow") == (1, after(*FIRST))
    unchained, _, _ = chained([record(2)], 1, 2, 999)
    wrong = {segments.name(1): segment_of(1, [made[0], made[1], *unchained])}
    assert refused(wrong, "frame 3 stands where 3 must follow") == (1, after(*FIRST))

    def followed(sequence, previous):
        again, _, _ = chained([opening(2, 1)], 2, sequence, previous)
        return {segments.name(1): segment_of(1, made[:2]), segments.name(2): segment_of(2, again)}

    _, sequence, previous = chained(FIRST)
    assert recovered(followed(sequence, previous)).ledger.next_index == 2
    assert refused(followed(sequence - 1, previous), "stands where 3 must follow") == (2, BLOCK)
    place = refused(followed(sequence, previous + 1), "frame 3 is damaged")
    assert place == (1, after(*FIRST))
    place = refused(followed(sequence + 1, previous), "frame 3 is damaged")
    assert place == (1, after(*FIRST))


def test_segments_without_a_frame_are_only_the_newest_one_or_the_first():
    """D1: where others were, its first frame had been synced."""
    files = log_of(FIRST, [opening(2, 1)])
    empty = segment_of(1, [])
    assert refused({**files, segments.name(1): empty}, "first frame is damaged") == (1, BLOCK)
    alone = {segments.name(5): segment_of(5, [])}
    assert refused(alone, "first frame is damaged") == (5, BLOCK)
    log = recovered({segments.name(1): empty})
    assert (log.ledger.next_index, log.ledger.segments[0].number) == (1, 1)
    two = {segments.name(number): segment_of(number, []) for number in (1, 2)}
    assert refused(two, "first frame is damaged") == (1, BLOCK)
    behind, _, _ = chained([opening()])
    moved = torn({segments.name(1): empty}, 1, BLOCK, b"\0" + behind[0])
    assert refused(moved, "a valid one follows") == (1, BLOCK)


def test_a_segment_that_is_missing_is_named():
    """sc-F5."""
    files = log_of(FIRST, [opening(2, 1)], [opening(2, 1)])
    del files[segments.name(2)]
    assert refused(files, "the segment is missing") == (2, 0)


def test_what_recovery_builds_on_is_on_the_disk_before_anything_follows():
    """D3, D5: names and bytes that a process sees may be in the page cache only."""
    disk = ImaginedDisk()
    content = log_of([*FIRST, LAST])[segments.name(1)]
    fd = disk.open("early", create=True)
    disk.pwrite(fd, [content[: after(*FIRST)].ljust(SEGMENT_BYTES, b"\0")], 0)
    disk.fdatasync(fd)
    disk.pwrite(fd, [content[after(*FIRST) :]], after(*FIRST))
    disk.close(fd)
    disk.rename("early", segments.name(1))
    writer = Recovery(disk, DIRECTORY, SEGMENT_BYTES, 0).run()
    assert writer.ledger.next_index == 3
    for _, files in disk.crash_states(len(disk.operations)):
        assert recovered(files).ledger.next_index == 3


def test_a_recovery_that_fails_leaves_nothing_open():
    """Whether the header cannot be, or the last frame cannot be written again."""
    files = log_of(FIRST, [opening(2, 1)])
    name = segments.name(1)
    flipped = bytes([files[name][0] ^ 1]) + files[name][1:]
    assert refused({**files, name: flipped}, "header is damaged") == (1, 0)
    recovery = recovering(files)

    def fault(call, number):
        if call == "pwrite":
            raise OSError(5, "Input/output error")

    recovery.files.fault = fault
    with pytest.raises(OSError, match="Input/output"):
        recovery.run()
    assert recovery.files._open == {}


def test_a_long_log_is_recovered_with_one_descriptor_at_a_time():
    """I21: however many segments there are."""
    bodies = [
        [opening(), record(1)],
        *([opening(index, 1), record(index)] for index in range(2, 9)),
    ]
    recovery = recovering(log_of(*bodies))
    most = []

    def note(call, number):
        most.append(len(recovery.files._open))

    recovery.files.fault = note
    recovery.run()
    assert max(most) == 1


def test_what_is_read_back_is_what_was_known_while_it_was_written():
    """The same frames stand in the same spans, with the same segments before them."""
    writer = recovering({}).run()
    writer.write([(0, HardState(1), None, 1, 3, record(1) + record(2))])
    writer.write([(0, HardState(1, "b"), None, 0, 0, b"")])
    writer.write([(0, HardState(2), 2, 0, 0, b"")])
    writer.write([(0, HardState(2, "b"), None, 0, 0, b"")])
    for index in range(2, 8):
        writer.write([(0, None, None, index, index + 1, record(index, 2, 900))])
    writer.write([(0, HardState(3), 6, 6, 7, record(6, 3))])
    writer.write_mark(MarkSave(1, 5, 2, True, 2))

    def told(ledger):
        spans = [(one.first, one.segment.number, one.offset, one.stop) for one in ledger.spans]
        segments = [(one.number, one.start) for one in ledger.segments]
        return (spans, segments, ledger.first, ledger.next_index, ledger.mark, ledger.hard_state)

    assert len(writer.ledger.segments) > 1
    assert told(recovered(writer.files.contents()).ledger) == told(writer.ledger)


def test_what_was_half_made_when_the_power_went_is_removed():
    files = {**log_of(FIRST), segments.TEMPORARY_NAME: b"half"}
    log = recovered(files)
    assert list(log.files.contents()) == [segments.name(1)]


def test_a_log_that_was_recovered_goes_on():
    """The frame behind the last one is chained to it; the segment's end is known."""
    writer = recovering(log_of(FIRST, [opening(2, 1)])).run()
    writer.write([(0, None, None, 2, 3, record(2))])
    writer.write_mark(MarkSave(1, 1, 1, True, 1))
    log = recovered(writer.files.contents())
    assert (log.ledger.next_index, log.ledger.mark) == (3, Mark(1, 1, 1, 0))
    assert [segment.start for segment in log.ledger.segments] == [1, 2]
