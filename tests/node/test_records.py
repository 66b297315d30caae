"""The cache of records against a list of entries with storage behind it."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raft.node.records import RecordCache, offset_of
from raft.storage.records import Kind, encode

LIMIT = 400


def record(index: int, term: int, size: int) -> bytes:
    return encode(index, term, 0, Kind.COMMAND, b"x" * size)


class CacheAgainstList(RuleBasedStateMachine):
    """The model: all records by index; those below `saved` can be read back from storage."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.term, self.saved = 1, 1, 1
        self.log: list[bytes] = []
        self.cache = RecordCache(LIMIT, self.read)

    @property
    def end(self) -> int:
        return self.first + len(self.log)

    def read(self, start: int, end: int, limit_bytes: int) -> tuple[int, bytes]:
        end = min(end, self.saved)
        if not self.first <= start < end:
            raise KeyError(start)
        pieces: list[bytes] = []
        for each in self.log[start - self.first : end - self.first]:
            if pieces and sum(map(len, pieces)) + len(each) > limit_bytes:
                break
            pieces.append(each)
        return start + len(pieces), b"".join(pieces)

    @rule(sizes=st.lists(st.integers(0, 200), min_size=1, max_size=12), back=st.integers(0, 5))
    def append(self, sizes: list[int], back: int) -> None:
        start = max(self.first, self.end - back)
        self.term += 1
        new = [record(start + n, self.term, size) for n, size in enumerate(sizes)]
        del self.log[start - self.first :]
        self.log += new
        self.saved = min(self.saved, start)
        self.cache.append(start, start + len(new), b"".join(new))

    @rule(back=st.integers(0, 8))
    def truncate(self, back: int) -> None:
        start = max(self.first, self.end - back)
        del self.log[start - self.first :]
        self.saved = min(self.saved, start)
        self.cache.truncate(start)

    @rule(share=st.floats(0, 1))
    def save_and_evict(self, share: float) -> None:
        self.saved = max(self.saved, self.first + int(len(self.log) * share))
        self.cache.evict(self.saved)

    @rule(ahead=st.integers(0, 5))
    def restart(self, ahead: int) -> None:
        self.first = self.saved = self.end + ahead
        self.log = []
        self.cache.restart_after(self.first - 1)

    @precondition(lambda self: self.log)
    @rule(begin=st.floats(0, 0.999), length=st.integers(1, 30), limit=st.integers(1, 900))
    def slice(self, begin: float, length: int, limit: int) -> None:
        start = self.first + int(len(self.log) * begin)
        end = min(self.end, start + length)
        reached, records = self.cache.slice(start, end, limit)
        wanted = self.log[start - self.first : reached - self.first]
        assert start < reached <= end
        assert records == b"".join(wanted)
        assert len(records) <= limit or len(wanted) == 1

    @precondition(lambda self: self.log)
    @rule(limit=st.integers(1, 300))
    def walk_by_slices(self, limit: int) -> None:
        start, found = self.first, b""
        while start < self.end:
            start, piece = self.cache.slice(start, self.end, limit)
            found += piece
        assert found == b"".join(self.log)

    @rule()
    def nothing_stands_behind_the_end(self) -> None:
        with pytest.raises(KeyError):
            self.cache.slice(self.end, self.end + 1, 100)

    @invariant()
    def sizes_agree(self) -> None:
        assert self.cache.end == self.end
        assert self.cache.size_bytes == sum(map(len, self.cache._pieces))


CacheAgainstList.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None
)
test_the_cache_is_a_list_of_records = CacheAgainstList.TestCase


def test_offsets_are_found_from_any_known_place() -> None:
    records = b"".join(record(n, 1, n) for n in range(5, 15))
    at = offset_of(records, 5, 9)
    assert records[at:] == b"".join(record(n, 1, n) for n in range(9, 15))
    assert offset_of(records, 9, 12, at) == offset_of(records, 5, 12)


def test_a_large_piece_is_cut_where_the_limit_says() -> None:
    """A turn that applies for 5 ms must not first copy what it has no time for."""
    cache = RecordCache(1 << 20, lambda *_: (0, b""))
    records = b"".join(record(n, 1, 10) for n in range(1, 1001))
    cache.append(1, 1001, records)
    reached, piece = cache.slice(1, 1001, 4096)
    assert len(piece) <= 4096
    assert cache._known == (1, reached, len(piece))


def test_where_a_slice_ended_is_forgotten_with_its_piece() -> None:
    cache = RecordCache(1 << 20, lambda *_: (0, b""))
    for size, starts in ((10, (1, 5, 9)), (90, (15, 1))):
        records = [record(n, 1, size) for n in range(1, 21)]
        cache.append(1, 21, b"".join(records))
        for start in starts:
            reached, piece = cache.slice(start, start + 3, 1 << 20)
            assert (reached, piece) == (start + 3, b"".join(records[start - 1 : start + 2]))
