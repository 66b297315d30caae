"""The log of runs against a plain list of entries."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raft.core.configuration import Configuration
from raft.core.log import RUN_BYTES, Log
from raft.core.messages import Entries, Run
from tests.core.cluster import configuration, runs

SIZES = st.sampled_from([1, 100, RUN_BYTES // 2, RUN_BYTES])


class LogAgainstList(RuleBasedStateMachine):
    """Everything that a `Log` does, beside a list of terms and a list of configurations."""

    def __init__(self) -> None:
        super().__init__()
        self.log = Log()
        self.terms: list[int] = []
        """The terms of all entries from index 1 on, compacted or not."""
        self.first = 1
        self.size = 0
        """The exact sum of all the bytes; None once a run was cut, which estimates."""
        self.exact = True
        self.configurations: list[tuple[int, Configuration]] = [(0, Configuration())]
        self.ticket = 0
        self.saves: list[tuple[int, int]] = []
        self.saved = 0

    @property
    def last(self) -> int:
        return len(self.terms)

    def await_save(self) -> None:
        self.ticket += 1
        self.log.await_save(self.ticket)
        self.saves.append((self.ticket, self.last))

    @rule(count=st.integers(1, 5), step=st.integers(0, 2), size=SIZES)
    def append(self, count: int, step: int, size: int) -> None:
        term = max(1, self.terms[-1] if self.terms else 1) + step
        self.log.append(self.last + count + 1, term, size * count)
        self.terms += [term] * count
        self.size += size * count
        self.await_save()

    @rule(voters=st.sampled_from(["abc", "abcd", "ab"]))
    def append_configuration(self, voters: str) -> None:
        term = self.terms[-1] if self.terms else 1
        self.log.append(self.last + 2, term, 100)
        self.terms.append(term)
        self.size += 100
        self.configurations.append((self.last, configuration(voters)))
        self.log.configurations.append(self.configurations[-1])
        self.await_save()

    @precondition(lambda self: self.last >= self.first)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(self.first, self.last))
        self.log.truncate(start)
        del self.terms[start - 1 :]
        self.exact = False
        self.configurations = [
            pair for i, pair in enumerate(self.configurations) if not i or pair[0] < start
        ]
        self.saves = [(ticket, min(end, start - 1)) for ticket, end in self.saves]
        self.saved = min(self.saved, start - 1)
        self.await_save()

    @precondition(lambda self: self.last >= self.first)
    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.first - 3, self.last))
        self.log.compact(index)
        if index >= self.first:
            self.first = index + 1
            self.exact = False
            below = [pair for pair in self.configurations if pair[0] <= index]
            self.configurations = self.configurations[len(below) - 1 :]

    @rule(beyond=st.integers(1, 5), step=st.integers(0, 2), data=st.data())
    def restart(self, beyond: int, step: int, data: st.DataObject) -> None:
        index = self.last + beyond
        term = (self.terms[-1] if self.terms else 1) + step
        agreed = data.draw(st.integers(0, self.last))
        self.log.restart_after(index, term, agreed)
        self.log.configurations = [(index, configuration("xyz"))]
        self.configurations = list(self.log.configurations)
        self.terms += [term] * beyond
        self.first = index + 1
        self.exact = False
        self.saves = [(ticket, min(end, agreed)) for ticket, end in self.saves]
        self.saved = min(self.saved, agreed)
        self.await_save()

    @precondition(lambda self: self.saves)
    @rule(data=st.data())
    def save(self, data: st.DataObject) -> None:
        ticket = data.draw(st.integers(self.saves[0][0], self.ticket))
        self.log.saved(ticket)
        done = [end for number, end in self.saves if number <= ticket]
        self.saves = [pair for pair in self.saves if pair[0] > ticket]
        self.saved = done[-1]

    @rule(data=st.data(), new=st.lists(st.integers(0, 3), max_size=5))
    def receive(self, data: st.DataObject, new: list[int]) -> None:
        """Take in entries as a follower does: what differs first, and all after it."""
        start = data.draw(st.integers(max(1, self.first - 2), self.last + 1))
        before = self.terms[start - 2] if start > 1 else 1
        # Terms that mostly agree with those here, then grow.
        here = self.terms[start - 1 : start - 1 + data.draw(st.integers(0, 4))]
        terms = list(here)
        for step in new:
            terms.append((terms[-1] if terms else max(1, before)) + step)
        compacted = max(0, self.first - start)
        terms[:compacted] = self.terms[start - 1 : start - 1 + len(terms[:compacted])]
        terms = [max(terms[: i + 1]) for i in range(len(terms))]
        entries = Entries(start, runs(start, terms))
        expected = start + len(terms)
        for offset, term in enumerate(terms):
            index = start + offset
            if index >= self.first and (index > self.last or self.terms[index - 1] != term):
                expected = index
                break
        found = self.log.first_difference(entries)
        if expected == start + len(terms):
            assert found >= entries.end
            return
        assert found == expected
        if found <= self.last:
            self.log.truncate(found)
            self.saves = [(ticket, min(end, found - 1)) for ticket, end in self.saves]
            self.saved = min(self.saved, found - 1)
            self.configurations = [
                pair for i, pair in enumerate(self.configurations) if not i or pair[0] < found
            ]
        self.log.append_received(entries, found)
        self.terms[found - 1 :] = terms[found - start :]
        self.exact = False
        self.await_save()

    @rule(data=st.data(), limit=st.sampled_from([1, 150, 10**6]), count=st.integers(1, 4))
    def cut(self, data: st.DataObject, limit: int, count: int) -> None:
        if self.last < self.first:
            return
        start = data.draw(st.integers(self.first, self.last))
        entries = self.log.cut(start, limit, count)
        assert start < entries.end <= min(self.last + 1, start + count)
        assert entries.start == start
        begin, terms = start, []
        for run in entries.runs:
            terms += [run.term] * (run.end - begin)
            begin = run.end
        assert terms == self.terms[start - 1 : entries.end - 1]
        assert entries.end == start + 1 or entries.size_bytes <= limit + 1
        assert entries.configurations == tuple(
            pair for pair in self.configurations if start <= pair[0] < entries.end
        )

    @rule(data=st.data(), term=st.integers(0, 12))
    def search(self, data: st.DataObject, term: int) -> None:
        index = data.draw(st.integers(self.first - 1, self.last + 3))
        candidates = [
            at for at in range(self.first, min(index, self.last) + 1) if self.terms[at - 1] <= term
        ]
        expected = max(candidates, default=self.first - 1)
        found, found_term = self.log.last_of_term_at_most(index, term)
        assert found == expected
        assert found_term == (self.terms[found - 1] if found else 0)

    @invariant()
    def terms_agree(self) -> None:
        log = self.log
        assert (log.first_index, log.last_index) == (self.first, self.last)
        assert log.last_term == (self.terms[-1] if self.terms else 0)
        for index in range(max(0, self.first - 1), self.last + 1):
            expected = self.terms[index - 1] if index else 0
            assert log.term_at(index) == expected
            assert log.matches(index, expected)
            assert not log.matches(index, expected + 1)
        for absent in (self.first - 2, self.last + 1):
            assert not log.matches(absent, 1)
            with pytest.raises(KeyError):
                log.term_at(absent)

    @invariant()
    def no_run_is_empty(self) -> None:
        ends = [self.log.first_index, *(run.end for run in self.log.runs)]
        assert ends == sorted(set(ends))

    @invariant()
    def sizes_agree(self) -> None:
        log = self.log
        total = log.size_bytes(self.first, self.last + 1)
        assert total == sum(run.size_bytes for run in log.runs)
        assert total >= 0
        if self.exact:
            assert total == self.size
        assert log.size_bytes(self.first - 2, self.last + 5) == total
        sums = [log.size_bytes(self.first, end) for end in range(self.first, self.last + 2)]
        assert sums == sorted(sums)

    @invariant()
    def configurations_agree(self) -> None:
        log = self.log
        assert log.configurations == self.configurations
        assert (log.configuration_index, log.configuration) == self.configurations[-1]
        for index in range(self.first - 1, self.last + 1):
            at_or_below = [pair for pair in self.configurations if pair[0] <= index]
            assert log.configuration_at(index) == at_or_below[-1]

    @invariant()
    def saves_agree(self) -> None:
        assert self.log.saved_index == self.saved
        assert self.log.saved_index <= self.log.last_index


TestLogAgainstList = LogAgainstList.TestCase
TestLogAgainstList.settings = settings(
    max_examples=120, stateful_step_count=30, deadline=None, derandomize=True
)


def log_of(*terms: int) -> Log:
    log = Log()
    for run in runs(1, terms):
        log.append(run.end, run.term, run.size_bytes)
    return log


@pytest.mark.parametrize(
    ("last_index", "last_term", "up_to_date"),
    [(3, 2, True), (4, 2, True), (2, 2, False), (1, 3, True), (9, 1, False)],
)
def test_up_to_date_compares_the_pair(last_index: int, last_term: int, up_to_date: bool) -> None:
    """E2: (lastTerm, lastIndex) compared as a pair."""
    assert log_of(1, 1, 2).is_up_to_date(last_index, last_term) is up_to_date


def test_runs_of_one_term_are_joined_up_to_a_size() -> None:
    """L7: runs stay small enough that messages can be cut between them."""
    log = Log()
    for index in range(1, 5):
        log.append(index + 1, 1, RUN_BYTES // 2)
    assert log.runs == (Run(3, 1, RUN_BYTES), Run(5, 1, RUN_BYTES))
    assert log.cut(1, RUN_BYTES, 99).end == 3
    assert log.cut(1, 2 * RUN_BYTES - 1, 99).end == 3
    assert log.cut(1, RUN_BYTES - 1, 99).end == 2
    assert log.cut(1, 2 * RUN_BYTES, 99).end == 5
    assert log.cut(1, 2 * RUN_BYTES, 3).end == 4


def test_a_run_that_is_too_large_for_a_message_is_cut_by_its_mean_size() -> None:
    """L7: a proposal of many commands is one run, but not one message."""
    log = Log()
    log.append(1001, 1, 1_000_000)
    log.append(1002, 2, 50)
    sent, start = [], 1
    while start <= log.last_index:
        entries = log.cut(start, 256_000, 1 << 30)
        sent.append((start, entries.end, entries.size_bytes))
        start = entries.end
    assert sent == [
        (1, 257, 256_000),
        (257, 513, 256_000),
        (513, 769, 256_000),
        (769, 1002, 232_050),
    ]
    assert log.cut(1, 10, 1 << 30).end == 2


def test_what_is_taken_in_behind_a_large_run_makes_no_empty_one() -> None:
    """L7: of a run that is here already nothing is taken in."""
    log = Log()
    log.append(3, 1, 2 * RUN_BYTES)
    log.append_received(Entries(1, (Run(3, 1, 2 * RUN_BYTES), Run(4, 1, 10))), 3)
    assert log.runs == (Run(3, 1, 2 * RUN_BYTES), Run(4, 1, 10))


def test_the_configuration_of_the_logs_beginning_stays() -> None:
    """M1: whatever is truncated, somebody belongs to the cluster."""
    log = log_of(1, 1, 1)
    log.configurations = [(2, configuration("ab")), (3, configuration("abc"))]
    log.truncate(2)
    assert log.configurations == [(2, configuration("ab"))]


def test_the_configuration_before_the_latest_is_what_it_replaced() -> None:
    """M1: whoever lacks the latest entry goes by the one before."""
    log = log_of(1, 1, 1)
    assert log.configuration_before == Configuration()
    for index, voters in enumerate(["a", "ab", "abc"], 1):
        before = log.configuration
        log.configurations.append((index, configuration(voters)))
        assert log.configuration_before == before


def test_a_truncated_entry_is_not_saved_by_its_first_copys_ticket() -> None:
    """L1: saves go by ticket, so that a rewritten entry waits for its own (D2)."""
    log = log_of(1)
    log.await_save(1)
    log.append(4, 2, 200)
    log.await_save(2)
    log.truncate(2)
    log.append(4, 3, 200)
    log.await_save(3)
    log.saved(2)
    assert log.saved_index == 1
    log.saved(3)
    assert log.saved_index == 3


def test_what_was_saved_and_truncated_is_not_saved() -> None:
    """L1: an entry that stands where a saved one stood waits for its own ticket (D2)."""
    log = Log()
    log.append(4, 1, 200)
    log.await_save(1)
    log.saved(1)
    log.truncate(2)
    log.append(4, 2, 200)
    log.await_save(2)
    assert log.saved_index == 1
    log.saved(2)
    assert log.saved_index == 3


def test_a_long_log_is_searched_by_terms() -> None:
    """L6: the search skips whole terms: a million entries cost a few steps."""
    log = log_of(1)
    for index in range(1, 1000):
        log.append(index * 1000 + 2, 1 + index, 50_000)
    assert log.last_of_term_at_most(999_001, 1) == (1, 1)
    assert log.last_of_term_at_most(999_001, 500) == (499_001, 500)
    assert log.last_of_term_at_most(250_500, 500) == (250_500, 252)


def test_the_longest_tail_within_a_size_begins_at_a_border_of_runs() -> None:
    """N4: trailing entries are kept up to a bound in bytes."""
    log = Log()
    for end, size_bytes in ((11, 60_000), (21, 50_000), (31, 40_000)):
        log.append(end, 1, size_bytes)
    assert [log.start_within(31, size) for size in (0, 39_999, 40_000, 89_999, 90_000)] == [
        *(31, 31, 21, 21, 11)
    ]
    assert [log.start_within(31, size) for size in (149_999, 150_000, 1 << 40)] == [11, 1, 1]
    assert log.start_within(21, 49_999) == 21
    log.compact(20)
    assert [log.start_within(31, size) for size in (39_999, 40_000)] == [31, 21]
    assert Log().start_within(1, 100) == 1
