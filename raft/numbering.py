"""Numbers for the commands of a session: what makes it safe to send one again.

Whoever writes within a session gives each command a number of its own, and the same one when
it sends it again; with each it says from which number on it still waits for answers. Here
are the values that say so, and a `Numbering` that keeps the account of one session. Nothing
here waits, and nothing knows of a network: `RaftClient` uses it, and so may an application
that embeds a node.

    opened = await node.open_session()
    numbering = Numbering(opened)
    call = numbering.next()
    result = await node.write(command, session=call)     # again with the same call, if need be
    numbering.answered(call.sequence)
"""

from __future__ import annotations

from typing import Final

from attrs import define, field, frozen

from raft.errors import BadCommand, Overloaded

SESSION_BYTES: Final = 16
"""The length of a session's id."""

FIRST_SEQUENCE: Final = 1
"""The number of a session's first command."""

SEQUENCE_END: Final = 1 << 63
"""Sequence numbers are below this."""


def checked_session(session: object) -> bytes:
    """Return a session's id; raise `BadCommand` where it is none."""
    if not isinstance(session, bytes) or len(session) != SESSION_BYTES:
        raise BadCommand(
            f"session is {session!r}; give the {SESSION_BYTES} bytes that opening it gave"
        )
    return session


@frozen
class SessionCall:
    """Where commands belong: a session, the number of the first one, and the low mark.

    Commands that are written together have consecutive numbers.

    Attributes:
        id: the session's, 16 bytes.
        sequence: the number of the (first) command.
        low_mark: the lowest number for which the caller has no answer yet. What was
            cancelled counts as answered.

    Raises:
        BadCommand: one of them is nothing of that kind.
    """

    id: bytes
    sequence: int
    low_mark: int

    def __attrs_post_init__(self) -> None:
        """Refuse what means nothing."""
        checked_session(self.id)
        for name, number in (("sequence", self.sequence), ("low_mark", self.low_mark)):
            # A bool would be a number too.
            if type(number) is not int or not 0 <= number < SEQUENCE_END:
                raise BadCommand(f"{name} is {number!r}; give a whole number, 0 or more")


@frozen
class OpenedSession:
    """A session as it was opened.

    Attributes:
        id: 16 bytes that name it, to any node of the cluster.
        timeout_seconds: without a command or a keep-alive for so long it ends.
        results: how many results the servers keep for it: who has more commands without
            answers than this may lose the result of one that it sends again.
        results_bytes: and how many bytes of them.
    """

    id: bytes
    timeout_seconds: float
    results: int
    results_bytes: int


@define(eq=False)
class Numbering:
    """The account of one session: which numbers were given out, and which are answered.

    Invariant: every number below `low_mark` is answered, and `low_mark` itself is not;
    `low_mark` <= `next_sequence`.

    Attributes:
        opened: the session.
        next_sequence: the number that the next command gets. An application that goes on
            with a session after its own restart gives the one it saved.
    """

    opened: OpenedSession
    next_sequence: int = FIRST_SEQUENCE
    low_mark: int = field(init=False)
    _answered: dict[int, int] = field(factory=dict, init=False)
    """Runs of answered numbers above the low mark: the first of each, and its end."""

    def __attrs_post_init__(self) -> None:
        """Begin with every number below the next one answered."""
        self.low_mark = self.next_sequence

    @property
    def room(self) -> int:
        """How many numbers may be given out before earlier ones are answered.

        As many as the servers keep results for are out at most, so that none is dropped for
        which a command may still be sent again.
        """
        return max(0, self.low_mark + self.opened.results - self.next_sequence)

    def next(self, count: int = 1) -> SessionCall:
        """Give out the next `count` numbers.

        Raises:
            Overloaded: so many are out that the result of one could be dropped before it is
                answered; see `room`.
        """
        if count > self.room:
            raise Overloaded(
                f"{self.next_sequence - self.low_mark} commands of the session have no answer; "
                f"it keeps {self.opened.results} results"
            )
        call = SessionCall(self.opened.id, self.next_sequence, self.low_mark)
        self.next_sequence += count
        return call

    def again(self, call: SessionCall) -> SessionCall:
        """Return `call` with the present low mark, to send its commands once more."""
        return SessionCall(call.id, call.sequence, max(call.low_mark, self.low_mark))

    def answered(self, sequence: int, count: int = 1) -> None:
        """Count `count` numbers from `sequence` on as answered, or as given up for good.

        What is told twice, or was never given out, is ignored.
        """
        end = min(sequence + count, self.next_sequence)
        if end <= self.low_mark:
            return
        runs = self._answered
        runs[sequence] = max(end, runs.get(sequence, 0))
        if sequence > self.low_mark:
            return
        self.low_mark = end
        # Runs are nearly always answered as they were given out, so that one begins where
        # another ends; only what was answered otherwise has to be searched for.
        while runs:
            end = runs.pop(self.low_mark, 0)
            if end > self.low_mark:
                self.low_mark = end
            elif not self._pass_overlapping():
                return

    def _pass_overlapping(self) -> bool:
        """Drop runs that begin below the low mark; raise it, and say so, where one reaches on."""
        runs, low_mark = self._answered, self.low_mark
        begun = [first for first in runs if first < low_mark]
        self.low_mark = max([low_mark, *(runs.pop(first) for first in begun)])
        return self.low_mark > low_mark
