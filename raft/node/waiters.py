"""Callers who wait until something is true of a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import Factory, define, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from raft.errors import RaftError, Timeout


@frozen(eq=False)
class _Waiter:
    deferred: Deferred[Any]
    done: Callable[[], Any]
    timer: Any


@define(eq=False)
class Waiters:
    """Asks at the end of each turn whether what they wait for has come."""

    reactor: Any
    _waiting: list[_Waiter] = Factory(list)

    def wait(
        self,
        done: Callable[[], Any],
        timeout_seconds: float,
        otherwise: str,
        appended: bool = False,
    ) -> Deferred[Any]:
        """Fire with what `done` returns, as soon as that is true; fail where it is a `RaftError`.

        Fails with `Timeout`, saying `otherwise`, and `appended` where something is under
        way. Cancelling forgets the caller.
        """
        if result := done():
            return fail(result) if isinstance(result, RaftError) else succeed(result)

        def expire() -> None:
            self._end(waiter, Timeout(appended, otherwise))

        deferred: Deferred[Any] = Deferred(lambda _: self._forget(waiter))
        waiter = _Waiter(deferred, done, self.reactor.callLater(timeout_seconds, expire))
        self._waiting.append(waiter)
        return deferred

    def look(self) -> None:
        """Ask for all of them."""
        for waiter in list(self._waiting):
            # Whoever was called before may have ended this one.
            if waiter in self._waiting and (result := waiter.done()):
                self._end(waiter, result)

    def fail_all(self, error: RaftError) -> None:
        """End all of them with `error`."""
        for waiter in list(self._waiting):
            if waiter in self._waiting:
                self._end(waiter, error)

    def _forget(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        if waiter.timer.active():
            waiter.timer.cancel()

    def _end(self, waiter: _Waiter, result: object) -> None:
        self._forget(waiter)
        if isinstance(result, RaftError):
            waiter.deferred.errback(result)
        else:
            waiter.deferred.callback(result)


def following(deferred: Deferred[Any]) -> Deferred[Any]:
    """Return a Deferred of its own that fires as `deferred` does; cancelling forgets it.

    One Deferred given to two callers would let the first change what the second gets.
    """
    own: Deferred[Any] = Deferred()

    def passed(result: Any) -> Any:
        if not own.called:
            own.callback(result)
        return None if isinstance(result, Failure) else result

    deferred.addBoth(passed)
    return own
