"""Sessions: a command takes effect once, whatever is sent again, lost, late or restarted.

The rules S1 to S9 are those of the protocol's rule book; the model at the end is a dict.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from time import thread_time

import msgspec
import pytest
from twisted.logger import LogEvent, globalLogPublisher
from zope.interface import implementer

from raft.codec import PLAIN
from raft.envelope import CHUNK_BYTES, Header, unwrap, wrap
from raft.errors import (
    BadCommand,
    CommandError,
    CommandFailed,
    OutcomeUnknown,
    RaftError,
    ResultDropped,
    SessionExpired,
    StaleSequence,
    StateMachineFailed,
    from_wire,
)
from raft.interfaces import Context, IStateMachine, Value
from raft.replica import Replica, Result
from raft.sessions import SLICE_BYTES, Session, Sessions
from raft.storage.records import (
    SESSION_HEADER,
    SESSION_IDS_LIMIT,
    BadRecord,
    Kind,
    SessionLimits,
    decode_registration,
    decode_sessions,
    encode,
    encode_commands,
    encode_registration,
    encode_sessions,
    session_id,
    session_payloads,
    summarise,
)

NONCE = b"a client"
LIMITS = SessionLimits(timeout_us=1000, sessions=3, results=4, results_bytes=100)


@implementer(IStateMachine)
class Tally:
    """Counts what it applies and answers with the count: no command has the same answer twice."""

    machine_name = "tally"

    def __init__(self) -> None:
        self.calls: list[Value] = []

    def apply(self, command: Value, context: Context) -> Value:
        self.calls.append(command)
        if command == "refuse":
            raise CommandError("refused", str(len(self.calls)))
        if command == "fail":
            raise ValueError
        if command == "disk":
            raise OSError
        if command == "nothing":
            return None
        if isinstance(command, int):
            return [len(self.calls), b"x" * command]
        return len(self.calls)

    def query(self, query: Value) -> Value:
        return self.calls

    def snapshot(self) -> Iterable[bytes]:
        return [msgspec.msgpack.encode(self.calls)]

    def restore(self, chunks: Iterator[bytes]) -> None:
        self.calls = msgspec.msgpack.decode(b"".join(chunks))


class Cluster:
    """One replica and what is written into its log."""

    def __init__(self, limits: SessionLimits | None = LIMITS) -> None:
        self.machine = Tally()
        self.replica = Replica(self.machine)
        self.time_us = 0
        self.log: list[bytes] = []
        self.limits = limits

    def entry(self, kind: int, payload: bytes) -> Result:
        index = self.replica.last_applied + 1
        self.log.append(encode(index, 1, self.time_us, kind, payload))
        applied = self.replica.apply(self.log[-1], 0, index, index + 1)
        return applied.results[0]

    def register(self, nonce: bytes = NONCE) -> bytes:
        outcome = self.entry(Kind.REGISTER, encode_registration(nonce, self.limits))
        return session_id(PLAIN.decode_result(outcome[1])[0], nonce)  # type: ignore[index,arg-type]

    def send(self, session: bytes, sequence: int, value: Value = "x", low_mark: int = 0) -> Value:
        """Return the result, or the error as an exception."""
        (payload,) = session_payloads(session, sequence, low_mark, [PLAIN.encode(value)])
        return outcome_of(self.entry(Kind.SESSION_COMMAND, payload))

    def keep_alive(self, *sessions: bytes) -> Value:
        return outcome_of(self.entry(Kind.KEEP_ALIVE, encode_sessions(sessions)))

    def close(self, *sessions: bytes) -> Value:
        return outcome_of(self.entry(Kind.CLOSE_SESSION, encode_sessions(sessions)))


def outcome_of(outcome: Result) -> Value:
    code, content = outcome
    if code:
        return from_wire(code, msgspec.msgpack.decode(content))  # type: ignore[return-value]
    return PLAIN.decode_result(content)


def is_error(outcome: Value, kind: type[RaftError]) -> bool:
    return type(outcome) is kind


def copied(replica: Replica) -> Replica:
    meta, chunks = replica.snapshot()
    copy = Replica(Tally())
    copy.restore(meta, list(chunks))
    return copy


def state(replica: Replica) -> object:
    """Return all that sessions hold, in their order."""
    sessions = replica.sessions
    return sessions.limits, [
        (each.id, each.touched_us, each.low_mark, each.kept_from, each.results, each.size_bytes)
        for each in sessions
    ]


# Opening one.


def test_a_session_is_the_index_of_its_entry_and_the_clients_nonce() -> None:
    """S1, sc-Q12: an index alone would collide after a restore into a new cluster."""
    cluster = Cluster()
    session = cluster.register()
    assert session == session_id(1, NONCE)
    assert cluster.send(session, 1) == 1
    for other in (session_id(1, b"stranger"), session_id(2, NONCE), bytes(16)):
        assert is_error(cluster.send(other, 1), SessionExpired)
    assert cluster.machine.calls == ["x"]


def test_a_registration_answers_with_the_index_and_the_limits() -> None:
    """S1: a client paces its numbers and its keep-alives by what it is told."""
    outcome = Cluster().entry(Kind.REGISTER, encode_registration(NONCE, LIMITS))
    assert outcome_of(outcome) == [1, 1000, 4, 100]


def test_a_registration_that_is_repeated_opens_another_session() -> None:
    """S1, sc-Q11: harmless, the unused one expires."""
    cluster = Cluster()
    first, second = cluster.register(), cluster.register()
    assert first != second
    assert (cluster.send(first, 1), cluster.send(second, 1)) == (1, 2)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", msgspec.msgpack.encode([b"short"]), msgspec.msgpack.encode([NONCE, [0]])],
)
def test_a_registration_that_says_nothing_is_refused_on_every_server_alike(payload: bytes) -> None:
    cluster = Cluster()
    assert is_error(outcome_of(cluster.entry(Kind.REGISTER, payload)), BadCommand)
    assert len(cluster.replica.sessions) == 0
    assert cluster.send(cluster.register(), 1) == 1


@pytest.mark.parametrize("kind", [Kind.KEEP_ALIVE, Kind.CLOSE_SESSION])
@pytest.mark.parametrize(
    "payload", [b"\xc1", msgspec.msgpack.encode([b"short"]), b"\x01"], ids=["bad", "id", "int"]
)
def test_an_entry_that_names_no_sessions_is_refused(kind: Kind, payload: bytes) -> None:
    cluster = Cluster()
    session = cluster.register()
    assert is_error(outcome_of(cluster.entry(kind, payload)), BadCommand)
    assert cluster.send(session, 1) == 1


@pytest.mark.parametrize("size", [0, 1, 31])
def test_a_session_command_without_its_header_belongs_to_no_session(size: int) -> None:
    """S2: bytes that one server cannot read must not stop any."""
    cluster = Cluster()
    session = cluster.register()
    payload = (session + bytes(16))[:size]
    assert is_error(outcome_of(cluster.entry(Kind.SESSION_COMMAND, payload)), SessionExpired)
    # The bytes of the next record must not be taken for the rest of the header.
    first = encode(3, 1, 0, Kind.SESSION_COMMAND, payload)
    second = encode(4, 1, 0, Kind.SESSION_COMMAND, SESSION_HEADER.pack(1, NONCE, 9, 0) + b"\x01")
    cluster.replica.apply(first + second, deadline=float("inf"))
    assert cluster.machine.calls == [1]


def test_a_keep_alive_names_a_bounded_number_of_sessions() -> None:
    ids = [session_id(number, NONCE) for number in range(SESSION_IDS_LIMIT + 1)]
    assert decode_sessions(encode_sessions(ids[:-1])) == ids[:-1]
    with pytest.raises(BadRecord, match="no sessions"):
        decode_sessions(encode_sessions(ids))


# Commands.


def test_a_number_that_was_executed_is_answered_from_memory() -> None:
    """S2, sc-Q2: a copy of a command has the first one's answer and no effect."""
    cluster = Cluster()
    session = cluster.register()
    answers = [cluster.send(session, number) for number in (1, 2, 1, 2, 3, 1)]
    assert answers == [1, 2, 1, 2, 3, 1]
    assert len(cluster.machine.calls) == 3


