"""A command at which servers stop, on whole nodes: who stops, who goes on, and the way past it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import DeferredList

from raft.client import RaftClient
from raft.errors import (
    BadCommand,
    CommandFailed,
    MachineHeld,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    Refused,
    StateMachineFailed,
    Timeout,
)
from raft.node.ports import address_of
from raft.node.status import status_of
from raft.numbering import SessionCall
from raft.service import RaftService
from tests.node.running import Nodes, outcome, until
from tests.node.strict import Hungry, Lax, Mended, Strict

SOON = 8.0

pytestmark = [pytest.mark.slow, pytest.mark.deadline(30)]


@pytest.fixture
def nodes(tmp_path: Path) -> Any:
    return Nodes(tmp_path)


class Fleet:
    """Three nodes whose addresses stay, however often they are started."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.fixed: dict[str, dict[str, Any]] = {}

    async def found(self, machine: Callable[[], Any]) -> None:
        started = [self.nodes.start(id, machine()) for id in "abc"]
        members = [self.nodes.member(node) for node in started]
        await started[0].set_configuration(members, SOON)
        self.fixed = {node.id: self.nodes.fixed(node) for node in started}
        await self.nodes.leader()

    @property
    def all(self) -> list[RaftService]:
        return list(self.nodes.all.values())

    async def stop(self) -> None:
        await DeferredList([node.stopService() for node in self.all])

    async def start(self, machine: Callable[[], Any], ids: str = "abc", **changes: Any) -> None:
        for id in ids:
            self.nodes.start(id, machine(), **self.fixed[id], **changes)

    async def equal(self) -> None:
        """Wait until all have applied the same, and say the same of it."""

        def same() -> bool:
            found = {(node.replica.last_applied, node.replica.digest) for node in self.all}
            last = max(node.shell.server.log.last_index for node in self.all)
            return len(found) == 1 and found.pop()[0] == last

        await until(same)

    async def halted(self) -> int:
        """Wait until two have stopped at an entry; return its index."""
        await until(lambda: sum(bool(node.failure) for node in self.all) >= 2)
        ill = [node for node in self.all if node.failure]
        (poison,) = {node.replica.last_applied + 1 for node in ill}
        return poison

    async def value(self, key: str) -> Any:
        leader = await self.nodes.leader()
        return await leader.read(["get", key], SOON)


@ensureDeferred
async def test_an_unforeseen_exception_is_a_result_and_all_go_on(nodes: Nodes) -> None:
    """sc-SM1: the policy unless the machine says otherwise."""
    fleet = Fleet(nodes)
    await fleet.found(Lax)
    leader = await nodes.leader()
    failed = await outcome(leader.write(["set", "poison", 1], SOON))
    assert isinstance(failed, CommandFailed)
    assert failed.exception == "ValueError"
    await leader.write(["set", "after", 1], SOON)
    await fleet.equal()
    assert not any(node.failure for node in fleet.all)
    await nodes.stop()


@ensureDeferred
async def test_what_concerns_one_computer_stops_its_server_alone(nodes: Nodes) -> None:
    """sc-SM2: it does not skip the command; the others go on without it."""
    fleet = Fleet(nodes)
    await fleet.found(Lax)
    leader = await nodes.leader()
    ill = leader
    ill.replica.machine.error = MemoryError()
    told = await outcome(ill.write(["set", "poison", 1], SOON))
    assert isinstance(told, OutcomeUnknown)
    await until(lambda: ill.failure)
    assert isinstance(ill.failure, StateMachineFailed)
    well = [node.id for node in nodes.others(ill)]
    leader = await nodes.leader(well)
    await leader.write(["set", "after", 1], SOON)
    assert ill.replica.last_applied < leader.replica.last_applied
    assert "see to this computer" in str(ill.failure)
    assert status_of(ill)["role"] == "stopped"
    await fleet.stop()


