"""What the published argument types and errors carry, and what they refuse."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.protocols import amp

from raft import errors
from raft.core.configuration import Configuration, Member
from raft.transport import commands
from raft.transport.arguments import (
    BadValue,
    LargeBytes,
    describe_error,
    error_from_description,
    pack_array,
    pack_commands,
    pack_configuration,
    pack_members,
    pack_plain,
    pack_results,
    unpack_commands,
    unpack_configuration,
    unpack_members,
    unpack_plain,
    unpack_results,
)

EXAMPLES: dict[type[errors.RaftError], errors.RaftError] = {
    errors.ConfigurationAbandoned: errors.ConfigurationAbandoned("d", "not heard"),
    errors.NotLeader: errors.NotLeader("b", "127.0.0.1:7002"),
    errors.Timeout: errors.Timeout(True),
    errors.CommandError: errors.CommandError("NO_MONEY", "3 left"),
    errors.CommandFailed: errors.CommandFailed("KeyError"),
    errors.CommandTooLarge: errors.CommandTooLarge(9, 8),
    errors.Diverged: errors.Diverged(7, False),
    errors.LogLost: errors.LogLost(7, 5),
    errors.StorageDamaged: errors.StorageDamaged("/x", 7, "restore it"),
}
EVERY_ERROR = [EXAMPLES.get(kind) or kind("a text") for kind in errors.BY_CODE.values()]


def same(one: errors.RaftError, other: errors.RaftError) -> bool:
    return type(one) is type(other) and all(
        getattr(one, fact) == getattr(other, fact) for fact in one.facts
    )


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: error.code)
def test_every_error_keeps_its_facts_as_an_answer_and_as_an_item(error: errors.RaftError) -> None:
    """The one table of outcomes is the same on the wire."""
    assert same(error_from_description(error.code, describe_error(error)), error)
    (item,) = unpack_results(pack_results([error]))
    assert same(item, error)
    # And a stock AMP with the published commands raises it as itself.
    rebuilt = commands.Write.reverseErrors[error.code.encode()](describe_error(error).decode())
    assert same(rebuilt, error)


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: error.code)
def test_a_stock_responder_answers_an_error_under_its_own_code(error: errors.RaftError) -> None:
    kinds = commands.Write.allErrors
    assert kinds[next(kind for kind in kinds if isinstance(error, kind))] == error.code.encode()


def test_a_description_stays_far_below_what_amp_takes() -> None:
    """FACTS 4: a description over 64 KiB would close the connection."""
    described = describe_error(errors.NotFound("x" * 100_000))
    assert len(described) <= 4096
    assert isinstance(error_from_description("NOT_FOUND", described), errors.NotFound)


@pytest.mark.parametrize("description", ["plain text", "[1]", "3", "null", "[" * 100_000])
def test_a_description_of_a_stranger_is_at_least_its_text(description: str) -> None:
    assert isinstance(error_from_description("NOT_FOUND", description), errors.NotFound)
    assert isinstance(error_from_description("NEW_CODE", description), errors.OutcomeUnknown)


@given(st.lists(st.binary(max_size=60), max_size=40))
def test_commands_round_trip(items: list[bytes]) -> None:
    assert unpack_commands(pack_commands(items)) == items


@pytest.mark.parametrize("count", [0, 1, 15, 16, 300, 65535, 65536])
def test_an_array_of_packed_items_is_messagepack(count: int) -> None:
    assert msgspec.msgpack.decode(pack_array([b"\x07"] * count)) == [7] * count


@given(st.lists(st.none() | st.integers(-(1 << 63), (1 << 63) - 1) | st.text() | st.binary()))
def test_results_round_trip(values: list[Any]) -> None:
    assert unpack_results(pack_results(map(pack_plain, values))) == values


@given(
    st.builds(
        Configuration,
        st.lists(st.builds(Member, *[st.text(max_size=9)] * 4, st.booleans()), max_size=4),
        st.frozensets(st.text(max_size=9), max_size=3),
    )
)
def test_configurations_and_members_round_trip(configuration: Configuration) -> None:
    assert unpack_configuration(pack_configuration(configuration)) == configuration
    assert unpack_members(pack_members(configuration.members)) == configuration.members


def test_a_member_needs_nothing_but_its_id_and_unknown_keys_are_left_alone() -> None:
    """sc-U3."""
    assert unpack_members(pack_plain([{"id": "a", "newer": 1}])) == (Member("a"),)


@given(
    st.one_of(
        st.binary(max_size=60),
        st.just(b"\x91" * 100_000),
        st.sampled_from([b"\x81\x90\x01", b"\xa1\xff", b"\x91\x92\xa1\xff\x01"]),
        st.just(b"\xc7\x0c\xff" + b"\xff" * 12),
    )
)
def test_no_bytes_raise_anything_but_bad_value(packed: bytes) -> None:
    """SECURITY 42: every decoder refuses in its own type, at any depth."""
    for unpack in (
        unpack_commands,
        unpack_results,
        unpack_configuration,
        unpack_members,
        unpack_plain,
    ):
        try:
            unpack(packed)
        except BadValue:
            continue


def test_large_bytes_spread_over_numbered_keys() -> None:
    """A1."""
    argument, box = LargeBytes(), amp.AmpBox()
    argument.toBox(b"name", box, {"name": b"x" * 130_001}, None)
    assert {key: len(value) for key, value in box.items()} == {
        b"name": 65_000,
        b"name.1": 65_000,
        b"name.2": 1,
    }
    found: dict[str, object] = {}
    argument.fromBox(b"name", box, found, None)
    assert found == {"name": b"x" * 130_001}


def test_large_bytes_may_be_left_out_only_where_that_is_declared() -> None:
    found: dict[str, object] = {}
    LargeBytes(optional=True).fromBox(b"name", {}, found, None)
    assert found == {"name": None}
    with pytest.raises(KeyError):
        LargeBytes().fromBox(b"name", {}, found, None)
    with pytest.raises(TypeError, match="name must be bytes, got str"):
        LargeBytes().toBox(b"name", {}, {"name": "text"}, None)
