"""States that differ only in the servers' names are one: the smallest stands for all.

All that is numbered in a search has its number under each renaming looked up once. Of each
situation the least of these numbers names its *orbit*; servers are put in the order of their
orbits, and only among equals is more than one order tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, permutations, product

from attrs import Factory, define, evolve, field

from raft.testing.small.reactions import Reactions
from raft.testing.small.rules import Ghost

Order = tuple[int, ...]
"""Which server comes first, second and so on, by their places before."""


@define(eq=False)
class Symmetry:
    """The renamings of the servers `names`, of which any may have any other's name."""

    names: tuple[str, ...]
    reactions: Reactions
    _orders: tuple[Order, ...] = field(init=False)
    _renamings: dict[Order, dict[str, str]] = Factory(dict)
    _orbits: dict[int, int] = Factory(dict)
    _situations: dict[tuple[int, Order], int] = Factory(dict)
    _letters: dict[tuple[int, Order], int] = Factory(dict)
    _tied: dict[Order, tuple[Order, ...]] = Factory(dict)

    def __attrs_post_init__(self) -> None:
        """List the renamings."""
        self._orders = tuple(permutations(range(len(self.names))))
        for order in self._orders:
            self._renamings[order] = {
                self.names[old]: self.names[new] for new, old in enumerate(order)
            }

    def orders(self, situations: Sequence[int]) -> tuple[Order, ...]:
        """Return the orders in which the servers may stand in the state that stands for all."""
        orbits = tuple(self.orbit(each) for each in situations)
        found = self._tied.get(orbits)
        if found is None:
            places = sorted(range(len(orbits)), key=lambda place: (orbits[place], place))
            groups = [list(group) for _, group in groupby(places, key=lambda place: orbits[place])]
            found = tuple(
                tuple(place for group in choice for place in group)
                for choice in product(*(permutations(group) for group in groups))
            )
            self._tied[orbits] = found
        return found

    def orbit(self, situation: int) -> int:
        """Return the least number that the situation has under any renaming."""
        found = self._orbits.get(situation)
        if found is None:
            self._enter_orbit(situation)
            found = self._orbits[situation]
        return found

    def _enter_orbit(self, situation: int) -> None:
        """Look up all renamings of all renamings at once: they are the same few."""
        images = {
            order: self.reactions.renamed(situation, self._renamings[order])
            for order in self._orders
        }
        least = min(images.values())
        for first, image in images.items():
            self._orbits[image] = least
            for then in self._orders:
                self._situations[image, then] = images[tuple(first[old] for old in then)]

    def situation(self, number: int, order: Order) -> int:
        """Return the number of a situation that has an orbit, once the servers stand in `order`."""
        return self._situations[number, order]

    def letter(self, number: int, order: Order) -> int:
        """Return the number of a letter once the servers stand in `order`."""
        found = self._letters.get((number, order))
        if found is None:
            found = self.reactions.letter_renamed(number, self._renamings[order])
            self._letters[number, order] = found
        return found

    def ghost(self, ghost: Ghost, order: Order) -> Ghost:
        """Return the history once the servers stand in `order`."""
        names = self._renamings[order]
        leaders = tuple((term, names[leader]) for term, leader in ghost.leaders)
        return evolve(ghost, leaders=leaders)
