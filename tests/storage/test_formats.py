"""The formats on disk, byte for byte: what was written once is read for ever.

The golden files are never written by a test. A change of format is a new version with
golden files of its own, beside these.
"""

from __future__ import annotations

import pathlib
import struct
from zlib import crc32

import pytest

from raft.core.configuration import Configuration, Member
from raft.core.messages import Entries, Run
from raft.core.outputs import HardState
from raft.errors import BadConfiguration, StorageDamaged
from raft.interfaces import SnapshotMeta
from raft.storage import frames, marks, segments, snapshots
from raft.storage.directory import Identity, decode_identity, encode_identity
from raft.storage.imagined import ImaginedDisk
from raft.storage.records import (
    HEADER_BYTES,
    RUN_BYTES,
    BadRecord,
    Kind,
    decode,
    decode_configuration,
    encode,
    encode_commands,
    encode_configuration,
    summarise,
)
from raft.storage.recovery import Recovery
from raft.storage.snapshots import SnapshotFiles
from raft.storage.wal import WriteAheadLog
from raft.storage.writer import MarkSave

GOLDEN = pathlib.Path(__file__).parent / "golden"
SEGMENT_BYTES = 4096
INCARNATION = 0x0123456789ABCDEF
SEGMENT_ID = 0x1122334455667788
CONFIGURATION = Configuration(
    (
        Member("a", "00000000000000aa", "tcp:a:1", "tcp:a:2"),
        Member("b", "", "tcp:b:1", "tcp:b:2", voter=False),
    ),
    frozenset({"a", "c"}),
)
META = SnapshotMeta(4, 2, CONFIGURATION, 2, 1_500_000, "kv", 3)
IDENTITY = Identity("server-a", "0123456789abcdef", "cluster-ü")
SEGMENT_NAME = "log-00000000000000000001.wal"
SNAPSHOT_NAME = "snapshot-00000000000000000004-00000000000000000002.snap"


def golden_records():
    return (
        encode(1, 1, 0, Kind.NO_OP, b"")
        + encode(2, 1, 1_000_000, Kind.CONFIGURATION, encode_configuration(CONFIGURATION))
        + encode_commands(3, 2, 1_500_000, [b"command", b"", b"\x00\xff" * 10])
    )


def golden_files(monkeypatch):
    """Write a small log and a snapshot, with the one random number fixed."""
    monkeypatch.setattr("raft.storage.segments.secrets.randbits", lambda bits: SEGMENT_ID)
    disk = ImaginedDisk()
    writer = Recovery(disk, "/imagined", SEGMENT_BYTES, INCARNATION).run()
    records = golden_records()
    ends = [0]
    for record in decode(records):
        ends.append(ends[-1] + HEADER_BYTES + len(record.payload))
    writer.write([(1, HardState(1, "a"), None, 1, 3, records[: ends[2]])])
    writer.write([(2, HardState(2, None), None, 3, 6, records[ends[2] :])])
    made = SnapshotFiles(disk, "/imagined", INCARNATION, lambda error: None)
    snapshot = made.create(META)
    snapshot.write(b"first chunk")
    snapshot.write(b"second")
    snapshot.commit()
    writer.write_mark(MarkSave(3, 4, 2, True, 3))
    writer.write([(4, HardState(3, "b"), 5, 5, 6, encode(5, 3, 2_000_000, Kind.NO_OP, b""))])
    writer.seal()
    writer.close()
    files = disk.contents()
    return {
        "records-v1.bin": records,
        "segment-v1.bin": files[SEGMENT_NAME].rstrip(b"\x00"),
        "snapshot-v1.bin": files[SNAPSHOT_NAME],
        "identity-v1.json": encode_identity(IDENTITY),
    }


@pytest.mark.parametrize(
    "name", ["records-v1.bin", "segment-v1.bin", "snapshot-v1.bin", "identity-v1.json"]
)
def test_today_s_bytes_are_those_of_version_1(monkeypatch, name):
    assert golden_files(monkeypatch)[name] == (GOLDEN / name).read_bytes()