def test_copies_within_one_batch_and_one_slice_are_executed_once() -> None:
    """S2: the check is at apply, never only at propose."""
    cluster = Cluster()
    session = cluster.register()
    payloads = session_payloads(session, 1, 1, [b"\x01", b"\x02"]) * 3
    records = encode_commands(2, 1, 0, payloads, Kind.SESSION_COMMAND)
    applied = cluster.replica.apply(records, 0, 2, 8, deadline=float("inf"))
    assert applied.results == applied.results[:2] * 3
    assert len(cluster.machine.calls) == 2


@pytest.mark.parametrize(
    ("command", "error"),
    [("refuse", CommandError), ("fail", CommandFailed)],
)
def test_a_refusal_is_a_result_that_is_kept(command: str, error: type[RaftError]) -> None:
    """S6: a command that was refused is not tried again by its copy."""
    cluster = Cluster()
    session = cluster.register()
    first, second = cluster.send(session, 1, command), cluster.send(session, 1, command)
    assert is_error(first, error)
    assert str(first) == str(second)
    assert cluster.machine.calls == [command]


def test_a_command_that_cannot_be_decoded_is_a_kept_refusal_too() -> None:
    """S6."""
    cluster = Cluster()
    session = cluster.register()
    for _ in range(2):
        (payload,) = session_payloads(session, 1, 0, [b"\xc1"])
        assert is_error(outcome_of(cluster.entry(Kind.SESSION_COMMAND, payload)), BadCommand)
    assert cluster.send(session, 1, "another text") is not None
    assert cluster.machine.calls == []


