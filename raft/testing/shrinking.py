"""Delta debugging: the least part of a list that still does what the whole does.

A failing run has thousands of choices, of which a handful matter. `ddmin` leaves out ever smaller
pieces of the list for as long as what remains still fails in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from attrs import define

T = TypeVar("T")


@define
class Budget:
    """How much may be tried: by seconds of this process, and by number."""

    seconds: float = 60.0
    tries: int = 100_000
    _begun: float = 0.0

    def __attrs_post_init__(self) -> None:
        """Begin to count."""
        self._begun = time.process_time()

    def spend(self) -> bool:
        """Count one try; tell whether it may be made."""
        self.tries -= 1
        return self.tries >= 0 and time.process_time() - self._begun < self.seconds


def ddmin(
    items: Sequence[T],
    fails: Callable[[list[T]], bool | list[T]],
    budget: Budget | None = None,
) -> list[T]:
    """Return a part of `items`, in their order, that `fails` and of which nothing can be left out.

    The whole is taken to fail. Where the budget ends first, more might be left out.

    Args:
        items: What may be left out.
        fails: Whether a part of the items still fails in the same way; instead of True, the
            items of it that had to do with it.
        budget: How much may be tried.
    """
    budget = budget or Budget()
    left = list(items)
    size = max(1, len(left) // 2)
    while left:
        shrunk = False
        # From the end: what comes late depends on what came before, and seldom the other way.
        end = len(left)
        while end > 0:
            start = max(0, end - size)
            part = left[:start] + left[end:]
            if not budget.spend():
                return left
            failed = fails(part)
            if failed is not False:
                left, shrunk = part if failed is True else failed, True
            end = min(start, len(left))
        if size > 1:
            size //= 2
        elif not shrunk:
            break
    return left


def lowered(number: int, fails: Callable[[int], bool], budget: Budget, lowest: int = 0) -> int:
    """Return the least number from `lowest` on that was tried and still `fails`."""
    candidates = {lowest, lowest + 1, (lowest + number) // 2, number - 1}
    for candidate in sorted(each for each in candidates if lowest <= each < number):
        if not budget.spend():
            break
        if fails(candidate):
            return candidate
    return number
