"""A follower a snapshot behind catches up under full write load, in bounded memory.

Three nodes, each a `twistd` process; a million keys of the key-value store. One follower is
killed, the leader writes on until its log begins behind what that one has, and the follower
starts again while the writing goes on. Shown is how long it takes from there to the leader's own
index, how many bytes of snapshots left for it, whether anybody was elected meanwhile, and
the largest resident sizes on both sides, before and while.

    python benchmarks/snapshot_catchup.py --keys 1000000
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from typing import Any

from attrs import Factory, define
from twisted.internet import reactor, task
from twisted.internet.defer import Deferred

from raft.client import RaftClient
from raft.testing.processes import ProcessCluster

SETTINGS = {"snapshot_floor_bytes": 16 << 20, "snapshot_factor": 1, "trailing_bytes": 16 << 20}
NEAR_ENTRIES = 10_000
"""So near the leader a follower has caught up: a tenth of a second of writing."""


@define
class Load:
    """So many writes outstanding."""

    client: RaftClient
    keys: int
    value: bytes
    written: int = 0
    failed: int = 0
    running: bool = True

    def start(self, outstanding: int, fill: bool) -> Deferred[None]:
        """Write until told to stop, or every key once; fires at the end."""
        done: Deferred[None] = Deferred()
        chance, following, left = random.Random(1), iter(range(self.keys)), [outstanding]

        def more(_: object) -> None:
            number = next(following, None) if fill else chance.randrange(self.keys)
            if number is None or not self.running:
                left[0] -= 1
                if not left[0]:
                    done.callback(None)
                return
            write = self.client.write(["set", f"key-{number:012d}", self.value], 30.0)
            write.addCallbacks(count, fail).addCallback(more)

        def count(_: object) -> None:
            self.written += 1

        def fail(_: object) -> None:
            self.failed += 1

        for _ in range(outstanding):
            more(None)
        return done


@define
class Sizes:
    """The resident sizes of the processes, in MiB: at the time, and the largest since `reset`."""

    cluster: ProcessCluster
    largest: dict[str, int] = Factory(dict)

    def look(self) -> dict[str, int]:
        found = {}
        for id in self.cluster.running:
            process = self.cluster.nodes[id].process
            if process is None:
                continue
            with open(f"/proc/{process.pid}/status") as status:
                lines = [line for line in status if line.startswith("VmRSS")]
            found[id] = int(lines[0].split()[1]) >> 10 if lines else 0
            self.largest[id] = max(self.largest.get(id, 0), found[id])
        return found


def pause(seconds: float) -> Deferred[None]:
    return task.deferLater(reactor, seconds, lambda: None)  # type: ignore[arg-type]


async def run(arguments: argparse.Namespace, directory: str) -> None:
    cluster = ProcessCluster(directory, settings=SETTINGS)
    try:
        leader = await cluster.start()
        client = cluster.client()
        load = Load(client, arguments.keys, b"v" * arguments.value_bytes)
        await load.start(2000, fill=True)
        await measured(arguments, cluster, load, leader)
        load.running = False
        await pause(1.0)
        await client.close()
        codes = await cluster.stop()
        print("exit codes", codes, file=sys.stderr)
    finally:
        cluster.destroy()


async def measured(
    arguments: argparse.Namespace, cluster: ProcessCluster, load: Load, leader: str
) -> None:
    sizes = Sizes(cluster)
    load.start(arguments.outstanding, fill=False)
    await pause(2.0)
    behind = next(id for id in cluster.nodes if id != leader)
    reached = number(await cluster.status(behind), "last_index")
    settled = sizes.look()
    cluster.kill(behind)
    status = await cluster.status(leader)
    while number(status, "first_index") <= reached + 1:
        await pause(0.5)
        status = await cluster.status(leader)
    before = number(status, "term")
    print("resident before, MiB", settled, file=sys.stderr)
    sizes.largest.clear()
    begun, written = time.perf_counter(), load.written
    cluster.nodes[behind].start()
    installed = 0.0
    for _ in range(int(arguments.limit_seconds / 0.2)):
        await pause(0.2)
        sizes.look()
        own, led = await cluster.status(behind, 2.0), await cluster.status(leader, 2.0)
        if not own or not led:
            continue
        if number(own, "last_applied") > reached and not installed:
            installed = time.perf_counter() - begun
        if number(own, "last_applied") >= number(led, "last_applied") - NEAR_ENTRIES:
            break
    seconds = time.perf_counter() - begun
    led = await cluster.status(leader)
    print(f"caught up: {not own or number(own, 'last_applied')} of {number(led, 'last_applied')}")
    print(f"installed after {installed:.1f} s, caught up after {seconds:.1f} s")
    print(f"{(load.written - written) / seconds:,.0f} writes/s meanwhile, {load.failed} failed")
    print(f"snapshots sent: {number(led, 'snapshot_sent_bytes') / (1 << 20):.0f} MiB")
    print(f"snapshot of {number(led, 'snapshot_bytes') / (1 << 20):.0f} MiB")
    print(f"terms begun meanwhile: {number(led, 'term') - before}")
    print(
        f"largest resident, MiB: leader {sizes.largest[leader]}, follower {sizes.largest[behind]}"
    )


def number(status: Any, key: str) -> int:
    return int(status[key]) if status else 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a catch-up by snapshot under load.")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=64)
    parser.add_argument("--outstanding", type=int, default=256)
    parser.add_argument("--limit-seconds", type=float, default=120.0)
    parser.add_argument("--directory", help="on the disk to be used; removed afterwards")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raft-catchup-", dir=arguments.directory) as directory:
        task.react(lambda _: Deferred.fromCoroutine(run(arguments, directory)))


if __name__ == "__main__":
    main()
