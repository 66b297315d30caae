"""M8, M9: first members with empty directories, beside a cluster that lives or founding one."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from raft.core import founding
from raft.core.configuration import Member
from raft.core.events import Received, Standing
from raft.core.messages import AppendEntries, Entries
from raft.core.outputs import Role
from raft.node.founding import has_committed, is_ordered
from raft.service import RaftService
from raft.transport.greeting import Greeting
from tests.node.running import Nodes, until

CLUSTER = "0123456789abcdef" * 2
"""As a file's members give it."""


@pytest.fixture
def nodes(tmp_path: Path) -> Any:
    return Nodes(tmp_path)


class Files:
    """The files of first members, which name each other's addresses before they start."""

    def __init__(self, nodes: Nodes, ids: str = "abc") -> None:
        self.nodes, self.ids = nodes, ids
        self.places: dict[str, dict[str, Any]] = {}
        self.members: tuple[Member, ...] = ()

    async def draw(self) -> None:
        """Find free ports, by listening at some."""
        waiting = [self.nodes.start(id, directory=f"{id}-waits") for id in self.ids]
        self.places = {node.id: self.nodes.fixed(node) for node in waiting}
        self.members = tuple(self.nodes.member(node) for node in waiting)
        await self.nodes.stop()
        self.nodes.all.clear()

    def start(self, id: str, directory: str = "") -> RaftService:
        place = {**self.places[id], "directory": directory or id}
        return self.nodes.start(id, first_members=self.members, cluster_id=CLUSTER, **place)


def has_no_say(node: RaftService) -> bool:
    server = node.shell.server
    return not server.may_campaign and not founding.may_elect(server, "x", founding.FOUNDING_TERM)


@pytest.mark.integration
@ensureDeferred
async def test_emptied_first_members_found_no_second_cluster_beside_the_living_one(
    nodes: Nodes,
) -> None:
    """M8, M9: one was removed and emptied, one was wiped; both have their first file still.

    Without each other's votes neither leads, and each is told by the one that lives.
    """
    files = Files(nodes)
    await files.draw()
    for id in files.ids:
        files.start(id)
    leader = await nodes.leader()
    removed, wiped = nodes.others(leader)
    await until(lambda: all(m.incarnation for m in leader.shell.server.configuration.members))
    left = [member for member in files.members if member.id != removed.id]
    await leader.set_configuration(left, 8.0, replace=True)
    for node in (removed, wiped):
        await node.stopService()
        del nodes.all[node.id]
    removed, wiped = (files.start(node.id, f"{node.id}-empty") for node in (removed, wiped))
    await until(lambda: wiped.founding.standing is Standing.OUTLIVED)
    await until(lambda: removed.founding.standing is not Standing.FREE)
    # They wait until nobody is left who might object, and go on without a vote.
    await until(lambda: not removed.founding.awaited and not wiped.founding.awaited)
    assert has_no_say(removed)
    assert has_no_say(wiped)
    assert "without it" in str(wiped.status()["leaderless_reason"])
    assert {removed.shell.server.role, wiped.shell.server.role} == {Role.FOLLOWER}
    await nodes.stop()


@pytest.mark.integration
@ensureDeferred
async def test_a_majority_founds_its_cluster_while_one_machine_is_down(nodes: Nodes) -> None:
    """M8: it waits for the one that is down, and not for ever; that one may come late."""
    files = Files(nodes)
    await files.draw()
    a, b = files.start("a"), files.start("b")
    await until(lambda: a.founding.awaited == b.founding.awaited == ["c"])
    assert "c" in str(a.status()["leaderless_reason"])
    leader = await nodes.leader()
    await leader.write(["set", "k", 1])
    assert has_committed(leader.shell.server)
    late = files.start("c")
    await until(lambda: late.leader() == leader.id)
    await until(lambda: late.replica.last_applied == leader.replica.last_applied)
    assert late.founding.standing is not Standing.OUTLIVED
    await nodes.stop()


@pytest.mark.integration
@ensureDeferred
async def test_who_knows_no_members_helps_to_found_only_what_was_ordered(nodes: Nodes) -> None:
    """M8, M9: whose file names first members has them with the same file beside it."""
    files = Files(nodes)
    await files.draw()
    waiting = nodes.start("b", **files.places["b"])
    founder = files.start("a")
    await until(lambda: "c" in founder.founding.awaited and "b" not in founder.founding.awaited)
    assert waiting.founding.standing is Standing.LATE
    assert not founding.may_elect(waiting.shell.server, "a", founding.FOUNDING_TERM)
    assert founding.may_elect(waiting.shell.server, "a", founding.FOUNDING_TERM + 1)
    for cluster_id, may in ((str(uuid.uuid4()), True), (CLUSTER, False)):
        waiting.members.judge(Greeting(1, cluster_id, "x", "i-x"))
        server = waiting.shell.server
        await until(lambda: founding.may_elect(server, "x", 1) is may)  # noqa: B023
    await nodes.stop()


def test_an_id_that_is_minted_is_no_id_that_is_derived() -> None:
    """M8: a server without members tells by it who may found."""
    assert is_ordered(str(uuid.uuid4()))
    assert not any(map(is_ordered, ("", CLUSTER, uuid.uuid4().hex, "shop", "-" * 36)))


@pytest.mark.integration
@ensureDeferred
async def test_a_node_without_members_names_no_leader_to_clients(nodes: Nodes) -> None:
    """It cannot tell where the leader is; whoever asks goes on to another node."""
    (leader,) = await nodes.found("a")
    assert leader.desk.leader() == ("a", leader.leader_address())
    waiting = nodes.start("b")
    heartbeat = AppendEntries(2, 9, 2, Entries(10), 0, 1)
    waiting.shell.post(Received("a", heartbeat))
    await until(lambda: waiting.leader() == "a")
    assert waiting.desk.leader() == ("", "")
    await nodes.stop()
