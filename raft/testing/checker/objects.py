"""The objects whose histories are judged: a key of the store, a register, a lock, a queue.

Each is a `Model`; the names by which `raft check --model` knows them are in `MODELS`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Final

from attrs import define, field

from raft.testing.checker.conflicts import list_conflict, queue_conflict
from raft.testing.checker.models import Judged, Model, Plan, hashable, move_of
from raft.testing.checker.moves import ABSENT, UNREAD, Kind, Move, State
from raft.testing.history import Operation

UNREACHABLE: Final = -2
"""A state that there never is: what needs it has no explanation."""

Form = tuple[Kind, State, State]
"""(kind, need, to), as in a `Move`."""


@define
class _Names:
    """Numbers for the values that some operation can tell apart; None is ABSENT."""

    _numbers: dict[Hashable, int] = field(factory=dict)

    def wanted(self, value: object) -> int:
        """Return the number of a value that some operation looks for."""
        if value is None:
            return ABSENT
        return self._numbers.setdefault(self._key(value), len(self._numbers) + 1)

    def written(self, value: object) -> int:
        """Return the number of a value that is stored; all that is wanted is known by then."""
        return ABSENT if value is None else self._numbers.get(self._key(value), UNREAD)

    def _key(self, value: object) -> Hashable:
        # True is another value than 1, though Python finds them equal.
        return (bool, value) if type(value) is bool else hashable(value)


def _moves(
    operations: Sequence[Operation], formed: Callable[[Operation], Form | None]
) -> list[Move]:
    moves = []
    for number, each in enumerate(operations):
        form = formed(each)
        if form is not None:
            moves.append(move_of(each, form[0], number, form[1], form[2]))
    return moves


# -- A key of the store, and a register --------------------------------------------------------

_GETS: Final = frozenset({"get", "read"})
_PUTS: Final = frozenset({"put", "set", "write"})


def _plan_of_key(operations: Sequence[Operation]) -> Plan | None:
    ops = {each.op for each in operations}
    if "append" in ops:
        return _plan_of_list(operations) if ops <= {"append", "get"} else None
    stores_none = any(
        each.value is None and (each.op == "cas" or each.op in _PUTS) for each in operations
    )
    if "delete" in ops and stores_none:
        return None
    if "cas" in ops and _mixes_bools(operations):
        return None
    names = _Names()
    for each in operations:
        if each.op == "cas":
            names.wanted(each.expected)
        elif each.op in _GETS:
            names.wanted(each.output)
    return Plan(_moves(operations, partial(_form_of_key, names)), ABSENT)


def _mixes_bools(operations: Sequence[Operation]) -> bool:
    """Say whether a cas may take True for 1 here, or 1 for True, as the store does."""
    kinds = {
        type(value)
        for each in operations
        for value in (each.value, each.expected)
        if value in (0, 1)
    }
    return bool in kinds and len(kinds) > 1


def _form_of_key(names: _Names, each: Operation) -> Form | None:
    if each.op in _PUTS:
        return Kind.WRITE, None, names.written(each.value)
    if each.op in _GETS:
        return Kind.READ, names.wanted(each.output), None
    output = each.output if each.ok else None
    if each.op == "delete":
        if output is None:
            return Kind.WRITE, None, ABSENT
        return (Kind.CLEAR, None, ABSENT) if output else (Kind.READ, ABSENT, None)
    expected, value = names.wanted(each.expected), names.written(each.value)
    if output is False:
        return Kind.UNLESS, expected, None
    if not each.ok and expected == value:
        return None
    return Kind.SWAP, expected, value


def _plan_of_list(operations: Sequence[Operation]) -> Plan:
    """Plan for a key that is only appended to, and read: its state is the list's length.

    A list only grows. So every list that was read is a beginning of the longest one, and that
    says what the state was at each length up to its own; beyond it nothing tells values apart.
    """
    reads = [each.output for each in operations if each.op == "get"]
    longest: tuple[Hashable, ...] = ()
    for read in reads:
        if isinstance(read, (list, tuple)) and len(read) > len(longest):
            longest = tuple(map(hashable, read))
    places: dict[Hashable, list[int]] = {}
    for place, value in enumerate(longest):
        places.setdefault(value, []).append(place)
    lengths = [each.output for each in operations if each.op == "append" and each.ok]
    is_all_read = all(type(each) is int and each <= len(longest) for each in lengths)
    moves = []
    for number, each in enumerate(operations):
        value = hashable(each.value)
        found = places.get(value, [])
        if each.op == "get":
            moves.append(move_of(each, Kind.READ, number, _length_read(each.output, longest)))
        elif each.ok and type(each.output) is int:
            length = each.output
            fits = length > len(longest) or (length > 0 and longest[length - 1] == value)
            need = length - 1 if fits else UNREACHABLE
            moves.append(move_of(each, Kind.SWAP, number, need, length))
        elif not each.ok and is_all_read and len(found) <= 1:
            # Where it is not in the list, it may as well never have happened.
            moves += [move_of(each, Kind.SWAP, number, place, place + 1) for place in found]
        else:
            step = partial(_lengthened, frozenset(found), len(longest))
            equals = (each.ok, tuple(found))
            moves.append(move_of(each, Kind.GENERAL, number, step=step, equals=equals))
    return Plan(moves, 0)


def _lengthened(found: frozenset[int], length_read: int, length: State) -> State | None:
    if isinstance(length, int) and (length in found or length >= length_read):
        return length + 1
    return None


def _length_read(output: object, longest: tuple[Hashable, ...]) -> int:
    if output is None:
        return 0
    read = hashable(output)
    if not isinstance(read, tuple) or not read or longest[: len(read)] != read:
        return UNREACHABLE
    return len(read)


_STORED_NONE: Final = ("None is stored",)


def _stored(value: Hashable) -> State:
    """Return what a value leaves: True and 1 leave two states, though Python finds them equal."""
    if value is None:
        return _STORED_NONE
    return (bool, value) if type(value) is bool else value


def _value_in(state: State) -> Hashable:
    if state is _STORED_NONE:
        return None
    if isinstance(state, tuple) and len(state) == 2 and state[0] is bool:
        return state[1]  # type: ignore[no-any-return]
    return state


def _get(state: State, operation: Judged) -> tuple[bool, State]:
    value = _value_in(state)
    is_same = (type(value) is bool) == (type(operation.output) is bool)
    return is_same and operation.output == value, state


def _put(state: State, operation: Judged) -> tuple[bool, State]:  # noqa: ARG001
    return True, _stored(operation.value)


def _delete(state: State, operation: Judged) -> tuple[bool, State]:
    return operation.output in (None, state is not None), None


def _cas(state: State, operation: Judged) -> tuple[bool, State]:
    equal = _value_in(state) == operation.expected
    legal = equal if operation.output is None else operation.output == equal
    return legal, _stored(operation.value) if equal else state


def _append(state: State, operation: Judged) -> tuple[bool, State]:
    if state is None or state is _STORED_NONE:
        state = ()
    if not isinstance(_value_in(state), tuple):
        return False, state
    longer = (*state, operation.value)  # type: ignore[misc]
    return operation.output in (None, len(longer)), longer


KEY_VALUE: Final = Model(
    "key-value store",
    {
        "get": _get,
        "put": _put,
        "set": _put,
        "delete": _delete,
        "cas": _cas,
        "append": _append,
    },
    plan=_plan_of_key,
    conflict=list_conflict,
)
"""`raft.machines.kv`, for one key. Lists compare as the tuples of their values.

