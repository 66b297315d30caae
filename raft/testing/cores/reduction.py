"""Makes a failing run as small as it will get: fewer acts, fewer servers, rounder numbers.

Each attempt plays the remaining acts, and is kept where the same rule is broken again. What then
has become impossible goes with it. The result reads as a story, and as a test.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

from attrs import define, evolve, field, fields

from raft.core.server import Options, Server
from raft.testing.cores.acts import Act, Scenario, recaused
from raft.testing.cores.playing import failure_of
from raft.testing.cores.simulator import Failure
from raft.testing.cores.swarm import Swarm
from raft.testing.shrinking import Budget, ddmin

KEPT_FIELDS = frozenset({"seed", "options", "session_limits"})
_CALM = {attribute.name: attribute.default for attribute in fields(Swarm)}


@define(eq=False)
class Reduction:
    """A failing scenario on its way to the smallest one."""

    scenario: Scenario
    original: Failure
    """What is to be seen again, in fewer acts."""
    server_class: type[Server] = Server
    budget: Budget = field(factory=Budget)
    failure: Failure | None = None
    """How the smallest scenario fails."""
    tries: int = 0

    def attempt(self, scenario: Scenario) -> bool:
        """Play a smaller scenario; take it where it breaks the same rule."""
        if not self.budget.spend():
            return False
        return self._taken(scenario)

    def _taken(self, scenario: Scenario) -> bool:
        self.tries += 1
        failure, performed = failure_of(scenario, self.server_class)
        if failure is None or failure.kind != self.original.kind:
            return False
        self.scenario, self.failure = evolve(scenario, acts=tuple(performed)), failure
        return True

    def _with_acts(self, acts: Iterable[Act]) -> bool:
        return self.attempt(evolve(self.scenario, acts=tuple(acts)))

    def _with_world(self, **changes: Any) -> bool:
        return self.attempt(evolve(self.scenario, world=evolve(self.scenario.world, **changes)))

    def _with_option(self, name: str, value: Any) -> bool:
        options = self.scenario.world.options
        changes: dict[str, Any] = {name: value}
        return getattr(options, name) != value and self._with_world(
            options=evolve(options, **changes)
        )

    def run(self) -> Scenario:
        """Shrink until nothing more can be left out, or the budget ends."""
        if not self._begin():
            return self.scenario
        self._loosen()
        for name in ("turns", "syncs"):
            self._leave_out_groups()
            self._leave_out_acts()
            self._fold(name)
        self._calm_the_world()
        before = -1
        while before != len(self.scenario.acts) and self.budget.spend():
            before = len(self.scenario.acts)
            self._loosen()
            self._leave_out_servers()
            self._begin_at_once()
            self._leave_out_acts()
            self._leave_out_windows()
            self._fold("syncs")
        self._calm_the_world()
        self._lower()
        self._forget_chance()
        self.scenario = self.scenario.renumbered()
        return self.scenario

    def _begin(self) -> bool:
        """Play it as it is, or only until it was healed; tell whether it fails as it should."""
        acts = self.scenario.acts
        marks = [place for place, act in enumerate(acts) if act.verb == "heals"]
        if marks and self.original.rule.startswith("L"):
            whole = self.scenario
            for number in range(20):
                # What follows the healing is drawn anew: some draws may hide the failure.
                world = evolve(whole.world, seed=whole.world.seed + number)
                healed = Scenario(world, acts[: marks[0] + 1])
                if self._taken(healed):
                    return True
        if not self._taken(self.scenario):
            return False
        # Time that only passes as clocks need it leaves no gaps where something is left out.
        self._with_acts(evolve(act, moment=0.0) for act in self.scenario.acts)
        return True

    def _leave_out_groups(self) -> None:
        """Leave out all of a kind: of a node, a verb, a verb of a node."""
        acts = self.scenario.acts
        actors, verbs = {act.actor for act in acts}, {act.verb for act in acts}
        for actor in sorted(actors - {"world"}):
            self._leave_out(lambda act, actor=actor: actor in (act.actor, *act.args[:1]))  # type: ignore[misc]
        for verb in sorted(verbs - {"heals"}):
            self._leave_out(lambda act, verb=verb: act.verb == verb)  # type: ignore[misc]

    def _leave_out(self, is_out: Callable[[Act], bool]) -> None:
        left = [act for act in self.scenario.acts if not is_out(act)]
        if len(left) < len(self.scenario.acts):
            self._with_acts(left)

    def _leave_out_acts(self) -> None:
        def fails(part: list[Act]) -> bool | list[Act]:
            if self._taken(evolve(self.scenario, acts=(*part, *ending))):
                left = self.scenario.acts
                return list(left[: len(left) - len(ending)])
            return False

        acts = self.scenario.acts
        ending = acts[-1:] if acts and acts[-1].verb == "heals" else ()
        ddmin(acts[: len(acts) - len(ending)], fails, self.budget)

    def _leave_out_windows(self) -> None:
        """Leave out what stands together: a whole election, or all that one leader achieved."""
        size = len(self.scenario.acts) // 2
        while size > 1:
            start = len(self.scenario.acts) - size
            while start >= 0:
                acts = self.scenario.acts
                end = min(start + size, len(acts) - (acts[-1].verb == "heals"))
                if not self._with_acts(acts[:start] + acts[end:]):
                    start -= max(1, size // 4)
                else:
                    start = min(start, len(self.scenario.acts) - size)
            size = size * 3 // 4

    def _loosen(self) -> None:
        """Do without what ends a leadership, or hinders one: fewer messages tell the same."""
        for name in ("check_quorum", "pre_vote"):
            self._with_option(name, False)

    def _fold(self, name: str) -> None:
        """Let a turn, or a save, be done within the act before it that befalls the same node."""
        for act in reversed(self.scenario.acts):
            if act.verb != name:
                continue
            acts = self.scenario.acts
            place = next((i for i, each in enumerate(acts) if each.number == act.number), None)
            before = [i for i in range(place or 0) if acts[i].actor == act.actor]
            if place is None or not before:
                continue
            host = acts[before[-1]]
            notes = {**host.notes, name: True}
            dice = [*host.notes.get("dice", []), *act.notes.get("dice", [])]
            if dice:
                notes["dice"] = dice
            folded = [
                evolve(each, notes=notes) if each is host else each
                for each in acts
                if each is not acts[place]
            ]
            self._with_acts(recaused(each, {act.number: host.number}) for each in folded)
        if name == "turns" and self.scenario.world.turn_seconds:
            self._with_world(turn_seconds=0.0)

    def _calm_the_world(self) -> None:
        """Give back to the world, one after the other, what a calm one is like."""
        harmless = {
            name: each
            for name, each in _CALM.items()
            if name not in KEPT_FIELDS | {"voters", "learners", "spares"}
        }
        healed = bool(self.scenario.acts) and self.scenario.acts[-1].verb == "heals"
        if not healed and self._with_world(**harmless):
            harmless = {}
        for name, usual in harmless.items():
            if getattr(self.scenario.world, name) != usual:
                self._with_world(**{name: usual})
        for attribute in fields(Options):
            if attribute.name not in ("pre_vote", "check_quorum"):
                self._with_option(attribute.name, attribute.default)
        for name in ("spares", "learners"):
            while (count := getattr(self.scenario.world, name)) and self._with_world(
                **{name: count - 1}
            ):
                pass

    def _leave_out_servers(self) -> None:
        """Have fewer voters, without those to whom least happens."""
        while self.scenario.world.voters > 1:
            world = self.scenario.world
            names = [f"n{number}" for number in range(1, world.voters + 1)]
            if world.learners or world.spares:
                # Their names come after the voters'.
                return
            busy = {
                name: sum(name in _names_in(each) for each in self.scenario.acts) for name in names
            }
            smaller = evolve(world, voters=world.voters - 1)
            for name in sorted(names, key=lambda each: busy[each])[:2]:
                swapped = {name: names[-1], names[-1]: name}
                acts = [_renamed(act, swapped) for act in self.scenario.acts]
                acts = [act for act in acts if names[-1] not in _names_in(act)]
                if self.attempt(evolve(self.scenario, acts=tuple(acts), world=smaller)):
                    break
            else:
                return

    def _begin_at_once(self) -> None:
        """Let all servers run from the beginning."""
        starts: dict[str, Act] = {}
        for act in self.scenario.acts:
            if act.verb == "starts":
                starts.setdefault(act.actor, act)
        first = {act.number for act in starts.values()}
        acts = tuple(act for act in self.scenario.acts if act.number not in first)
        self._with_acts(acts)

    def _lower(self) -> None:
        """Write less, and less often; let everything happen as early as it can."""
        if not self._with_acts(evolve(act, moment=0.0) for act in self.scenario.acts):
            for act in self.scenario.acts:
                for moment in (0.0, round(act.moment, 1), round(act.moment, 3)):
                    if self._changed(act.number, lambda each, to=moment: evolve(each, moment=to)):  # type: ignore[misc]
                        break
        for act in self.scenario.acts:
            if act.verb == "writes" and act.args != (1, 40):
                self._changed(act.number, lambda each: evolve(each, args=(1, 40)))
            if act.verb == "syncs" and act.args != (1,):
                self._changed(act.number, lambda each: evolve(each, args=(1,)))

    def _changed(self, number: int, change: Callable[[Act], Act]) -> bool:
        acts = [change(act) if act.number == number else act for act in self.scenario.acts]
        return tuple(acts) != self.scenario.acts and self._with_acts(acts)

    def _forget_chance(self) -> None:
        """Leave out what chance decided, where nothing depends on it."""
        for name in ("dice", "reading", "rate", "late", "damaged", "syncs", "turns"):
            noted = [act for act in self.scenario.acts if name in act.notes]
            if noted and self._with_acts(_without(act, name) for act in self.scenario.acts):
                continue
            for act in noted:
                self._changed(act.number, lambda each, gone=name: _without(each, gone))  # type: ignore[misc]


def _without(act: Act, name: str) -> Act:
    return evolve(act, notes={key: each for key, each in act.notes.items() if key != name})


_NODE = re.compile(r"\bn\d+\b")


def _names_in(act: Act) -> set[str]:
    return {act.actor, *_NODE.findall(" ".join(str(each) for each in act.args))}


def _renamed(act: Act, names: dict[str, str]) -> Act:
    def renamed(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return _NODE.sub(lambda found: names.get(found[0], found[0]), value)

    notes = {key: renamed(each) for key, each in act.notes.items()}
    return Act(
        act.number,
        act.moment,
        renamed(act.actor),
        act.verb,
        tuple(map(renamed, act.args)),
        notes,
    )


def shrink(
    scenario: Scenario,
    failure: Failure,
    server_class: type[Server] = Server,
    budget: Budget | None = None,
) -> Reduction:
    """Return a smaller scenario that breaks the same rule, with how it does.

    Args:
        scenario: What fails when it is played.
        failure: How it fails.
        server_class: The core under test.
        budget: How much may be tried; a minute where nothing is said.
    """
    reduction = Reduction(scenario, failure, server_class, budget or Budget())
    reduction.run()
    return reduction


def as_test(reduction: Reduction, seed: int) -> str:
    """Return the text of a test that fails for as long as the rule is broken."""
    failure = reduction.failure or reduction.original
    reason = " ".join(failure.reason.split())
    name = re.sub(r"\W", "_", failure.rule.lower())
    story = textwrap.indent(str(reduction.scenario), "        ").rstrip()
    told = textwrap.wrap(f"{failure.rule}: {reason} (seed {seed}).", 90)
    docstring = "\n    ".join(each.replace("\\", "/").replace('"', "'") for each in told)
    return f'''from raft.testing.cores.playing import play


def test_{name}_holds_in_what_seed_{seed}_told() -> None:
    """{docstring}"""
    play(
        """
{story}
        """
    )
'''
