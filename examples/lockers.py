"""A state machine that lends five lockers; docs/howto/testing.md tests it, and breaks it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator

from zope.interface import implementer

from raft.errors import CommandError
from raft.interfaces import Context, IStateMachine, Value


@implementer(IStateMachine)
class Lockers:
    def __init__(self) -> None:
        self.free = {f"locker {number}" for number in range(1, 6)}
        self.taken: dict[str, tuple[str, float]] = {}  # owner -> (locker, since when)

    def apply(self, command: Value, context: Context) -> Value:
        now = context.time
        match command:
            case ["take", str(owner)]:
                if not self.free:
                    raise CommandError("none-free")
                locker = min(self.free)
                if owner in self.taken:
                    raise CommandError("has-one", self.taken[owner][0])
                self.free.remove(locker)
                self.taken[owner] = (locker, now)
                return locker
            case ["give", str(owner)]:
                if owner not in self.taken:
                    raise CommandError("has-none")
                locker, since = self.taken.pop(owner)
                self.free.add(locker)
                return now - since
        raise CommandError("bad-command", 'expected ["take", owner] or ["give", owner]')

    def query(self, query: Value) -> Value:
        return sorted(self.free)

    def snapshot(self) -> Iterable[bytes]:
        return [json.dumps([sorted(self.free), self.taken]).encode()]

    def restore(self, chunks: Iterator[bytes]) -> None:
        free, taken = json.loads(b"".join(chunks))
        self.free = set(free)
        self.taken = {owner: (locker, since) for owner, (locker, since) in taken.items()}


def commands(chance: random.Random) -> Value:
    """Draw a command: what the tests write."""
    return [chance.choice(["take", "take", "give"]), f"owner {chance.randrange(8)}"]