@ensureDeferred
async def test_where_the_machine_says_so_every_server_stops_at_the_same_entry(nodes: Nodes) -> None:
    """sc-P14: again after each restart, nothing behind it is applied, and it says what to do."""
    fleet = Fleet(nodes)
    await fleet.found(Strict)
    leader = await nodes.leader()
    await leader.write(["set", "before", 1], SOON)
    for command in (["set", "poison", 1], ["set", "after", 1]):
        leader.write(command, SOON).addErrback(lambda _: None)
    poison = await fleet.halted()
    for _ in range(2):
        assert await fleet.halted() == poison
        for node in fleet.all:
            failure = str(node.failure)
            if node.failure is not None:
                assert isinstance(node.failure, StateMachineFailed)
                assert f"ValueError at entry {poison}, a command of " in failure
                assert f"raft skip {poison}" in failure
                assert "canary" not in failure
        await fleet.stop()
        await fleet.start(Strict)
    assert await fleet.halted() == poison
    await fleet.stop()
    await fleet.start(Mended)
    await fleet.equal()
    assert await fleet.value("after") == 1
    assert await fleet.value("half") is None
    await nodes.stop()


async def poisoned(fleet: Fleet, machine: Callable[[], Any]) -> int:
    """Let all servers stop at one entry, and stop them; return its index."""
    await fleet.found(machine)
    leader = await fleet.nodes.leader()
    await leader.write(["set", "before", 1], SOON)
    leader.write(["set", "poison", 1], SOON).addErrback(lambda _: None)
    poison = await fleet.halted()
    await fleet.stop()
    return poison


@ensureDeferred
@pytest.mark.parametrize("machine", [Strict, Hungry])
async def test_a_command_is_skipped_through_the_log(nodes: Nodes, machine: Any) -> None:
    """sc-P14: held machines apply nothing; then all go past the entry, to one state [I20]."""
    fleet = Fleet(nodes)
    poison = await poisoned(fleet, machine)
    await fleet.start(machine, hold=True)
    leader = await nodes.leader()
    held = leader.replica.last_applied
    for refused in (
        leader.write(["set", "x", 1], SOON),
        leader.read(["get", "x"], SOON),
        leader.read(["get", "x"], SOON, consistency="local"),
        leader.open_session(SOON),
    ):
        assert isinstance(await outcome(refused), MachineHeld)
    follower = nodes.others(leader)[0]
    assert isinstance(await outcome(follower.skip(poison)), NotLeader)
    assert leader.status()["machine_held"]
    at = await leader.skip(poison, SOON)
    assert leader.entry(at)["command"] == poison
    assert leader.entry(poison)["command"] == ["set", "poison", 1]
    # Asking again does nothing again.
    assert await leader.skip(poison, SOON) == at
    assert leader.replica.last_applied == held
    await fleet.stop()
    await fleet.start(machine)
    leader = await nodes.leader()
    await leader.write(["set", "after", 1], SOON)
    await fleet.equal()
    assert [await fleet.value(key) for key in ("before", "poison", "half", "after")] == [
        1,
        None,
        None,
        1,
    ]
    assert all(node.status()["skipped"] == [poison] for node in fleet.all)
    assert isinstance(await outcome(leader.skip(poison)), Refused)
    await nodes.stop()


@ensureDeferred
async def test_who_was_away_while_it_was_skipped_goes_past_it_too(nodes: Nodes) -> None:
    fleet = Fleet(nodes)
    poison = await poisoned(fleet, Strict)
    del nodes.all["c"]
    await fleet.start(Strict, "ab", hold=True)
    leader = await nodes.leader()
    await leader.skip(poison, SOON)
    await fleet.stop()
    # A release that could apply it comes too late: the log has decided.
    await fleet.start(Strict, "ab")
    await fleet.start(Mended, "c")
    leader = await nodes.leader()
    await leader.write(["set", "after", 1], SOON)
    await fleet.equal()
    assert await fleet.value("poison") is None
    assert not any(node.failure for node in fleet.all)
    await nodes.stop()


