"""Every situation of a server, every letter, and what becomes of the one by the other, by number.

What a server makes of an event depends on nothing but its own situation. So each pair of the two
is computed once, by the real core; the search over whole worlds moves numbers about.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from attrs import Factory, define, field

from raft.core.configuration import Configuration
from raft.core.events import ChangeConfiguration, Propose, Read, TransferLeadership
from raft.core.server import Options
from raft.testing.small.normal import renamed
from raft.testing.small.server import SmallServer
from raft.testing.small.situations import (
    ENTRY_BYTES,
    Act,
    Letter,
    Reaction,
    Situation,
    View,
    view_of,
)


@define(eq=False)
class Reactions:
    """Every situation and letter met so far, by number, and every reaction, computed once."""

    options: Options
    targets: tuple[Configuration, ...] = ()
    """What the members may be asked to become, by number."""
    views: list[View] = Factory(list)
    judged: list[int] = Factory(list)
    """Of each situation: equal where no rule between servers can tell two apart."""
    letters: list[Letter] = Factory(list)
    computed: int = 0
    """How often the core was stepped for it."""
    _situations: list[Situation] = Factory(list)
    _numbers: dict[Hashable, int] = Factory(dict)
    _judged_numbers: dict[Hashable, int] = Factory(dict)
    _letter_numbers: dict[Letter, int] = Factory(dict)
    _timeless: bool = field(init=False)

    def __attrs_post_init__(self) -> None:
        """See whether these options make anything of time."""
        self._timeless = not (self.options.check_quorum or self.options.clock_drift_bound)

    def enter(self, server: SmallServer) -> int:
        """Return the number of the situation on the server."""
        return self._enter(server.frozen(timeless=self._timeless))

    def _enter(self, situation: Situation) -> int:
        number = self._numbers.setdefault(situation.key, len(self._situations))
        if number == len(self._situations):
            self._situations.append(situation)
            view = view_of(situation)
            self.views.append(view)
            numbers = self._judged_numbers
            self.judged.append(numbers.setdefault(view.judged, len(numbers)))
        return number

    def renamed(self, number: int, names: Mapping[str, str]) -> int:
        """Return the number of the situation in which each server has another's name."""
        situation = renamed(self._situations[number], names)
        return self._enter(situation) if isinstance(situation, Situation) else number

    def letter_renamed(self, number: int, names: Mapping[str, str]) -> int:
        """Return the number of the letter in which each server has another's name."""
        letter = renamed(self.letters[number], names)
        return self.letter(letter) if isinstance(letter, Letter) else number

    def letter(self, letter: Letter) -> int:
        """Return the number of a letter."""
        number = self._letter_numbers.setdefault(letter, len(self.letters))
        if number == len(self.letters):
            self.letters.append(letter)
        return number

    def react(self, number: int, act: Act, *, quick: bool) -> Reaction:
        """Return what the server in situation `number` makes of `act`.

        Args:
            number: The situation.
            act: What happens.
            quick: Whether the disk does every write at once.

        Raises:
            Violation: what one server promises by itself is broken.
        """
        server = SmallServer.of(self._situations[number])
        waiting = len(server.queue) - (act.kind == "saved")
        self._perform(server, act)
        self.computed += 1
        saves = len(server.queue) > waiting
        while quick and server.queue:
            server.saved()
        return Reaction(
            self.enter(server),
            tuple(sorted({self.letter(each) for each in server.sent})),
            tuple(server.confirmed),
            server.accepted,
            saves,
        )

    def _perform(self, server: SmallServer, act: Act) -> None:
        match act.kind:
            case "letter":
                if act.letter is not None:
                    server.receive(act.letter)
            case "time":
                server.step([], server.server._next_deadline())
            case "saved":
                server.saved()
            case "propose":
                server.step([Propose(act.number, 1, ENTRY_BYTES)])
            case "read":
                server.step([Read(act.number)])
            case "crash":
                server.restart(act.number, self.options, server.server.now)
            case "compact":
                server.compact()
            case "transfer":
                server.step([TransferLeadership()])
            case "change":
                members = self.targets[act.number].members
                server.step([ChangeConfiguration(100 + act.number, members, force=True)])
            case _:
                raise ValueError(f"there is no act {act.kind!r}")
