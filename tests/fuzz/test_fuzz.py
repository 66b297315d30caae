"""Every way in, with inputs that are kept and with mutated ones [SECURITY 17, 42].

`python -m tests.fuzz.search` goes on from here, guided by coverage, for as long as one lets it.
"""

from __future__ import annotations

import functools
import math
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raft.envelope import Header, unwrap, wrap
from tests.fuzz import corpora
from tests.fuzz.targets import TARGETS

MEMORY_BYTES = 8 << 20
CALLS = 20_000
CALLS_OF_A_BYTE = 40


@functools.cache
def inputs(name: str) -> list[bytes]:
    return [*TARGETS[name].seeds(), *corpora.kept(name)]


@contextmanager
def counted_calls() -> Iterator[list[int]]:
    """Count the calls of functions in the block, those of C included: time that never varies."""
    count = [0]

    def profile(_frame: Any, event: str, _argument: Any) -> None:
        if event in ("call", "c_call"):
            count[0] += 1

    sys.setprofile(profile)
    try:
        yield count
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_once_is_taken_or_refused(name: str) -> None:
    """sc-N11: each input that reached code of its own, or did harm once."""
    found = inputs(name)
    assert found
    for octets in found:
        TARGETS[name].run(octets)


@pytest.mark.parametrize("name", TARGETS)
def test_a_search_begins_with_what_is_right(name: str) -> None:
    """Where formats have changed and seeds have not, a search would not get in."""
    taken = [TARGETS[name].run(octets) is not None for octets in TARGETS[name].seeds()]
    assert sum(taken) >= len(taken) // 2


@pytest.mark.parametrize("name", TARGETS)
def test_time_and_memory_go_by_the_size_of_an_input(name: str) -> None:
    """sc-N10, SECURITY 42: no input of a few bytes costs a long time, or much memory."""
    run = TARGETS[name].run
    for octets in inputs(name):
        run(octets)
        tracemalloc.start()
        run(octets)
        _, most_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most_bytes < MEMORY_BYTES, octets
        with counted_calls() as count:
            run(octets)
        assert count[0] < CALLS + CALLS_OF_A_BYTE * len(octets), octets


@st.composite
def mutated(draw: st.DrawFn, name: str) -> bytes:
    """Draw an input: a known one with pieces changed, repeated, dropped, or put in."""
    known = inputs(name)
    content = draw(st.sampled_from(known))
    words = [*TARGETS[name].words, b"\0", b"\xff\xff\xff\xff", b"\x7f\xff", b"\xc1"]
    pieces = st.one_of(
        st.sampled_from(words),
        st.binary(max_size=8),
        st.sampled_from(known).map(lambda other: other[len(other) // 3 : len(other) // 2]),
    )
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        gone = draw(st.integers(0, 12))
        content = content[:at] + draw(pieces) + content[at + gone :]
    return content


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_taken_or_refused(name: str) -> None:
    """sc-N11, SECURITY 17: no exception but the typed ones; what is taken is written as itself."""
    run = TARGETS[name].run

    @settings(
        max_examples=150,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated(name))
    def every(octets: bytes) -> None:
        run(octets)

    every()


def test_small_slices_of_a_section_take_no_longer_than_their_bytes() -> None:
    """SECURITY 42: a snapshot of crumbs held the reactor for half a minute."""

    def seconds(size_bytes: int) -> float:
        crumbs = b"\1\0\0\0x" * (size_bytes // 5)
        head = b"".join(wrap(Header(1, 2, sections=[("s", 1)]), []))
        best = math.inf
        for _ in range(3):
            content = unwrap(iter([head + crumbs + bytes(4)]), frozenset({("s", 1)}))
            began = time.process_time()
            assert sum(map(len, content.section())) == size_bytes // 5
            best = min(best, time.process_time() - began)
        return best

    # Four times the bytes: four times as long, and sixteen times where each slice copies the rest.
    assert seconds(1 << 18) < 10 * seconds(1 << 16)


def test_inputs_are_kept_for_targets_there_are_and_are_few() -> None:
    names = {path.stem for path in corpora.DIRECTORY.glob("*.txt")}
    assert names <= set(TARGETS)
    for name in TARGETS:
        assert sum(map(len, corpora.kept(name))) <= 2 * corpora.MOST_BYTES
