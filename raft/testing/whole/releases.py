"""Servers are upgraded one after the other, taken back, and upgraded again, whatever goes wrong.

In a world with releases each life of a server is one of a release, which can some versions of the
machine. Which version is in force says the committed log alone: every command is held against that
(U1). A leader may begin a version only once each member has run a release that can it. Whoever
meets a version that its release cannot may stop, or refuse to start: it loses nothing by that, and
goes on with a release that can. Nobody else may.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from attrs import Factory, define

from raft.errors import StateMachineFailed
from raft.storage.records import HEADER, HEADER_BYTES, Kind, decode_version
from raft.testing.choices import Json
from raft.testing.cores.disk import Entry, SessionRecord
from raft.testing.cores.swarm import TIMEOUT_SECONDS
from raft.testing.whole.machine import WitnessedStore, made_of
from raft.testing.whole.versioned import FIRST, FirstRelease, LaterRelease, made_of_releases

if TYPE_CHECKING:
    from raft.interfaces import Value
    from raft.testing.whole.host import Host
    from raft.testing.whole.view import View
    from raft.testing.whole.world import World

DOWN_TIMEOUTS: Final = (0.0, 0.1, 1.0, 5.0)
DOWNGRADE_SHARE: Final = 0.25
ROLLING_SHARE: Final = 0.7
"""How often the next to be upgraded is one of those that run the oldest release."""


@define(eq=False)
class Releases:
    """Which release each server of one world runs, and which version is in force where.

    Attributes:
        switches: the index of each committed entry that began a version, with that version.
    """

    world: World
    switches: list[tuple[int, int]] = Factory(list)
    later: Callable[..., object] = lambda *_: None
    """Does something after so many seconds, unless all is well by then."""
    crash: Callable[[Host, Json, float], bool] = lambda *_: False
    chance: random.Random = Factory(random.Random)
    """When it acts."""
    _places: dict[str, int] = Factory(dict)
    """Server -> the place of its next life's release."""
    _newest_run: dict[str, int] = Factory(dict)
    """Server -> the newest version that any life of it could."""
    _scanned: int = 1

    def __attrs_post_init__(self) -> None:
        """Draw with which release each server begins: in many worlds all with the first."""
        world = self.world
        self.chance = random.Random(f"{world.seed}/release/acts")
        count = len(world.swarm.releases)
        rng = random.Random(f"{world.seed}/releases")
        ahead_share = rng.choice((0.0, 0.2, 0.6))
        for id in world.hosts:
            is_ahead = count > 0 and rng.random() < ahead_share
            self._places[id] = rng.randrange(count) if is_ahead else 0

    @property
    def newest(self) -> int:
        """The newest version that there is."""
        return max((release[1] for release in self.world.swarm.releases), default=1)

    def machine(self, host: Host, *, is_seen: bool = True) -> WitnessedStore:
        """Return the machine of a life that begins, of the release that is installed there."""
        world = self.world
        if not world.swarm.releases:
            return WitnessedStore(world.witness)
        release = world.swarm.releases[self._places[host.id]]
        if is_seen:
            host.release = release
            self._newest_run[host.id] = max(release[1], self._newest_run.get(host.id, 0))
            world.fired[f"life of release {release[0]}-{release[1]}"] += 1
        if release == FIRST:
            return FirstRelease(world.witness)
        return LaterRelease(world.witness, release)

    # Acting.

    def act(self) -> None:
        """Install another release on one server, and start it anew; or do nothing."""
        decided = self.world.choices.stream("release").choose(self._draw, None)
        match decided:
            case None:
                pass
            case [str(id), int(step), str(how), int() | float() as down] if id in self._places:
                self.later(0.0, self._install, self.world.hosts[id], step, how, float(down))
            case _:
                raise ValueError(f"no release: {decided!r}")

    def _draw(self, rng: random.Random) -> list[Json] | None:
        ids = [*self._places]
        step = -1 if rng.random() < DOWNGRADE_SHARE else 1
        if step > 0 and rng.random() < ROLLING_SHARE:
            first = min(self._places.values())
            ids = [id for id in ids if self._places[id] == first]
        id, how = rng.choice(ids), rng.choice(("kill", "kill", "power"))
        down = round(rng.choice(DOWN_TIMEOUTS) * TIMEOUT_SECONDS * rng.uniform(0.5, 1.5), 4)
        return [id, step, how, down]

    def _install(self, host: Host, step: int, how: str, down_seconds: float) -> None:
        place = self._places[host.id] + step
        if not 0 <= place < len(self.world.swarm.releases) or not host.is_up:
            return
        self._places[host.id] = place
        self.world.fired["upgraded" if step > 0 else "taken back"] += 1
        self.world.tell(host.id, f"gets release {self.world.swarm.releases[place]}")
        self.crash(host, how, down_seconds)

    def settle(self) -> None:
        """Let every server run the last release: all that is known of versions, it can."""
        if not self.world.swarm.releases:
            return
        last = len(self.world.swarm.releases) - 1
        for host in self.world.hosts.values():
            if self._places[host.id] != last or not host.is_serving:
                host.kill()
            self._places[host.id] = last

    # Who cannot go along.

    def excuses(self, host: Host, error: BaseException) -> bool:
        """Tell whether a release stopped for a version that it cannot; install one that can."""
        if not isinstance(error, StateMachineFailed) or not self.world.swarm.releases:
            return False
        oldest, newest = host.release
        met = {1, *(version for _, version in self._scan())}
        if all(oldest <= version <= newest for version in met):
            return False
        is_behind = newest < max(met)
        self.world.fired["too old a release stops" if is_behind else "too new a one stops"] += 1
        last = len(self.world.swarm.releases) - 1
        self._places[host.id] = min(last, self._places[host.id] + 1) if is_behind else last
        return True

    # Watching.

    def _scan(self) -> list[tuple[int, int]]:
        """Look at what was committed since; return all switches that mean something."""
        committed = self.world.monitors.committed
        for index in range(self._scanned, len(committed)):
            version = version_of(committed[index])
            if version > (self.switches[-1][1] if self.switches else 1):
                self.switches.append((index, version))
                self.world.fired[f"switch to version {version}"] += 1
        self._scanned = len(committed)
        return self.switches

    def in_force(self, index: int) -> int:
        """Return the version by which the entry at `index` is applied."""
        switches = self._scan()
        place = bisect_left(switches, (index, 0))
        return switches[place - 1][1] if place else 1

    def appended(self, view: View, entries: list[Entry]) -> None:
        """U1: a leader begins a version once all its members have run a release that can it."""
        for entry in entries:
            version = version_of(entry)
            behind = [
                id
                for id in sorted(view.server.configuration.ids)
                if self._newest_run.get(id, 0) < version
            ]
            if version and behind:
                self.world.verdict.note(
                    "U1", f"{view.id} begins version {version}, which {behind} never could"
                )

    def right_state(self, applied: int) -> Value:
        """Return what a machine holds once it has applied this entry."""
        commands = self.world.witness.commands
        if not self.world.swarm.releases:
            return made_of(self.world.witness.until(applied))
        switches = [each for each in self._scan() if each[0] <= applied]
        found = [(index, command) for index, command in commands.items() if index <= applied]
        return made_of_releases(found, switches)

    def is_over(self, members: list[Host]) -> bool:
        """Tell whether the newest version is in force on all of these; True if there is none."""
        if not self.world.swarm.releases:
            return True
        active = [
            host.service.replica.versions.active if host.service is not None else 0
            for host in members
        ]
        return all(version == self.newest for version in active)

    def unwrapped(self, result: Any) -> Any:
        """Return what the store has answered, of what a release did."""
        return result[1] if self.world.swarm.releases else result


def version_of(entry: Entry) -> int:
    """Return the version that an entry begins, or 0."""
    payload = entry[1]
    if not isinstance(payload, SessionRecord):
        return 0
    record = payload.record
    *_, kind = HEADER.unpack_from(record)
    return decode_version(record[HEADER_BYTES:]) if kind == Kind.VERSION else 0
