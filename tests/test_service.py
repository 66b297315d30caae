"""RaftService: three whole nodes over loopback, in real directories."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults

from raft.client import RaftClient
from raft.codec import PLAIN
from raft.core import outputs as out
from raft.core.configuration import Member
from raft.errors import (
    BadCommand,
    BadConfiguration,
    CommandError,
    ElectionInProgress,
    NodeStopped,
    NotAppended,
    NotApplied,
    NotFound,
    NotLeader,
    RaftError,
    StorageFailed,
    Timeout,
)
from raft.interfaces import ReadTerms
from raft.machines.kv import KeyValueStore
from raft.node.bounds import Bounds
from raft.service import RaftService
from raft.storage.directory import DataDirectory
from raft.testing.history import Recorder
from raft.testing.linearizability import Verdict, check
from raft.transport import commands
from raft.transport.arguments import pack_commands
from raft.transport.dialling import dial
from tests.node.running import Nodes, outcome, until

pytestmark = pytest.mark.integration


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.stop()))


@pytest_twisted.ensureDeferred
async def test_three_empty_nodes_become_a_cluster_that_writes_and_reads(nodes: Nodes) -> None:
    """M8: founded once, from one of them; the others take its cluster's id."""
    await nodes.found()
    leader = await nodes.leader()
    assert await leader.write(["set", "k", 1]) is None
    assert await leader.read(["get", "k"]) == 1
    refused = await outcome(leader.write(["nonsense"]))
    assert isinstance(refused, CommandError)
    assert len({node.identity.cluster_id for node in nodes.all.values()}) == 1
    follower = nodes.others(leader)[0]
    for asked in (follower.write(["set", "k", 2]), follower.read(["get", "k"])):
        error = await outcome(asked)
        assert isinstance(error, NotLeader)
        assert (error.leader, error.address) == (leader.id, leader.leader_address())


@pytest_twisted.ensureDeferred
async def test_incarnations_are_pinned_through_the_log(nodes: Nodes) -> None:
    """M7."""
    await nodes.found()
    leader = await nodes.leader()
    incarnations = {id: node.identity.incarnation for id, node in nodes.all.items()}
    configuration = leader.shell.server.log
    await until(
        lambda: {m.id: m.incarnation for m in configuration.configuration.members} == incarnations
    )


@pytest_twisted.ensureDeferred
async def test_founding_is_refused_where_it_makes_no_cluster(nodes: Nodes) -> None:
    """M8: and what is refused leaves the node empty."""
    a = nodes.start("a")
    good = nodes.member(a)
    for members in (
        [],
        [Member("b", "", good.peer_address)],
        [good, good],
        [evolve(good, voter=False)],
        [good, Member("b", "", "nowhere")],
        [good, Member("b")],
        [good, Member("", "", good.peer_address)],
        [good, Member("b\n", "", good.peer_address)],
        [good, Member("b", "", good.peer_address, "tcp:")],
    ):
        error = await outcome(a.set_configuration(members))
        assert isinstance(error, BadConfiguration), members
    assert not a.identity.cluster_id
    await a.set_configuration([good])


@pytest_twisted.ensureDeferred
async def test_who_waits_to_be_added_sends_on_whoever_takes_it_for_a_member(nodes: Nodes) -> None:
    """M4, M8: it founds nothing, and says nothing that would end a client's search."""
    a = nodes.start("a")
    error = await outcome(a.set_configuration([nodes.member(a)], expected_index=7))
    assert isinstance(error, NotAppended)
    assert "belongs to no cluster yet" in str(error)
    assert not a.identity.cluster_id


@pytest_twisted.ensureDeferred
async def test_without_a_majority_founding_times_out_and_goes_on_trying(nodes: Nodes) -> None:
    a, b = nodes.start("a"), nodes.start("b")
    b.network.set_peers({})
    members = [nodes.member(a), nodes.member(b)]
    nodes.isolate("a")
    assert isinstance(await outcome(a.set_configuration(members, 0.2)), Timeout)
    nodes.cut.clear()
    assert await a.when_leader()


@pytest_twisted.ensureDeferred
async def test_a_failed_leader_loses_no_acknowledged_write(nodes: Nodes) -> None:
    await nodes.found()
    for round_number in range(2):
        leader = await nodes.leader()
        await gatherResults([leader.write(["append", "k", [round_number, n]]) for n in range(20)])
        if round_number == 0:
            leader.shell.fail(StorageFailed("the disk died"))
            assert isinstance(await leader.ended, StorageFailed)
            assert leader.status()["role"] == "stopped"
            assert "the disk died" in str(leader.status()["failure"])
            assert isinstance(await outcome(leader.write(1)), StorageFailed)
            assert leader.leader() is None
    found = await (await nodes.leader()).read(["get", "k"])
    assert found == [[r, n] for r in range(2) for n in range(20)]


