"""What a machine did wrong, in words for whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from attrs import frozen

from raft.codec import PLAIN, Codec
from raft.errors import RaftError, from_wire
from raft.outcomes import Result

SHOWN_CHARACTERS: Final = 300
"""How much of a value a report shows."""

NOT_DETERMINISTIC: Final = (
    "What differs was not decided by the log: look for a clock, chance, the order of a set, hash() "
    "or id(), the environment, or something that snapshot() leaves out. `context` has time, random "
    "and uuid that are the same everywhere; sorted() makes an order of a set."
)
HALF_CHANGED: Final = (
    "A command that raises must leave the state as it was: check everything first, then change."
)
QUERY_CHANGES: Final = "A query must change nothing: it runs on one server only."
DIFFERENT_BYTES: Final = (
    "Where the bytes of snapshots may differ though their content is the same, give state=, a "
    "function from a machine to a value to compare."
)


class MachineFault(AssertionError):
    """The machine breaks a promise of `IStateMachine`; the text tells which, and where.

    Attributes:
        kind: "result", "state", "exception", "query", "snapshot" or "stopped".
        index: of the entry (or the command, from 1 on) at which it showed, or 0.
        command: that command, or None.
    """

    def __init__(self, kind: str, text: str, index: int = 0, command: object = None) -> None:
        super().__init__(text)
        self.kind, self.index, self.command = kind, index, command

    def replayed_by(self, line: str) -> MachineFault:
        """Return the same with a line that tells how to see it again."""
        return MachineFault(self.kind, f"{self}\n\n{line}", self.index, self.command)


@frozen
class Words:
    """Words values and outcomes as the application would write them."""

    codec: Codec = PLAIN

    def command(self, payload: bytes) -> object:
        """Return the command in `payload`, as well as it can be read."""
        return _read(self.codec.decode_trusted, payload)

    def outcome(self, outcome: Result) -> str:
        """Return a result, or an error with its facts."""
        code, encoded = outcome
        if not code:
            return shown(_read(self.codec.decode_result, encoded))
        facts = _read(PLAIN.decode_trusted, encoded)
        error = from_wire(code, facts if isinstance(facts, dict) else {})
        return f"{type(error).__name__}: {error}"


def _read(decode: Callable[[bytes], Any], encoded: bytes) -> object:
    try:
        return decode(encoded)
    except (RaftError, msgspec.MsgspecError, ValueError, TypeError):
        return encoded


def shown(value: object) -> str:
    """Return the value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Return lines of names and what belongs to them."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"    {name.ljust(width)}  {text}" for name, text in rows)


def first_difference(one: object, other: object) -> tuple[str, str]:
    """Return what the two show where they first differ; states may be long."""
    if not isinstance(one, bytes) or not isinstance(other, bytes):
        return shown(one), shown(other)
    pairs = zip(one, other, strict=False)
    at = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    begin = max(0, at - 40)
    return _around(one, begin), _around(other, begin)


def _around(content: bytes, begin: int) -> str:
    text = repr(content[begin : begin + 120])
    before = f"... from byte {begin} " if begin else ""
    return f"{before}{text}{'...' if len(content) > begin + 120 else ''} ({len(content)} bytes)"
