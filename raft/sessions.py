"""Sessions: what makes a command take effect once, however often its client sends it.

A client opens a session by an entry and numbers its commands. The replica remembers the
result of each number until the client says that it has it, and answers copies from memory.
All of this is part of the replicated state: it changes by entries alone, and by the cluster
time that they carry, so that every server forgets the same thing at the same entry.

Invariants:

- The sessions stand in the order of their last use in the log, so `touched_us` never falls
  from one to the next: who expires and who makes room stands first.
- A session's `results` hold numbers from `kept_from` on, and `kept_from` >= `low_mark`.
  A number is executed only if it is at least `kept_from` and not among the results, and
  is among them from then on until `kept_from` has passed it: it never executes again.
- Nothing depends on which entries are applied in one slice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec
from attrs import Factory, define, field
from twisted.logger import Logger

from raft.codec import UNREADABLE
from raft.errors import ResultDropped, StaleSequence, StateMachineFailed
from raft.outcomes import Result
from raft.storage.records import (
    Kind,
    SessionLimits,
    decode_registration,
    decode_sessions,
    session_id,
)

WARNING_SECONDS: Final = 60.0
"""How often, at most, it is told that sessions had to make room."""

SLICE_RESULTS: Final = 2000
"""How many sessions and results a slice of a snapshot holds at most, but for the last session."""

SLICE_BYTES: Final = 256 * 1024
"""Behind how many bytes of results a slice of a snapshot ends."""

_NEVER: Final = 1 << 63

_log = Logger()


@define(eq=False)
class Session:
    """One client's session.

    Attributes:
        id: as `raft.storage.records.session_id`.
        touched_us: the cluster's time at its last entry.
        low_mark: below it the client has its answers, by its own word.
        kept_from: below it no results are kept: it is the low mark, or above it where more
            results came than are kept.
        results: by sequence number.
        size_bytes: of the results.
        view: the number of the newest view when this object was made; older views do not
            hold it.
        order: grows with each use on this server; only its order means anything.
    """

    id: bytes
    touched_us: int
    low_mark: int = 0
    kept_from: int = 0
    results: dict[int, Result] = Factory(dict)
    size_bytes: int = 0
    view: int = 0
    order: int = 0

    def raise_low_mark(self, low_mark: int) -> None:
        """Forget the results below `low_mark`, which is above the present one."""
        self.low_mark = low_mark
        if low_mark > self.kept_from:
            self._drop_below(low_mark)

    def keep_within(self, limits: SessionLimits) -> None:
        """Drop the results of the lowest numbers until the rest is within `limits`."""
        results = self.results
        while len(results) > limits.results or self.size_bytes > limits.results_bytes:
            # Nearly always the lowest one: commands come in the order of their numbers.
            lowest = self.kept_from if self.kept_from in results else min(results)
            self._drop_below(lowest + 1)

    def _drop_below(self, kept_from: int) -> None:
        results = self.results
        if kept_from - self.kept_from <= len(results):
            dropped: Iterable[int] = range(self.kept_from, kept_from)
        else:
            # A mark may leap by any number; the results are bounded.
            dropped = [sequence for sequence in results if sequence < kept_from]
        for sequence in dropped:
            result = results.pop(sequence, None)
            if result is not None:
                self.size_bytes -= len(result[1])
        self.kept_from = kept_from

    def refusal(self, sequence: int) -> StaleSequence | ResultDropped:
        """Return why `sequence`, which is below `kept_from`, is not executed."""
        return StaleSequence() if sequence < self.low_mark else ResultDropped()


class _Form(msgspec.Struct, array_like=True, frozen=True):
    """A session in a snapshot."""

    id: bytes
    touched_us: int
    low_mark: int
    kept_from: int
    results: list[tuple[int, str, bytes]]


_encode = msgspec.msgpack.Encoder().encode
_decode_limits = msgspec.msgpack.Decoder(SessionLimits).decode
_decode_slice = msgspec.msgpack.Decoder(list[_Form]).decode


@define(eq=False)
class Sessions:
    """All sessions of a replica.

    Attributes:
        limits: in force since the newest registration that brought some.
        evicted_count: how many sessions made room for others, on this server since its start.
        expired_count: how many were not used for too long.
        warned_count: how many of the evicted ones were told of, by `warn`.
    """

    _ended: Callable[[bytes, bytes], None]
    """Called with the reason, one word, and the id of each session that ended."""
    limits: SessionLimits = SessionLimits()
    evicted_count: int = 0
    expired_count: int = 0
    warned_count: int = 0
    _warned_at: float = field(default=-WARNING_SECONDS, init=False)
    _by_id: OrderedDict[bytes, Session] = field(factory=OrderedDict, init=False)
    _due_us: int = field(default=_NEVER, init=False)
    """No session expires before this time; it may be earlier than the first that does."""
    _view: int = field(default=0, init=False)
    _open_views: int = field(default=0, init=False)
    _order: int = field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Session]:
        """Yield the sessions, the one unused for longest first. Change nothing meanwhile."""
        return iter(self._by_id.values())

    def get(self, session: bytes) -> Session | None:
        """Return the session with that id, without using it. Change nothing of it."""
        return self._by_id.get(session)

    def applied_end(self, session: bytes, last_applied: int) -> int:
        """Return the number behind the highest one of a session that may have been applied.

        Of a session that has ended any number may have been. One that is opened behind
        `last_applied` has none yet.
        """
        found = self._by_id.get(session)
        if found is not None:
            # Numbers are applied in their order, so the newest result is the highest one's.
            return max(found.kept_from, next(reversed(found.results), -1) + 1)
        opened = int.from_bytes(session[:8], "little")
        return _NEVER if opened <= last_applied else 0

    def apply(self, kind: int, index: int, now_us: int, payload: bytes) -> bytes:
        """Apply an entry that opens, renews or closes sessions; return its result, encoded.

        Of a registration that is [index, timeout in microseconds, results, their bytes]: the
        session's index and the limits in force. Of the others, for each session that they name,
        whether it was there.

        Raises:
            BadRecord: `payload` is none of that kind; nothing is changed.
        """
        if kind == Kind.REGISTER:
            registration = decode_registration(payload)
            self.register(index, registration.nonce, now_us, registration.limits)
            limits = self.limits
            return _encode((index, limits.timeout_us, limits.results, limits.results_bytes))
        named = decode_sessions(payload)
        if kind == Kind.KEEP_ALIVE:
            return _encode([self.touch(each, now_us) is not None for each in named])
        return _encode([self.close(each, now_us) for each in named])

    def register(
        self, index: int, nonce: bytes, now_us: int, limits: SessionLimits | None
    ) -> Session:
        """Open the session of the registration at `index`; those beyond the limit make room."""
        if limits is not None and limits != self.limits:
            self.limits = limits
            self._due_us = 0
        self.expire(now_us)
        self._order += 1
        session = Session(session_id(index, nonce), now_us, view=self._view, order=self._order)
        self._by_id[session.id] = session
        self._due_us = min(self._due_us, now_us + self.limits.timeout_us)
        while len(self._by_id) > self.limits.sessions:
            oldest, _ = self._by_id.popitem(last=False)
            self.evicted_count += 1
            self._ended(b"evicted", oldest)
        return session

    def touch(self, session: bytes, now_us: int) -> Session | None:
        """Use a session: return it, free to be changed, or None where there is none.

        Before that, all end whose time is over at `now_us`; it may be one of them.
        """
        if now_us > self._due_us:
            self.expire(now_us)
        found = self._by_id.get(session)
        if found is None:
            return None
        if self._open_views and found.view < self._view:
            found = self._by_id[session] = _copy(found, self._view)
        found.touched_us = now_us
        self._order += 1
        found.order = self._order
        self._by_id.move_to_end(session)
        return found

    def close(self, session: bytes, now_us: int) -> bool:
        """End a session by its client's wish; tell whether there was one."""
        self.expire(now_us)
        if self._by_id.pop(session, None) is None:
            return False
        self._ended(b"closed", session)
        return True

    def expire(self, now_us: int) -> None:
        """End the sessions that were not used for longer than the timeout [RULES S3]."""
        if now_us <= self._due_us:
            return
        timeout_us = self.limits.timeout_us
        by_id = self._by_id
        while by_id:
            oldest = next(iter(by_id.values()))
            if now_us <= oldest.touched_us + timeout_us:
                self._due_us = oldest.touched_us + timeout_us
                return
            del by_id[oldest.id]
            self.expired_count += 1
            self._ended(b"expired", oldest.id)
        self._due_us = _NEVER

    def warn(self, now: float) -> None:
        """Log how many sessions had to make room, once in a while; `now` in monotonic seconds."""
        if now - self._warned_at < WARNING_SECONDS:
            # A cluster with too many clients would say so with every registration.
            return
        count = self.evicted_count - self.warned_count
        self._warned_at, self.warned_count = now, self.evicted_count
        _log.warn(
            "{count} sessions of clients made room for new ones: there are more than {limit};"
            " raise the limit, or let clients close theirs",
            count=count,
            limit=self.limits.sessions,
        )

    @property
    def is_untouched(self) -> bool:
        """Whether there is nothing that a snapshot would have to hold."""
        return not self._by_id and self.limits == SessionLimits()

    def view(self) -> View:
        """Return the sessions of this moment as slices; taking it copies a list of references."""
        self._view += 1
        self._open_views += 1
        return View(self, self.limits, list(self._by_id.values()))

    def view_closed(self) -> None:
        """A view is not read any more."""
        self._open_views -= 1

    def restore(self, slices: Iterable[bytes]) -> None:
        """Replace everything by what `view` gave; nothing at all stands for no sessions.

        Raises:
            StateMachineFailed: these bytes are no sessions.
        """
        incoming = iter(slices)
        first = next(incoming, None)
        try:
            self.limits = SessionLimits() if first is None else _decode_limits(first)
            restored = [form for piece in incoming for form in _decode_slice(piece)]
        except UNREADABLE as error:
            raise StateMachineFailed(f"the snapshot's sessions cannot be read: {error}") from error
        self.load(
            Session(
                form.id,
                form.touched_us,
                form.low_mark,
                form.kept_from,
                {sequence: (code, content) for sequence, code, content in form.results},
                sum(len(content) for _, _, content in form.results),
            )
            for form in restored
        )

    @property
    def newest_order(self) -> int:
        """The `order` of the newest use."""
        return self._order

    def used_since(self, order: int) -> Iterator[Session]:
        """Yield the sessions that were used after `order`, newest first. Change nothing."""
        for session in reversed(self._by_id.values()):
            if session.order <= order:
                return
            yield session

    def load(self, sessions: Iterable[Session], newest_order: int = 0) -> None:
        """Replace the sessions by others, given with the one unused for longest first.

        Uses are numbered from above `newest_order` on; these sessions first.
        """
        self._order = max(self._order, newest_order)
        self._by_id.clear()
        # The first use of any of them finds out who is due.
        self._due_us = 0
        for session in sessions:
            self._order += 1
            session.order = self._order
            session.view = self._view
            self._by_id[session.id] = session


