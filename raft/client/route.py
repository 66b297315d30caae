"""Whom to try next, and when: endpoints in turn, hints first, and pauses that grow."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Final

from raft.errors import BadConfiguration

HOPS: Final = 8
"""So many hints are followed in one round; then the next endpoint is asked."""

LEARNED: Final = 16
"""So many addresses that are not in the client's list are remembered."""


class Backoff:
    """Pauses with full jitter: drawn from [0, base * 2**n), at most from [0, cap), in seconds."""

    def __init__(
        self, chance: random.Random, base_seconds: float = 0.05, cap_seconds: float = 0.25
    ) -> None:
        """Start with the shortest pause."""
        self._chance = chance
        self._base_seconds = base_seconds
        self._cap_seconds = cap_seconds
        self._count = 0

    def next(self) -> float:
        """Return the next pause, in seconds."""
        longest = min(self._cap_seconds, self._base_seconds * 2.0**self._count)
        self._count = min(self._count + 1, 30)
        return self._chance.uniform(0.0, longest)

    def reset(self) -> None:
        """Begin with the shortest pause again."""
        self._count = 0


class Route:
    """The way to the leader, in rounds: each address is tried at most once in a round.

    Hints are followed before the endpoints, and an address that was only ever a hint is tried
    after them. A hint that leads back to where this round has been is stale, and ignored:
    two nodes that each take the other for the leader cost two questions, not a loop.
    """

    def __init__(self, endpoints: Iterable[str], canonical: Callable[[str], str]) -> None:
        """Know `endpoints`, to be tried in their order."""
        self._endpoints = list(dict.fromkeys(endpoints))
        self._learned: dict[str, str] = {}
        self._canonical = canonical
        self._visited: set[str] = set()
        self._hint = ""
        self._hops = 0

    def next(self) -> str | None:
        """Return the next address, or None where the round is over."""
        hint, self._hint = self._hint, ""
        for address in [hint, *self._endpoints, *self._learned.values()]:
            if address and self._visit(address):
                return address
        return None

    def new_round(self) -> None:
        """Begin anew: every address may be tried again."""
        self._visited.clear()
        self._hops = 0

    def visited(self, address: str) -> None:
        """Do not try `address` again in this round."""
        self._visited.add(self._canonical(address))

    def hint(self, address: str) -> None:
        """Try `address` next, unless this round has been there; what is no address is dropped."""
        try:
            key = self._canonical(address)
        except BadConfiguration:
            return
        if self._hops >= HOPS:
            return
        self._hops += 1
        self._hint = address
        self._learned.pop(key, None)
        self._learned[key] = address
        if len(self._learned) > LEARNED:
            del self._learned[next(iter(self._learned))]

    def prefer(self, address: str) -> None:
        """Ask `address` first in later rounds: it has worked."""
        if address in self._endpoints:
            self._endpoints.remove(address)
            self._endpoints.insert(0, address)

    def _visit(self, address: str) -> bool:
        key = self._canonical(address)
        if key in self._visited:
            return False
        self._visited.add(key)
        return True
