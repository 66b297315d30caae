"""The search for an order that explains every result, for one key.

Operations are put in order only when a return forces it ("just in time"): what is still open
may take effect later, and unless something depends on it nothing is lost by waiting. A
*position* of the search is a return that stands next, the state, and two sets of open
operations, which are bit sets over *slots* (a slot is free again once its operation has
returned, so the sets stay as small as the concurrency):

- *available*: may still take effect;
- *owed*: available, and must take effect before its own return.

What is not available took effect already. An unknown outcome is available and never owed. Five
facts keep the search small, each a theorem about orders and none a guess:

1. What changes nothing and fits the state may stand here at once: any order with it later is an
   order with it here. So reads are never a choice.
2. A blind write hides other blind writes that are open: they may stand right before it, where
   nobody sees them. So they are owed no longer, but stay available. The same holds for one that
   writes what is there already.
3. What need not happen is only put in order where something that is open wants the state that
   it leaves: else it could be left out.
4. Of equal operations, the one that is owed first goes first.
5. A position with more available and the same owed is at least as good. So it is enough to
   remember the best ones.
6. Values that nothing can look for any more are all alike.
7. What somebody is still to find must not be lost: a value that is read later is either the state,
   or there is somebody left to write it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from enum import Enum

from raft.testing.checker.moves import ABSENT, UNREAD, Kind, Move, State, result_of


class Outcome(Enum):
    """What a search knows."""

    FOUND = 1
    NONE = 2
    OPEN = 3


Position = tuple[int, State, int, int]
"""(the return that stands next, the state, available, owed)."""


class Search:
    """The search over the moves of one key, which can be left and taken up again.

    Attributes:
        steps_taken: in the last `run`.
        furthest: the first return that no order got past; all before are explained together.
    """

    def __init__(self, moves: Sequence[Move], initial: State) -> None:
        self._moves = moves
        self._opened: list[list[int]] = []
        self._returns: list[int] = []
        self._bits = [0] * len(moves)
        self._arrange()
        self._new: list[int] = []
        self._new_owed: list[int] = []
        for opened in self._opened:
            new = new_owed = 0
            for each in opened:
                new |= self._bits[each]
                if moves[each].return_ns is not None:
                    new_owed |= self._bits[each]
            self._new.append(new)
            self._new_owed.append(new_owed)
        self._wanted_next = self._next_wants()
        self._looked_for: dict[State, float] = {}
        self._needed_until: dict[State, int] = {}
        self._written_until: dict[State, int] = {}
        self._has_general = any(each.kind >= Kind.GENERAL for each in moves)
        if not self._has_general:
            self._look_ahead()
        # What is open at the return `_at`: the move in each slot, and where moves of each kind
        # stand, as bit sets, by the state that they need or leave.
        self._at = -1
        self._in_slot: dict[int, int] = {}
        self._readers: dict[State, int] = {}
        self._unless: dict[State, int] = {}
        self._writers: dict[State, int] = {}
        self._needing: dict[State, int] = {}
        self._swaps_to: dict[State, int] = {}
        self._of_kind = [0] * (max(Kind) + 1)
        self._seen: dict[tuple[int, State, int], list[int]] = {}
        self._stack: list[Position] = []
        self.steps_taken = self.furthest = 0
        if self._returns:
            self._stack.append((0, initial, self._new[0], self._new_owed[0]))
        self._is_found = not self._returns

    def _look_ahead(self) -> None:
        """Note of each state how long it is looked for, and who is still to need or write it."""
        ends = {number: index for index, number in enumerate(self._returns)}
        looked_for, needed, written = self._looked_for, self._needed_until, self._written_until
        for index, opened in enumerate(self._opened):
            for number in opened:
                move = self._moves[number]
                kind = move.kind
                if kind is Kind.READ or kind is Kind.SWAP or kind is Kind.UNLESS:
                    end = ends.get(number, math.inf)
                    if end > looked_for.get(move.need, -1):
                        looked_for[move.need] = end
                    # Turns go up, so the last one stays.
                    if kind is not Kind.UNLESS and move.return_ns is not None:
                        needed[move.need] = index
                if kind is Kind.WRITE or kind is Kind.SWAP or kind is Kind.CLEAR:
                    written[ABSENT if kind is Kind.CLEAR else move.to] = index

    def _arrange(self) -> None:
        """Lay calls and returns out in time, and give each move a slot.

        Where times are equal, calls come first: the operations overlap, which forbids less.
        """
        moves = self._moves
        events = [(each.call_ns, 0, number) for number, each in enumerate(moves)]
        events += [
            (each.return_ns, 1, number)
            for number, each in enumerate(moves)
            if each.return_ns is not None
        ]
        events.sort()
        free: list[int] = []
        highest = 0
        opened: list[int] = []
        for _, is_return, number in events:
            if is_return:
                self._opened.append(opened)
                self._returns.append(number)
                opened = []
                free.append(self._bits[number])
            else:
                opened.append(number)
                if free:
                    self._bits[number] = free.pop()
                else:
                    self._bits[number] = 1 << highest
                    highest += 1

    def _next_wants(self) -> list[State]:
        """For each return: the state that the first later return of a read or swap needs."""
        wants: list[State] = [None] * len(self._returns)
        following: State = None
        for index in range(len(self._returns) - 1, -1, -1):
            wants[index] = following
            move = self._moves[self._returns[index]]
            if move.kind in (Kind.READ, Kind.SWAP):
                following = move.need
        return wants

    @property
    def blocked_ns(self) -> int | None:
        """When the first return ended that no order got past; None where all did."""
        if self.furthest >= len(self._returns):
            return None
        return self._moves[self._returns[self.furthest]].return_ns

    # -- What is open ----------------------------------------------------------------------

    def _toggle(self, number: int) -> None:
        """Open or close a move in the tables: which of the two, they know."""
        move, bit = self._moves[number], self._bits[number]
        kind = move.kind
        self._of_kind[kind] ^= bit
        if kind is Kind.READ:
            _flip(self._readers, move.need, bit)
        elif kind is Kind.WRITE:
            _flip(self._writers, move.to, bit)
        elif kind is Kind.SWAP:
            _flip(self._needing, move.need, bit)
            _flip(self._swaps_to, move.to, bit)
        elif kind is Kind.UNLESS:
            _flip(self._unless, move.need, bit)

    def _move_to(self, index: int) -> None:
        """Open what is open at return `index`, and nothing else."""
        in_slot, bits = self._in_slot, self._bits
        while self._at < index:
            if self._at >= 0:
                self._toggle(self._returns[self._at])
            self._at += 1
            for number in self._opened[self._at]:
                in_slot[bits[number]] = number
                self._toggle(number)
        while self._at > index:
            for number in self._opened[self._at]:
                self._toggle(number)
            self._at -= 1
            number = self._returns[self._at]
            in_slot[bits[number]] = number
            self._toggle(number)

    # -- The search ------------------------------------------------------------------------

    def run(self, steps: int) -> Outcome:
        """Search on for at most so many steps; OPEN if that was not enough."""
        stack, last = self._stack, len(self._returns)
        # A general move may look for any state (fact 6 says nothing then).
        always = math.inf if self._has_general else -1
        self.steps_taken = 0
        while stack and not self._is_found:
            if self.steps_taken >= steps:
                return Outcome.OPEN
            self.steps_taken += 1
            index, state, available, owed = stack.pop()
            if index > self.furthest:
                self.furthest = index
                if index == last:
                    self._is_found = True
                    break
            if state != ABSENT and self._looked_for.get(state, always) < index:
                state = UNREAD
            number = self._returns[index]
            if available == self._bits[number] == owed:
                # Alone, as most are where there are many keys: there is nothing to choose, and
                # the tables may stay behind.
                after = result_of(self._moves[number], state)
                if after is not None:
                    self._pass(index, after, 0, 0)
                continue
            if index != self._at:
                self._move_to(index)
            if owed:
                fitting = self._fitting(state, owed)
                available ^= fitting
                # A write of the state itself may have taken effect here, or may later.
                owed &= ~(fitting | self._writers.get(state, 0))
            if stack and self._is_no_better(index, state, available, owed):
                continue
            bit = self._bits[number]
            if available & bit:
                self._branch(index, bit, state, available, owed)
            else:
                self._pass(index, state, available, owed)
        return Outcome.FOUND if self._is_found else Outcome.NONE

    def _fitting(self, state: State, owed: int) -> int:
        """Return what is owed, changes nothing, and fits the state: it stands here (fact 1)."""
        fitting = self._readers.get(state, 0)
        unless = self._of_kind[Kind.UNLESS]
        if unless:
            fitting |= unless & ~self._unless.get(state, 0)
        general = self._of_kind[Kind.GENERAL_READ] & owed
        for bit in _bits_of(general):
            if self._after(bit, state) is not None:
                fitting |= bit
        return fitting & owed

    def _is_no_better(self, index: int, state: State, available: int, owed: int) -> bool:
        """Say whether a position at least as good was seen (fact 5); else remember this one."""
        key = (index, state, owed)
        before = self._seen.get(key)
        if before is None:
            self._seen[key] = [available]
            return False
        for each in before:
            if available & ~each == 0:
                return True
        before[:] = [each for each in before if each & ~available]
        before.append(available)
        return False

    def _pass(self, index: int, state: State, available: int, owed: int) -> None:
        """Go on to the next return."""
        index += 1
        if index < len(self._returns):
            available |= self._new[index]
            owed |= self._new_owed[index]
        self._stack.append((index, state, available, owed))

    def _branch(self, index: int, bit: int, state: State, available: int, owed: int) -> None:
        """Push the positions that may follow where the move that returns is available.

        The last one pushed is tried first.
        """
        rank = self._moves[self._returns[index]].rank
        sooner: list[Position] = []
        for other in self._useful(bit, state, available, owed):
            after = self._after(other, state)
            left = available ^ other
            if after is None or (after != state and self._is_lost(state, left, owed & ~other)):
                continue
            position = (index, after, left, self._still_owed(other, owed))
            if self._moves[self._in_slot[other]].rank < rank:
                sooner.append(position)
            else:
                self._stack.append(position)
        self._place_or_pass(index, bit, state, available ^ bit, owed)
        self._stack += sooner

    def _place_or_pass(self, index: int, bit: int, state: State, left: int, owed: int) -> None:
        """Push what follows where the move that returns stands here, or is hidden already."""
        after = self._after(bit, state)
        if after is not None and after != state and self._is_lost(state, left, owed & ~bit):
            after = None
        if not owed & bit and not self._is_lost(self._moves[self._in_slot[bit]].to, left, owed):
            # The one pushed last leaves the state that is needed next.
            if after is not None and self._wanted_next[self._at] == after:
                self._pass(index, state, left, owed)
            else:
                if after is not None:
                    self._pass(index, after, left, self._still_owed(bit, owed))
                self._pass(index, state, left, owed)
                return
        if after is not None:
            self._pass(index, after, left, self._still_owed(bit, owed))

    def _is_lost(self, state: State, available: int, owed: int) -> bool:
        """Say whether a state is needed later and nobody is left to write it (fact 7).

        Only for a state that is not the state.
        """
        if self._has_general or (
            self._needed_until.get(state, -1) <= self._at
            and not self._readers.get(state, 0) & owed
            and not self._needing.get(state, 0) & owed
        ):
            return False
        if state == ABSENT and self._of_kind[Kind.CLEAR] & available:
            return False
        return (
            self._written_until.get(state, -1) <= self._at
            and not self._writers.get(state, 0) & available
            and not self._swaps_to.get(state, 0) & available
        )

    def _after(self, bit: int, state: State) -> State | None:
        """Return the state after the move in a slot; None if it is impossible here."""
        return result_of(self._moves[self._in_slot[bit]], state)

    def _still_owed(self, bit: int, owed: int) -> int:
        """Return what is owed after a move: not itself, nor what it hides (fact 2)."""
        owed &= ~bit
        if owed:
            kind = self._moves[self._in_slot[bit]].kind
            if kind is Kind.WRITE:
                owed &= ~self._of_kind[Kind.WRITE]
            elif kind is Kind.CLEAR:
                # What makes the state absent cannot stand right before it.
                owed &= ~(self._of_kind[Kind.WRITE] & ~self._writers.get(ABSENT, 0))
        return owed

    # -- What may stand before the move that returns ---------------------------------------

    def _useful(self, bit: int, state: State, available: int, owed: int) -> list[int]:
        """Return the other moves that are worth a try here (facts 3 and 4)."""
        of_kind = self._of_kind
        others = available & ~bit
        general = of_kind[Kind.GENERAL]
        # Whether any other state than this one is wanted.
        any_other = bool(
            general & available
            or self._unless.get(state, 0) & owed
            or of_kind[Kind.GENERAL_READ] & owed
            or (state == ABSENT and of_kind[Kind.CLEAR] & available)
        )
        found: list[int] = []
        writes = of_kind[Kind.WRITE] & others
        if writes:
            # To write what is there already is of use only where it hides another write.
            skipped = () if writes & owed else (state,)
            if any_other:
                found += self._first_of_each(writes, skipped, owed)
            else:
                for wanted in self._wanted(available, owed):
                    equal = self._writers.get(wanted, 0) & others
                    if equal and wanted not in skipped:
                        found.append(self._first(equal, owed))
        swaps = self._needing.get(state, 0) & others
        if state != ABSENT:
            swaps |= of_kind[Kind.CLEAR] & others
        for each in self._first_of_each(swaps, (), owed) if swaps else ():
            if each & owed or any_other or self._is_wanted(each, available, owed):
                found.append(each)
        if general & others:
            found += self._first_of_each(general & others, (), owed)
            in_slot, moves = self._in_slot, self._moves
            found.sort(key=lambda each: -moves[in_slot[each]].rank)
        return found

    def _wanted(self, available: int, owed: int) -> set[State]:
        """Return the states in which something open could follow."""
        in_slot, moves = self._in_slot, self._moves
        readers = self._of_kind[Kind.READ] & owed
        wanted = {moves[in_slot[each]].need for each in _bits_of(readers)}
        if self._needing:
            wanted.update(need for need, mask in self._needing.items() if mask & available)
        return wanted

    def _is_wanted(self, bit: int, available: int, owed: int) -> bool:
        move = self._moves[self._in_slot[bit]]
        after = ABSENT if move.kind is Kind.CLEAR else move.to
        return bool(
            self._readers.get(after, 0) & owed or self._needing.get(after, 0) & available & ~bit
        )

    def _first_of_each(self, mask: int, skipped: tuple[State, ...], owed: int) -> list[int]:
        """Return one of each set of equal moves, the one that is owed first (fact 4)."""
        groups: dict[Hashable, int] = {}
        for bit in _bits_of(mask):
            move = self._moves[self._in_slot[bit]]
            if move.kind is Kind.GENERAL:
                name: Hashable = bit if move.equals is None else (move.equals,)
            elif move.kind is Kind.WRITE and move.to in skipped:
                continue
            else:
                name = (move.kind, move.need, move.to)
            groups[name] = groups.get(name, 0) | bit
        return [self._first(each, owed) for each in groups.values()]

    def _first(self, mask: int, owed: int) -> int:
        """Return the one of equal moves that is owed, or ends, first."""
        if mask & (mask - 1) == 0:
            return mask
        if mask & owed:
            mask &= owed

        def end(bit: int) -> float:
            return_ns = self._moves[self._in_slot[bit]].return_ns
            return float("inf") if return_ns is None else return_ns

        return min(_bits_of(mask), key=end)


def _flip(table: dict[State, int], state: State, bit: int) -> None:
    left = table.get(state, 0) ^ bit
    if left:
        table[state] = left
    else:
        del table[state]


def _bits_of(mask: int) -> Iterator[int]:
    while mask:
        bit = mask & -mask
        yield bit
        mask ^= bit
