"""Two processes of one server, or an older disk than it had: found by what it has shown before.

The starts of a directory (`raft.lives`) tell a copy that was started apart from one that its peers
have seen start later. What they do not tell: an old copy of the very last start, and a copy of a
directory whose server runs on. Here they are recognised by the terms that a server has shown, and
by the process that answers at its address.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from attrs import Factory, define

from raft.core.messages import Message, PreVote, PreVoteResult
from raft.core.server import Server
from raft.transport.greeting import Greeting

if TYPE_CHECKING:
    from raft.service import RaftService

REDIAL_SECONDS: Final = 60.0
"""A second process of one server makes this one look again who answers for it, so often at most."""
LOOK_SECONDS: Final = 5.0
"""How long nobody else is let in while a server is dialled anew to see who answers."""


def durable_term(server: Server) -> int:
    """Return the current term where it is saved, else 0: it may not be shown yet [RULES E1]."""
    return server.current_term if server.hard_state_ticket <= server.saved_ticket else 0


@define(eq=False)
class Doubles:
    """What one node remembers of those who have spoken to it, as long as it runs."""

    node: RaftService
    _shown: dict[str, tuple[str, int]] = Factory(dict)
    """Server id -> its incarnation, and the highest term that it has shown: durable before."""
    _looked_for: dict[str, tuple[Greeting, float, str]] = Factory(dict)
    """Server id -> who answered when a second process came, when it was dialled anew, and the
    start of the directory that the second one named."""

    def heard(self, sender: str, message: Message) -> None:
        """Remember the term of a message, unless it is one that nobody has made durable."""
        incarnation, term = self._shown.get(sender, ("", 0))
        if message.term > term and incarnation and not isinstance(message, PreVote | PreVoteResult):
            self._shown[sender] = incarnation, message.term

    def let_in(self, greeting: Greeting) -> None:
        """Remember a server that is let in."""
        incarnation, term = self._shown.get(greeting.server_id, ("", 0))
        if incarnation != greeting.incarnation:
            term = 0
        self._shown[greeting.server_id] = greeting.incarnation, max(term, greeting.term)

    def objection(self, greeting: Greeting, remedy: str) -> str | None:
        """Return why a server is not let in, or None [RULES M9]; `remedy` ends the text."""
        id = greeting.server_id
        incarnation, term = self._shown.get(id, ("", 0))
        if incarnation == greeting.incarnation and 0 < greeting.term < term:
            return (
                f"server {id!r} had made term {term} durable, and is at term {greeting.term}: an "
                f"old copy of its data directory was put back; {remedy}"
            )
        if self._answers_elsewhere(greeting):
            self._look_again(greeting)
            return (
                f"another process with the data directory of server {id!r} answers at its address:"
                " unless it was started again just now, its directory was copied; stop one of the "
                f"two, {remedy}"
            )
        return None

    def _answers_elsewhere(self, greeting: Greeting) -> bool:
        """Tell whether another process than the one that greets answers at the server's address.

        Two with one data directory would vote twice. Who answers at its address is the server.
        While it is looked who that is, nobody is let in but whoever answers.
        """
        if not greeting.target:
            # Servers name whom they dial: this is the answer of the one that was dialled.
            return False
        answering = self.node.network.greeting_of(greeting.server_id)
        if answering is None:
            answering, since, _ = self._looked_for.get(greeting.server_id, (None, -math.inf, ""))
            if self.node.clock() - since >= LOOK_SECONDS:
                return False
        return (
            answering is not None
            and answering.incarnation == greeting.incarnation
            and bool(answering.lives.names and greeting.lives.names)
            and answering.lives.names[0] != greeting.lives.names[0]
        )

    def _look_again(self, greeting: Greeting) -> None:
        """Dial a server anew: the process that answered may have died without a word.

        The other one's next attempt is judged by who answers then. Not with each of its attempts:
        it would cut the connections of the first one for ever. But once for each of its starts: a
        machine may lose power twice in a minute.
        """
        id, start = greeting.server_id, greeting.lives.names[0]
        now, answering = self.node.clock(), self.node.network.greeting_of(id)
        _, since, looked = self._looked_for.get(id, (None, -math.inf, ""))
        if answering is not None and (start != looked or now - since >= REDIAL_SECONDS):
            self._looked_for[id] = answering, now, start
            self.node.network.redial(id)
