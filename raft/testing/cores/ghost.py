"""The ghost state of a run: what was ever voted, elected, created, committed and applied.

The monitors write it down and hold each step against it. What they saw last is kept for the
transcript of a failure.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NoReturn, Protocol

from attrs import Factory, define, field, fields, frozen

from raft.core.configuration import Configuration
from raft.core.events import Event
from raft.core.outputs import Outputs
from raft.testing.cores.disk import NO_OP, Entry
from raft.testing.cores.members import latest_configuration

if TYPE_CHECKING:
    from raft.testing.cores.model_node import ModelNode

TRANSCRIPT_STEPS = 400


class Hash(Protocol):
    """The part of a hashlib object that is used here."""

    def update(self, chunk: bytes, /) -> None:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """Return the digest so far."""


@frozen
class Step:
    """One step of one node, for the transcript; `outputs` is None where the core raised."""

    moment: float
    node: str
    events: tuple[Event, ...]
    outputs: Outputs | None = None

    def __str__(self) -> str:
        """Return a line for the step and one for each event and each telling output."""
        lines = [f"{self.moment:.4f} {self.node}"]
        lines += [f"    < {event}" for event in self.events]
        if self.outputs is None:
            return "\n".join([*lines, "    > raised"])
        told = {name: getattr(self.outputs, name) for name in OUTPUT_NAMES}
        lines += [f"    > {name}: {value}" for name, value in told.items() if value]
        return "\n".join(lines)


OUTPUT_NAMES = tuple(attribute.name for attribute in fields(Outputs))


class Violation(Exception):
    """A promise of the protocol was broken; `rule` names it."""

    def __init__(self, rule: str, reason: str) -> None:
        """Name the rule (I1, L2, ...) and say what was seen."""
        self.rule = rule
        self.reason = reason
        super().__init__(f"{rule}: {reason}")


@define(eq=False)
class Ghost:
    """The ghost state: what was ever voted, elected, created and committed."""

    nodes: dict[str, ModelNode] = Factory(dict)
    events: int = 0
    steps: int = 0
    checks: int = 0
    """How often anything but a step was looked at."""
    truncations: int = 0
    installed: int = 0
    digest: int = 0
    """Of every step's time, place and result: equal for equal runs [I23]."""
    votes: dict[tuple[str, int], str] = Factory(dict)
    """(incarnation of the voter, term) to the candidate of its durable vote."""
    leaders: dict[int, str] = Factory(dict)
    newest_term: int = 0
    """The highest term that had a leader."""
    created: dict[tuple[int, int], tuple[int, Entry]] = Factory(dict)
    """(index, term) to (the term of the entry before, the entry)."""
    committed: list[Entry] = Factory(lambda: [(0, NO_OP, 0)])
    """The committed entry at each index; index 0 is the log's beginning."""
    commit_terms: list[int] = Factory(lambda: [0])
    """In which term each of them was first seen committed."""
    configurations: list[tuple[int, Configuration]] = Factory(list)
    """The committed configurations, with their indexes."""
    sequences_at_loss: dict[tuple[str, int, str], int] = Factory(dict)
    """(incarnation of a leader, its term, a peer) to the last message before the peer's loss."""
    configuration_places: list[int] = Factory(lambda: [1])
    """The indexes at which any log ever held a configuration, in order."""
    abandoned: int = 0
    leased: int = 0
    digests: dict[int, int] = Factory(dict)
    """The machine's digest at each index at which anyone looked."""
    sha: Hash | None = None
    """Where given, takes in every Outputs in full."""
    _end: int = 1
    _steps: deque[tuple[float, str, list[Event], Outputs | None]] = field(
        init=False, factory=lambda: deque(maxlen=TRANSCRIPT_STEPS)
    )

    @property
    def transcript(self) -> tuple[Step, ...]:
        """The last steps of all nodes."""
        return tuple(Step(at, node, tuple(events), out) for at, node, events, out in self._steps)

    def latest_configuration(
        self, node: ModelNode, end: int | None = None
    ) -> tuple[int, Configuration]:
        """Return the last configuration in the node's log below `end`, with its index."""
        return latest_configuration(node, self.configuration_places, self.configurations, end)

    def violated(self, rule: str, reason: str) -> NoReturn:
        """Stop the run: `rule` is broken."""
        raise Violation(rule, reason)