def test_below_the_low_mark_results_are_forgotten_and_numbers_are_stale() -> None:
    """S2: below it the client has its answers, by its own word; nothing is executed."""
    cluster = Cluster()
    session = cluster.register()
    for number in (1, 2, 3):
        cluster.send(session, number)
    assert cluster.send(session, 4, low_mark=3) == 4
    kept = cluster.replica.sessions.get(session)
    assert kept is not None
    assert sorted(kept.results) == [3, 4]
    for number in (0, 1, 2):
        assert is_error(cluster.send(session, number), StaleSequence)
    assert cluster.send(session, 3) == 3
    assert len(cluster.machine.calls) == 4


def test_a_low_mark_never_falls() -> None:
    """S2: an old copy carries an old mark."""
    cluster = Cluster()
    session = cluster.register()
    cluster.send(session, 5, low_mark=5)
    assert cluster.send(session, 5, low_mark=1) == 1
    assert is_error(cluster.send(session, 4, low_mark=1), StaleSequence)


def test_a_command_that_says_of_itself_that_it_was_answered_is_stale() -> None:
    """S2, S9: a cancelled number counts as answered."""
    cluster = Cluster()
    session = cluster.register()
    assert is_error(cluster.send(session, 1, low_mark=2), StaleSequence)
    assert cluster.send(session, 2, low_mark=2) == 1


def test_a_mark_may_leap_by_any_number() -> None:
    cluster = Cluster()
    session = cluster.register()
    cluster.send(session, 7)
    cluster.send(session, 2**63)
    assert cluster.send(session, 2**64 - 1, low_mark=2**63) == 3
    kept = cluster.replica.sessions.get(session)
    assert kept is not None
    assert sorted(kept.results) == [2**63, 2**64 - 1]
    assert kept.size_bytes == 2


def test_numbers_in_any_order_take_effect_once_each() -> None:
    """S9: the order is the leader's affair; being right is the replica's."""
    cluster = Cluster(SessionLimits())
    session = cluster.register()
    numbers = [number for number in range(1, 40) for _ in range(3)]
    random.Random(7).shuffle(numbers)
    answers: dict[int, Value] = {}
    for number in numbers:
        assert cluster.send(session, number, number) == answers.setdefault(
            number, [len(answers) + 1, b"x" * number]
        )
    assert sorted(cluster.machine.calls) == list(range(1, 40))  # type: ignore[type-var]


def test_a_leader_knows_behind_which_number_a_session_goes_on() -> None:
    """S9: what is applied, or passed by the low mark, is behind; an ended session has no order."""
    cluster = Cluster()
    session = cluster.register()
    replica = cluster.replica

    def applied_end() -> int:
        assert copied(replica).sessions.applied_end(session, replica.last_applied) == (
            replica.sessions.applied_end(session, replica.last_applied)
        )
        return replica.sessions.applied_end(session, replica.last_applied)

    assert applied_end() == 0
    for number in range(1, 10):
        cluster.send(session, number)
        assert applied_end() == number + 1
    # A copy moves nothing; a low mark does, and forgets the results.
    cluster.send(session, 7)
    assert applied_end() == 10
    cluster.send(session, 9, low_mark=20)
    assert applied_end() == 20
    cluster.close(session)
    assert applied_end() > 1 << 62
    assert replica.sessions.applied_end(session_id(10**6, NONCE), replica.last_applied) == 0


