"""Clients that retry, reorder and duplicate, against a dict: I16, through snapshots and restarts.

The oracle is a dict from session to a dict from number to answer, and says by the words of the
rules S2 and S3 what must become of each entry. A follower is fed the same log in other slices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import islice

import attrs
import msgspec
import pytest
from attrs import define, evolve, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from zope.interface import implementer

from raft.codec import PLAIN
from raft.errors import CommandError, StateMachineFailed
from raft.interfaces import Context, IOnDiskStateMachine, IStateMachine, SnapshotMeta, Value
from raft.replica import Applied, Replica, Result
from raft.storage.records import (
    Kind,
    SessionLimits,
    encode,
    encode_registration,
    encode_sessions,
    session_id,
    session_payloads,
)

EXPIRED, STALE, DROPPED = "SESSION_EXPIRED", "STALE_SEQUENCE", "RESULT_DROPPED"
LIMITS = (
    SessionLimits(1000, 3, 4, 60),
    SessionLimits(300, 2, 2, 1000),
    SessionLimits(5000, 6, 3, 5),
    None,
)


@implementer(IStateMachine)
class Effects:
    """Writes down each effect: [session, number]; the answer is how many there were."""

    def __init__(self) -> None:
        self.effects: list[Value] = []

    def apply(self, command: Value, context: Context) -> Value:
        assert isinstance(command, list)
        self.effects.append(command)
        count = len(self.effects)
        if count % 5 == 4:
            raise CommandError("refused", str(count))
        return [count, b"x" * (count % 7) * 3]

    def query(self, query: Value) -> Value:
        return None

    def snapshot(self) -> list[bytes]:
        return [msgspec.msgpack.encode(self.effects)]

    def restore(self, chunks: object) -> None:
        self.effects = msgspec.msgpack.decode(b"".join(chunks))  # type: ignore[call-overload]


@define
class Disk:
    """What outlives a process."""

    effects: list[Value] = field(factory=list)
    notes: dict[bytes, bytes] = field(factory=dict)
    last_applied: int = 0
    broken: bool = False
    commits: int = 0


@implementer(IOnDiskStateMachine)
class Shelf(Effects):
    """The same, with a disk: what is not committed is lost."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self.disk = disk
        self.inside = False
        self.notes: dict[bytes, bytes] = {}

    def open(self) -> list[tuple[bytes, bytes]]:
        self.effects = list(self.disk.effects)
        self.notes = dict(self.disk.notes)
        # In no order that anybody is promised.
        return list(reversed(self.notes.items()))

    def begin(self) -> None:
        assert not self.inside
        self.inside = True

    def apply(self, command: Value, context: Context) -> Value:
        assert self.inside
        return super().apply(command, context)

    def restore(self, chunks: object) -> None:
        assert self.inside
        super().restore(chunks)
        self.notes = {}

    def commit(self, last_applied: int, notes: Mapping[bytes, bytes | None]) -> None:
        assert self.inside
        self.inside = False
        if self.disk.broken:
            raise OSError(5, "the computer has lost power")
        for key, value in notes.items():
            if value is None:
                # Only what is there is removed: the replica knows what it has stored.
                del self.notes[key]
            else:
                self.notes[key] = value
        self.disk.effects, self.disk.notes = list(self.effects), dict(self.notes)
        self.disk.last_applied = last_applied
        self.disk.commits += 1

    def close(self) -> None:
        self.inside = False


@define
class Remembered:
    """What the oracle knows of a session."""

    used_us: int
    low_mark: int = 0
    passed: int = 0
    answers: dict[int, Result] = field(factory=dict)


