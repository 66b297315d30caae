"""`RaftService`: one node of a cluster, as a Twisted service.

    node = RaftService(NodeSettings(...), MyMachine())
    node.setServiceParent(application)
    ...
    result = await node.write(command)
    answer = await node.read(query)

Nothing is opened before `startService`: the lock, the threads and the ports belong to
the process that runs, not to the one that only reads its configuration.

What its calls promise stands in the rooms of `raft.node` that it is made of. This is one room of
little more than 500 lines: what is opened is closed in the same place.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from raft import digest
from raft.codec import Codec
from raft.core import events as ev
from raft.core import outputs as out
from raft.core.configuration import Configuration
from raft.core.messages import Message
from raft.errors import Diverged, NodeStopped, RaftError
from raft.interfaces import IStorage, Recovered
from raft.node.administration import Administration
from raft.node.asking import Asking
from raft.node.backups import Backups
from raft.node.calls import LocalReads, LocalWrites
from raft.node.changes import Changes
from raft.node.desk import ClientDesk
from raft.node.doubles import Doubles, durable_term
from raft.node.entries import entry_at
from raft.node.forwarding import Forwarder
from raft.node.founding import Founding, has_committed
from raft.node.guard import Guard, Judgement
from raft.node.handover import hand_over
from raft.node.membership import Members
from raft.node.observers import Observer, Observers
from raft.node.ports import address_of, at_once
from raft.node.pulse import Pulse
from raft.node.rescue import Rescue
from raft.node.restorations import Restorations
from raft.node.sessions import SessionCare, SessionEntries
from raft.node.settings import NodeSettings, check_settings, peer_limits
from raft.node.shell import Shell
from raft.node.skipping import Skipping
from raft.node.starting import tell_start
from raft.node.status import status_of
from raft.node.switching import Switching
from raft.node.waiters import Waiters, following
from raft.repairing import Repairing
from raft.replica import Replica
from raft.storage.directory import DataDirectory
from raft.storage.divergence import Divergence
from raft.storage.repair_plan import recover
from raft.storage.starts import PeerLives
from raft.storage.wal import WriteAheadLog
from raft.transport.clients import ClientListener
from raft.transport.greeting import Identity
from raft.transport.peers import PeerNetwork
from raft.transport.wire import SnapshotChunk

if TYPE_CHECKING:
    from raft.ops.http import OpsDoor

_log = Logger()

STOP_SECONDS = 1.0
"""How long a stop waits for the leadership to be handed over."""
CLOSE_SECONDS = 10.0
"""How long it then waits for the disk."""

StorageFactory = Callable[[NodeSettings, str], IStorage]
DirectoryOpener = Callable[[str, str, str], DataDirectory]
"""Opens the data directory at a path, for a server's id and a cluster's; see `DataDirectory`."""


def _write_ahead_log(settings: NodeSettings, incarnation: str) -> IStorage:
    return WriteAheadLog(
        settings.data_directory,
        segment_size_bytes=settings.segment_size_bytes,
        incarnation=incarnation,
    )


class RaftService(Service, Asking, Administration, Rescue, SessionCare):
    """One node: serves its machine's state to this process and, over AMP, to clients.

    Attributes:
        settings: what it was told.
        replica: the machine and how far it is.
        shell: the core and what moves around it.
        failure: what stopped the node, or None.
        usage: returns what the process has used, for the status; a process that is a node and
            nothing else sets it, and an application's own would tell of the application.
        ended: fires with None after a stop, or with the exception that stopped the node. One whose
            state has diverged still tells its status, and so ends when it is stopped.
    """

    def __init__(
        self,
        settings: NodeSettings,
        machine: object,
        *,
        reactor: Any = None,
        codec: Codec | None = None,
        clock: Callable[[], float] = time.monotonic,
        make_storage: StorageFactory = _write_ahead_log,
        open_directory: DirectoryOpener = DataDirectory.open,
    ) -> None:
        """Check what was given; open nothing.

        Args:
            settings: see `NodeSettings`.
            machine: provides `raft.interfaces.IStateMachine`, in its initial state.
            reactor: the global one by default.
            codec: for an application's own command types; plain values by default.
            clock: monotonic seconds.
            make_storage: what to keep the log in.
            open_directory: where the identity and the lock are.

        Raises:
            BadConfiguration: the machine or the settings are wrong.
        """
        if reactor is None:
            from twisted.internet import reactor
        self.settings = settings
        self.clock = clock
        self.codec = codec or Codec()
        self.reactor: Any = reactor
        self.replica = Replica(machine, self.codec, clock=clock)
        self.failure: BaseException | None = None
        self.usage: Callable[[], Mapping[str, object]] = dict
        self.ended: Deferred[BaseException | None] = Deferred()
        self.forwarder = Forwarder(reactor, clock)
        self.pulse = Pulse(self)
        self.started_at = 0.0
        self._make_storage = make_storage
        self._open_directory = open_directory
        self._directory: DataDirectory | None = None
        self.repairing = Repairing(self)
        self.ops: OpsDoor | None = None
        self._observers = Observers(settings.id)
        self.waiters = Waiters(reactor)
        self.changes = Changes(self)
        self.backups = Backups(self)
        self.session_entries = SessionEntries(self)
        self.restorations = Restorations(self)
        self.skipping = Skipping(self)
        self._started = False
        self._stopping: Deferred[None] | None = None
        self._closing: Deferred[None] | None = None
        check_settings(settings)

    # Life.

    def startService(self) -> None:
        """Lock and recover the data directory, then listen and take part.

        Raises:
            RaftError: the directory is in use, damaged or another server's; a port is taken.
            NodeStopped: it has run before. What has run keeps its state: make a new one.
        """
        if self.running:
            return
        if self._closing is not None:
            raise NodeStopped("a node runs once; make a new RaftService")
        settings = self.settings
        self._directory = self._open_directory(
            settings.data_directory, settings.id, settings.cluster_id
        )
        try:
            self._start(self._directory)
        except BaseException:
            self._abandon()
            raise
        if self.failure is not None and not self.is_set_aside:
            # The cluster knows this server with another data directory.
            raise self.failure
        super().startService()  # type: ignore[no-untyped-call]

    def _start(self, directory: DataDirectory) -> None:
        settings, begun = self.settings, self.clock()
        # In this order: the start syncs the directory, and so what is read here is durable.
        noted = directory.peer_lives()
        self.identity = self._identity(directory)
        recovered = self._recover(directory)
        rng = random.Random(secrets.randbits(128))
        self.members = Members.of(self, noted)
        self.doubles = Doubles(self)
        self.founding = Founding(self)
        self.switching = Switching(self)
        self.network = self._peer_network(rng)
        self.shell = Shell(
            self.reactor,
            self.clock,
            self.storage,
            self.replica,
            self.network,
            self._changed,
            self._turned,
            self._failed,
            settings.bounds,
        )
        self.shell.applying.is_held = settings.hold
        self._started = True
        self._open_doors()
        self.shell.start(settings.id, settings.options, rng, recovered, self.identity.incarnation)
        if (found := directory.divergence()) is not None:
            self.shell.fail(Diverged(found.index, found.is_exact))
            return
        self.members.follow()
        tell_start(self, recovered, self.started_at - begun)
        self.founding.begin()
        self._bootstrap(recovered)
        self.pulse.start()

    def _peer_network(self, rng: random.Random) -> PeerNetwork:
        return PeerNetwork(
            self.reactor,
            self.identity,
            self._receive,
            connected=lambda peer: self.founding.answered(peer),
            disconnected=lambda peer: self.shell.post(ev.Unreachable(peer)),
            contact=lambda sender, term: self.shell.contact(sender, term),
            accept=self.members.judge,
            exclusion=self.members.exclusion,
            limits=peer_limits(self.settings, self.codec.limit_bytes),
            chance=rng,
            term=lambda: durable_term(self.shell.server),
            is_member=lambda id: self.shell.server.configuration.member(id) is not None,
            compare=lambda sender, digest: self.guard.heard(sender, digest),
            committed=lambda: has_committed(self.shell.server),
            outlived=self.members.is_wrong_directory,
            told_outlived=self.founding.outlived,
            member_index=lambda: self.members.own_index,
        )

    def _open_doors(self) -> None:
        self.guard = Guard(self.id, self.shell, self.network, self._set_aside)
        self.writes = LocalWrites(self.shell, self.codec)
        self.reads = LocalReads(self.codec)
        self.desk = ClientDesk(self, self.codec)
        self.listener = ClientListener(
            self.reactor, self.identity, self.desk, self.settings.client_limits
        )
        self._listen()
        self.started_at = self.clock()

    def _recover(self, directory: DataDirectory) -> Recovered:
        self.storage = self._make_storage(self.settings, self.identity.incarnation)
        recovered, repair = recover(self.storage, directory, self.settings.repair)
        self.repairing.begin(directory, repair)
        self.replica.open()
        if recovered.snapshot is not None and recovered.snapshot.index > self.replica.last_applied:
            self.replica.restore(*self.storage.open_snapshot(recovered.snapshot.index))
        return recovered

    def _changed(self, change: out.Change) -> None:
        if isinstance(change, out.LogRepaired):
            self.repairing.ended()
        self._observers.tell(change)

    def _receive(
        self, sender: str, message: Message, records: bytes, chunk: SnapshotChunk | None
    ) -> None:
        self.doubles.heard(sender, message)
        self.shell.receive(sender, message, records, chunk)

    def _identity(self, directory: DataDirectory) -> Identity:
        """Return who this node says it is, from this start of its directory on."""
        found, versions = directory.identity, self.replica.versions
        return Identity(
            found.cluster_id,
            found.server_id,
            found.incarnation,
            self.settings.peer_address,
            (versions.oldest, versions.newest),
            directory.begin_life(),
            digests=digest.FORMAT,
        )

    def _listen(self) -> None:
        settings = self.settings
        self.peer_port = at_once(self.network.listen(settings.peer_endpoint), "listen.peers")
        if not settings.peer_address:
            self._found_address(address_of(self.peer_port))
        self.client_port: IListeningPort | None = None
        if settings.client_endpoint:
            self.client_port = at_once(
                self.listener.listen(settings.client_endpoint), "listen.clients"
            )
        if settings.http_endpoint:
            # Only who wants it pays for importing a web server.
            from raft.ops.http import OpsDoor

            self.ops = OpsDoor(self, self.reactor)
            at_once(self.ops.listen(settings.http_endpoint), "listen.http")

    def _found_address(self, address: str) -> None:
        self.identity = self.network.identity = evolve(self.identity, address=address)

    def _bootstrap(self, recovered: Recovered) -> None:
        """Found the cluster from the first members where nothing is stored yet [RULES M8]."""
        empty = not (recovered.runs or recovered.snapshot or recovered.hard_state.current_term)
        if empty and self.settings.first_members:
            self.shell.post(ev.Bootstrap(Configuration(self.settings.first_members)))

    def _abandon(self) -> None:
        """Undo a start that failed."""
        self.pulse.stop()
        self.repairing.stop()
        if self._started:
            self.shell.stop()
        for name in ("network", "listener"):
            part = getattr(self, name, None)
            if part is not None:
                part.stop()
        self._close_ops()
        self.replica.close()
        storage = getattr(self, "storage", None)
        if storage is not None:
            storage.stop()
        if self._directory is not None:
            self._directory.release()

    def stopService(self) -> Deferred[None]:
        """Hand over the leadership, answer everybody, close everything; fires when done."""
        if self.running:
            super().stopService()  # type: ignore[no-untyped-call]
            self._stopping = Deferred.fromCoroutine(self._stop())
        return following(self._stopping) if self._stopping else succeed(None)

    async def _stop(self) -> None:
        server = self.shell.server
        heirs = [peer for peer in server.configuration.voters if self.network.is_connected(peer)]
        if self.shell.running and server.role is out.Role.LEADER and heirs:
            try:
                await hand_over(self, None, STOP_SECONDS, heirs)
            except RaftError as error:
                _log.info("{id} stops without a successor: {error}", id=self.id, error=error)
        await self._close_ops()
        await self._close()
        await self.listener.stop()
        self._end(None if self.is_set_aside else self.failure)

    def _close_ops(self) -> Deferred[None]:
        """Close the HTTP door, which stays open when the node fails, to say so."""
        door, self.ops = self.ops, None
        return door.stop() if door else succeed(None)

    def _close(self) -> Deferred[None]:
        if self._closing is None:
            self._closing = Deferred()
            Deferred.fromCoroutine(self._close_all()).chainDeferred(self._closing)
        return following(self._closing)

    async def _close_all(self) -> None:
        self.pulse.stop()
        self.repairing.stop()
        self.shell.stop()
        self.guard.stop()
        self.backups.close()
        self.restorations.close()
        self.forwarder.close()
        self.waiters.fail_all(self.not_running())
        files = [self.storage.stop(), self.shell.snapshots.idle()]
        sockets = [self.network.stop()]
        if not self.is_set_aside:
            sockets.append(self.listener.stop())
        closing = DeferredList([*files, *sockets], consumeErrors=True)
        results = await closing.addTimeout(CLOSE_SECONDS, self.reactor)
        for closed, failure in results:
            if not closed:
                _log.failure("{id} did not close all it had open", failure, id=self.id)
        self.replica.close()
        # Where a thread may still write, the lock stays until the process ends.
        if self._directory is not None and all(closed for closed, _ in results[: len(files)]):
            self._directory.release()

    def _failed(self, error: BaseException) -> None:
        """The node is ill: stop serving and say why; the process may live on."""
        self.failure = error
        _log.critical("{id} stops serving: {error}", id=self.id, error=error)
        closed = self._close()
        if not self.is_set_aside:
            closed.addCallback(lambda _: self._end(error))

    def _set_aside(self, found: Judgement) -> None:
        """This server's state has diverged: mark its directory, and serve no more [sc-SM4]."""
        self.network.flush()
        ours, theirs = f"{found.value:016x}", f"{found.majority_value:016x}"
        _log.critical(
            "The state of {id} is not the cluster's: at entry {compared} its digest is {ours}, "
            "that of {majority} is {theirs}. It differs {at} entry {index}",
            id=self.id,
            compared=found.compared_index,
            ours=ours,
            majority=", ".join(found.majority),
            theirs=theirs,
            at="from" if found.is_exact else "at or before",
            index=found.index,
        )
        where = (found.index, found.is_exact, found.compared_index)
        try:
            if self._directory is not None:
                self._directory.note_divergence(Divergence(*where, ours, theirs, found.majority))
        except RaftError as error:
            # It stops all the same; started again, it is compared again.
            _log.critical("{id} cannot be marked as diverged: {error}", id=self.id, error=error)
        self.shell.fail(Diverged(found.index, found.is_exact))

    @property
    def is_set_aside(self) -> bool:
        """Whether its state has diverged: it answers what it knows of itself, and nothing else."""
        return isinstance(self.failure, Diverged)

    def _end(self, error: BaseException | None) -> None:
        if not self.ended.called:
            self.ended.callback(error)

    # The Deferred API.

    @property
    def id(self) -> str:
        """The server's id."""
        return self.settings.id

    @property
    def serves(self) -> bool:
        """Whether it runs, and has not failed."""
        return bool(self.running) and self.shell.running

    def not_running(self) -> RaftError:
        """Return why nothing is served."""
        return self.failure if isinstance(self.failure, RaftError) else NodeStopped()

    def leader(self) -> str | None:
        """Return the id of the leader this node knows, or None."""
        return self.shell.server.leader_id if self.serves else None

    def leader_address(self) -> str | None:
        """Return the leader's client address, where known."""
        leader = self.leader()
        member = self.shell.server.configuration.member(leader) if leader else None
        return member.client_address or None if member else None

    def when_leader(self, timeout: float = 10.0) -> Deferred[str]:
        """Fire with the leader's id as soon as this node knows one.

        Raises (as failures):
            Timeout: it knew none.
            NodeStopped, NodeFailed: the node has ended.
        """
        if self._closing is not None:
            return fail(self.not_running())
        return self.waiters.wait(self.leader, timeout, "no leader was elected")

    def status(self) -> dict[str, object]:
        """Return what this node knows of itself and its cluster, as plain values."""
        return status_of(self)

    def entry(self, index: int) -> dict[str, object]:
        """Return the committed entry at `index` as a dict of plain values.

        Raises:
            NotFound: it is compacted away, or not committed (yet).
            BadCommand: it cannot be decoded.
            NodeStopped, NodeFailed: the node does not run.
        """
        self.checked_seconds(None)
        return entry_at(self.shell, self.codec, index)

    def get_entry(self, index: int) -> Deferred[dict[str, object]]:
        """Fire with `entry(index)`."""
        try:
            return succeed(self.entry(index))
        except RaftError as error:
            return fail(error)

    def transfer_leadership(self, target: str | None = None, timeout: float = 3.0) -> Deferred[str]:
        """Hand the leadership to `target` (or the best voter); fires with the new leader's id.

        Raises (as failures):
            NotLeader, ElectionInProgress: this node does not lead.
            BadConfiguration: the target is no other voter.
            NotAppended: a transfer is under way already.
            Timeout: the target did not take over in time; this node leads on, as a rule.
        """
        if not self._started or not self.shell.running:
            return fail(self.not_running())
        return hand_over(self, target, timeout)

    def take_snapshot(self) -> Deferred[int]:
        """Take a snapshot now; fires with the index up to which the log may be compacted."""
        return self.shell.snapshots.take() if self.serves else fail(self.not_running())

    # Observers, and callers who wait for a state.

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer` with each change (`raft.core.outputs`) after it is carried out.

        What it raises is logged and touches nothing. Returns what ends the observation.
        """
        return self._observers.add(observer)

    def _turned(self) -> None:
        """A turn is over: write the answers, follow the members, wake who waits."""
        if self.shell.running:
            self.members.follow()
            self.switching.follow()
            self.guard.turned()
        self.listener.flush()
        self.waiters.look()

    def note_peers(self, peers: PeerLives) -> None:
        """Note durably what was seen of other servers' starts."""
        if self._directory is not None:
            self._directory.note_peers(peers)

    def take_cluster_id(self, cluster_id: str) -> None:
        """Belong to `cluster_id` from here on, durably."""
        if self._directory is None:
            raise NodeStopped()
        self._directory.set_cluster_id(cluster_id)
        self.identity = evolve(self.identity, cluster_id=cluster_id)
        self.network.identity = self.listener.identity = self.identity
        self.network.review(self.members.is_another)