def test_the_sessions_used_since_are_those_and_no_others() -> None:
    """S5: what a durable machine has written already is not written again."""
    sessions = Sessions(lambda *_: None)
    orders = []
    for index in range(1, 5):
        sessions.register(index, NONCE, 0, None)
        orders.append(sessions.newest_order)
    sessions.touch(session_id(1, NONCE), 0)
    used = [each.id for each in sessions.used_since(orders[2])]
    assert used == [session_id(1, NONCE), session_id(4, NONCE)]


@pytest.mark.parametrize("slices", [[b"\xc1"], [msgspec.msgpack.encode(LIMITS), b"\xc1"]])
def test_sessions_of_a_snapshot_that_cannot_be_read_stop_the_node(slices: list[bytes]) -> None:
    """S4: they are named as what is damaged, whichever part it is."""
    with pytest.raises(StateMachineFailed, match="sessions cannot be read"):
        Sessions(lambda *_: None).restore(slices)


def test_a_view_that_nobody_holds_closes_itself() -> None:
    """N2: what a snapshot that was forgotten would have read is not copied for it."""
    sessions = Sessions(lambda *_: None)
    session = sessions.register(1, NONCE, 0, None)
    view = sessions.view()
    copy = sessions.touch(session.id, 0)
    assert copy is not session
    del view
    forgotten = sessions.view()
    del forgotten
    assert sessions.touch(session.id, 0) is copy


def test_of_a_session_that_ended_with_the_last_entry_any_number_may_be_applied() -> None:
    """S2: one that is opened behind it has none yet."""
    sessions = Sessions(lambda *_: None)
    assert sessions.applied_end(session_id(5, NONCE), 5) > 1 << 62
    assert sessions.applied_end(session_id(6, NONCE), 5) == 0


def test_what_a_caller_may_conclude_stands_in_the_errors_branch() -> None:
    """S2: that nothing was executed now says nothing of an earlier copy."""
    assert issubclass(StaleSequence, OutcomeUnknown)
    assert issubclass(ResultDropped, OutcomeUnknown)


def test_a_failure_of_this_node_alone_is_no_result() -> None:
    """S6: who stops in the middle of a command applies it again after the restart."""
    cluster = Cluster()
    session = cluster.register()
    with pytest.raises(StateMachineFailed):
        cluster.send(session, 1, "disk")
    kept = cluster.replica.sessions.get(session)
    assert kept is not None
    assert not kept.results
    assert cluster.replica.last_applied == 1


# Bounds.


def test_more_results_than_are_kept_drop_the_lowest_and_never_execute_them_again() -> None:
    """S2: the bound costs a result, never the exactly-once."""
    cluster = Cluster()
    session = cluster.register()
    for number in range(1, 7):
        cluster.send(session, number, low_mark=1)
    for number in (1, 2):
        assert is_error(cluster.send(session, number, low_mark=1), ResultDropped)
    assert [cluster.send(session, number) for number in (3, 4, 5, 6)] == [3, 4, 5, 6]
    assert is_error(cluster.send(session, 0), StaleSequence)
    assert len(cluster.machine.calls) == 6


def test_a_low_mark_below_what_was_dropped_brings_no_number_back() -> None:
    """S2: else a copy of a number whose result was dropped would be executed again."""
    cluster = Cluster()
    session = cluster.register()
    for number in range(1, 9):
        cluster.send(session, number, low_mark=1)
    for number in (2, 3, 4):
        assert is_error(cluster.send(session, number, low_mark=2), ResultDropped)
    assert len(cluster.machine.calls) == 8


def test_the_bytes_of_results_are_bounded() -> None:
    """S2."""
    cluster = Cluster()
    session = cluster.register()
    # Each result has four bytes besides the text: together these are exactly the bound.
    assert cluster.send(session, 0, 42) == [1, b"x" * 42]
    assert cluster.send(session, 1, 50) == [2, b"x" * 50]
    assert cluster.send(session, 0, 42) == [1, b"x" * 42]
    # Nor is more dropped than must be: without the first these are the bound again.
    assert cluster.send(session, 2, 42) == [3, b"x" * 42]
    assert is_error(cluster.send(session, 0, 42), ResultDropped)
    assert cluster.send(session, 1, 50) == [2, b"x" * 50]
    assert cluster.send(session, 3, 60) == [4, b"x" * 60]
    assert is_error(cluster.send(session, 2, 42), ResultDropped)
    # One that is larger than the bound is answered, and not kept at all.
    assert cluster.send(session, 4, 200) == [5, b"x" * 200]
    assert is_error(cluster.send(session, 4, 200), ResultDropped)
    kept = cluster.replica.sessions.get(session)
    assert kept is not None
    assert (kept.results, kept.size_bytes) == ({}, 0)
    assert len(cluster.machine.calls) == 5


