"""A client's box in parts: what is refused by itself, and what is too much for one proposal.

Nearly every box is one part, and costs one look at its sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from attrs import Factory, define

from raft.errors import RaftError
from raft.node.answers import Answered, Outcome

PART_BYTES = 1 << 20
"""Commands of one part: followers get them in messages of this order, however uneven they are."""


def outcome_of(error: RaftError) -> Outcome:
    """Return the outcome of one command that `error` is."""
    return error.code, msgspec.msgpack.encode(error.to_wire())


def checked(
    payloads: list[bytes], check: Callable[[bytes], None]
) -> tuple[list[bytes], dict[int, Outcome]]:
    """Return the payloads that pass `check`, and the outcomes of the others by position."""
    try:
        for payload in payloads:
            check(payload)
    except RaftError:
        return _sorted_out(payloads, check)
    return payloads, {}


def _sorted_out(
    payloads: list[bytes], check: Callable[[bytes], None]
) -> tuple[list[bytes], dict[int, Outcome]]:
    refused: dict[int, Outcome] = {}
    for position, payload in enumerate(payloads):
        try:
            check(payload)
        except RaftError as error:
            refused[position] = outcome_of(error)
    return [each for at, each in enumerate(payloads) if at not in refused], refused


def parts_of(payloads: list[bytes]) -> Iterator[list[bytes]]:
    """Cut `payloads` into parts of at most `PART_BYTES`, at least one payload each."""
    begin = size_bytes = 0
    for at, payload in enumerate(payloads):
        size_bytes += len(payload)
        if size_bytes > PART_BYTES and at > begin:
            yield payloads[begin:at]
            begin, size_bytes = at, len(payload)
    yield payloads[begin:]


@define(eq=False)
class Gathering:
    """Puts the outcomes of parts, and of what was refused before, into one answer.

    Where every part failed as a whole and alike, with nothing refused before, that error is the
    answer: a redirect, above all. Otherwise each command has an outcome of its own: one part
    may be refused for certain, and another one be in the log.
    """

    answer: Answered
    refused: dict[int, Outcome]
    sizes: list[int] = Factory(list)
    results: dict[int, list[Outcome] | RaftError] = Factory(dict)

    def part(self, size: int) -> Answered:
        """Return what takes the result of one more part, of `size` commands."""
        number = len(self.sizes)
        self.sizes.append(size)

        def take(result: list[Outcome] | RaftError) -> None:
            self.results[number] = result
            if len(self.results) == len(self.sizes):
                self._finish()

        return take

    def _finish(self) -> None:
        ordered = [self.results[number] for number in range(len(self.sizes))]
        errors = [result for result in ordered if isinstance(result, RaftError)]
        if len(errors) == len(ordered) and not self.refused:
            first = outcome_of(errors[0])
            if all(outcome_of(error) == first for error in errors[1:]):
                self.answer(errors[0])
                return
        found: list[Outcome] = []
        for size, result in zip(self.sizes, ordered, strict=True):
            found += [outcome_of(result)] * size if isinstance(result, RaftError) else result
        for position in sorted(self.refused):
            found.insert(position, self.refused[position])
        self.answer(found)
