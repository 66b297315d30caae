"""What an error says of the copy that was sent: whether the command may be sent again.

Within a session any command may be sent again: it takes effect once. What has to be told
apart is what is an answer, what is certainly not in the log, and what may be in it; for
a session that is gone takes its memory with it, and a caller whose time is over wants to know.
"""

from __future__ import annotations

from enum import Enum, auto

from raft.errors import (
    NotApplied,
    OutcomeUnknown,
    Refused,
    ResultDropped,
    SessionExpired,
    StaleSequence,
    Timeout,
)


class Meaning(Enum):
    """What becomes of a command of a session after an error."""

    FINAL = auto()
    """This is its answer."""
    AGAIN = auto()
    """This copy is certainly not in the log; send it again."""
    DOUBT = auto()
    """This copy may be in the log; send it again."""
    ENDED = auto()
    """The session is gone; this copy was not executed."""


def meaning(error: BaseException) -> Meaning:
    """Return what `error` says; what is not foreseen promises nothing."""
    match error:
        case SessionExpired():
            return Meaning.ENDED
        case StaleSequence() | ResultDropped() | Refused():
            return Meaning.FINAL
        case NotApplied():
            return Meaning.AGAIN
        case Timeout():
            return Meaning.DOUBT if error.appended else Meaning.AGAIN
        case _:
            return Meaning.DOUBT


def outcome(error: BaseException, in_doubt: bool) -> BaseException:
    """Return what a refusal of a whole box is for its commands.

    One that was sent before may have been carried out then, whatever is said of it now.
    """
    if not in_doubt:
        return error
    unknown = OutcomeUnknown(f"it was sent before without an answer, and is refused now: {error}")
    unknown.__cause__ = error
    return unknown
