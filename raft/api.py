"""The nine functions: nodes of this process by name, and nodes elsewhere by address.

A *peer* is the name of a node that was started in this process, or a pair
`(name, endpoint)` of a node elsewhere, where the endpoint is its client address:

    yield start_node("a", config)
    yield set_configuration("a", [{"id": "a", "peer_address": "tcp:10.0.0.1:7000"}, ...])
    yield write("a", ["set", "k", 1])

Beside the nine stand three for sessions, within which a command takes effect once, however often
it is written:

    opened = yield open_session("a")
    numbering = Numbering(opened)
    yield write("a", ["set", "k", 1], session=numbering.next())

Every function that waits returns a Deferred. `leader` and `status` look at a node of this
process and answer at once.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, fail, gatherResults, maybeDeferred
from twisted.python.failure import Failure

from raft.codec import PLAIN
from raft.core.configuration import Member
from raft.errors import (
    BadCommand,
    BadConfiguration,
    NoSuchNode,
    NotAppended,
    OutcomeUnknown,
    RaftError,
)
from raft.interfaces import PLAIN_TERMS, ReadTerms, Value
from raft.machines.kv import KeyValueStore
from raft.node.ports import address_of
from raft.node.settings import NodeSettings
from raft.numbering import OpenedSession, SessionCall, checked_session
from raft.service import RaftService
from raft.storage.records import NONCE_BYTES
from raft.transport.arguments import pack_members, unpack_plain
from raft.transport.calls import GRACE_SECONDS, ClientConnection
from raft.transport.commands import GetEntry, SetConfiguration
from raft.transport.dialling import dial

Peer = str | tuple[str, str]
"""The name of a node in this process, or (name, client endpoint) of one elsewhere."""

TIMEOUT_SECONDS = 3.0
LONGEST_SECONDS = 86_400

_nodes: dict[str, RaftService] = {}
"""The nodes of this process that `start_node` started: the one module-level state there is."""


def start_node(
    name: str, config: NodeSettings | RaftService, machine: object = None
) -> Deferred[RaftService]:
    """Start a node in this process under `name`; fires with it once it listens.

    Args:
        name: what the other functions call it; its `config.id` where settings are given.
        config: the node's settings, or a `RaftService` that is not started yet.
        machine: what is replicated, for settings; the key-value store by default.

    Raises (as failures):
        BadConfiguration: the name is taken, or the settings are wrong.
        RaftError: the data directory cannot be used.
    """
    if name in _nodes:
        return fail(BadConfiguration(f"a node named {name!r} runs in this process already"))

    def start() -> RaftService:
        node: object = config
        if isinstance(node, NodeSettings):
            node = RaftService(node, KeyValueStore() if machine is None else machine)
        if not isinstance(node, RaftService):
            kind = type(node).__name__
            raise BadConfiguration(f"config is {kind}; give NodeSettings or a RaftService")
        node.startService()
        _nodes[name] = node
        node.ended.addCallback(lambda ended: _forget(name, node, ended))
        return node

    return maybeDeferred(start)


def _forget(name: str, node: RaftService, ended: object) -> object:
    if _nodes.get(name) is node:
        del _nodes[name]
    return ended


def stop_node(name: str) -> Deferred[None]:
    """Stop the node `name` of this process; fires when its files and ports are closed.

    Raises (as failures):
        NoSuchNode: no node of that name runs in this process.
    """
    return _with_node(name, lambda node: node.stopService())


def write(
    peer: Peer,
    command: object,
    timeout: float = TIMEOUT_SECONDS,
    *,
    session: SessionCall | None = None,
) -> Deferred[Value]:
    """Replicate and apply `command`; fires with its result once it is committed and applied.

    `timeout` is in seconds. With `session` the command has that number, and may be written
    again with the same one, to any peer. Fails as `RaftService.write` does: a node that does not
    lead answers `NotLeader` with the leader's id and address. Cancelling undoes nothing once the
    command is on its way.
    """
    if isinstance(peer, str):
        return _with_node(peer, lambda node: node.write(command, timeout, session=session))
    is_sent = False

    def ask(to: ClientConnection, payload: bytes, left: Left) -> Deferred[Any]:
        nonlocal is_sent
        is_sent = True
        return to.write_batch([payload], left, session=session)

    def cancelled(failure: Failure) -> None:
        failure.trap(CancelledError)
        if is_sent:
            raise OutcomeUnknown("cancelled after it was sent")
        raise NotAppended("cancelled before it was sent")

    return Deferred.fromCoroutine(_batch_of_one(peer, timeout, command, ask)).addErrback(cancelled)


def open_session(peer: Peer, timeout: float = TIMEOUT_SECONDS) -> Deferred[OpenedSession]:
    """Open a session; fires with its id, and how long and for how much the servers keep it.

    Fails as `RaftService.open_session` does; to ask again is safe.
    """
    if isinstance(peer, str):
        return _with_node(peer, lambda node: node.open_session(timeout))
    nonce = secrets.token_bytes(NONCE_BYTES)
    return Deferred.fromCoroutine(
        _elsewhere(peer, timeout, lambda to, left: to.open_session(nonce, left))
    )


def keep_sessions(
    peer: Peer, sessions: Sequence[bytes], timeout: float = TIMEOUT_SECONDS
) -> Deferred[list[bool]]:
    """Keep sessions alive that are not used; fires with whether each is there.

    `sessions` are ids, at most 1,000. Fails as `RaftService.keep_sessions` does.
    """
    if isinstance(peer, str):
        return _with_node(peer, lambda node: node.keep_sessions(sessions, timeout))
    return _of_sessions(peer, sessions, timeout, ClientConnection.keep_sessions)


def close_sessions(
    peer: Peer, sessions: Sequence[bytes], timeout: float = TIMEOUT_SECONDS
) -> Deferred[list[bool]]:
    """End sessions; fires with whether each was there.

    `sessions` are ids, at most 1,000. Fails as `RaftService.close_sessions` does.
    """
    if isinstance(peer, str):
        return _with_node(peer, lambda node: node.close_sessions(sessions, timeout))
    return _of_sessions(peer, sessions, timeout, ClientConnection.close_sessions)


def _of_sessions(
    peer: tuple[str, str],
    sessions: Sequence[bytes],
    timeout: float,
    ask: Callable[[ClientConnection, Sequence[bytes], int], Deferred[list[bool]]],
) -> Deferred[list[bool]]:
    try:
        checked = [checked_session(each) for each in sessions]
    except RaftError as error:
        return fail(error)
    return Deferred.fromCoroutine(
        _elsewhere(peer, timeout, lambda to, left: ask(to, checked, left))
    )


def read(
    peer: Peer,
    query: object,
    timeout: float = TIMEOUT_SECONDS,
    *,
    consistency: str = "",
    min_index: int = 0,
    max_age: float | None = None,
) -> Deferred[Value]:
    """Answer `query` from a state as current as `consistency` says; see `RaftService.read`."""
    try:
        terms = ReadTerms(consistency, min_index, max_age)
    except BadCommand as error:
        return fail(error)
    if isinstance(peer, str):
        return _with_node(
            peer,
            lambda node: node.read(
                query, timeout, consistency=consistency, min_index=min_index, max_age=max_age
            ),
        )
    wanted = None if terms == PLAIN_TERMS else terms
    return Deferred.fromCoroutine(
        _batch_of_one(
            peer, timeout, query, lambda to, one, left: to.read_batch([one], left, wanted)
        )
    )


def leader(name: str) -> Peer | None:
    """Return the leader that the node `name` of this process knows, or None.

    A peer that the other functions take: (id, client endpoint), or the id alone where it
    listens for no clients.

    Raises:
        NoSuchNode: no node of that name runs in this process.
    """
    node = _node(name)
    found = node.leader()
    if found is None:
        return None
    address = node.leader_address()
    return (found, address) if address else found


def status(name: str) -> dict[str, object]:
    """Return what the node `name` of this process knows of itself and its cluster.

    Raises:
        NoSuchNode: no node of that name runs in this process.
    """
    return _node(name).status()


def set_configuration(
    peer: Peer,
    members: Sequence[Member | Mapping[str, Any]],
    timeout: float = TIMEOUT_SECONDS,
    *,
    replace: bool = False,
    expected_index: int | None = None,
    force: bool = False,
) -> Deferred[None]:
    """Add or update members, or with `replace` make them the cluster; found one where none is.

    A member is a `Member`, or a mapping with `id`, `peer_address` and `client_address`.
    Arguments and failures are those of `RaftService.set_configuration`; a change that lets a
    server join may take longer than the default `timeout` of 3 seconds, and goes on then.
    """
    options: dict[str, Any] = {"replace": replace, "expected_index": expected_index, "force": force}
    try:
        checked = tuple(_member(member) for member in members)
    except (TypeError, ValueError) as error:
        return fail(BadConfiguration(f"members: {error}"))
    if isinstance(peer, str):
        return _with_node(peer, lambda node: node.set_configuration(checked, timeout, **options))
    return Deferred.fromCoroutine(
        _elsewhere(
            peer,
            timeout,
            lambda to, left: to.call(
                SetConfiguration,
                left / 1000 + GRACE_SECONDS,
                members=pack_members(checked),
                timeout_ms=left,
                **options,
            ),
        )
    ).addCallback(lambda _: None)


def get_entry(peer: Peer, index: int) -> Deferred[dict[str, Any]]:
    """Fire with the committed log entry at `index` as a dict: index, term, time, kind, command.

    Raises (as failures):
        NotFound: it is not committed yet, or compacted away.
    """
    if isinstance(peer, str):
        return _with_node(peer, lambda node: node.get_entry(index))
    return Deferred.fromCoroutine(
        _elsewhere(peer, TIMEOUT_SECONDS, lambda to, _: to.call(GetEntry, index=index))
    ).addCallback(lambda answer: unpack_plain(answer["entry"]))


def test_cluster(
    machine: Callable[[], object] = KeyValueStore,  # noqa: PT028 -- No test, whatever its name.
    size: int = 3,  # noqa: PT028
) -> Deferred[tuple[str, ...]]:
    """Start three nodes in this process, over real sockets, with data in a temporary directory.

    Fires with their names once they have a leader. Stop each with `stop_node`; the data
    goes with the last one.
    """
    return Deferred.fromCoroutine(_start_cluster(machine, size))


# pytest collects functions by their name; this is none of its.
test_cluster.__test__ = False  # type: ignore[attr-defined]


async def _start_cluster(machine: Callable[[], object], size: int) -> tuple[str, ...]:
    directory = tempfile.mkdtemp(prefix="raft-test-cluster-")
    prefix = os.path.basename(directory).removeprefix("raft-test-cluster-")
    names = tuple(f"{prefix}-{number}" for number in range(1, size + 1))
    nodes = []
    try:
        for name in names:
            settings = NodeSettings(
                id=name,
                data_directory=os.path.join(directory, name),
                peer_endpoint="tcp:0:interface=127.0.0.1",
                client_endpoint="tcp:0:interface=127.0.0.1",
            )
            nodes.append(await start_node(name, settings, machine()))
        members = [
            Member(
                node.id,
                node.identity.incarnation,
                address_of(node.peer_port),
                address_of(node.client_port) if node.client_port else "",
            )
            for node in nodes
        ]
        await set_configuration(names[0], members, timeout=10.0)
        await gatherResults([node.when_leader() for node in nodes])
    except BaseException:
        await gatherResults([node.stopService() for node in nodes])
        shutil.rmtree(directory, ignore_errors=True)
        raise
    ended = gatherResults([_ended(node) for node in nodes])
    ended.addCallback(lambda _: shutil.rmtree(directory, ignore_errors=True))
    return names


def _ended(node: RaftService) -> Deferred[None]:
    waiting: Deferred[None] = Deferred()

    def pass_on(result: object) -> object:
        waiting.callback(None)
        return result

    node.ended.addBoth(pass_on)
    return waiting


def _member(member: Member | Mapping[str, Any]) -> Member:
    return member if isinstance(member, Member) else evolve(Member(""), **member)


def _node(name: str) -> RaftService:
    node = _nodes.get(name)
    if node is None:
        raise NoSuchNode(f"{name!r}; running are {sorted(_nodes) or 'none'}")
    return node


def _with_node(name: str, call: Callable[[RaftService], Any]) -> Deferred[Any]:
    node = _nodes.get(name)
    if node is None:
        return fail(NoSuchNode(f"{name!r}; running are {sorted(_nodes) or 'none'}"))
    return maybeDeferred(call, node)


Left = int
"""Milliseconds that are left of a call's time, once the connection is made."""


async def _elsewhere(
    peer: tuple[str, str],
    timeout: float,
    ask: Callable[[ClientConnection, Left], Deferred[Any]],
) -> Any:
    """Ask one node elsewhere, over a connection of this call's own; follow nothing."""
    from twisted.internet import reactor

    _, address = peer
    if not isinstance(timeout, int | float) or not 0 <= timeout <= LONGEST_SECONDS:
        raise BadCommand(f"timeout is {timeout!r}; give seconds from 0 to {LONGEST_SECONDS}")
    deadline = time.monotonic() + timeout
    connection = await dial(reactor, address, timeout)
    try:
        return await ask(connection, max(0, int((deadline - time.monotonic()) * 1000)))
    finally:
        connection.close()


async def _batch_of_one(
    peer: tuple[str, str],
    timeout: float,
    value: object,
    ask: Callable[[ClientConnection, bytes, Left], Deferred[Any]],
) -> Value:
    payload = PLAIN.encode(value)
    (result,) = await _elsewhere(peer, timeout, lambda to, left: ask(to, payload, left))
    if isinstance(result, RaftError):
        raise result
    answer: Value = result
    return answer
