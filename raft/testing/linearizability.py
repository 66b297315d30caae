"""Could a single copy of the state have given these answers?

A history is linearizable if all its operations can be put in one order in which each
takes effect at one moment between its call and its return, and a lone copy of the state
would give just those results. The search for that order is Wing and Gong's with Lowe's
memory of what was tried (a set of operations done, and the state they leave):
exponential at worst, and fast on histories that a correct system produces.

- Keys are independent, so each is searched for itself.
- An operation with an unknown outcome never ends: it may take effect at any time after
  its call, or never.
- One that was definitely refused takes no part: should it have taken effect, some result
  that shows it finds no explanation.
- Searches take turns with a growing budget: a history that is easily refuted on one key
  is refuted at once, however hard another key is. The first refutation ends all.
- When the budget is spent, the verdict is UNKNOWN, never OK.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Final

from attrs import evolve, field, frozen

from raft.interfaces import Value
from raft.testing.history import Operation

BUDGET_STEPS: Final = 5_000_000
"""How many steps (about a microsecond each) all searches may take together."""

_FIRST_TURN_STEPS = 1_000
_SHRINK_STEPS = 100_000
_THINNED = 200
_SHOWN = 40


class Verdict(Enum):
    """What the checker knows."""

    OK = "linearizable"
    ILLEGAL = "not linearizable"
    UNKNOWN = "unknown: the budget is spent"


@frozen
class Judged:
    """An operation as a model sees it: all values hashable, and whether its result counts."""

    op: str
    value: Hashable
    expected: Hashable
    output: Hashable
    known: bool


State = Hashable
Step = Callable[[State, Judged], tuple[bool, State]]
"""(state, operation) -> (whether it may have that result in that state, the state after)."""


@frozen
class Model:
    """A state and what each operation makes of it; for one key.

    The value None is no value: an absent key, or a register never written. What is named
    in `reads`, and whatever returned False, changed nothing.
    """

    name: str
    steps: Mapping[str, Step]
    initial: State = None
    reads: frozenset[str] = field(default=frozenset({"get", "read"}))


def _get(state: State, operation: Judged) -> tuple[bool, State]:
    return operation.output == state, state


def _set(state: State, operation: Judged) -> tuple[bool, State]:  # noqa: ARG001
    return True, operation.value


def _delete(state: State, operation: Judged) -> tuple[bool, State]:
    return operation.output == (state is not None), None


def _cas(state: State, operation: Judged) -> tuple[bool, State]:
    equal = state == operation.expected
    return operation.output == equal, operation.value if equal else state


def _append(state: State, operation: Judged) -> tuple[bool, State]:
    if state is not None and not isinstance(state, tuple):
        return False, state
    longer = (*(state or ()), operation.value)
    return operation.output == len(longer), longer


KEY_VALUE: Final = Model(
    "key-value store",
    {"get": _get, "set": _set, "delete": _delete, "cas": _cas, "append": _append},
)
"""`raft.machines.kv`, for one key. Lists compare as the tuples of their values."""

REGISTER: Final = Model("register", {"read": _get, "write": _set, "cas": _cas})
"""A variable that is read, written, and compared and set."""


@frozen
class Report:
    """The verdict over a history.

    Attributes:
        verdict: OK, ILLEGAL or UNKNOWN.
        steps: how many steps the search took.
        key: the key that is not linearizable, or the first that was not decided; None if OK.
        piece: for ILLEGAL, few operations on that key that are already impossible together.
        text: for people: the piece, one operation a line.
    """

    verdict: Verdict
    steps: int
    key: str | None = None
    piece: tuple[Operation, ...] = ()
    text: str = ""


def check(
    history: Iterable[Operation], model: Model = KEY_VALUE, budget_steps: int = BUDGET_STEPS
) -> Report:
    """Judge a history.

    Raises:
        ValueError: an operation is none of the model's, or returns before it is called.
    """
    keys: dict[str, list[Operation]] = {}
    for operation in history:
        keys.setdefault(operation.key, []).append(operation)
    searches = {key: _Search(operations, model) for key, operations in keys.items()}
    turn, steps = _FIRST_TURN_STEPS, 0
    while searches and steps < budget_steps:
        for key, search in list(searches.items()):
            allowed = min(turn, budget_steps - steps)
            verdict = search.run(allowed)
            steps += search.steps_taken
            if verdict is Verdict.ILLEGAL:
                piece = tuple(_shrunk(keys[key], model))
                return Report(verdict, steps, key, piece, _text(key, piece, model))
            if verdict is Verdict.OK:
                del searches[key]
        turn *= 2
    if not searches:
        return Report(Verdict.OK, steps)
    key = next(iter(searches))
    names = ", ".join(sorted(searches)[:_SHOWN])
    text = f"undecided after {steps} steps: {len(searches)} keys, among them {names}"
    return Report(Verdict.UNKNOWN, steps, key, (), text)


class _Search:
    """The search for one key, which can be left and taken up again.

    Calls and returns stand in a doubly linked list in order of time. Event i is the call of
    operation i, event n + i its return, 2n both ends of the list. An operation that is put
    in order is lifted out of the list, and laid back when the search retreats.
    """

    def __init__(self, operations: Sequence[Operation], model: Model) -> None:
        taking_part = [each for each in operations if _matters(each, model)]
        self._operations = judged = [_judged(each) for each in taking_part]
        self._steps = [model.steps[each.op] for each in taking_part]
        count = len(taking_part)
        self._next, self._previous = _linked(taking_part)
        self._entry = self._next[2 * count]
        self._state = model.initial
        self._idle = [_is_idle(each.op, each.output, model) for each in judged]
        self._missing = sum(each.known for each in self._operations)
        # Bit i says that operation i is put in order.
        self._placed = 0
        self._path: list[tuple[int, State]] = []
        self._seen: set[tuple[int, State]] = set()
        self.steps_taken = 0

    def run(self, steps: int) -> Verdict:
        """Search on for at most so many steps; UNKNOWN if that was not enough."""
        count = len(self._operations)
        self.steps_taken = 0
        while self._missing:
            if self.steps_taken >= steps:
                return Verdict.UNKNOWN
            self.steps_taken += 1
            entry = self._entry
            if entry < count:
                self._entry = self._next[2 * count if self._place(entry) else entry]
            elif not self._retreat():
                return Verdict.ILLEGAL
        return Verdict.OK

    def _place(self, entry: int) -> bool:
        """Put an operation next in order, if it may stand there and that was not tried."""
        operation, state = self._operations[entry], self._state
        legal, after = self._steps[entry](state, operation)
        if operation.known:
            if not legal:
                return False
        elif after == state:
            # To have no effect is the same as never to happen.
            return False
        reached = (self._placed | 1 << entry, after)
        if reached in self._seen:
            return False
        self._seen.add(reached)
        self._path.append((entry, state))
        self._placed, self._state = reached
        self._lift(entry)
        return True

    def _retreat(self) -> bool:
        """Undo the last choice that had an alternative; False if there is none left."""
        while self._path:
            entry, before = self._path.pop()
            self._placed ^= 1 << entry
            self._state = before
            self._lay_back(entry)
            # What changes nothing wherever it stands, and may stand here, loses nothing by
            # standing here: any order with it later is an order with it first. That does
            # not hold for a write of the value that is there already.
            if not self._idle[entry]:
                self._entry = self._next[entry]
                return True
        return False

    def _lift(self, entry: int) -> None:
        following, previous = self._next, self._previous
        known = self._operations[entry].known
        for event in (entry, entry + len(self._operations)) if known else (entry,):
            following[previous[event]] = following[event]
            previous[following[event]] = previous[event]
        self._missing -= known

    def _lay_back(self, entry: int) -> None:
        following, previous = self._next, self._previous
        known = self._operations[entry].known
        for event in (entry + len(self._operations), entry) if known else (entry,):
            following[previous[event]] = event
            previous[following[event]] = event
        self._missing += known


def _matters(operation: Operation, model: Model) -> bool:
    if operation.op not in model.steps:
        raise ValueError(f"a {model.name} knows no {operation.op!r}: {operation}")
    if operation.ok and (operation.return_ns is None or operation.return_ns < operation.call_ns):
        raise ValueError(f"it returned before it was called: {operation}")
    return operation.ok is True or (operation.ok is None and operation.op not in model.reads)


def _judged(operation: Operation) -> Judged:
    return Judged(
        operation.op,
        _hashable(operation.value),
        _hashable(operation.expected),
        _hashable(operation.output) if operation.ok else None,
        operation.ok is True,
    )


def _is_idle(op: str, output: object, model: Model) -> bool:
    return op in model.reads or output is False


def _hashable(value: Value) -> Hashable:
    if isinstance(value, (list, tuple)):
        return tuple(map(_hashable, value))
    if isinstance(value, dict):
        return frozenset((key, _hashable(inner)) for key, inner in value.items())
    return value


def _linked(operations: Sequence[Operation]) -> tuple[list[int], list[int]]:
    count = len(operations)
    # Where times are equal, calls come first: the operations then overlap, which forbids less.
    events = sorted(
        [(each.call_ns, 0, number) for number, each in enumerate(operations)]
        + [
            (each.return_ns or 0, 1, number + count)
            for number, each in enumerate(operations)
            if each.ok
        ]
    )
    following, previous = [2 * count] * (2 * count + 1), [2 * count] * (2 * count + 1)
    last = 2 * count
    for _, _, event in events:
        following[last] = event
        previous[event] = last
        last = event
    following[last] = 2 * count
    previous[2 * count] = last
    return following, previous


def _is_illegal(operations: Sequence[Operation], model: Model) -> bool:
    return _Search(operations, model).run(_SHRINK_STEPS) is Verdict.ILLEGAL


def _shrunk(operations: Sequence[Operation], model: Model) -> list[Operation]:
    """Return a small part of an illegal history that is illegal by itself.

    Only what cannot make a legal history illegal is taken away.
    """
    piece = sorted(operations, key=lambda each: each.call_ns)
    piece = _shortest_beginning(piece, model)
    piece = _latest_start(piece, model)
    # A read or a refused compare-and-set changes nothing: without it all else stays legal.
    for operation in list(piece) if len(piece) <= _THINNED else ():
        if operation.ok is False or _is_idle(operation.op, operation.output, model):
            rest = [each for each in piece if each is not operation]
            if _is_illegal(rest, model):
                piece = rest
    return piece


def _shortest_beginning(piece: list[Operation], model: Model) -> list[Operation]:
    """Cut the history off as early as it is illegal: what returns later is open then."""
    ends = sorted(each.return_ns for each in piece if each.ok and each.return_ns is not None)
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high) // 2
        if _is_illegal(_until(piece, ends[middle]), model):
            high = middle
        else:
            low = middle + 1
    shorter = _until(piece, ends[low])
    return shorter if _is_illegal(shorter, model) else piece


def _until(piece: list[Operation], end_ns: int) -> list[Operation]:
    return [
        evolve(each, ok=None, return_ns=None, output=None)
        if each.return_ns is not None and each.ok and each.return_ns > end_ns
        else each
        for each in piece
        if each.call_ns <= end_ns
    ]


def _latest_start(piece: list[Operation], model: Model) -> list[Operation]:
    """Begin with the last write that overlaps nothing: what was before it is overwritten.

    Operations with an unknown outcome stay: they may still take effect.
    """
    for start in sorted(piece, key=lambda each: -each.call_ns):
        if start.op not in ("set", "write") or not start.ok or start.return_ns is None:
            continue
        kept = [
            each
            for each in piece
            if not each.ok or each.return_ns is None or each.return_ns >= start.call_ns
        ]
        alone = all(each is start or not each.ok or each.call_ns > start.return_ns for each in kept)
        if alone and _is_illegal(kept, model):
            return kept
    return piece


def _text(key: str, piece: Sequence[Operation], model: Model) -> str:
    lines = [f"  {each}" for each in piece[-_SHOWN:]]
    if len(piece) > _SHOWN:
        lines.insert(0, f"  ... and {len(piece) - _SHOWN} before")
    return "\n".join([f"no order of these explains every result ({model.name}, {key}):", *lines])