@pytest_twisted.ensureDeferred
async def test_what_was_acknowledged_outlives_the_processes(nodes: Nodes) -> None:
    """N7: from snapshot and log, on disk."""
    await nodes.found()
    leader = await nodes.leader()
    await gatherResults([leader.write(["set", f"k{n}", n]) for n in range(50)])
    taken = await leader.take_snapshot()
    await leader.write(["set", "k0", "after"])
    places = {id: nodes.fixed(node) for id, node in nodes.all.items()}
    await nodes.stop()
    for id, place in places.items():
        nodes.start(id, **place)
    again = await nodes.leader()
    assert await again.read(["get", "k0"]) == "after"
    assert await again.read(["count"]) == 50
    assert nodes.all[leader.id].replica.last_applied >= taken


@pytest_twisted.ensureDeferred
async def test_a_stop_hands_the_leadership_over_and_answers_everybody(nodes: Nodes) -> None:
    """sc-R10, sc-P11."""
    await nodes.found()
    leader = await nodes.leader()
    told = [outcome(leader.write(["set", "k", n])) for n in range(3)]
    waiting = [Deferred.fromCoroutine(each) for each in told]
    stops = [leader.stopService(), leader.stopService()]
    await gatherResults(stops)
    assert all(each.called for each in waiting)
    assert await leader.ended is None
    assert isinstance(await outcome(leader.write(1)), NodeStopped)
    assert isinstance(await outcome(leader.when_leader()), NodeStopped)
    assert isinstance(await outcome(leader.transfer_leadership()), NodeStopped)
    assert isinstance(await outcome(leader.take_snapshot()), NodeStopped)
    assert isinstance(await outcome(leader.get_entry(1)), NodeStopped)
    assert isinstance(await outcome(leader.set_configuration([])), NodeStopped)
    with pytest.raises(NodeStopped):
        leader.startService()
    assert (await nodes.leader([each.id for each in nodes.others(leader)])).id != leader.id


def test_a_node_that_never_started_refuses_politely(tmp_path: Path) -> None:
    node = RaftService(Nodes(tmp_path).settings("a"), KeyValueStore())
    assert node.status()["role"] == "stopped"
    assert node.leader() is None
    for asked in (
        node.write(1),
        node.read(1),
        node.get_entry(1),
        node.take_snapshot(),
        node.transfer_leadership(),
        node.set_configuration([]),
    ):
        failures: list[Any] = []
        asked.addErrback(failures.append)
        assert isinstance(failures[0].value, NodeStopped)


@pytest_twisted.ensureDeferred
async def test_arguments_that_make_no_sense_are_refused(nodes: Nodes) -> None:
    await nodes.found("a")
    node = nodes.all["a"]
    for timeout in (-1, float("nan"), "3"):
        wrong: Any = timeout
        assert isinstance(await outcome(node.write(["set", "k", 1], wrong)), BadCommand)
        assert isinstance(await outcome(node.read(["get", "k"], wrong)), BadCommand)
    wrong_index: Any = "1"
    assert isinstance(await outcome(node.get_entry(wrong_index)), BadCommand)


@pytest_twisted.ensureDeferred
async def test_entries_can_be_looked_at(nodes: Nodes) -> None:
    await nodes.found("a")
    node = nodes.all["a"]
    await node.write(["set", "k", b"v"])
    last = node.shell.server.commit_index
    entry = await node.get_entry(last)
    assert (entry["index"], entry["kind"], entry["command"]) == (
        last,
        "command",
        ["set", "k", b"v"],
    )
    assert (await node.get_entry(1))["kind"] == "configuration"
    for index in (0, last + 1):
        assert isinstance(await outcome(node.get_entry(index)), NotFound)


@pytest_twisted.ensureDeferred
async def test_bytes_in_the_log_that_are_no_value_are_an_error_and_no_crash(nodes: Nodes) -> None:
    await nodes.found("a")
    node = nodes.all["a"]
    answers: list[Any] = []
    node.desk.write_batch([b"\xc1"], 3.0, answers.append)
    node.desk.write_batch([], 3.0, answers.append)
    await until(lambda: len(answers) == 2)
    last = node.shell.server.commit_index
    assert isinstance(await outcome(node.get_entry(last)), BadCommand)
    assert node.serves


