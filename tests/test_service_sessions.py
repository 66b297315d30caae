"""Sessions of whole nodes over loopback: opened, written in, repeated, forwarded, closed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from twisted.internet.defer import Deferred

from raft.codec import PLAIN
from raft.errors import (
    BadCommand,
    CommandError,
    NotLeader,
    SessionExpired,
    StaleSequence,
)
from raft.numbering import Numbering, SessionCall
from raft.storage.records import SessionLimits
from raft.transport.calls import dial
from tests.node.running import Nodes, outcome, until

pytestmark = pytest.mark.integration


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.stop()))


@pytest_twisted.ensureDeferred
async def test_a_command_of_a_session_takes_effect_once_however_often_it_is_written(
    nodes: Nodes,
) -> None:
    """S2."""
    await nodes.found()
    leader = await nodes.leader()
    numbering = Numbering(await leader.open_session())
    call = numbering.next()
    assert await leader.write(["append", "n", 1], session=call) == 1
    assert await leader.write(["append", "n", 1], session=call) == 1
    refused = await outcome(leader.write(["nonsense"], session=numbering.next()))
    assert isinstance(refused, CommandError)
    indexed = await leader.write_indexed(["append", "n", 1], session=numbering.next())
    assert (indexed.value, indexed.index) == (2, leader.replica.last_applied)
    numbering.answered(1, 3)
    assert await leader.write(["append", "n", 1], session=numbering.next()) == 3
    assert isinstance(await outcome(leader.write(["append", "n", 1], session=call)), StaleSequence)
    assert await leader.read(["get", "n"]) == [1, 1, 1]


@pytest_twisted.ensureDeferred
async def test_sessions_are_the_leaders_unless_the_node_passes_them_on(nodes: Nodes) -> None:
    await nodes.found("ab")
    forwards = nodes.start("c", forward=True)
    leader = await nodes.leader("ab")
    await leader.add_learner(nodes.member(forwards))
    await until(forwards.leader_address)
    follower = next(node for node in nodes.others(leader) if node is not forwards)
    for asked in (follower.open_session(), follower.keep_sessions([bytes(16)])):
        assert isinstance(await outcome(asked), NotLeader)
    opened = await forwards.open_session()
    call = SessionCall(opened.id, 1, 1)
    assert await forwards.write(["append", "n", 5], session=call) == 1
    assert await leader.write(["append", "n", 5], session=call) == 1
    assert await forwards.keep_sessions([opened.id, bytes(16)]) == [True, False]
    assert await forwards.close_sessions([opened.id]) == [True]
    expired = await outcome(
        forwards.write(["append", "n", 5], session=SessionCall(opened.id, 2, 2))
    )
    assert isinstance(expired, SessionExpired)


@pytest_twisted.ensureDeferred
async def test_the_leaders_limits_hold_and_are_told(nodes: Nodes) -> None:
    """S3: the limits are in the log, as the leader has them."""
    limits = SessionLimits(timeout_us=90_000_000, sessions=2, results=3, results_bytes=50)
    await nodes.found(session_limits=limits)
    leader = await nodes.leader()
    opened = await leader.open_session()
    assert (opened.timeout_seconds, opened.results, opened.results_bytes) == (90.0, 3, 50)
    await leader.open_session()
    first, second = (leader.shell.cache.slice(at, at + 1, 1)[1] for at in _last_two(leader))
    assert len(second) < len(first)
    assert leader.replica.sessions.limits == limits


def _last_two(node: Any) -> tuple[int, int]:
    return node.replica.last_applied - 1, node.replica.last_applied


@pytest_twisted.ensureDeferred
async def test_a_client_opens_a_session_and_repeats_a_box(nodes: Nodes) -> None:
    await nodes.found("a")
    leader = await nodes.leader()
    from twisted.internet import reactor

    client = await dial(reactor, leader.leader_address() or "")
    opened = await client.open_session(b"12345678", 3000)
    assert opened.id[8:] == b"12345678"
    box = [PLAIN.encode(["append", "n", 1])] * 3
    call = SessionCall(opened.id, 1, 1)
    assert await client.write_batch(box, 3000, session=call) == [1, 2, 3]
    assert await client.write_batch(box, 3000, session=call) == [1, 2, 3]
    results = await client.write_batch([b"\xc1", *box], 3000, session=evolve(call, sequence=4))
    assert isinstance(results[0], BadCommand)
    assert results[1:] == [4, 5, 6]
    # Each kept the number of its own place.
    assert await client.write_batch(box, 3000, session=evolve(call, sequence=5)) == [4, 5, 6]
    assert await client.keep_sessions([opened.id], 3000) == [True]
    assert await client.close_sessions([opened.id], 3000) == [True]
    client.close()
