"""What could not be answered in its time is refused at once, and never because of a pause."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from raft.admission import FREE_BYTES, LONG_SECONDS, PAUSE_SECONDS, Admission
from raft.client.batches import FULL_BYTES
from raft.errors import Overloaded
from tests.client_bench import Bench, leading

MIB = 1 << 20


def loaded(bytes_per_second: float = 1000 * 1024) -> Admission:
    """Return one that has answered without a pause, and learnt a rate at time 1."""
    admission = Admission()
    for tenth in range(11):
        admission.progressed(tenth / 10)
    admission.learn(int(bytes_per_second), 0.0, 1.0)
    return admission


def test_at_the_beginning_nobody_is_refused() -> None:
    assert Admission().refusal(100 * MIB, 0.001) is None


def test_who_would_wait_for_more_than_half_of_its_time_is_refused() -> None:
    admission = loaded(MIB)
    assert admission.refusal(int(1.49 * MIB), 3.0) is None
    error = admission.refusal(int(1.51 * MIB), 3.0)
    assert isinstance(error, Overloaded)
    assert "1.5 s" in str(error)
    assert admission.refused_count == 1
    # Who has more time may wait for longer.
    assert admission.refusal(int(1.51 * MIB), 4.0) is None


def test_behind_little_nobody_is_refused() -> None:
    admission = loaded(1.0)
    assert admission.refusal(FREE_BYTES, 3.0) is None
    assert admission.refusal(FREE_BYTES + 1, 3.0) is not None


def test_a_short_wait_says_that_there_is_no_overload() -> None:
    admission = loaded(MIB)
    admission.progressed(1.1)
    admission.learn(100, 1.1 - 0.9 * LONG_SECONDS, 1.1)
    assert not admission.is_known
    assert admission.refusal(100 * MIB, 3.0) is None


def test_what_waited_through_a_pause_changes_nothing() -> None:
    """A new leader works as fast as the old one did: its election is no part of the rate."""
    admission = loaded(MIB)
    rate = admission.bytes_per_second
    end = 1.0 + 3 * PAUSE_SECONDS
    admission.progressed(end)
    admission.learn(100, 1.0, end)
    assert admission.bytes_per_second == rate
    # What came afterwards tells of it again.
    for step in range(1, 11):
        admission.progressed(end + step / 10)
    admission.learn(MIB // 2, end, end + 1.0)
    assert admission.bytes_per_second == MIB // 2


def test_the_first_answers_after_an_idle_time_tell_nothing() -> None:
    admission = Admission()
    admission.progressed(10.0)
    admission.learn(100, 9.0, 10.0)
    assert not admission.is_known


def test_what_was_learnt_can_be_forgotten() -> None:
    admission = loaded(1.0)
    admission.forget()
    assert admission.refusal(100 * MIB, 3.0) is None


# -- In the client -------------------------------------------------------------------------


def box(bench: Bench) -> Deferred[object]:
    return bench.client.write("x" * FULL_BYTES)


def under_load(boxes: int, answered: int, seconds: float) -> Bench:
    """Return a client of whose boxes one is answered every so many seconds.

    What is sent stays in full boxes; what has to wait for these gathers in larger ones.
    """
    bench = leading()
    bench.client.write("first")
    bench.turn()
    bench["n1"].asked[-1].answer(None)
    begin = len(bench["n1"].asked)
    for _ in range(boxes):
        box(bench).addErrback(lambda _: None)
    for number in range(answered):
        bench.turn(seconds)
        asked = bench["n1"].asked[begin + number]
        asked.answer(*[None] * len(asked.items))
    return bench


def test_a_client_refuses_what_could_not_be_answered_in_time_and_sends_nothing_of_it() -> None:
    bench = under_load(boxes=40, answered=5, seconds=0.1)
    sent = len(bench["n1"].asked)
    refused: list[object] = []
    box(bench).addErrback(lambda failure: refused.append(failure.value))
    bench.turn()
    assert [type(each) for each in refused] == [Overloaded]
    assert len(bench["n1"].asked) == sent


def test_a_client_takes_more_once_there_is_time_for_it() -> None:
    bench = under_load(boxes=30, answered=17, seconds=0.1)
    sent = len(bench["n1"].asked)
    box(bench).addErrback(lambda _: None)
    bench.turn()
    assert len(bench["n1"].asked) == sent + 1


def test_a_client_that_waited_for_a_new_leader_refuses_nothing() -> None:
    bench = under_load(boxes=40, answered=5, seconds=2 * PAUSE_SECONDS)
    refused: list[object] = []
    box(bench).addErrback(lambda failure: refused.append(failure.value))
    bench.turn()
    assert not refused
