"""The life of a client's session: opened when it is needed, kept while idle, closed at the end."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

from raft.client.batches import ANSWER_SHARE
from raft.client.lanes import Hooks
from raft.client.links import Link
from raft.client.meanings import Meaning, meaning
from raft.client.numbered import Account, SessionLane
from raft.client.search import Search
from raft.errors import BadConfiguration, Overloaded, RaftError, Timeout
from raft.numbering import FIRST_SEQUENCE, SESSION_BYTES, Numbering, OpenedSession
from raft.transport import commands
from raft.transport.arguments import pack_sessions, unpack_present

NONCE_BYTES: Final = 8

KEEP_PARTS: Final = 3
"""A session that is not used is kept so many times within its time-out."""

KEEP_SECONDS: Final = 10.0
"""How long one attempt to keep a session may take."""

CLOSE_SECONDS: Final = 1.0
"""How long closing waits for the cluster to end the session."""


@frozen
class SavedSession:
    """What an application saves to go on with a session after its own restart.

    Attributes:
        id: 16 bytes.
        next_sequence: the number that the next command will have.
        results: how many results the cluster keeps for the session.
        timeout_seconds: how long the session lives without a command.

    Raises:
        BadConfiguration: one of them is nothing of that kind.
    """

    id: bytes
    next_sequence: int
    results: int = 1000
    timeout_seconds: float = 3600.0

    def __attrs_post_init__(self) -> None:
        """Refuse what was not saved by a client."""
        if not isinstance(self.id, bytes) or len(self.id) != SESSION_BYTES:
            raise BadConfiguration(f"session: id is {self.id!r}; give the {SESSION_BYTES} bytes")
        for name, least in (("next_sequence", FIRST_SEQUENCE), ("results", 1)):
            number = getattr(self, name)
            if type(number) is not int or number < least:
                raise BadConfiguration(f"session: {name} is {number!r}; give {least} or more")
        if not self.timeout_seconds > 0:
            raise BadConfiguration(f"session: timeout_seconds is {self.timeout_seconds!r}")


class SessionLife:
    """Opens sessions for a lane, keeps them while it is idle, and closes the last one."""

    def __init__(
        self,
        reactor: Any,
        hooks: Hooks,
        search: Search,
        timeout_seconds: float,
        limit_bytes: int,
        run: Callable[[Coroutine[Deferred[Any], Any, None]], Deferred[None]],
    ) -> None:
        """Make a lane; one attempt to open a session may take `timeout_seconds`.

        `run` runs a coroutine until the client is closed. `trouble` is why the last attempt to
        open a session failed.
        """
        self.trouble: RaftError | None = None
        self.lane = SessionLane(limit_bytes, hooks, self._ask)
        self._reactor = reactor
        self._hooks = hooks
        self._seconds = hooks.seconds
        self._search = search
        self._timeout_seconds = timeout_seconds
        self._run = run
        self._is_asked = False
        self._timer: Any = None
        self._kept_at = 0.0
        self._waiting: list[Deferred[None]] = []

    @property
    def saved(self) -> SavedSession | None:
        """What to save at this moment; None where the next number is not certain."""
        lane = self.lane
        if lane.account is None or lane.account.ended or lane.has_unnumbered:
            return None
        numbering = lane.account.numbering
        opened = numbering.opened
        return SavedSession(
            opened.id, numbering.next_sequence, opened.results, opened.timeout_seconds
        )

    def resume(self, saved: SavedSession) -> None:
        """Go on with a session of an earlier life of the application."""
        opened = OpenedSession(saved.id, saved.timeout_seconds, saved.results, 0)
        self._begin(Account(Numbering(opened, saved.next_sequence), True, True))

    # -- Opening -----------------------------------------------------------------------------

    async def open(self, remaining: Callable[[], float]) -> SavedSession:
        """Open a session unless there is one; return what to save.

        Raises:
            Timeout: there was none in time.
            Overloaded: the next number is not certain.
        """
        account = self.lane.account
        if account is None or account.ended:
            self.lane.wants_session = True
            self._hooks.wake()
            await self._opened_within(remaining())
        saved = self.saved
        if saved is None:
            raise Overloaded("commands wait that have no number yet")
        return saved

    def _opened_within(self, seconds: float) -> Deferred[None]:
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)

        def too_late(result: object, _seconds: float) -> object:
            if isinstance(result, Failure) and result.check(CancelledError):
                last = f"; what went wrong last: {self.trouble}" if self.trouble else ""
                raise Timeout(False, f"no session within {seconds:g} s{last}") from self.trouble
            return result

        return waiting.addTimeout(max(seconds, 0.001), self._reactor, too_late)  # type: ignore[arg-type]

    def _tell(self, result: Failure | None) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(result)

    def _ask(self, link: Link) -> None:
        """Ask for a session over `link`, unless one is asked for."""
        if self._is_asked:
            return
        self._is_asked = True
        link.asked(self._seconds())
        milliseconds = max(1, int(self._timeout_seconds * 1000 * ANSWER_SHARE))
        asked = link.connection.open_session(secrets.token_bytes(NONCE_BYTES), milliseconds)
        asked.addCallbacks(self._opened, self._failed, (link,), {}, (link,), {})

    def _opened(self, opened: OpenedSession, link: Link) -> None:
        self._is_asked = False
        link.answered(self._seconds())
        if self.lane.closed is None:
            self.trouble = None
            self._hooks.delivered()
            self._begin(Account(Numbering(opened)))

    def _begin(self, account: Account) -> None:
        self.lane.begin(account)
        self._kept_at = self._seconds()
        self._arm()
        self._tell(None)

    def _failed(self, failure: Failure, link: Link) -> None:
        self._is_asked = False
        link.failed(failure, self._seconds())
        error: BaseException = failure.value  # type: ignore[assignment]
        if self.lane.closed is not None:
            return
        if isinstance(error, RaftError) and meaning(error) is not Meaning.FINAL:
            self.trouble = error
            # There may be another session then; it expires, since nobody uses it.
            self._hooks.refused(error, link)
        else:
            self.lane.refuse_all(error)
            self._tell(Failure(error))

    # -- Keeping -------------------------------------------------------------------------------

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        account = self.lane.account
        if account is not None and self.lane.closed is None:
            interval = account.numbering.opened.timeout_seconds / KEEP_PARTS
            wait = max(interval - self._idle_seconds(), interval / 10)
            self._timer = self._reactor.callLater(wait, self._fired)

    def _idle_seconds(self) -> float:
        return self._seconds() - max(self.lane.answered_at, self._kept_at)

    def _fired(self) -> None:
        self._timer = None
        account = self.lane.account
        if account is None or account.ended:
            # Opening the next session arms it.
            return
        if self._idle_seconds() < account.numbering.opened.timeout_seconds / KEEP_PARTS:
            self._arm()
        else:
            self._run(self._keep(account)).addBoth(lambda _: self._arm())

    async def _keep(self, account: Account) -> None:
        deadline = self._seconds() + min(
            KEEP_SECONDS, account.numbering.opened.timeout_seconds / KEEP_PARTS
        )
        packed = pack_sessions([account.numbering.opened.id])

        async def ask(link: Link, seconds: float) -> bool:
            answer = await link.call(
                self._seconds,
                commands.KeepSessions,
                seconds,
                sessions=packed,
                timeout_ms=max(1, int(seconds * 1000 * ANSWER_SHARE)),
            )
            return unpack_present(answer["present"])[0]

        try:
            is_there = await self._search.ask(ask, lambda: deadline - self._seconds())
        except (RaftError, CancelledError, ValueError, IndexError):
            # There is time for more attempts before the session ends.
            return
        if is_there:
            self._kept_at = self._seconds()
        elif self.lane.account is account and not (account.in_doubt and self.lane.is_idle):
            # While nothing is repeated yet that an earlier life may have sent, it is not given
            # up: in a new session that would be carried out again.
            self.lane.end_session()

    # -- Closing -------------------------------------------------------------------------------

    def close(self, link: Link | None, keep: bool) -> Deferred[None]:
        """End the session over `link` unless it is to be kept; as far as that is possible at once.

        Never fails; a session that is not ended expires.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        account = self.lane.account
        if keep or link is None or not link.usable or account is None or account.ended:
            return succeed(None)
        asked = link.call(
            self._seconds,
            commands.CloseSessions,
            CLOSE_SECONDS,
            sessions=pack_sessions([account.numbering.opened.id]),
            timeout_ms=int(CLOSE_SECONDS * 1000 * ANSWER_SHARE),
        )
        link.connection.flush()
        return asked.addBoth(lambda _: None)
