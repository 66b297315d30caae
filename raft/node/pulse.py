"""What takes longer than an election timeout allows is told, with what was measured.

Several times in an election timeout a beat looks how late it came itself (the reactor stood
still: a command, a query or the whole process), how long the disk has been at a save, and how
long a leader has had no answer from each member that it is connected to. Nothing on the way of
a write is measured for it: what is told is a lower bound, as fine as the beats are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from attrs import Factory, define
from twisted.logger import Logger

from raft.core.roles import Leader

if TYPE_CHECKING:
    from raft.service import RaftService

_log = Logger()

BEATS: Final = 5
"""How often in an election timeout it looks."""
SLOW: Final = 0.5
"""What takes more than this part of an election timeout is told."""
QUIET_SECONDS: Final = 60.0
"""How long nothing more is said of a matter after it was told."""

REMEDIES: Final = {
    "stall": "the node's process did nothing for {seconds:.2f} s: a command or a query of the "
    "machine, or the machine as a whole, takes so long",
    "save": "the disk has been at one save for {seconds:.2f} s and more",
    "silence": "the leader had no answer for {seconds:.2f} s from {peer}, to which it is connected",
}


@define(eq=False)
class Slowness:
    """One matter: how often it was found to take too long, and how long at most.

    Attributes:
        count: at how many beats it did.
        longest_seconds: the longest so far.
    """

    count: int = 0
    longest_seconds: float = 0.0
    _quiet_until: float = 0.0

    def took(self, seconds: float, now: float) -> bool:
        """Count it; return whether to tell of it."""
        self.count += 1
        self.longest_seconds = max(self.longest_seconds, seconds)
        if now < self._quiet_until:
            return False
        self._quiet_until = now + QUIET_SECONDS
        return True


@define(eq=False)
class Pulse:
    """Beats while its node runs.

    Attributes:
        stalls, saves, silences: what took too long, of each kind.
    """

    node: RaftService
    stalls: Slowness = Factory(Slowness)
    saves: Slowness = Factory(Slowness)
    silences: Slowness = Factory(Slowness)
    _due: float = 0.0
    _call: Any = None
    _awaited: tuple[int, float] = (0, 0.0)
    """(storage's ticket, since when it is waited for at least)."""

    @property
    def timeout_seconds(self) -> float:
        """The election timeout, at least."""
        return self.node.settings.options.election_timeout_seconds

    def start(self) -> None:
        """Begin to beat."""
        interval = self.timeout_seconds / BEATS
        self._due = self.node.clock() + interval
        self._call = self.node.reactor.callLater(interval, self._beat)

    def stop(self) -> None:
        """Beat no more."""
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()

    def _beat(self) -> None:
        now = self.node.clock()
        late = now - self._due
        self.start()
        if not self.node.serves:
            return
        slow = SLOW * self.timeout_seconds
        if late > slow:
            self._tell("stall", self.stalls, late, now)
            # What waited meanwhile waited for this process, and not for its disk or a peer.
            self._awaited = (0, now)
            return
        waited = self._save_seconds(now)
        if waited > slow:
            self._tell("save", self.saves, waited, now)
        for peer, seconds in self._silent(now):
            if seconds > slow:
                self._tell("silence", self.silences, seconds, now, peer)

    def _save_seconds(self, now: float) -> float:
        """Return how long the oldest save that is known to be under way has been so."""
        oldest = self.node.shell.saving.oldest
        if oldest != self._awaited[0]:
            self._awaited = (oldest, now)
        return now - self._awaited[1] if oldest else 0.0

    def _silent(self, now: float) -> Iterator[tuple[str, float]]:
        """Yield each member that is connected and should answer, and for how long it has not."""
        state = self.node.shell.server.state
        if not isinstance(state, Leader):
            return
        for peer, progress in state.progress.items():
            if progress.has_answered and self.node.network.is_connected(peer):
                yield peer, now - progress.heard_at

    def _tell(
        self, kind: str, matter: Slowness, seconds: float, now: float, peer: str = ""
    ) -> None:
        if matter.took(seconds, now):
            _log.warn(
                "{id}: {what}; the election timeout is {timeout:g} s, and the cluster may lose its "
                "leader. Where this comes again, find out why, or raise timings.election_timeout "
                "to {better:g} on all nodes.",
                id=self.node.id,
                what=REMEDIES[kind].format(seconds=seconds, peer=peer),
                timeout=self.timeout_seconds,
                better=better_timeout(seconds),
                matter=kind,
            )


def better_timeout(seconds: float) -> float:
    """Return an election timeout under which what took `seconds` would be no trouble."""
    return round(4 * seconds + 0.05, 1)
