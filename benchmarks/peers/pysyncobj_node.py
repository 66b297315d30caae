"""One member of a PySyncObj cluster; the leader puts load on itself and prints one JSON object.

`python pysyncobj_node.py NUMBER PORT,PORT,PORT DIRECTORY OUTSTANDING VALUE_BYTES WARM_UP SECONDS`

It keeps a journal file and never syncs it: what is measured is not durable. All three are started
alike; who becomes the leader loads, and the others end when their standard input does.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from typing import Any

from pysyncobj import SyncObj, SyncObjConf, replicated

MOST_SECONDS = 120.0
PERIOD_SECONDS = 0.002


class Store(SyncObj):  # type: ignore[misc]
    """A map."""

    def __init__(self, own: str, others: list[str], journal: str) -> None:
        """Begin to take part."""
        self.values: dict[str, str] = {}
        options = SyncObjConf(
            journalFile=journal,
            autoTick=False,
            # By default it sends every 100 ms, which would be the latency of every write.
            appendEntriesPeriod=PERIOD_SECONDS,
            commandsQueueSize=10**6,
        )
        super().__init__(own, others, options)

    @replicated  # type: ignore[untyped-decorator]
    def put(self, key: str, value: str) -> None:
        """Store a value."""
        self.values[key] = value


class Load:
    """So many operations outstanding, each answer followed by the next operation."""

    def __init__(self, store: Store, value_bytes: int, begin: float, end: float) -> None:
        """Issue nothing yet."""
        self.store, self.value = store, "v" * value_bytes
        self.begin, self.end = begin, end
        self.count = self.failures = 0
        self.latencies: list[float] = []

    def issue(self) -> None:
        """Begin one operation."""
        self.count += 1
        issued = time.perf_counter()

        def answered(_: Any, error: Any) -> None:
            now = time.perf_counter()
            if error:
                self.failures += 1
            elif self.begin < now < self.end:
                self.latencies.append(now - issued)
            if now < self.end:
                self.issue()

        self.store.put(f"key-{self.count % 10_000:012d}", self.value, callback=answered)

    def told(self, seconds: float) -> dict[str, float]:
        """Return the figures."""
        ordered = sorted(self.latencies)
        shares = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
        found = {key: 1000 * ordered[int(share * len(ordered))] for key, share in shares.items()}
        return {"ops_per_second": len(ordered) / seconds, "failures": self.failures, **found}


def main() -> None:
    """Take part; load once this one leads."""
    number, ports, directory = int(sys.argv[1]), sys.argv[2].split(","), sys.argv[3]
    outstanding, value_bytes = int(sys.argv[4]), int(sys.argv[5])
    warm_up, seconds = float(sys.argv[6]), float(sys.argv[7])
    addresses = [f"127.0.0.1:{port}" for port in ports]
    own = addresses.pop(number)
    store = Store(own, addresses, os.path.join(directory, f"journal{number}"))
    started, load = time.perf_counter(), None
    while time.perf_counter() < started + MOST_SECONDS:
        store.doTick(0.001)
        if load is None and store.isReady() and str(store._getLeader()) == own:
            begin = time.perf_counter() + warm_up
            load = Load(store, value_bytes, begin, begin + seconds)
            for _ in range(outstanding):
                load.issue()
        elif load is not None and time.perf_counter() > load.end:
            print(json.dumps(load.told(seconds)), flush=True)
            return
        elif load is None and select.select([sys.stdin], [], [], 0)[0]:
            return


if __name__ == "__main__":
    main()
