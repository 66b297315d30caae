"""What a process has used, as the operating system tells."""

from __future__ import annotations

import os
from pathlib import Path

from attrs import frozen

_TICKS = os.sysconf("SC_CLK_TCK")


@frozen
class Usage:
    """What a process has used so far.

    Attributes:
        cpu_seconds: on all cores together, its own and the system's for it.
        resident_bytes: memory that it holds.
        most_resident_bytes: the most that it ever held; 0 where that is not known.
        pid: whose this is; 0 for a process of another machine.
    """

    cpu_seconds: float = 0.0
    resident_bytes: int = 0
    most_resident_bytes: int = 0
    pid: int = 0


def usage(pid: int) -> Usage | None:
    """Return what the process has used; None where the system does not tell (no /proc)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    # The name in parentheses may hold anything, spaces and parentheses included.
    fields = stat.rpartition(")")[2].split()
    sizes = {
        name: int(words.split()[0]) * 1024
        for name, _, words in (line.partition(":") for line in status.splitlines())
        if name in ("VmRSS", "VmHWM")
    }
    return Usage(
        (int(fields[11]) + int(fields[12])) / _TICKS,
        *(sizes.get("VmRSS", 0), sizes.get("VmHWM", 0), pid),
    )


def own_usage() -> dict[str, object]:
    """Return what this process has used, as a node's status tells it; nothing without /proc."""
    used = usage(os.getpid())
    if used is None:
        return {}
    return {
        "cpu_seconds": used.cpu_seconds,
        "resident_bytes": used.resident_bytes,
        "most_resident_bytes": used.most_resident_bytes,
    }
