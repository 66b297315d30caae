"""A dict that can be read as it was while it changes: the view costs nothing to take.

While a view is open the dict stands still, and what is written goes into a second dict,
the overlay, that lies over it for everybody but the view. When the view is done, the
overlay is poured back, a slice at a time. Copying the dict instead would stop the world
for 40 ms for each million keys.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Final

from raft.machines.sorted_keys import Key, SortedKeys

POUR_KEYS: Final = 2000
"""How many keys a slice pours back; more only where as many are written meanwhile."""

# More keys than there can be.
_ALL: Final = 1 << 62

# What the overlay holds for a key that is deleted: it hides what lies below.
_DELETED: Final = object()


class Overlaid:
    """A dict with views, and keys in order.

    Attributes:
        written: where to store: `overlaid.written[key] = value`. It is the dict itself, or
            the overlay while there is one; never keep it, never read from it.
    """

    __slots__ = ("_base", "_keys", "_overlay", "_overlay_keys", "_reader", "_readers", "written")

    def __init__(self, values: dict[Key, object] | None = None) -> None:
        self._base: dict[Key, object] = {} if values is None else values
        self._keys = SortedKeys(self._base)
        self.written: dict[Key, object] = self._base
        # None when what is written goes straight to the base.
        self._overlay: dict[Key, object] | None = None
        self._overlay_keys = SortedKeys({})
        # The number of the view that is open, or 0; and of the last one there was.
        self._reader = 0
        self._readers = 0

    def __contains__(self, key: Key) -> bool:
        overlay = self._overlay
        if overlay is not None and key in overlay:
            return overlay[key] is not _DELETED
        return key in self._base

    def __len__(self) -> int:
        base = self._base
        count = len(base)
        for key, value in (self._overlay or {}).items():
            count += (value is not _DELETED) - (key in base)
        return count

    def get(self, key: Key) -> object:
        """Return what is stored under `key`, or None."""
        overlay = self._overlay
        if overlay is not None and key in overlay:
            value = overlay[key]
            return None if value is _DELETED else value
        return self._base.get(key)

    def own(self, key: Key) -> object:
        """Return what is stored under `key` if it may be changed in place, else None.

        While there is an overlay, what lies below it may be in a view.
        """
        value = self.written.get(key)
        return None if value is _DELETED else value

    def delete(self, key: Key) -> bool:
        """Remove `key`; tell whether it was there."""
        if key not in self:
            return False
        overlay = self._overlay
        if overlay is None:
            self._keys.discard(key)
            del self._base[key]
        elif key in self._base:
            overlay[key] = _DELETED
        else:
            self._overlay_keys.discard(key)
            del overlay[key]
        return True

    def starting(self, prefix: Key, after: Key | None) -> Iterator[tuple[Key, object]]:
        """Yield keys and values in order, as `SortedKeys.starting`; change nothing meanwhile."""
        overlay = self._overlay
        if overlay is None:
            for key in self._keys.starting(prefix, after):
                yield key, self._base[key]
            return
        last: Key | None = None
        below = self._keys.starting(prefix, after)
        above = self._overlay_keys.starting(prefix, after)
        for key in heapq.merge(below, above):
            if key == last:
                continue
            last = key
            value = self.get(key)
            if value is not None or key in self:
                yield key, value

    def prepare(self, count: int) -> bool:
        """Put up to `count` keys in order for `starting`; tell whether all are."""
        return self._keys.take_in(count) and self._overlay_keys.take_in(count)

    def view(self, chunks: Callable[[dict[Key, object]], Iterator[bytes]]) -> View:
        """Open a view: `chunks` of the dict as it is, while it changes.

        Raises:
            RuntimeError: another one is open; exhaust or close it first.
        """
        if self._reader:
            raise RuntimeError("a snapshot is being read already; finish or close it first")
        if self._overlay is not None:
            self._pour(len(self._overlay))
        self._readers += 1
        self._reader = self._readers
        self._overlay = {}
        self._overlay_keys = SortedKeys(self._overlay)
        self.written = self._overlay
        return View(self, self._reader, chunks(self._base))

    def drain(self, count: int) -> bool:
        """Drop up to `count` keys of a dict that is used no more; tell whether any are left.

        Dropping a large dict at once would stop the world. One that a view reads, or that has
        an overlay, is left to whoever holds it.
        """
        base = self._base
        if self._reader or self._overlay is not None:
            return False
        for _ in range(min(count, len(base))):
            base.popitem()
        return bool(base)

    def release(self, reader: int) -> None:
        """Let the base change again: view number `reader` is not read any more."""
        if reader == self._reader:
            self._reader = 0

    def pour(self, count: int) -> int:
        """Pour up to `count` keys back if no view is open; return how many are left."""
        if self._reader or self._overlay is None:
            return 0
        self._pour(count)
        return 0 if self._overlay is None else len(self._overlay)

    def _pour(self, count: int) -> None:
        overlay, base = self._overlay, self._base
        if overlay is None:
            return
        for _ in range(min(count, len(overlay))):
            key, value = overlay.popitem()
            self._overlay_keys.popped(key)
            if value is not _DELETED:
                base[key] = value
            elif key in base:
                self._keys.discard(key)
                del base[key]
        if not overlay:
            self._overlay = None
            self.written = base


class View:
    """The chunks of an `Overlaid` as it was; then empty ones while the overlay is poured back.

    Close it if it is given up. One that nobody holds any more closes itself.
    """

    __slots__ = ("_chunks", "_count", "_left", "_owner", "_reader")

    def __init__(self, owner: Overlaid, reader: int, chunks: Iterator[bytes]) -> None:
        self._owner = owner
        self._reader = reader
        self._chunks: Iterator[bytes] | None = chunks
        self._count = POUR_KEYS
        # How many keys the slice before left; at first there was none.
        self._left = _ALL

    def __iter__(self) -> View:
        return self

    def __next__(self) -> bytes:
        if self._chunks is not None:
            for chunk in self._chunks:
                return chunk
            self._chunks = None
            self._owner.release(self._reader)
        left = self._owner.pour(self._count)
        if not left:
            raise StopIteration
        if left > self._left - self._count // 2:
            # Writing is nearly as fast as pouring: without larger slices it might not end.
            self._count *= 2
        self._left = left
        return b""

    def give_up(self) -> None:
        """Give up reading: what follows are empty chunks, while the overlay is poured back."""
        if self._chunks is not None:
            self._chunks = None
            self._owner.release(self._reader)

    def close(self) -> None:
        """Give up reading; what was written meanwhile is poured back at once."""
        self._chunks = None
        self._owner.release(self._reader)
        self._owner.pour(_ALL)

    def __del__(self) -> None:
        self.close()
