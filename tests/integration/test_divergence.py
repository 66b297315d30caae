"""Real nodes whose machine looks where it must not: at the order of a set, at its process id."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from raft.cli.status import show
from raft.testing.processes import ProcessCluster

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.deadline(60)]

MACHINE = """
import os

import msgspec
from zope.interface import implementer

from raft.interfaces import IStateMachine


@implementer(IStateMachine)
class Words:
    def __init__(self):
        self.words = set()

    def apply(self, command, context):
        if command == "pid":
            return os.getpid()
        self.words.add(command)
        # Which one this is depends on the seed of the hashes of strings.
        return next(iter(self.words)) if command.startswith("word") else None

    def query(self, query):
        return sorted(self.words)

    def snapshot(self):
        return [msgspec.msgpack.encode(sorted(self.words))]

    def restore(self, chunks):
        self.words = set(msgspec.msgpack.decode(b"".join(chunks)))
"""


@pytest.fixture
def cluster(
    tmp_path: Path, make_cluster: Callable[..., ProcessCluster], monkeypatch: pytest.MonkeyPatch
) -> ProcessCluster:
    """Nodes that are not started: one of them has another seed of hashes."""
    (tmp_path / "words_machine.py").write_text(MACHINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}:{tmp_path}")
    made = make_cluster(machine="words_machine:Words")
    for number, node in enumerate(made.nodes.values()):
        monkeypatch.setenv("PYTHONHASHSEED", "2" if number == 2 else "1")
        node.start()
    return made


async def said_by_all(
    cluster: ProcessCluster, right: Callable[[dict[str, Any]], object], ids: list[str]
) -> None:
    async def found() -> bool:
        statuses = await cluster.statuses(ids)
        return all(status and right(status) for status in statuses.values())

    await cluster.until(found, 20.0, "the nodes do not say so")


@pytest_twisted.ensureDeferred
async def test_the_server_with_another_order_of_hashes_is_set_aside(
    cluster: ProcessCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """sc-SM3, sc-SM4: it is named in every status, and a restart does not bring it back."""
    await cluster.wait_for_leader()
    client = cluster.client()
    try:
        for number in range(5):
            await client.write(f"same{number}")
        for number in range(10):
            await client.write(f"word{number}")
        healthy = ["node1", "node2"]
        await said_by_all(cluster, lambda status: "node3" in status["diverged"], healthy)
        await said_by_all(cluster, lambda status: status["role"] == "diverged", ["node3"])
        third = await cluster.status("node3")
        assert third is not None
        first = third["diverged"]["node3"]  # type: ignore[index]
        for status in (await cluster.statuses(healthy)).values():
            assert status is not None
            assert status["diverged"] == {"node3": first}
        await client.write("after")
        assert "after" in (await client.read(None))  # type: ignore[operator]
        again = await cluster.restart("node3")
        assert again["role"] == "diverged"
        assert f"has diverged from entry {first} on" in cluster.node("node3").log
        assert await show(client, cluster.addresses, False) == 0
        assert f"The state of node3 has diverged at entry {first}" in capsys.readouterr().out
    finally:
        await client.close()
    codes = await cluster.stop()
    # It ends as the others do.
    assert codes["node3"] == codes["node1"]


@pytest_twisted.ensureDeferred
async def test_where_every_server_answers_otherwise_nobody_is_judged(
    cluster: ProcessCluster,
) -> None:
    """sc-SM3: a process id is another one on each server, so none has a majority."""
    await cluster.wait_for_leader()
    client = cluster.client()
    try:
        await client.write("pid")
        await said_by_all(cluster, lambda status: len(status["disputed"]) == 3, [*cluster.nodes])
        await client.write("goes on")
    finally:
        await client.close()
    for node in cluster.nodes.values():
        assert "No side is a majority" in node.log
    for status in (await cluster.statuses()).values():
        assert status is not None
        assert status["diverged"] == {}