def test_a_dropped_number_that_the_client_passes_becomes_stale() -> None:
    cluster = Cluster()
    session = cluster.register()
    for number in range(1, 7):
        cluster.send(session, number, low_mark=1)
    cluster.send(session, 7, low_mark=2)
    assert is_error(cluster.send(session, 1), StaleSequence)
    assert is_error(cluster.send(session, 2), ResultDropped)


def test_results_with_gaps_between_their_numbers_are_dropped_lowest_first() -> None:
    cluster = Cluster()
    session = cluster.register()
    for number in (100, 20, 70, 2**40, 3):
        cluster.send(session, number)
    kept = cluster.replica.sessions.get(session)
    assert kept is not None
    assert sorted(kept.results) == [20, 70, 100, 2**40]
    assert kept.kept_from == 4


def test_the_one_unused_for_longest_makes_room() -> None:
    """S3, sc-O5: by the order of the log."""
    cluster = Cluster()
    one, two, three = cluster.register(), cluster.register(), cluster.register()
    cluster.send(one, 1)
    cluster.keep_alive(two)
    cluster.register()
    assert is_error(cluster.send(three, 1), SessionExpired)
    cluster.register()
    assert is_error(cluster.send(one, 1), SessionExpired)
    assert cluster.send(two, 1) == 2
    assert cluster.replica.sessions.evicted_count == 2


def test_a_command_that_was_executed_in_a_session_that_ended_is_not_executed_again() -> None:
    """S2, sc-Q3: the replica cannot know about first tries; it refuses all the same."""
    cluster = Cluster()
    session = cluster.register()
    cluster.send(session, 1)
    assert cluster.close(session, session) == [True, False]
    assert is_error(cluster.send(session, 1), SessionExpired)
    assert cluster.machine.calls == ["x"]


def test_each_command_renews_its_session_however_they_are_cut_into_slices() -> None:
    """S3: else servers that apply the same entries in other slices would forget at others."""
    cluster = Cluster()
    session, other = cluster.register(), cluster.register(NONCE[::-1])
    for number in range(1, 6):
        cluster.time_us += 7
        cluster.send(session, number)
    cluster.send(other, 1)
    at_once = Replica(Tally())
    at_once.apply(b"".join(cluster.log))
    assert state(at_once) == state(cluster.replica)
    found = at_once.sessions.get(session)
    assert found is not None
    assert found.touched_us == 35


def test_a_session_expires_by_the_clusters_time_alone() -> None:
    """S3, sc-Q4, sc-K13: one microsecond beyond the timeout, on every server at the same entry."""
    for late, alive in ((1000, True), (1001, False)):
        cluster = Cluster()
        session = cluster.register()
        cluster.time_us = late
        assert (cluster.send(session, 1) == 1) is alive
        assert cluster.replica.sessions.expired_count == (not alive)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_session_expires_whatever_was_there_before_it(resumed: bool) -> None:
    """S3, S4: also the first one, and one that comes from a snapshot."""
    cluster = Cluster()
    cluster.time_us = 5000
    session = cluster.register()
    if resumed:
        cluster.replica = copied(cluster.replica)
    cluster.time_us = 6001
    assert is_error(cluster.send(session, 1), SessionExpired)


def test_time_that_seems_to_run_backwards_expires_nothing() -> None:
    """S3."""
    cluster = Cluster()
    cluster.time_us = 5000
    cluster.entry(Kind.NO_OP, b"")
    cluster.time_us = 0
    session = cluster.register()
    assert cluster.replica.last_time_us == 5000
    assert cluster.send(session, 1) == 1
    cluster.time_us = 6000
    assert cluster.send(session, 2) == 2


