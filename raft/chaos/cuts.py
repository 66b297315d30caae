"""Faults of links: between nodes, and between nodes and their clients."""

from __future__ import annotations

import random
from collections.abc import Iterable

from raft.chaos.mesh import CLIENTS
from raft.chaos.proxy import Link, Mode
from raft.chaos.stage import Nobody, Stage

Links = list[Link]


async def _during(
    stage: Stage, links: Iterable[Link], mode: Mode, units: float, delay_seconds: float = 0.0
) -> None:
    changed = list(links)
    for link in changed:
        link.become(mode, delay_seconds)
    try:
        await stage.sleep_units(units)
    finally:
        for link in changed:
            link.become(Mode.OPEN)


def _ids(stage: Stage) -> list[str]:
    ids = list(stage.cluster.nodes)
    if len(ids) < 2:
        raise Nobody
    return ids


def _one(stage: Stage, chance: random.Random) -> tuple[str, list[str]]:
    """Choose a node, the leader more often than others, and return it with the others."""
    ids = _ids(stage)
    wants_leader, place = chance.random() < 0.5, chance.random()
    leads = wants_leader and stage.leader in ids
    one = stage.leader if leads else ids[int(place * len(ids))]
    return one, [id for id in ids if id != one]


def _any_link(stage: Stage, chance: random.Random) -> Link:
    one, others = _one(stage, chance)
    other = chance.choice(others)
    return stage.mesh.link(*((one, other) if chance.random() < 0.5 else (other, one)))


async def one_way(stage: Stage, chance: random.Random) -> None:
    """Cut one link in one direction."""
    units, link = stage.units(chance), _any_link(stage, chance)
    stage.tell("cut one way", f"{link.source} -> {link.target} is cut for {units:.1f} T")
    await _during(stage, [link], Mode.CUT, units)


async def deaf(stage: Stage, chance: random.Random) -> None:
    """Let a node speak and hear no other node (sc-E2, sc-E3)."""
    units, (one, others) = stage.units(chance), _one(stage, chance)
    stage.tell("deaf", f"{one} hears no other node for {units:.1f} T")
    await _during(stage, [stage.mesh.link(id, one) for id in others], Mode.CUT, units)


async def mute(stage: Stage, chance: random.Random) -> None:
    """Let a node hear and be heard by no other node."""
    units, (one, others) = stage.units(chance), _one(stage, chance)
    stage.tell("mute", f"no other node hears {one} for {units:.1f} T")
    await _during(stage, [stage.mesh.link(one, id) for id in others], Mode.CUT, units)


async def isolate(stage: Stage, chance: random.Random) -> None:
    """Cut a node off in both directions; its clients may still reach it."""
    units, (one, others) = stage.units(chance), _one(stage, chance)
    with_clients = [CLIENTS] if chance.random() < 0.5 else []
    also = " and its clients" if with_clients else ""
    stage.tell("isolated", f"{one} is cut off from the others{also} for {units:.1f} T")
    await _during(stage, stage.mesh.around(one, [*others, *with_clients]), Mode.CUT, units)


async def halves(stage: Stage, chance: random.Random) -> None:
    """Part the cluster in two."""
    units, ids = stage.units(chance), _ids(stage)
    chance.shuffle(ids)
    cut = chance.randrange(1, len(ids))
    stage.tell("halves", f"{ids[:cut]} and {ids[cut:]} are parted for {units:.1f} T")
    links = [link for one in ids[:cut] for link in stage.mesh.around(one, ids[cut:])]
    await _during(stage, links, Mode.CUT, units)


async def black_hole(stage: Stage, chance: random.Random) -> None:
    """Let a link, or all to a node, accept and never read; the bytes arrive in the end."""
    units, (one, others) = stage.units(chance), _one(stage, chance)
    sources = others if chance.random() < 0.5 else [chance.choice(others)]
    stage.tell("black hole", f"{sources} -> {one} is a black hole for {units:.1f} T")
    await _during(stage, [stage.mesh.link(id, one) for id in sources], Mode.STALL, units)


