"""The file `lives` of a data directory: one more name is written into it at each start."""

from __future__ import annotations

import os
import secrets
from zlib import crc32

import msgspec

from raft.errors import StorageDamaged
from raft.lives import KEPT, NAME_CHARACTERS, Lives
from raft.storage.files import Files, failure, read_all, replace_file

LIVES_NAME = "lives"
MOST_LIVES_BYTES = 4096


class _LivesForm(msgspec.Struct, forbid_unknown_fields=True):
    format_version: int
    count: int
    names: tuple[str, ...]
    checksum: str


def encode_lives(lives: Lives) -> bytes:
    """Return the file's bytes: one JSON object."""
    form = _LivesForm(1, lives.count, lives.names, _checksum(lives))
    return msgspec.json.format(msgspec.json.encode(form), indent=2) + b"\n"


def decode_lives(content: bytes, path: str) -> Lives:
    """Return the lives in a file's bytes; raise StorageDamaged where there are none."""
    try:
        form = msgspec.json.decode(content, type=_LivesForm)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    lives = Lives(form.count, form.names)
    fits = 0 < len(form.names) <= KEPT and form.count >= len(form.names)
    if not fits or form.checksum != _checksum(lives):
        raise _damaged(path, "its checksum or its numbers do not match its content")
    return lives


def begin_life(files: Files, path: str) -> Lives:
    """Write one more life into the directory `path`, durably, and return all. Blocks.

    To be called with the directory locked, before the server says anything to anyone.

    Raises:
        StorageDamaged: the file is there and unreadable.
        StorageFailed, StorageFull: the disk refused.
    """
    name = os.path.join(path, LIVES_NAME)
    try:
        try:
            fd = files.open(name)
        except FileNotFoundError:
            before = Lives()
        else:
            try:
                before = decode_lives(read_all(files, fd, MOST_LIVES_BYTES, 0), name)
            finally:
                files.close(fd)
        lives = before.begin(secrets.token_hex(NAME_CHARACTERS // 2))
        replace_file(files, path, LIVES_NAME, encode_lives(lives))
    except OSError as error:
        raise failure(path, error, "noting the start") from error
    return lives


def _checksum(lives: Lives) -> str:
    fields = (str(lives.count), *lives.names)
    return f"{crc32(chr(0).join(fields).encode()):08x}"


def _damaged(path: str, reason: str) -> StorageDamaged:
    return StorageDamaged(
        path,
        0,
        f"the list of starts is unusable: {reason}; remove this server and add it again with an "
        "empty directory",
    )
