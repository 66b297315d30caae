"""The nine functions: by name in this process, by (name, endpoint) over the wire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

import raft
from raft import errors
from raft.machines.echo import Echo
from raft.node.ports import address_of
from raft.service import RaftService
from raft.transport.calls import ClientConnection
from tests.node.running import LOOPBACK, Nodes, outcome, until

pytestmark = pytest.mark.integration

NINE = (
    *("start_node", "stop_node", "write", "read", "leader", "status"),
    *("set_configuration", "get_entry", "test_cluster"),
)


@pytest.fixture
def names() -> Iterator[tuple[str, ...]]:
    """Three nodes that have a leader."""
    found = pytest_twisted.blockon(raft.test_cluster())
    yield found
    pytest_twisted.blockon(gatherResults([raft.stop_node(name) for name in found]))


def led_by(names: tuple[str, ...]) -> tuple[str, str]:
    """Return (id, endpoint) of the leader."""
    found = raft.leader(names[0])
    assert isinstance(found, tuple)
    return found


def test_the_nine_are_there_and_pytest_takes_none_for_a_test() -> None:
    for name in NINE:
        assert callable(getattr(raft, name))
    assert raft.test_cluster.__test__ is False


@pytest_twisted.ensureDeferred
async def test_a_peer_is_a_name_or_a_name_with_an_endpoint(names: tuple[str, ...]) -> None:
    there = led_by(names)
    for number, peer in enumerate((there[0], there)):
        assert await raft.write(peer, ["append", f"k{number}", b"v"]) == 1
        assert await raft.read(peer, ["get", f"k{number}"]) == [b"v"]
        asked = raft.read(peer, ["get", f"k{number}"], consistency="bounded", max_age=60.0)
        assert await asked == [b"v"]
        assert isinstance(await outcome(raft.read(peer, 1, consistency="any")), errors.BadCommand)
        last: Any = raft.status(there[0])["commit_index"]
        entry = await raft.get_entry(peer, last)
        assert entry["command"] == ["append", f"k{number}", b"v"]
        assert isinstance(await outcome(raft.get_entry(peer, 10**9)), errors.NotFound)
        refused = await outcome(raft.write(peer, ["nonsense"]))
        assert isinstance(refused, errors.CommandError)
        assert isinstance(await outcome(raft.write(peer, object())), errors.BadCommand)
        assert isinstance(await outcome(raft.read(peer, ["get"])), errors.CommandError)
        for timeout in (-1, float("nan")):
            error = await outcome(raft.write(peer, ["set", "k", 1], timeout))
            assert isinstance(error, errors.BadCommand)


@pytest_twisted.ensureDeferred
async def test_a_command_of_a_session_takes_effect_once_here_and_over_the_wire(
    names: tuple[str, ...],
) -> None:
    """S2, S7."""
    there = led_by(names)
    for opener, peer in ((there[0], there), (there, there[0])):
        opened = await raft.open_session(opener)
        numbering = raft.Numbering(opened)
        call = numbering.next()
        length = await raft.write(opener, ["append", "k", 1], session=call)
        for again in (peer, opener):
            assert await raft.write(again, ["append", "k", 1], session=call) == length
        assert await raft.keep_sessions(peer, [opened.id, bytes(16)]) == [True, False]
        assert await raft.close_sessions(peer, [opened.id]) == [True]
        assert await raft.close_sessions(opener, [opened.id]) == [False]
        ended = raft.write(peer, ["append", "k", 1], session=numbering.next())
        assert isinstance(await outcome(ended), errors.SessionExpired)
        assert isinstance(await outcome(raft.keep_sessions(peer, [b"short"])), errors.BadCommand)
    assert await raft.read(there, ["get", "k"]) == [1, 1]


@pytest_twisted.ensureDeferred
async def test_a_cancelled_write_has_a_stated_outcome_here_and_over_the_wire(
    names: tuple[str, ...],
) -> None:
    """Over the wire it ended with CancelledError, which says nothing of the command."""
    there = led_by(names)
    for number, peer in enumerate((there[0], there)):
        early = raft.write(peer, ["append", f"c{number}", 1])
        early.cancel()
        assert isinstance(await outcome(early), errors.NotAppended)
        assert await raft.write(peer, ["append", f"c{number}", 2]) == 1
    write_batch = ClientConnection.write_batch

    def cancelling(*args: Any, **named: Any) -> Any:
        from twisted.internet import reactor

        # Before the node can answer.
        reactor.callLater(0, late.cancel)  # type: ignore[attr-defined]
        return write_batch(*args, **named)

    with patch.object(ClientConnection, "write_batch", cancelling):
        late = raft.write(there, ["append", "late", 1])
        assert isinstance(await outcome(late), errors.OutcomeUnknown)


@pytest_twisted.ensureDeferred
async def test_who_does_not_lead_names_the_leader(names: tuple[str, ...]) -> None:
    there = led_by(names)
    other = next(name for name in names if name != there[0])
    endpoint = f"tcp:127.0.0.1:{_node(other).client_port.getHost().port}"
    for peer in (other, (other, endpoint)):
        for asked in (raft.write(peer, ["set", "k", 1]), raft.read(peer, ["get", "k"])):
            error = await outcome(asked)
            assert isinstance(error, errors.NotLeader)
            assert (error.leader, error.address) == there


def _node(name: str) -> Any:
    from raft import api

    return api._nodes[name]


@pytest_twisted.ensureDeferred
async def test_members_that_are_none_are_refused(names: tuple[str, ...]) -> None:
    there = led_by(names)
    for peer in (there[0], there):
        for wrong in ([{"name": "a"}], [3], [("a", "tcp:127.0.0.1:1")]):
            bad: Any = wrong
            error = await outcome(raft.set_configuration(peer, bad))
            assert isinstance(error, errors.BadConfiguration)


@pytest_twisted.ensureDeferred
async def test_an_unknown_name_says_which_there_are(names: tuple[str, ...]) -> None:
    for asked in (
        raft.write("nobody", 1),
        raft.read("nobody", 1),
        raft.stop_node("nobody"),
        raft.get_entry("nobody", 1),
        raft.set_configuration("nobody", []),
    ):
        error = await outcome(asked)
        assert isinstance(error, errors.NoSuchNode)
        assert names[0] in str(error)
    for look in (raft.leader, raft.status):
        with pytest.raises(errors.NoSuchNode):
            look("nobody")


@pytest_twisted.ensureDeferred
async def test_nobody_at_the_endpoint_is_definitely_not_applied(unused_port: int) -> None:
    peer = ("x", f"tcp:127.0.0.1:{unused_port}")
    error = await outcome(raft.write(peer, ["set", "k", 1], 0.5))
    assert isinstance(error, errors.NotApplied)
    assert isinstance(
        await outcome(raft.write(("x", "nowhere"), ["set", "k", 1])), errors.BadConfiguration
    )


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest_twisted.ensureDeferred
async def test_nodes_by_hand_become_a_cluster_from_elsewhere(tmp_path: Path) -> None:
    """As the system this reimplements does it: start some, then say who they are."""
    made = Nodes(tmp_path)
    started = [await raft.start_node(f"n-{id}", made.settings(id), Echo()) for id in "ab"]
    try:
        members = [
            {
                "id": node.id,
                "peer_address": address_of(node.peer_port),
                "client_address": address_of(node.client_port),
            }
            for node in started
        ]
        assert raft.leader("n-a") is None
        assert isinstance(await outcome(raft.write("n-a", 1)), errors.ElectionInProgress)
        there = ("a", address_of(started[0].client_port))
        await raft.set_configuration(there, members, 8.0)
        await started[1].when_leader()
        assert raft.leader("n-b") == ("a", there[1])
        assert await raft.write(there, "echo") == "echo"
        taken = await outcome(raft.start_node("n-a", made.settings("c")))
        assert isinstance(taken, errors.BadConfiguration)
        busy = await outcome(raft.start_node("n-c", made.settings("a")))
        assert isinstance(busy, errors.BadConfiguration)
        wrong: Any = {"id": "x"}
        assert isinstance(await outcome(raft.start_node("n-x", wrong)), errors.BadConfiguration)
        none = await outcome(raft.start_node("n-x", made.settings("x"), object()))
        assert isinstance(none, errors.BadConfiguration)
    finally:
        await gatherResults([raft.stop_node(name) for name in ("n-a", "n-b")])
    with pytest.raises(errors.NoSuchNode):
        raft.status("n-a")


@pytest_twisted.ensureDeferred
async def test_a_node_that_fails_gives_its_name_back(tmp_path: Path) -> None:
    made = Nodes(tmp_path)
    node = RaftService(made.settings("a", peer_endpoint=LOOPBACK), Echo())
    assert await raft.start_node("failing", node) is node
    node.shell.fail(errors.StorageFailed("the disk died"))
    await node.ended
    assert isinstance(await outcome(raft.write("failing", 1)), errors.NoSuchNode)
    await raft.start_node("failing", made.settings("a"))
    stops = [raft.stop_node("failing"), raft.stop_node("failing")]
    await gatherResults(stops)


@pytest_twisted.ensureDeferred
async def test_a_test_cluster_takes_its_directory_with_it() -> None:
    names = await raft.test_cluster(Echo, 1)
    directory = Path(_node(names[0]).settings.data_directory).parent
    assert directory.exists()
    assert await raft.write(names[0], [1, 2]) == [1, 2]
    ended: Deferred[Any] = raft.stop_node(names[0])
    await ended
    await until(lambda: not directory.exists())
