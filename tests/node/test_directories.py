"""M7, M9: data directories that were put back from an old copy, or copied to a second place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from pytest_twisted import ensureDeferred

from raft.core.messages import RequestVoteResult
from raft.core.outputs import Role
from raft.node import doubles
from raft.node.doubles import durable_term
from raft.service import RaftService
from raft.transport.greeting import Greeting
from tests.node.running import LOOPBACK, Nodes, until


@pytest.fixture
def nodes(tmp_path: Path) -> Any:
    return Nodes(tmp_path)


def greeting_of(node: RaftService, **changes: Any) -> Greeting:
    identity = node.identity
    found = Greeting(1, identity.cluster_id, identity.server_id, identity.incarnation)
    return evolve(found, target="dialled", lives=identity.lives, **changes)


async def another_term(nodes: Nodes) -> RaftService:
    """Let the leadership move, so that all have made a later term durable."""
    leader = await nodes.leader()
    await leader.transfer_leadership()
    await until(lambda: len({node.shell.server.current_term for node in nodes.all.values()}) == 1)
    return await nodes.leader()


@ensureDeferred
async def test_an_old_copy_of_a_directory_that_was_put_back_is_refused(
    nodes: Nodes, tmp_path: Path
) -> None:
    """E1: whoever forgot a term forgot its vote in it, and would give it twice."""
    await nodes.found()
    leader = await nodes.leader()
    old = nodes.others(leader)[0]
    fixed = nodes.fixed(old)
    # A copy of a running server's directory: all of its starts are in it.
    shutil.copytree(tmp_path / old.id, tmp_path / "copy")
    for _ in range(2):
        leader = await another_term(nodes)
    term = leader.shell.server.current_term
    # Each of the others was shown the term by its messages, or by its greeting.
    for node in nodes.others(old):
        node.doubles.heard(old.id, RequestVoteResult(term, vote_granted=True))
    await old.stopService()
    del nodes.all[old.id]
    shutil.rmtree(tmp_path / old.id)
    shutil.copytree(tmp_path / "copy", tmp_path / old.id)
    others = list(nodes.all.values())
    refused = [node.network.counters.refused for node in others]
    back = nodes.start(old.id, **fixed)
    await until(
        lambda: all(n.network.counters.refused > r for n, r in zip(others, refused, strict=True))
    )
    assert back.shell.server.current_term < term
    for node in others:
        assert not node.network.is_connected(back.id)
        reason = node.members.judge(greeting_of(back, term=back.shell.server.current_term))
        assert reason is not None
        assert "an old copy of its data directory was put back" in reason
        assert "join again with an empty directory" in reason
    # Alone with one of them it elects nobody.
    leader = await nodes.leader([node.id for node in others])
    await leader.stopService()
    rest = next(node for node in others if node is not leader)
    await until(lambda: rest.shell.server.role is Role.PRE_CANDIDATE)
    assert rest.shell.server.leader_id is None
    assert back.shell.server.current_term < term
    await nodes.stop()


@ensureDeferred
async def test_a_copied_directory_is_refused_while_the_first_one_answers(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sc-F18: two processes of one server would vote twice in a term."""
    await nodes.found()
    leader = await nodes.leader()
    (first, other) = nodes.others(leader)
    await until(lambda: all(m.incarnation for m in leader.shell.server.configuration.members))
    # A copy of a running server's directory is torn at worst; its lock is not copied with it.
    shutil.copytree(tmp_path / first.id, tmp_path / "copy")
    second = Nodes(tmp_path)
    copied = second.start(first.id, directory="copy", peer_endpoint=LOOPBACK)
    assert copied.identity.incarnation == first.identity.incarnation
    refused = other.network.counters.refused
    await until(lambda: other.network.counters.refused > refused + 2)
    for node in (leader, other):
        await until(lambda node=node: node.network.is_connected(first.id))
        answering = node.network.greeting_of(first.id)
        assert answering is not None
        assert answering.lives == first.identity.lives
    # It was looked once who answers, and not with every attempt.
    reason = other.members.judge(greeting_of(copied))
    assert reason is not None
    assert "its directory was copied" in reason
    assert other.network.is_connected(first.id)
    await leader.write(["set", "k", 1])
    await until(lambda: first.replica.last_applied == leader.replica.last_applied)
    assert copied.shell.server.role is not Role.LEADER
    await copied.stopService()
    await nodes.stop()


@ensureDeferred
async def test_who_answers_is_looked_up_again_where_another_life_greets(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A computer that lost its power closes no connection: its next process is another life."""
    await nodes.found("ab")
    leader = await nodes.leader()
    (other,) = nodes.others(leader)
    await until(lambda: leader.network.is_connected(other.id))
    again = evolve(greeting_of(other), lives=other.identity.lives.begin("another1"))
    assert "started again just now" in str(leader.members.judge(again))
    assert not leader.network.is_connected(other.id)
    # Until it is known who answers, nobody else is let in; for a while.
    assert leader.doubles.objection(again, "") is not None
    assert leader.doubles.objection(evolve(again, target=""), "") is None
    monkeypatch.setattr(doubles, "LOOK_SECONDS", 0.0)
    assert leader.doubles.objection(again, "") is None
    await until(lambda: leader.network.is_connected(other.id))
    assert leader.members.judge(again) is not None
    assert leader.network.is_connected(other.id), "it looks once in a while only"
    assert durable_term(leader.shell.server) == leader.shell.server.current_term
    await nodes.stop()
