"""Members that come and go, and a disk that is lost with all that was on it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from raft.chaos.stage import Nobody, Stage, tried
from raft.errors import RaftError, Timeout

ATTEMPT_SECONDS: Final = 10.0
CHANGE_SECONDS: Final = 40.0
"""After so long a change waits until everything is healed."""


@contextmanager
def changing(stage: Stage) -> Iterator[None]:
    """Keep other changes of members off."""
    if stage.is_changing:
        raise Nobody
    stage.is_changing = True
    try:
        yield
    finally:
        stage.is_changing = False


Members = dict[str, bool]


async def until(
    stage: Stage, change: Callable[[], Any], is_made: Callable[[Members], bool]
) -> bool:
    """Ask for a change until it is committed; tell whether it is."""
    deadline = time.monotonic() + CHANGE_SECONDS
    while time.monotonic() < deadline:
        await tried(change())
        try:
            members = await stage.members()
            if members is not None and is_made(members):
                return True
        except RaftError:
            # Nobody leads at the moment; what was asked for is asked for again.
            pass
        await stage.sleep(0.2)
    return False


async def replace(stage: Stage, chance: random.Random) -> None:
    """Let a new node take the place of a member, which is ended."""
    with changing(stage), stage.taken(chance) as old:
        new = _newcomer(stage)
        stage.tell("replace", f"{new} takes the place of {old}")
        given, client = stage.cluster.member(new), stage.client
        if await until(
            stage,
            lambda: client.replace(old, given, ATTEMPT_SECONDS),
            lambda members: members.get(new, False) and old not in members,
        ):
            _retire(stage, old)


async def grow_and_shrink(stage: Stage, chance: random.Random) -> None:
    """Add a learner, mostly let it vote, and remove it or another member."""
    votes, place, pause = chance.random() < 0.7, chance.random(), stage.units(chance, 1.0, 5.0)
    with changing(stage):
        new = _newcomer(stage)
        stage.tell("learner", f"{new} comes as a learner")
        given, client = stage.cluster.member(new), stage.client
        if not await until(
            stage,
            lambda: client.add_learner(given, ATTEMPT_SECONDS),
            lambda members: new in members,
        ):
            return
        await stage.sleep_units(pause)
        gone = new
        if votes and await tried(client.promote(new, ATTEMPT_SECONDS)):
            stage.tell("promote", f"{new} votes")
            free = stage.free
            gone = free[int(place * len(free))] if free else new
        with stage.held(gone):
            stage.tell("remove", f"{gone} is removed")
            await remove(stage, gone)


async def remove(stage: Stage, id: str) -> bool:
    """Remove a member and end it; tell whether it is removed."""
    client = stage.client
    removed = await until(
        stage, lambda: client.remove(id, ATTEMPT_SECONDS), lambda members: id not in members
    )
    if removed:
        _retire(stage, id)
    return removed


def _newcomer(stage: Stage) -> str:
    id = stage.cluster.newcomer().id
    stage.start(id)
    return id


def _retire(stage: Stage, id: str) -> None:
    stage.down.add(id)
    stage.cluster.retire(id)


async def wipe(stage: Stage, chance: random.Random) -> None:
    """Take all that a node has: it is removed, and joins again with nothing.

    Never more than a minority is without what it had promised to keep.
    """
    most = (len(stage.cluster.nodes) - 1) // 2
    with changing(stage), stage.taken(chance) as id:
        if len(stage.damaged) >= most:
            raise Nobody
        stage.tell("wipe", f"{id} loses its disk, is removed, and joins again")
        stage.damaged[id] = False
        stage.kill(id)
        stage.cluster.wipe(id)
        await rejoin(stage, id)


async def rejoin(stage: Stage, id: str) -> bool:
    """Let a node that has lost everything join again; tell whether it has."""
    client, given = stage.client, stage.cluster.member(id)
    if not stage.damaged[id]:
        if not await until(
            stage, lambda: client.remove(id, ATTEMPT_SECONDS), lambda members: id not in members
        ):
            return False
        stage.damaged[id] = True
    stage.start(id)
    if not await until(
        stage,
        lambda: client.add(given, ATTEMPT_SECONDS),
        lambda members: members.get(id, False),
    ):
        return False
    del stage.damaged[id]
    return True


async def reconcile(stage: Stage, size: int) -> None:
    """Once all is healed: finish what changes of members have begun, and restore the size.

    Raises:
        RaftError: the cluster cannot say who its members are.
    """
    for id in list(stage.damaged):
        if not await rejoin(stage, id):
            stage.violated(f"{id} lost its disk and cannot join again")
    members = await _settled_members(stage)
    for node in list(stage.cluster.retired):
        if node.id in members:
            stage.cluster.recall(node.id)
            stage.down.discard(node.id)
    for id in [id for id in stage.cluster.nodes if id not in members]:
        _retire(stage, id)
    # Learners go first, then who came first.
    for id in sorted(members, key=lambda each: members[each])[: max(0, len(members) - size)]:
        if not await remove(stage, id):
            stage.violated(f"{id} cannot be removed")
    for _ in range(size - len(members)):
        await _add(stage, _newcomer(stage))
    for id in [id for id, votes in (await _settled_members(stage)).items() if not votes]:
        await tried(stage.client.promote(id, ATTEMPT_SECONDS))


async def _add(stage: Stage, id: str) -> None:
    client, given = stage.client, stage.cluster.member(id)
    if not await until(
        stage, lambda: client.add(given, ATTEMPT_SECONDS), lambda members: members.get(id, False)
    ):
        stage.violated(f"{id} cannot join")


async def _settled_members(stage: Stage) -> Members:
    deadline = time.monotonic() + CHANGE_SECONDS
    while True:
        members = await stage.members(CHANGE_SECONDS)
        if members is not None:
            return members
        if time.monotonic() > deadline:
            raise Timeout(False, "a change of members is never committed")
        await stage.sleep(0.1)
