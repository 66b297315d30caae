"""What targets have in common: the finding, and the ear for what is logged as an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.logger import LogLevel, globalLogPublisher


class Finding(Exception):
    """Something happened at bytes from outside that must not."""


def check(so: object, text: str) -> None:
    """Raise a `Finding` unless it is so."""
    if not so:
        raise Finding(text)


@contextmanager
def no_failure_logged() -> Iterator[None]:
    """Raise a `Finding` where a failure, or an error, is logged within the block."""
    heard: list[Any] = []

    def observe(event: Any) -> None:
        if event.get("log_failure") is not None or event.get("log_level", LogLevel.info) in (
            LogLevel.error,
            LogLevel.critical,
        ):
            heard.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observe)
    if heard:
        failure = heard[0].get("log_failure")
        raise Finding(failure.getTraceback() if failure is not None else str(heard[0]))


class Source:
    """Takes choices off the front of an input, and the rest as it is."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def byte(self) -> int:
        first, self._octets = self._octets[:1], self._octets[1:]
        return first[0] if first else 0

    def rest(self) -> bytes:
        return self._octets


SEPARATOR = b"\xfe\n"
"""Between the fields of a box in an input: lengths would be in the way of a search."""


def fields(octets: bytes) -> list[tuple[bytes, bytes]]:
    """Read `key=value` pieces as the fields of a box."""
    found = []
    for piece in octets.split(SEPARATOR):
        key, _, value = piece.partition(b"=")
        if 0 < len(key) < 256 and len(value) < 65536:
            found.append((key, value))
    return found


def as_input(pairs: dict[bytes, bytes] | list[tuple[bytes, bytes]]) -> bytes:
    """Write fields as `fields` reads them."""
    items = pairs.items() if isinstance(pairs, dict) else pairs
    return SEPARATOR.join(b"%b=%b" % each for each in items)