def test_version_1_is_read():
    """sc-U7: the whole directory, from golden bytes alone."""
    segment = (GOLDEN / "segment-v1.bin").read_bytes().ljust(SEGMENT_BYTES, b"\x00")
    disk = ImaginedDisk.holding(
        {SEGMENT_NAME: segment, SNAPSHOT_NAME: (GOLDEN / "snapshot-v1.bin").read_bytes()}
    )
    store = WriteAheadLog("/imagined", disk, SEGMENT_BYTES, f"{INCARNATION:016x}")
    found = store.recover()
    assert found.hard_state == HardState(3, "b")
    assert found.snapshot == META
    assert found.configurations == ((2, CONFIGURATION),)
    assert [(run.end, run.term) for run in found.runs] == [(3, 1), (5, 2), (6, 3)]
    assert b"".join(store.open_snapshot(4)[1]) == b"first chunksecond"
    assert store.read(5, 6, 100)[1] == encode(5, 3, 2_000_000, Kind.NO_OP, b"")
    store.stop()
    assert decode_identity((GOLDEN / "identity-v1.json").read_bytes(), "identity") == IDENTITY
    assert (
        b"".join(
            encode(r.index, r.term, r.time_us, r.kind, r.payload)
            for r in decode((GOLDEN / "records-v1.bin").read_bytes())
        )
        == (GOLDEN / "records-v1.bin").read_bytes()
    )


def test_a_frame_is_what_the_reference_says():
    """Taken apart by hand, not by the code that made it."""
    header, checksum = frames.encode_header(SEGMENT_ID, 7, 0xABCD, [b"body", b"!"])
    assert header[:4] == b"\xf5RFr"
    assert struct.unpack("<IIIQQ", header[4:]) == (checksum, 0xABCD, 5, SEGMENT_ID, 7)
    assert checksum == crc32(header[8:] + b"body!")
    found = frames.find(memoryview(header + b"body!"), 0, SEGMENT_ID)
    assert found == (7, 0xABCD, checksum, 32, 37)


@pytest.mark.parametrize(
    "content", [b"", bytes(31), bytes(4096), b"\xf5RFr" + bytes(100), b"\xff" * 64]
)
def test_what_is_no_frame_is_none(content):
    """D1, sc-F12: a page of zeros above all."""
    assert frames.find(memoryview(content), 0, SEGMENT_ID) is None


def test_a_payload_cannot_pass_for_a_frame():
    """A frame of another segment, within a torn frame, is no successor."""
    header, _ = frames.encode_header(SEGMENT_ID + 1, 99, 0, [b"x"])
    assert frames.successor(b"torn" + header + b"x", 0, SEGMENT_ID, 1) is None
    header, _ = frames.encode_header(SEGMENT_ID, 99, 0, [b"x"])
    assert frames.successor(b"torn" + header + b"x", 0, SEGMENT_ID, 1) == 4
    assert frames.successor(b"torn" + header + b"x", 0, SEGMENT_ID, 99) == 4
    assert frames.successor(b"torn" + header + b"x", 0, SEGMENT_ID, 100) is None
    assert frames.successor(b"?" + header + b"x", 0, SEGMENT_ID, 99) == 1


def test_a_frame_ends_within_the_content():
    """D1: an empty one may end it; one that claims more is none, whatever its checksum says."""
    header, checksum = frames.encode_header(SEGMENT_ID, 7, 0, [])
    assert frames.find(memoryview(header), 0, SEGMENT_ID) == (7, 0, checksum, 32, 32)
    covered = struct.pack("<IIQQ", 0, 100, SEGMENT_ID, 7) + b"less"
    claims = frames.MAGIC + crc32(covered).to_bytes(4, "little") + covered
    assert frames.find(memoryview(claims), 0, SEGMENT_ID) is None
    assert frames.find(memoryview(b"RFr\xf5" + header[4:]), 0, SEGMENT_ID) is None
    assert frames.find(memoryview(header + header[:20]), len(header), SEGMENT_ID) is None


