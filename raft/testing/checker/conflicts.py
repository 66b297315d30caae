"""Contradictions that a few operations have with each other, found without any search.

A queue whose values are unique, and of which no dequeue has an unknown outcome, is linearizable
if and only if there are none of four contradictions (Henzinger, Sezgin and Vafeiadis,
"Aspect-Oriented Linearizability Proofs", 2013): a value that nobody enqueued before, a value
dequeued twice, two values that change places, and a queue that was found empty while it never was.
With unknown dequeues a contradiction among the others is still one; and if there is none once some
of them have taken what stood in the way, that is an order.

A list that is only appended to and read has contradictions of the same kind. That there are none
does not make it linearizable; but where there is one, it shows better than any search what
is wrong.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Final

from attrs import evolve, frozen

from raft.testing.checker.models import hashable
from raft.testing.history import Operation

Conflict = tuple[Operation, ...]
"""Operations that contradict each other; none: there is no contradiction."""

_NEVER: Final = 1 << 200
"""A time after all others."""


def list_conflict(operations: Sequence[Operation]) -> Conflict | None:
    """Return a contradiction in what was appended to one list and read of it; None: look further.

    Each operation tells how long the list was at some moment of it: before and after an append
    that told its length, and at a read.
    """
    if any(each.op not in ("append", "get") for each in operations):
        return None
    known = [each for each in operations if each.ok]
    reads = [each for each in known if each.op == "get" and _is_list(each.output)]
    for shorter, longer in pairwise(sorted(reads, key=_length)):
        read = _values(longer)
        if read[: _length(shorter)] != _values(shorter):
            return (shorter, longer)
    longest = max(reads, key=_length, default=None)
    places: dict[object, Operation] = {}
    for each in known:
        if each.op == "append" and type(each.output) is int:
            if each.output in places:
                return (places[each.output], each)
            places[each.output] = each
            if longest is None or not 0 < each.output <= _length(longest):
                continue
            if _values(longest)[each.output - 1] != hashable(each.value):
                return (each, longest)
    return _shrinking(known) or None


def _shrinking(known: Iterable[Operation]) -> Conflict:
    """Find two operations of which the second, which came later, saw a shorter list."""
    told = [each for each in known if each.op == "get" or type(each.output) is int]
    ends = sorted(told, key=lambda each: each.return_ns or 0)
    longest: Operation | None = None
    position = 0
    for each in sorted(told, key=lambda each: each.call_ns):
        while position < len(ends) and (ends[position].return_ns or 0) < each.call_ns:
            if longest is None or _length(ends[position]) > _length(longest):
                longest = ends[position]
            position += 1
        before = _length(each) - (1 if each.op == "append" else 0)
        if longest is not None and _length(longest) > before:
            return (longest, each)
    return ()


def _is_list(output: object) -> bool:
    return output is None or isinstance(output, list | tuple)


def _values(read: Operation) -> tuple[Hashable, ...]:
    found = hashable(read.output)
    return found if isinstance(found, tuple) else ()


def _length(operation: Operation) -> int:
    """Return how long the list was once the operation was done, as it tells itself."""
    output = operation.output
    if type(output) is int:
        return output
    return len(output) if isinstance(output, list | tuple) else 0


# -- Queues --------------------------------------------------------------------------------


@frozen
class _Passage:
    """A value's way through the queue; `_NEVER` where it did not leave."""

    enqueue: Operation
    entered_ns: int
    dequeue: Operation | None = None

    @property
    def operations(self) -> Conflict:
        return (self.enqueue,) if self.dequeue is None else (self.enqueue, self.dequeue)

    @property
    def leaves_after_ns(self) -> int:
        return _NEVER if self.dequeue is None else self.dequeue.call_ns

    @property
    def leaves_by_ns(self) -> int:
        end = None if self.dequeue is None else self.dequeue.return_ns
        return _NEVER if end is None else end


