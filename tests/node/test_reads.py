"""Which reads may be answered from which state: the account of one server's reads, by hand."""

from __future__ import annotations

import math

import pytest

from raft.interfaces import ReadTerms
from raft.node.answers import Answers
from raft.node.reads import ReadBatch, Reads


def batch(**terms: object) -> ReadBatch:
    return ReadBatch([b"q"], 100.0, lambda _: None, ReadTerms(**terms))  # type: ignore[arg-type]


def asked(*batches: ReadBatch, lease: bool = False) -> Reads:
    """Return the reads of a server that has asked the core about `batches`, as request 1."""
    reads = Reads(Answers())
    for each in batches:
        reads.queue(each)
    assert reads.ask(1, lease)
    return reads


def test_a_read_waits_for_its_index_and_for_the_caller_s() -> None:
    """R5, R10: whichever is higher, and each in its own time."""
    plain, later = batch(), batch(min_index=9)
    reads = asked(plain, later)
    reads.confirm(1, 5)
    assert reads.ready(4) == []
    assert reads.ready(5) == [plain]
    assert reads.ready(8) == []
    assert reads.ready(9) == [later]
    assert reads.ready(9) == []
    assert (plain.index, later.index) == (5, 9)


def test_a_min_index_that_is_reached_asks_for_no_more_than_any_read() -> None:
    """R10."""
    read = batch(min_index=3)
    reads = asked(read)
    reads.confirm(1, 5)
    assert reads.ready(4) == []
    assert reads.ready(5) == [read]


def test_a_lease_that_ended_before_the_answer_asks_a_quorum() -> None:
    """R9: the clock is read immediately before the answer."""
    early, late = batch(consistency="lease"), batch(consistency="lease")
    for read, now, answered in ((early, 1.9, True), (late, 2.0, False)):
        reads = asked(read, lease=True)
        reads.confirm(1, 5, valid_until=2.0)
        found = reads.ready(5, lambda now=now: now)  # type: ignore[misc]
        assert (found == [read]) is answered
        assert (reads.queued == [read]) is not answered


@pytest.mark.parametrize(
    ("age", "applied", "answered"), [(0.5, 7, True), (0.6, 7, False), (0.5, 6, False)]
)
def test_a_bounded_read_waits_for_a_state_that_is_new_enough(
    age: float, applied: int, answered: bool
) -> None:
    """R10: by its age and by the caller's index, and it tells both."""
    read = batch(consistency="bounded", max_age_seconds=0.5, min_index=7)
    reads = Reads(Answers())
    reads.queue(read)
    assert not reads.ask(1)
    assert (reads.ready(applied, age_seconds=lambda: age) == [read]) is answered
    if answered:
        assert (read.index, read.age_seconds) == (applied, age)
        assert reads.local == []
    else:
        assert reads.ready(8, age_seconds=lambda: 0.0) == [read]


def test_a_local_read_has_any_age() -> None:
    """R10."""
    read = batch(consistency="local")
    reads = Reads(Answers())
    reads.queue(read)
    assert reads.ready(0, age_seconds=lambda: math.inf) == [read]
    assert read.age_seconds == math.inf


@pytest.mark.parametrize(
    ("terms", "anywhere"),
    [
        ({}, False),
        ({"consistency": "lease"}, False),
        ({"consistency": "linearizable"}, True),
        ({"consistency": "local"}, True),
        ({"consistency": "bounded", "max_age_seconds": 1.0}, True),
    ],
)
def test_who_may_answer_which_read(terms: dict[str, object], anywhere: bool) -> None:
    """R8, R9: a lease is the leader's alone, and who asks for nothing gets a redirect."""
    assert batch(**terms).terms.on_any_node is anywhere
