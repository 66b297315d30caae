"""Pauses of the reactor with and without a snapshot, in one run, under write load.

One node with the key-value store, its log on a disk, writes from inside its process. A probe
asks for a turn every millisecond; how late it comes is the pause. Stretches without a snapshot
and with one take turns; the first scan of the store follows. A second table has the processor
time of the reactor's thread alone: what other processes took is not in there. Each pause above
the limit is told with what took the time: garbage collection, this thread's own work, other
threads of this process, or none of them: then the processor was elsewhere.

    python benchmarks/snapshot_pauses.py --keys 1000000 --snapshots 5
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from attrs import Factory, define
from twisted.internet import reactor, task
from twisted.internet.defer import Deferred

from raft.core.configuration import Member
from raft.machines.kv import KeyValueStore
from raft.node.bounds import Bounds
from raft.node.settings import NodeSettings
from raft.service import RaftService
from raft.tap import use_monotonic_time

PROBE_SECONDS = 0.001
BUCKETS_MS = (1, 2, 5, 10, 15, 20, 25, 50, 100, 1000)


@define
class Pause:
    """One pause above the limit, in milliseconds, and what took the time."""

    at: float
    ms: float
    own_ms: float
    collection_ms: float
    other_threads_ms: float


@define
class Stretch:
    """What the probe saw in one kind of time: pauses in milliseconds."""

    name: str
    seconds: float = 0.0
    writes: int = 0
    pauses: list[float] = Factory(list)
    own: list[float] = Factory(list)
    """The processor time of the reactor's thread in the same stretches of time."""
    long: list[Pause] = Factory(list)


@define
class Probe:
    """Asks for a turn every millisecond and notes how late it comes."""

    into: Stretch
    show_ms: float
    collections: float = 0.0
    _begun: float = 0.0
    _last: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def start(self) -> None:
        gc.callbacks.append(self._collecting)
        self._last = self._now()
        reactor.callLater(PROBE_SECONDS, self._turn)  # type: ignore[attr-defined]

    def _collecting(self, phase: str, _: object) -> None:
        if phase == "start":
            self._begun = time.perf_counter()
        else:
            self.collections += time.perf_counter() - self._begun

    def _now(self) -> tuple[float, float, float, float]:
        return time.perf_counter(), time.thread_time(), time.process_time(), self.collections

    def _turn(self) -> None:
        before, self._last = self._last, self._now()
        wall, own, process, collections = (
            1000 * (now - then) for now, then in zip(self._last, before, strict=True)
        )
        pause = max(0.0, wall - 1000 * PROBE_SECONDS)
        self.into.pauses.append(pause)
        self.into.own.append(own)
        if pause > self.show_ms:
            self.into.long.append(
                Pause(self._last[0], pause, own, collections, max(0.0, process - own))
            )
        reactor.callLater(PROBE_SECONDS, self._turn)  # type: ignore[attr-defined]


@define
class Load:
    """So many writes outstanding, each answer followed by the next write."""

    node: RaftService
    keys: int
    value: bytes
    written: int = 0
    failed: int = 0
    running: bool = True

    def fill(self, outstanding: int) -> Deferred[None]:
        """Write every key once."""
        done: Deferred[None] = Deferred()
        following = iter(range(self.keys))
        left = [outstanding]

        def more(_: object) -> None:
            number = next(following, None)
            if number is None:
                left[0] -= 1
                if not left[0]:
                    done.callback(None)
                return
            write = self.node.write(["set", key_of(number), self.value], 60.0)
            write.addCallbacks(more, done.errback)

        for _ in range(outstanding):
            more(None)
        return done

    def start(self, outstanding: int, chance: random.Random) -> None:
        def more(_: object) -> None:
            self.written += 1
            if self.running:
                key = key_of(chance.randrange(self.keys))
                self.node.write(["set", key, self.value], 60.0).addCallbacks(more, failed)

        def failed(_: object) -> None:
            self.failed += 1
            if self.running:
                reactor.callLater(0.01, more, None)  # type: ignore[attr-defined]

        for _ in range(outstanding):
            more(None)


def key_of(number: int) -> str:
    return f"key-{number:012d}"


