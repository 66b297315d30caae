"""A rate that several senders share: so many bytes a second in all."""

from __future__ import annotations

import math
from collections.abc import Callable

from attrs import define


@define(eq=False)
class Allowance:
    """Grants bytes in the order of the claims, each when those before have had their time.

    Attributes:
        bytes_per_second: 0 for no limit.
    """

    bytes_per_second: int
    clock: Callable[[], float]
    _free_at: float = -math.inf

    def claim(self, size_bytes: int) -> float:
        """Claim so many bytes; return in how many seconds they may leave."""
        if not self.bytes_per_second:
            return 0.0
        now = self.clock()
        begin = max(now, self._free_at)
        self._free_at = begin + size_bytes / self.bytes_per_second
        return begin - now
