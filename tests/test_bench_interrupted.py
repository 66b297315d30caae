"""`raft bench` on a cluster that runs already: an interruption is never taken for an answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from raft.bench.running import RunningStand


class Silent:
    """A client whose nodes do not answer."""

    def __init__(self) -> None:
        self.asked: list[Deferred[Any]] = []

    def status(self, *_: object) -> Deferred[Any]:
        self.asked.append(Deferred())
        return self.asked[-1]


def test_who_is_interrupted_while_nodes_are_asked_measures_no_more() -> None:
    task: Any = SimpleNamespace(plan=SimpleNamespace(nodes=3))
    stand: Any = RunningStand(task)
    stand._client, stand._members = Silent(), {"n1": "a", "n2": "b"}
    asking = Deferred.fromCoroutine(stand.statuses())
    asking.cancel()
    ended: list[Any] = []
    asking.addErrback(lambda failure: ended.append(failure.type))
    assert ended == [CancelledError]
    # What comes late finds nobody, and is no error.
    for each in stand._client.asked:
        each.callback({})
