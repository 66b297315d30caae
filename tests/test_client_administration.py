"""Changes of single members from outside: computed from what the leader says, and compared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from raft.client.administration import Administration
from raft.client.checks import MemberLike
from raft.core.configuration import Member
from raft.errors import ConfigurationInProgress, NotApplied, NotFound, RaftError

ADDRESSES = {"peer_address": "tcp:127.0.0.1:1", "client_address": "tcp:127.0.0.1:2"}


class Cluster(Administration):
    """Stands in for a client: tells a status, keeps what it is asked, refuses in turn."""

    def __init__(self, *refusals: RaftError, **status: Any) -> None:
        self.refusals = list(refusals)
        self.asked: list[tuple[Any, ...]] = []
        self.looks: list[str | None] = []
        rows = [{"id": id, "voter": True, "incarnation": f"i-{id}", **ADDRESSES} for id in "abc"]
        self.told: dict[str, Any] = {"configuration_index": 7, "members": rows, **status}
        self.moves = True
        self._seconds = lambda: 0.0

    def leader(self, timeout: float | None = None) -> Deferred[tuple[str, str]]:
        return succeed(("a", "tcp:127.0.0.1:2"))

    def status(
        self, server: str | None = None, timeout: float | None = None
    ) -> Deferred[dict[str, object]]:
        self.looks.append(server)
        return succeed(dict(self.told))

    def set_configuration(
        self,
        members: Iterable[MemberLike],
        timeout: float | None = None,
        *,
        replace: bool = False,
        expected_index: int | None = None,
        force: bool = False,
    ) -> Deferred[None]:
        ids = [member.id for member in members if isinstance(member, Member)]
        self.asked.append((ids, replace, expected_index, force))
        if not self.refusals:
            return succeed(None)
        if self.moves:
            self.told["configuration_index"] += 1
        return fail(self.refusals.pop(0))


def ended(deferred: Deferred[None]) -> BaseException | None:
    """Return how a Deferred that has fired ended."""
    found: list[Any] = []
    deferred.addBoth(found.append)
    (result,) = found
    return result.value if result is not None else None


def test_a_member_is_removed_from_what_the_leader_said_and_nothing_else() -> None:
    """M4: the whole of the members, compared with the configuration they were computed from."""
    cluster = Cluster()
    assert ended(cluster.remove("b")) is None
    assert cluster.asked == [(["a", "c"], True, 7, False)]
    assert cluster.looks == ["tcp:127.0.0.1:2"]


def test_where_incarnations_were_pinned_meanwhile_it_looks_again() -> None:
    """M4: the configuration moved, and nobody's change is under way."""
    cluster = Cluster(ConfigurationInProgress(), ConfigurationInProgress())
    assert ended(cluster.remove("b")) is None
    assert [asked[2] for asked in cluster.asked] == [7, 8, 9]


@pytest.mark.parametrize("under_way", [{"target": ["d"]}, {"joint": True}])
def test_a_change_that_is_under_way_is_not_contended_with(under_way: dict[str, Any]) -> None:
    """M2."""
    cluster = Cluster(*[ConfigurationInProgress()] * 3, **under_way)
    assert isinstance(ended(cluster.remove("b")), ConfigurationInProgress)
    assert len(cluster.asked) == 1


def test_a_refusal_of_the_same_configuration_again_is_final() -> None:
    """M2: where nothing moves, to ask for ever would not help."""
    cluster = Cluster(*[ConfigurationInProgress()] * 9)
    cluster.moves = False
    assert isinstance(ended(cluster.remove("b")), ConfigurationInProgress)
    assert len(cluster.asked) == 2


def test_what_cannot_be_is_not_asked_for() -> None:
    cluster = Cluster()
    assert isinstance(ended(cluster.remove("x")), NotFound)
    assert isinstance(ended(cluster.promote("x")), NotFound)
    empty = Cluster(configuration_index=0)
    assert isinstance(ended(empty.remove("a")), NotApplied)
    assert cluster.asked == empty.asked == []


def test_who_is_added_is_added_to_what_the_leader_said() -> None:
    """M4, M8, sc-K1: a newcomer that gets the order itself must not found a cluster with it."""
    cluster = Cluster()
    assert ended(cluster.add({"id": "d", **ADDRESSES})) is None
    assert cluster.asked == [(["a", "b", "c", "d"], True, 7, False)]
    empty = Cluster(configuration_index=0)
    assert isinstance(ended(empty.add({"id": "d", **ADDRESSES})), NotApplied)
    assert empty.asked == []
