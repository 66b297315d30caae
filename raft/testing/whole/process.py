"""One life of a process: a reactor whose time, threads and sockets are simulated.

Whatever a process does happens within `enter`: there it can die, at any instruction that reaches
the world, and what is left of that call then moves nothing any more.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure
from zope.interface import implementer

if TYPE_CHECKING:
    from raft.testing.cores.timeline import Timeline
    from raft.testing.whole.connects import Connector, ListeningPort
    from raft.testing.whole.entropy import Entropy
    from raft.testing.whole.network import Network
    from raft.testing.whole.sockets import Socket

THREAD_SECONDS: Final = (0.0, 0.002)
"""How long what is done in another thread takes."""

ROUNDING_SECONDS: Final = 1e-9


class Died(BaseException):
    """The process is dead: what asked for something is not there any more."""


@implementer(IDelayedCall)
class DelayedCall:
    """A call that a process will make; see `IDelayedCall`. Its time is the process's own."""

    __slots__ = ("arguments", "call", "is_cancelled", "is_done", "named", "process", "time")

    def __init__(
        self,
        process: Process,
        time: float,
        call: Callable[..., object],
        arguments: tuple[Any, ...],
        named: dict[str, Any],
    ) -> None:
        self.process, self.time = process, time
        self.call, self.arguments, self.named = call, arguments, named
        self.is_done = self.is_cancelled = False

    def getTime(self) -> float:
        """Return when it is due."""
        return self.time

    def active(self) -> bool:
        """Tell whether it is still to come."""
        return not (self.is_done or self.is_cancelled)

    def cancel(self) -> None:
        """Call nothing."""
        self._check()
        self.is_cancelled = True

    def reset(self, secondsFromNow: float) -> None:
        """Be due in so many seconds."""
        self._check()
        self._move(self.process.seconds() + secondsFromNow)

    def delay(self, secondsLater: float) -> None:
        """Be due so much later."""
        self._check()
        self._move(self.time + secondsLater)

    def _move(self, time: float) -> None:
        earlier = time < self.time
        self.time = time
        # The later one is found out when the earlier moment has come.
        if earlier:
            self.process.put(self)

    def _check(self) -> None:
        if self.is_cancelled:
            raise AlreadyCancelled
        if self.is_done:
            raise AlreadyCalled