def _copy(session: Session, view: int) -> Session:
    return Session(
        session.id,
        session.touched_us,
        session.low_mark,
        session.kept_from,
        session.results.copy(),
        session.size_bytes,
        view,
    )


class View:
    """The sessions as they were: the limits, then sessions, each slice a MessagePack array.

    What is used meanwhile is copied first, so these stay as they are. Close it if it is
    given up; one that nobody holds any more closes itself.
    """

    __slots__ = ("_limits", "_owner", "_position", "_sessions")

    def __init__(self, owner: Sessions, limits: SessionLimits, sessions: list[Session]) -> None:
        self._owner: Sessions | None = owner
        self._limits: SessionLimits | None = limits
        self._sessions = sessions
        self._position = 0

    def __iter__(self) -> View:
        return self

    def __next__(self) -> bytes:
        limits, self._limits = self._limits, None
        if limits is not None:
            return _encode(limits)
        forms: list[_Form] = []
        count = size = 0
        sessions, position = self._sessions, self._position
        while position < len(sessions) and count < SLICE_RESULTS and size < SLICE_BYTES:
            session = sessions[position]
            position += 1
            results = [(number, code, each) for number, (code, each) in session.results.items()]
            forms.append(
                _Form(session.id, session.touched_us, session.low_mark, session.kept_from, results)
            )
            count += 1 + len(results)
            size += session.size_bytes
        self._position = position
        if not forms:
            self.close()
            raise StopIteration
        return _encode(forms)

    def close(self) -> None:
        """Give up reading."""
        owner, self._owner = self._owner, None
        if owner is not None:
            self._sessions = []
            owner.view_closed()

    def __del__(self) -> None:
        self.close()
