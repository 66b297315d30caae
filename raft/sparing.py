"""A log for what others may cause as often as they like: so many lines, and a count of the rest.

Whoever can send bytes could otherwise fill a disk with complaints about them [SECURITY 5.1].
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from attrs import Factory, define
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

BURST_LINES: Final = 20
"""So many lines of one kind may follow each other at once."""
SECONDS_A_LINE: Final = 6.0
"""One more may be written each time this has passed."""
MOST_KINDS: Final = 256

_LEFT_OUT: Final = " ({left_out} lines like this one were left out before it)"


@define
class _Kind:
    """Lines of one format about one thing."""

    allowed: float
    at: float
    left_out: int = 0


@define(eq=False)
class SparingLog:
    """Writes warnings of each kind at a bounded rate: a burst, then one in a while.

    A kind is a format, and what it is `about` where some are to be heard apart from others: give
    that only ids that few can have, as those of members. A line that follows others that were left
    out says how many.

    Attributes:
        logger: where lines go.
        clock: monotonic seconds.
        left_out_count: lines that were not written, in all.
    """

    logger: Logger
    clock: Callable[[], float] = time.monotonic
    left_out_count: int = 0
    _kinds: dict[tuple[str, str], _Kind] = Factory(dict)

    def warn(self, format: str, about: str = "", **fields: object) -> None:
        """Log `format` with `fields` as a warning, or count it."""
        self._emit(LogLevel.warn, format, about, fields)

    def tell(self, format: str, about: str = "", **fields: object) -> None:
        """Log `format` with `fields` as information, or count it."""
        self._emit(LogLevel.info, format, about, fields)

    def failure(self, format: str, failure: Failure, **fields: object) -> None:
        """Log a failure with its traceback, or count it."""
        self._emit(LogLevel.critical, format, "", {**fields, "log_failure": failure})

    def _emit(self, level: LogLevel, format: str, about: str, fields: dict[str, object]) -> None:
        kind = self._kind(format, about)
        if kind.allowed < 1.0:
            kind.left_out += 1
            self.left_out_count += 1
            return
        kind.allowed -= 1.0
        if kind.left_out:
            fields["left_out"], kind.left_out = kind.left_out, 0
            format += _LEFT_OUT
        self.logger.emit(level, format, **fields)

    def _kind(self, format: str, about: str) -> _Kind:
        now = self.clock()
        kind = self._kinds.get((format, about))
        if kind is None:
            if len(self._kinds) >= MOST_KINDS:
                # Too many to tell them apart: from here on these are one kind.
                about = ""
            kind = self._kinds.setdefault((format, about), _Kind(BURST_LINES, now))
        # A clock that was set back gives nothing, and takes nothing away.
        kind.allowed = min(BURST_LINES, kind.allowed + max(0.0, now - kind.at) / SECONDS_A_LINE)
        kind.at = now
        return kind
