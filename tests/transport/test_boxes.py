"""The one-pass parser against its slow twin, stock AMP, and against its bounds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.protocols import amp

from raft.transport.boxes import (
    PIECE_BYTES,
    BadBox,
    Box,
    BoxParser,
    close_box,
    encode_box,
    gather,
    pair,
    spread,
)

keys = st.binary(min_size=1, max_size=255)
boxes = st.dictionaries(keys, st.binary(max_size=300), min_size=1, max_size=6)


class Slow:
    """Stock AMP's parser, with nothing behind it but a list."""

    def __init__(self) -> None:
        self.boxes: list[Box] = []
        self.refused = False
        self.protocol = amp.BinaryBoxProtocol(self)
        self.protocol.makeConnection(StringTransport())

    def startReceivingBoxes(self, sender: object) -> None:
        """Nothing to start."""

    def ampBoxReceived(self, box: amp.AmpBox) -> None:
        self.boxes.append(dict(box))

    def stopReceivingBoxes(self, reason: object) -> None:
        """Nothing to stop."""

    def feed(self, data: bytes) -> None:
        if not self.refused:
            self.protocol.dataReceived(data)
            self.refused = self.protocol.transport.disconnecting


class Fast:
    def __init__(self, limit_bytes: int = 1 << 22, limit_keys: int = 1 << 16) -> None:
        self.boxes: list[Box] = []
        self.refused = False
        self.parser = BoxParser(limit_bytes, limit_keys)

    def feed(self, data: bytes) -> None:
        if self.refused:
            return
        try:
            self.parser.feed(data, self.boxes.append)
        except BadBox:
            self.refused = True


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


@given(st.lists(boxes, max_size=5), st.lists(st.integers(0, 1 << 20), max_size=12))
def test_every_chunking_gives_the_boxes_that_stock_amp_gives(
    given_boxes: list[Box], cuts: list[int]
) -> None:
    """A1: keys to 255 and values to 65,535 bytes, in any pieces."""
    stream = b"".join(encode_box(box.items()) for box in given_boxes)
    slow, fast = Slow(), Fast()
    for chunk in chunks(stream, cuts):
        slow.feed(chunk)
        fast.feed(chunk)
    assert fast.boxes == slow.boxes == given_boxes
    assert not fast.parser.unfinished


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            boxes.map(lambda box: encode_box(box.items())),
            st.sampled_from([b"\0", b"\0\0", b"\0\1a", b"\1\0", b"\0\1a\0\2xy", b"\xff\xff"]),
        ),
        max_size=8,
    ),
    st.lists(st.integers(0, 1 << 20), max_size=12),
)
def test_any_bytes_are_taken_or_refused_as_by_stock_amp(
    parts: list[bytes], cuts: list[int]
) -> None:
    """sc-N11: random bytes and truncated boxes; both parsers stop at the same box."""
    stream = b"".join(parts)
    slow, fast = Slow(), Fast()
    for chunk in chunks(stream, cuts):
        slow.feed(chunk)
        fast.feed(chunk)
    assert fast.boxes == slow.boxes
    assert fast.refused == slow.refused


@given(
    st.lists(boxes, min_size=1, max_size=4),
    st.lists(st.integers(0, 1 << 20), max_size=20),
    st.integers(1, 900),
    st.integers(1, 6),
)
def test_the_bounds_do_not_depend_on_the_chunking(
    given_boxes: list[Box], cuts: list[int], limit_bytes: int, limit_keys: int
) -> None:
    stream = b"".join(encode_box(box.items()) for box in given_boxes)
    whole, cut = Fast(limit_bytes, limit_keys), Fast(limit_bytes, limit_keys)
    whole.feed(stream)
    for chunk in chunks(stream, cuts):
        cut.feed(chunk)
    expected = []
    for box in given_boxes:
        if len(encode_box(box.items())) > limit_bytes or len(box) > limit_keys:
            break
        expected.append(box)
    assert whole.boxes == cut.boxes == expected
    assert whole.refused == cut.refused == (len(expected) < len(given_boxes))


def test_one_byte_at_a_time_gives_the_same_box() -> None:
    box = {b"key": b"x" * 65535, b"other": b""}
    fast = Fast()
    for byte in encode_box(box.items()):
        fast.feed(bytes((byte,)))
    assert fast.boxes == [box]


def test_a_flood_without_an_end_is_refused_within_the_limit() -> None:
    """sc-N10, SECURITY 13: 262 MB of an unterminated box cost no more than the limit."""
    parser = BoxParser(1 << 20, 1 << 16)
    chunk = encode_box([(b"%d" % number, b"x" * 60000) for number in range(4)])[:-2]
    for _ in range((1 << 20) // len(chunk)):
        parser.feed(chunk, lambda box: None)
    with pytest.raises(BadBox, match="limits are 1048576 bytes"):
        parser.feed(chunk, lambda box: None)


def test_65536_keys_are_refused() -> None:
    """SECURITY 14: keys are bounded apart from bytes."""
    parser = BoxParser(1 << 30, 256)
    stream = encode_box([(b"%d" % number, b"") for number in range(65536)])
    with pytest.raises(BadBox, match="256 keys"):
        parser.feed(stream, lambda box: None)


def test_limits_changed_by_a_box_hold_for_the_next_one() -> None:
    parser = BoxParser(30, 8)
    seen: list[Box] = []

    def received(box: Box) -> None:
        seen.append(box)
        parser.limit_bytes = 4096

    large = {b"large": b"x" * 1000}
    parser.feed(encode_box([(b"hello", b"")]) + encode_box(large.items()), received)
    assert seen == [{b"hello": b""}, large]


def test_nothing_is_delivered_after_stop() -> None:
    parser = BoxParser()
    seen: list[Box] = []

    def received(box: Box) -> None:
        seen.append(box)
        parser.stop()

    parser.feed(encode_box([(b"a", b"1")]) * 3, received)
    assert len(seen) == 1


def test_nothing_is_judged_after_stop() -> None:
    parser = BoxParser()
    parser.feed(encode_box([(b"a", b"1")]) + b"\xff\xff", lambda box: parser.stop())


def test_a_box_that_announces_too_much_is_refused_before_it_arrives() -> None:
    """SECURITY 13, sc-O4: the announced length counts, not only what came."""
    parser = BoxParser(4096)
    with pytest.raises(BadBox, match="a box of 65542 bytes or more"):
        parser.feed(b"\0\3key\xff\xff", lambda box: None)


@settings(max_examples=30)
@given(st.integers(0, 4 * PIECE_BYTES), st.binary(min_size=1, max_size=20))
def test_a_large_value_comes_back_from_its_numbered_keys(size: int, key: bytes) -> None:
    """A1: a value over 65,535 bytes spreads over keys of the same box."""
    value = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    fast = Fast()
    fast.feed(close_box(pair(b"_" * 30, b""), key, value))
    assert gather(fast.boxes[0], key) == value
    assert {b"_" * 30: b"", **dict(spread(key, value))} == fast.boxes[0]


@pytest.mark.parametrize("pairs", [[(b"", b"")], [(b"k" * 256, b"")], [(b"k", b"v" * 65536)]])
def test_what_amp_cannot_carry_is_refused_before_it_is_written(
    pairs: list[tuple[bytes, bytes]],
) -> None:
    with pytest.raises(ValueError, match="allowed"):
        encode_box(pairs)
