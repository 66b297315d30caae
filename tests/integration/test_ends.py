"""How nodes end: exit codes, one line for the operator, and leadership handed over."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from raft.testing.processes import NodeProcess, ProcessCluster, twistd

pytestmark = [pytest.mark.integration, pytest.mark.deadline(40)]


def run_node(config: Path) -> subprocess.CompletedProcess[str]:
    """Run a node that must end of itself."""
    return subprocess.run(
        [*twistd(), "-n", "--pidfile=", "raft", "--config", config.name],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
        cwd=config.parent,
    )


def refusal(ran: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that the operator is told."""
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
    (line,) = ran.stderr.splitlines()
    assert line.startswith("raft: ")
    return line


def copy_of(node: NodeProcess, directory: Path, *changes: tuple[str, str]) -> Path:
    """Return a copy of a node's file in another directory, with changes."""
    text = node.config_path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = directory / node.config_path.name
    path.write_text(text)
    return path


def test_a_wrong_key_ends_twistd(shared: ProcessCluster, tmp_path: Path) -> None:
    node = shared.nodes["node1"]
    path = copy_of(node, tmp_path, ("[limits]", "[limits]\ncommand_byte = 1"))
    line = refusal(run_node(path))
    assert "limits.command_byte" in line
    assert "command_bytes" in line


def test_a_directory_of_another_server_ends_twistd(shared: ProcessCluster, tmp_path: Path) -> None:
    other, node = shared.nodes["node2"], shared.nodes["node1"]
    ignored = shutil.ignore_patterns("lock")
    shutil.copytree(other.data_directory, tmp_path / node.data_directory.name, ignore=ignored)
    line = refusal(run_node(copy_of(node, tmp_path)))
    assert "belongs to server 'node2', not 'node1'" in line
    assert "a data directory of its own" in line


def test_a_port_in_use_ends_twistd(shared: ProcessCluster, tmp_path: Path) -> None:
    line = refusal(run_node(copy_of(shared.nodes["node1"], tmp_path)))
    assert "listen.peers" in line
    assert "choose another port" in line


def test_a_directory_in_use_ends_twistd(shared: ProcessCluster) -> None:
    node = shared.nodes["node1"]
    line = refusal(run_node(node.config_path))
    assert str(node.data_directory) in line
    assert node.process is not None
    assert f"in use by process {node.process.pid}" in line


@pytest_twisted.ensureDeferred
async def test_a_leader_that_is_told_to_end_hands_over_first(shared: ProcessCluster) -> None:
    """L5, sc-P11: SIGTERM ends as twistd ends, and nobody has to wait for an election timeout."""
    leader = await shared.wait_for_leader()
    node = shared.node(leader)
    before = len(node.log)
    node.signal(signal.SIGTERM)

    async def ended() -> bool:
        return not node.running

    await shared.until(ended, 10.0, "it does not end")
    assert node.exit_code == -signal.SIGTERM
    told = node.log[before:]
    assert "Traceback" not in told
    assert "without a successor" not in told
    assert f"{leader} is follower" in told
    successor = await shared.wait_for_leader(other_than=leader)
    assert f"{successor} is leader" in shared.node(successor).log
    await shared.restart(leader)
    await shared.wait_until_equal()


@pytest_twisted.ensureDeferred
async def test_signals_that_come_twice_or_during_the_start_lose_nothing(
    shared: ProcessCluster,
) -> None:
    """sc-P12: the next start finds what a kill would have left."""
    from twisted.internet import reactor

    await shared.wait_for_leader()
    client = shared.client()
    try:
        await client.write(["set", "signals", "kept"], 10.0)
        node = shared.node(next(iter(shared.nodes)))

        async def ended() -> bool:
            return not node.running

        node.signal(signal.SIGTERM)
        node.signal(signal.SIGTERM)
        await shared.until(ended, 15.0, "it does not end at two signals")
        for pause_seconds in (0.0, 0.2, 0.4):
            before = len(node.log)
            node.start()
            await deferLater(reactor, pause_seconds)
            node.signal(signal.SIGTERM)
            await shared.until(ended, 15.0, "it does not end at a signal during its start")
            assert "StorageDamaged" not in node.log[before:]
        await shared.restart(node.id)
        await shared.wait_until_equal()
        assert await client.read(["get", "signals"], 10.0) == "kept"
    finally:
        await client.close()
