"""Writes within a session: numbered when they are first sent, and sent until they are answered.

A batch has consecutive numbers, the batches in the order of issue, so that the cluster can
append them in that order whatever happens to boxes and connections [RULES S9]. A box that is
refused, or whose answer is lost, is sent again as it is, to whoever leads by then [S7]. Nobody
else is asked for a number meanwhile: what goes to a new leader goes there in order, and
what was under way to the old one is counted as lost.

What expired or was cancelled counts as answered. Where an earlier number is still open, it
leaves a *hole*, past which the cluster takes nothing; so nothing is sent past it until
the low mark has passed it, which it does when the earlier ones are answered.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from raft.client.batches import (
    Batch,
    answer_all,
    tell_all,
)
from raft.client.lanes import Hooks, WriteLane
from raft.client.meanings import Meaning, meaning, outcome
from raft.errors import OutcomeUnknown, RaftError, SessionExpired, Timeout
from raft.numbering import Numbering, SessionCall
from raft.transport.calls import Results

if TYPE_CHECKING:
    from raft.client.links import Link

LATE_SHARE: Final = 0.1
"""A node that says "too late" with less than this share of the time left is not asked again."""

PART: Final = 4
"""Where the window has less room than one part in so many, a batch that does not fit waits.

Else a full window would be filled with ever smaller boxes.
"""

ENDED: Final = "the session ended before there was an answer; an earlier copy may be applied"


@define(eq=False)
class Account:
    """One session as its client keeps it.

    Attributes:
        resumed: it was opened in an earlier life of the application, which may have sent
            anything: a command that finds the session gone may have been applied then.
        in_doubt: nothing was answered yet in this life, so that what is issued is what the
            earlier one may have sent.
        ended: the cluster has said that it is gone.
    """

    numbering: Numbering
    resumed: bool = False
    in_doubt: bool = False
    ended: bool = False
    _holes: list[int] = field(factory=list, init=False)
    """Numbers that were dropped above the low mark; each the first of its batch, in order."""

    def call(self, batch: Batch) -> SessionCall:
        """Return what places `batch` in the session, with numbers if it has none."""
        numbering = self.numbering
        if batch.sequence:
            return SessionCall(numbering.opened.id, batch.sequence, numbering.low_mark)
        call = numbering.next(len(batch.requests))
        batch.sequence = call.sequence
        return call

    def answered(self, batch: Batch) -> None:
        """Count the numbers of `batch` as answered."""
        if batch.sequence:
            self.numbering.answered(batch.sequence, len(batch.requests))

    def dropped(self, batch: Batch) -> None:
        """Count them as answered though they may never reach the log."""
        self.answered(batch)
        if batch.sequence > self.numbering.low_mark:
            insort(self._holes, batch.sequence)

    def may_send(self, sequence: int) -> bool:
        """Tell whether nothing is missing below the number `sequence`."""
        holes = self._holes
        while holes and holes[0] < self.numbering.low_mark:
            holes.pop(0)
        return not holes or sequence < holes[0]

    def fitting(self, count: int) -> int:
        """Return how many of `count` new commands may be sent."""
        room = self.numbering.room
        if count <= room:
            return count
        return room if room * PART >= self.numbering.opened.results else 0


class SessionLane(WriteLane):
    """Commands of one session after the other; exactly once each, or a stated outcome.

    Attributes:
        account: of the session; None before it is open.
        answered_at: when a command was last answered, in the client's seconds.
        wants_session: whether somebody waits for a session without a command.
    """

    def __init__(self, limit_bytes: int, hooks: Hooks, open_session: Callable[[Link], None]):
        """`open_session` is asked for a session over a link, again and again until it is there."""
        super().__init__(limit_bytes, hooks)
        self.account: Account | None = None
        self.answered_at = 0.0
        self.wants_session = False
        self._open_session = open_session
        self._used: Link | None = None
        self._is_told = False

    @property
    def wanted(self) -> bool:
        """Whether anything waits for a connection."""
        return (self.wants_session and self.account is None) or super().wanted

    @property
    def is_idle(self) -> bool:
        """Whether every command is answered."""
        return not (self.sent or self.returned or super().wanted)

    @property
    def repeats(self) -> bool:
        """Whether an earlier life of the application may have sent what waits here."""
        return self.account is not None and self.account.in_doubt

    @property
    def has_unnumbered(self) -> bool:
        """Whether commands wait that have no number yet."""
        return any(batch.requests for batch in self.waiting)

    def send(self, link: Link) -> None:
        """Send what came back and then what waits, as far as order and the session allow."""
        self._is_told = False
        self._settle()
        account = self.account
        if account is None:
            if self.wanted:
                self._open_session(link)
        elif not account.ended:
            if link is not self._used:
                self._recall(link)
                self._used = link
            if self._send_again(link, account):
                self._send_new(link, account)

    def _recall(self, link: Link) -> None:
        """Give up what is under way elsewhere: it goes to `link`, before all that follows it."""
        for batch in list(self.sent.values()):
            if batch.link is not link and batch.question is not None:
                batch.question.cancel()

    def _send_again(self, link: Link, account: Account) -> bool:
        """Send what came back, in the order of its numbers; tell whether all of it went."""
        for batch in self._in_order():
            if self.returned.get(batch.number) is not batch:
                # A callback has ended it meanwhile.
                continue
            now = self._seconds()
            if now >= batch.deadline:
                del self.returned[batch.number]
                self._time_out(batch, batch.in_doubt)
                continue
            if all(request.called for request in batch.requests) and (
                batch.sequence <= account.numbering.low_mark
            ):
                del self.returned[batch.number]
                self._drop(batch)
                batch.take()
                continue
            if not link.usable or not account.may_send(batch.sequence):
                return False
            del self.returned[batch.number]
            self._put(link, batch, now)
            if batch.number in self.returned:
                # Refused at once: nothing may pass it.
                return False
        return not self.returned

    def _send_new(self, link: Link, account: Account) -> None:
        waiting = self.waiting
        while waiting and link.usable and not self.returned:
            batch = waiting[0]
            if batch.done or not batch.requests:
                waiting.popleft()
                batch.take()
                continue
            now = self._seconds()
            if now >= batch.deadline and not account.in_doubt:
                waiting.popleft()
                self._time_out(batch, sent=False)
                continue
            if self.window.is_full or not account.may_send(account.numbering.next_sequence):
                return
            count = account.fitting(len(batch.requests))
            if not count:
                return
            if count < len(batch.requests):
                waiting[0] = self._hooks.split(batch, count)
            else:
                waiting.popleft()
            # What an earlier life of the application may have sent is in doubt at once.
            batch.in_doubt = account.in_doubt
            if account.in_doubt and (
                now >= batch.deadline or all(request.called for request in batch.requests)
            ):
                # It has the number that it had in that life: nothing else may get it.
                account.call(batch)
                self._time_out(batch, sent=True)
                continue
            self._put(link, batch, now)

    def _may_pass(self, batch: Batch, link: Link) -> bool:
        """Tell whether a batch that waits may be sent as it is: the rest is for `send`."""
        account = self.account
        if account is None or account.ended or account.in_doubt or link is not self._used:
            return False
        count = len(batch.requests)
        return (
            count > 0
            and account.may_send(account.numbering.next_sequence)
            and account.fitting(count) == count
        )

    def _in_order(self) -> list[Batch]:
        return sorted(self.returned.values(), key=lambda batch: batch.sequence)

    def _settle(self) -> None:
        """After the end of a session, go on with a new one once nothing is under way."""
        account = self.account
        if account is None or not account.ended or self.sent:
            return
        self.account = None
        came_back = self._in_order()
        self.returned.clear()
        lost = [batch for batch in came_back if batch.in_doubt or account.resumed]
        for batch in reversed([batch for batch in came_back if batch not in lost]):
            batch.sequence = 0
            batch.keep([at for at, request in enumerate(batch.requests) if not request.called])
            self.waiting.appendleft(batch)
        for batch in lost:
            answer_all(batch.take(), OutcomeUnknown(ENDED))

    # -- Sessions --------------------------------------------------------------------------

    def begin(self, account: Account) -> None:
        """Use a session from here on."""
        self.account = account
        self.answered_at = self._seconds()
        self.wants_session = False
        self._hooks.wake()

    def end_session(self) -> None:
        """Go on with a new session: the present one is gone."""
        account = self.account
        if account is None:
            return
        account.ended = True
        self._hooks.wake()
        if account.in_doubt:
            # What the application repeats after its restart may have been applied before it.
            account.in_doubt = False
            self.refuse_all(OutcomeUnknown(ENDED))

    def refuse_all(self, error: BaseException) -> None:
        """End what waits for a session."""
        waiting, self.open = list(self.waiting), None
        self.waiting.clear()
        self.wants_session = False
        for batch in waiting:
            answer_all(batch.take(), error)

    # -- Answers ---------------------------------------------------------------------------

    def _ask(self, link: Link, batch: Batch, timeout_ms: int) -> Deferred[Results]:
        account = self.account
        if account is None:
            raise ValueError("there is no session")
        return link.connection.write_batch(
            batch.payloads, timeout_ms, batch.wish is not None, account.call(batch)
        )

    def _answered(self, results: Results, batch: Batch, link: Link) -> None:
        now = self.answered_at = self._seconds()
        link.answered(now)
        if batch.done:
            return
        self._arrived(batch, results, now)
        batch.question = batch.link = None
        if len(results) != len(batch.requests):
            batch.in_doubt = True
            count = f"{len(results)} results for {len(batch.requests)} commands"
            self._return(batch, OutcomeUnknown(f"the node answered {count}"), link)
        else:
            failed = [at for at, result in enumerate(results) if isinstance(result, RaftError)]
            if failed:
                failed = self._open_places(batch, results, failed)
            if failed:
                self._deliver_part(batch, results, failed, link)
            else:
                tell_all(*self._taken(batch, results, failed))
        account = self.account
        if account is not None and account.in_doubt and self.is_idle:
            account.in_doubt = False
        self._released()

    def _open_places(self, batch: Batch, results: Results, failed: list[int]) -> list[int]:
        """Return those places of `failed` that have no answer yet."""
        places: list[int] = []
        for place in failed:
            what = meaning(results[place])
            if what is Meaning.ENDED:
                # What becomes of it is decided once all of the session is answered.
                self.end_session()
            if what is not Meaning.FINAL:
                places.append(place)
                batch.in_doubt = batch.in_doubt or what is Meaning.DOUBT
        return places

    def _deliver_part(self, batch: Batch, answer: Results, places: list[int], link: Link) -> None:
        """Answer all but the requests at `places`; these are sent again.

        What stands between them stays: its numbers must not be missing.
        """
        error = answer[places[0]]
        results = self._stated(batch.wish, answer) if batch.wish is not None else answer
        again = set(places)
        told = [at for at in range(len(results)) if at not in again]
        requests = [batch.requests[at] for at in told]
        if told:
            self._hooks.delivered()
        if any(not batch.requests[at].called for at in places):
            self._trim(batch, places[0], places[-1] + 1)
            self._return(batch, error, link)
        else:
            # Nobody waits for the others.
            self._drop(batch)
            batch.take()
        tell_all(requests, [results[at] for at in told])

    def _trim(self, batch: Batch, begin: int, end: int) -> None:
        """Keep the requests from `begin` to `end`; the numbers of the others are answered."""
        if self.account is not None:
            numbering, sequence = self.account.numbering, batch.sequence
            if begin:
                numbering.answered(sequence, begin)
            if end < len(batch.requests):
                numbering.answered(sequence + end, len(batch.requests) - end)
        batch.keep(list(range(begin, end)))
        batch.sequence += begin

    def _failed(self, failure: Failure, batch: Batch, link: Link) -> None:
        error: BaseException = failure.value  # type: ignore[assignment]
        link.failed(failure, self._seconds())
        if batch.done:
            return
        self._came_back(batch, error)
        batch.question = batch.link = None
        what = meaning(error)
        if what is Meaning.ENDED:
            self.end_session()
        if what is Meaning.FINAL:
            self._end(batch, outcome(error, batch.in_doubt))
        else:
            batch.in_doubt = batch.in_doubt or what is Meaning.DOUBT
            lost = OutcomeUnknown("its connection was given up")
            known = error if isinstance(error, RaftError) else lost
            self._return(batch, known, link)
        self._released()

    def _return(self, batch: Batch, error: RaftError, link: Link) -> None:
        batch.error = error
        if self.closed:
            answer_all(batch.take(), self._cut_off(error) if batch.in_doubt else error)
            return
        left = batch.deadline - self._seconds()
        if isinstance(error, Timeout) and left <= LATE_SHARE * batch.timeout_seconds:
            self._time_out(batch, batch.in_doubt)
            return
        self.returned[batch.number] = batch
        # The others of a link that refuses say the same, or that the first one is missing.
        if not self._is_told and not isinstance(error, SessionExpired):
            self._is_told = True
            self._hooks.refused(error, link)

    def _end(self, batch: Batch, error: BaseException) -> None:
        self._drop(batch)
        answer_all(batch.take(), error)

    def _drop(self, batch: Batch) -> None:
        if batch.sequence and self.account is not None:
            self.account.dropped(batch)

    def expire(self, batch: Batch) -> None:
        """End a batch whose deadline has passed; one that repeats keeps its place and number."""
        if not self.repeats or batch.sequence:
            super().expire(batch)
            return
        if batch is self.open:
            self.open = None
        answer_all(batch.requests, self._too_late_for(batch, sent=True))

    def _time_out(self, batch: Batch, sent: bool) -> None:
        self._drop(batch)
        super()._time_out(batch, sent)

    def _finished(self, batch: Batch) -> None:
        account = self.account
        if account is not None:
            account.answered(batch)

    def _released(self) -> None:
        """Send what waited for room, or for an earlier command."""
        account = self.account
        if self.returned or self.waiting or (account is not None and account.ended):
            self._hooks.wake()