@define
class Oracle:
    """Says what must become of an entry; `sessions` stand in the order of their use."""

    limits: SessionLimits = SessionLimits()
    sessions: dict[bytes, Remembered] = field(factory=dict)
    effects: int = 0

    def copy(self) -> Oracle:
        sessions = {
            key: evolve(each, answers=dict(each.answers)) for key, each in self.sessions.items()
        }
        return Oracle(self.limits, sessions, self.effects)

    def expire(self, now_us: int) -> None:
        self.sessions = {
            key: each
            for key, each in self.sessions.items()
            if now_us - each.used_us <= self.limits.timeout_us
        }

    def use(self, session: bytes, now_us: int) -> Remembered | None:
        self.expire(now_us)
        found = self.sessions.pop(session, None)
        if found is not None:
            found.used_us = now_us
            self.sessions[session] = found
        return found

    def register(self, session: bytes, now_us: int, limits: SessionLimits | None) -> None:
        self.limits = limits or self.limits
        self.expire(now_us)
        self.sessions[session] = Remembered(now_us)
        while len(self.sessions) > self.limits.sessions:
            del self.sessions[next(iter(self.sessions))]

    def command(self, session: bytes, number: int, low_mark: int, now_us: int) -> str | Result:
        """Return the code of a refusal, or the answer."""
        found = self.use(session, now_us)
        if found is None:
            return EXPIRED
        found.low_mark = max(found.low_mark, low_mark)
        found.passed = max(found.passed, low_mark)
        found.answers = {n: each for n, each in found.answers.items() if n >= found.passed}
        if number in found.answers:
            return found.answers[number]
        if number < found.low_mark:
            return STALE
        if number < found.passed:
            return DROPPED
        self.effects += 1
        answer = found.answers[number] = self.answer()
        while len(found.answers) > self.limits.results or (
            sum(len(content) for _, content in found.answers.values()) > self.limits.results_bytes
        ):
            found.passed = min(found.answers) + 1
            del found.answers[found.passed - 1]
        return answer

    def answer(self) -> Result:
        count = self.effects
        if count % 5 == 4:
            facts = {"reason": "refused", "detail": str(count), "message": f"refused: {count}"}
            return "COMMAND_ERROR", msgspec.msgpack.encode(facts)
        return "", msgspec.msgpack.encode([count, b"x" * (count % 7) * 3])


