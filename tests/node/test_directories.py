"""M7, M9: data directories that were put back from an old copy, or copied to a second place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from pytest_twisted import ensureDeferred

from raft.core.configuration import Member
from raft.core.messages import PreVote, PreVoteResult, RequestVoteResult
from raft.core.outputs import Role
from raft.core.server import Options
from raft.errors import RaftError, StorageFailed, StorageFull
from raft.lives import Lives
from raft.node import doubles, membership
from raft.node.doubles import durable_term
from raft.node.ports import address_of
from raft.service import RaftService
from raft.storage.files import RealFiles
from raft.storage.starts import PEER_LIVES_NAME, read_peers
from raft.transport.greeting import Greeting
from tests.node.running import LOOPBACK, Nodes, until

SMALL = Options(
    heartbeat_seconds=0.05,
    election_timeout_seconds=0.3,
    max_append_entries=1,
    max_inflight_messages=1,
)


@pytest.fixture
def nodes(tmp_path: Path) -> Any:
    return Nodes(tmp_path)


def greeting_of(node: RaftService, **changes: Any) -> Greeting:
    identity = node.identity
    found = Greeting(1, identity.cluster_id, identity.server_id, identity.incarnation)
    return evolve(found, target="dialled", lives=identity.lives, **changes)


def answer_of(node: RaftService) -> Greeting:
    """Return what a node says that was dialled."""
    return evolve(greeting_of(node), target="")


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
    """E1, sc-F20: whoever forgot a term forgot its vote in it, and would give it twice."""
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


async def stop_one(nodes: Nodes, id: str) -> RaftService:
    """Stop a node, and leave it out."""
    node = nodes.all.pop(id)
    await node.stopService()
    return node


@ensureDeferred
async def test_servers_that_were_restarted_themselves_still_know_an_old_copy(
    nodes: Nodes, tmp_path: Path
) -> None:
    """M9: they had seen its later start in memory only, let it in, and it could elect one.

    The old copy had forgotten what it had acknowledged since; so the one that it would elect
    need not have it either.
    """
    await nodes.found()
    await nodes.leader()
    fixed = {id: nodes.fixed(node) for id, node in nodes.all.items()}
    await stop_one(nodes, "b")
    shutil.copytree(tmp_path / "b", tmp_path / "copy")
    later = nodes.start("b", **fixed["b"])
    witnesses = [nodes.all["a"], nodes.all["c"]]
    for each in witnesses:
        await until(
            lambda each=each: each.members.lives["b"][1].names == later.identity.lives.names
        )
    for id in "bac":
        await stop_one(nodes, id)
    shutil.rmtree(tmp_path / "b")
    (tmp_path / "copy").rename(tmp_path / "b")
    back = nodes.start("b", **fixed["b"])
    # Each alone with it, and nothing of the earlier process is left.
    for id in "ac":
        witness = nodes.start(id, **fixed[id])
        await until(lambda witness=witness: witness.network.counters.refused > 2)
        reason = witness.members.judge(greeting_of(back))
        assert reason is not None
        assert "was last seen at start 2 of its data directory" in reason
        assert not witness.network.is_connected("b")
        assert witness.shell.server.role is not Role.LEADER
        await stop_one(nodes, id)
    await nodes.stop()


@ensureDeferred
async def test_of_members_alone_the_starts_are_noted_and_of_newcomers_once_they_are(
    nodes: Nodes, tmp_path: Path
) -> None:
    """M9: whoever can dial could otherwise fill the disk; those who leave are forgotten."""
    await nodes.found("ab")
    leader = await nodes.leader()
    (other,) = nodes.others(leader)
    directory = tmp_path / leader.id

    def noted() -> list[str]:
        return sorted(read_peers(RealFiles(), str(directory)))

    assert noted() == [other.id]
    stranger = Greeting(1, leader.identity.cluster_id, "x", "i", lives=Lives(1, ("first",)))
    before = (directory / PEER_LIVES_NAME).stat().st_ino
    assert leader.members.judge(stranger) is None
    assert leader.members.judge(answer_of(other)) is None
    assert (directory / PEER_LIVES_NAME).stat().st_ino == before, "it was written for nothing"
    node = nodes.start("c")
    await leader.add_learner(nodes.member(node))
    await until(lambda: noted() == sorted([other.id, "c"]))
    newcomers = tmp_path / "c"
    await until(lambda: len(read_peers(RealFiles(), str(newcomers))) == 2)
    await leader.remove("c")
    again = evolve(answer_of(other), lives=other.identity.lives.begin("again"))
    assert leader.members.judge(again) is None
    assert noted() == [other.id]
    await nodes.stop()


@ensureDeferred
async def test_a_disk_that_refuses_a_note_is_told_and_a_full_one_does_no_harm(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D3, D4: what failed may be lost, so the node stops; where there is no room it remembers."""
    await nodes.found("ab")
    leader = await nodes.leader()
    (other,) = nodes.others(leader)
    errors: list[RaftError] = [StorageFull("full"), StorageFailed("failed")]

    def refuse(_: object) -> None:
        raise errors[0]

    monkeypatch.setattr(leader, "note_peers", refuse)
    second = evolve(answer_of(other), lives=other.identity.lives.begin("second"))
    assert leader.members.judge(second) is None
    assert "does not know of it" in str(leader.members.judge(answer_of(other)))
    assert leader.serves
    del errors[0]
    assert "disk" in str(leader.members.judge(second))
    assert isinstance(leader.failure, StorageFailed)
    await nodes.stop()


