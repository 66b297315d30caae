"""Committed entries as plain values, for people and programs that look into the log."""

from __future__ import annotations

from raft.codec import DECODE_ERRORS, Codec
from raft.errors import BadCommand, NotFound
from raft.interfaces import Value
from raft.node.shell import Shell
from raft.storage.records import Kind, decode, decode_recovery, decode_version


def entry_at(shell: Shell, codec: Codec, index: int) -> dict[str, object]:
    """Return the committed entry at `index`: index, term, time in seconds, kind, command.

    Of a switch of the machine's version, `command` is that version.

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
    elif record.kind == Kind.COMMAND:
        try:
            command = codec.decode_trusted(record.payload)
        except (*DECODE_ERRORS, RecursionError) as error:
            raise BadCommand(f"the command of entry {index} cannot be decoded") from error
    return {
        "index": record.index,
        "term": record.term,
        "time": record.time_us / 1_000_000,
        "kind": Kind(record.kind).name.lower(),
        "command": command,
    }
