"""The cluster of processes itself: what it writes, chooses and refuses, without starting any."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import pytest_twisted

from raft.cli.init import CLIENTS_ABOVE_PEERS
from raft.config import read_config
from raft.errors import BadConfiguration, NoSuchNode, Timeout
from raft.testing.ports import free_base_port
from raft.testing.processes import PORTS_ABOVE, ProcessCluster

pytestmark = pytest.mark.integration


class Drawn:
    """Draws what it is told to draw."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def randrange(self, first: int, end: int) -> int:
        return self.numbers.pop(0)


def test_the_files_are_those_of_init_with_the_settings_given(tmp_path: Path) -> None:
    settings = {"snapshot_entries": 7, "forward": True, "machine": "echo"}
    cluster = ProcessCluster(tmp_path, 3, settings=settings)
    for id, node in cluster.nodes.items():
        config = read_config(node.config_path)
        assert config.node.id == id
        assert config.node.machine == "echo"
        assert config.node.forward
        assert config.limits.snapshot_entries == 7
        assert config.node.data_directory == node.data_directory
        assert config.advertise.clients == node.address
        assert not node.running
    assert cluster.running == []


def test_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="'no_such_key' stands 0 times"):
        ProcessCluster(tmp_path, settings={"no_such_key": 1})


def test_a_directory_is_not_written_over(tmp_path: Path) -> None:
    ProcessCluster(tmp_path)
    with pytest.raises(FileExistsError):
        ProcessCluster(tmp_path)


def test_an_unknown_node_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path)
    with pytest.raises(NoSuchNode, match=r"node4.*node1, node2, node3"):
        cluster.kill("node4")


def test_ports_in_use_are_not_chosen() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        free = free_base_port(3, PORTS_ABOVE)
        drawn = Drawn(port - 1, port - 2 - CLIENTS_ABOVE_PEERS, free)
        assert free_base_port(3, PORTS_ABOVE, drawn) == free  # type: ignore[arg-type]
        assert drawn.numbers == []


@pytest_twisted.ensureDeferred
async def test_waiting_for_a_leader_among_too_few_ends_at_once(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path)
    with pytest.raises(Timeout, match="only 0 of 3 nodes run"):
        await cluster.wait_for_leader()


@pytest_twisted.ensureDeferred
async def test_what_a_node_said_last_is_in_the_error(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path)
    cluster.node("node1").log_path.write_text("first\nmany\nlast words\nof node1\n")
    with pytest.raises(Timeout, match="node1: last words; node1: of node1"):
        await cluster.wait_for_leader()