async def trickle(stage: Stage, chance: random.Random) -> None:
    """Let a link pass a byte a second."""
    units, link = stage.units(chance, 3.0), _any_link(stage, chance)
    stage.tell("trickle", f"{link.source} -> {link.target} passes a byte a second, {units:.1f} T")
    await _during(stage, [link], Mode.TRICKLE, units)


async def delay(stage: Stage, chance: random.Random) -> None:
    """Let all that a node hears, or everything, arrive late by up to 2 T."""
    units, late = stage.units(chance, 3.0), stage.units(chance, 0.05, 2.0)
    one, others = _one(stage, chance)
    links = [stage.mesh.link(id, one) for id in others]
    if chance.random() < 0.3:
        links = [link for id in [one, *others] for link in stage.mesh.around(id, others)]
    stage.tell("delay", f"{len(links)} links around {one} are {late:.2f} T late for {units:.1f} T")
    await _during(stage, links, Mode.OPEN, units, late * stage.unit_seconds)


async def refuse(stage: Stage, chance: random.Random) -> None:
    """Reset what stands between two nodes, and whatever is dialled, for a while."""
    units, link = stage.units(chance), _any_link(stage, chance)
    stage.tell("refuse", f"{link.source} -> {link.target} is reset for {units:.1f} T")
    await _during(stage, [link], Mode.REFUSE, units)


async def flap(stage: Stage, chance: random.Random) -> None:
    """Cut a node off and join it again, ten times, every T/20 to 2 T."""
    units, (one, others) = stage.units(chance, 0.05, 2.0), _one(stage, chance)
    stage.tell("flapping", f"{one} is cut off and back again 10 times, every {units:.2f} T")
    for _ in range(10):
        await _during(stage, stage.mesh.around(one, others), Mode.CUT, units)
        await stage.sleep_units(units)


async def reset(stage: Stage, chance: random.Random) -> None:
    """Break all connections of a node; they may be dialled again at once."""
    one, others = _one(stage, chance)
    count = sum(link.reset() for link in stage.mesh.around(one, [*others, CLIENTS]))
    stage.tell("reset", f"{count} flows of {one} are reset")


async def duplicate(stage: Stage, chance: random.Random) -> None:
    """Say again, on connections of its own, what others' connections have said."""
    one, others = _one(stage, chance)
    count = sum(stage.mesh.link(id, one).duplicate() for id in others)
    stage.tell("duplicate", f"{count} connections to {one} are said twice")


async def garbage(stage: Stage, chance: random.Random) -> None:
    """Put nonsense between the messages that a node hears."""
    one, others = _one(stage, chance)
    count = sum(stage.mesh.link(id, one).garble(chance) for id in others)
    stage.tell("garbage", f"{count} connections to {one} are garbled")


async def sleeper(stage: Stage, chance: random.Random) -> None:
    """Stop a leader, cut it off meanwhile, and let it wake up as if it led (sc-P2).

    Others elect another one in the meantime. Its clients' questions wait in its sockets, and no
    message from another node tells it otherwise.
    """
    units, place = stage.units(chance, 2.5, 6.0), chance.random()
    free = stage.free
    if not free:
        raise Nobody
    one = stage.leader if stage.leader in free else free[int(place * len(free))]
    links = list(stage.mesh.around(one, [id for id in _ids(stage) if id != one]))
    with stage.held(one):
        stage.tell("sleeper", f"{one} sleeps for {units:.1f} T and wakes up cut off")
        for link in links:
            link.become(Mode.CUT)
        stage.cluster.pause(one)
        try:
            await stage.sleep_units(units)
        finally:
            stage.cluster.resume(one)
        await _during(stage, links, Mode.CUT, 1.0)


async def clients_cut(stage: Stage, chance: random.Random) -> None:
    """Cut the clients off from a node, in one direction or in both."""
    units, (one, _) = stage.units(chance), _one(stage, chance)
    mode = chance.choice([Mode.CUT, Mode.CUT, Mode.STALL])
    links = list(stage.mesh.between(CLIENTS, one))
    if chance.random() < 0.7:
        links = [chance.choice(links)]
    names = ", ".join(f"{link.source} -> {link.target}" for link in links)
    stage.tell("clients cut", f"{names}: {mode.value} for {units:.1f} T")
    await _during(stage, links, mode, units)
