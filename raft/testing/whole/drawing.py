"""Draws what goes wrong: whom it befalls, how long it lasts."""

from __future__ import annotations

import random
from typing import Final

from attrs import define

from raft.testing.choices import Json
from raft.testing.cores.swarm import TIMEOUT_SECONDS
from raft.testing.whole import scenes
from raft.testing.whole.world import World

LEADER_SHARE: Final = 0.5
"""How often the leader is the one whom a trouble befalls."""
DOWN_TIMEOUTS: Final = (0.0, 0.1, 1.0, 5.0)
LASTING_TIMEOUTS: Final = (0.3, 1.0, 3.0, 8.0)
SHAPES: Final = ("halves", "isolate", "ring", "bridge")


@define(eq=False)
class Drawing:
    """Draws troubles for one world."""

    world: World

    @property
    def repair_seconds(self) -> float:
        """After which time somebody starts a server again that ended by itself."""
        return TIMEOUT_SECONDS

    def trouble(self, rng: random.Random) -> list[Json]:
        """Draw one."""
        kind = rng.choice(self.world.swarm.troubles)
        if kind in scenes.SCENES:
            return self._scene(kind, rng)
        id = self._somebody(rng)
        down, lasting = self._seconds(rng, DOWN_TIMEOUTS), self._seconds(rng, LASTING_TIMEOUTS)
        match kind:
            case "kill" | "power" | "rot" | "wipe" | "put back":
                return [kind, id, down]
            case "kill at disk" | "power at disk" | "failing disk":
                return [kind, id, rng.choice((0, 1, 2, 3, 5, 8, 13, 30)), down]
            case "kill at send":
                return [kind, id, rng.choice((0, 1, 2, 3, 5, 8)), down]
            case "pause":
                return [kind, id, lasting]
            case "cut":
                return [kind, self._shape(rng), lasting]
            case "one way":
                return ["cut", [*self._one_way(rng)], lasting]
            case "flap":
                return [kind, self._shape(rng), 0.05 + 0.3 * rng.random(), rng.randint(2, 8)]
            case "reset":
                return [kind, *self._pair(rng)]
            case "slow link":
                return [kind, *self._pair(rng), rng.choice((500.0, 5_000.0, 50_000.0)), lasting]
            case "late":
                return [kind, *self._pair(rng), rng.choice((0.05, 0.2, 1.0)), lasting]
            case "slow disk":
                return [kind, id, rng.choice((0.05, 0.2, 1.0)), lasting]
            case "full disk":
                # Room is asked for now and then only: it must be short for a while to be missed.
                room = rng.choice((0, 1_000, 5_000, 20_000, 100_000))
                return [kind, id, room, round(4 * lasting, 4)]
            case "transfer":
                return [kind, id, rng.choice([*self.world.hosts])]
            case "snapshot" | "copy":
                return [kind, id]
            case "second":
                return [kind, id, round(rng.uniform(0.5, 2.0), 4)]
        raise ValueError(f"no kind of trouble: {kind}")

    def _scene(self, kind: str, rng: random.Random) -> list[Json]:
        leaders = self.world.leaders()
        id = leaders[0].id if leaders else rng.choice([*self.world.hosts])
        return scenes.draw(kind, id, rng)

    def _seconds(self, rng: random.Random, timeouts: tuple[float, ...]) -> float:
        return round(rng.choice(timeouts) * TIMEOUT_SECONDS * rng.uniform(0.5, 1.5), 4)

    def _somebody(self, rng: random.Random) -> str:
        leaders, favours = self.world.leaders(), rng.random() < LEADER_SHARE
        id = rng.choice([*self.world.hosts])
        return leaders[0].id if leaders and favours else id

    def _pair(self, rng: random.Random) -> list[Json]:
        """Draw two hosts, of servers and clients."""
        one, others = self._somebody(rng), [*self.world.hosts]
        others += [client.name for client in self.world.clients]
        other = rng.choice([each for each in others if each != one])
        return [one, other] if rng.random() < 0.5 else [other, one]

    def _one_way(self, rng: random.Random) -> list[Json]:
        """Draw whom nobody hears, or who hears nobody: of the servers, or of all."""
        one = self._somebody(rng)
        others = [id for id in self.world.hosts if id != one]
        if rng.random() < 0.5:
            others += [client.name for client in self.world.clients]
        if rng.random() < 0.3 and others:
            others = [rng.choice(others)]
        pairs = [(one, other) for other in others]
        is_mute = rng.random() < 0.5
        return [[a, b] if is_mute else [b, a] for a, b in pairs]

    def _shape(self, rng: random.Random) -> list[Json]:
        """Draw links between servers that are cut, both ways; clients go with some of them."""
        ids = [*self.world.hosts]
        rng.shuffle(ids)
        match rng.choice(SHAPES):
            case "isolate":
                one = self._somebody(rng)
                apart = [(one, other) for other in ids if other != one]
            case "ring" if len(ids) > 3:
                near = {frozenset((a, b)) for a, b in zip(ids, ids[1:] + ids[:1], strict=True)}
                apart = [(a, b) for a in ids for b in ids if a < b and {a, b} not in near]
            case "bridge" if len(ids) > 2:
                half = len(ids) // 2
                apart = [(a, b) for a in ids[:half] for b in ids[half + 1 :]]
            case _:
                half = rng.randint(1, max(1, len(ids) // 2))
                apart = [(a, b) for a in ids[:half] for b in ids[half:]]
        links: list[Json] = []
        for a, b in apart:
            links += [[a, b], [b, a]]
        for client in self.world.clients:
            if rng.random() < 0.2:
                server = rng.choice(ids)
                links += [[client.name, server], [server, client.name]]
        return links