class Clients(RuleBasedStateMachine):
    """A log with the commands of clients that behave as badly as they can."""

    def started(self, server: str) -> Replica:
        """Return the replica of a server that has just started."""
        return Replica(Effects())

    @property
    def machine(self) -> Effects:
        machine = self.replica.machine
        assert isinstance(machine, Effects)
        return machine

    @initialize()
    def begin(self) -> None:
        self.replica = self.started("leader")
        self.follower = self.started("follower")
        self.oracle = Oracle()
        self.time_us = 0
        self.log: list[bytes] = []
        self.ids: list[bytes] = [session_id(77, b"stranger")]
        self.sent: list[bytes] = []
        self.snapshot: tuple[SnapshotMeta, list[bytes]] | None = None
        self.reading: list[tuple[SnapshotMeta, list[bytes], object]] = []

    def append(self, kind: int, payload: bytes) -> int:
        index = len(self.log) + 1
        self.log.append(encode(index, 1, self.time_us, kind, payload))
        return index

    def apply(self, start: int) -> list[Result]:
        index = start + 1
        records = b"".join(self.log[start:])
        applied = self.applied(records, index)
        assert applied.last_applied == len(self.log)
        return applied.results

    def applied(self, records: bytes, index: int) -> Applied:
        return self.replica.apply(records, 0, index, len(self.log) + 1, float("inf"))

    @rule(limits=st.sampled_from(LIMITS))
    def register(self, limits: SessionLimits | None) -> None:
        nonce = b"%08d" % len(self.ids)
        index = self.append(Kind.REGISTER, encode_registration(nonce, limits))
        self.apply(index - 1)
        self.ids.append(session_id(index, nonce))
        self.oracle.register(self.ids[-1], self.time_us, limits)

    @rule(by_us=st.integers(0, 1500))
    def pass_time(self, by_us: int) -> None:
        self.time_us += by_us

    @rule(
        which=st.integers(0, 6),
        first=st.integers(0, 14),
        count=st.integers(1, 6),
        behind=st.integers(0, 8),
        times=st.lists(st.integers(0, 90), max_size=3),
    )
    def send(self, which: int, first: int, count: int, behind: int, times: list[int]) -> None:
        """Send consecutive numbers in one batch, whether they were sent before or not."""
        session = self.ids[-which % len(self.ids)]
        low_mark = max(0, first - behind)
        commands = [PLAIN.encode([session, number]) for number in range(first, first + count)]
        payloads = session_payloads(session, first, low_mark, commands)
        self.sent += payloads
        self.batch(payloads, times)

    @precondition(lambda self: self.sent)
    @rule(picks=st.lists(st.integers(0, 60), min_size=1, max_size=8))
    def send_again(self, picks: list[int]) -> None:
        """Send copies of anything sent before, in any order."""
        self.batch([self.sent[-pick % len(self.sent)] for pick in picks], [])

    def batch(self, payloads: list[bytes], times: list[int]) -> None:
        start, expected = len(self.log), []
        for at, payload in enumerate(payloads):
            self.time_us += times[at] if at < len(times) else 0
            self.append(Kind.SESSION_COMMAND, payload)
            number, low_mark = (int.from_bytes(payload[a : a + 8], "little") for a in (16, 24))
            expected.append(self.oracle.command(payload[:16], number, low_mark, self.time_us))
        for wanted, (code, content) in zip(expected, self.apply(start), strict=True):
            assert wanted == (code if isinstance(wanted, str) else (code, content))

    @rule(picks=st.lists(st.integers(0, 6), max_size=4))
    def keep_alive(self, picks: list[int]) -> None:
        named = [self.ids[-pick % len(self.ids)] for pick in picks]
        index = self.append(Kind.KEEP_ALIVE, encode_sessions(named))
        ((_, content),) = self.apply(index - 1)
        expected = [self.oracle.use(each, self.time_us) is not None for each in named]
        assert msgspec.msgpack.decode(content) == expected

    @rule(pick=st.integers(0, 6))
    def close(self, pick: int) -> None:
        named = self.ids[-pick % len(self.ids)]
        index = self.append(Kind.CLOSE_SESSION, encode_sessions([named]))
        ((_, content),) = self.apply(index - 1)
        self.oracle.expire(self.time_us)
        there = self.oracle.sessions.pop(named, None) is not None
        assert msgspec.msgpack.decode(content) == [there]

    @rule()
    def send_without_a_session(self) -> None:
        index = self.append(Kind.COMMAND, PLAIN.encode([b"plain", len(self.log)]))
        self.apply(index - 1)
        self.oracle.effects += 1

    @rule(pieces=st.integers(0, 3))
    def begin_a_snapshot(self, pieces: int) -> None:
        if len(self.reading) < 2:
            meta, chunks = self.replica.snapshot()
            taken = list(islice(chunks, pieces))
            self.reading.append((meta, taken, chunks))

    @precondition(lambda self: self.reading)
    @rule()
    def finish_a_snapshot(self) -> None:
        meta, taken, chunks = self.reading.pop(0)
        self.snapshot = meta, [*taken, *chunks]  # type: ignore[misc]

    @rule(from_snapshot=st.booleans())
    def restart(self, from_snapshot: bool) -> None:
        """A server forgets all but the newest snapshot and the log."""
        before = self.replica
        self.replica = self.started("leader")
        self.reading.clear()
        if from_snapshot and self.snapshot is not None:
            self.install(self.replica)
        self.replica.apply(b"".join(self.log[self.replica.last_applied :]), 0, 0, 0, float("inf"))
        assert self.replica.digest == before.digest
        assert self.machine.effects == before.machine.effects  # type: ignore[attr-defined]

    def install(self, replica: Replica) -> None:
        if self.snapshot is not None and self.snapshot[0].index >= replica.last_applied:
            replica.restore(*self.snapshot)

    @rule(steps=st.lists(st.integers(1, 9), max_size=5), install=st.booleans())
    def let_the_follower_catch_up(self, steps: list[int], install: bool) -> None:
        if install:
            self.install(self.follower)
        for step in steps:
            start = self.follower.last_applied
            self.follower.apply(b"".join(self.log[start : start + step]))

    @invariant()
    def sessions_are_those_of_the_oracle(self) -> None:
        # The oracle ends sessions when they are used; so does the replica.
        found = {each.id: each for each in self.replica.sessions}
        assert list(found) == list(self.oracle.sessions)
        for key, wanted in self.oracle.sessions.items():
            assert found[key].results == wanted.answers
            assert found[key].size_bytes == sum(len(each) for _, each in wanted.answers.values())
            assert (found[key].low_mark, found[key].kept_from) == (wanted.low_mark, wanted.passed)
            assert found[key].touched_us == wanted.used_us

    @invariant()
    def each_number_took_effect_at_most_once(self) -> None:
        """I16."""
        counts = Counter(tuple(effect) for effect in self.machine.effects)  # type: ignore[arg-type]
        assert not counts or max(counts.values()) == 1
        assert len(self.machine.effects) == self.oracle.effects

    @invariant()
    def a_follower_that_is_as_far_is_the_same(self) -> None:
        if self.follower.last_applied == self.replica.last_applied:
            assert self.follower.digest == self.replica.digest
            assert self.follower.machine.effects == self.machine.effects  # type: ignore[attr-defined]

    def teardown(self) -> None:
        if hasattr(self, "follower"):
            start = self.follower.last_applied
            self.follower.apply(b"".join(self.log[start:]), 0, 0, 0, float("inf"))
            self.a_follower_that_is_as_far_is_the_same()


