"""A search through all states of a small world, breadth first.

A state is a tuple of numbers: of each server's situation, of the history, of what may still
happen, and of the messages on their way. What a server makes of an event is computed once by the
real core (`raft.testing.small.reactions`), so most steps are a look into a table.

Two states are one where they differ only in names (`raft.testing.small.symmetry`), or in messages
that can do nothing any more: of earlier terms, for a receiver on whom they were tried in vain.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator

from attrs import Factory, define, evolve, field, frozen

from raft.core.messages import RequestVoteResult
from raft.core.outputs import HardState, Role
from raft.testing.cores.disk import NO_OP, Entry
from raft.testing.cores.ghost import Violation
from raft.testing.small.bounds import Bounds, Model
from raft.testing.small.reactions import Reactions
from raft.testing.small.rules import Ghost, Step
from raft.testing.small.server import SmallServer
from raft.testing.small.situations import ENTRY_BYTES, Act, Disk, Reaction, recovered
from raft.testing.small.story import Taken, came_of_it, happening
from raft.testing.small.symmetry import Order, Symmetry

State = tuple[tuple[int, ...], int, int, tuple[int, ...]]
"""The servers' situations, the history, what may still happen, and the messages on their way."""

_ASKED = frozenset({"propose", "read", "change", "transfer"})


@frozen
class Counterexample:
    """A shortest way to a broken promise."""

    violation: Violation
    story: str

    def __str__(self) -> str:
        """Return the story, and how it ends."""
        return f"{self.story}\n{self.violation}"


@frozen
class Explored:
    """What a search saw. `complete` says that nothing was left within the bounds."""

    model: Model
    states: int
    steps: int
    depth: int
    situations: int
    messages: int
    seconds: float
    """Of one processor."""
    complete: bool
    counterexample: Counterexample | None = None

    def __str__(self) -> str:
        """Return a line of numbers."""
        end = "all" if self.complete else "not all"
        return (
            f"{self.model.name}: {self.states} states ({end}), {self.steps} steps, depth "
            f"{self.depth}, {self.situations} situations of a server, {self.messages} messages, "
            f"{self.seconds:.1f} s, {self.states / max(self.seconds, 1e-9):,.0f} states a second"
        )


class _Broken(Exception):
    """A step broke a promise."""

    def __init__(self, parent: int, taken: Taken, violation: Violation) -> None:
        self.parent, self.taken, self.violation = parent, taken, violation
        super().__init__()