def queue_conflict(operations: Sequence[Operation]) -> Conflict | None:
    """Return a contradiction in a queue, () where it is linearizable, None where a search must say.

    That is where values are not unique, or where it is not seen at once what was taken by the
    dequeues whose outcome is unknown.
    """
    dequeues: dict[Hashable, Operation] = {}
    empties, unknown = [], []
    enqueues: dict[Hashable, Operation] = {}
    for each in operations:
        if each.op == "enqueue":
            if enqueues.setdefault(hashable(each.value), each) is not each:
                return None
        elif not each.ok:
            unknown.append(each)
        elif each.output is None:
            empties.append(each)
    for each in operations:
        if each.op == "dequeue" and each.ok and each.output is not None:
            value = hashable(each.output)
            put = enqueues.get(value)
            if put is None:
                return (each,)
            if value in dequeues:
                return (put, dequeues[value], each)
            if (each.return_ns or 0) < put.call_ns:
                return (put, each)
            dequeues[value] = each
    passages = [
        _Passage(put, _entered_ns(put, taken), taken)
        for value, put in enqueues.items()
        for taken in (dequeues.get(value),)
        # What never returned and was never seen need not have happened.
        if put.ok or taken is not None
    ]
    if not unknown:
        return _swapped(passages) or _not_empty(passages, empties)
    # What an unknown dequeue may have taken is left out, with it: what is left contradicts itself
    # only if everything does.
    left = [each for each in passages if each.dequeue is not None]
    conflict = _swapped(left) or _not_empty(left, empties)
    if not conflict:
        left += _taken(passages, empties, unknown)
        if _swapped(left) or _not_empty(left, empties):
            return None
    return conflict


def _taken(
    passages: Sequence[_Passage], empties: Sequence[Operation], unknown: Sequence[Operation]
) -> list[_Passage]:
    """Let the unknown dequeues, the first ones first, take what others would have met."""
    met_ns = max(
        [each.enqueue.call_ns for each in passages if each.dequeue is not None]
        + [each.call_ns for each in empties],
        default=0,
    )
    staying = sorted(
        (each for each in passages if each.dequeue is None), key=lambda each: each.entered_ns
    )
    takers = iter(sorted(unknown, key=lambda each: each.call_ns))
    return [
        evolve(each, dequeue=next(takers, None)) if each.entered_ns < met_ns else each
        for each in staying
    ]


def _entered_ns(put: Operation, taken: Operation | None) -> int:
    """Return the moment by which a value is in the queue at the latest."""
    moments = [each.return_ns for each in (put if put.ok else None, taken) if each is not None]
    return min(each for each in moments if each is not None)


def _swapped(passages: Sequence[_Passage]) -> Conflict:
    """Find two values of which the first to enter certainly left after the other."""
    entered = sorted(passages, key=lambda each: each.entered_ns)
    last: _Passage | None = None
    position = 0
    for each in sorted(passages, key=lambda each: each.enqueue.call_ns):
        while position < len(entered) and entered[position].entered_ns < each.enqueue.call_ns:
            if last is None or entered[position].leaves_after_ns > last.leaves_after_ns:
                last = entered[position]
            position += 1
        if last is not None and each.leaves_by_ns < last.leaves_after_ns:
            return (*last.operations, *each.operations)
    return ()


def _not_empty(passages: Sequence[_Passage], empties: Sequence[Operation]) -> Conflict:
    """Find a dequeue that found the queue empty, though some value was in it all the while."""
    entered = sorted(passages, key=lambda each: each.entered_ns)
    moments = [each.entered_ns for each in entered]
    stays: list[_Passage] = []
    for each in entered:
        longer = not stays or each.leaves_after_ns > stays[-1].leaves_after_ns
        stays.append(each if longer else stays[-1])
    for empty in empties:
        chain: list[_Passage] = []
        reached = empty.call_ns
        # Who was in by then, and stays longest? And who was in before that one could leave?
        while place := bisect_left(moments, reached):
            if stays[place - 1].leaves_after_ns <= reached:
                break
            chain.append(stays[place - 1])
            reached = chain[-1].leaves_after_ns
            if reached > (empty.return_ns or 0):
                return (*(each for passage in chain for each in passage.operations), empty)
    return ()
