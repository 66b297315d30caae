"""Those who want to know what changes at a node."""

from __future__ import annotations

from collections.abc import Callable

from attrs import Factory, define
from twisted.logger import Logger

from raft.core import outputs as out

_log = Logger()

Observer = Callable[[out.Change], object]


@define(eq=False)
class Observers:
    """Calls each observer with each change; what one raises touches nothing else."""

    id: str
    _observers: list[Observer] = Factory(list)

    def add(self, observer: Observer) -> Callable[[], None]:
        """Call `observer` from here on; returns what ends that."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer) if observer in self._observers else None

    def tell(self, change: out.Change) -> None:
        """Tell all of `change`, and the log of what an operator wants to know."""
        if isinstance(change, out.RoleChanged):
            _log.info(
                "{id} is {role} in term {term}, the leader is {leader}",
                id=self.id,
                role=change.role.value,
                term=change.term,
                leader=change.leader or "not known",
            )
        for observer in list(self._observers):
            try:
                observer(change)
            except Exception:
                _log.failure("An observer of {id} failed", id=self.id)