def test_a_keep_alive_renews_and_tells_which_are_gone() -> None:
    """S3: idle clients send keep-alive entries."""
    cluster = Cluster()
    idle, gone = cluster.register(), cluster.register()
    for cluster.time_us in (900, 1800, 2700):
        assert cluster.keep_alive(idle, session_id(99, NONCE)) == [True, False]
    assert cluster.keep_alive(gone, idle) == [False, True]
    assert cluster.send(idle, 1) == 1


def test_the_limits_are_those_of_the_newest_registration() -> None:
    """S3: limits in the log are the same everywhere, whatever each node's file says."""
    cluster = Cluster(None)
    old = cluster.register()
    assert cluster.replica.sessions.limits == SessionLimits()
    cluster.time_us = 5_000
    assert cluster.send(old, 1) == 1
    cluster.limits = LIMITS
    cluster.time_us = 9_000
    new = cluster.register()
    assert is_error(cluster.send(old, 2), SessionExpired)
    cluster.limits = None
    cluster.register()
    assert cluster.replica.sessions.limits == LIMITS
    assert cluster.send(new, 1) == 2


def test_fewer_sessions_by_a_new_limit_end_the_oldest_at_once() -> None:
    cluster = Cluster(SessionLimits())
    sessions = [cluster.register() for _ in range(10)]
    cluster.limits = LIMITS
    last = cluster.register()
    assert [each.id for each in cluster.replica.sessions] == [*sessions[-2:], last]


def test_that_sessions_make_room_is_told_but_not_each_time() -> None:
    """S3: warn at eviction."""
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    now = [0.0]
    try:
        cluster = Cluster()
        cluster.replica = Replica(cluster.machine, clock=lambda: now[0])
        for now[0] in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 70.0):
            cluster.register()
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert [(event["log_level"].name, event["count"]) for event in events] == [
        ("warn", 1),
        ("warn", 3),
    ]


# Digests and snapshots.


def test_the_digest_covers_ends_and_results() -> None:
    """S4: servers that forget at different entries, or keep other results, are told apart."""
    digests = set()
    for limits in (LIMITS, SessionLimits(timeout_us=1, sessions=3, results=4)):
        cluster = Cluster()
        cluster.register()
        # As if this server had other limits than the log says.
        cluster.replica.sessions.limits = limits
        cluster.replica.sessions._due_us = 0
        cluster.time_us = 10
        cluster.keep_alive(session_id(7, NONCE))
        digests.add(cluster.replica.digest)
    for calls in ([], ["more"]):
        cluster = Cluster()
        cluster.machine.calls += calls
        cluster.send(cluster.register(), 1)
        digests.add(cluster.replica.digest)
    assert len(digests) == 4


def test_sessions_are_part_of_snapshots() -> None:
    """S4, N1, sc-S11: a copy of a command behind the snapshot is answered from memory."""
    cluster = Cluster()
    one, two = cluster.register(), cluster.register(b"other one"[:8])
    for number in range(1, 7):
        cluster.send(one, number, "refuse" if number == 5 else number, low_mark=1)
    cluster.send(two, 9, "nothing", low_mark=8)
    copy = copied(cluster.replica)
    assert state(copy) == state(cluster.replica)
    assert copy.digest == cluster.replica.digest
    original, cluster.replica = cluster.replica, copy
    calls = len(cluster.machine.calls)
    assert is_error(cluster.send(one, 1), ResultDropped)
    assert is_error(cluster.send(one, 5), CommandError)
    assert is_error(cluster.send(two, 7), StaleSequence)
    assert cluster.send(two, 9) is None
    assert len(copy.query(PLAIN.encode("calls"))[1]) > 0
    assert copy.machine.calls == cluster.machine.calls  # type: ignore[attr-defined]
    assert len(cluster.machine.calls) == calls
    original.apply(b"".join(cluster.log[-4:]))
    assert original.digest == copy.digest
    assert state(original) == state(copy)


def test_a_snapshot_shows_nothing_of_what_is_applied_while_it_is_read() -> None:
    """S4, N2."""
    cluster = Cluster(SessionLimits(sessions=50))
    sessions = [cluster.register(b"%08d" % number) for number in range(20)]
    for session in sessions:
        cluster.send(session, 1, 30_000)
    before = state(copied(cluster.replica))
    meta, chunks = cluster.replica.snapshot()
    content = [next(chunks), next(chunks)]
    for session in sessions[::2]:
        cluster.send(session, 2, 5, low_mark=2)
        cluster.send(session, 3, 5, low_mark=2)
    content.append(next(chunks))
    cluster.close(sessions[1], sessions[3])
    cluster.register()
    cluster.keep_alive(*sessions[5:7])
    content += chunks
    copy = Replica(Tally())
    copy.restore(meta, content)
    assert state(copy) == before
    assert len(copy.sessions) == 20
    # What was applied meanwhile gives the copy the same state as the original.
    copy.apply(b"".join(cluster.log[copy.last_applied :]), deadline=float("inf"))
    assert state(copy) == state(cluster.replica)
    assert copy.digest == cluster.replica.digest