@ensureDeferred
async def test_a_copied_directory_is_refused_while_the_first_one_answers(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sc-F18, sc-K3: two processes of one server would vote twice in a term."""
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
    """A computer that lost its power closes no connection: its next process is another life.

    sc-N7.
    """
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
    third = evolve(again, lives=again.lives.begin("another2"))
    assert leader.members.judge(third) is not None
    assert not leader.network.is_connected(other.id), "power may be lost twice in a minute"
    await until(lambda: leader.network.is_connected(other.id))
    assert durable_term(leader.shell.server) == leader.shell.server.current_term
    await nodes.stop()


@ensureDeferred
async def test_who_was_let_in_before_another_was_pinned_speaks_for_it_no_more(
    nodes: Nodes, tmp_path: Path
) -> None:
    """M7: its connection stood, and its requests for votes counted as those of the member.

    The server `c` was removed while it could not be reached. It dials on, under the name that a
    new server with a data directory of its own has meanwhile.
    """
    await nodes.found("ab")
    leader = await nodes.leader()
    (other,) = nodes.others(leader)
    old = Nodes(tmp_path)
    first = old.start("c", directory="old", peer_endpoint=LOOPBACK)
    addresses = {node.id: address_of(node.peer_port) for node in (leader, other)}
    first.network.set_peers(addresses)
    for node in (leader, other):
        await until(lambda node=node: node.members.heard.get("c") == first.identity.incarnation)
        await until(lambda node=node: first.network.is_connected(node.id))
    # The new one cannot be reached, or it would take the place of the other by dialling.
    member = Member("c", "another", "tcp:127.0.0.1:1", voter=False)
    await leader.set_configuration([member], 8.0)
    for node in (leader, other):
        await until(lambda node=node: node.shell.server.configuration.member("c") is not None)
        await until(lambda node=node: not [c for c in node.network._incoming if c.speaker == "c"])
        await until(lambda node=node: not first.network.is_connected(node.id))
    await leader.write(["set", "k", 1])
    await first.stopService()
    await nodes.stop()


@ensureDeferred
async def test_a_greeting_from_before_a_server_was_a_member_is_noted_once_it_is(
    nodes: Nodes, tmp_path: Path
) -> None:
    """M9: its connection stands, and it need not greet again."""
    (node,) = await nodes.found("a")
    lives = Lives(3, ("third",))
    stranger = Greeting(1, node.identity.cluster_id, "x", "i", lives=lives)
    assert node.members.judge(stranger) is None
    await node.set_configuration([Member("x", "i", "tcp:127.0.0.1:1", voter=False)], 8.0)
    assert read_peers(RealFiles(), str(tmp_path / "a")) == {"x": ("i", lives)}
    await nodes.stop()


@ensureDeferred
async def test_who_names_an_older_configuration_than_is_known_here_is_another(nodes: Nodes) -> None:
    """M7: who was removed was a member once; a restart forgets what is committed, not the log."""
    await nodes.found("ab")
    leader = await nodes.leader()
    (other,) = nodes.others(leader)
    await until(lambda: leader.members.own_index and other.members.own_index)
    server = leader.shell.server
    latest = server.log.configuration_index
    assert leader.members.own_index == latest
    stranger = evolve(greeting_of(other), incarnation="of another disk")
    server.commit_index = 0
    for index in (0, 1, latest):
        objection = leader.members.is_another(evolve(stranger, member_index=index))
        assert "is known as incarnation" in str(objection)
    assert leader.members.is_another(evolve(stranger, member_index=latest + 1)) is None
    server.commit_index = latest
    await nodes.stop()


@ensureDeferred
async def test_terms_that_were_shown_are_those_of_one_directory_and_durable(nodes: Nodes) -> None:
    """E1, M7: a server with a new directory begins low, and a pre-vote asks for what is not."""
    (node,) = await nodes.found("a")
    seen = node.doubles
    old = Greeting(1, node.identity.cluster_id, "x", "old", term=7)
    seen.let_in(old)
    assert "term 7" in str(seen.objection(evolve(old, term=6), ""))
    new = evolve(old, incarnation="new", term=1)
    assert seen.objection(new, "") is None
    seen.let_in(new)
    assert seen.objection(new, "") is None
    seen.heard("x", PreVote(9, 5, 1))
    seen.heard("x", PreVoteResult(9, vote_granted=True))
    assert seen.objection(new, "") is None
    seen.heard("x", RequestVoteResult(9, vote_granted=True))
    assert "term 9" in str(seen.objection(new, ""))
    server = node.shell.server
    assert durable_term(server) == server.current_term
    saved, server.hard_state_ticket = server.hard_state_ticket, server.saved_ticket + 1
    assert durable_term(server) == 0
    server.hard_state_ticket = saved
    await nodes.stop()


@ensureDeferred
async def test_only_who_is_in_touch_with_a_leader_tells_a_server_that_it_is_out(
    nodes: Nodes,
) -> None:
    """M6: who lags may not know yet that it was let in."""
    await nodes.found("ab")
    leader = await nodes.leader()
    (other,) = nodes.others(leader)
    await leader.write(["set", "k", 1])
    await until(lambda: other.replica.last_applied == leader.replica.last_applied)
    stranger = Greeting(1, leader.identity.cluster_id, "x", "i")
    assert leader.members.exclusion(stranger) > 0
    assert other.members.exclusion(stranger) > 0
    assert leader.members.exclusion(answer_of(other)) == 0
    nodes.isolate(leader.id)
    await until(lambda: other.shell.server.role is Role.PRE_CANDIDATE)
    assert other.members.exclusion(stranger) == 0
    await nodes.stop()


@ensureDeferred
async def test_who_replays_the_log_goes_on_with_a_leader_that_had_another_directory_then(
    nodes: Nodes,
) -> None:
    """M7: the newcomer's log names the predecessor of the leader that sends it, for a while.

    It dialled the address of that one, or refused the leader: who never got an answer.
    """
    await nodes.found("abc", options=SMALL)
    leader = await nodes.leader()
    again = nodes.others(leader)[0]
    await until(lambda: all(m.incarnation for m in leader.shell.server.configuration.members))
    await leader.remove(again.id)
    await stop_one(nodes, again.id)
    # Between the configurations that name the one and the other there is much to be sent.
    for number in range(20):
        await leader.write(["set", f"k{number}", "v" * 500])
    second = nodes.start(again.id, directory="second", options=SMALL)
    await leader.set_configuration([nodes.member(second)], 8.0)
    await until(lambda: all(m.incarnation for m in leader.shell.server.configuration.members))
    for number in range(20):
        await leader.write(["set", f"l{number}", "v" * 500])
    await leader.transfer_leadership(second.id)
    await until(lambda: second.shell.server.role is Role.LEADER)
    newcomer = nodes.start("d", options=SMALL)
    await second.set_configuration([nodes.member(newcomer)], 8.0)
    assert newcomer.replica.last_applied > 40
    await nodes.stop()


@ensureDeferred
async def test_a_leader_that_cannot_be_reached_is_dialled_at_both_addresses_in_turns(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M7: one that was moved by a change alone says, until its restart, where it was before."""
    await nodes.found("ab")
    leader = await nodes.leader()
    (other,) = nodes.others(leader)
    await until(lambda: other.network.is_connected(leader.id))
    members, server = other.members, other.shell.server
    right, dialled = members.addresses[leader.id], []
    monkeypatch.setattr(other.network, "is_connected", lambda _: False)
    monkeypatch.setattr(other.network, "set_peers", lambda found: dialled.append(found[leader.id]))
    monkeypatch.setattr(membership, "DETOUR_SECONDS", 0.0)
    members.said[leader.id] = "tcp:127.0.0.1:1"
    del dialled[:]
    for _ in range(3):
        members._reach_leader(server)
    assert dialled == ["tcp:127.0.0.1:1", right, "tcp:127.0.0.1:1"]
    # It leads no more, and is dialled where the log says again.
    monkeypatch.setattr(type(server), "leader_id", None)
    for _ in range(2):
        members._reach_leader(server)
    assert dialled[3:] == [right]
    monkeypatch.undo()
    await nodes.stop()
