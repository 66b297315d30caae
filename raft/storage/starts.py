"""The starts of servers, in files: a directory's own, and the last of each of its peers.

One more name is written into the file `lives` at each start. In `peer-lives` stands the last start
that was seen of every other member: who forgot it in a restart of its own would let an old copy of
that member's directory in [RULES M9].
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from zlib import crc32

import msgspec

from raft.errors import BadConfiguration, StorageDamaged
from raft.lives import KEPT, NAME_CHARACTERS, Lives
from raft.storage.files import Files, failure, read_all
from raft.storage.held_room import replace_in_held_room

LIVES_NAME = "lives"
PEER_LIVES_NAME = "peer-lives"

FORMAT_VERSION = 1

PeerLives = Mapping[str, tuple[str, Lives]]
"""Server id -> incarnation, and its lives as last seen; of their names the file keeps the last."""


class _VersionForm(msgspec.Struct):
    format_version: int


class _LivesForm(msgspec.Struct, forbid_unknown_fields=True):
    format_version: int
    count: int
    names: tuple[str, ...]
    checksum: str


class _PeerForm(msgspec.Struct, forbid_unknown_fields=True):
    incarnation: str
    count: int
    name: str


class _PeersForm(msgspec.Struct, forbid_unknown_fields=True):
    format_version: int
    servers: dict[str, _PeerForm]
    checksum: str


def encode_lives(lives: Lives) -> bytes:
    """Return the file's bytes: one JSON object."""
    form = _LivesForm(FORMAT_VERSION, lives.count, lives.names, _checksum(lives))
    return msgspec.json.format(msgspec.json.encode(form), indent=2) + b"\n"


def decode_lives(content: bytes, path: str) -> Lives:
    """Return the lives in a file's bytes.

    Raises BadConfiguration for a newer format, StorageDamaged for anything else.
    """
    try:
        _check_version(content, path)
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
    try:
        content = _content(files, path, LIVES_NAME)
        before = Lives()
        if content is not None:
            before = decode_lives(content, os.path.join(path, LIVES_NAME))
        lives = before.begin(secrets.token_hex(NAME_CHARACTERS // 2))
        replace_in_held_room(files, path, LIVES_NAME, encode_lives(lives))
    except OSError as error:
        raise failure(path, error, "noting the start") from error
    return lives


def encode_peers(peers: PeerLives) -> bytes:
    """Return the file's bytes: one JSON object, the servers in the order of their ids."""
    servers = {
        id: _PeerForm(incarnation, lives.count, lives.names[0])
        for id, (incarnation, lives) in sorted(peers.items())
    }
    form = _PeersForm(FORMAT_VERSION, servers, _peers_checksum(servers))
    return msgspec.json.format(msgspec.json.encode(form), indent=2) + b"\n"


def decode_peers(content: bytes, path: str) -> dict[str, tuple[str, Lives]]:
    """Return what a file's bytes say of other servers; raises as `decode_lives` does."""
    try:
        _check_version(content, path)
        form = msgspec.json.decode(content, type=_PeersForm)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unusable(path, str(error)) from error
    fits = all(peer.count > 0 for peer in form.servers.values())
    if not fits or form.checksum != _peers_checksum(form.servers):
        raise _unusable(path, "its checksum or its numbers do not match its content")
    return {
        id: (peer.incarnation, Lives(peer.count, (peer.name,))) for id, peer in form.servers.items()
    }


def read_peers(files: Files, path: str) -> dict[str, tuple[str, Lives]]:
    """Return what was seen of others from the directory `path`; nothing where no file is. Blocks.

    What is read may not be on the disk yet: `begin_life` after it syncs the directory.

    Raises:
        StorageDamaged: the file is there and unreadable.
        StorageFailed: the disk refused.
    """
    try:
        content = _content(files, path, PEER_LIVES_NAME)
    except OSError as error:
        raise failure(path, error, "reading the starts of other servers") from error
    if content is None:
        return {}
    return decode_peers(content, os.path.join(path, PEER_LIVES_NAME))


def write_peers(files: Files, path: str, peers: PeerLives) -> None:
    """Replace what was seen of others from the directory `path`, durably. Blocks.

    Raises:
        StorageFailed, StorageFull: the disk refused.
    """
    try:
        replace_in_held_room(files, path, PEER_LIVES_NAME, encode_peers(peers))
    except OSError as error:
        raise failure(path, error, "noting the start of another server") from error


def _content(files: Files, path: str, name: str) -> bytes | None:
    """Return what is in a file of the directory `path`; None where there is no such file."""
    try:
        fd = files.open(os.path.join(path, name))
    except FileNotFoundError:
        return None
    try:
        return read_all(files, fd, files.size(fd), 0)
    finally:
        files.close(fd)


def _check_version(content: bytes, path: str) -> None:
    version = msgspec.json.decode(content, type=_VersionForm).format_version
    if version > FORMAT_VERSION:
        raise BadConfiguration(
            f"{path} has format {version}, this program knows up to {FORMAT_VERSION}: start it "
            "with the newer version that wrote it"
        )


def _checksum(lives: Lives) -> str:
    return _crc(str(lives.count), *lives.names)


def _peers_checksum(servers: Mapping[str, _PeerForm]) -> str:
    return _crc(
        *(
            text
            for id, peer in sorted(servers.items())
            for text in (id, peer.incarnation, str(peer.count), peer.name)
        )
    )


def _crc(*fields: str) -> str:
    return f"{crc32(chr(0).join(fields).encode()):08x}"


def _damaged(path: str, reason: str) -> StorageDamaged:
    return StorageDamaged(
        path,
        0,
        f"the list of starts is unusable: {reason}; remove this server and add it again with an "
        "empty directory",
    )


def _unusable(path: str, reason: str) -> StorageDamaged:
    return StorageDamaged(
        path,
        0,
        f"what is noted of other servers' starts is unusable: {reason}; where none of their data "
        "directories was put back from an old copy, remove this file and start again",
    )
