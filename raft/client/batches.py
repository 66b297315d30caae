"""What leaves as one box: requests that were issued in one turn, and what they come to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from raft.client.window import Passage
from raft.errors import NotAppended, OutcomeUnknown, RaftError
from raft.interfaces import Indexed, ReadTerms
from raft.transport.calls import Results

if TYPE_CHECKING:
    from raft.client.lanes import Lane
    from raft.client.links import Link

BOX_BYTES: Final = 256 << 10
"""A batch is closed above this; a single larger command still makes a batch of its own."""

FULL_BYTES: Final = 16 << 10
"""A box that has so much leaves before the turn ends.

The node works on it while the next one is filled, and both cores of a small machine are busy.
"""

REQUEST_BYTES: Final = 64
"""What a request counts for besides its bytes: it bounds the number of small ones as well."""


ANSWER_SHARE: Final = 0.95
"""The share of the time left that a node is given.

The rest is for its answer: "too late, and not appended" is worth more than no answer.
"""


@frozen
class Wish:
    """What requests want beside their results; those that want nothing have None.

    Either way the node is asked which state its answer belongs to.

    Attributes:
        terms: of reads, what they ask of the state.
        indexed: whether each result is to be an `Indexed`.
    """

    terms: ReadTerms | None = None
    indexed: bool = False


class Batch:
    """The requests of one box; `number` grows in the order of issue, over all lanes.

    Invariant: `requests` and `payloads` belong together, item by item, until `done`.

    Attributes:
        ahead_bytes: what had no answer yet when it was begun.
        question, link, passage: set while it is sent.
        error: why it came back, if it did.
        sequence: within a session, the number of the first command; 0 before it has one.
        in_doubt: whether a copy that was sent earlier may have been appended.
        rest: the requests that were split off, so that cancelling finds them.
    """

    __slots__ = (
        "ahead_bytes",
        "deadline",
        "done",
        "error",
        "in_doubt",
        "lane",
        "link",
        "number",
        "passage",
        "payloads",
        "question",
        "requests",
        "rest",
        "sequence",
        "size_bytes",
        "timeout_seconds",
        "wish",
    )

    def __init__(self, lane: Lane, number: int, timeout_seconds: float, deadline: float) -> None:
        """Start empty; `deadline` is in the client's seconds."""
        self.lane = lane
        self.number = number
        self.timeout_seconds = timeout_seconds
        self.deadline = deadline
        self.ahead_bytes = 0
        self.wish: Wish | None = None
        self.requests: list[Deferred[Any]] = []
        self.payloads: list[bytes] = []
        self.size_bytes = 0
        self.done = False
        self.question: Deferred[Results] | None = None
        self.link: Link | None = None
        self.passage: Passage = (0, 0, 0.0)
        self.error: RaftError | None = None
        self.sequence = 0
        self.in_doubt = False
        self.rest: Batch | None = None

    def cancel(self, request: Deferred[Any]) -> None:
        """Drop a request that is not sent; of one that is, the answer will find nobody."""
        batch = self
        # Deferreds compare by identity.
        while batch.rest is not None and request not in batch.requests:
            batch = batch.rest
        unsent = (
            batch.question is None
            and not batch.sequence
            and not batch.lane.repeats
            and request in batch.requests
        )
        if unsent:
            place = batch.requests.index(request)
            del batch.requests[place]
            freed = len(batch.payloads.pop(place)) + REQUEST_BYTES
            batch.size_bytes -= freed
            batch.lane.size_bytes -= freed
        self.lane.cancelled(request, unsent)

    def split(self, count: int, number: int) -> Batch:
        """Keep the first `count` requests; return a batch of the others."""
        rest = Batch(self.lane, number, self.timeout_seconds, self.deadline)
        rest.wish, rest.error = self.wish, self.error
        rest.requests, rest.payloads = self.requests[count:], self.payloads[count:]
        del self.requests[count:], self.payloads[count:]
        rest.size_bytes = sum(map(len, rest.payloads)) + REQUEST_BYTES * len(rest.payloads)
        self.size_bytes -= rest.size_bytes
        rest.ahead_bytes = self.ahead_bytes + self.size_bytes
        rest.rest, self.rest = self.rest, rest
        return rest

    def take(self) -> list[Deferred[Any]]:
        """Return the requests and forget them, with all that they hold."""
        taken, self.requests, self.payloads = self.requests, [], []
        self.lane.size_bytes -= self.size_bytes
        self.size_bytes = 0
        self.done = True
        self.question = self.link = None
        return taken

    def keep(self, places: list[int]) -> None:
        """Keep only the requests at `places`."""
        before = self.size_bytes
        self.requests = [self.requests[place] for place in places]
        self.payloads = [self.payloads[place] for place in places]
        self.size_bytes = sum(map(len, self.payloads)) + REQUEST_BYTES * len(places)
        self.lane.size_bytes -= before - self.size_bytes


def answer_all(requests: Iterable[Deferred[Any]], error: BaseException) -> None:
    """Fail those of `requests` that nobody has cancelled."""
    for request in requests:
        if not request.called:
            request.errback(Failure(error))


def tell_all(requests: Iterable[Deferred[Any]], results: Iterable[Any]) -> None:
    """Give each request its result or error."""
    for request, result in zip(requests, results, strict=True):
        # Who cancelled has been told already.
        if request.called:
            continue
        if isinstance(result, RaftError):
            request.errback(Failure(result))
        else:
            request.callback(result)


def cancellation(unsent: bool) -> RaftError:
    """Return what a write ends with that its caller cancelled."""
    if unsent:
        return NotAppended("cancelled before it was sent")
    return OutcomeUnknown("cancelled after it was sent")


def with_indexes(results: list[Any]) -> list[Any]:
    """Return the results of writes; those of which the node told no index are unknown."""
    lost = OutcomeUnknown("written, but the node tells no index")
    return [lost if isinstance(each, Indexed) and not each.index else each for each in results]
