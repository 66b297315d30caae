"""The file `diverged`: written once, read at every start, never removed by us."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from raft.errors import StorageDamaged, StorageFailed
from raft.storage.divergence import (
    DIVERGED_NAME,
    Divergence,
    encode_divergence,
    read_divergence,
    write_divergence,
)
from raft.storage.files import RealFiles

FOUND = Divergence(4711, True, 4800, "00ff00ff00ff00ff", "1122334455667788", ("a", "c"))
GOLDEN = b"""{
  "format_version": 1,
  "index": 4711,
  "is_exact": true,
  "compared_index": 4800,
  "digest": "00ff00ff00ff00ff",
  "majority_digest": "1122334455667788",
  "majority": [
    "a",
    "c"
  ]
}
"""


def test_the_file_is_written_as_documented_and_read_again(tmp_path: Path) -> None:
    assert read_divergence(RealFiles(), str(tmp_path)) is None
    write_divergence(RealFiles(), str(tmp_path), FOUND)
    assert (tmp_path / DIVERGED_NAME).read_bytes() == GOLDEN == encode_divergence(FOUND)
    assert read_divergence(RealFiles(), str(tmp_path)) == FOUND


def test_what_a_later_release_adds_is_passed_over(tmp_path: Path) -> None:
    later = GOLDEN.replace(b'version": 1', b'version": 2, "more": [1]')
    (tmp_path / DIVERGED_NAME).write_bytes(later)
    assert read_divergence(RealFiles(), str(tmp_path)) == FOUND


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff", b"[" * 5000, GOLDEN.replace(b"4711", b'"x"')]
)
def test_a_mark_that_cannot_be_read_stays_one(tmp_path: Path, content: bytes) -> None:
    """Better not served than wrong: whoever reads it is told what to do."""
    (tmp_path / DIVERGED_NAME).write_bytes(content)
    with pytest.raises(StorageDamaged, match="join again with an empty directory") as found:
        read_divergence(RealFiles(), str(tmp_path))
    assert found.value.path == str(tmp_path / DIVERGED_NAME)


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    class Broken(RealFiles):
        def open(self, *arguments: object, **more: object) -> int:
            raise OSError(errno.EIO, "io")

    with pytest.raises(StorageFailed):
        read_divergence(Broken(), str(tmp_path))
    with pytest.raises(StorageFailed):
        write_divergence(RealFiles(), str(tmp_path / "nowhere"), FOUND)
