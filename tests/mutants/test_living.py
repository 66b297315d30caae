"""What puts mutants in place, and what makes them, does what it says."""

from __future__ import annotations

import pytest

from raft.core.configuration import Configuration, Member
from raft.storage.records import BadRecord
from tests.mutants.living import graft, source_of
from tests.mutants.mutation import answers, bench, tell
from tests.mutants.mutators import Mutant, mutants_of

SOURCE = '''
"""A module."""

def bounded(index, end):
    """Say whether an index is below its end."""
    if index < 0:
        raise ValueError("an index is 0 or more")
    return index < end and not end == 7

class Kept:
    def forget(self):
        self.value = None
        self.clear()
'''


def changes(source: str = SOURCE) -> list[Mutant]:
    return list(mutants_of("module", source))


def test_each_place_is_changed_in_its_ways() -> None:
    told = [f"{each.function}: {each.before} -> {each.after}" for each in changes()]
    assert told == [
        "bounded: index < 0 -> index <= 0",
        "bounded: index < 0 -> not index < 0",
        "bounded: 0 -> 1",
        "bounded: raise ValueError('an index is 0 or more') -> pass",
        "bounded: index < end and (not end == 7) -> not end == 7",
        "bounded: index < end and (not end == 7) -> index < end",
        "bounded: index < end and (not end == 7) -> index < end or not end == 7",
        "bounded: index < end -> index <= end",
        "bounded: index < end -> not index < end",
        "bounded: not end == 7 -> end == 7",
        "bounded: end == 7 -> end != 7",
        "bounded: 7 -> 8",
        "Kept.forget: self.value = None -> pass",
        "Kept.forget: self.clear() -> pass",
    ]


def test_each_mutant_is_one_change_of_its_own() -> None:
    sources = [each.source for each in changes()]
    assert len({*sources, SOURCE}) == len(sources) + 1


def test_a_name_lasts_where_lines_move() -> None:
    """Results of an earlier run hold for what has not changed since."""
    moved = [each.name for each in changes("\n\nfirst = 1\n" + SOURCE)]
    assert moved == [each.name for each in changes()]


def test_what_stops_a_server_is_known_as_a_safety_check() -> None:
    safe = {each.before for each in changes() if each.is_safety_check}
    assert safe == {"index < 0", "0", "raise ValueError('an index is 0 or more')"}


def test_a_graft_changes_what_lives_and_can_be_taken_back() -> None:
    module = "raft.core.configuration"
    right = source_of(module)
    wrong = right.replace("len(half & names) > len(half) // 2", "True")
    try:
        assert graft(module, wrong) == 1
        assert Configuration().majority(()) is True
    finally:
        assert graft(module, right) == 1
    assert Configuration().majority(()) is False


def test_what_a_class_with_slots_keeps_of_a_cached_property_is_reached() -> None:
    module = "raft.core.configuration"
    right = source_of(module)
    wrong = right.replace("(self.voters, self.outgoing) if self.outgoing else", "(self.ids,) or")
    try:
        assert graft(module, wrong) == 1
        learner = Configuration((Member("a", voter=False),))
        assert learner.halves == (frozenset("a"),)
    finally:
        assert graft(module, right) == 1
    assert Configuration((Member("a", voter=False),)).halves == (frozenset(),)


def test_a_call_of_the_base_class_can_be_left_out() -> None:
    """Python refuses code in the place of other code that knows its class, unless it does too."""
    module = "raft.storage.records"
    right = source_of(module)
    (mutant,) = [each for each in mutants_of(module, right) if each.before.startswith("super()")]
    try:
        assert graft(module, mutant.source) == 1
        assert "at byte" not in str(BadRecord(3, "wrong"))
    finally:
        assert graft(module, right) == 1
    assert str(BadRecord(3, "wrong")) == "wrong at byte 3"


@pytest.mark.slow
def test_a_bench_tells_what_was_killed_what_lived_and_what_was_no_order() -> None:
    test = "tests/core/test_configuration.py::test_a_majority_is_more_than_half_of_each_half"
    module = "raft.core.configuration"
    right = source_of(module)
    wrong = right.replace("len(half & names) > len(half) // 2", "True")
    orders = [
        {"name": "right", "tests": [test]},
        {"name": "wrong", "tests": [test], "module": module, "source": wrong},
        {"name": "same", "tests": [test], "module": module, "source": right},
        {"name": "none", "tests": ["tests/core/test_configuration.py::test_nothing"]},
    ]
    told = _served(["tests/core/test_configuration.py"], orders)
    assert told["right"] == ("", "")
    assert told["wrong"] == (test, "")
    assert told["same"] == ("", "the change changes no function")
    assert told["none"][1].startswith("there is no test")


def _served(arguments: list[str], orders: list[dict[str, object]]) -> dict[str, tuple[str, str]]:
    process = bench(arguments, children=2)
    for order in orders:
        tell(process, order)
    if process.stdin is not None:
        process.stdin.close()
    told = {
        str(each["name"]): (str(each["killer"]), str(each["trouble"])) for each in answers(process)
    }
    process.wait()
    return told
