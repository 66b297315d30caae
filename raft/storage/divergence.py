"""The file `diverged`: that this directory's server has another state than its cluster.

Written before the server stops for that reason, so that no restart lets it serve what it holds.
Nothing ever removes the file but who empties the directory: whether the state is right again cannot
be told from it.
"""

from __future__ import annotations

import os

import msgspec
from attrs import frozen

from raft.errors import StorageDamaged
from raft.storage.files import Files, failure, read_all, replace_file

DIVERGED_NAME = "diverged"
MOST_BYTES = 65536


@frozen
class Divergence:
    """Where a server's state was found to differ.

    Attributes:
        index: the first entry with another digest, where `is_exact`, else the first seen.
        is_exact: whether it is known that the entry before it had the same digest.
        compared_index: the entry at which a majority had another digest.
        digest: this server's there, in hexadecimal digits.
        majority_digest: the majority's.
        majority: the servers that had it.
    """

    index: int
    is_exact: bool
    compared_index: int
    digest: str
    majority_digest: str
    majority: tuple[str, ...]


class _Form(msgspec.Struct):
    format_version: int
    index: int
    is_exact: bool
    compared_index: int
    digest: str
    majority_digest: str
    majority: tuple[str, ...]


def encode_divergence(found: Divergence) -> bytes:
    """Return the file's bytes: one JSON object, for operators to read."""
    form = _Form(
        *(1, found.index, found.is_exact, found.compared_index),
        *(found.digest, found.majority_digest, found.majority),
    )
    return msgspec.json.format(msgspec.json.encode(form), indent=2) + b"\n"


def write_divergence(files: Files, path: str, found: Divergence) -> None:
    """Mark the directory `path`, durably. Blocks.

    Raises:
        StorageFailed, StorageFull: the disk refused.
    """
    try:
        replace_file(files, path, DIVERGED_NAME, encode_divergence(found))
    except OSError as error:
        raise failure(path, error, "noting that the state has diverged") from error


def read_divergence(files: Files, path: str) -> Divergence | None:
    """Return what marks the directory `path`; None where nothing does. Blocks.

    Raises:
        StorageDamaged: the file is there and unreadable.
        StorageFailed: the disk refused.
    """
    name = os.path.join(path, DIVERGED_NAME)
    try:
        fd = files.open(name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise failure(path, error, "looking whether the state has diverged") from error
    try:
        content = read_all(files, fd, MOST_BYTES, 0)
    except OSError as error:
        raise failure(path, error, "reading that the state has diverged") from error
    finally:
        files.close(fd)
    try:
        form = msgspec.json.decode(content, type=_Form)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StorageDamaged(
            name,
            0,
            f"it says that the state of this server has diverged, and cannot be read: {error}; "
            "remove the server from the cluster and let it join again with an empty directory",
        ) from error
    return Divergence(
        *(form.index, form.is_exact, form.compared_index),
        *(form.digest, form.majority_digest, form.majority),
    )
