"""The built-in key-value store: plain values under keys that are str or bytes.

None stands for "absent" wherever a value is expected or returned: storing None under a
key is possible, and differs from no key only in `scan`, `count` and `delete`.

Commands and their results:

- `["set", key, value]` stores a value; None.
- `["delete", key]` removes a key; True if it was there, else False.
- `["cas", key, expected, value]` stores `value` if the key's value equals `expected`
  (None: if the key is absent), as Python compares; True if so, else False and nothing
  is changed.
- `["append", key, value]` adds `value` at the end of the list under the key, which is made
  if it is absent; the list's new length. `CommandError("not-a-list")` where the key holds
  anything else.

Queries and their answers:

- `["get", key]` is the key's value, or None.
- `["scan", prefix, limit]` is the list of the first `limit` pairs `[key, value]` whose key
  begins with `prefix`, in order of keys: of the str keys by code point if `prefix` is str, of
  the bytes keys if it is bytes. `["scan", prefix, limit, after]` is the list of those
  behind the key `after`: the last key of one answer continues it. `limit` is an int from 1
  to 10,000. An answer ends early after 1 MiB: only an empty one says that there is no more.
  Keys are put in order for the first scan after a start, some of them in each turn of the
  node, which goes on meanwhile: about a second for each million. Later ones find them so.
- `["count"]` is how many keys there are.

All of these can be refused with `CommandError("bad-command")` for an unknown verb or a
wrong number of arguments, and `CommandError("bad-key")` for a key that is neither str nor
bytes; `scan` with `CommandError("bad-limit")`. What is refused changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final, cast

import msgspec
from zope.interface import implementer

from raft.errors import CommandError
from raft.interfaces import Context, IGradualStateMachine, IPreparingStateMachine, Value
from raft.machines.overlaid import POUR_KEYS, Overlaid
from raft.machines.slices import packed, unpacked
from raft.machines.sorted_keys import Key

SCAN_LIMIT: Final = 10_000
"""The most pairs that one `scan` answers."""

SCAN_BYTES: Final = 1024 * 1024
"""After how many bytes of values a `scan` ends, whatever its limit."""

_FORMAT = "kv 1"


@implementer(IGradualStateMachine, IPreparingStateMachine)
class KeyValueStore:
    """The default machine; the module says what it understands."""

    machine_name = "kv"
    machine_version = 1

    def __init__(self) -> None:
        self._values = Overlaid()

    def apply(self, command: Value, context: Context) -> Value:
        """Carry out a command; see the module."""
        # The one command that matters for speed comes before everything else.
        if type(command) is list and len(command) == 3 and command[0] == "set":
            key = command[1]
            if type(key) is str or type(key) is bytes:
                self._values.written[key] = command[2]
                return None
        match command:
            case ["delete", key]:
                return self._values.delete(_key(key))
            case ["cas", key, expected, value]:
                return self._compare_and_set(_key(key), expected, value)
            case ["append", key, value]:
                return self._append(_key(key), value)
            case ["set", key, _]:
                _key(key)
        raise CommandError(
            "bad-command", 'expected ["set", key, value], ["delete", key], cas or append'
        )

    def _compare_and_set(self, key: Key, expected: Value, value: Value) -> bool:
        if self._values.get(key) != expected:
            return False
        self._values.written[key] = value
        return True

    def _append(self, key: Key, value: Value) -> int:
        values = self._values.get(key)
        if values is None:
            values = []
        elif type(values) is not list:
            raise CommandError("not-a-list", "append needs a key that is absent or holds a list")
        if self._values.own(key) is not values:
            values = values.copy()
            self._values.written[key] = values
        values.append(value)
        return len(values)

    def query(self, query: Value) -> Value:
        """Answer a query; see the module."""
        match query:
            case ["get", key]:
                return cast("Value", self._values.get(_key(key)))
            case ["scan", prefix, limit]:
                return self._scan(_key(prefix), limit, None)
            case ["scan", prefix, limit, after]:
                if type(after) is not type(prefix):
                    raise CommandError("bad-key", "prefix and after must be of one type")
                return self._scan(_key(prefix), limit, _key(after))
            case ["count"]:
                return len(self._values)
        raise CommandError("bad-command", 'expected ["get", key], scan or ["count"]')

    def _scan(self, prefix: Key, limit: Value, after: Key | None) -> Value:
        if type(limit) is not int or not 1 <= limit <= SCAN_LIMIT:
            raise CommandError("bad-limit", f"limit must be an int from 1 to {SCAN_LIMIT}")
        found: list[Value] = []
        size = 0
        for key, value in self._values.starting(prefix, after):
            found.append([key, cast("Value", value)])
            size += len(key) + _size(value)
            if len(found) == limit or size >= SCAN_BYTES:
                break
        return found

    def prepare(self, query: Value, may_work: bool) -> bool:
        """Tell whether `query` can be answered at once; before a scan, put keys in order."""
        if type(query) is list and query and query[0] == "scan":
            return self._values.prepare(POUR_KEYS if may_work else 0)
        return True

    def snapshot(self) -> Iterator[bytes]:
        """Return the keys and values of this moment in slices; one snapshot at a time."""
        return self._values.view(_chunks)

    def restore(self, chunks: Iterator[bytes]) -> None:
        """Replace everything; raise ValueError for what is no whole snapshot of a store."""
        values: dict[Key, object] = {}
        for _ in _filling(values, chunks):
            pass
        self._values = Overlaid(values)

    def restoring(self, chunks: Iterator[bytes]) -> Iterator[None]:
        """Do what `restore` does, at most 2,000 keys in each step; what was there goes first."""
        values: dict[Key, object] = {}
        filling = _filling(values, chunks)
        next(filling)
        # Two states are never held, and a large one is never dropped at once.
        old, self._values = self._values, Overlaid()
        while old.drain(POUR_KEYS):
            yield
        yield from filling
        self._values = Overlaid(values)


def _filling(values: dict[Key, object], chunks: Iterator[bytes]) -> Iterator[None]:
    """Fill `values` from a snapshot, a slice in each step; the first only looks at its head."""
    slices = unpacked(chunks)
    origin, count, *first = next(slices, [None, None])
    if origin != _FORMAT:
        raise ValueError(f"expected a snapshot of format {_FORMAT!r}, not {origin!r}")
    yield
    for piece in chain((first,), slices):
        values.update(zip(cast("list[Key]", piece[::2]), piece[1::2], strict=True))
        yield
    if len(values) != count:
        raise ValueError(f"the snapshot holds {len(values)} keys where it promises {count!r}")


def _key(key: Value) -> Key:
    if type(key) is str or type(key) is bytes:
        return key
    raise CommandError("bad-key", f"a key must be str or bytes, not {type(key).__name__}")


def _size(value: object) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    # Only its bytes say how large a list is.
    return len(msgspec.msgpack.encode(value)) if isinstance(value, (list, dict)) else 9


def _chunks(values: dict[Key, object]) -> Iterator[bytes]:
    head = (_FORMAT, len(values))
    return packed(cast("Iterator[Value]", chain(head, chain.from_iterable(values.items()))))