@define(eq=False)
class Search:
    """A search under way."""

    model: Model
    reactions: Reactions = field(init=False)
    steps: int = 0
    depth: int = 0
    _start: State = field(init=False)
    _seen: set[State] = Factory(set)
    _symmetry: Symmetry | None = None
    _orders: list[Order] = Factory(list)
    """In which order the servers of each state stand, seen from the step that reached it."""
    _renamed_ghosts: dict[tuple[int, Order], int] = Factory(dict)
    _useless: dict[tuple[int, int, int], bool] = Factory(dict)
    _judgements: dict[tuple[int, ...], int] = Factory(dict)
    _senders: list[int] = Factory(list)
    _parents: array[int] = field(factory=lambda: array("q"))
    _takes: list[int] = Factory(list)
    _acts: dict[Act, int] = Factory(dict)
    _act_list: list[Act] = Factory(list)
    _known: dict[tuple[int, int, bool], Reaction | None] = Factory(dict)
    _ghosts: list[Ghost] = Factory(list)
    _ghost_numbers: dict[Ghost, int] = Factory(dict)
    _bounds: list[Bounds] = Factory(list)
    _bound_numbers: dict[Bounds, int] = Factory(dict)
    _spent: dict[tuple[int, str], int] = Factory(dict)
    _receivers: list[int] = Factory(list)
    _takings: dict[Taken, int] = Factory(dict)
    _taking_list: list[Taken] = Factory(list)
    _parent: int = 0
    _fresh: list[tuple[int, State]] = Factory(list)

    def __attrs_post_init__(self) -> None:
        """Set the world up."""
        model = self.model
        self.reactions = Reactions(model.options, model.targets)
        if model.is_symmetric:
            self._symmetry = Symmetry(model.servers, self.reactions)
        first: Entry = (1, model.configuration, ENTRY_BYTES)
        past = model.past or ((),) * len(model.servers)
        begun = max([1, *(term for terms in past for term in terms)])
        situations = []
        for id, terms in zip(model.servers, past, strict=True):
            disk = Disk(HardState(), ())
            if model.configuration.member(id) is not None:
                rest = tuple((term, NO_OP, ENTRY_BYTES) for term in terms)
                disk = Disk(HardState(begun), (first, *rest))
            server = recovered(id, disk, model.options, 1, 0.0)
            small = SmallServer(server, disk.log, disk, [], [], {}, 0, 1)
            situations.append(self.reactions.enter(small))
        ghost = self._ghost(Ghost(committed=(first,), commit_terms=(1,)))
        self._start = (tuple(situations), ghost, self._bound(model.bounds), ())

    # Numbers for values

    def _ghost(self, ghost: Ghost) -> int:
        number = self._ghost_numbers.setdefault(ghost, len(self._ghosts))
        if number == len(self._ghosts):
            self._ghosts.append(ghost)
        return number

    def _bound(self, bounds: Bounds) -> int:
        number = self._bound_numbers.setdefault(bounds, len(self._bounds))
        if number == len(self._bounds):
            self._bounds.append(bounds)
        return number

    def _less(self, number: int, name: str) -> int:
        """Return the bounds in which `name` happens once less often."""
        key = (number, name)
        if key not in self._spent:
            bounds = self._bounds[number]
            less = evolve(bounds, **{name: getattr(bounds, name) - 1})
            self._spent[key] = self._bound(less)
        return self._spent[key]

    def _code(self, act: Act) -> int:
        number = self._acts.setdefault(act, len(self._act_list))
        if number == len(self._act_list):
            self._act_list.append(act)
        return -1 - number

    def _act(self, code: int) -> Act:
        if code < 0:
            return self._act_list[-1 - code]
        return Act("letter", letter=self.reactions.letters[code])

    def _receiver(self, letter: int) -> int:
        letters, servers = self.reactions.letters, self.model.servers
        while len(self._receivers) <= letter:
            each = letters[len(self._receivers)]
            self._receivers.append(servers.index(each.receiver))
            self._senders.append(servers.index(each.sender))
        return self._receivers[letter]

    # The search

    def run(self, seconds: float | None = None, states: int | None = None) -> Explored:
        """Visit everything; stop early after so many seconds or states."""
        begun = time.process_time()
        end = None if seconds is None else time.monotonic() + seconds
        self._seen.add(self._start)
        self._parents.append(-1)
        self._takes.append(-1)
        self._orders.append(())
        frontier = [(0, self._start)]
        counterexample, complete = None, True
        try:
            while frontier:
                self._fresh = []
                for count, (number, state) in enumerate(frontier):
                    self._parent = number
                    self._visit(state)
                    if count % 256 == 0 and end is not None and time.monotonic() > end:
                        complete = False
                        break
                if states is not None and len(self._seen) > states:
                    complete = False
                if not complete:
                    break
                frontier = self._fresh
                self.depth += bool(frontier)
        except _Broken as broken:
            story = "\n".join(self._told(broken))
            counterexample, complete = Counterexample(broken.violation, story), False
        return Explored(
            self.model,
            len(self._seen),
            self.steps,
            self.depth,
            len(self.reactions.views),
            len(self.reactions.letters),
            time.process_time() - begun,
            complete,
            counterexample,
        )

    def _visit(self, state: State) -> None:
        situations, _, bound, letters = state
        bounds = self._bounds[bound]
        for letter in letters:
            at = self._receiver(letter)
            rest = tuple(other for other in letters if other != letter)
            self._take(state, at, letter, rest, bound, again=False)
            if bounds.duplicates:
                self._take(state, at, letter, letters, self._less(bound, "duplicates"), again=True)
        for at, situation in enumerate(situations):
            for act, name in self._possible(situation, bounds):
                left = self._less(bound, name) if name else bound
                self._take(state, at, self._code(act), letters, left, again=False)

    def _possible(self, situation: int, bounds: Bounds) -> Iterator[tuple[Act, str]]:
        """Yield what may happen to a server beside messages, and which bound pays for it."""
        view = self.reactions.views[situation]
        leads = view.role is Role.LEADER
        whole = self.model.bounds
        if leads:
            if bounds.beats:
                yield Act("time"), "beats"
            if bounds.proposals:
                yield Act("propose", whole.proposals - bounds.proposals + 1), "proposals"
            if bounds.changes:
                yield Act("change", whole.changes - bounds.changes), "changes"
            if bounds.transfers:
                yield Act("transfer"), "transfers"
        elif bounds.campaigns and view.campaigns and view.term <= self.model.max_term:
            yield Act("time"), "campaigns"
        if bounds.reads:
            yield Act("read", whole.reads - bounds.reads + 1), "reads"
        if view.waiting_writes:
            yield Act("saved"), ""
        if bounds.compactions and view.applied > max(1, view.snapshot_index):
            yield Act("compact"), "compactions"
        if bounds.crashes:
            for kept in range(view.waiting_writes + 1):
                yield Act("crash", kept), "crashes"

    def _react(self, situation: int, code: int, quick: bool) -> Reaction | None:
        key = (situation, code, quick)
        try:
            return self._known[key]
        except KeyError:
            pass
        act = self._act(code)
        reaction: Reaction | None = self.reactions.react(situation, act, quick=quick)
        if reaction is not None and self._is_beyond(situation, act, reaction):
            reaction = None
        self._known[key] = reaction
        return reaction

    def _is_beyond(self, situation: int, act: Act, reaction: Reaction) -> bool:
        term = self.reactions.views[reaction.situation].term
        refused = act.kind in _ASKED and not (reaction.accepted or reaction.confirmed)
        return (refused and situation == reaction.situation) or term > self.model.max_term

    def _take(
        self, state: State, at: int, code: int, rest: tuple[int, ...], bound: int, *, again: bool
    ) -> None:
        """Let something happen to the server `at`, with a disk that is quick, and a slow one."""
        situation = state[0][at]
        try:
            reaction = self._react(situation, code, False)
            if reaction is None:
                return
            if not reaction.saves or self._is_saved(code):
                self._reach(state, at, code, reaction, rest, bound, quick=False, again=again)
                return
            if self._bounds[bound].slow_saves:
                less = self._less(bound, "slow_saves")
                self._reach(state, at, code, reaction, rest, less, quick=False, again=again)
            reaction = self._react(situation, code, True)
            if reaction is not None:
                self._reach(state, at, code, reaction, rest, bound, quick=True, again=again)
        except Violation as violation:
            taken = Taken(at, code, True, again)
            raise _Broken(self._parent, taken, violation) from None

    def _is_saved(self, code: int) -> bool:
        return code < 0 and self._act_list[-1 - code].kind == "saved"

    def _reach(
        self,
        state: State,
        at: int,
        code: int,
        reaction: Reaction,
        rest: tuple[int, ...],
        bound: int,
        *,
        quick: bool,
        again: bool,
    ) -> None:
        self.steps += 1
        situations, ghost, _, _ = state
        before, after = situations[at], reaction.situation
        judged = self.reactions.judged
        if after != before:
            situations = (*situations[:at], after, *situations[at + 1 :])
        if reaction.confirmed or self._is_asking(code):
            ghost = self._judge(state, situations, at, code, reaction)
        elif judged[before] != judged[after]:
            key = (ghost, at, judged[before], *[judged[each] for each in situations])
            known = self._judgements.get(key)
            if known is None:
                known = self._judge(state, situations, at, code, reaction)
                self._judgements[key] = known
            ghost = known
        letters = self._useful(rest, reaction.sent, situations, at)
        reached, order = self._first_of_its_kind((situations, ghost, bound, letters))
        if reached in self._seen:
            return
        self._seen.add(reached)
        self._orders.append(order)
        number = len(self._parents)
        self._parents.append(self._parent)
        self._takes.append(self._taking(Taken(at, code, quick, again)))
        self._fresh.append((number, reached))

    def _useful(
        self, rest: tuple[int, ...], sent: tuple[int, ...], situations: tuple[int, ...], at: int
    ) -> tuple[int, ...]:
        """Return the letters that may still do anything, now that the server `at` has changed."""
        letters = []
        for letter in {*rest, *sent} if sent else rest:
            receiver = self._receiver(letter)
            sender = self._senders[letter]
            if receiver == at or sender == at:
                key = (letter, situations[receiver], situations[sender])
                useless = self._useless.get(key)
                if useless is None:
                    useless = self._useless[key] = self._is_useless(*key)
                if useless:
                    continue
            letters.append(letter)
        return tuple(sorted(letters)) if sent else tuple(letters)

    def _is_useless(self, letter: int, receiver: int, sender: int | None = None) -> bool:
        """Tell whether a letter is of the past, for ever: it changes nothing, and tells nobody.

        That it changes nothing is tried, not believed. What it is answered must be as useless.
        """
        view, message = self.reactions.views[receiver], self.reactions.letters[letter].message
        durable_term = view.disk.hard_state.current_term
        counted = isinstance(message, RequestVoteResult) and (
            not message.vote_granted or view.role is not Role.CANDIDATE
        )
        if message.term >= durable_term + counted:
            return False
        reaction = self._react(receiver, letter, False)
        return (
            reaction is not None
            and reaction.situation == receiver
            and not reaction.confirmed
            and (not reaction.sent or sender is not None)
            and all(
                sender is not None and self._is_useless(answer, sender) for answer in reaction.sent
            )
        )

    def _first_of_its_kind(self, state: State) -> tuple[State, Order]:
        """Return the state that stands for all that differ from this one only in names."""
        symmetry = self._symmetry
        if symmetry is None:
            return state, ()
        found: tuple[State, Order] | None = None
        situations, ghost, bound, letters = state
        for order in symmetry.orders(situations):
            other = (
                tuple(symmetry.situation(situations[old], order) for old in order),
                self._renamed_ghost(ghost, order),
                bound,
                tuple(sorted([symmetry.letter(letter, order) for letter in letters])),
            )
            if found is None or other < found[0]:
                found = other, order
        return found or (state, ())

    def _renamed_ghost(self, ghost: int, order: Order) -> int:
        number = self._renamed_ghosts.get((ghost, order))
        if number is None and self._symmetry is not None:
            number = self._ghost(self._symmetry.ghost(self._ghosts[ghost], order))
            self._renamed_ghosts[ghost, order] = number
        return ghost if number is None else number

    def _taking(self, taken: Taken) -> int:
        number = self._takings.setdefault(taken, len(self._taking_list))
        if number == len(self._taking_list):
            self._taking_list.append(taken)
        return number

    def _is_asking(self, code: int) -> bool:
        return code < 0 and self._act_list[-1 - code].kind in ("read", "crash")

    def _judge(
        self, state: State, situations: tuple[int, ...], at: int, code: int, reaction: Reaction
    ) -> int:
        views = self.reactions.views
        ghost = self._ghosts[state[1]]
        act = self._act(code)
        if act.kind == "read":
            ghost = evolve(ghost, reads=(*ghost.reads, (act.number, len(ghost.committed))))
        step = Step(
            views[state[0][at]],
            views[situations[at]],
            [views[each] for each in situations],
            act.kind == "crash",
        )
        ghost = step.judge(ghost)
        ghost = step.answer(ghost, reaction.confirmed)
        return self._ghost(ghost)

    # The story

    def _told(self, broken: _Broken) -> Iterator[str]:
        """Tell the way to the broken promise, each server under one name all along."""
        takes = [(broken.taken, broken.parent)]
        number = broken.parent
        while number > 0:
            takes.append((self._taking_list[self._takes[number]], self._parents[number]))
            number = self._parents[number]
        places: Order = tuple(range(len(self.model.servers)))
        situations = list(self._start[0])
        for count, (taken, parent) in enumerate(reversed(takes), 1):
            if parent > 0 and self._symmetry is not None:
                # Who stands here stood there before.
                places = tuple(places[old] for old in self._orders[parent])
            at = places[taken.server]
            act = self._act(self._original(taken.code, places))
            yield f"{count}. {self.model.servers[at]}: {happening(act, again=taken.again)}"
            try:
                reaction = self.reactions.react(situations[at], act, quick=taken.quick)
            except Violation:
                return
            situations[at] = reaction.situation
            sent = [self.reactions.letters[letter] for letter in reaction.sent]
            yield from came_of_it(self.reactions.views[reaction.situation], sent)

    def _original(self, code: int, places: Order) -> int:
        """Return the code of an act under the names with which the story began."""
        if code < 0 or self._symmetry is None:
            return code
        back = tuple(places.index(old) for old in range(len(places)))
        return self._symmetry.letter(code, back)