class Process:
    """A reactor for what runs on `host`, from one start to one end.

    Attributes:
        host: its address in the network; one process at a time serves there.
        is_alive: whether it still runs.
        is_paused: whether it stands still, as after a SIGSTOP.
        broke: called with an exception that nothing in the process has caught.
        wrote: called with False before bytes go to a socket, and with True after.
        died: called once, when it is dead.
    """

    def __init__(
        self,
        timeline: Timeline,
        network: Network,
        host: str,
        chance: random.Random,
        broke: Callable[[BaseException], None],
        entropy: Entropy,
        rate: float = 1.0,
    ) -> None:
        """Begin a life; its clock shows anything, and runs `rate` times as fast as the world's."""
        self.timeline, self.network, self.host = timeline, network, host
        self.chance, self.rate = chance, rate
        self.broke, self.entropy = broke, entropy
        self.wrote: Callable[[bool], None] = lambda _: None
        self.died: Callable[[], None] = lambda: None
        self.is_alive, self.is_paused = True, False
        self.sockets: dict[Socket, None] = {}
        self.pool = Pool(self)
        self._offset = chance.uniform(0.0, 1000.0) - timeline.now * rate
        self._latest = 0.0
        self._late: list[DelayedCall] = []
        self._due: dict[DelayedCall, None] = {}
        """What is to be called, once each; the timeline may have it more often."""

    # Time.

    def seconds(self) -> float:
        """Return the process's monotonic seconds."""
        return max(self._offset + self.timeline.now * self.rate, self._latest)

    def drift(self, rate: float) -> None:
        """Run `rate` times as fast as the world from here on; the clock jumps nowhere."""
        now = self.seconds()
        self.rate, self._offset = rate, now - self.timeline.now * rate
        for call in list(self._due):
            self.put(call)

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: Any, **kw: Any
    ) -> DelayedCall:
        """Call in `delay` seconds of this process."""
        call = DelayedCall(self, self.seconds() + delay, callable, args, kw)
        # What the dead leave behind may be tidied up at any time, and must move nothing.
        if self.is_alive:
            self.put(call)
        return call

    def callFromThread(self, callable: Callable[..., object], *args: Any, **kw: Any) -> None:
        """Call in the next turn."""
        self.callLater(0, callable, *args, **kw)

    def getThreadPool(self) -> Pool:
        """Return what stands in for the threads."""
        return self.pool

    def put(self, call: DelayedCall) -> None:
        """Let the call's moment come."""
        self._due[call] = None
        moment = (call.time - self._offset) / self.rate
        self.timeline.at(max(moment, self.timeline.now), self._fire, call)

    def _fire(self, call: DelayedCall) -> None:
        if call.is_done or call.is_cancelled or not self.is_alive:
            self._due.pop(call, None)
            return
        if self.is_paused:
            self._late.append(call)
        elif call.time > self.seconds() + ROUNDING_SECONDS:
            self.put(call)
        else:
            # Rounding must not leave the clock for ever just below what is due.
            self._latest = max(self._latest, call.time)
            call.is_done = True
            del self._due[call]
            self.enter(call.call, *call.arguments, **call.named)

    # Life.

    def enter(self, call: Callable[..., object], *args: Any, **kw: Any) -> None:
        """Let the process do something, unless it is dead."""
        if not self.is_alive:
            return
        entropy = self.entropy
        outer, entropy.chance = entropy.chance, self.chance
        try:
            call(*args, **kw)
        except Died:
            return
        except BaseException as error:
            if self.is_alive:
                self.broke(error)
        finally:
            entropy.chance = outer

    def check(self) -> None:
        """Let nothing be done for what is dead."""
        if not self.is_alive:
            raise Died

    def pause(self) -> None:
        """Stand still."""
        self.is_paused = True

    def resume(self) -> None:
        """Go on: with what has arrived and with what is due, in either order."""
        if not (self.is_paused and self.is_alive):
            return
        self.is_paused = False
        late, self._late = self._late, []
        reads_first = self.chance.random() < 0.5
        if reads_first:
            self._take_all()
        for call in late:
            self._fire(call)
        if not reads_first:
            self._take_all()

    def _take_all(self) -> None:
        for socket in list(self.sockets):
            socket.take()

    def kill(self) -> None:
        """End at once, as after a SIGKILL: the system closes what was open."""
        if self.is_alive:
            self.is_alive = False
            self.network.process_died(self)
            self.sockets.clear()
            self.died()

    def vanish(self) -> None:
        """End with the machine: nobody says anything to anyone."""
        if self.is_alive:
            self.is_alive = False
            self.network.host_died(self)
            self.sockets.clear()
            self.died()

    # Sockets.

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float = 30,
        bindAddress: object = None,
    ) -> Connector:
        """See `IReactorTCP`."""
        return self.network.connect(self, host, port, factory, timeout)

    def listenTCP(
        self, port: int, factory: Any, backlog: int = 50, interface: str = ""
    ) -> ListeningPort:
        """See `IReactorTCP`."""
        return self.network.listen(self, interface, port, factory)


class Pool:
    """The threads of a process: what they are given is done a little later, at one moment."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def callInThreadWithCallback(
        self,
        onResult: Callable[[bool, object], object],
        func: Callable[..., object],
        *args: Any,
        **kw: Any,
    ) -> None:
        """Call, and report as a thread would."""
        process = self.process

        def work() -> None:
            try:
                result, is_good = func(*args, **kw), True
            except Exception as error:
                result, is_good = Failure(error), False
            onResult(is_good, result)

        process.callLater(process.chance.uniform(*THREAD_SECONDS), work)
