"""What is read from files, and what entries and snapshots carry from server to server."""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from raft import backup
from raft.core.configuration import Configuration, Member
from raft.durable import PROGRESS_KEY, Notes, Progress
from raft.envelope import Header, wrap
from raft.errors import BadBackup, BadConfiguration, StateMachineFailed, StorageDamaged
from raft.interfaces import SnapshotMeta
from raft.machines.kv import KeyValueStore
from raft.node.snapshot_receiving import Origin, read_origin
from raft.replica import Replica
from raft.restoration import End, GiveUp, Piece, encode_step
from raft.restoration import _step as decode_step
from raft.sessions import Sessions
from raft.skips import Skips
from raft.storage import frames
from raft.storage import records as entries
from raft.storage import segments as segment_files
from raft.storage import snapshots as snapshot_files
from raft.storage.imagined import ImaginedDisk
from raft.storage.marks import decode_hard_state, decode_mark
from raft.storage.records import BadRecord, Kind
from raft.storage.snapshots import SnapshotFiles
from raft.storage.wal import WriteAheadLog
from tests.fuzz.oracle import Source, check

DIRECTORY = "/imagined"
GOLDEN = Path(__file__).parent.parent / "storage" / "golden"
SEGMENT_BYTES = 4096
CONFIGURATION = Configuration((Member("a", "i", "h:1", "h:2"), Member("b")), frozenset({"a"}))
META = SnapshotMeta(4, 2, CONFIGURATION, 2, 1_500_000, "kv", 1)
SESSION = bytes(range(16))


def _nobody_told(*_: object) -> None:
    """Take the news of a session that ended."""


def u32(content: bytes | bytearray, at: int) -> int:
    return int.from_bytes(content[at : at + 4], "little")


def put(content: bytearray, at: int, number: int) -> None:
    content[at : at + 4] = number.to_bytes(4, "little")


# -- Records -------------------------------------------------------------------------------


def mended_records(octets: bytes | bytearray) -> bytearray:
    """Return the bytes with the checksum of each record set right, as far as there are any."""
    content, at = bytearray(octets), 0
    while at + entries.HEADER_BYTES <= len(content):
        end = at + entries.HEADER_BYTES + u32(content, at + 4)
        if end > len(content):
            break
        put(content, at, crc32(content[at + 4 : end]))
        at = end
    return content


def records(octets: bytes) -> object:
    """Records that are taken are, written again, the same bytes."""
    source = Source(octets)
    mend, rest = source.byte() & 1, source.rest()
    content = bytes(mended_records(rest)) if mend else rest
    try:
        summary = entries.summarise(content, 0, 8)
    except BadRecord as error:
        check(0 <= error.offset <= len(content), f"{error.offset} is not in the bytes")
        summary = None
    try:
        found = list(entries.decode(content))
    except BadRecord:
        check(summary is None, "a summary of records that are bad")
        return None
    written = b"".join(
        entries.encode(each.index, each.term, each.time_us, each.kind, each.payload)
        for each in found
    )
    check(written == content, "the records are not what is written for them")
    if summary is not None and found:
        check(summary.start == found[0].index, "another start")
        check(summary.runs[-1].end == found[-1].index + 1, "another end")
        check(sum(run.size_bytes for run in summary.runs) == len(content), "another size")
    return found


def _golden() -> bytes:
    return (
        entries.encode(1, 1, 0, Kind.NO_OP, b"")
        + entries.encode(
            2, 1, 1_000_000, Kind.CONFIGURATION, entries.encode_configuration(CONFIGURATION)
        )
        + entries.encode_commands(3, 2, 1_500_000, [b"command", b"", b"\x00\xff" * 5])
    )


def record_seeds() -> list[bytes]:
    golden = _golden()
    return [b"\1" + golden, b"\0" + golden, b"\1" + entries.encode_commands(8, 3, 5, [b"a"])]


# -- Payloads of entries, and other small forms --------------------------------------------