@pytest_twisted.ensureDeferred
async def test_a_follower_that_forwards_writes_and_reads_as_the_leader_would(nodes: Nodes) -> None:
    """R8: reads through the leader's read index, answered here."""
    await nodes.found(forward=True)
    leader = await nodes.leader()
    follower = nodes.others(leader)[0]
    assert await follower.write(["append", "k", 1]) == 1
    assert isinstance(await outcome(follower.write(["nonsense"])), CommandError)
    assert await follower.read(["get", "k"]) == [1]
    told = [follower.write(["append", "k", n]) for n in range(2, 30)]
    assert await gatherResults(told) == list(range(2, 30))
    assert await follower.read(["get", "k"]) == list(range(1, 30))
    answers: list[Any] = []
    follower.desk.write_batch([PLAIN.encode(["append", "k", 30])], 3.0, answers.append)
    await until(lambda: answers)
    assert not isinstance(answers[0], RaftError)


@pytest_twisted.ensureDeferred
async def test_writes_forwarded_to_nobody_are_definitely_not_applied(nodes: Nodes) -> None:
    await nodes.found(forward=True)
    leader = await nodes.leader()
    follower = nodes.others(leader)[0]
    assert leader.client_port is not None
    await leader.client_port.stopListening()
    follower.forwarder.close()
    told = [Deferred.fromCoroutine(outcome(follower.write(["set", "k", n]))) for n in range(3)]
    assert all(isinstance(each, NotApplied) for each in await gatherResults(told))
    late = await outcome(follower.write(["set", "k", 9], 0.01))
    assert isinstance(late, NotApplied)


@pytest_twisted.ensureDeferred
async def test_the_leadership_goes_where_it_is_sent(nodes: Nodes) -> None:
    """M10."""
    await nodes.found()
    leader = await nodes.leader()
    heir = nodes.others(leader)[0]
    assert isinstance(await outcome(heir.transfer_leadership()), NotLeader)
    for target in ("x", leader.id):
        assert isinstance(await outcome(leader.transfer_leadership(target)), BadConfiguration)
    assert await leader.transfer_leadership(heir.id) == heir.id
    assert await nodes.leader() is heir
    await heir.write(["set", "k", 1])


@pytest_twisted.ensureDeferred
async def test_observers_see_changes_and_what_they_raise_touches_nothing(
    nodes: Nodes, logged_errors: Any
) -> None:
    node = nodes.start("a")
    seen: list[out.Change] = []
    told: list[Deferred[Any]] = []

    def broken(_: out.Change) -> None:
        raise ZeroDivisionError

    def writes(change: out.Change) -> None:
        if isinstance(change, out.RoleChanged) and change.role is out.Role.LEADER:
            told.append(node.write(["set", "k", 1]))

    end = node.observe(seen.append)
    end_broken = node.observe(broken)
    node.observe(writes)
    await node.set_configuration([nodes.member(node)])
    await node.when_leader()
    end()
    end()
    assert [each.role for each in seen if isinstance(each, out.RoleChanged)][-1] is out.Role.LEADER
    assert await told[0] is None
    # Incarnations are pinned some time later, which is one more change to fail at.
    end_broken()
    assert logged_errors.flush(ZeroDivisionError)


@pytest_twisted.ensureDeferred
async def test_one_who_waits_may_cancel_or_stop_another(nodes: Nodes) -> None:
    node = nodes.start("a")
    first, second, third = (node.when_leader() for _ in range(3))
    first.addCallback(lambda _: second.cancel())
    second.addErrback(lambda _: None)
    stopped: list[Any] = []
    third.addCallback(lambda _: stopped.append(node.stopService()))
    last = node.when_leader()
    node.set_configuration([nodes.member(node)]).addErrback(lambda _: None)
    await until(lambda: stopped)
    assert await outcome(last)
    await stopped[0]
    assert node.failure is None


@pytest_twisted.ensureDeferred
async def test_a_leader_cut_off_reads_nothing_and_its_writes_are_unknown(nodes: Nodes) -> None:
    """E7, R6, sc-N1."""
    await nodes.found()
    leader = await nodes.leader()
    nodes.isolate(leader.id)
    told = Deferred.fromCoroutine(outcome(leader.write(["set", "k", "old"], 5.0)))
    asked = Deferred.fromCoroutine(outcome(leader.read(["get", "k"], 5.0)))
    new = await nodes.leader([each.id for each in nodes.others(leader)])
    await new.write(["set", "k", "new"])
    assert isinstance(await asked, ElectionInProgress | NotLeader | Timeout)
    nodes.cut.clear()
    assert isinstance(await told, RaftError)
    await until(lambda: leader.replica.last_applied == new.replica.last_applied)
    assert leader.replica.digest == new.replica.digest
    assert await new.read(["get", "k"]) == "new"


