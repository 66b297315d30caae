"""A machine in three releases, for upgrades: each command's result tells how it was understood."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from zope.interface import implementer

from raft.errors import CommandError
from raft.interfaces import Context, IStateMachine, IVersionedStateMachine, Value


class _Ledger:
    """Adds numbers to accounts; keeps for each command its index and the version it met."""

    machine_name = "ledger"

    def __init__(self) -> None:
        self.accounts: dict[str, int] = {}
        self.seen: list[list[int]] = []
        self.switched: list[int] = []

    def apply(self, command: Value, context: Context) -> Value:
        version = int(getattr(self, "active_version", 1))
        match command:
            case ["add", str(account), int(amount)]:
                # From version 2 on amounts are in cents.
                added = amount * 100 if version >= 2 else amount
                total = self.accounts[account] = self.accounts.get(account, 0) + added
                self.seen.append([context.index, version])
                return [version, total]
        raise CommandError("bad-command")

    def query(self, query: Value) -> Value:
        if query == "seen":
            return json.dumps(self.seen)
        return self.accounts.get(str(query), 0)

    def snapshot(self) -> Iterable[bytes]:
        state: dict[str, object] = {"accounts": self.accounts, "seen": self.seen}
        if getattr(self, "active_version", 1) >= 2:
            state["cents"] = self.switched
        return [json.dumps(state).encode()]

    def restore(self, chunks: Iterator[bytes]) -> None:
        state = json.loads(b"".join(chunks))
        assert ("cents" in state) == (getattr(self, "active_version", 1) >= 2)
        self.accounts, self.seen = state["accounts"], state["seen"]
        self.switched = state.get("cents", [])


@implementer(IStateMachine)
class PlainLedger(_Ledger):
    """The first release, which knew of no versions."""


@implementer(IVersionedStateMachine)
class Ledger1(_Ledger):
    """The second release: it behaves as the first."""

    version = 1
    active_version = 1

    def switch(self, version: int) -> None:
        """Turn all amounts into cents."""
        self.switched.append(version)
        if version == 2:
            self.accounts = {account: total * 100 for account, total in self.accounts.items()}


class Ledger2(Ledger1):
    """The third release: amounts are in cents, once the log says so."""

    version = 2


class Ledger3(Ledger2):
    """The fourth: it can no longer what came before cents."""

    oldest_version = 2
    version = 3
