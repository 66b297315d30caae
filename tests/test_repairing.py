"""The end of a repair is noted in the directory, sooner or later."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock

from raft.repairing import RETRY_SECONDS, Repairing
from raft.storage import repair
from raft.storage.imagined import ImaginedDisk
from raft.storage.repair import DONE, FETCHING
from tests.storage.test_repair import GOLDEN

PATH = "/node"


class FullDisk(ImaginedDisk):
    """A disk that takes nothing while it `is_full`."""

    is_full = False

    def open(self, path: str, *flags: Any, **named: Any) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        return super().open(path, *flags, **named)


def test_a_disk_that_is_full_is_asked_again() -> None:
    """D1, D4: otherwise the status would speak of a repair under way until the next start."""
    disk, clock = FullDisk(), Clock()
    repair.begin(disk, PATH, GOLDEN)
    repairing = Repairing(SimpleNamespace(id="a", reactor=clock))  # type: ignore[arg-type]
    repairing.begin(SimpleNamespace(files=disk, path=PATH), GOLDEN)  # type: ignore[arg-type]
    disk.is_full = True
    repairing.ended()
    clock.advance(RETRY_SECONDS)
    assert repairing.repair == GOLDEN
    assert GOLDEN.state == FETCHING
    disk.is_full = False
    clock.advance(RETRY_SECONDS)
    noted = repair.load(disk, PATH)
    assert noted is not None
    assert noted.state == DONE
    assert repairing.repair == noted
    assert not clock.getDelayedCalls()


def test_a_node_that_stops_asks_no_more() -> None:
    """The next start finds by itself that the log is as far as it was."""
    disk, clock = FullDisk(), Clock()
    repair.begin(disk, PATH, GOLDEN)
    repairing = Repairing(SimpleNamespace(id="a", reactor=clock))  # type: ignore[arg-type]
    repairing.begin(SimpleNamespace(files=disk, path=PATH), GOLDEN)  # type: ignore[arg-type]
    disk.is_full = True
    repairing.ended()
    repairing.stop()
    repairing.stop()
    assert not clock.getDelayedCalls()
