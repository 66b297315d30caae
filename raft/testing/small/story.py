"""How a run of a small world reads: what happened to whom, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import asdict, frozen

from raft.testing.small.situations import Act, Letter, View, shown_log


@frozen
class Taken:
    """One step of a run: what happened to which server, and how the disk and the network were."""

    server: int
    code: int
    quick: bool
    again: bool
    """Whether the message may arrive once more."""


def happening(act: Act, *, again: bool) -> str:
    """Say what happens."""
    if act.letter is not None:
        text = f"from {act.letter.sender}: {shown(act.letter)}"
    else:
        text = {"time": "its time is up", "saved": "a save is done"}.get(act.kind, act.kind)
        if act.kind in ("propose", "read", "change", "crash"):
            text += f" {act.number}"
    return f"{text} (and may arrive again)" if again else text


def came_of_it(view: View, sent: list[Letter]) -> Iterator[str]:
    """Say what a server is after a step, and what left it."""
    waiting = ", a save waits" if view.waiting_writes else ""
    yield (
        f"     is {view.role.value} in term {view.term}, log {shown_log(view.log)}, "
        f"{view.commit_index} committed, {len(view.disk.log)} durable{waiting}"
    )
    for letter in sent:
        yield f"     to {letter.receiver}: {shown(letter)}"


def shown(letter: Letter) -> str:
    """Show a message with what it carries."""
    message = letter.message
    told = ", ".join(
        f"{name}={value}"
        for name, value in asdict(message, recurse=False).items()
        if name not in ("promise_seconds", "entries", "configuration")
    )
    log = f" {shown_log(letter.entries)}" if letter.entries else ""
    return f"{type(message).__name__}({told}){log}"
