"""What figures depend on: the machine and its disk."""

from __future__ import annotations

import os
import platform
import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from raft.places import filesystem

SYNCS = 100
SYNC_BYTES = 4096


def machine(directory: Path | None) -> dict[str, object]:
    """Return processor, system, versions, and the disk of `directory`, where there is one."""
    return {
        "processor": _cpu_model(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1
        ),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "twisted": _version("twisted"),
        "msgspec": _version("msgspec"),
        "txraft": _version("txraft"),
        "filesystem": filesystem(directory) if directory else None,
        "fdatasync_p50_ms": round(1000 * sync_seconds(directory), 3) if directory else None,
        "load_average": round(os.getloadavg()[0], 2),
    }


def sync_seconds(directory: Path) -> float:
    """Return the median time of writing 4 KiB into a file of zeros and syncing it."""
    path = directory / "sync-probe"
    # macOS has no fdatasync.
    sync = getattr(os, "fdatasync", os.fsync)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, bytes(SYNCS * SYNC_BYTES))
        os.fsync(descriptor)
        taken = []
        for number in range(SYNCS):
            begun = time.perf_counter()
            os.pwrite(descriptor, b"x" * SYNC_BYTES, number * SYNC_BYTES)
            sync(descriptor)
            taken.append(time.perf_counter() - begun)
    finally:
        os.close(descriptor)
        path.unlink()
    return statistics.median(taken)


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
