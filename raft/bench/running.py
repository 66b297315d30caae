"""A cluster that somebody else runs: found, loaded, and left without the keys that were written.

Nothing of it is started, stopped or configured here. All keys begin with the plan's prefix, so
that no key of anybody's is touched, and they are removed when the measuring ends, however it ends.
What nodes used is known as far as their own status tells it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList

from raft.bench.load import keys
from raft.bench.loaded import TIMEOUT_SECONDS, Loaded, Statuses
from raft.bench.plan import Running
from raft.client import RaftClient
from raft.errors import BadConfiguration, CommandError, CommandFailed, RaftError
from raft.transport.endpoints import require_private

FIND_SECONDS = 5.0
"""How long the cluster may take to tell who leads."""
REMOVAL_ROUNDS = 3
"""So many may fail in part; as many others follow as it takes."""
LEFT_SHOWN = 1000

NOT_KV = (
    "the cluster's machine is not the key-value store, and no other understands what is written "
    'and read here: name a cluster with machine = "kv", or leave --endpoint and --config out'
)


@define(eq=False)
class RunningStand(Loaded):
    """The cluster of `task.plan.running`; `async with` finds it, and removes what was written."""

    _client: RaftClient | None = field(init=False, default=None)
    _members: dict[str, str] = field(init=False, factory=dict)
    """The client address of each, by id."""
    _written: set[str] = field(init=False, factory=set)

    @property
    def directory(self) -> Path:
        """Where files of the load go."""
        return self.task.directory

    @property
    def addresses(self) -> Sequence[str]:
        """The client addresses of the nodes."""
        return [each for each in self._members.values() if each]

    @property
    def leader_address(self) -> str:
        """The client address of the leader."""
        return self._members[self.leader]

    @property
    def _running(self) -> Running:
        running = self.task.plan.running
        if running is None:
            raise BadConfiguration("no cluster is named that runs already")
        return running

    async def prepare(self) -> None:
        """Find the leader and the members; write nothing yet.

        Raises:
            BadConfiguration: the machine is not the key-value store, or the leader may not be
                talked to without encryption.
            RaftError: nobody answers, or nobody leads.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        running = self._running
        self._client = client = RaftClient(
            running.addresses,
            reactor=self.task.reactor,
            timeout_seconds=TIMEOUT_SECONDS,
            allow_plaintext=running.allow_plaintext,
        )
        await self._find_leader(client)
        await self._require_kv(client)
        status = await client.status(self.leader)
        listed: Any = status["members"]
        self._members |= {each["id"]: each["client_address"] for each in listed}
        self.nodes = sum(1 for each in listed if each["voter"])

    async def _find_leader(self, client: RaftClient) -> None:
        """Learn who leads, which may change: not every workload can follow."""
        self.leader, address = await client.leader(FIND_SECONDS)
        require_private(address, self._running.allow_plaintext)
        self._members[self.leader] = address

    async def _require_kv(self, client: RaftClient) -> None:
        # Its name is nowhere on the wire; another machine refuses these, or answers otherwise.
        try:
            count: Any = await client.read(["count"])
            found: Any = await client.read(["scan", self._running.prefix, 1])
        except (CommandError, CommandFailed) as error:
            raise BadConfiguration(NOT_KV) from error
        if type(count) is not int or type(found) is not list:
            raise BadConfiguration(NOT_KV)
        if found:
            raise BadConfiguration(f"there are keys already that begin with {found[0][0]!r}")

    async def start_load(self, outstanding: int, value_bytes: int, **special: object) -> None:
        """Keep so many operations outstanding, on whoever leads now."""
        if self._client is not None:
            await self._find_leader(self._client)
        self._written |= set(keys(value_bytes, self._running.prefix))
        await super().start_load(outstanding, value_bytes, **special)

    async def statuses(self) -> Statuses:
        """Return what each member says of itself; None of one that does not answer."""
        client = self._client
        if client is None:
            return {}
        # A list that is cancelled takes that for its members' failures, and goes on.
        told: Deferred[Any] = Deferred()
        DeferredList(
            [client.status(id, TIMEOUT_SECONDS) for id in self._members], consumeErrors=True
        ).chainDeferred(told)
        answers = await told
        found: dict[str, Mapping[str, object] | None] = {}
        for id, (succeeded, answer) in zip(self._members, answers, strict=True):
            found[id] = answer if succeeded else None
        return found

    async def __aexit__(self, kind: object, *_: object) -> None:
        """End the load and remove every key that it wrote.

        Raises:
            RaftError: some are left, and nothing else was wrong before.
        """
        try:
            await super().close()
            if kind is None:
                await self._remove()
            else:
                # What went wrong before is what is to be told.
                with suppress(RaftError):
                    await self._remove()
        finally:
            await self.close()

    async def close(self) -> None:
        """End the load and the connections."""
        await super().close()
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    async def _remove(self) -> None:
        client, prefix = self._client, self._running.prefix
        if client is None or not self._written:
            return
        self.task.note("removing what was written")
        # Once a write of ours is answered, whatever came before it can be read.
        left: list[str] = [min(self._written)]
        failed = 0
        while failed < REMOVAL_ROUNDS:
            ends: Any = await DeferredList(
                [client.write(["delete", key]) for key in left], consumeErrors=True
            )
            found: Any = await client.read(["scan", prefix, LEFT_SHOWN])
            if not all(succeeded for succeeded, _ in ends):
                failed += 1
            elif not found:
                self._written.clear()
                return
            left = [key for key, _ in found] or left
        raise RaftError(
            f"keys are left that begin with {prefix!r}, {left[0]!r} for one: see which with "
            f"raft kv scan {prefix}, and remove them with raft kv delete"
        )
