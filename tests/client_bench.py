"""A client on a Clock, and nodes whose answers the test gives."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from raft import errors
from raft.client import RaftClient
from raft.numbering import OpenedSession, SessionCall
from raft.transport import commands
from raft.transport.arguments import pack_plain, unpack_sessions
from raft.transport.calls import Results
from raft.transport.endpoints import parse_dial
from raft.transport.greeting import Greeting

decode = msgspec.msgpack.decode


class Asked:
    """A question that has arrived at a node and has no answer yet."""

    def __init__(
        self, kind: str, items: list[bytes], timeout_ms: int, call: SessionCall | None = None
    ) -> None:
        self.kind = kind
        self.items = [decode(item) for item in items]
        self.timeout_ms = timeout_ms
        self.call = call
        self.wants_index = False
        self.terms: Any = None
        self.answered: Deferred[Any] = Deferred()

    @property
    def numbers(self) -> range:
        """The numbers of its commands within their session."""
        assert self.call is not None
        return range(self.call.sequence, self.call.sequence + len(self.items))

    def answer(self, *results: object, index: int = 0) -> None:
        if not self.answered.called:
            answer = Results(results)
            answer.last_index = index
            self.answered.callback(answer)

    def refuse(self, error: errors.RaftError) -> None:
        if not self.answered.called:
            self.answered.errback(error)


class Node:
    """A node, as a client sees it: `says` is its answer to who leads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = f"tcp:127.0.0.1:{7000 + int(name[1:])}"
        self.says: tuple[str, str] = ("", "")
        self.is_up = True
        self.is_mute = False
        self.asked: list[Asked] = []
        self.log: list[str] = []
        self.connections: list[Connection] = []
        self.answers: dict[type, Callable[..., Any]] = {}
        self.at_once: list[errors.RaftError] = []
        self.opens_late = False
        self.sessions: list[OpenedSession] = []
        self.keeps = True
        self.named: list[tuple[str, list[bytes]]] = []
        self.results = 1000

    def leads(self) -> None:
        self.says = (self.name, self.address)

    def opened(self, nonce: bytes) -> OpenedSession:
        number = len(self.sessions) + 1
        self.sessions.append(
            OpenedSession(number.to_bytes(8, "little") + nonce, 3600.0, self.results, 1 << 20)
        )
        return self.sessions[-1]

    def boxes(self, kind: str = "write") -> list[list[Any]]:
        return [each.items for each in self.asked if each.kind == kind]

    def stop(self) -> None:
        self.is_up = False
        for connection in list(self.connections):
            connection.break_off()


class Connection:
    """Stands for `ClientConnection`; what is asked of it lands at its node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.connected = 1
        self.greeting = Greeting(1, "", node.name, "", "client")
        self.lost: Deferred[str] = Deferred()
        self.open: list[Asked] = []
        self.flushed = 0
        node.connections.append(self)

    def write_batch(
        self,
        items: list[bytes],
        timeout_ms: int,
        with_index: bool = False,
        session: SessionCall | None = None,
    ) -> Deferred[Any]:
        asked = Asked("write", items, timeout_ms, session)
        asked.wants_index = with_index
        return self._ask(asked)

    def read_batch(self, items: list[bytes], timeout_ms: int, terms: Any = None) -> Deferred[Any]:
        asked = Asked("read", items, timeout_ms)
        asked.terms = terms
        return self._ask(asked)

    def open_session(self, nonce: bytes, timeout_ms: int) -> Deferred[Any]:
        if self.node.opens_late:
            asked = Asked("open", [], timeout_ms)
            return self._ask(asked)
        return succeed(self.node.opened(nonce))

    def _ask(self, asked: Asked) -> Deferred[Any]:
        if self.node.at_once:
            return fail(self.node.at_once.pop(0))
        self.node.asked.append(asked)
        self.open.append(asked)
        return asked.answered

    def call(self, command: Any, timeout_seconds: float = 5.0, **arguments: Any) -> Deferred[Any]:
        self.node.log.append(command.__name__)
        if self.node.is_mute:
            return fail(errors.Timeout(False))
        if command in self.node.answers:
            try:
                return succeed(self.node.answers[command](**arguments))
            except errors.RaftError as error:
                return fail(error)
        if command in (commands.KeepSessions, commands.CloseSessions):
            named = unpack_sessions(arguments["sessions"])
            self.node.named.append((command.__name__, named))
            return succeed({"present": pack_plain([self.node.keeps] * len(named))})
        assert command is commands.Leader
        return succeed({"leader": self.node.says[0], "address": self.node.says[1]})

    def flush(self) -> None:
        self.flushed += 1

    def abandon(self, reason: str) -> None:
        self.break_off()

    def close(self) -> None:
        self.break_off()

    def break_off(self, sent: bool = True) -> None:
        """The connection is lost, before or after its questions were sent."""
        if not self.connected:
            return
        self.connected = 0
        self.node.connections.remove(self)
        for asked in self.open:
            unknown = sent and asked.kind == "write"
            asked.refuse(errors.OutcomeUnknown() if unknown else errors.NotAppended())
        self.lost.callback("lost")


class Bench:
    """A clock, three nodes that can be dialled, and a client that knows some of them."""

    def __init__(self, known: tuple[str, ...] = ("n1",), **settings: Any) -> None:
        self.clock = Clock()
        self.nodes = {name: Node(name) for name in ("n1", "n2", "n3")}
        self.by_address = {parse_dial(node.address).text: node for node in self.nodes.values()}
        self.dialled: list[str] = []
        self.client = RaftClient(
            [self.nodes[name].address for name in known],
            reactor=self.clock,
            dial=self.dial,
            chance=random.Random(1),
            **{"sessions": False, **settings},
        )

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def dial(self, address: str, timeout_seconds: float) -> Deferred[Any]:
        node = self.by_address.get(parse_dial(address).text)
        self.dialled.append(node.name if node else address)
        if node is None or not node.is_up:
            return fail(errors.NotAppended(f"{address} cannot be reached"))
        return succeed(Connection(node))

    def turn(self, seconds: float = 0.0) -> None:
        """Let `seconds` pass in small steps, and every call that is due be made."""
        for _ in range(5):
            self.clock.advance(0)
        steps = int(seconds / 0.01)
        for _ in range(steps):
            self.clock.advance(seconds / steps)
            self.clock.advance(0)


class Outcome:
    """What a call came to, once; a second outcome is an error of Deferred itself."""

    def __init__(self, call: Deferred[Any]) -> None:
        self.value: Any = None
        self.error: Any = None
        self.is_there = False
        self.call = call
        call.addCallbacks(self._succeeded, self._failed)

    def _succeeded(self, value: Any) -> None:
        self.is_there, self.value = True, value

    def _failed(self, failure: Failure) -> None:
        self.is_there, self.error = True, failure.value


def leading(**settings: Any) -> Bench:
    """A bench whose client has found its leader, n1."""
    bench = Bench(**settings)
    bench["n1"].leads()
    found = Outcome(bench.client.write("found"))
    bench.turn()
    bench["n1"].asked[0].answer(None)
    assert found.is_there
    bench["n1"].asked.clear()
    return bench