A put's output does not count. A cas, a delete or an append without one may have done either, but
that a cas returned without one says that it stored its value.
"""

REGISTER: Final = Model(
    "register",
    {"read": _get, "get": _get, "write": _put, "put": _put, "set": _put, "cas": _cas},
    plan=_plan_of_key,
)
"""A variable that is read, written, and compared and set."""


# -- A lock ------------------------------------------------------------------------------------


def _owner(operation: Operation | Judged) -> Hashable:
    return operation.client if operation.value is None else hashable(operation.value)


def _acquire(state: State, operation: Judged) -> tuple[bool, State]:
    is_free = state is None
    return (operation.output is not False) == is_free, (_owner(operation),) if is_free else state


def _release(state: State, operation: Judged) -> tuple[bool, State]:
    is_held = state == (_owner(operation),)
    return (operation.output is not False) == is_held, None if is_held else state


def _plan_of_lock(operations: Sequence[Operation]) -> Plan:
    names = _Names()
    for each in operations:
        if each.op == "release":
            names.wanted(_owner(each))

    def formed(each: Operation) -> Form:
        owner = names.written(_owner(each))
        need, to = (ABSENT, owner) if each.op == "acquire" else (owner, ABSENT)
        is_refused = each.ok is True and each.output is False
        return (Kind.UNLESS, need, None) if is_refused else (Kind.SWAP, need, to)

    return Plan(_moves(operations, formed), ABSENT)


LOCK: Final = Model(
    "lock", {"acquire": _acquire, "release": _release}, reads=frozenset(), plan=_plan_of_lock
)
"""A lock that one owner holds: its `value`, or the client where that is None.