@pytest.mark.parametrize("begun", [False, True])
def test_a_snapshot_that_is_given_up_costs_no_more_copies(begun: bool) -> None:
    cluster = Cluster()
    session = cluster.register()
    _, chunks = cluster.replica.snapshot()
    if begun:
        next(chunks), next(chunks)
    held = cluster.replica.sessions.get(session)
    cluster.send(session, 1)
    assert cluster.replica.sessions.get(session) is not held
    held = cluster.replica.sessions.get(session)
    cluster.send(session, 2)
    assert cluster.replica.sessions.get(session) is held
    _, more = cluster.replica.snapshot()
    chunks.close()  # type: ignore[attr-defined]
    more.close()  # type: ignore[attr-defined]
    del chunks, more
    cluster.send(session, 3)
    assert cluster.replica.sessions.get(session) is held


def full(sessions: int, results: int, size: int) -> Sessions:
    table = Sessions(lambda reason, session: None, SessionLimits())
    table.load(
        Session(
            session_id(number, NONCE),
            number,
            results=dict.fromkeys(range(results), ("", b"x" * size)),
            size_bytes=results * size,
        )
        for number in range(sessions)
    )
    return table


@pytest.mark.parametrize(
    ("sessions", "results", "size"), [(10_000, 0, 0), (200, 1000, 9), (20, 1000, 1048)]
)
def test_a_snapshot_of_many_sessions_is_made_in_slices(
    sessions: int, results: int, size: int
) -> None:
    """S4, N2: none of them holds more than one session beyond the bounds of a slice."""
    table = full(sessions, results, size)
    slices = list(table.view())
    largest = SLICE_BYTES + results * (size + 20) + 2000 * 40
    assert max(map(len, slices)) <= largest
    assert len(slices) > sessions * (1 + results) / 4000
    copy = Sessions(lambda reason, session: None)
    copy.restore(slices)
    assert [each.results for each in copy] == [each.results for each in table]
    assert [each.id for each in copy] == [each.id for each in table]


def test_taking_a_view_of_ten_thousand_sessions_copies_no_session() -> None:
    """S4, N2: the cost of the first moment, against that of the whole."""
    table = full(10_000, 3, 10)
    began = thread_time()
    view = table.view()
    taken = thread_time() - began
    began = thread_time()
    pieces = list(view)
    assert taken < (thread_time() - began) / 2
    assert len(pieces) > 10


def test_a_replica_without_sessions_writes_snapshots_as_before() -> None:
    replica = Replica(Tally())
    replica.apply(encode_commands(1, 1, 0, [b"\x01"]))
    content = unwrap(replica.snapshot()[1])
    assert content.header.sections == []
    cluster = Cluster()
    session = cluster.register()
    cluster.close(session)
    # No session is left, but the limits are those of the log.
    assert copied(cluster.replica).sessions.limits == LIMITS


def test_sections_come_back_wherever_the_borders_of_chunks_are() -> None:
    header = Header(1, 2, sections=[("one", 1), ("two", 2)])
    sections = ([b"a", b"b" * (3 << 20), b"c"], [])
    content = b"".join(wrap(header, [b"machine", b"bytes"], sections))
    assert max(map(len, wrap(header, [b"x" * (2 << 20)], sections))) <= CHUNK_BYTES
    known = frozenset({("one", 1), ("two", 2)})
    for size in (1 << 10, 1 << 20, len(content)):
        pieces = (content[at : at + size] for at in range(0, len(content), size))
        read = unwrap(pieces, known)
        assert list(read.section()) == sections[0]
        assert list(read.section()) == []
        assert b"".join(read.rest()) == b"machinebytes"
    tiny = b"".join(wrap(header, [b"m"], ([b"ab"], [b"c"])))
    read = unwrap((tiny[at : at + 1] for at in range(len(tiny))), known)
    assert [list(read.section()), list(read.section()), b"".join(read.rest())] == [
        [b"ab"],
        [b"c"],
        b"m",
    ]