def versioned(magic, version, rest):
    head = magic + version.to_bytes(4, "little")
    return head + crc32(rest, crc32(head)).to_bytes(4, "little") + rest


def test_a_newer_segment_is_refused_by_its_number():
    """sc-F27."""
    header = versioned(segments.MAGIC, 2, struct.pack("<QQQQ", 1, 1, 0, 0))
    with pytest.raises(BadConfiguration, match="log format 2, this program knows up to 1"):
        segments.decode_header(header, "path", 1, 0, 4096)


def test_a_newer_snapshot_is_refused_by_its_number():
    disk = ImaginedDisk.holding(
        {SNAPSHOT_NAME: versioned(snapshots.MAGIC, 2, struct.pack("<QI", 0, 0))}
    )
    files = SnapshotFiles(disk, "/imagined", 0, lambda error: None)
    files.load()
    with pytest.raises(BadConfiguration, match="snapshot format 2, this program knows up to 1"):
        files.open(4)


def test_a_snapshot_of_another_directory_is_refused():
    """sc-F25."""
    disk = ImaginedDisk.holding({SNAPSHOT_NAME: (GOLDEN / "snapshot-v1.bin").read_bytes()})
    files = SnapshotFiles(disk, "/imagined", INCARNATION + 1, lambda error: None)
    files.load()
    with pytest.raises(StorageDamaged, match="another data directory"):
        files.open(4)


@pytest.mark.parametrize("hard_state", [HardState(), HardState(5, ""), HardState(7, "server-ü")])
def test_a_hard_state_comes_back(hard_state):
    (record,) = decode(marks.encode_hard_state(hard_state))
    assert marks.decode_hard_state(record) == hard_state


def test_a_mark_comes_back():
    mark = marks.Mark(5, 2, 4, 3)
    (record,) = decode(marks.encode_mark(mark, marks.How.DISCARD_LOG))
    assert marks.decode_mark(record) == (mark, marks.How.DISCARD_LOG)


@pytest.mark.parametrize("payload", [b"", b"\x09" + bytes(16), bytes(18)])
def test_what_is_no_mark_is_refused(payload):
    (record,) = decode(encode(5, 2, 0, Kind.SNAPSHOT, payload))
    with pytest.raises(BadRecord):
        marks.decode_mark(record)


@pytest.mark.parametrize("at", range(2 * (HEADER_BYTES + 3)))
def test_a_flipped_bit_of_a_record_is_refused(at):
    """D1: whichever byte it is in, of the first record or the last, and whoever reads them."""
    records = bytearray(encode_commands(5, 2, 77, [b"one", b"two"]))
    records[at] ^= 1
    with pytest.raises(BadRecord):
        list(decode(bytes(records)))
    with pytest.raises(BadRecord):
        summarise(bytes(records))


@pytest.mark.parametrize("kind", [128, 129, 130, 131])
def test_local_kinds_do_not_travel(kind):
    with pytest.raises(BadRecord, match="does not travel"):
        summarise(encode(1, 1, 0, kind, b""))


CONFIGURED = encode(6, 2, 0, Kind.CONFIGURATION, encode_configuration(CONFIGURATION))


