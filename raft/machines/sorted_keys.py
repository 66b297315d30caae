"""The keys of a dict in order, kept for those who ask and free for those who write."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

Key = str | bytes

BLOCK_KEYS: Final = 2000
"""So many keys are sorted at once at most, but for twice as many when a block is split."""

_ALL: Final = 1 << 62


class Blocks:
    """Keys of one kind in blocks: all of a block are smaller than all of the next one.

    A block is sorted only when somebody looks at it, or when it is split.
    """

    __slots__ = ("_blocks", "_firsts", "_unsorted")

    def __init__(self) -> None:
        self._blocks: list[list[Any]] = [[]]
        # Where each block begins; the first one takes what is smaller still.
        self._firsts: list[Any] = []
        self._unsorted: set[int] = set()

    def add(self, key: Any) -> None:
        """Add a key that is not there."""
        at = self._block_of(key)
        block = self._blocks[at]
        block.append(key)
        if len(block) <= 2 * BLOCK_KEYS:
            self._unsorted.add(at)
            return
        block.sort()
        self._unsorted.discard(at)
        self._unsorted = {each + (each > at) for each in self._unsorted}
        self._blocks[at : at + 1] = [block[:BLOCK_KEYS], block[BLOCK_KEYS:]]
        self._firsts.insert(at, block[BLOCK_KEYS])

    def _block_of(self, key: Any) -> int:
        return bisect_right(self._firsts, key)

    def _sorted(self, at: int) -> list[Any]:
        block = self._blocks[at]
        if at in self._unsorted:
            self._unsorted.remove(at)
            block.sort()
        return block

    def discard(self, key: Any) -> bool:
        """Remove a key; tell whether it was there."""
        block = self._sorted(self._block_of(key))
        position = bisect_left(block, key)
        if position == len(block) or block[position] != key:
            return False
        # A block that gets empty stays: others fill it again, or a walk passes it at no cost.
        del block[position]
        return True

    def starting(self, prefix: Any, after: Any) -> Iterator[Any]:
        """Yield the keys that begin with `prefix` and are greater than `after`, in order."""
        low = prefix if after is None else max(prefix, after)
        for at in range(self._block_of(low), len(self._blocks)):
            block = self._sorted(at)
            start = bisect_left(block, prefix)
            if after is not None:
                start = max(start, bisect_right(block, after))
            for key in islice(block, start, None):
                if not key.startswith(prefix):
                    return
                yield key


class SortedKeys:
    """Follows a dict whose keys are str or bytes; each kind is sorted for itself.

    Storing into the dict needs no word to this class: a dict keeps its keys in the order
    in which they came, so the keys that are new here are the last ones there, and their
    number is the difference of the lengths. They are noted when somebody next asks, and put
    in their places then, or a few at a time by `take_in`. Only a deletion must be told, with
    `discard`.

    A million keys take about a second to be put in their places, some milliseconds to be noted.
    """

    __slots__ = ("_bytes", "_gone", "_known", "_noted", "_strs", "_values")

    def __init__(self, values: dict[Key, object]) -> None:
        self._values = values
        self._strs = Blocks()
        self._bytes = Blocks()
        # How many keys of the dict are known here: always the oldest ones.
        self._known = 0
        # Known, but not in their places yet; some of them, as often as they stand here, deleted.
        self._noted: list[Key] = []
        self._gone: dict[Key, int] = {}

    def discard(self, key: Key) -> None:
        """Forget `key`, which is being deleted from the dict."""
        if self._blocks_of(key).discard(key):
            self._known -= 1
        elif self._noted:
            # It is noted, or will be: then it is passed over.
            self._note()
            self._gone[key] = self._gone.get(key, 0) + 1
            self._known -= 1

    def popped(self, key: Key) -> None:
        """Forget `key`, which was the dict's newest and has been removed."""
        if len(self._values) < self._known:
            self.discard(key)

    def take_in(self, count: int) -> bool:
        """Put up to `count` keys in their places; tell whether all are."""
        self._note()
        noted = self._noted
        for _ in range(min(count, len(noted))):
            key = noted.pop()
            if not self._gone or not self._is_gone(key):
                self._blocks_of(key).add(key)
        return not noted

    def starting(self, prefix: Key, after: Key | None) -> Iterator[Key]:
        """Yield the keys of `prefix`'s type that begin with it and are greater than `after`.

        The dict must not change while they are taken.
        """
        self.take_in(_ALL)
        yield from self._blocks_of(prefix).starting(prefix, after)

    def _blocks_of(self, key: Key) -> Blocks:
        return self._strs if isinstance(key, str) else self._bytes

    def _note(self) -> None:
        fresh = len(self._values) - self._known
        if fresh > 0:
            self._noted += islice(reversed(self._values), fresh)
            self._known = len(self._values)

    def _is_gone(self, key: Key) -> bool:
        count = self._gone.pop(key, 0)
        if count > 1:
            self._gone[key] = count - 1
        return count > 0
