"""Batches of one turn become few proposals, and each is still answered for itself."""

from __future__ import annotations

import pytest

from raft.errors import InvariantViolated, RaftError, Superseded
from raft.node.answers import Answers, Outcome
from raft.node.writes import GROUP_BYTES, Batch, Writes, groups_of
from raft.storage.records import HEADER_BYTES

Told = dict[str, list[Outcome] | RaftError]


def batch_of(told: Told, name: str, *payloads: bytes) -> Batch:
    return Batch(list(payloads), 10.0, lambda result: told.update({name: result}))


def proposed(writes: Writes, *batches: Batch) -> int:
    """Propose `batches` as one; return how many commands that is."""
    (group,) = groups_of(list(batches))
    writes.proposed[1] = group
    return group.count


def test_batches_are_joined_in_their_order() -> None:
    told: Told = {}
    batches = [batch_of(told, str(number), b"%d" % number, b"x") for number in range(5)]
    (group,) = groups_of(batches)
    assert group.batches == batches
    assert group.payloads == [b"0", b"x", b"1", b"x", b"2", b"x", b"3", b"x", b"4", b"x"]
    assert group.count == 10
    assert group.size_bytes == 10 * (1 + HEADER_BYTES)


def test_a_group_is_bounded_unless_one_batch_is_larger() -> None:
    told: Told = {}
    half = b"x" * (GROUP_BYTES // 2)
    sizes = [half, half, b"x", b"x" * (2 * GROUP_BYTES), b"x"]
    groups = groups_of([batch_of(told, str(at), each) for at, each in enumerate(sizes)])
    assert [len(group.batches) for group in groups] == [1, 2, 1, 1]
    joined = [group for group in groups if len(group.batches) > 1]
    assert all(group.size_bytes <= GROUP_BYTES for group in joined)
    assert groups_of([]) == []


def test_each_batch_of_a_group_gets_its_own_outcomes() -> None:
    told: Told = {}
    writes = Writes(Answers())
    a, b, c = batch_of(told, "a", b"1"), batch_of(told, "b", b"2", b"3"), batch_of(told, "c", b"4")
    writes.accepted(1, 7, 7 + proposed(writes, a, b, c), 2)
    assert [(each.start, each.end, each.term) for each in (a, b, c)] == [
        *((7, 8, 2), (8, 10, 2), (10, 11, 2))
    ]
    outcomes = [("", b"%d" % index) for index in range(7, 11)]
    writes.applied(7, outcomes[:2])
    writes.answers.give()
    assert told == {"a": outcomes[:1]}
    writes.applied(9, outcomes[2:])
    writes.answers.give()
    assert told == {"a": outcomes[:1], "b": outcomes[1:3], "c": outcomes[3:]}


def test_a_batch_of_a_group_that_another_leader_replaced_is_superseded_alone() -> None:
    """L9: only what stands in another leader's place is definitely not applied."""
    told: Told = {}
    writes = Writes(Answers())
    a, b = batch_of(told, "a", b"1"), batch_of(told, "b", b"2")
    writes.accepted(1, 7, 7 + proposed(writes, a, b), 2)
    writes.truncated(8)
    writes.settle_replaced(9, 3, lambda _: 3)
    writes.applied(7, [("", b"7")])
    writes.answers.give()
    assert told["a"] == [("", b"7")]
    assert isinstance(told["b"], Superseded)


def test_a_group_that_does_not_fill_its_entries_stops_the_node() -> None:
    told: Told = {}
    writes = Writes(Answers())
    proposed(writes, batch_of(told, "a", b"1"))
    with pytest.raises(InvariantViolated):
        writes.accepted(1, 7, 9, 2)
