"""Any schedule of losses, leaders and answers: each command of a session takes effect once.

A small cluster with one log stands behind the client: what is appended may be committed later,
survive a change of leaders, or be truncated; boxes may be lost, or arrive after their connection.
"""

from __future__ import annotations

import random
from typing import Any

from attrs import define, field

from raft import errors
from raft.numbering import OpenedSession
from tests.client_bench import Asked, Bench, Node, Outcome

ACTS = (
    ["write"] * 4
    + ["turn", "turn", "wait", "take", "take", "take", "commit", "commit", "half", "half"]
    + ["lose", "lose", "depose", "overload", "late", "break", "stray", "expire", "cancel", "short"]
)

SEEDS = 1000


@define
class Memory:
    """What the servers remember of a session."""

    low_mark: int = 0
    highest: int = 0
    results: dict[int, Any] = field(factory=dict)


@define(eq=False)
class Box:
    """A box in the log, and how much of it is applied."""

    asked: Asked
    results: list[Any] = field(factory=list)


class OneLog(Bench):
    """Three nodes, of which one leads and appends; the log is the cluster's."""

    def __init__(self, window: int, chance: random.Random) -> None:
        super().__init__(("n1", "n2", "n3"), sessions=True)
        self.chance = chance
        self.memories: dict[bytes, Memory] = {}
        self.log: list[Box] = []
        self.strays: list[Asked] = []
        self.taken: set[int] = set()
        self.applied: list[int] = []
        self.outcomes: list[Outcome] = []
        for node in self.nodes.values():
            node.results = window
            node.opened = self.opening(node)  # type: ignore[method-assign]
        self.leader = ""
        self.elect("n1")

    def opening(self, node: Node) -> Any:
        def opened(nonce: bytes) -> OpenedSession:
            id = len(self.memories).to_bytes(8, "little") + nonce
            self.memories[id] = Memory()
            return OpenedSession(id, 3600.0, node.results, 1 << 20)

        return opened

    def elect(self, name: str) -> None:
        self.leader = name
        for node in self.nodes.values():
            node.says = (name, self[name].address)

    # -- The cluster ---------------------------------------------------------------------------

    def next_box(self) -> tuple[Node, Asked] | None:
        """The first box that nobody has looked at; a node takes boxes in their order."""
        for node in self.nodes.values():
            for asked in node.asked:
                if id(asked) not in self.taken and not asked.answered.called:
                    return node, asked
        return None

    def take(self, node: Node, asked: Asked) -> None:
        self.taken.add(id(asked))
        if node.name != self.leader:
            asked.refuse(errors.NotLeader(self.leader, self[self.leader].address))
        elif not self.append(asked):
            asked.refuse(errors.NotAppended("it came early"))

    def append(self, asked: Asked) -> bool:
        """S9: nothing is appended before the numbers below it."""
        assert asked.call is not None
        memory = self.memories.get(asked.call.id, Memory())
        pending = [
            box.asked.numbers.stop
            for box in self.log
            if box.asked.call is not None and box.asked.call.id == asked.call.id
        ]
        if asked.call.sequence > max([memory.highest + 1, asked.call.low_mark, *pending]):
            return False
        self.log.append(Box(asked))
        return True

    def apply(self, box: Box, item: Any, number: int) -> Any:
        call = box.asked.call
        assert call is not None
        memory = self.memories.get(call.id)
        if memory is None:
            return errors.SessionExpired()
        memory.low_mark = max(memory.low_mark, call.low_mark)
        for old in [each for each in memory.results if each < memory.low_mark]:
            del memory.results[old]
        if number in memory.results:
            return memory.results[number]
        if number < memory.low_mark:
            return errors.StaleSequence()
        self.applied.append(item)
        memory.results[number] = item
        memory.highest = max(memory.highest, number)
        assert len(memory.results) <= self[self.leader].results
        return item

    def commit(self, count: int, answer: bool = True) -> None:
        """Apply the log's first `count` commands, and tell, or lose what would be told."""
        while count and self.log:
            box = self.log[0]
            at = len(box.results)
            box.results.append(self.apply(box, box.asked.items[at], box.asked.numbers[at]))
            count -= 1
            if len(box.results) == len(box.asked.items):
                del self.log[0]
                if answer:
                    box.asked.answer(*box.results)
                else:
                    box.asked.refuse(errors.OutcomeUnknown())

    def depose(self) -> None:
        """Another leader: what is not committed survives, or is replaced by its entries."""
        survives = self.chance.random() < 0.5
        for box in self.log:
            rest = len(box.asked.items) - len(box.results)
            gone: Any = errors.OutcomeUnknown() if survives else errors.Superseded()
            if not box.results:
                box.asked.refuse(gone)
            else:
                box.asked.answer(*box.results, *[gone] * rest)
        if not survives:
            self.log.clear()
        self.elect(self.chance.choice(["n1", "n2", "n3"]))

    # -- What happens ----------------------------------------------------------------------------

    def act(self, act: str) -> None:
        if act in ("write", "short"):
            timeout = 0.4 if act == "short" else self.chance.choice([6.0, 8.0])
            write = self.client.write(len(self.outcomes), timeout)
            self.outcomes.append(Outcome(write))
        elif act == "cancel" and self.outcomes:
            self.chance.choice(self.outcomes).call.cancel()
        elif act in ("turn", "wait"):
            self.turn(0.05 if act == "turn" else 0.3)
        elif act in ("commit", "lose"):
            self.commit(1000, act == "commit")
        elif act == "half":
            self.commit(self.chance.randrange(1, 4))
        elif act == "depose":
            self.depose()
        elif act == "expire":
            self.memories.clear()
        elif act == "stray" and self.strays:
            self.append(self.strays.pop(0))
        elif found := self.next_box():
            self.act_on(act, *found)

    def act_on(self, act: str, node: Node, asked: Asked) -> None:
        if act == "take":
            self.take(node, asked)
        elif act in ("overload", "late"):
            refused = errors.Overloaded() if act == "overload" else errors.Timeout(False)
            # What is queued behind it in the session is refused as well.
            for each in node.asked:
                if id(each) not in self.taken and not each.answered.called:
                    self.taken.add(id(each))
                    each.refuse(refused)
                    refused = errors.NotAppended()
        elif act == "break":
            for connection in list(node.connections):
                lost = [each for each in connection.open if not each.answered.called]
                # Its bytes may be on their way.
                self.strays += [each for each in lost if id(each) not in self.taken]
                self.taken.update(map(id, lost))
                connection.break_off()

    def finish(self) -> None:
        """Let the cluster work, until every call has its outcome."""
        for _ in range(200):
            if all(each.is_there for each in self.outcomes):
                return
            self.turn(0.05)
            while found := self.next_box():
                self.take(*found)
            self.commit(1000)
        assert all(each.is_there for each in self.outcomes)