class _Noted:
    """A machine that keeps what it is opened with."""

    def __init__(self, notes: dict[bytes, bytes]) -> None:
        self.notes = notes

    def open(self) -> dict[bytes, bytes]:
        return self.notes


def _same(decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]) -> Callable[..., object]:
    def run(content: bytes) -> object:
        try:
            found = decode(content)
        except BadRecord:
            return None
        check(decode(encode(found)) == found, f"{found} comes back as another")
        return found

    return run


def _backup_meta(content: bytes) -> object:
    try:
        meta = backup.decode_meta(content)
    except BadBackup:
        return None
    check(backup.decode_meta(backup.encode_meta(meta)) == meta, "another meta comes back")
    return meta


def _step(content: bytes) -> object:
    step = decode_step(content)
    check(step is None or decode_step(encode_step(step)) == step, "another step comes back")
    return step


def _origin(content: bytes) -> object:
    try:
        return read_origin(content)
    except StateMachineFailed:
        return None


def _mark(content: bytes) -> object:
    try:
        return decode_mark(entries.Record(4, 2, 0, Kind.SNAPSHOT, content))
    except BadRecord:
        return None


def _vote(content: bytes) -> object:
    try:
        return decode_hard_state(entries.Record(4, 2, 0, Kind.HARD_STATE, content))
    except BadRecord:
        return None


def _notes(content: bytes) -> object:
    machine: Any = _Noted({PROGRESS_KEY: content})
    sessions = Sessions(_nobody_told)
    try:
        return Notes(machine, sessions, Skips()).open(1)
    except StateMachineFailed:
        return None


_PAYLOADS: list[Callable[[bytes], object]] = [
    _same(entries.decode_configuration, entries.encode_configuration),
    _same(
        entries.decode_registration,
        lambda found: entries.encode_registration(found.nonce, found.limits),
    ),
    _same(entries.decode_sessions, entries.encode_sessions),
    _same(entries.decode_version, entries.encode_version),
    _same(entries.decode_recovery, entries.encode_recovery),
    _backup_meta,
    _step,
    _origin,
    _mark,
    _vote,
    _notes,
    _same(entries.decode_skip, entries.encode_skip),
]


def payloads(octets: bytes) -> object:
    """A payload means something that is written again as the same, or is refused by its type."""
    source = Source(octets)
    return _PAYLOADS[source.byte() % len(_PAYLOADS)](source.rest())


def payload_seeds() -> list[bytes]:
    configuration = entries.encode_configuration(CONFIGURATION)
    limits = entries.SessionLimits()
    progress = Progress(1, 4, 2, 5, configuration, 1, 2, 3, b"seed", limits, 1)
    meta = backup.BackupMeta("cluster", 4, 2, 5, "kv", 1, "a", 7)
    seeds = [
        (0, configuration),
        (1, entries.encode_registration(bytes(8), limits)),
        (2, entries.encode_sessions([SESSION])),
        (3, entries.encode_version(3)),
        (4, entries.encode_recovery(entries.RecoveryNote("c+1", "c", 7, "raft", configuration))),
        (5, backup.encode_meta(meta)),
        (6, encode_step(Piece(SESSION, 0, b"piece"))),
        (6, encode_step(End(SESSION, 5, bytes(32), b"meta"))),
        (6, encode_step(GiveUp(SESSION))),
        (7, msgspec.msgpack.encode(Origin(5, "kv", 1))),
        (8, struct.pack("<BQQ", 0, 4, 2)),
        (9, b"\1a"),
        (10, msgspec.msgpack.encode(progress)),
        (11, entries.encode_skip(9)),
    ]
    return [bytes((number,)) + content for number, content in seeds]


# -- Segments of the log -------------------------------------------------------------------

FIRST_FRAME = segment_files.HEADER_BLOCK_BYTES


