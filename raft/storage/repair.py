"""The repair of a damaged log: what is good stays, the leader sends the rest again [RULES D1].

A server whose log is damaged in the middle has promised what it can no longer show: entries that it
acknowledged, which may be committed through it. It may go on all the same where three things are
certain: how far its log went, by (term, index) of the last entry; its term and vote; and a state of
its log from before the damage (`raft.storage.repair_plan` finds them, or refuses). It then votes as
though it still had that last entry, stands for no election, and takes the rest from a leader, until
it is as far again. Nobody can be elected through it who could not have been elected through the
server as it was: of a voter's log, only the last entry counts in elections.

What changes in the directory is first written to the file `repair`, as a whole; whoever opens the
directory next finishes it, and each step may be taken twice. Damaged segments are never removed:
they get another name, and stay for whoever wants to look at them.
"""

from __future__ import annotations

import os
from typing import Final
from zlib import crc32

import msgspec
from attrs import evolve, frozen
from twisted.logger import Logger

from raft.core.outputs import HardState
from raft.errors import BadConfiguration, StorageDamaged
from raft.storage.files import Files, read_all, replace_file
from raft.storage.recovery import Recovery
from raft.storage.writer import MarkSave

_log = Logger(namespace="raft.storage")

REPAIR_NAME: Final = "repair"
FORMAT_VERSION: Final = 1
MOST_BYTES: Final = 1 << 20
SEGMENT_SIZE_BYTES: Final = 16 << 20

MOVING, WRITING, FETCHING, DONE = "moving", "writing", "fetching", "done"


@frozen
class Repair:
    """What is being done, or was done last, to a damaged log.

    Attributes:
        state: "moving" segments out of the way, "writing" what the log must say instead,
            "fetching" from the leader, or "done".
        hard_state: the server's, from before; None where the log still says it.
        last: (term, index) of the last entry that the log had; zeros where nothing is lost.
        snapshot: (index, term) of the one that the log begins anew behind; zeros for none.
        names: of the segments that are moved out of the way.
        suffix: which their names get.
        damages: where the log was damaged, for people.
        begun_at: in seconds since 1970.
    """

    state: str
    hard_state: HardState | None
    last: tuple[int, int]
    snapshot: tuple[int, int]
    names: tuple[str, ...]
    suffix: str
    damages: tuple[str, ...]
    begun_at: int

    @property
    def set_aside(self) -> tuple[str, ...]:
        """The names that the damaged segments have."""
        return tuple(name + self.suffix for name in self.names)


class _VersionForm(msgspec.Struct):
    format_version: int


class _RepairForm(msgspec.Struct, forbid_unknown_fields=True):
    format_version: int
    state: str
    has_hard_state: bool
    current_term: int
    voted_for: str | None
    last_term: int
    last_index: int
    snapshot_index: int
    snapshot_term: int
    names: tuple[str, ...]
    suffix: str
    damages: tuple[str, ...]
    begun_at: int
    checksum: str = ""


def encode_repair(repair: Repair) -> bytes:
    """Return the file's bytes: one JSON object, for operators to read."""
    vote = repair.hard_state or HardState()
    form = _RepairForm(
        FORMAT_VERSION,
        repair.state,
        repair.hard_state is not None,
        vote.current_term,
        vote.voted_for,
        *repair.last,
        *repair.snapshot,
        repair.names,
        repair.suffix,
        repair.damages,
        repair.begun_at,
    )
    form.checksum = _checksum(form)
    return msgspec.json.format(msgspec.json.encode(form), indent=2) + b"\n"


