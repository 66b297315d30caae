"""Sessions of whole nodes over loopback: opened, written in, repeated, forwarded, closed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from raft.codec import PLAIN, Codec
from raft.core.messages import AppendEntriesResult
from raft.errors import (
    BadCommand,
    CommandError,
    CommandTooLarge,
    NotAppended,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    RaftError,
    SessionExpired,
    StaleSequence,
    Timeout,
)
from raft.node.ports import address_of
from raft.numbering import Numbering, OpenedSession, SessionCall
from raft.service import RaftService
from raft.storage.records import SessionLimits
from raft.transport.calls import ClientConnection
from raft.transport.dialling import dial
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
    client = await _client(leader)
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


class Hold:
    """Keeps followers' acknowledgements back, while the leader still hears from them."""

    def __init__(self, followers: list[RaftService], last: int) -> None:
        self.kept: list[Callable[[], object]] | None = []
        for follower in followers:
            follower.network.send = partial(  # type: ignore[method-assign]
                self.send, follower.network.send, last
            )

    def send(self, send: Any, last: int, peer: str, message: Any, *beside: Any) -> bool:
        acknowledges = isinstance(message, AppendEntriesResult) and message.match_index > last
        if self.kept is None or not acknowledges:
            return bool(send(peer, message, *beside))
        self.kept.append(partial(send, peer, message, *beside))
        return True

    def release(self) -> None:
        kept, self.kept = self.kept or [], None
        for send in kept:
            send()


@pytest_twisted.ensureDeferred
async def test_a_copy_over_another_connection_is_applied_once_and_both_are_told(
    nodes: Nodes,
) -> None:
    """S8."""
    await nodes.found()
    leader = await nodes.leader()
    opened = await leader.open_session()
    first, second = [await _client(leader) for _ in range(2)]
    box, call = (
        [PLAIN.encode(["append", "n", each]) for each in "xyz"],
        SessionCall(opened.id, 1, 1),
    )
    last = leader.shell.server.log.last_index
    hold = Hold(nodes.others(leader), last)
    told = first.write_batch(box, 3000, session=call)
    await until(lambda: leader.shell.server.log.last_index == last + 3)
    copies = [
        second.write_batch(box, 3000, True, session=call),
        second.write_batch(box[1:], 3000, session=evolve(call, sequence=2)),
        leader.write(["append", "n", "z"], session=evolve(call, sequence=3)),
    ]
    await until(lambda: leader.status()["copies_joined_count"] == 3)
    hold.release()
    assert await told == [1, 2, 3]
    assert await copies[0] == [1, 2, 3]
    assert await copies[1] == [2, 3]
    assert await copies[2] == 3
    assert leader.replica.last_applied == last + 3
    assert await leader.read(["get", "n"]) == ["x", "y", "z"]
    first.close()
    second.close()


@pytest_twisted.ensureDeferred
async def test_a_large_box_goes_in_parts_and_its_copy_joins_all_of_them(nodes: Nodes) -> None:
    """S8, S9."""
    await nodes.found()
    leader = await nodes.leader()
    opened = await leader.open_session()
    first, second = [await _client(leader) for _ in range(2)]
    box = [PLAIN.encode(["append", "n", bytes(600_000)]) for _ in range(4)]
    last = leader.shell.server.log.last_index
    hold = Hold(nodes.others(leader), last)
    told = first.write_batch(box, 8000, session=SessionCall(opened.id, 1, 1))
    await until(lambda: leader.shell.server.log.last_index == last + 4)
    again = second.write_batch(box, 8000, True, session=SessionCall(opened.id, 1, 1))
    await until(lambda: leader.status()["copies_joined_count"] >= 2)
    hold.release()
    copied = await again
    assert await told == copied == [1, 2, 3, 4]
    assert copied.last_index == last + 4
    first.close()
    second.close()


async def _client(node: RaftService) -> ClientConnection:
    from twisted.internet import reactor

    return await dial(reactor, address_of(node.client_port))


@pytest_twisted.ensureDeferred
async def test_after_a_change_of_the_leader_a_command_has_its_old_result(nodes: Nodes) -> None:
    """S7: to any server, until there is an answer."""
    await nodes.found()
    leader = await nodes.leader()
    numbering = Numbering(await leader.open_session())
    calls = [numbering.next() for _ in range(3)]
    results = [await leader.write(["append", "n", 1], session=call) for call in calls]
    await leader.transfer_leadership()
    heir = await nodes.leader()
    assert heir is not leader
    calls.append(numbering.next())
    again = [heir.write(["append", "n", 1], session=call) for call in calls]
    assert [await each for each in again] == [*results, 4]
    assert isinstance(await outcome(leader.write([], session=calls[0])), NotLeader)