def test_a_section_that_is_given_up_is_closed() -> None:
    closed: list[str] = []

    class Pieces:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"x", b"y"])

        def close(self) -> None:
            closed.append("section")

    pieces = Pieces()
    chunks = wrap(Header(0, 0, sections=[("one", 1)]), [], [pieces])
    next(chunks), next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert closed == ["section"]


@pytest.mark.parametrize("sections", [[("sessions", 2)], [("sessions", 1)] * 2, [("more", 1)]])
def test_sections_of_a_later_release_are_refused(sections: list[tuple[str, int]]) -> None:
    cluster = Cluster()
    cluster.register()
    meta, _ = cluster.replica.snapshot()
    content = wrap(Header(0, 0, sections=sections), [], [[] for _ in sections])
    with pytest.raises(StateMachineFailed, match="a later release wrote it"):
        Replica(Tally()).restore(meta, content)


def test_damaged_sessions_stop_the_node() -> None:
    cluster = Cluster()
    cluster.send(cluster.register(), 1)
    meta, chunks = cluster.replica.snapshot()
    head, limits, sessions, *_ = chunks
    for damaged in (
        [head, limits],
        [head, limits, sessions[:-1]],
        [head, limits, b"\x01\0\0\0\xc1", b"\0\0\0\0"],
        [head, b"\x01\0\0\0\xc1", b"\0\0\0\0"],
    ):
        replica = Replica(Tally())
        with pytest.raises(StateMachineFailed):
            replica.restore(meta, damaged)
        with pytest.raises(StateMachineFailed):
            replica.apply(cluster.log[0])


def test_a_restore_replaces_the_sessions_that_were_there() -> None:
    """N6: reset machine, sessions and configuration together."""
    cluster = Cluster()
    cluster.register()
    plain = Replica(Tally())
    plain.apply(encode_commands(1, 1, 0, [b"\x01", b"\x02"]), deadline=float("inf"))
    meta, chunks = plain.snapshot()
    cluster.replica.restore(meta, chunks)
    assert len(cluster.replica.sessions) == 0
    assert cluster.replica.sessions.limits == SessionLimits()


# Forms.


def test_the_records_of_sessions_are_laid_out_as_documented() -> None:
    """Golden: what one release wrote into a log, all later ones read."""
    session = session_id(0x0102, NONCE)
    assert session.hex() == "0201000000000000" + NONCE.hex()
    assert encode_registration(NONCE).hex() == "91c408" + NONCE.hex()
    assert encode_registration(NONCE, LIMITS).hex() == "92c408" + NONCE.hex() + "94cd03e8030464"
    assert encode_sessions([session]).hex() == "91c410" + session.hex()
    (payload,) = session_payloads(session, 5, 3, [b"command"])
    assert payload == session + b"\x05" + bytes(7) + b"\x03" + bytes(7) + b"command"
    assert SESSION_HEADER.unpack_from(payload) == (0x0102, NONCE, 5, 3)
    assert [kind.value for kind in Kind][3:7] == [3, 4, 5, 6]
    assert decode_registration(encode_registration(NONCE, LIMITS)).limits == LIMITS


def test_a_snapshots_section_is_laid_out_as_documented() -> None:
    """Golden."""
    table = full(0, 0, 0)
    table.limits = LIMITS
    table.load(
        [Session(session_id(1, NONCE), 7, 1, 2, {2: ("", b"\x01"), 3: ("REFUSED", b"\x80")}, 2)]
    )
    pieces = list(table.view())
    assert [piece.hex() for piece in pieces] == [
        "94cd03e8030464",
        "9195c4100100000000000000" + NONCE.hex() + "07010292"
        "9302a0c40101" + "9303a7" + b"REFUSED".hex() + "c40180",
    ]


def test_the_kinds_of_sessions_travel_and_unknown_ones_do_not() -> None:
    """L3, sc-U4."""
    for kind in (Kind.REGISTER, Kind.SESSION_COMMAND, Kind.KEEP_ALIVE, Kind.CLOSE_SESSION):
        assert summarise(encode(1, 1, 0, kind, b"")).end == 2
    for number in (100, 127, 128, 255):
        with pytest.raises(BadRecord, match="does not travel"):
            summarise(encode(1, 1, 0, number, b""))
