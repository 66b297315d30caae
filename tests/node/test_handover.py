"""Who hands the leadership over is told at once how that ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults

from raft import service
from raft.core import messages as ms
from raft.errors import NotAppended, Timeout
from raft.node.handover import hand_over
from tests.node.running import Nodes, outcome

LONG_SECONDS = 20.0
"""Longer than any test may take: who waits for it fails."""


@pytest_twisted.async_yield_fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    await made.stop()


@pytest_twisted.ensureDeferred
async def test_a_second_transfer_is_refused_at_once_and_the_first_goes_on(nodes: Nodes) -> None:
    """M10."""
    await nodes.found()
    leader = await nodes.leader()
    heir, other = (node.id for node in nodes.others(leader))
    first = leader.transfer_leadership(heir, LONG_SECONDS)
    second = leader.transfer_leadership(other, LONG_SECONDS)
    assert isinstance(await outcome(second), NotAppended)
    assert await first == heir
    assert leader.shell.transfers == {}


@pytest_twisted.ensureDeferred
async def test_a_transfer_that_is_given_up_fails_when_it_is(nodes: Nodes) -> None:
    """M10: after an election timeout the leader leads on, and says so."""
    await nodes.found()
    leader = await nodes.leader()
    heir = nodes.others(leader)[0]
    send = leader.network.send

    def lossy(peer: str, message: ms.Message, *beside: object) -> bool:
        return not isinstance(message, ms.TimeoutNow) and send(peer, message, *beside)  # type: ignore[arg-type]

    leader.network.send = lossy  # type: ignore[method-assign, assignment]
    error = await outcome(leader.transfer_leadership(heir.id, LONG_SECONDS))
    assert isinstance(error, Timeout)
    assert "leads on" in str(error)
    assert leader.leader() == leader.id
    await leader.write(["set", "k", 1])


@pytest_twisted.ensureDeferred
async def test_nobody_waits_for_heirs_that_are_gone(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M10: a cluster that stops as a whole has no successor to wait for."""
    monkeypatch.setattr(service, "STOP_SECONDS", LONG_SECONDS)
    started = await nodes.found()
    leader = await nodes.leader()
    # The others stop first: they never take over, and their connections close.
    others = [node.stopService() for node in nodes.others(leader)]
    await gatherResults([*others, leader.stopService()])
    assert not any(node.running for node in started)


@pytest_twisted.ensureDeferred
async def test_without_any_heir_left_a_transfer_is_given_up_at_once(nodes: Nodes) -> None:
    """M10."""
    await nodes.found()
    leader = await nodes.leader()
    heirs = [node.id for node in nodes.others(leader)]
    nodes.cut |= {(leader.id, heir) for heir in heirs}
    gone = hand_over(leader, None, LONG_SECONDS, ["nobody"])
    assert isinstance(await outcome(gone), NotAppended)
    assert leader.shell.transfers == {}
