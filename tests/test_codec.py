"""Plain values to bytes and back, and all that is refused."""

from __future__ import annotations

import datetime
import math
import random
import sys
import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.codec import DEPTH_LIMIT, PLAIN, Codec, is_deeper, least_bytes
from raft.errors import BadCommand, CommandTooLarge

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=5)
    ),
    max_leaves=20,
)


def nested(depth: int, inside: object = 1) -> object:
    """Return `inside` in `depth` lists."""
    for _ in range(depth):
        inside = [inside]
    return inside


def depth_of(value: object) -> int:
    """Return how deep lists and dicts nest: what the scan of the bytes must agree with."""
    if isinstance(value, dict):
        inner = [*value.keys(), *value.values()]
    elif isinstance(value, list):
        inner = value
    else:
        return 0
    return 1 + max(map(depth_of, inner), default=0)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_a_plain_value_comes_back_equal(value: object) -> None:
    assert PLAIN.decode(PLAIN.encode(value)) == value


def test_not_a_number_is_a_value() -> None:
    decoded = PLAIN.decode(PLAIN.encode(float("nan")))
    assert isinstance(decoded, float)
    assert math.isnan(decoded)


def test_a_tuple_arrives_as_a_list() -> None:
    assert PLAIN.decode(PLAIN.encode(("set", "k", (1, 2)))) == ["set", "k", [1, 2]]


def itself() -> list[object]:
    """Return a list that holds itself."""
    value: list[object] = []
    value.append(value)
    return value


def laughing(levels: int) -> object:
    """Return a value of a few lists whose bytes are ten to the `levels`."""
    value: object = "ha"
    for _ in range(levels):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    "value",
    [
        # Zeros that nobody has touched take no memory.
        ["put", "key", bytes(1 << 30)],
        "x" * 6_000_000,
        ["put", {"key": [b"x" * 3_000_000, b"y" * 3_000_000]}],
        [bytearray(6_000_000)],
        {"x" * 6_000_000: 1},
        [[["text"] * 50_000] * 100],
        laughing(9),
    ],
    ids=["gigabyte", "text", "together", "bytearray", "key", "one thing often", "laughs"],
)
def test_what_is_too_large_is_refused_before_it_is_encoded(value: object) -> None:
    """sc-O4: whatever its size, refusing it takes no memory that goes by it."""
    tracemalloc.start()
    with pytest.raises(CommandTooLarge) as caught:
        PLAIN.encode(value)
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.size_bytes > caught.value.limit_bytes == PLAIN.limit_bytes
    # Lists are looked into by references, 8 bytes each, never more of them than the limit.
    assert most_bytes < 12 * PLAIN.limit_bytes


def test_what_is_near_the_limit_is_measured_by_its_bytes() -> None:
    codec = Codec(limit_bytes=100)
    assert len(codec.encode("x" * 98)) == 100
    with pytest.raises(CommandTooLarge, match="101"):
        codec.encode("x" * 99)
    with pytest.raises(CommandTooLarge):
        codec.encode(["é" * 40, "é" * 40])
    assert codec.encode([[], {}, ["a" * 30], {"k": (b"v",)}])


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_no_value_is_taken_for_larger_than_it_is(value: object) -> None:
    assert least_bytes(value, 1 << 40, 100) <= len(msgspec.msgpack.encode(value))


@pytest.mark.parametrize(
    "value",
    [2**64, -(2**63) - 1, object(), "\ud800", itself(), [1, {"deep": object()}], 1j],
    ids=["int too large", "int too small", "object", "surrogate", "itself", "inner", "complex"],
)
def test_what_is_no_plain_value_cannot_be_encoded(value: object) -> None:
    with pytest.raises(BadCommand):
        PLAIN.encode(value)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x92\x01",
        b"\x01\x01",
        b"\xa2\xff\xfe",
        b"\x81\x81\x01\x02\x03",
        b"\xc7\x01\x05a",
        b"\xd7\xff" + b"\xff" * 8,
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ],
    ids=[
        "nothing",
        "no such byte",
        "cut",
        "more behind",
        "no UTF-8",
        "a dict as a key",
        "an extension",
        "an impossible time",
        "4 Gi items",
        "4 GiB",
    ],
)
def test_bytes_that_are_no_whole_value_are_refused(payload: bytes) -> None:
    with pytest.raises(BadCommand):
        PLAIN.decode(payload)
    with pytest.raises(BadCommand):
        PLAIN.decode_result(payload)


def test_refusals_do_not_quote_the_value() -> None:
    """SECURITY 32: a payload never reaches a log, not by way of an error's text either."""
    with pytest.raises(BadCommand) as caught:
        PLAIN.decode(b"\xa8canary\xff\xfe")
    assert "canary" not in str(caught.value)


def test_a_timestamp_arrives_as_a_datetime() -> None:
    moment = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    assert PLAIN.decode(PLAIN.encode(moment)) == moment


