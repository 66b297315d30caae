"""A full disk: writes are refused, reads go on, and room makes all well again."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredList, gatherResults

from raft.client import RaftClient
from raft.codec import PLAIN
from raft.errors import StorageFull
from raft.testing.ledger import Ledger, read_everything
from raft.testing.processes import ProcessCluster
from raft.transport.dialling import dial

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
    """D8: what is refused as StorageFull is definitely not applied; what was kept is served.

    sc-F8.
    """
    cluster = make_cluster(settings={"segment_bytes": SEGMENT_BYTES})
    for node in cluster.nodes.values():
        mounts.mount(node.data_directory, SIZE_BYTES)
        (node.data_directory / "ballast").write_bytes(bytes(BALLAST_BYTES))
    await cluster.start()
    client, ledger = connect(cluster), Ledger()
    while await fill(client, ledger):
        pass
    assert await refusals(cluster) == [StorageFull] * 3
    assert await client.read(["get", "key 0"], 10.0) == VALUE
    for id, status in (await cluster.statuses()).items():
        assert status is not None, cluster.node(id).log
        assert status["failure"] == ""
    for node in cluster.nodes.values():
        (node.data_directory / "ballast").unlink()

    async def written() -> bool:
        return await ledger.write(client, "there is room", 1, 1.0)

    await cluster.until(written, 20.0, "writes are refused although there is room")
    await cluster.wait_until_equal()
    assert list(ledger.differences(await read_everything(client, 10.0))) == []


@pytest_twisted.ensureDeferred
async def test_nodes_start_on_a_disk_without_a_byte_left(
    mounts: Mounts,
    make_cluster: Callable[..., ProcessCluster],
    connect: Callable[..., RaftClient],
) -> None:
    """D4, sc-F8: each start is noted, and the starts of others that it sees.

    They found no room for that, and ended; so a full disk outlived no restart.
    """
    cluster = make_cluster(settings={"segment_bytes": SEGMENT_BYTES})
    for node in cluster.nodes.values():
        mounts.mount(node.data_directory, SIZE_BYTES)
    await cluster.start()
    client = connect(cluster)
    await client.write(["set", "k", 1], 10.0)
    for node in cluster.nodes.values():
        fill_up(node.data_directory / "ballast")
    for _ in range(3):
        for id in cluster.nodes:
            cluster.kill(id)
        await cluster.start()
        assert await client.read(["get", "k"], 10.0) == 1
    await cluster.wait_until_equal()


def fill_up(path: Path) -> None:
    """Leave not a byte of the disk."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


async def fill(client: RaftClient, ledger: Ledger) -> bool:
    """Write some more; tell whether all of it was acknowledged."""
    numbers = range(ledger.count, ledger.count + 20)
    assert ledger.count < 2 * SIZE_BYTES // len(VALUE), "the disk is never full"
    writes = [
        Deferred.fromCoroutine(ledger.write(client, f"key {number}", VALUE, 2.0))
        for number in numbers
    ]
    return all(await gatherResults(writes))


async def refusals(cluster: ProcessCluster) -> list[type]:
    """Write to the leader itself, without a client that tries again; return what it answers."""
    from twisted.internet import reactor

    leader = await cluster.wait_for_leader()
    connection = await dial(reactor, cluster.node(leader).address)
    try:
        command = PLAIN.encode(["set", "never", 1])
        results = [connection.write_batch([command], 2000) for _ in range(3)]
        ended = await DeferredList(results, consumeErrors=True)
        return [type(result[0]) if succeeded else result.type for succeeded, result in ended]
    finally:
        connection.close()
        await connection.lost