def decode_repair(content: bytes, path: str) -> Repair:
    """Return what a file's bytes say.

    Raises BadConfiguration for a newer format, StorageDamaged for anything else.
    """
    try:
        version = msgspec.json.decode(content, type=_VersionForm).format_version
        if version > FORMAT_VERSION:
            raise BadConfiguration(
                f"{path} has format {version}, this program knows up to {FORMAT_VERSION}: start it "
                "with the newer version that wrote it"
            )
        form = msgspec.json.decode(content, type=_RepairForm)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    found, form.checksum = form.checksum, ""
    if found != _checksum(form) or form.state not in (MOVING, WRITING, FETCHING, DONE):
        raise _damaged(path, "its checksum does not match its content")
    hard_state = HardState(form.current_term, form.voted_for) if form.has_hard_state else None
    return Repair(
        form.state,
        hard_state,
        (form.last_term, form.last_index),
        (form.snapshot_index, form.snapshot_term),
        form.names,
        form.suffix,
        form.damages,
        form.begun_at,
    )


def _checksum(form: _RepairForm) -> str:
    return f"{crc32(msgspec.json.encode(form)):08x}"


def _damaged(path: str, reason: str) -> StorageDamaged:
    return StorageDamaged(
        path,
        0,
        f"what is noted of a repair is unusable: {reason}; remove this server from the cluster and "
        "add it again with an empty directory",
    )


def begin(files: Files, directory: str, repair: Repair) -> None:
    """Let the repair be what this directory is, for good; `finish` does the rest. Blocks."""
    replace_file(files, directory, REPAIR_NAME, encode_repair(repair))


def load(files: Files, directory: str) -> Repair | None:
    """Return what is being repaired in a directory, or was last; None where nothing ever was.

    Raises:
        BadConfiguration: a newer version of this library wrote it.
        StorageDamaged: it is unreadable.
        OSError: the disk refused.
    """
    path = os.path.join(directory, REPAIR_NAME)
    try:
        fd = files.open(path)
    except FileNotFoundError:
        return None
    try:
        content = read_all(files, fd, MOST_BYTES, 0)
    finally:
        files.close(fd)
    return decode_repair(content, path)


def finish(
    files: Files,
    directory: str,
    incarnation: str,
    segment_size_bytes: int = SEGMENT_SIZE_BYTES,
) -> Repair | None:
    """Do what is left to be done to the files, if anything; return the last repair. Blocks.

    The caller holds the directory's lock, and has not opened the log yet.

    Raises:
        BadConfiguration, StorageDamaged: what is there cannot be gone on with.
        OSError: the disk refused; call it again once it does not.
    """
    repair = load(files, directory)
    if repair is None or repair.state in (FETCHING, DONE):
        return repair
    # The name may be visible and not yet on disk: what is done from here on must come later.
    files.sync_directory(directory)
    if repair.state == MOVING:
        there = set(files.names(directory))
        for name in repair.names:
            if name in there:
                path = os.path.join(directory, name)
                files.rename(path, path + repair.suffix)
        files.sync_directory(directory)
        after = FETCHING if repair.last > (0, 0) else DONE
        repair = _advance(files, directory, repair, WRITING if repair.hard_state else after)
    if repair.state == WRITING:
        owner = int(incarnation, 16) if incarnation else 0
        _write(files, directory, repair, owner, segment_size_bytes)
        repair = _advance(files, directory, repair, FETCHING)
    return repair


def _advance(files: Files, directory: str, repair: Repair, state: str) -> Repair:
    _log.info("{path}: the repair is {state}", path=directory, state=state)
    repair = evolve(repair, state=state)
    begin(files, directory, repair)
    return repair


def _write(
    files: Files, directory: str, repair: Repair, incarnation: int, segment_size_bytes: int
) -> None:
    """Let what is left of the log say term, vote and where it begins, unless it does."""
    writer = Recovery(files, directory, segment_size_bytes, incarnation).run()
    try:
        next_index, mark = writer.ledger.next_index, writer.ledger.mark
        writer.write([(1, repair.hard_state, None, next_index, next_index, b"")])
        index, term = repair.snapshot
        if index and (mark is None or mark.index < index):
            writer.write_mark(MarkSave(2, index, term, False, index + 1))
        writer.seal()
    finally:
        writer.close()


def end(files: Files, directory: str, repair: Repair) -> Repair:
    """Note durably that the log is whole again; return the repair as it is noted. Blocks."""
    return _advance(files, directory, repair, DONE)
