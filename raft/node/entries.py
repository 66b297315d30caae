"""Committed entries as plain values, for people and programs that look into the log."""

from __future__ import annotations

from raft.codec import DECODE_ERRORS, Codec
from raft.errors import BadCommand, NotFound
from raft.interfaces import Value
from raft.node.shell import Shell
from raft.storage.records import (
    SESSION_HEADER_BYTES,
    Kind,
    decode,
    decode_recovery,
    decode_skip,
    decode_version,
)

_COMMANDS = frozenset({Kind.COMMAND, Kind.SESSION_COMMAND})


def entry_at(shell: Shell, codec: Codec, index: int) -> dict[str, object]:
    """Return the committed entry at `index`: index, term, time in seconds, kind, command.

    Of a switch of the machine's version, `command` is that version; of an entry that skips
    another, which one. `size_bytes` is that of its payload.

    Raises:
        NotFound: it is compacted away, or not committed (yet).
        BadCommand: `index` is no number, or the command cannot be decoded.
    """
    if not isinstance(index, int):
        raise BadCommand(f"index is {index!r}; give the number of an entry")
    last = shell.server.commit_index
    if not 0 < index <= last:
        raise NotFound(f"entry {index} is not committed; the last one is {last}")
    try:
        _, records = shell.cache.slice(index, index + 1, 1)
    except KeyError:
        raise NotFound(f"entry {index} is compacted into a snapshot") from None
    record = next(decode(records))
    command: Value = None
    if record.kind == Kind.RECOVERY:
        command = decode_recovery(record.payload).command
    elif record.kind == Kind.VERSION:
        command = decode_version(record.payload)
    elif record.kind == Kind.SKIP:
        command = decode_skip(record.payload)
    elif record.kind in _COMMANDS:
        begin = SESSION_HEADER_BYTES if record.kind == Kind.SESSION_COMMAND else 0
        try:
            command = codec.decode_trusted(record.payload[begin:])
        except (*DECODE_ERRORS, RecursionError) as error:
            raise BadCommand(f"the command of entry {index} cannot be decoded") from error
    return {
        "index": record.index,
        "term": record.term,
        "time": record.time_us / 1_000_000,
        "kind": Kind(record.kind).name.lower(),
        "size_bytes": len(record.payload),
        "command": command,
    }
