"""A little room on the disk, held back for what a server must note even where it is full.

A full disk stops new commands, and neither votes nor reads [RULES D4]: what those need is in the
segment that was preallocated. But every start is noted, and every start of another server that is
seen, each in a small file that is written anew. For them a file of a few blocks is kept; where
there is no room it is given up, and made again from what the replaced file has freed.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from raft.storage.files import NO_ROOM, Files, replace_file

ROOM_NAME: Final = "held-room"
ROOM_BYTES: Final = 16 * 1024


def replace_in_held_room(files: Files, directory: str, name: str, content: bytes) -> None:
    """Do as `replace_file` does, on a full disk in the room that was held back.

    Raises:
        OSError: the disk refused, or there was no such room.
    """
    try:
        replace_file(files, directory, name, content)
    except OSError as error:
        if error.errno not in NO_ROOM or not _give_up(files, directory):
            raise
        replace_file(files, directory, name, content)
    # What cannot be held back now can be the next time.
    with contextlib.suppress(OSError):
        _hold_back(files, directory)


def _give_up(files: Files, directory: str) -> bool:
    """Free the room; return whether there was any."""
    try:
        files.unlink(os.path.join(directory, ROOM_NAME))
    except OSError:
        return False
    return True


def _hold_back(files: Files, directory: str) -> None:
    """Have the room, where it is not there yet."""
    path = os.path.join(directory, ROOM_NAME)
    if ROOM_NAME in files.names(directory):
        return
    fd = files.open(path, create=True)
    try:
        files.allocate(fd, 0, ROOM_BYTES)
    except OSError:
        with contextlib.suppress(OSError):
            files.unlink(path)
        raise
    finally:
        files.close(fd)
