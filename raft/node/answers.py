"""Answers on their way to those who wait: all of a turn are given at its end.

What a caller does when it is answered is not known here: it may write again, cancel what
else it waits for, or stop the node. In the middle of a turn each of these would meet a
node that is half way; at its end they are ordinary calls, and belong to the next turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from attrs import Factory, define
from twisted.logger import Logger

from raft.errors import RaftError

_log = Logger()

Outcome = tuple[str, bytes]
"""One command's encoded result, as the replica gives it: (error code or "", MessagePack)."""

Answered = Callable[[list[Outcome] | RaftError], None]
"""Takes all outcomes of a batch in order, or the error of the whole; once."""


class Answerable(Protocol):
    """A batch that somebody waits for."""

    answered: bool

    def close(self) -> Answered:
        """Count as answered, keep nothing more, and return whom to tell."""


def nobody(_: list[Outcome] | RaftError) -> None:
    """Take the answer to what is answered already."""


def never() -> bool:
    """Tell that nothing is ever enough."""
    return False


@define(eq=False)
class Answers:
    """Answers that are found and not given yet."""

    _due: deque[tuple[Answered, list[Outcome] | RaftError]] = Factory(deque)

    def put(self, batch: Answerable, result: list[Outcome] | RaftError) -> None:
        """Answer `batch` at the end of the turn, unless it is answered already."""
        if not batch.answered:
            self._due.append((batch.close(), result))

    def give(self, enough: Callable[[], bool] = never) -> None:
        """Tell everybody, or those before it is `enough`; the others by the next call.

        What one of them raises is logged and harms nobody else.
        """
        while self._due and not enough():
            answer, result = self._due.popleft()
            try:
                answer(result)
            except Exception:
                _log.failure("An answer could not be given: this is a bug")