@pytest_twisted.ensureDeferred
async def test_what_is_behind_a_refused_box_is_refused_and_sent_again_in_order(
    nodes: Nodes,
) -> None:
    """S9: over one connection, as a client sends it."""
    await nodes.found("a")
    leader = await nodes.leader()
    opened = await leader.open_session()
    client = await _client(leader)
    boxes = [[PLAIN.encode(["append", "n", each])] for each in range(1, 5)]
    calls = [SessionCall(opened.id, number, 1) for number in range(1, 5)]
    asked = [
        client.write_batch(box, 0 if call.sequence == 2 else 3000, session=call)
        for box, call in zip(boxes, calls, strict=True)
    ]
    told = [await outcome(each) for each in asked]
    assert told[0] == [1]
    assert isinstance(told[1], Timeout)
    assert not told[1].appended
    assert [type(each) for each in told[2:]] == [NotAppended, NotAppended]
    asked = [
        client.write_batch(box, 3000, session=call) for box, call in zip(boxes, calls, strict=True)
    ]
    assert [await each for each in asked] == [[1], [2], [3], [4]]
    assert await leader.read(["get", "n"]) == [1, 2, 3, 4]
    client.close()


@pytest_twisted.ensureDeferred
async def test_a_command_that_is_refused_by_itself_holds_up_nobody(nodes: Nodes) -> None:
    """S9: it is answered, so those behind it have their turn."""
    await nodes.found("a")
    leader = await nodes.leader()
    opened = await leader.open_session()
    client = await _client(leader)
    leader.desk.codec = Codec(limit_bytes=50)
    good, bad = PLAIN.encode(["append", "n", 1]), bytes(51)
    boxes = [[good], [bad], [good, bad], [bad, good], [bad], [good]]
    sequence, asked = 1, []
    for box in boxes:
        call = SessionCall(opened.id, sequence, 1)
        asked.append(client.write_batch(box, 3000, session=call))
        sequence += len(box)
    told = [result for each in asked for result in await each]
    assert [each for each in told if not isinstance(each, CommandTooLarge)] == [1, 2, 3, 4]
    client.close()


@pytest_twisted.ensureDeferred
async def test_a_node_that_passes_boxes_on_passes_on_what_is_refused_too(nodes: Nodes) -> None:
    """S9: only the leader knows whose turn it is."""
    await nodes.found("abc", forward=True)
    leader = await nodes.leader()
    for node in nodes.all.values():
        node.desk.codec = Codec(limit_bytes=50)
    follower = nodes.others(leader)[0]
    client = await _client(follower)
    opened = await client.open_session(b"12345678", 3000)
    good, bad = PLAIN.encode(["append", "n", 1]), bytes(51)
    sequence, asked = 1, []
    for box in ([good, bad], [bad], [good]):
        call = SessionCall(opened.id, sequence, 1)
        asked.append(client.write_batch(box, 3000, session=call))
        sequence += len(box)
    told = [result for each in asked for result in await each]
    assert [each for each in told if not isinstance(each, CommandTooLarge)] == [1, 2]
    client.close()


@pytest_twisted.ensureDeferred
async def test_a_session_that_nobody_uses_expires_and_one_that_is_kept_does_not(
    nodes: Nodes,
) -> None:
    """S3."""
    limits = SessionLimits(timeout_us=400_000)
    await nodes.found("a", session_limits=limits)
    leader = await nodes.leader()
    idle, kept = [await leader.open_session() for _ in range(2)]
    written: list[object] = []

    def keep() -> bool:
        if not written:
            written.append(leader.keep_sessions([kept.id]))
            written[0].addCallback(lambda _: written.clear())  # type: ignore[attr-defined]
        return leader.status()["session_expired_count"] == 1

    await until(keep)
    await until(lambda: not written)
    assert await leader.write(["append", "n", 1], session=SessionCall(kept.id, 1, 1)) == 1
    refused = await outcome(leader.write(["append", "n", 1], session=SessionCall(idle.id, 1, 1)))
    assert isinstance(refused, SessionExpired)


