"""What becomes of a command, encoded: the machine's results, and what its exceptions mean.

What a machine's exception means is decided here and nowhere else:

- `CommandError` is a result like any other;
- MemoryError, RecursionError, OSError and whatever is no `Exception` are troubles of this
  one machine: this node stops with `StateMachineFailed`, the others go on;
- anything else is the same on every server, hence a result: `CommandFailed` with the
  class name. A machine with `stop_on_error = True` stops the node instead, and so every node.
"""

from __future__ import annotations

import traceback
from typing import Final

import msgspec
from twisted.logger import Logger

from raft.codec import DECODE_ERRORS, ENCODE_ERRORS, Codec
from raft.digest import SHORT_BYTES, Digest
from raft.errors import (
    BadCommand,
    CommandError,
    CommandFailed,
    NodeFailed,
    RaftError,
    StateMachineFailed,
)
from raft.interfaces import Value

Result = tuple[str, bytes]
"""An outcome, encoded: ("", the result) or (an error's code, its facts as a dict)."""

NOTHING: Final[Result] = ("", b"\xc0")
"""The result None."""

LOCAL_ERRORS: Final = (MemoryError, RecursionError, OSError)
"""Exceptions that say something about this computer and nothing about the command."""

_LOGGED_LIMIT = 256

_log = Logger()


class Outcomes:
    """Encodes outcomes, and tells the digest of them.

    Attributes:
        digest: of what the servers of a cluster must share.
        errors: how many commands ended with an error.
    """

    __slots__ = ("_codec", "_logged", "_stop_on_error", "digest", "errors")

    def __init__(self, codec: Codec, stop_on_error: bool) -> None:
        self._codec = codec
        self._stop_on_error = stop_on_error
        self._logged: set[str] = set()
        self.digest = Digest()
        self.errors = 0

    def encoded(self, result: Value) -> Result:
        """Return the outcome that is `result`."""
        try:
            return "", self._codec.encode_result(result)
        except ENCODE_ERRORS:
            # The command took effect; only its result cannot travel. That the result is
            # wrong on every server alike must not stop one after the other.
            return encoded_error(CommandFailed(f"{type(result).__name__} as a result"))

    def answered(self, result: Value, index: int, is_wanted: bool = True) -> Result:
        """Tell the digest that entry `index` had `result`; return that outcome, where `is_wanted`.

        A dict has no order in which two servers would have to agree: one may have been restored.
        """
        if (type(result) is str or type(result) is bytes) and len(result) <= SHORT_BYTES:
            # Nobody can change it any more.
            self.digest.told += (index, result)
            return self.encoded(result) if is_wanted else NOTHING
        try:
            content = self._codec.encode_canonical(result)
        except ENCODE_ERRORS:
            # Keys of several types have no order; or there is nothing that could travel.
            code, content = outcome = self.encoded(result)
            self.digest.answered(index, code.encode() or content)
            return outcome
        self.digest.answered(index, content)
        return self.encoded(result) if is_wanted else NOTHING

    def refused(self, error: RaftError, index: int) -> Result:
        """Return the outcome of entry `index` that is `error`; count it, and tell the digest."""
        self.errors += 1
        self.digest.refused(index, error)
        return encoded_error(error)

    def failed(self, error: BaseException, index: int, payload: bytes) -> Result:
        """Return the outcome that the machine's exception is.

        Raises:
            NodeFailed: the exception says that this node must stop.
        """
        if isinstance(error, NodeFailed):
            raise error
        if isinstance(error, CommandError):
            return self.refused(error, index)
        if isinstance(error, DECODE_ERRORS) and self._is_unreadable(payload):
            return self.refused(BadCommand("the command in the log cannot be decoded"), index)
        if (
            self._stop_on_error
            or isinstance(error, LOCAL_ERRORS)
            or not isinstance(error, Exception)
        ):
            _log.error(
                "The machine failed at entry {index}, this node stops: {exception} at {where}",
                index=index,
                exception=type(error).__name__,
                where=where(error),
            )
            raise StateMachineFailed(
                f"{type(error).__name__} at entry {index}, a command of {len(payload)} bytes,"
                f" {where(error)}; {self._remedy(error, index)}"
            ) from error
        self.log_unforeseen(error, index)
        return self.refused(CommandFailed(type(error).__name__), index)

    def _remedy(self, error: BaseException, index: int) -> str:
        every = (
            f"if every server stops at it: run a release that can apply it, or raft skip {index}"
        )
        if isinstance(error, LOCAL_ERRORS) or not isinstance(error, Exception):
            return f"see to this computer and start the server again; {every}"
        return f"the machine says stop_on_error; {every}"

    def _is_unreadable(self, payload: bytes) -> bool:
        # The hot path has one try for decoding and applying; this tells the two apart.
        try:
            self._codec.decode_trusted(payload)
        except DECODE_ERRORS:
            return True
        return False

    def log_unforeseen(self, error: Exception, index: int) -> None:
        """Log the place of an exception that the machine had not foreseen.

        Neither the exception's text nor the command: both may hold what must not be in
        logs. Each place is told once; a broken command may come a million times.
        """
        place = where(error)
        level = _log.debug if place in self._logged else _log.warn
        if len(self._logged) < _LOGGED_LIMIT:
            self._logged.add(place)
        level(
            "The machine raised {exception} at entry {index}, in {where}; the command failed",
            exception=type(error).__name__,
            index=index,
            where=place,
        )


def where(error: BaseException) -> str:
    """Return file and line of the machine's own frame that raised, without any text."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"


def encoded_error(error: RaftError) -> Result:
    """Return the outcome that is `error`."""
    # The reason and detail of a CommandError are the application's, and may be anything.
    facts = {
        name: fact if fact is None or isinstance(fact, (bool, int)) else str(fact)
        for name, fact in error.to_wire().items()
    }
    return error.code, msgspec.msgpack.encode(facts)