@pytest_twisted.ensureDeferred
async def test_a_follower_far_behind_is_caught_up_by_a_snapshot(nodes: Nodes) -> None:
    """N5, N6: on real disks, over real sockets, while writes go on and the connection breaks.

    sc-S12.
    """
    await nodes.found(bounds=Bounds(snapshot_entries=0, trailing_entries=0, trailing_bytes=0))
    leader = await nodes.leader()
    behind = nodes.others(leader)[0]
    place = nodes.fixed(behind)
    await behind.stopService()
    value = random.Random(1).randbytes(1 << 18)
    await gatherResults([leader.write(["set", f"k{n}", value]) for n in range(24)])
    leader = await nodes.leader([each.id for each in nodes.all.values() if each is not behind])
    await leader.take_snapshot()
    await until(lambda: leader.shell.server.log.first_index > 20)
    again = nodes.start(
        behind.id, **place, bounds=Bounds(snapshot_entries=0, trailing_entries=0, trailing_bytes=0)
    )
    broken = False
    for number in range(40):
        await leader.write(["set", "meanwhile", number])
        if not broken and again.shell.snapshots.receiving.received_bytes(leader.id) > 1 << 20:
            broken = True
            for connection in list(leader.network._outgoing):
                connection.abandon("a cable was pulled")
    await until(lambda: again.replica.last_applied >= leader.replica.last_applied)
    assert again.shell.server.snapshot_index > 0
    assert again.replica.digest == leader.replica.digest
    place = nodes.fixed(again)
    await again.stopService()
    once_more = nodes.start(again.id, **place)
    assert once_more.replica.last_applied > 20
    await until(lambda: once_more.replica.digest == leader.replica.digest)


@pytest_twisted.ensureDeferred
async def test_a_wiped_directory_is_refused_by_the_others(nodes: Nodes, tmp_path: Path) -> None:
    """M9: it has forgotten its vote; it takes no part until it is removed and added again."""
    await nodes.found()
    leader = await nodes.leader()
    await until(lambda: all(m.incarnation for m in leader.shell.server.configuration.members))
    victim = nodes.others(leader)[0]
    place = nodes.fixed(victim)
    await victim.stopService()
    shutil.rmtree(tmp_path / victim.id)
    wiped = nodes.start(victim.id, **place)
    await leader.write(["set", "k", 1])
    await until(lambda: leader.network.counters.refused or wiped.network.counters.refused)
    assert not leader.network.is_connected(victim.id)
    assert wiped.replica.last_applied == 0
    assert wiped.leader() is None


@pytest_twisted.ensureDeferred
async def test_a_swapped_directory_stops_its_node_with_a_reason(
    nodes: Nodes, tmp_path: Path
) -> None:
    """M7: a directory whose log knows another incarnation of its server is not used."""
    await nodes.found()
    leader = await nodes.leader()
    await until(lambda: all(m.incarnation for m in leader.shell.server.configuration.members))
    pinned = leader.shell.server.log.configuration_index
    await until(lambda: all(n.shell.server.commit_index >= pinned for n in nodes.all.values()))
    places = {id: nodes.fixed(node) for id, node in nodes.all.items()}
    await nodes.stop()
    # Under another server's name.
    with pytest.raises(BadConfiguration):
        nodes.start("a", directory="b", **places["a"])
    # And a copy of its log in a directory of its own name.
    other = tmp_path / "other"
    DataDirectory.open(str(other), "b").release()
    node = RaftService(nodes.settings("b", directory="other", **places["b"]), KeyValueStore())
    for file in (tmp_path / "b").iterdir():
        if file.suffix == ".wal":
            shutil.copy(file, other / file.name)
    with pytest.raises(RaftError):
        node.startService()


@pytest_twisted.ensureDeferred
async def test_a_member_that_cannot_be_dialled_stops_nobody(nodes: Nodes) -> None:
    a = nodes.start("a")
    good = nodes.member(a)
    await a.set_configuration([good])
    a.members._followed = None
    configuration = a.shell.server.log.configurations
    index, found = configuration[-1]
    configuration[-1] = (index, evolve(found, members=(good, Member("b", "", "nowhere"))))
    a.members.follow()
    assert a.serves
    configuration[-1] = (index, found)


