"""What the protocol alone costs: three cores in one process, moved by hand.

    python benchmarks/core.py

No disks, no sockets, no machine: proposals go in, messages and saves are answered at once, and
every step is timed. All that arrives in a turn is one `step`; the obvious twin beside it takes the
same entries with a step for each event. Time an entry, the best of several rounds in turns.
"""

from __future__ import annotations

import gc
import random
import time
from collections import Counter

from raft.core.configuration import Configuration, Member
from raft.core.events import Event, Propose, Received, Saved
from raft.core.messages import Message, Run
from raft.core.outputs import HardState, Role
from raft.core.server import Options, Server

IDS = ("a", "b", "c")
BATCHES = (1, 16, 256, 1000)
ENTRY_BYTES = 133
ROUNDS = 5
ENTRIES = 4000
TURN_SECONDS = 0.001


def recovered(id: str) -> Server:
    """Return a core whose log holds the configuration and nothing else."""
    members = Configuration(tuple(Member(each) for each in IDS))
    return Server.recover(
        *(id, Options(), random.Random(ord(id)), 0.0, HardState(1, None), None, 1, 0),
        (Run(2, 1, ENTRY_BYTES),),
        ((1, members),),
    )


class Trio:
    """Three cores; what one sends reaches the others in their next step."""

    def __init__(self) -> None:
        self.servers = {id: recovered(id) for id in IDS}
        self.arrived: dict[str, list[Event]] = {id: [] for id in IDS}
        self.spent: Counter[str] = Counter()
        self.steps = 0
        self.now = 0.0
        self.leader = ""
        for _ in range(3000):
            self.turn()
            if any(server.role is Role.LEADER for server in self.servers.values()):
                break
        (self.leader,) = [id for id in IDS if self.servers[id].role is Role.LEADER]
        self.settle()

    def step(self, id: str, events: list[Event]) -> None:
        """Step one core, and take the time of it."""
        begun = time.perf_counter_ns()
        outputs = self.servers[id].step(events, self.now)
        role = "leader" if id == self.leader else "follower"
        self.spent[role] += time.perf_counter_ns() - begun
        self.steps += 1
        for send in outputs.send:
            self.post(id, send.receiver, send.message)
        if outputs.save is not None:
            self.arrived[id].append(Saved(outputs.save.ticket))

    def post(self, sender: str, receiver: str, message: Message) -> None:
        """Let a message arrive; a save that it should wait for is as good as done here."""
        self.arrived[receiver].append(Received(sender, message))

    def turn(self) -> bool:
        """Step every core once, with what has arrived; say whether there was anything."""
        self.now += TURN_SECONDS
        waiting, self.arrived = self.arrived, {id: [] for id in IDS}
        for id, events in waiting.items():
            self.step(id, events)
        return any(waiting.values())

    def settle(self) -> None:
        """Go on until nothing is on its way."""
        for _ in range(200):
            if not self.turn():
                return

    def write(self, counts: list[int]) -> None:
        """Propose, each of `counts` in a step of its own, and let all be committed."""
        server = self.servers[self.leader]
        for request, count in enumerate(counts):
            self.step(self.leader, [Propose(request, count, count * ENTRY_BYTES)])
        for _ in range(200):
            waiting, self.arrived = self.arrived, {id: [] for id in IDS}
            for id, events in waiting.items():
                # The twin takes each event for itself, as a core without turns would.
                parts = [[event] for event in events] if len(counts) > 1 else [events]
                for part in parts:
                    if part:
                        self.step(id, part)
            if server.commit_index == server.log.last_index:
                return
        raise SystemExit("what was proposed was not committed")


def measured(batch: int, one_by_one: bool) -> tuple[float, float, float]:
    """Return microseconds an entry, of the leader and of a follower, and steps an entry."""
    trio = Trio()
    counts = [1] * batch if one_by_one else [batch]
    trio.write(counts)
    trio.spent.clear()
    trio.steps = 0
    writes = max(1, ENTRIES // batch)
    gc.disable()
    for _ in range(writes):
        trio.write(counts)
        # Time passes as it would: heartbeats and deadlines are part of what a core does.
        trio.now += TURN_SECONDS
    gc.enable()
    entries = writes * batch * 1000
    leader, followers = trio.spent["leader"], trio.spent["follower"]
    return leader / entries, followers / 2 / entries, trio.steps / entries * 1000


def main() -> None:
    """Print a line for each size of a turn."""
    print(f"{'':12}{'one step a turn':^34}{'a step an entry':^34}")
    heads = f"{'leader us':>12}{'follower':>11}{'steps':>9}  "
    print(f"{'a turn has':12}{heads}{heads}{'ratio':>8}")
    for batch in BATCHES:
        found: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
        for _ in range(ROUNDS):
            for one_by_one, rounds in found.items():
                rounds.append(measured(batch, one_by_one))
        ours, twin = min(found[False]), min(found[True])
        cells = "".join(f"{a:12.2f}{b:11.2f}{c:9.2f}  " for a, b, c in (ours, twin))
        print(f"{batch:<12}{cells}{(twin[0] + twin[1]) / (ours[0] + ours[1]):7.1f} x")


if __name__ == "__main__":
    main()