Both operations return True where they did it (also where no output is given), or False:
`acquire` while anyone holds the lock, `release` while the owner does not.
"""


# -- A queue -----------------------------------------------------------------------------------


def _enqueue(state: State, operation: Judged) -> tuple[bool, State]:
    return True, (*_waiting(state), operation.value)


def _dequeue(state: State, operation: Judged) -> tuple[bool, State]:
    waiting = _waiting(state)
    if not waiting:
        return operation.output is None, state
    return operation.output == waiting[0], waiting[1:]


@define
class _Line:
    """When each value leaves the queue, as far as its known dequeues tell.

    Only where values are unique: then what is enqueued first is also dequeued first, and an
    order that contradicts the dequeues is given up at once.
    """

    _calls: dict[Hashable, int]
    _returns: dict[Hashable, int]
    _may_vanish: bool
    """Whether a value that no known dequeue returned may leave by an unknown one."""

    def leaves_by(self, value: Hashable) -> float:
        return self._returns.get(value, math.inf)

    def leaves_after(self, value: Hashable) -> float:
        return self._calls.get(value, -math.inf if self._may_vanish else math.inf)

    def enqueued(self, value: Hashable, queue: State) -> State | None:
        end, waiting = self.leaves_by(value), _waiting(queue)
        if any(end < self.leaves_after(each) for each in waiting):
            return None
        return (*waiting, value)


def _waiting(queue: State) -> tuple[Hashable, ...]:
    return queue if isinstance(queue, tuple) else ()


def _dequeued(value: Hashable, queue: State) -> State | None:
    waiting = _waiting(queue)
    return waiting[1:] if waiting and waiting[0] == value else None


def _vanished(queue: State) -> State | None:
    waiting = _waiting(queue)
    return waiting[1:] if waiting else None


def _was_empty(queue: State) -> State | None:
    return None if _waiting(queue) else queue


def _plan_of_queue(operations: Sequence[Operation]) -> Plan:
    known = [each for each in operations if each.op == "dequeue" and each.ok]
    taken = {hashable(each.output): each for each in known if each.output is not None}
    values = Counter(
        hashable(each.value)
        for each in operations
        if each.op == "enqueue" and (each.ok or hashable(each.value) in taken)
    )
    may_vanish = len(known) < sum(each.op == "dequeue" for each in operations)
    line = _Line({}, {}, True)
    if all(values[each] <= 1 for each in taken):
        calls = {value: each.call_ns for value, each in taken.items()}
        returns = {value: each.return_ns or 0 for value, each in taken.items()}
        line = _Line(calls, returns, may_vanish)
    moves = []
    for number, each in enumerate(operations):
        if each.op == "enqueue":
            value = hashable(each.value)
            if value not in taken:
                if not each.ok:
                    # Nobody misses it: what an unknown dequeue may have taken, it may not have.
                    continue
                value = UNREAD_VALUE
            step = partial(line.enqueued, value)
            rank = line.leaves_by(value)
            move = move_of(each, Kind.GENERAL, number, step=step, equals=(value,), rank=rank)
        elif not each.ok:
            move = move_of(each, Kind.GENERAL, number, step=_vanished, equals=(), rank=math.inf)
        elif each.output is None:
            move = move_of(each, Kind.GENERAL_READ, number, step=_was_empty)
        else:
            step = partial(_dequeued, hashable(each.output))
            move = move_of(each, Kind.GENERAL, number, step=step)
        moves.append(move)
    return Plan(moves, ())


UNREAD_VALUE: Final = ("never dequeued",)

QUEUE: Final = Model(
    "queue",
    {"enqueue": _enqueue, "dequeue": _dequeue},
    initial=(),
    reads=frozenset(),
    plan=_plan_of_queue,
    conflict=queue_conflict,
)
"""First in, first out: `enqueue` a value; `dequeue` returns the first one, or None."""

MODELS: Final[Mapping[str, Model]] = {
    "kv": KEY_VALUE,
    "register": REGISTER,
    "lock": LOCK,
    "queue": QUEUE,
}