@pytest_twisted.ensureDeferred
async def test_no_session_is_opened_where_one_in_use_would_have_to_make_room(
    nodes: Nodes,
) -> None:
    """S3: the one unused for longest makes room, but not a client's every few seconds."""
    await nodes.found("ab", session_limits=SessionLimits(sessions=2))
    leader = await nodes.leader()
    follower = nodes.others(leader)[0]
    told = [leader.open_session() for _ in range(3)]
    first, second, third = [await outcome(each) for each in told]
    assert isinstance(third, Overloaded)
    assert "all 2 sessions" in str(third)
    assert leader.status()["session_refused_count"] == 1
    await until(lambda: follower.status()["session_count"] == 2)
    assert isinstance(await outcome(follower.open_session()), NotLeader)
    assert await leader.close_sessions([first.id]) == [True]
    third = await leader.open_session()
    assert await leader.keep_sessions([first.id, second.id, third.id]) == [False, True, True]


@pytest_twisted.ensureDeferred
async def test_a_session_unused_for_long_makes_room(nodes: Nodes) -> None:
    """S3: who expires within the third of its time-out is what nobody keeps."""
    limits = SessionLimits(timeout_us=900_000, sessions=1)
    await nodes.found("a", session_limits=limits)
    leader = await nodes.leader()
    first = await leader.open_session()
    assert isinstance(await outcome(leader.open_session()), Overloaded)
    spared_until = leader.shell.scribe.now_us() + limits.timeout_us // 3
    await until(lambda: leader.shell.scribe.now_us() > spared_until)
    second = await leader.open_session()
    assert await leader.keep_sessions([first.id, second.id]) == [False, True]


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_a_session_is_refused(nodes: Nodes) -> None:
    await nodes.found("a")
    leader = await nodes.leader()
    for asked in (
        leader.open_session(nonce=b"short"),
        leader.open_session(timeout=-1),
        leader.keep_sessions([b"short"]),
        leader.close_sessions([bytes(16)] * 1001),
    ):
        assert isinstance(await outcome(asked), BadCommand)
    cancelled = leader.open_session()
    cancelled.cancel()
    assert isinstance(await outcome(cancelled), NotAppended)
    assert await leader.keep_sessions([]) == []
    assert leader.status()["session_count"] == 0


def recipe() -> dict[str, Any]:
    """Return what the page for embedders tells to write."""
    page = (Path(__file__).parents[1] / "docs" / "howto" / "sessions.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "sessions.md", "exec"), names)
    return names


@pytest_twisted.ensureDeferred
async def test_the_recipe_for_embedders_writes_once_while_leaders_change(nodes: Nodes) -> None:
    """S7: each of many commands is carried out once, in the order of its numbers."""
    await nodes.found(forward=True)
    names = recipe()
    node = nodes.all["a"]
    await nodes.leader()
    numbering = await names["open_numbering"](node)
    told = [
        Deferred.fromCoroutine(names["write_once"](node, numbering, ["append", "n", number], 20.0))
        for number in range(30)
    ]
    for _ in range(3):
        leader = await nodes.leader()
        await outcome(leader.transfer_leadership())
    told += [
        Deferred.fromCoroutine(names["write_once"](node, numbering, ["append", "n", number], 20.0))
        for number in range(30, 40)
    ]
    assert [await each for each in told] == list(range(1, 41))
    leader = await nodes.leader()
    assert await leader.read(["get", "n"]) == list(range(40))
    assert numbering.low_mark == numbering.next_sequence == 41


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([NotAppended(), NotLeader()], NotLeader),
        ([OutcomeUnknown(), NotLeader()], OutcomeUnknown),
        ([Timeout(True), Timeout(False)], OutcomeUnknown),
        ([Timeout(False), Timeout(False)], Timeout),
        ([NotLeader(), SessionExpired()], SessionExpired),
        ([OutcomeUnknown(), NotAppended(), SessionExpired()], OutcomeUnknown),
    ],
)
def test_the_recipe_for_embedders_forgets_no_copy(
    told: list[RaftError], expected: type[RaftError]
) -> None:
    """S7: its last copy's `NotLeader` was the answer, though an earlier one may be applied."""
    clock = Clock()
    answers = iter(told)

    def write(*_: object, session: SessionCall) -> Deferred[Any]:
        return fail(next(answers, told[-1]))

    node = SimpleNamespace(clock=clock.seconds, reactor=clock, write=write)
    numbering = Numbering(OpenedSession(bytes(16), 60.0, 10, 1000))
    ended = Deferred.fromCoroutine(recipe()["write_once"](node, numbering, ["x"], 1.0))
    clock.pump([0.1] * 12)
    failure: Any = ended.result
    ended.addErrback(lambda _: None)
    assert type(failure.value) is expected
    assert numbering.low_mark == 2