def test_nesting_up_to_the_limit_passes_and_one_more_is_refused() -> None:
    padding = "x" * 100
    assert PLAIN.decode(PLAIN.encode(nested(DEPTH_LIMIT, padding))) == nested(DEPTH_LIMIT, padding)
    with pytest.raises(BadCommand, match="nest deeper than 32"):
        PLAIN.encode(nested(DEPTH_LIMIT + 1, padding))
    with pytest.raises(BadCommand, match="nest deeper than 32"):
        PLAIN.decode(msgspec.msgpack.encode(nested(DEPTH_LIMIT + 1)))


def test_a_recursion_error_never_escapes() -> None:
    for payload in (b"\x91" * 1_000_000 + b"\x01", b"\x81\x01" * 1_000_000 + b"\x01"):
        with pytest.raises(BadCommand):
            PLAIN.decode(payload)
        with pytest.raises(BadCommand):
            PLAIN.decode_result(payload)


def test_size_is_refused_before_anything_is_decoded() -> None:
    """sc-O4."""
    small = Codec(limit_bytes=100)
    assert len(small.encode("x" * 98)) == 100
    with pytest.raises(CommandTooLarge) as caught:
        small.encode("x" * 99)
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (101, 100)
    with pytest.raises(CommandTooLarge):
        small.decode(b"\xc1" * 101)


@settings(max_examples=150, deadline=None)
@given(VALUES, st.integers(0, 8))
def test_the_scan_agrees_with_the_value(value: object, limit: int) -> None:
    assert is_deeper(msgspec.msgpack.encode(value), limit) == (depth_of(value) > limit)


@pytest.mark.parametrize(
    "inside",
    ["s" * 40, "s" * 300, "s" * 70_000, b"\x91" * 40, b"\x91" * 300, b"\x91" * 70_000]
    + [1.5, -40, -200, -40_000, -(2**40), 200, 40_000, 2**40, True, None]
    + [[b"\x91"] * 20, list(range(70_000)), {str(n): n for n in range(300)}],
    ids=lambda value: f"{type(value).__name__} {len(str(value))}",
)
def test_the_scan_steps_over_values_of_every_form(inside: object) -> None:
    for depth in (5, DEPTH_LIMIT - 1, DEPTH_LIMIT, DEPTH_LIMIT + 1):
        value = [nested(depth - 1, inside), nested(depth - 1, inside)]
        payload = msgspec.msgpack.encode(value)
        assert is_deeper(payload, DEPTH_LIMIT) == (depth_of(value) > DEPTH_LIMIT)


@pytest.mark.parametrize("count", [1, 15, 16, 300, 66_000])
def test_the_scan_sees_the_last_value_of_lists_and_dicts_of_every_length(count: int) -> None:
    deep = nested(3, "x")
    for value in ([0] * (count - 1) + [deep], {**dict.fromkeys(range(count - 1), 0), "z": deep}):
        assert len(value) == count
        payload = msgspec.msgpack.encode([value, 0])
        assert is_deeper(payload, 4)
        assert not is_deeper(payload, 5)


def test_the_scan_steps_over_extensions() -> None:
    for size in (1, 2, 4, 8, 16, 3, 300, 70_000):
        extension = msgspec.msgpack.encode(msgspec.msgpack.Ext(5, b"\x91" * size))
        assert not is_deeper(b"\x92" + extension + b"\x91\x01", 2)
        assert is_deeper(b"\x92" + extension + b"\x91\x91\x01", 2)


def test_the_scan_ends_on_any_bytes() -> None:
    dice = random.Random(7)
    for _ in range(2_000):
        payload = dice.randbytes(dice.randrange(80))
        is_deeper(payload, 4)
        with pytest.raises(BadCommand) if not decodes(payload) else does_not_raise():
            PLAIN.decode(payload)


def decodes(payload: bytes) -> bool:
    """Tell whether msgspec finds a plain value of at most the allowed depth in `payload`."""
    try:
        PLAIN.decode_trusted(payload)
    except (ValueError, TypeError):
        return False
    return not is_deeper(payload, DEPTH_LIMIT)


class does_not_raise:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class Move(msgspec.Struct, tag="move", frozen=True):
    by: int


class Turn(msgspec.Struct, tag="turn", frozen=True):
    angle: complex


def to_plain(value: object) -> object:
    if isinstance(value, complex):
        return [value.real, value.imag]
    raise NotImplementedError(type(value).__name__)


def from_plain(kind: type, value: object) -> object:
    return complex(*value) if kind is complex else value  # type: ignore[misc]


def test_an_application_registers_its_own_types() -> None:
    codec = Codec(Move | Turn, result_type=complex, encode_hook=to_plain, decode_hook=from_plain)
    assert codec.decode(codec.encode(Move(3))) == Move(3)
    assert codec.decode(codec.encode(Turn(1 + 2j))) == Turn(1 + 2j)
    assert codec.decode_result(codec.encode_result(1 + 2j)) == 1 + 2j
    with pytest.raises(BadCommand):
        codec.decode(PLAIN.encode(["set", "k", 1]))
    with pytest.raises(BadCommand):
        codec.encode(object())


def test_nothing_refused_leaves_a_mark_on_the_recursion_limit() -> None:
    before = sys.getrecursionlimit()
    with pytest.raises(BadCommand):
        PLAIN.encode(itself())
    assert sys.getrecursionlimit() == before
