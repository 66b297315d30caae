"""Each watcher speaks: the promise that it is for is broken before it, and it names the rule.

`test_planted_bugs` asks that any rule notices what a broken core does. A watcher that is switched
off is missed here alone, which `tests/mutants` proves of each place where one speaks.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from raft.core.configuration import Configuration, Member
from raft.core.outputs import HardState, Role
from raft.errors import SessionExpired
from raft.testing.cores.disk import Entry
from raft.testing.cores.ghost import Violation
from raft.testing.cores.once import Once
from raft.testing.small.rules import Ghost, Step
from raft.testing.small.situations import Disk, View
from tests.mutants.watches import WATCHERS, watches
from tests.simulation.broken_promises import BROKEN, Run

TRIO = Configuration((Member("a"), Member("b"), Member("c")))
LOG: tuple[Entry, ...] = ((1, TRIO, 1), (1, 7, 1))


@pytest.mark.parametrize("place", BROKEN)
def test_a_watcher_of_the_simulator_speaks(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """I1 to I22: of its own rule, and of what it saw."""
    reason, broken = BROKEN[place]
    run = Run.begin(monkeypatch)
    with pytest.raises(Violation, match=re.escape(reason) or None) as caught:
        broken(run)
    assert caught.value.rule == place.split()[1]


def executed(operation: int = 1, index: int = 5) -> Once:
    """Return the monitor after an operation was executed and answered."""
    once = Once()
    once.executed(operation, index)
    once.applied("n1", index, operation, ("", b"one"))
    return once


def forbidden() -> Once:
    once = Once()
    once.forbid(1)
    return once


ONCE: dict[str, tuple[str, Callable[[], object]]] = {
    "Once.executed I16": ("at 5 and at 6", lambda: executed().executed(1, 6)),
    "Once.executed I17": ("after a clear no", lambda: forbidden().executed(1, 5)),
    "Once.applied I16": ("another", lambda: executed().applied("n2", 5, 1, ("", b"two"))),
    "Once.applied I16 (2)": ("never executed", lambda: Once().applied("n1", 5, 1, ("", b"one"))),
    "Once.applied I16 (3)": ("before", lambda: executed().applied("n1", 6, 1, ("", b"two"))),
    "Once.forbid I17": ("is denied", lambda: executed().forbid(1)),
}


@pytest.mark.parametrize("place", ONCE)
def test_the_watcher_of_sessions_speaks(place: str) -> None:
    """I16, I17: of a command that counts twice, or after its client was told that it does not."""
    reason, broken = ONCE[place]
    with pytest.raises(Violation, match=reason) as caught:
        broken()
    assert caught.value.rule == place.split()[1]


def test_a_copy_that_is_answered_from_memory_is_no_second_execution() -> None:
    once = executed()
    once.applied("n1", 6, 1, ("", b"one"))
    once.applied("n1", 7, 1, (SessionExpired.code, b""))
    assert once.copies == 1


def view(id: str, role: Role = Role.FOLLOWER, **changes: object) -> View:
    """Return a server of term 1 that holds both entries, and has committed them."""
    fields: dict[str, object] = {
        "term": 1,
        "commit_index": 2,
        "log": LOG,
        "disk": Disk(HardState(1, "a"), LOG),
        "votes": ((1, "a"),),
        "match": (),
        "waiting_writes": 0,
        "campaigns": True,
        "applied": 2,
        "snapshot_index": 0,
        "configuration": TRIO,
    }
    return View(id=id, role=role, **{**fields, **changes})


def step(before: View, after: View, *, restarted: bool = False, **others: View) -> Step:
    """Return a step of `a`; `b` and `c` are well, but for `others`."""
    views = (after, others.get("b", view("b")), others.get("c", view("c")))
    return Step(before, after, views, restarted)


GHOST = Ghost(((1, "a"),), LOG, (1, 1))
OTHER: tuple[Entry, ...] = (LOG[0], (1, 8, 1))
SHORT = Disk(HardState(1, "a"), LOG[:1])
LEADER = view("a", Role.LEADER)
ELECTED = (view("a", Role.CANDIDATE), LEADER)
BEHIND = view("a", Role.LEADER, commit_index=1)
LACKS = {"b": view("b", disk=SHORT), "c": view("c", disk=SHORT)}

RULES: dict[str, tuple[str, Callable[[], object]]] = {
    "Step.answer I18": (
        "answers a read from 1, not 2",
        lambda: step(LEADER, LEADER).answer(Ghost(reads=((4, 2),)), [(4, 1)]),
    ),
    "Step._elected I1": (
        "both lead term 1",
        lambda: step(*ELECTED).judge(Ghost(((1, "b"),), LOG, (1, 1))),
    ),
    "Step._elected I15": (
        "leads term 1 by",
        lambda: step(*ELECTED, b=view("b", votes=()), c=view("c", votes=())).judge(GHOST),
    ),
    "Step._elected I6": (
        "committed is",
        lambda: step(*ELECTED).judge(Ghost((), OTHER, (0, 0))),
    ),
    "Step._committed I7": (
        "committed is",
        lambda: step(BEHIND, LEADER).judge(Ghost(((1, "a"),), OTHER, (1, 1))),
    ),
    "Step._counted I8": (
        "in term 2",
        lambda: step(
            view("a", Role.LEADER, term=2, commit_index=1), view("a", Role.LEADER, term=2)
        ).judge(Ghost(((2, "a"),))),
    ),
    "Step._counted I8 (2)": (
        "hold it of",
        lambda: step(BEHIND, LEADER, **LACKS).judge(Ghost(((1, "a"),), LOG[:1], (1,))),
    ),
    "Step._logs_match I5": (
        "a holds",
        lambda: step(
            view("a", log=LOG[:1], commit_index=1),
            view("a", commit_index=1, log=((1, TRIO, 1), (1, 7, 1), (2, 1, 1))),
            b=view("b", log=((1, TRIO, 1), (1, 8, 1), (2, 1, 1))),
        ).judge(Ghost()),
    ),
    "Step._kept I9": (
        "hold what is committed",
        lambda: step(view("a"), view("a"), **LACKS).judge(GHOST),
    ),
    "Step._matched I10": (
        "matches b to 2",
        lambda: step(
            *(2 * [view("a", Role.LEADER, match=(("b", 2),))]), b=view("b", disk=SHORT)
        ).judge(GHOST),
    ),
}


@pytest.mark.parametrize("place", RULES)
def test_a_rule_of_the_small_models_speaks(place: str) -> None:
    """I1, I5 to I10, I15, I18: what a search would have to meet first is put before it."""
    reason, broken = RULES[place]
    with pytest.raises(Violation, match=reason) as caught:
        broken()
    assert caught.value.rule == place.split()[1]


def test_a_step_in_which_all_is_well_is_no_violation() -> None:
    assert step(LEADER, LEADER).judge(GHOST) == GHOST
    assert step(*ELECTED).judge(GHOST) == GHOST
    assert step(BEHIND, LEADER).judge(GHOST) == GHOST


def test_each_place_where_a_watcher_speaks_is_known() -> None:
    """One that is added later is put to the test as well."""
    places = [each.place for module in WATCHERS for each in watches(module)]
    assert sorted(places) == sorted([*BROKEN, *ONCE, *RULES])