def test_a_summary_tells_the_range_its_runs_and_its_configurations():
    """A run ends with its term, or where it is full; the one before is not touched again."""
    half = bytes(RUN_BYTES // 2 - HEADER_BYTES)
    records = encode(5, 2, 0, Kind.COMMAND, b"a") + CONFIGURED
    found = summarise(records + encode(7, 3, 0, Kind.NO_OP, b""), 17)
    assert found == Entries(
        5,
        (Run(7, 2, len(records)), Run(8, 3, HEADER_BYTES)),
        ((6, CONFIGURATION),),
        17,
    )
    full = encode_commands(1, 1, 0, [half, half, b"next"])
    assert summarise(full).runs == (Run(3, 1, RUN_BYTES), Run(4, 1, HEADER_BYTES + 4))
    assert summarise(b"", 3, 8) == Entries(8, (), (), 3)


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (encode(5, 2, 0, 1, b"") + encode(7, 2, 0, 1, b""), "index 7 where 6 must follow"),
        (encode(5, 2, 0, 1, b"") + encode(5, 2, 0, 1, b""), "index 5 where 6 must follow"),
        (encode(5, 2, 0, 1, b"") + encode(6, 1, 0, 1, b""), "term 1 after 2"),
        (encode(5, 2, 0, 11, b""), "kind 11 does not travel"),
        (encode(5, 2, 0, 1, b"") + CONFIGURED[:32], "truncated header at byte 33"),
        (encode(5, 2, 0, 1, b"") + CONFIGURED[:-1], "past the end at byte 33"),
        (encode(5, 2, 0, 2, b"\xc1"), "no configuration"),
    ],
    ids=["gap", "twice", "term falls", "kind", "cut in its header", "cut", "configuration"],
)
def test_what_is_no_run_of_entries_is_refused_with_the_reason(records, reason):
    with pytest.raises(BadRecord, match=reason) as refused:
        summarise(records)
    assert str(refused.value).endswith(f"at byte {refused.value.offset}")


def test_a_record_that_claims_more_than_there_is_is_refused():
    """D1: even where its checksum is that of what there is."""
    covered = struct.pack("<IQQQB", 100, 5, 2, 0, 1) + b"less"
    claims = crc32(covered).to_bytes(4, "little") + covered
    with pytest.raises(BadRecord, match="length 100 goes past the end"):
        list(decode(claims))


def test_the_entries_of_a_change_of_members_come_back():
    """A change under way says what it will come to; one that is none says nothing more."""
    target = Configuration(CONFIGURATION.members, CONFIGURATION.outgoing, CONFIGURATION.members[:1])
    for configuration in (CONFIGURATION, target):
        assert decode_configuration(encode_configuration(configuration)) == configuration
    assert encode_configuration(target).startswith(b"\x93")


@pytest.mark.parametrize(
    ("number", "owner", "size_bytes", "reason"),
    [
        (2, 9, 4096, "says segment 2, its header 1"),
        (1, 8, 4096, "another data directory"),
        (1, 9, 4095, "it had 4096 bytes"),
    ],
)
def test_a_segment_is_known_by_its_header(number, owner, size_bytes, reason):
    """sc-F21, sc-F25: one that nobody owns, or whom nobody asks, belongs to any directory."""
    header = segments.encode_header(5, 1, 9, 4096)
    assert segments.decode_header(header, "path", 1, 9, 4096) == 5
    assert segments.decode_header(header, "path", 1, 0, 4097) == 5
    anyone = segments.encode_header(5, 1, 0, 4096)
    assert segments.decode_header(anyone, "path", 1, 9, 4096) == 5
    with pytest.raises(StorageDamaged, match=reason):
        segments.decode_header(header, "path", number, owner, size_bytes)


@pytest.mark.parametrize(
    "header",
    [
        versioned(b"RAFTSNP\n", 1, struct.pack("<QQQQ", 5, 1, 0, 0)),
        segments.encode_header(5, 1, 0, 0)[:-1],
        segments.encode_header(5, 1, 0, 0)[:-1] + b"\x01",
    ],
    ids=["another magic", "cut short", "flipped"],
)
def test_what_is_no_segment_header_is_refused(header):
    """sc-F2: a good checksum makes no segment of another file."""
    with pytest.raises(StorageDamaged, match="header"):
        segments.decode_header(header, "path", 1, 0, 4096)


def test_what_is_no_meta_is_refused():
    with pytest.raises(BadRecord):
        snapshots.decode_meta(b"\xc1")
    assert snapshots.decode_meta(snapshots.encode_meta(META)) == META
