"""What kind of file system a data directory is on, and what that means for what is written."""

from __future__ import annotations

from pathlib import Path

MOUNTS = Path("/proc/mounts")
MEMORY_FILESYSTEMS = ("tmpfs", "ramfs")
NETWORK_FILESYSTEMS = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "glusterfs",
    "lustre",
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.s3fs",
)


def filesystem(directory: Path) -> str:
    """Return the type of the filesystem that `directory` is on, or "unknown"."""
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:
        return "unknown"
    found, longest = "unknown", -1
    place = directory.resolve()
    for line in lines:
        mount, kind = line.split()[1:3]
        if place.is_relative_to(mount) and len(mount) >= longest:
            found, longest = kind, len(mount)
    return found


def place_warning(directory: Path) -> str:
    """Return what an operator should know of where `directory` is, or ""."""
    kind = filesystem(directory)
    if kind in MEMORY_FILESYSTEMS:
        return (
            f"{directory} is in memory ({kind}): everything in it is gone when the machine stops; "
            "put node.data_directory on a disk"
        )
    if kind in NETWORK_FILESYSTEMS:
        return (
            f"{directory} is on a file system of the network ({kind}): its locks and syncs may not "
            "hold what they promise; put node.data_directory on a disk of this machine"
        )
    return ""