def mended_segment(octets: bytes) -> bytes:
    """Return a segment file with all its checksums set right, and the frames chained."""
    content = bytearray(octets)
    put(content, 12, crc32(content[16 : segment_files.HEADER.size], crc32(content[:12])))
    at, previous = FIRST_FRAME, 0
    while content[at : at + 4] == frames.MAGIC:
        body = at + frames.HEADER_BYTES
        end = body + u32(content, at + 12)
        if end > len(content):
            break
        content[body:end] = mended_records(content[body:end])
        put(content, at + 8, previous)
        previous = crc32(content[at + 8 : end])
        put(content, at + 4, previous)
        at = end
    return bytes(content)


SEGMENT_NAME = segment_files.name(1)


def _recovered(files: dict[str, bytes]) -> tuple[object, dict[str, bytes]] | None:
    """Return what a log holds, entry by entry, and what is on disk then; None if it is refused."""
    disk = ImaginedDisk.holding(files)
    log = WriteAheadLog(DIRECTORY, disk, SEGMENT_BYTES)
    try:
        found = log.recover()
    except (StorageDamaged, BadConfiguration):
        check(not disk._open, "a file is left open")
        return None
    try:
        held: list[Any] = [found.hard_state, found.first_index]
        index, end = found.first_index, found.runs[-1].end if found.runs else found.first_index
        while index < end:
            index, body = log.read(index, end, 700)
            held.append(body)
        return held, disk.contents()
    finally:
        log.stop()


def segments(octets: bytes) -> object:
    """A log is recovered whole, and once more the same, or is refused with file and offset."""
    source = Source(octets)
    mend, rest = source.byte() & 1, source.rest()
    # The blocks between the header and the first frame say nothing.
    header = segment_files.HEADER.size
    content = rest[:header].ljust(FIRST_FRAME, b"\0") + rest[header:]
    content = content[:SEGMENT_BYTES].ljust(SEGMENT_BYTES, b"\0")
    content = mended_segment(content) if mend else content
    first = _recovered({SEGMENT_NAME: content})
    if first is None:
        return None
    again = _recovered(first[1])
    check(again is not None and again[0] == first[0], "a second recovery gives another log")
    return first


def segment_seeds() -> list[bytes]:
    content = (GOLDEN / "segment-v1.bin").read_bytes()
    short = content[: segment_files.HEADER.size] + content[FIRST_FRAME:].rstrip(b"\0")
    return [b"\1" + short, b"\0" + short]


# -- Snapshot files and their content ------------------------------------------------------


def mended_snapshot(octets: bytes) -> bytes:
    """Return a snapshot file with all its checksums and counts set right."""
    content = bytearray(octets)
    if len(content) < snapshot_files.HEADER.size:
        return octets
    at = snapshot_files.HEADER.size + u32(content, 24)
    checksum = crc32(content[16:at], crc32(content[:12]))
    put(content, 12, checksum)
    return _mended_chunks(content, at, checksum, lambda pieces: b"")


def _mended_chunks(
    content: bytearray, at: int, checksum: int, more: Callable[[list[bytes]], bytes]
) -> bytes:
    pieces = []
    while at + 8 <= len(content) and u32(content, at):
        end = at + 8 + u32(content, at)
        if end > len(content):
            return bytes(content)
        pieces.append(bytes(content[at + 8 : end]))
        checksum = crc32(pieces[-1], checksum)
        put(content, at + 4, checksum)
        at = end
    footer = struct.pack("<IIQQ", 0, checksum, len(pieces), sum(map(len, pieces))) + more(pieces)
    return bytes(content[:at]) + footer + crc32(footer).to_bytes(4, "little")


def snapshots(octets: bytes) -> object:
    """A snapshot file is read whole, or refused with file and offset."""
    source = Source(octets)
    mend, rest = source.byte() & 1, source.rest()
    content = mended_snapshot(rest) if mend else rest
    disk = ImaginedDisk.holding({snapshot_files.name(META.index, META.term): content})
    files = SnapshotFiles(disk, DIRECTORY, 0, lambda error: None)
    files.load()
    try:
        meta, chunks = files.open(META.index)
        found = b"".join(chunks)
    except (StorageDamaged, BadConfiguration):
        check(not disk._open, "a file is left open")
        return None
    header, _ = snapshot_files.encode_header(meta, 0)
    check(snapshot_files.decode_meta(snapshot_files.encode_meta(meta)) == meta, "another meta")
    check(len(header) + len(found) < len(content) + 4096, "more than the file holds")
    check(not disk._open, "a file is left open")
    return meta, found


