"""The keys of a dict in order, kept for those who ask and free for those who write."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

Key = str | bytes
_AnyKey = TypeVar("_AnyKey", str, bytes)

_FEW = 64


class SortedKeys:
    """Follows a dict whose keys are str or bytes; each kind is sorted for itself.

    Storing into the dict needs no word to this class: a dict keeps its keys in the order
    in which they came, so the keys that are new here are the last ones there, and their
    number is the difference of the lengths. They are taken in when somebody next asks.
    Only a deletion must be told, with `discard`.

    The first question about a million keys therefore costs the sorting of a million keys;
    later ones cost what came since.
    """

    __slots__ = ("_bytes", "_known", "_strs", "_values")

    def __init__(self, values: dict[Key, object]) -> None:
        self._values = values
        self._strs: list[str] = []
        self._bytes: list[bytes] = []
        # How many keys of the dict are in the two lists: always the oldest ones.
        self._known = 0

    def discard(self, key: Key) -> None:
        """Forget `key`, which is being deleted from the dict."""
        keys: Any = self._strs if isinstance(key, str) else self._bytes
        position = bisect_left(keys, key)
        if position < len(keys) and keys[position] == key:
            del keys[position]
            self._known -= 1

    def starting(self, prefix: Key, after: Key | None) -> Iterator[Key]:
        """Yield the keys of `prefix`'s type that begin with it and are greater than `after`.

        The dict must not change while they are taken.
        """
        self._take_in()
        keys: Any = self._strs if isinstance(prefix, str) else self._bytes
        start = bisect_left(keys, prefix)
        if after is not None:
            start = max(start, bisect_right(keys, after))
        for position in range(start, len(keys)):
            key = keys[position]
            if not key.startswith(prefix):
                return
            yield key

    def _take_in(self) -> None:
        count = len(self._values) - self._known
        if not count:
            return
        fresh = list(islice(reversed(self._values), count))
        strs = [key for key in fresh if isinstance(key, str)]
        _merge(self._strs, strs)
        if len(strs) < len(fresh):
            _merge(self._bytes, [key for key in fresh if isinstance(key, bytes)])
        self._known = len(self._values)


def _merge(keys: list[_AnyKey], fresh: list[_AnyKey]) -> None:
    if len(fresh) < _FEW:
        for key in fresh:
            insort(keys, key)
    else:
        # Sorting a long sorted run and a short one behind it is a merge.
        keys.extend(sorted(fresh))
        keys.sort()
