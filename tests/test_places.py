"""What kind of file system a data directory is on."""

from __future__ import annotations

from pathlib import Path

import pytest

from raft import places


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the system have mounted what the test wants, below `tmp_path`."""
    listed = tmp_path / "mounts"
    listed.write_text(
        f"/dev/sda1 / ext4 rw 0 0\ntmpfs {tmp_path}/memory tmpfs rw 0 0\n"
        f"server:/x {tmp_path}/far nfs4 rw 0 0\n/dev/sdb {tmp_path}/far/disk xfs rw 0 0\n"
    )
    monkeypatch.setattr(places, "MOUNTS", listed)
    return tmp_path


@pytest.mark.parametrize(
    ("below", "kind", "said"),
    [
        ("memory/n1", "tmpfs", "gone when the machine stops"),
        ("far/n1", "nfs4", "locks and syncs may not hold"),
        ("far/disk/n1", "xfs", ""),
        ("n1", "ext4", ""),
    ],
)
def test_a_directory_in_memory_or_on_a_network_is_told_with_what_to_do(
    mounts: Path, below: str, kind: str, said: str
) -> None:
    """sc-K7."""
    place = mounts / below
    assert places.filesystem(place) == kind
    warning = places.place_warning(place)
    assert said in warning
    assert bool(said) == bool(warning)
    assert not said or "put node.data_directory on a disk" in warning


def test_where_the_system_tells_nothing_nothing_is_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MOUNTS", tmp_path / "absent")
    assert places.filesystem(tmp_path) == "unknown"
    assert places.place_warning(tmp_path) == ""
