"""The inputs that are kept: one file for each target, one input a line, in base64."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import raft

PACKAGE = os.path.dirname(raft.__file__) + os.sep
DIRECTORY = Path(__file__).parent / "corpus"
MOST_BYTES = 8192
"""How much of one target's is kept."""


def kept(target: str) -> list[bytes]:
    """Return the inputs that are kept for `target`."""
    path = DIRECTORY / f"{target}.txt"
    return [base64.b64decode(line) for line in path.read_text().split()] if path.exists() else []


def cover(
    run: Callable[[bytes], object], seeds: Iterable[bytes], inputs: Iterable[bytes]
) -> list[bytes]:
    """Return those of `inputs`, smallest first, that reach lines nothing before them reaches."""
    reached: set[tuple[str, int]] = set()
    for octets in seeds:
        reached |= _lines(run, octets)
    chosen = []
    for octets in sorted(set(inputs), key=lambda each: (len(each), each)):
        lines = _lines(run, octets)
        if not lines <= reached:
            reached |= lines
            chosen.append(octets)
    return chosen


def _lines(run: Callable[[bytes], object], octets: bytes) -> set[tuple[str, int]]:
    """Return the package's lines that an input reaches."""
    steps: set[tuple[str, int]] = set()

    def within(frame: Any, event: str, _argument: object) -> Any:
        steps.add((frame.f_code.co_filename, frame.f_lineno))
        return within

    def entered(frame: Any, event: str, _argument: object) -> Any:
        return within if PACKAGE in frame.f_code.co_filename else None

    sys.settrace(entered)
    try:
        run(octets)
    finally:
        sys.settrace(None)
    return steps


def keep(target: str, inputs: Iterable[bytes]) -> int:
    """Keep `inputs` besides those that are kept, as far as there is room; return how many."""
    chosen = set(kept(target))
    size_bytes = sum(map(len, chosen))
    for each in inputs:
        size_bytes += len(each)
        if size_bytes > MOST_BYTES:
            break
        chosen.add(each)
    lines = sorted(base64.b64encode(each).decode() for each in chosen if each)
    (DIRECTORY / f"{target}.txt").write_text("".join(f"{line}\n" for line in lines))
    return len(lines)
