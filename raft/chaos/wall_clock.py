"""Run twistd with a wall clock that somebody else may set at any time.

    python -P wall_clock.py FILE ARGUMENTS...

FILE holds one double, in the machine's own order: how many seconds this process's wall clock is
ahead of the true one. It is read anew whenever the time is asked for. Time that is monotonic stays
as it is, as it does where an operator sets a clock. Nothing but this script's own process is
changed; it imports nothing of this project.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path

_FORMAT = struct.Struct("d")


def set_ahead(path: Path, seconds: float) -> None:
    """Write a clock's file, so that its wall clock is so many seconds ahead from now on."""
    if not path.exists():
        path.write_bytes(_FORMAT.pack(seconds))
        return
    with path.open("r+b") as file:
        # In place and in one write: the processes that have mapped it see it.
        file.write(_FORMAT.pack(seconds))


def follow(path: str) -> None:
    """Let `time.time` and `time.time_ns` of this process follow the file."""
    with open(path, "rb") as file:
        ahead = mmap.mmap(file.fileno(), _FORMAT.size, prot=mmap.PROT_READ)
    true, true_ns = time.time, time.time_ns
    time.time = lambda: true() + _FORMAT.unpack_from(ahead)[0]
    time.time_ns = lambda: true_ns() + int(_FORMAT.unpack_from(ahead)[0] * 1e9)


if __name__ == "__main__":
    follow(sys.argv.pop(1))
    # Whoever imports `time.time` by name must get the one above.
    from twisted.scripts.twistd import run

    run()