class ClientsOfADisk(Clients):
    """The same with machines that are durable by themselves, and lose batches [S5]."""

    def started(self, server: str) -> Replica:
        if not hasattr(self, "disks"):
            self.disks = {"leader": Disk(), "follower": Disk()}
        self.disks[server].broken = False
        replica = Replica(Shelf(self.disks[server]))
        replica.open()
        assert replica.last_applied == self.disks[server].last_applied
        return replica

    @rule()
    def break_the_next_batch(self) -> None:
        self.disks["leader"].broken = True

    def applied(self, records: bytes, index: int) -> Applied:
        disk = self.disks["leader"]
        if disk.broken:
            with pytest.raises(StateMachineFailed):
                super().applied(records, index)
            with pytest.raises(StateMachineFailed):
                self.replica.query(b"\xc0")
            self.replica = self.started("leader")
            self.reading.clear()
            assert self.replica.last_applied == index - 1
        return super().applied(records, index)

    @rule()
    def restart_the_follower(self) -> None:
        before = self.follower
        self.follower = self.started("follower")
        assert self.follower.digest == before.digest
        assert [attrs.astuple(each)[:6] for each in self.follower.sessions] == [
            attrs.astuple(each)[:6] for each in before.sessions
        ]

    @invariant()
    def nothing_is_noted_that_is_not_remembered(self) -> None:
        for server, replica in (("leader", self.replica), ("follower", self.follower)):
            results = sum(len(each.results) for each in replica.sessions)
            count = len(self.disks[server].notes)
            # How far it is, and the digest there.
            assert count in (0, 2 + len(replica.sessions) + results)


def test_after_a_restore_every_note_is_stored_again() -> None:
    """S5, N6: a machine that is restored forgets its notes, those that stay the same too."""
    disk = Disk()
    replica = Replica(Shelf(disk))
    replica.open()
    session = session_id(1, b"a client")
    (payload,) = session_payloads(session, 1, 0, [PLAIN.encode([session, 1])])
    replica.apply(encode(1, 1, 0, Kind.REGISTER, encode_registration(b"a client")))
    replica.apply(encode(2, 1, 0, Kind.SESSION_COMMAND, payload))
    before = {key: value for key, value in disk.notes.items() if key[:1] == b"r"}
    assert len(before) == 1
    meta, chunks = replica.snapshot()
    replica.restore(meta, list(chunks))
    assert {key: value for key, value in disk.notes.items() if key[:1] == b"r"} == before
    assert len(disk.notes) == 4


def test_after_a_restart_the_highest_number_is_known_in_whatever_order_notes_come() -> None:
    """S9: a leader goes on behind it."""
    disk = Disk()
    replica = Replica(Shelf(disk))
    replica.open()
    session = session_id(1, b"a client")
    replica.apply(encode(1, 1, 0, Kind.REGISTER, encode_registration(b"a client")))
    commands = [PLAIN.encode([session, number]) for number in range(1, 301)]
    for index, payload in enumerate(session_payloads(session, 1, 0, commands), start=2):
        replica.apply(encode(index, 1, 0, Kind.SESSION_COMMAND, payload))
    again = Replica(Shelf(disk))
    again.open()
    assert again.last_applied == 301
    assert again.sessions.applied_end(session, 301) == 301


TestClientsOfADisk = ClientsOfADisk.TestCase
TestClientsOfADisk.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)

TestClients = Clients.TestCase
TestClients.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
