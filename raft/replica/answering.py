"""Answering: queries to the machine's state of this moment, which change nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from raft.errors import CommandError, CommandFailed, Refused
from raft.interfaces import IPreparingStateMachine, Value
from raft.outcomes import NOTHING, Result, encoded_error
from raft.replica.state import State


class Answering(State):
    """A replica that answers queries."""

    @cached_property
    def _prepare(self) -> Callable[[Value, bool], bool] | None:
        is_preparing = IPreparingStateMachine.providedBy(self.machine)
        return IPreparingStateMachine(self.machine).prepare if is_preparing else None

    def query(self, payload: bytes) -> Result:
        """Answer a query from the current state.

        A query changes nothing, so no exception of the machine stops the node: what is no
        `CommandError` is `CommandFailed` with the class name. Limits are checked.
        """
        if self._failure is not None:
            raise self._failure
        try:
            query = self.codec.decode(payload)
        except Refused as error:
            return encoded_error(error)
        return self._answer(query)

    def answers(self, payloads: Sequence[bytes], may_work: bool = True) -> list[Result] | None:
        """Answer queries as `query` does, from one state; None where the machine needs a turn more.

        Without `may_work` it does nothing for that: there was enough to be done in this turn.
        """
        prepare = self._prepare
        if prepare is None or self._failure is not None:
            return [self.query(payload) for payload in payloads]
        found: list[Result] = []
        for payload in payloads:
            try:
                query = self.codec.decode(payload)
            except Refused as error:
                found.append(encoded_error(error))
                continue
            try:
                is_ready = prepare(query, may_work)
            except Exception:
                # The query itself will tell what is wrong.
                is_ready = True
            if not is_ready:
                return None
            found.append(self._answer(query))
        return found

    def _answer(self, query: Value) -> Result:
        try:
            answer = self.machine.query(query)
        except CommandError as error:
            return encoded_error(error)
        except Exception as error:
            self._outcomes.log_unforeseen(error, self.last_applied)
            return encoded_error(CommandFailed(type(error).__name__))
        return NOTHING if answer is None else self._outcomes.encoded(answer)
