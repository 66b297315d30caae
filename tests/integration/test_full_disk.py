"""A full disk: writes are refused, reads go on, and room makes all well again."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from raft.client import RaftClient
from raft.errors import OutcomeUnknown, RaftError, StorageFull, Timeout
from raft.testing.processes import ProcessCluster

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(60)]

SIZE_BYTES = 4 << 20
BALLAST_BYTES = 2 << 20
SEGMENT_BYTES = 1 << 16
VALUE = "x" * 4000


class Mounts:
    """Small file systems in memory, unmounted at the end."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._mounted: list[Path] = []

    def mount(self, path: Path, size_bytes: int) -> None:
        path.mkdir(mode=0o700)
        options = f"size={size_bytes},mode=0700".encode()
        if self._library.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, options) != 0:
            pytest.skip(f"no file system may be mounted: {os.strerror(ctypes.get_errno())}")
        self._mounted.append(path)

    def unmount(self) -> None:
        detach = 2
        for path in self._mounted:
            self._library.umount2(os.fsencode(path), detach)


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    mounts = Mounts()
    yield mounts
    mounts.unmount()


@pytest_twisted.ensureDeferred
async def test_a_full_disk_refuses_writes_and_serves_reads(
    mounts: Mounts,
    make_cluster: Callable[..., ProcessCluster],
    connect: Callable[..., RaftClient],
) -> None:
    """D8: what is refused as StorageFull is definitely not applied; what was kept is served."""
    cluster = make_cluster(settings={"segment_bytes": SEGMENT_BYTES})
    for node in cluster.nodes.values():
        mounts.mount(node.data_directory, SIZE_BYTES)
        (node.data_directory / "ballast").write_bytes(bytes(BALLAST_BYTES))
    await cluster.start()
    client = connect(cluster, timeout_seconds=3.0)
    await client.write(["set", "first", 1])
    seen = await fill(cluster, client)
    assert isinstance(seen, StorageFull), seen
    assert await client.read(["get", "first"], 10.0) == 1
    for id, status in (await cluster.statuses()).items():
        assert status is not None, cluster.node(id).log[-1000:]
        assert status["failure"] == ""
    for node in cluster.nodes.values():
        (node.data_directory / "ballast").unlink()

    async def writes_again() -> bool:
        try:
            await client.write(["set", "last", 1])
        except RaftError:
            return False
        return True

    await cluster.until(writes_again, 20.0, "writes are refused although there is room")
    await cluster.wait_until_equal()


async def fill(cluster: ProcessCluster, client: RaftClient) -> BaseException | None:
    """Write until a write is refused; return the reason that the leader gave."""
    for start in range(0, 4000, 20):
        writes = [write(client, f"key {number}") for number in range(start, start + 20)]
        for ended in await gatherResults(writes):
            error: BaseException | None = ended
            while error is not None:
                if isinstance(error, StorageFull):
                    return error
                error = error.__cause__
            if ended is not None and not isinstance(ended, OutcomeUnknown | Timeout):
                return ended
    return None


def write(client: RaftClient, key: str) -> Deferred[BaseException | None]:
    written = client.write(["set", key, VALUE])
    return written.addCallbacks(lambda _: None, lambda failure: failure.value)
