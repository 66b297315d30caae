"""A client sends no more than is answered soon; what waits for that is neither lost nor turned."""

from __future__ import annotations

from raft.client.batches import BOX_BYTES, FULL_BYTES
from raft.client.window import FIRST_BYTES, LEAST_BYTES, LONG_SECONDS, Window
from raft.errors import Overloaded, Timeout
from tests.client_bench import Asked, Bench, leading

KIB = 1 << 10


def passed(window: Window, size_bytes: int, begun: float, seconds: float) -> None:
    """One box passes with nothing else on its way."""
    window.ended(window.sent(size_bytes, begun), begun + seconds)


def test_it_is_full_while_as_much_is_on_its_way_as_may_be() -> None:
    window = Window()
    first = window.sent(FIRST_BYTES - 1, 0.0)
    assert not window.is_full
    second = window.sent(1, 0.0)
    assert window.is_full
    window.left(second)
    assert not window.is_full
    window.left(first)
    assert window.sent_bytes == 0
    assert window.limit_bytes == FIRST_BYTES


def test_a_single_larger_box_may_go_when_nothing_else_is_on_its_way() -> None:
    window = Window()
    assert not window.is_full
    window.sent(100 * FIRST_BYTES, 0.0)
    assert window.is_full


def test_it_doubles_when_all_of_it_is_answered_soon() -> None:
    window = Window()
    for _ in range(3):
        limit = window.limit_bytes
        sent = [window.sent(16 * KIB, 0.0) for _ in range(int(limit) // (16 * KIB))]
        assert window.is_full
        for passage in sent:
            window.ended(passage, 0.01)
        # The first half was sent while less than half was on its way: it says nothing.
        assert 1.4 * limit < window.limit_bytes <= 2 * limit


def test_one_that_is_not_made_use_of_does_not_grow() -> None:
    window = Window()
    for number in range(1000):
        passed(window, KIB, float(number), 0.001)
    assert window.limit_bytes == FIRST_BYTES


def test_it_shrinks_to_what_would_have_been_answered_soon() -> None:
    window = Window()
    passed(window, KIB, 0.0, 0.0)
    passed(window, 200 * KIB, 1.0, 2 * LONG_SECONDS)
    assert window.limit_bytes == 100 * KIB


def test_it_never_shrinks_below_the_least_nor_grows_by_a_late_answer() -> None:
    window = Window()
    passed(window, KIB, 0.0, 0.0)
    passed(window, 100 * FIRST_BYTES, 1.0, 1.5 * LONG_SECONDS)
    assert window.limit_bytes == FIRST_BYTES
    passed(window, KIB, 2.0, 1000.0)
    assert window.limit_bytes == LEAST_BYTES


def test_the_time_of_a_long_way_is_no_sign_of_a_queue() -> None:
    window = Window()
    way_seconds = 2.0
    passed(window, 200 * KIB, 0.0, way_seconds)
    passed(window, 200 * KIB, 3.0, way_seconds + LONG_SECONDS)
    assert window.limit_bytes > FIRST_BYTES


def test_what_is_refused_halves_what_was_on_its_way_down_to_the_least() -> None:
    window = Window()
    first = window.sent(60 * KIB, 0.0)
    second = window.sent(40 * KIB, 0.0)
    window.refused(second)
    assert (window.limit_bytes, window.sent_bytes) == (50 * KIB, 60 * KIB)
    window.refused(first)
    assert (window.limit_bytes, window.sent_bytes) == (30 * KIB, 0)
    window.refused(window.sent(KIB, 0.0))
    assert window.limit_bytes == LEAST_BYTES


# -- In the client -------------------------------------------------------------------------


def answer(asked: Asked) -> None:
    asked.answer(*[None] * len(asked.items))


def filled(bench: Bench, boxes: int, timeout: float = 3.0) -> list[object]:
    """Write so many full boxes of numbered commands; return what becomes of each."""
    outcomes: list[object] = [None] * boxes

    def note(place: int, outcome: object) -> None:
        outcomes[place] = outcome

    for place in range(boxes):
        command = f"{place:>{FULL_BYTES}}"
        bench.client.write(command, timeout=timeout).addCallbacks(
            lambda _, place=place: note(place, "ok"),
            lambda failure, place=place: note(place, failure.value),
        )
    bench.turn()
    return outcomes


def on_its_way(bench: Bench) -> int:
    return sum(len(item) for asked in bench["n1"].asked for item in asked.items)


def test_what_exceeds_the_window_is_sent_once_there_is_room_and_in_its_order() -> None:
    bench = leading()
    outcomes = filled(bench, boxes=40)
    assert FIRST_BYTES <= on_its_way(bench) <= FIRST_BYTES + BOX_BYTES
    for asked in bench["n1"].asked:
        answer(asked)
        bench.turn()
    assert outcomes == ["ok"] * 40
    sent = [int(item) for asked in bench["n1"].asked for item in asked.items]
    assert sent == list(range(40))


def test_what_is_never_answered_lets_no_more_than_the_least_follow() -> None:
    bench = leading()
    outcomes = filled(bench, boxes=16, timeout=2.0)
    bench.turn(2.5)
    assert all(isinstance(each, Timeout) for each in outcomes)
    sent = on_its_way(bench)
    filled(bench, boxes=16)
    assert LEAST_BYTES <= on_its_way(bench) - sent <= 2 * LEAST_BYTES


def test_a_refusal_because_of_overload_lets_less_follow() -> None:
    """Whether the last of a batch is refused or all of it, and whether numbered or not."""
    for sessions in (False, True):
        bench = leading(sessions=sessions)
        filled(bench, boxes=2)
        first, second = bench["n1"].asked[-2:]
        window = bench.client._writes.window
        first.refuse(Overloaded("too many"))
        bench.turn()
        assert LEAST_BYTES <= window.limit_bytes <= FULL_BYTES + KIB
        window.limit_bytes = FIRST_BYTES
        answers = [None] * (len(second.items) - 1)
        second.answer(*answers, Overloaded("too many"))
        bench.turn()
        assert window.limit_bytes <= FULL_BYTES + KIB
        assert window.sent_bytes == 0


def test_what_waits_for_room_counts_as_standing_before_those_that_come_later() -> None:
    """A window only moves the queue here: what could not be answered in time is refused."""
    bench = leading()
    bench.client.write("first")
    bench.turn()
    answer(bench["n1"].asked[-1])
    filled(bench, boxes=60)
    for asked in bench["n1"].asked[1:6]:
        bench.turn(0.1)
        answer(asked)
    (outcome,) = filled(bench, boxes=1)
    assert isinstance(outcome, Overloaded)


def test_a_session_keeps_its_numbers_in_order_across_the_window() -> None:
    bench = leading(sessions=True)
    outcomes = filled(bench, boxes=40)
    assert on_its_way(bench) <= FIRST_BYTES + BOX_BYTES
    for asked in bench["n1"].asked:
        answer(asked)
        bench.turn()
    assert outcomes == ["ok"] * 40
    numbers = [number for asked in bench["n1"].asked for number in asked.numbers]
    assert numbers == list(range(numbers[0], numbers[0] + 40))


def test_a_lost_connection_leaves_nothing_on_its_way() -> None:
    for sessions in (False, True):
        bench = leading(sessions=sessions)
        filled(bench, boxes=16)
        window = bench.client._writes.window
        assert window.is_full
        bench["n1"].stop()
        bench.turn(0.1)
        assert window.sent_bytes == 0
