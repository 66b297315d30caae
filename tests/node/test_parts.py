"""A client's box in parts: each command has its own outcome, in its own place."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from raft.codec import Codec
from raft.errors import CommandTooLarge, NotLeader, OutcomeUnknown, Overloaded
from raft.node import parts
from raft.node.desk import places_of
from raft.node.parts import Gathering, checked, outcome_of, parts_of
from raft.numbering import SessionCall


def gather(refused: dict[int, Any], results: list[Any], sizes: list[int]) -> Any:
    answers: list[Any] = []
    gathering = Gathering(answers.append, refused)
    takers = [gathering.part(size) for size in sizes]
    for take, result in list(zip(takers, results, strict=True))[::-1]:
        assert not answers
        take(result)
    (answer,) = answers
    return answer


@given(st.lists(st.integers(0, 40).map(bytes), min_size=1))
def test_parts_are_the_payloads_in_order_and_within_the_bound(payloads: list[bytes]) -> None:
    limit, parts.PART_BYTES = parts.PART_BYTES, 64
    try:
        found = list(parts_of(payloads))
    finally:
        parts.PART_BYTES = limit
    assert [each for part in found for each in part] == payloads
    assert all(part and (len(part) == 1 or sum(map(len, part)) <= 64) for part in found)


def test_one_bad_command_does_not_refuse_its_neighbours() -> None:
    accepted, refused = checked([b"\xc0", bytes(99), b"\xc2"], Codec(limit_bytes=50).check)
    assert accepted == [b"\xc0", b"\xc2"]
    assert list(refused) == [1]
    code, facts = refused[1]
    assert code == CommandTooLarge.code
    assert msgspec.msgpack.decode(facts)["limit_bytes"] == 50


def test_outcomes_keep_their_places_whatever_part_is_answered_first() -> None:
    answer = gather({1: ("X", b"x")}, [[("", b"0"), ("", b"2")], [("", b"3")]], [2, 1])
    assert answer == [("", b"0"), ("X", b"x"), ("", b"2"), ("", b"3")]


def test_a_redirect_of_all_parts_is_the_answer_of_the_whole() -> None:
    error = NotLeader("b", "tcp:h:1")
    assert gather({}, [error, NotLeader("b", "tcp:h:1")], [1, 2]) is error


def test_parts_that_failed_otherwise_keep_their_own_errors() -> None:
    """What may be in the log was called definitely not applied, with the error of another part."""
    found = gather({}, [Overloaded(), OutcomeUnknown()], [1, 2])
    assert [code for code, _ in found] == ["OVERLOADED", "OUTCOME_UNKNOWN", "OUTCOME_UNKNOWN"]


def test_a_part_that_failed_alone_fails_each_of_its_commands() -> None:
    error = Overloaded()
    answer = gather({}, [[("", b"0")], error], [1, 2])
    assert answer == [("", b"0"), outcome_of(error), outcome_of(error)]


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=20))
def test_the_parts_of_a_sessions_box_have_all_of_its_numbers_between_them(
    commands: list[tuple[int, bool]],
) -> None:
    """S9: also those of commands that are refused, or what follows would come early."""
    session = SessionCall(bytes(16), 7, 5)
    refused = {at: ("X", b"") for at, (_, bad) in enumerate(commands) if bad}
    good = [at for at in range(len(commands)) if at not in refused]
    limit, parts.PART_BYTES = parts.PART_BYTES, 64
    try:
        cut = list(parts_of([b"%03d" % at + bytes(commands[at][0]) for at in good]))
    finally:
        parts.PART_BYTES = limit
    places = list(places_of(cut, len(commands), refused, session))
    assert [places[0].first, places[-1].end] == [7, 7 + len(commands)]
    assert [place.end for place in places[:-1]] == [place.first for place in places[1:]]
    for part, place in zip(cut, places, strict=True):
        numbers = [7 + int(payload[:3]) for payload in part]
        assert set(numbers) <= set(range(place.first, place.end))
        assert place.whole == (numbers == list(range(place.first, place.end)))
