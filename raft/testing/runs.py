"""One run of commands through a machine; as a process too: `python -m raft.testing.runs ANSWER`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from raft.codec import PLAIN, Codec
from raft.errors import BadCommand, NodeFailed
from raft.outcomes import Result
from raft.replica import Replica
from raft.storage.records import Kind, encode
from raft.testing.machine_fault import Words
from raft.testing.named import Name, load
from raft.testing.watched import Ledger, States, WallClock, Watched

STEP_US = 1_000_000
"""How much of the cluster's time passes from one command to the next."""

SEED = b"sixteen bytes..."
UNREADABLE: Result = (BadCommand.code, b"\x80")
"""The outcome of a command that the codec does not decode again: the machine never sees it."""


class Run(msgspec.Struct, array_like=True):
    """What to run."""

    name: str
    payloads: list[bytes]
    marks: list[int]
    """Behind which commands the state is looked at; they count from 1."""
    restored_every: int = 0
    failing: list[int] = []
    """Commands that fail: the state is looked at before and after each."""


class Seen(msgspec.Struct, array_like=True):
    """What one command came to."""

    outcome: Result
    state: Any = None
    before: Any = None
    after: Any = None


class Ran(msgspec.Struct, array_like=True):
    """What a run came to; `failure` is why it has ended early."""

    seen: list[Seen]
    failure: str = ""


class Asked(msgspec.Struct, array_like=True):
    """What a fresh process is asked."""

    run: Run
    factory: Name
    codec: Name | None
    state: Name | None
    path: list[str]


def run(asked: Run, factory: Callable[[], Any], codec: Codec, states: States) -> Ran:
    """Apply the commands one by one, as a server does."""
    # Nobody else writes into this ledger: it takes down the answers.
    ledger = Ledger(Words(codec))
    skew = crc32(asked.name.encode()) / 1e5

    def new() -> Replica:
        machine = factory()
        clock = WallClock(_shifted(skew), machine)
        return Replica(Watched(machine, asked.name, ledger, clock), codec, clock=lambda: 0.0)

    ran, replica = Ran([]), new()
    marks, failing = set(asked.marks), set(asked.failing)
    try:
        replica.apply(encode(1, 1, 0, Kind.NO_OP, SEED))
        for at, payload in enumerate(asked.payloads, 1):
            if asked.restored_every and at % asked.restored_every == 0:
                meta, chunks = replica.snapshot()
                content = list(chunks)
                replica = new()
                replica.restore(meta, content)
            machine: Any = replica.machine
            before = states.of(machine.machine) if at in failing else None
            replica.apply(encode(at + 1, 1, at * STEP_US, Kind.COMMAND, payload))
            told = ledger.told.get(at + 1)
            seen = Seen(UNREADABLE if told is None else told.outcome, before=before)
            if at in failing:
                seen.after = states.of(machine.machine)
            if at in marks:
                seen.state = states.of(machine.machine)
            ran.seen.append(seen)
    except NodeFailed as error:
        ran.failure = str(error)
    except Exception as error:
        ran.failure = f"{type(error).__name__}: {error}"
    return ran


def _shifted(skew: float) -> Callable[[], float]:
    ticks = iter(range(1 << 62))
    # At each look some seconds have passed, in each run another number of them.
    return lambda: 1_700_000_000.0 + skew * (1 + next(ticks) / 1000)


def main(answer: str) -> None:
    """Run what standard input asks for; write what came of it into the file `answer`."""
    asked = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Asked)
    sys.path[:] = asked.path
    factory = load(asked.factory)
    codec: Codec = PLAIN if asked.codec is None else load(asked.codec)
    states = States(None if asked.state is None else load(asked.state))
    Path(answer).write_bytes(msgspec.msgpack.encode(run(asked.run, factory, codec, states)))


if __name__ == "__main__":
    main(sys.argv[1])
