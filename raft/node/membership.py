"""Who the other members are: their addresses, their incarnations, and who is let in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrs import Factory, define
from twisted.logger import Logger

from raft.core import elections, membership
from raft.core import events as ev
from raft.core.configuration import Configuration, Member
from raft.core.roles import Leader
from raft.core.server import Server
from raft.errors import BadConfiguration, StorageFailed, StorageFull
from raft.lives import Lives
from raft.node.founding import new_cluster_id
from raft.transport.endpoints import parse_dial
from raft.transport.greeting import Greeting

if TYPE_CHECKING:
    from raft.service import RaftService

_log = Logger()

_NOBODY: frozenset[str] = frozenset()

MOST_HEARD = 1024
"""How many servers are remembered that are no members."""
NAME_BYTES = 255
DETOUR_SECONDS = 1.0
"""A leader that is heard and cannot be dialled is dialled elsewhere after so long."""

REJOIN = "remove the member and let it join again with an empty directory"
REMEDY = f"its data directory was wiped, swapped or copied: {REJOIN}"


@define(eq=False)
class Members:
    """Follows the configuration of one node, and pins whom it was heard from [RULES M7]."""

    node: RaftService
    heard: dict[str, str] = Factory(dict)
    """Server id -> incarnation, as each said in its greeting."""
    strangers: dict[str, str] = Factory(dict)
    """Server id -> address of those who dialled this node while it knows no members."""
    clusters: dict[str, str] = Factory(dict)
    """Server id -> cluster id, for a node that belongs to no cluster yet."""
    addresses: dict[str, str] = Factory(dict)
    """Server id -> peer address of the members that are, and of who was one and still counts."""
    said: dict[str, str] = Factory(dict)
    """Server id -> where it said that it is dialled."""
    _detour: dict[str, str] = Factory(dict)
    """Where a leader is dialled that did not answer at its address."""
    _unreached_since: float = math.inf
    _followed: Configuration | None = None
    _beside: frozenset[str] = frozenset()
    """Who is no member and still spoken with."""
    _was_member: bool = False
    lives: dict[str, tuple[str, Lives]] = Factory(dict)
    """Server id -> incarnation and lives, as last seen."""
    _noted: dict[str, tuple[str, Lives]] = Factory(dict)
    """The same of the members, as the data directory has it: their last starts alone."""
    _dismissed: tuple[int, frozenset[str]] = (0, _NOBODY)
    _is_told: bool = False
    """Whether the log says that this server was removed."""
    _is_other: bool = False
    """Whether the latest configuration names another incarnation of this server."""
    _unpinned: bool = False
    _asked: tuple[int, Configuration | None, dict[str, str]] = (0, None, {})
    """In which term, of which configuration, and whom the core was last asked to pin."""

    @classmethod
    def of(cls, node: RaftService, noted: dict[str, tuple[str, Lives]]) -> Members:
        """Begin with what this data directory has noted of other servers' starts."""
        return cls(node, lives=dict(noted), noted=noted)

    def judge(self, greeting: Greeting) -> str | None:
        """Return why a server is not let in, or None [RULES M7, M9]."""
        member = self.node.shell.server.configuration.member(greeting.server_id)
        self.node.founding.greeted(greeting)
        reason = (
            self.is_another(greeting)
            or self._went_back(greeting)
            or self.node.doubles.objection(greeting, REJOIN)
            or self.node.switching.objection(greeting)
            or self.node.guard.objection(greeting)
        )
        if reason is not None:
            return reason
        if member is None and len(self.heard) >= MOST_HEARD:
            # Whoever can dial could otherwise fill this node's memory with names.
            return None
        self.heard[greeting.server_id] = greeting.incarnation
        self.node.doubles.let_in(greeting)
        if greeting.lives.count:
            self.lives[greeting.server_id] = greeting.incarnation, greeting.lives
            if not self._note_lives():
                return "the disk of the server that was dialled has failed"
        self.clusters[greeting.server_id] = greeting.cluster_id
        self._unpinned = self._has_unpinned()
        if greeting.address:
            self.said[greeting.server_id] = greeting.address
        if greeting.address and member is None:
            # Whoever founds or grows a cluster speaks first; the answer needs a way back. It
            # may have joined after the configuration that this node has come to.
            self.strangers[greeting.server_id] = greeting.address
            self._followed = None
        if greeting.excluded_index:
            self.node.shell.post(ev.Excluded(greeting.excluded_index))
        self.node.shell.schedule()
        return None

    def is_wrong_directory(self, greeting: Greeting) -> bool:
        """Tell whether a server is refused because another directory of it lives, or has lived."""
        return self.is_another(greeting) is not None or self._went_back(greeting) is not None

    def is_another(self, greeting: Greeting) -> str | None:
        """Return why this is not the member of its name, if so [RULES M7].

        Who does not vote has come to a part of the log, maybe, where the leader that sends it was
        another. It can wait: it asks nobody for a vote, and nobody's acknowledgement counts for it.

        Nor is it another whom a configuration names that was committed behind the latest one that
        this server has, committed or not: it joined since, under that id, and may lead. Whatever
        this server's own configuration makes of its votes, it gives none to a log without that
        entry. Who was removed, and says what it was long before, names no such entry.
        """
        server = self.node.shell.server
        member = server.configuration.member(greeting.server_id)
        if member is None or member.incarnation in ("", greeting.incarnation):
            return None
        if not server.is_voter or greeting.member_index > server.log.configuration_index:
            return None
        return (
            f"server {greeting.server_id!r} is known as incarnation {member.incarnation}, "
            f"not {greeting.incarnation}; {REMEDY}"
        )

    @property
    def own_index(self) -> int:
        """The index of the committed configuration that names this very directory, or 0."""
        server = self.node.shell.server
        index, committed = server.log.configuration_at(server.commit_index)
        me = committed.member(self.node.id)
        return index if me and me.incarnation == self.node.identity.incarnation else 0

    def _went_back(self, greeting: Greeting) -> str | None:
        """Return why this cannot be the directory that was seen last, if so [RULES L5, M9]."""
        incarnation, known = self.lives.get(greeting.server_id, ("", Lives()))
        if incarnation != greeting.incarnation or greeting.lives.go_on_from(known):
            return None
        return (
            f"server {greeting.server_id!r} was last seen at start {known.count} of its data "
            f"directory ({known.names[0]}), and this is start {greeting.lives.count} of one that "
            f"does not know of it: an old copy was put back, or a copy runs twice; {REJOIN}"
        )

    def _note_lives(self) -> bool:
        """Note the last starts of the members durably, where one is new [RULES M9].

        Returns False where that failed, and this server with it.

        Before the server in question is answered: this one may forget everything else in a restart
        of its own. Of the members only, which are few, and others may call themselves anything.
        """
        members = [member.id for member in self.node.shell.server.configuration.members]
        last = {
            id: (self.lives[id][0], self.lives[id][1].last) for id in members if id in self.lives
        }
        if all(self._noted.get(id) == seen for id, seen in last.items()):
            return True
        try:
            self.node.note_peers(last)
        except StorageFull as error:
            # Votes and reads need this server: it remembers as long as it runs [RULES D4].
            _log.warn("{id} noted no starts: {error}", id=self.node.id, error=error)
        except StorageFailed as error:
            self.node.shell.fail(error)
            return False
        else:
            self._noted = last
        return True

    def exclusion(self, greeting: Greeting) -> int:
        """Return the index of the committed configuration without that server, or 0 [RULES M6].

        Only who is in touch with a leader says so: who lags may not know of it yet.
        """
        server = self.node.shell.server
        index, committed = server.log.configuration_at(server.commit_index)
        is_outsider = self._is_outsider(greeting.server_id)
        knows = is_outsider and elections.heard_leader(server, greeting.server_id)
        return index if knows and committed.members else 0

    def _is_outsider(self, id: str) -> bool:
        """Tell whether a server is a member neither of what is committed nor of what may be."""
        server = self.node.shell.server
        _, committed = server.log.configuration_at(server.commit_index)
        return not (
            committed.member(id)
            or server.configuration.member(id)
            or id in server.configuration.ids
            or id in self._beside
        )

    def _dismiss(self, server: Server) -> None:
        """Let those who were removed dial again, and learn of it: they may not have been told."""
        done = server.told_configuration, self._beside
        if self._dismissed != done and server.configuration.members:
            self._dismissed = done
            self.node.network.dismiss(self._is_outsider, "this server is no member any more")

    def follow(self) -> None:
        """At the end of a turn: connect to the members of the latest configuration, pin them."""
        node, server = self.node, self.node.shell.server
        configuration = server.configuration
        beside = self._still_needed(server)
        if configuration is not self._followed or beside != self._beside:
            self._followed, self._beside = configuration, beside
            self._look_at_self(configuration)
            self._was_member |= node.id in configuration.ids
            members = {m.id: m.peer_address for m in configuration.members if m.peer_address}
            # Whom this server's log would remove may lead meanwhile, and needs its answers.
            known = self.said | self.strangers | self.addresses
            members |= {peer: known[peer] for peer in beside if peer in known}
            self.addresses = members
            self._dial()
            self.heard[node.id] = node.identity.incarnation
            self._unpinned = self._has_unpinned()
            self._note_lives()
            # Who was let in before its name was pinned to another directory speaks for it no more.
            node.network.review(self.is_another)
        self._reach_leader(server)
        is_out = self._was_member and node.id not in configuration.ids
        if is_out or server.excluded_index or self._is_told:
            self._tell_removal()
        self._dismiss(server)
        if self._unpinned and membership.may_change(server):
            self._pin()
        leader = server.leader_id
        if leader and not node.identity.cluster_id and self.clusters.get(leader):
            node.take_cluster_id(self.clusters[leader])

    def _dial(self) -> None:
        addresses = self.addresses or self.strangers
        detour = {id: address for id, address in self._detour.items() if id in addresses}
        self.node.network.set_peers(_dialable(addresses | detour))

    def _reach_leader(self, server: Server) -> None:
        """Dial a leader that does not answer where it says that it is, in turns [RULES M7].

        It may have moved behind where this server's log has come to, and the log comes no
        farther while the leader has no answers. A server that was moved by a change alone says
        where it was before.
        """
        node, now = self.node, self.node.clock()
        is_connected = node.network.is_connected
        # One that leads no more must not be left where it does not answer either.
        astray = next((id for id in self._detour if not is_connected(id)), None)
        wanted = astray or server.leader_id
        if wanted is None or wanted == node.id or is_connected(wanted):
            self._unreached_since = math.inf
            return
        self._unreached_since = min(self._unreached_since, now)
        said = self.said.get(wanted, "")
        if now - self._unreached_since >= DETOUR_SECONDS and said:
            self._unreached_since = now
            self._detour = {} if astray else {wanted: said}
            self._dial()

    @property
    def is_removed(self) -> bool:
        """Whether this server was a member, and is none in what is committed [RULES M6]."""
        server = self.node.shell.server
        if server.excluded_index:
            return True
        index, configuration = server.log.configuration_at(server.commit_index)
        if (
            not index
            or configuration.member(self.node.id)
            or server.configuration.ids & {server.id}
        ):
            return False
        return self._was_member or any(
            each.member(self.node.id) for _, each in server.log.configurations
        )

    def _tell_removal(self) -> None:
        is_removed = self.is_removed
        if is_removed and not self._is_told:
            _log.warn(
                "{id} was removed from the cluster: it votes no more and gets no entries. Stop "
                "it; to let it join again, start it with an empty data directory.",
                id=self.node.id,
            )
        self._is_told = is_removed

    def _still_needed(self, server: Server) -> frozenset[str]:
        """Return who is no member and still spoken with [RULES M6].

        A leader tells those who leave until they know; and it may itself be one who leaves, or
        one that joined after the configuration that this server has come to.
        """
        state = server.state
        if isinstance(state, Leader):
            return frozenset(state.departing) if state.departing else _NOBODY
        leader = server.leader_id
        if leader is None or server.configuration.member(leader) is not None:
            return _NOBODY
        return frozenset((leader,))

    def _pin(self) -> None:
        """Ask the core to pin who is connected.

        Who was heard long ago may have had another directory since: a wiped server that was
        removed, and joins again, would be shut out by what it called itself before.
        """
        node, server = self.node, self.node.shell.server
        unpinned = [member.id for member in server.configuration.members if not member.incarnation]
        present = {
            id: self.heard[id]
            for id in sorted(unpinned)
            if id in self.heard and (id == node.id or node.network.is_connected(id))
        }
        asking = (server.current_term, server.configuration, present)
        if present and self._asked != asking:
            self._asked = asking
            node.shell.post(ev.PinIncarnations(tuple(present.items())))

    def _has_unpinned(self) -> bool:
        configuration = self.node.shell.server.configuration
        return any(not m.incarnation and m.id in self.heard for m in configuration.members)

    def _look_at_self(self, configuration: Configuration) -> None:
        """Say once that the log names a predecessor of this server: it does not vote so long.

        Its log has come so far, no farther, where it joined again under its old id.
        """
        me, mine = configuration.member(self.node.id), self.node.identity.incarnation
        is_other = bool(me and me.incarnation and me.incarnation != mine)
        if me and is_other and not self._is_other:
            _log.info(
                "{id} is incarnation {mine} of its data directory, and its log has come to where "
                "incarnation {theirs} was the member: it does not vote until the log names it. "
                "Where no leader takes it in, {remedy}.",
                id=me.id,
                mine=mine,
                theirs=me.incarnation,
                remedy=REJOIN,
            )
        self._is_other = is_other

    def found(self, members: tuple[Member, ...]) -> None:
        """Let this empty node found a cluster of `members`.

        Raises:
            BadConfiguration: it has a log or a cluster already, or is not among them.
        """
        node, server = self.node, self.node.shell.server
        if server.log.last_index or server.current_term or node.identity.cluster_id:
            raise BadConfiguration(
                f"{node.id} belongs to cluster {node.identity.cluster_id or '?'} already; a "
                "cluster is founded once, from an empty node"
            )
        check_founders(members, node.id)
        node.take_cluster_id(new_cluster_id())
        node.founding.ordered()
        node.shell.post(ev.Bootstrap(Configuration(members)))