@pytest_twisted.ensureDeferred
async def test_who_dials_cannot_fill_a_nodes_memory_with_names(nodes: Nodes) -> None:
    await nodes.found("a")
    node = nodes.all["a"]
    from raft.transport.greeting import Greeting

    for number in range(3000):
        node.members.judge(Greeting(1, "", f"s{number}", "1", "peer", "", "tcp:127.0.0.1:1"))
    assert len(node.members.heard) <= 1025


@pytest_twisted.ensureDeferred
async def test_a_port_that_is_taken_is_an_error_that_says_so_and_undoes_the_start(
    nodes: Nodes,
) -> None:
    place = nodes.fixed(nodes.start("a"))
    with pytest.raises(BadConfiguration):
        nodes.start("b", client_endpoint=place["client_endpoint"])
    # Its directory is free again.
    nodes.start("b")


@pytest_twisted.ensureDeferred
async def test_commands_larger_than_the_usual_message_are_replicated(nodes: Nodes) -> None:
    from raft.codec import Codec

    made = [
        RaftService(nodes.settings(id), KeyValueStore(), codec=Codec(limit_bytes=40 << 20))
        for id in "ab"
    ]
    for node in made:
        node.startService()
        nodes.all[node.id] = node
    await made[0].set_configuration([nodes.member(node) for node in made], 8.0)
    leader = await nodes.leader()
    await leader.write(["set", "k", b"x" * (20 << 20)], 20.0)
    follower = nodes.others(leader)[0]
    await until(lambda: follower.replica.last_applied == leader.replica.last_applied)


@pytest_twisted.ensureDeferred
async def test_clients_get_what_local_callers_get(nodes: Nodes) -> None:
    from twisted.internet import reactor

    await nodes.found()
    leader = await nodes.leader()
    connection = await dial(reactor, leader.leader_address() or "")
    asked = (["append", "k", 1], ["nonsense"], ["append", "k", 2])
    payloads = [PLAIN.encode(each) for each in asked]
    results = await connection.write_batch(payloads, 3000)
    assert [results[0], results[2]] == [1, 2]
    assert isinstance(results[1], CommandError)
    assert await connection.read_batch([PLAIN.encode(["get", "k"])], 3000) == [[1, 2]]
    assert await connection.write_batch([], 3000) == []
    bounded = ReadTerms("bounded", 1, 60.0)
    assert await connection.read_batch([PLAIN.encode(["get", "k"])], 3000, bounded) == [[1, 2]]
    words = {"queries": pack_commands([PLAIN.encode(1)]), "consistency": "sloppy"}
    error = await outcome(connection.call(commands.Read, **words))
    assert isinstance(error, BadCommand)
    connection.close()
    await connection.lost


@pytest.mark.deadline(20)
@pytest_twisted.ensureDeferred
async def test_histories_are_linearizable_through_partitions_and_elections(nodes: Nodes) -> None:
    """The whole of it: clients of all nodes, while the leader is cut off, again and again."""
    await nodes.found(forward=True)
    recorder, chance, stop = Recorder(), random.Random(7), False

    async def client(name: str) -> None:
        number = 0
        while not stop:
            number += 1
            node = chance.choice(list(nodes.all.values()))
            key = chance.choice("xyz")
            if chance.random() < 0.5:
                operation = recorder.begin(name, "get", key)
                found = await outcome(node.read(["get", key], 0.5))
            else:
                value = f"{name}{number}"
                operation = recorder.begin(name, "set", key, value)
                found = await outcome(node.write(["set", key, value], 0.5))
            if not isinstance(found, Exception):
                operation.returned(found)
            elif isinstance(found, NotApplied) or (
                isinstance(found, Timeout) and not found.appended
            ):
                operation.refused()
                await until(lambda: True)
            else:
                operation.unknown()
                return await client(f"{name}'")
        return None

    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    clients = [Deferred.fromCoroutine(client(f"c{n}")) for n in range(4)]
    for _ in range(3):
        await deferLater(reactor, 0.3, lambda: None)  # type: ignore[arg-type]
        leader = await nodes.leader()
        nodes.isolate(leader.id)
        await nodes.leader([each.id for each in nodes.others(leader)])
        await deferLater(reactor, 0.2, lambda: None)  # type: ignore[arg-type]
        nodes.cut.clear()
    stop = True
    await gatherResults(clients)
    history = recorder.close()
    assert sum(each.ok is True for each in history) > 50
    report = check(history)
    assert report.verdict is Verdict.OK, report.text
    leader = await nodes.leader()
    await until(lambda: len({node.replica.digest for node in nodes.all.values()}) == 1)


