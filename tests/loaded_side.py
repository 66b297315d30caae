"""What a benchmark's load is put on: every operation stays open until the test answers it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred


class Side:
    """The loaded side.

    `open` has the place and the Deferred of each operation without an answer.
    """

    def __init__(self) -> None:
        self.open: list[tuple[int, Deferred[Any]]] = []
        self.most = 0
        self.commands: list[list[Any]] = []

    def issue(self, place: int, is_read: int, command: list[Any]) -> Deferred[Any]:
        issued: Deferred[Any] = Deferred()
        self.commands.append(command)
        self.open.append((place, issued))
        self.most = max(self.most, len(self.open))
        return issued

    def answer(self, result: object = None) -> None:
        self.open.pop(0)[1].callback(result)