@ensureDeferred
async def test_a_copy_in_its_session_has_the_answer_of_the_skipped_command(nodes: Nodes) -> None:
    """S2, S6: the number is used up, also for who asks again after all restarts."""
    fleet = Fleet(nodes)
    await fleet.found(Strict)
    leader = await nodes.leader()
    session = await leader.open_session(SOON)
    call = SessionCall(session.id, 1, 1)
    leader.write(["set", "poison", 1], SOON, session=call).addErrback(lambda _: None)
    poison = await fleet.halted()
    await fleet.stop()
    await fleet.start(Strict, hold=True)
    leader = await nodes.leader()
    assert leader.entry(poison)["command"] == ["set", "poison", 1]
    await leader.skip(poison, SOON)
    await fleet.stop()
    await fleet.start(Mended)
    leader = await nodes.leader()
    for _ in range(2):
        told = await outcome(leader.write(["set", "poison", 1], SOON, session=call))
        assert isinstance(told, CommandFailed)
        assert told.exception == "Skipped"
    assert await leader.write(["set", "b", 2], SOON, session=SessionCall(session.id, 2, 2)) is None
    await fleet.equal()
    assert await fleet.value("poison") is None
    await nodes.stop()


@ensureDeferred
async def test_what_cannot_be_skipped_is_refused_with_the_reason(nodes: Nodes) -> None:
    fleet = Fleet(nodes)
    poison = await poisoned(fleet, Strict)
    await fleet.start(Strict, hold=True)
    leader = await nodes.leader()

    async def refused(index: Any) -> str:
        error = await outcome(leader.skip(index))
        assert isinstance(error, (Refused, NotFound)), error
        return str(error)

    assert "is no command but of kind" in await refused(1)
    assert "is not committed" in await refused(poison + 1000)
    assert isinstance(await outcome(leader.skip(0)), BadCommand)
    assert leader.shell.scribe.skips.named == {}
    await fleet.stop()
    await fleet.start(Mended)
    leader = await nodes.leader()
    await fleet.equal()
    assert "--hold" in await refused(poison)
    for node in fleet.all:
        await node.take_snapshot()
    await fleet.stop()
    await fleet.start(Mended, hold=True)
    leader = await nodes.leader()
    assert "a machine could apply it" in await refused(poison)
    await fleet.stop()


@ensureDeferred
async def test_a_client_skips_over_the_wire_and_waits_for_held_machines(nodes: Nodes) -> None:
    fleet = Fleet(nodes)
    poison = await poisoned(fleet, Strict)
    await fleet.start(Strict, hold=True)
    await nodes.leader()
    addresses = [address_of(node.client_port) for node in fleet.all if node.client_port]
    client = RaftClient(addresses)
    try:
        at = await client.skip(poison)
        assert at > poison
        # It is definite that a held machine gets nothing: the client tries on to its deadline.
        told = await outcome(client.write(["set", "x", 1], timeout=0.3))
        assert isinstance(told, (Timeout, MachineHeld)), told
        assert not getattr(told, "appended", False)
        await fleet.stop()
        await fleet.start(Strict)
        await client.write(["set", "after", 1], timeout=SOON)
        assert await client.read(["get", "poison"], timeout=SOON) is None
    finally:
        await client.close()
    await fleet.equal()
    await nodes.stop()


@ensureDeferred
async def test_who_had_executed_it_stops_and_joins_again(nodes: Nodes) -> None:
    """SM2: one server had another release; its state is another one, and it says so."""
    fleet = Fleet(nodes)
    await fleet.found(Strict)
    leader = await nodes.leader()
    hasty = nodes.others(leader)[0]
    hasty.replica.machine.mended = True
    leader.write(["set", "poison", 1], SOON).addErrback(lambda _: None)
    poison = await fleet.halted()
    strict = "".join(node.id for node in fleet.all if node is not hasty)
    await DeferredList([node.stopService() for node in fleet.all if node is not hasty])
    await fleet.start(Strict, strict, hold=True)
    await until(lambda: hasty.replica.last_applied >= poison)
    holders = [node for node in fleet.all if node is not hasty]
    leader = await nodes.leader()
    if leader is hasty:
        await hasty.transfer_leadership(holders[0].id)
        leader = await nodes.leader(strict)
    await leader.skip(poison, SOON)
    await until(lambda: hasty.failure)
    assert f"entry {poison} was applied here" in str(hasty.failure)
    await fleet.stop()
    await fleet.start(Strict, strict)
    await fleet.start(Mended, hasty.id)
    leader = await nodes.leader()
    await leader.write(["set", "after", 1], SOON)
    # Its machine is in memory: its log tells it in time.
    await fleet.equal()
    assert await fleet.value("poison") is None
    await nodes.stop()