def snapshot_seeds() -> list[bytes]:
    disk = ImaginedDisk()
    made = SnapshotFiles(disk, DIRECTORY, 0, lambda error: None).create(META)
    made.write(b"first chunk")
    made.write(b"second")
    made.commit()
    (content,) = disk.contents().values()
    return [b"\1" + content, b"\0" + content]


def contents(octets: bytes) -> object:
    """What a snapshot carries replaces a replica's state, or is refused as a whole."""
    source = Source(octets)
    step, rest = 1 + source.byte(), source.rest()
    replica = Replica(KeyValueStore())
    try:
        replica.restore(META, iter([rest[at : at + step] for at in range(0, len(rest), step)]))
    except StateMachineFailed:
        return None
    meta, chunks = replica.snapshot()
    content = b"".join(chunks)
    again = Replica(KeyValueStore())
    again.restore(meta, iter([content]))
    check(b"".join(again.snapshot()[1]) == content, "another state comes back")
    return replica


def content_seeds() -> list[bytes]:
    machine = KeyValueStore()
    sessions = Sessions(_nobody_told)
    sessions.register(4, bytes(8), 5, None)
    made = b"".join(
        wrap(
            Header(1, 2, seed=b"seed", sections=[("sessions", 1)]),
            machine.snapshot(),
            [list(sessions.view())],
        )
    )
    plain = b"".join(wrap(Header(1, 2, seed=b"seed"), machine.snapshot()))
    return [b"\xff" + made, b"\3" + plain]


def sessions(octets: bytes) -> object:
    """The sessions of a snapshot come back as themselves, or are refused."""
    found = Sessions(_nobody_told)
    slices = octets.split(b"\xfc\n")
    try:
        found.restore(slices)
    except StateMachineFailed:
        return None
    again = Sessions(_nobody_told)
    written = list(found.view())
    again.restore(written)
    check(list(again.view()) == written, "other sessions come back")
    return found


def session_seeds() -> list[bytes]:
    made = Sessions(_nobody_told)
    made.register(4, bytes(8), 5, None)
    made.register(5, bytes(range(8)), 6, entries.SessionLimits(results=3))
    return [b"\xfc\n".join(made.view()), b"\xfc\n".join(Sessions(_nobody_told).view())]


# -- Backups -------------------------------------------------------------------------------


def mended_backup(octets: bytes) -> bytes:
    """Return a backup file with all its checksums and digests set right."""
    content = bytearray(octets)
    if len(content) < backup.HEADER.size:
        return octets
    at = backup.HEADER.size + u32(content, 16)
    meta = bytes(content[backup.HEADER.size : at])
    checksum = crc32(content[16:at], crc32(content[:12]))
    put(content, 12, checksum)
    return _mended_chunks(
        content, at, checksum, lambda pieces: hashlib.sha256(meta + b"".join(pieces)).digest()
    )


def _in_file(content: bytes) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as file:
        file.write(content)
        file.flush()
        yield file.name


def backups(octets: bytes) -> object:
    """A backup is read whole, or refused with file and offset."""
    source = Source(octets)
    mend, rest = source.byte() & 1, source.rest()
    content = mended_backup(rest) if mend else rest
    for path in _in_file(content):
        try:
            found = backup.verify(path)
        except BadBackup as error:
            return str(error)
        check(found.size_bytes <= len(content), "more than the file holds")
    return found


def backup_seeds() -> list[bytes]:
    meta = backup.encode_meta(backup.BackupMeta("cluster", 4, 2, 5, "kv", 1, "a", 7))
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "backup")
        writer = backup.BackupWriter.open(path, meta)
        writer.write(b"first chunk")
        writer.write(b"second")
        writer.commit()
        with open(path, "rb") as file:
            content = file.read()
    return [b"\1" + content, b"\0" + content]