async def measured(arguments: argparse.Namespace, node: RaftService) -> tuple[Stretch, ...]:
    load = Load(node, arguments.keys, b"v" * arguments.value_bytes)
    await node.when_leader()
    begun = time.perf_counter()
    await load.fill(2000)
    print(f"{arguments.keys:,} keys in {time.perf_counter() - begun:.1f} s", file=sys.stderr)
    if arguments.freeze:
        gc.collect()
        gc.freeze()
    without, during = Stretch("without"), Stretch("snapshot")
    probe = Probe(without, arguments.show_ms)
    load.start(arguments.outstanding, random.Random(1))
    await pause(2.0)
    probe.start()
    for number in range(arguments.snapshots):
        await timed(without, load, lambda: pause(arguments.seconds))
        probe.into = during
        begun = during.seconds
        await timed(during, load, node.take_snapshot)
        probe.into = without
        size = node.shell.snapshots.policy.size_bytes
        took = during.seconds - begun
        print(f"snapshot {number + 1}: {size >> 20} MiB in {took:.2f} s", file=sys.stderr)
    probe.into = scan = Stretch("first scan")
    await timed(scan, load, lambda: node.read(["scan", "", 100], timeout=60.0))
    probe.into = Stretch("end")
    load.running = False
    await pause(0.5)
    if load.failed:
        print(f"{load.failed} writes failed", file=sys.stderr)
    return without, during, scan


async def timed(stretch: Stretch, load: Load, wait: Callable[[], Deferred[Any]]) -> None:
    begun, written = time.perf_counter(), load.written
    await wait()
    stretch.seconds += time.perf_counter() - begun
    stretch.writes += load.written - written


def pause(seconds: float) -> Deferred[None]:
    return task.deferLater(reactor, seconds, lambda: None)  # type: ignore[arg-type]


def table(title: str, stretches: tuple[Stretch, ...], columns: list[list[float]]) -> str:
    lines = [f"| {title}, ms | " + " | ".join(each.name for each in stretches) + " |"]
    lines.append("| --- |" + " --: |" * len(stretches))
    below = 0.0
    for above in BUCKETS_MS:
        counts = [sum(below <= ms < above for ms in values) for values in columns]
        lines.append(f"| {below:g} to {above:g} | " + " | ".join(f"{n:,}" for n in counts) + " |")
        below = above
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("longest", 1.0)):
        lines.append(
            f"| {name} | " + " | ".join(f"{rank(values, share):.1f}" for values in columns) + " |"
        )
    lines.append("| seconds | " + " | ".join(f"{each.seconds:.1f}" for each in stretches) + " |")
    rates = [f"{each.writes / each.seconds:,.0f}" for each in stretches]
    lines.append("| writes/s | " + " | ".join(rates) + " |")
    return "\n".join(lines) + "\n"


def rank(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure pauses with and without snapshots.")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=64)
    parser.add_argument("--outstanding", type=int, default=256)
    parser.add_argument("--snapshots", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="between two snapshots")
    parser.add_argument("--directory", help="on the disk to be used; removed afterwards")
    parser.add_argument("--show-ms", type=float, default=25.0, help="tell each longer pause")
    parser.add_argument("--freeze", action="store_true", help="gc.freeze() once it is filled")
    arguments = parser.parse_args()
    use_monotonic_time(reactor)
    directory = tempfile.mkdtemp(prefix="raft-pauses-", dir=arguments.directory)
    settings = NodeSettings(
        id="a",
        data_directory=directory,
        peer_endpoint="tcp:0:interface=127.0.0.1",
        first_members=(Member("a", peer_address="127.0.0.1:1"),),
        cluster_id="0" * 32,
        bounds=Bounds(snapshot_factor=0, snapshot_entries=0),
    )
    node = RaftService(settings, KeyValueStore())

    async def run(_: Any) -> None:
        node.startService()
        try:
            stretches = await measured(arguments, node)
        finally:
            await node.stopService()
        print(table("pause", stretches, [each.pauses for each in stretches]))
        print(table("own work", stretches, [each.own for each in stretches]))
        for stretch in stretches:
            for long in stretch.long:
                print(
                    f"{stretch.name}: {long.ms:.1f} ms: own work {long.own_ms:.1f} (of that "
                    f"collections {long.collection_ms:.1f}), other threads "
                    f"{long.other_threads_ms:.1f}"
                )
        usage = resource.getrusage(resource.RUSAGE_SELF)
        print(f"largest resident size {usage.ru_maxrss >> 10} MiB")

    try:
        task.react(lambda _: Deferred.fromCoroutine(run(None)))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
