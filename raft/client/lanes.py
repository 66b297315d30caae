"""Requests on their way: gathered by turn, sent as boxes, answered, retried or expired.

A *batch* is what leaves as one box: the requests of one reactor turn with one deadline, up to
a bound in bytes. A *lane* carries batches of one kind: waiting, then sent, then answered; or
returned, when the answer says that they may be tried again. Nothing is kept for a single
request but its Deferred and its bytes: deadlines, cancellers and answers belong to the batch.

The lanes here repeat nothing that may have been carried out: reads change nothing, and writes
without a session keep their order. A batch of those that came back is sent again only after
every batch behind it has been answered, and only if none of those may have reached the log:
else it would take a later place than it was given, and its own error is the answer instead.
Writes within a session have a lane of their own, in `raft.client.numbered`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import frozen
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from raft.admission import Admission
from raft.client.batches import (
    ANSWER_SHARE,
    BOX_BYTES,
    FULL_BYTES,
    REQUEST_BYTES,
    Batch,
    Wish,
    answer_all,
    cancellation,
    tell_all,
    with_indexes,
)
from raft.client.window import Window
from raft.errors import (
    NodeFailed,
    NotAppended,
    NotApplied,
    OutcomeUnknown,
    Overloaded,
    RaftError,
    Timeout,
)
from raft.interfaces import PLAIN_TERMS, Indexed
from raft.transport.arguments import Result
from raft.transport.calls import Results

if TYPE_CHECKING:
    from raft.client.links import Link


@frozen
class Hooks:
    """What lanes need of their client.

    Attributes:
        begin: makes a batch with so many seconds to live, and sees to it that `send` is called.
        refused: told of each batch that came back; `send` is called when it may be sent again.
        delivered: called when a node has answered a batch, in whole or in part.
        wake: asks for a `send` at the end of this turn.
        filled: told of a lane whose open batch is worth a box: `send_full` may be called.
        seconds: the client's clock.
        trouble: why there is no leader, where the client knows.
        seen: told of the index of each answer that has one.
        split: keeps the first so many requests of a batch; returns a batch of the others.
    """

    begin: Callable[[Lane, float], Batch]
    refused: Callable[[RaftError, Link], None]
    delivered: Callable[[], None]
    wake: Callable[[], None]
    filled: Callable[[Lane], None]
    seconds: Callable[[], float]
    trouble: Callable[[], RaftError | None]
    seen: Callable[[int], None]
    split: Callable[[Batch, int], Batch]


class Lane:
    """Requests of one kind; `limit_bytes` bounds all that have no answer yet.

    Of less than that is refused what could not be answered in its time: see `raft.admission`.
    """

    answer_share = ANSWER_SHARE
    """The share of the time left that a node is given."""

    def __init__(self, limit_bytes: int, hooks: Hooks) -> None:
        """Start empty."""
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self.open: Batch | None = None
        self.waiting: deque[Batch] = deque()
        self.sent: dict[int, Batch] = {}
        self.returned: dict[int, Batch] = {}
        self.closed: RaftError | None = None
        self.admission = Admission()
        self.window = Window()
        self._hooks = hooks
        self._seconds = hooks.seconds

    def add(
        self, payload: bytes, timeout_seconds: float, wish: Wish | None = None
    ) -> Deferred[Any]:
        """Take an encoded request; the hot path."""
        size = len(payload) + REQUEST_BYTES
        if self.size_bytes + size > self.limit_bytes:
            return fail(Overloaded(f"{self.size_bytes} bytes of requests have no answer yet"))
        batch = self.open
        if (
            batch is None
            or batch.size_bytes + size > BOX_BYTES
            or batch.timeout_seconds != timeout_seconds
            or batch.wish != wish
        ):
            refusal = self.closed or self.admission.refusal(self.size_bytes, timeout_seconds)
            if refusal is not None:
                return fail(refusal)
            batch = self.open = self._hooks.begin(self, timeout_seconds)
            batch.wish, batch.ahead_bytes = wish, self.size_bytes
            self.waiting.append(batch)
        request: Deferred[Any] = Deferred(batch.cancel)
        batch.requests.append(request)
        batch.payloads.append(payload)
        batch.size_bytes += size
        self.size_bytes += size
        if batch.size_bytes >= FULL_BYTES:
            self._hooks.filled(self)
        return request

    @property
    def wanted(self) -> bool:
        """Whether anything waits for a connection."""
        return bool(self.returned) or any(batch.requests for batch in self.waiting)

    @property
    def repeats(self) -> bool:
        """Whether an earlier life of the application may have sent what waits here."""
        return False

    @property
    def has_waiting(self) -> bool:
        """Whether a batch waits."""
        return bool(self.waiting)

    def send(self, link: Link) -> None:
        """Send what waits, as far as `link` is usable and order allows."""
        self._settle()
        while self.waiting and link.usable and not (self.returned or self.window.is_full):
            self.send_next(link)

    def send_full(self, link: Link) -> bool:
        """Send what waits before the turn ends, if nothing comes before it; tell if any was sent.

        Somebody's own call leads here, so nobody's request is ended.
        """
        sent = False
        while self.waiting and link.usable and not (self.returned or self.window.is_full):
            batch, now = self.waiting[0], self._seconds()
            if batch.done or now >= batch.deadline or not self._may_pass(batch, link):
                break
            self.waiting.popleft()
            self._put(link, batch, now)
            self.open, sent = None, True
        return sent

    def _may_pass(self, batch: Batch, link: Link) -> bool:
        """Tell whether a batch that waits may be sent as it is."""
        return bool(batch.requests)

    def send_next(self, link: Link) -> bool:
        """Send the first batch that waits, unless it is over; tell whether it was sent."""
        batch = self.waiting.popleft()
        now = self._seconds()
        if batch.done or not batch.requests:
            batch.take()
        elif now >= batch.deadline:
            self._time_out(batch, sent=False)
        else:
            self._put(link, batch, now)
            return True
        return False

    def _put(self, link: Link, batch: Batch, now: float) -> None:
        """Send `batch`, whose deadline has not passed, over `link`."""
        milliseconds = max(1, int((batch.deadline - now) * 1000 * self.answer_share))
        self.sent[batch.number] = batch
        batch.passage = self.window.sent(batch.size_bytes, now)
        link.asked(now)
        batch.link = link
        question = batch.question = self._ask(link, batch, milliseconds)
        question.addCallbacks(self._answered, self._failed, (batch, link), {}, (batch, link), {})

    def expire(self, batch: Batch) -> None:
        """End a batch whose deadline has passed; what was sent gets no second chance."""
        question, link = batch.question, batch.link
        if self.sent.pop(batch.number, None) is not None:
            self.window.ended(batch.passage, self._seconds())
        self.returned.pop(batch.number, None)
        if batch is self.open:
            self.open = None
        self._time_out(batch, sent=question is not None or batch.in_doubt)
        if question is not None:
            question.cancel()
        if link is not None:
            link.expired(self._seconds())
        while self.waiting and self.waiting[0].done:
            self.waiting.popleft()
        self._released()

    def close(self, error: RaftError) -> None:
        """Refuse what comes, and end all that is there."""
        self.closed = error
        self.open = None
        batches = [*self.sent.values(), *self.returned.values(), *self.waiting]
        self.sent.clear()
        self.returned.clear()
        self.waiting.clear()
        for batch in batches:
            question = batch.question
            sent = question is not None or batch.in_doubt or self.repeats
            requests = batch.take()
            if question is not None:
                question.cancel()
            answer_all(requests, self._cut_off(error) if sent else error)

    def cancelled(self, request: Deferred[Any], unsent: bool) -> None:
        """Give a request that its caller cancelled its outcome; by default CancelledError."""

    def _answered(self, results: Results, batch: Batch, link: Link) -> None:
        now = self._seconds()
        link.answered(now)
        if batch.done:
            return
        self._arrived(batch, results, now)
        if len(results) != len(batch.requests):
            count = f"{len(results)} results for {len(batch.requests)} requests"
            self._end(batch, OutcomeUnknown(f"the node answered {count}"))
        else:
            again = [place for place, result in enumerate(results) if isinstance(result, RaftError)]
            if again:
                again = self._repeatable(results, again)
            told = self._taken(batch, results, again) if len(again) < len(results) else ([], [])
            if again:
                self._return(batch, results[again[0]], link)
            # Who is told may issue more, and that must not go past what came back.
            tell_all(*told)
        self._released()

    def _arrived(self, batch: Batch, results: Results, now: float) -> None:
        del self.sent[batch.number]
        # What is refused is refused from some place on.
        if results and isinstance(results[-1], Overloaded):
            self.window.refused(batch.passage)
        else:
            self.window.ended(batch.passage, now)

    def _came_back(self, batch: Batch, error: BaseException) -> None:
        del self.sent[batch.number]
        if isinstance(error, Overloaded):
            self.window.refused(batch.passage)
        else:
            self.window.left(batch.passage)

    def _taken(
        self, batch: Batch, answer: Results, again: list[int]
    ) -> tuple[list[Deferred[Any]], list[Any]]:
        """Return (requests, results) of all but the places `again`, which stay in the batch."""
        self._finished(batch)
        self._learn(batch)
        self._hooks.delivered()
        requests = batch.requests
        results = self._stated(batch.wish, answer) if batch.wish is not None else answer
        if again:
            kept = set(again)
            batch.keep(again)
            requests = [each for place, each in enumerate(requests) if place not in kept]
            results = [each for place, each in enumerate(results) if place not in kept]
        else:
            batch.take()
        return requests, results

    def _learn(self, batch: Batch) -> None:
        """Note how long an answered batch has waited, and behind how much."""
        admission, now = self.admission, self._seconds()
        admission.progressed(now)
        if batch.error is None:
            begun = batch.deadline - batch.timeout_seconds
            admission.learn(batch.ahead_bytes + batch.size_bytes, begun, now)

    def _stated(self, wish: Wish, answer: Results) -> list[Any]:
        """Return the results as `wish` has them."""
        index = answer.last_index
        self._hooks.seen(index)
        if not wish.indexed:
            return answer
        return [
            each if isinstance(each, RaftError) else Indexed(each, index, answer.age_seconds)
            for each in answer
        ]

    def _failed(self, failure: Failure, batch: Batch, link: Link) -> None:
        error: BaseException = failure.value  # type: ignore[assignment]
        link.failed(failure, self._seconds())
        if batch.done:
            return
        self._came_back(batch, error)
        if isinstance(error, RaftError) and self._may_repeat(error):
            self._return(batch, error, link)
        else:
            self._end(batch, error)
        self._released()

    def _return(self, batch: Batch, error: RaftError, link: Link) -> None:
        batch.question = batch.link = None
        # Cancelled after it was sent: nobody waits for it.
        batch.keep([place for place, each in enumerate(batch.requests) if not each.called])
        if self.closed:
            answer_all(batch.take(), error)
            return
        batch.error = error
        self.returned[batch.number] = batch
        self._hooks.refused(error, link)

    def _end(self, batch: Batch, error: BaseException) -> None:
        if not (isinstance(error, Timeout) and not error.appended):
            self._finished(batch)
        answer_all(batch.take(), error)

    def _time_out(self, batch: Batch, sent: bool) -> None:
        if sent:
            self._finished(batch)
        error = self._too_late_for(batch, sent)
        answer_all(batch.take(), error)

    def _too_late_for(self, batch: Batch, sent: bool) -> Timeout:
        cause = batch.error if sent else batch.error or self._hooks.trouble()
        last = f"; what went wrong last: {cause}" if cause else ""
        error = self._too_late(sent, f"{batch.timeout_seconds:g} s have passed{last}")
        error.__cause__ = cause
        return error

    def _released(self) -> None:
        """Go on once there is room, and nothing sent that a returned batch must wait for."""
        if not self.sent if self.returned else self.waiting:
            self._hooks.wake()

    def _settle(self) -> None:
        """Put batches that came back in front of those that wait."""
        for number in sorted(self.returned, reverse=True):
            self.waiting.appendleft(self.returned.pop(number))

    # What reads and writes do differently.

    def _ask(self, link: Link, batch: Batch, timeout_ms: int) -> Deferred[Results]:
        raise NotImplementedError

    def _may_repeat(self, error: RaftError) -> bool:
        raise NotImplementedError

    def _repeatable(self, results: list[Result], failed: list[int]) -> list[int]:
        """Return those places of `failed` that may be tried again."""
        raise NotImplementedError

    def _finished(self, batch: Batch) -> None:
        """Note that a batch may have had its effect."""

    def _too_late(self, sent: bool, message: str) -> Timeout:
        raise NotImplementedError

    def _cut_off(self, error: RaftError) -> RaftError:
        """Return what a sent request comes to when the client is closed."""
        raise NotImplementedError


class ReadLane(Lane):
    """Queries: in any order, and repeated as often as there is time."""

    def _ask(self, link: Link, batch: Batch, timeout_ms: int) -> Deferred[Results]:
        if batch.wish is None:
            return link.connection.read_batch(batch.payloads, timeout_ms)
        terms = batch.wish.terms or PLAIN_TERMS
        return link.connection.read_batch(batch.payloads, timeout_ms, terms)

    def _may_repeat(self, error: RaftError) -> bool:
        return isinstance(error, NotApplied | OutcomeUnknown | NodeFailed)

    def _repeatable(self, results: list[Result], failed: list[int]) -> list[int]:
        return [place for place in failed if self._may_repeat(results[place])]

    def _too_late(self, sent: bool, message: str) -> Timeout:
        return Timeout(False, message)

    def _cut_off(self, error: RaftError) -> RaftError:
        return error


class WriteLane(Lane):
    """Commands: in the order of issue, and repeated only while they are definitely not applied."""

    newest_finished = -1
    """The greatest number of a batch that may stand in the log."""

    def _ask(self, link: Link, batch: Batch, timeout_ms: int) -> Deferred[Results]:
        if batch.wish is None:
            return link.connection.write_batch(batch.payloads, timeout_ms)
        return link.connection.write_batch(batch.payloads, timeout_ms, True)

    def cancelled(self, request: Deferred[Any], unsent: bool) -> None:
        """End it: definitely not applied before it was sent, and unknown afterwards."""
        request.errback(cancellation(unsent))

    def _stated(self, wish: Wish, answer: Results) -> list[Any]:
        return with_indexes(super()._stated(wish, answer))

    def _may_repeat(self, error: RaftError) -> bool:
        return isinstance(error, NotApplied)

    def _repeatable(self, results: list[Result], failed: list[int]) -> list[int]:
        # Only the last ones: before a command that may stand in the log is no place left.
        places: list[int] = []
        expected = len(results) - 1
        for place in reversed(failed):
            if place != expected or not self._may_repeat(results[place]):
                break
            places.append(place)
            expected -= 1
        places.reverse()
        return places

    def _finished(self, batch: Batch) -> None:
        self.newest_finished = max(self.newest_finished, batch.number)

    def _too_late(self, sent: bool, message: str) -> Timeout:
        outcome = "the outcome is unknown" if sent else "definitely not applied"
        return Timeout(sent, f"{outcome}: {message}")

    def _cut_off(self, error: RaftError) -> RaftError:
        return OutcomeUnknown(str(error))

    def _settle(self) -> None:
        if self.sent:
            return
        for number in [number for number in self.returned if number < self.newest_finished]:
            batch = self.returned.pop(number)
            answer_all(batch.take(), batch.error or NotAppended())
        super()._settle()