@pytest_twisted.ensureDeferred
async def test_reads_of_every_consistency_see_what_they_promise_on_every_node(nodes: Nodes) -> None:
    """R8, R9, R10: over sockets, from this process and as a client."""
    options = evolve(nodes.settings("a").options, clock_drift_bound=1.25)
    await nodes.found(options=options)
    leader = await nodes.leader()
    written = await leader.write_indexed(["set", "k", 1])
    assert written.value is None
    assert leader.entry(written.index)["command"] == ["set", "k", 1]
    assert await leader.read(["get", "k"], consistency="lease") == 1
    query = PLAIN.encode(["get", "k"])
    for node in nodes.all.values():
        assert await node.read(["get", "k"], consistency="linearizable") == 1
        for terms in ({"consistency": "local"}, {"consistency": "bounded", "max_age": 5.0}):
            found = await node.read_indexed(["get", "k"], min_index=written.index, **terms)
            assert (found.value, found.index >= written.index) == (1, True)
            assert 0 <= found.age_seconds <= 5.0
        member = nodes.member(node)
        connection = await dial(leader.reactor, member.client_address)
        for remote in (ReadTerms("local", written.index), ReadTerms("linearizable")):
            results = await connection.read_batch([query], 3000, remote)
            assert (list(results), results.last_index >= written.index) == ([1], True)
        connection.close()
        await connection.lost
    client = RaftClient(nodes.member(leader).client_address)
    bounded = {"consistency": "bounded", "max_age": 5.0}
    for terms in ({}, {"consistency": "lease"}, {"min_index": written.index}, bounded):
        assert await client.read(["get", "k"], **terms) == 1
    assert isinstance(await outcome(client.read(1, consistency="sloppy")), BadCommand)
    await client.close()
    follower = nodes.others(leader)[0]
    for terms in ({}, {"consistency": "lease"}, {"min_index": 1}):
        assert isinstance(await outcome(follower.read(["get", "k"], **terms)), NotLeader)
    assert isinstance(await outcome(follower.read(1, consistency="sloppy")), BadCommand)


@pytest_twisted.ensureDeferred
async def test_a_node_that_forwards_tells_the_index_of_a_write(nodes: Nodes) -> None:
    """R10."""
    await nodes.found(forward=True)
    leader = await nodes.leader()
    follower = nodes.others(leader)[0]
    written = await follower.write_indexed(["set", "k", 2])
    assert leader.entry(written.index)["command"] == ["set", "k", 2]
    found = await follower.read(["get", "k"], consistency="local", min_index=written.index)
    assert found == 2
    connection = await dial(leader.reactor, nodes.member(follower).client_address)
    results = await connection.write_batch([PLAIN.encode(["set", "k", 3])], 3000, with_index=True)
    assert leader.entry(results.last_index)["command"] == ["set", "k", 3]
    connection.close()
    await connection.lost


@pytest_twisted.ensureDeferred
async def test_the_log_says_who_is_a_member_and_the_file_is_for_founding_only(
    nodes: Nodes,
) -> None:
    """M8, sc-M14, sc-K5: first members that were removed do not come back by a restart."""
    await nodes.found()
    leader = await nodes.leader()
    gone, stays = nodes.others(leader)
    named = [nodes.member(node) for node in nodes.all.values()]
    left = [member for member in named if member.id != gone.id]
    await leader.set_configuration(left, 8.0, replace=True)
    await gone.stopService()
    del nodes.all[gone.id]
    await until(lambda: len(stays.shell.server.configuration.members) == 2)
    place, cluster_id = nodes.fixed(stays), stays.identity.cluster_id
    for snapshot in (False, True):
        if snapshot:
            await stays.take_snapshot()
        await stays.stopService()
        stranger = evolve(named[0], id="z", peer_address="tcp:127.0.0.1:1")
        files = (*named, stranger)
        stays = nodes.start(stays.id, **place, first_members=files, cluster_id=cluster_id)
        known = {member.id for member in stays.shell.server.configuration.members}
        assert known == {leader.id, stays.id}
        leader = await nodes.leader()
        await leader.write(["set", "k", snapshot])
        await until(lambda: stays.replica.last_applied == leader.replica.last_applied)  # noqa: B023
        for node in (leader, stays):
            assert node.shell.server.configuration.ids == known
