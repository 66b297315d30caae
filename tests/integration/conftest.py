"""Clusters of real processes; whatever a test starts is gone when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

import raft
from raft.client import RaftClient
from raft.testing.processes import ProcessCluster

MakeCluster = Callable[..., ProcessCluster]


@pytest.fixture(scope="session", autouse=True)
def _the_tested_package_is_found() -> Iterator[None]:
    """Let the processes import what this one imports, installed or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(raft.__file__).parent.parent))
        yield


def started(cluster: ProcessCluster) -> ProcessCluster:
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.start()))
    return cluster


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[MakeCluster]:
    """Make clusters; none of their processes survives the test."""
    made: list[ProcessCluster] = []

    def make(**options: Any) -> ProcessCluster:
        cluster = ProcessCluster(tmp_path / f"cluster{len(made)}", **options)
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        cluster.destroy()


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> ProcessCluster:
    """Three nodes with a leader."""
    return started(make_cluster())


@pytest.fixture(scope="session")
def long_lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    """Three nodes for all tests that leave a cluster as they found it."""
    cluster = ProcessCluster(tmp_path_factory.mktemp("shared"))
    try:
        yield cluster
    finally:
        cluster.destroy()


@pytest.fixture
def shared(long_lived: ProcessCluster) -> ProcessCluster:
    """Three running nodes with a leader, and what earlier tests wrote."""
    for id in long_lived.running:
        # A test that failed may have left it paused.
        long_lived.resume(id)
    return started(long_lived)


@pytest.fixture
def connect() -> Iterator[Callable[..., RaftClient]]:
    """Make clients of a cluster, and close them."""
    clients: list[RaftClient] = []

    def make(cluster: ProcessCluster, **options: Any) -> RaftClient:
        clients.append(cluster.client(**options))
        return clients[-1]

    yield make
    for client in clients:
        pytest_twisted.blockon(client.close())
