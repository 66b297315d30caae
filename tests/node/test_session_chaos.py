"""Clients with sessions in a storm: each command once, in order, and one result for all copies."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from attrs import Factory, define

from raft.codec import PLAIN
from raft.errors import RaftError
from raft.node.sequences import Place
from raft.node.writes import Batch
from raft.numbering import Numbering, OpenedSession, SessionCall
from raft.storage.records import (
    NONCE_BYTES,
    Kind,
    encode_registration,
    session_id,
    session_payloads,
)
from tests.node.test_chaos import Storm
from tests.node.world import Node, Told, leader_of

SEEDS = range(6)
CLIENTS = 3
BLOWS = 250


@define(eq=False)
class Box:
    """Commands that were sent together, any number of times; `results` once there is an answer."""

    call: SessionCall
    count: int
    answers: list[Any] = Factory(list)
    results: list[Any] | None = None
    copies: int = 0


class Client:
    """Sends its boxes to whatever node, as often as it takes."""

    def __init__(self, name: int, leader: Node, chance: random.Random) -> None:
        self.name, self.chance = name, chance
        nonce, told = chance.randbytes(NONCE_BYTES), Told()
        batch = Batch([encode_registration(nonce)], 99.0, told.answers.append, Kind.REGISTER)
        leader.shell.write(batch)
        leader.world.run(2.0, lambda: told.answers)
        ((_, encoded),) = told.answers[0]
        id = session_id(msgspec.msgpack.decode(encoded)[0], nonce)
        self.numbering = Numbering(OpenedSession(id, 3600.0, 1000, 1 << 20))
        self.boxes: list[Box] = []

    @property
    def open(self) -> list[Box]:
        return [box for box in self.boxes if box.results is None]

    def tag(self, number: int) -> int:
        return self.name * 1_000_000 + number

    def issue(self) -> None:
        """Give numbers to some more commands."""
        count = self.chance.choice([1, 1, 2, 5])
        if len(self.open) < 12:
            self.boxes.append(Box(self.numbering.next(count), count))

    def send(self, node: Node, boxes: list[Box]) -> None:
        for box in boxes:
            call = self.numbering.again(box.call)
            numbers = range(call.sequence, call.sequence + box.count)
            commands = [PLAIN.encode(["add", self.tag(number)]) for number in numbers]
            box.copies += 1
            batch = Batch(
                session_payloads(call.id, call.sequence, call.low_mark, commands),
                node.clock() + self.chance.choice([0.05, 0.3, 2.0]),
                box.answers.append,
                Kind.SESSION_COMMAND,
                Place(call.id, numbers.start, numbers.stop, call.low_mark),
            )
            node.shell.write(batch)

    def hear(self) -> None:
        """Take what was answered; the first answer counts, and the others must agree with it."""
        for box in self.boxes:
            answers = [each for each in box.answers if not isinstance(each, RaftError)]
            for outcomes in answers:
                if box.results is None:
                    assert all(not code for code, _ in outcomes), outcomes
                    box.results = [msgspec.msgpack.decode(encoded) for _, encoded in outcomes]
                    self.numbering.answered(box.call.sequence, box.count)
                else:
                    self.check_copy(box, outcomes)
            box.answers.clear()

    def check_copy(self, box: Box, outcomes: list[Any]) -> None:
        assert box.results is not None
        for result, (code, encoded) in zip(box.results, outcomes, strict=True):
            # A copy that came late is told that it was answered before.
            assert code == "STALE_SEQUENCE" or (
                not code and msgspec.msgpack.decode(encoded) == result
            )

    def act(self, nodes: list[Node]) -> None:
        self.hear()
        if self.chance.random() < 0.6:
            self.issue()
        leaders = [node for node in nodes if node.leads]
        node = self.chance.choice(leaders if leaders and self.chance.random() < 0.9 else nodes)
        match self.chance.choice(["all", "all", "new", "new", "some", "nothing"]):
            case "all":
                self.send(node, self.open)
            case "new":
                self.send(node, [box for box in self.open if not box.copies])
            case "some":
                # Out of order, and with gaps.
                self.send(node, self.chance.sample(self.open, len(self.open) // 2))


def storm_of(seed: int) -> tuple[Storm, list[Client]]:
    storm = Storm(seed)
    leader = leader_of(storm.wire)
    clients = [Client(name, leader, storm.chance) for name in range(1, CLIENTS + 1)]
    for _ in range(BLOWS):
        for client in clients:
            client.act(storm.nodes)
        storm.blow()
    return storm, clients


def finish(storm: Storm, clients: list[Client]) -> None:
    """Let every client send what is open until it has an answer."""
    storm.calm()
    for _ in range(20):
        leader = leader_of(storm.wire, seconds=10.0)
        for client in clients:
            client.hear()
            client.send(leader, client.open)
        storm.world.run(1.0)
        for client in clients:
            client.hear()
        if not any(client.open for client in clients):
            break
    storm.world.run(3.0)
    assert not any(client.open for client in clients)


@pytest.mark.parametrize("seed", SEEDS)
def test_each_command_of_a_session_is_applied_once_and_in_order(seed: int) -> None:
    """S2, S7, S8, S9, sc-Q2: whoever leads, whatever is lost, sent twice or sent too early."""
    storm, clients = storm_of(seed)
    finish(storm, clients)
    nodes = storm.nodes
    assert [node.failures for node in nodes] == [[], [], []]
    journal = nodes[0].machine.applied
    assert all(node.machine.applied == journal for node in nodes)
    assert len({node.replica.digest for node in nodes}) == 1
    # The storm itself writes beside them, without sessions.
    tags = [command[1] for command in journal if isinstance(command[1], int)]
    for client in clients:
        last = client.numbering.next_sequence
        own = [tag for tag in tags if client.tag(1) <= tag < client.tag(1_000_000)]
        assert own == [client.tag(number) for number in range(1, last)]
        for box in client.boxes:
            first = box.call.sequence
            assert [result[1] for result in box.results or []] == [
                client.tag(number) for number in range(first, first + box.count)
            ]
    assert all(not node.shell.sequences.lines for node in nodes)
    for node in nodes:
        node.stop()
    storm.world.run(0.1)
    assert storm.world.getDelayedCalls() == []


def test_the_storm_is_one() -> None:
    """The test above would pass where nothing is ever sent twice, joined or early."""
    storm, clients = storm_of(3)
    boxes = [box for client in clients for box in client.boxes]
    assert len(boxes) > 60
    assert sum(box.copies > 1 for box in boxes) > 30
    assert sum(node.shell.sequences.joined_count for node in storm.nodes) > 10