def check_founders(members: tuple[Member, ...], founder: str) -> None:
    """Refuse members with whom `founder` could not found a cluster.

    Raises:
        BadConfiguration: as `check_members`, or `founder` is no voter among them.
    """
    check_members(members)
    ids = [member.id for member in members]
    if founder not in ids:
        raise BadConfiguration(f"the members must include {founder!r}, got {ids}")
    if founder not in [member.id for member in members if member.voter]:
        raise BadConfiguration(f"{founder!r} founds the cluster, so it must be a voter")


def check_members(members: tuple[Member, ...]) -> None:
    """Refuse members that could not form a cluster, before the log holds them for good.

    Raises:
        BadConfiguration: names the member, what is wrong with it, and what would be right.
    """
    ids = [member.id for member in members]
    for member in members:
        if not isinstance(member.id, str) or not member.id.isprintable() or not member.id:
            raise BadConfiguration(f"a member's id is {member.id!r}; it must be printable text")
        if len(member.id.encode()) > NAME_BYTES:
            raise BadConfiguration(
                f"a member's id is {member.id[:40]!r}...; it may have {NAME_BYTES} bytes"
            )
        for key in ("peer_address", "client_address"):
            address = getattr(member, key)
            if key == "client_address" and not address:
                continue
            try:
                parse_dial(address)
            except (BadConfiguration, TypeError, AttributeError, ValueError) as error:
                raise BadConfiguration(
                    f"member {member.id!r}: {key} is {address!r}: {error}; write for example "
                    "tcp:10.0.0.1:7000"
                ) from error
    if len(set(ids)) != len(ids):
        raise BadConfiguration(f"the members must be distinct, got {ids}")


def _dialable(addresses: dict[str, str]) -> dict[str, str]:
    """Leave out what cannot be dialled: one bad address must not stop every member."""
    found = {}
    for server, address in addresses.items():
        try:
            parse_dial(address)
        except BadConfiguration as error:
            _log.error("{server} cannot be dialled: {error}", server=server, error=error)
        else:
            found[server] = address
    return found
