"""Bugs of sessions, to be planted into the real replica [RULES S1-S6]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raft.outcomes import Result
from raft.replica import Replica
from raft.sessions import Session, Sessions
from tests.simulation.planted import planted


def with_results(patch: pytest.MonkeyPatch, kind: type[dict[int, Result]]) -> None:
    """Let sessions keep their results in a `kind` of dictionary."""
    touch = Sessions.touch

    def touched(sessions: Sessions, session: bytes, now_us: int) -> Session | None:
        found = touch(sessions, session, now_us)
        if found is not None and type(found.results) is not kind:
            found.results = kind(found.results)
        return found

    patch.setattr(Sessions, "touch", touched)


@planted("I16", "I17")
def copies_are_looked_for_at_propose_only(patch: pytest.MonkeyPatch) -> None:
    """[S2]: another leader, or a copy under way, brings it into the log again."""

    class Blind(dict[int, Result]):
        """Finds nothing."""

        def __contains__(self, _: object) -> bool:
            return False

    with_results(patch, Blind)


@planted("I16", "I17", "I20")
def sessions_are_no_part_of_snapshots(patch: pytest.MonkeyPatch) -> None:
    """[S4]: who restores one executes copies again, or knows nobody."""
    patch.setattr(Sessions, "is_untouched", property(lambda _: True))


@planted("I16", "I17", "I20")
def sessions_expire_by_the_local_clock(patch: pytest.MonkeyPatch) -> None:
    """[S3]: every server forgets at another entry."""
    begin, expire = Replica.__init__, Sessions.expire
    clocks: dict[int, Callable[[], float]] = {}

    def local(replica: Replica, *args: Any, **named: Any) -> None:
        begin(replica, *args, **named)
        clocks[id(replica.sessions)] = named["clock"]

    def by_clock(sessions: Sessions, _: int) -> None:
        expire(sessions, int(clocks[id(sessions)]() * 1_000_000))

    patch.setattr(Replica, "__init__", local)
    patch.setattr(Sessions, "expire", by_clock)


@planted("I16")
def the_low_mark_discards_one_too_many(patch: pytest.MonkeyPatch) -> None:
    """[S2]: the lowest number without an answer is still waited for."""
    raise_low_mark = Session.raise_low_mark

    def greedy(session: Session, low_mark: int) -> None:
        raise_low_mark(session, low_mark + 1)

    patch.setattr(Session, "raise_low_mark", greedy)


@planted("I16", "I20")
def a_refusal_is_not_remembered(patch: pytest.MonkeyPatch) -> None:
    """[S6]: what was refused once may be accepted when it comes again."""

    class Choosy(dict[int, Result]):
        """Keeps successes."""

        def __setitem__(self, sequence: int, result: Result) -> None:
            if not result[0]:
                super().__setitem__(sequence, result)

    with_results(patch, Choosy)


@planted("I16", "I17")
def what_was_dropped_is_executed_again(patch: pytest.MonkeyPatch) -> None:
    """[S2]: below the mark of what is kept, nothing tells a copy from a new command."""
    drop = Session._drop_below

    def forgetful(session: Session, kept_from: int) -> None:
        drop(session, kept_from)
        session.kept_from = 0

    patch.setattr(Session, "_drop_below", forgetful)


@planted("I16", "I17", "I20")
def a_lost_session_is_opened_again(patch: pytest.MonkeyPatch) -> None:
    """[S2]: who has no session is given one, and executes what may be a copy."""
    touch = Sessions.touch

    def generous(sessions: Sessions, session: bytes, now_us: int) -> Session | None:
        found = touch(sessions, session, now_us)
        if found is None:
            found = sessions.register(0, session[8:], now_us, None)
        return found

    patch.setattr(Sessions, "touch", generous)