def is_definite(error: Exception) -> bool:
    if isinstance(error, errors.Timeout):
        return not error.appended
    return isinstance(error, errors.NotApplied)


def check(cluster: OneLog) -> None:
    applied = cluster.applied
    assert applied == sorted(set(applied)), "twice, or out of order"
    for number, outcome in enumerate(cluster.outcomes):
        if outcome.error is None:
            assert outcome.value == number
            assert number in applied
        elif is_definite(outcome.error):
            assert number not in applied
        else:
            assert isinstance(outcome.error, errors.OutcomeUnknown | errors.Timeout)


def run(seed: int, without: frozenset[str] = frozenset()) -> OneLog:
    """Let a cluster live through what `seed` draws, and end it in good order."""
    chance = random.Random(seed)
    cluster = OneLog(chance.choice([3, 10, 1000]), chance)
    for _ in range(chance.randrange(10, 100)):
        act = chance.choice(ACTS)
        if act not in without:
            cluster.act(act)
    cluster.finish()
    check(cluster)
    Outcome(cluster.client.close())
    assert cluster.clock.getDelayedCalls() == []
    return cluster


def test_any_schedule_applies_each_command_once_and_in_order() -> None:
    """S2, S7, S9: whatever is lost, each write has one true outcome, and none is applied twice."""
    for seed in range(SEEDS):
        try:
            run(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def test_while_the_session_lasts_every_write_is_applied() -> None:
    """S7: a write that nobody cancels and that has time gets its own result."""
    for seed in range(SEEDS // 4):
        cluster = run(seed, frozenset({"expire", "cancel", "short", "late"}))
        assert cluster.applied == list(range(len(cluster.outcomes))), f"seed {seed}"
        assert [each.value for each in cluster.outcomes] == cluster.applied, f"seed {seed}"
