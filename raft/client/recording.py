"""What a client asked of the key-value store and was told, written down for `raft check`.

One operation a line, as docs/reference/histories.md has it. A line is one write to the file, so
that a process that dies leaves whole lines. A command stands there from before it is sent, with
its outcome unknown, and again with the same `id` once there is one: what was under way when
the process died is in the history too.
"""

from __future__ import annotations

import heapq
import json
import math
import os
import time
from collections.abc import Callable
from typing import IO, Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from raft.errors import NotApplied, Refused, Timeout
from raft.interfaces import Indexed

Answer = TypeVar("Answer")

Target = str | os.PathLike[str] | IO[str]
"""A path, whose file is appended to; or a text file, which stays its owner's."""

CURRENT = frozenset({"", "linearizable", "lease"})
"""The consistencies that promise what `raft check` judges; other reads are not recorded."""


class Recording:
    """Writes the history of one client.

    What it does not understand as a command or query of the key-value store is left out. The
    clients of one machine may write into one file, each with a recording of its own; clocks of
    several machines cannot be compared.
    """

    log = Logger()

    def __init__(
        self,
        target: Target,
        name: str = "",
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Open the file.

        Args:
            target: where to.
            name: of the client, in the history; a random one where it is empty.
            clock_ns: nanoseconds, of the same clock for all clients of a history.

        Raises:
            OSError: the file cannot be opened.
        """
        self._name = name or os.urandom(4).hex()
        self._clock_ns = clock_ns
        self._is_own = isinstance(target, str | os.PathLike)
        self._file: IO[str] | None = (
            # Line by line, each in one write; "a" lets several processes share the file.
            open(target, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
            if isinstance(target, str | os.PathLike)
            else target
        )
        self._count = 0
        # A client of a history does one thing at a time; this one is several where it has to be.
        self._free: list[int] = []
        self._lanes = 0

    def command(self, command: object, answer: Deferred[Answer]) -> Deferred[Answer]:
        """Record a command that is about to be sent, and its outcome; return `answer`."""
        match command:
            case ["set", key, value]:
                return self._begin("put", key, answer, value=value)
            case ["append", key, value]:
                return self._begin("append", key, answer, value=value)
            case ["cas", key, expected, value]:
                return self._begin("cas", key, answer, expected=expected, value=value)
            case ["delete", key]:
                return self._begin("delete", key, answer)
        return answer

    def query(
        self, query: object, answer: Deferred[Answer], consistency: str = ""
    ) -> Deferred[Answer]:
        """Record a query that is about to be sent, and its answer; return `answer`."""
        match query:
            case ["get", key] if consistency in CURRENT:
                return self._begin("get", key, answer)
        return answer

    def close(self) -> None:
        """Close the file, if it was opened here; what ends later is not recorded."""
        file, self._file = self._file, None
        if file is not None and self._is_own:
            file.close()

    def _begin(
        self, op: str, key: object, answer: Deferred[Answer], **values: object
    ) -> Deferred[Answer]:
        if not isinstance(key, str | bytes) or self._file is None:
            return answer
        lane = heapq.heappop(self._free) if self._free else self._lanes
        self._lanes = max(self._lanes, lane + 1)
        self._count += 1
        line = {
            "client": f"{self._name}/{lane}",
            "op": op,
            "key": key,
            **values,
            "call": self._clock_ns(),
            "return": None,
        }
        if op != "get":
            line["id"] = self._count
            self._write(line)

        def ended(result: Any) -> Any:
            heapq.heappush(self._free, lane)
            ok, output = _outcome(result)
            if ok is not None:
                line["return"] = self._clock_ns()
            if ok is not None or op == "get":
                self._write({**line, "ok": ok, "output": output})
            return result

        return answer.addBoth(ended)

    def _write(self, line: dict[str, object]) -> None:
        if self._file is None:
            return
        try:
            text = json.dumps({name: _json(each) for name, each in line.items()})
            self._file.write(text + "\n")
            self._file.flush()
        except (OSError, ValueError):
            self.log.failure(
                "The history of {client} ends here, and must not be judged: what this client "
                "does from now on is missing in it",
                client=self._name,
            )
            self._file = None


def _outcome(result: object) -> tuple[bool | None, object]:
    """Return (ok, output): see `raft.errors` for what is definite."""
    if isinstance(result, Failure):
        error = result.value
        definite = isinstance(error, NotApplied | Refused) or (
            isinstance(error, Timeout) and not error.appended
        )
        return (False if definite else None), None
    return True, result.value if isinstance(result, Indexed) else result


def _json(value: object) -> object:
    """Return a plain value in a form that JSON has; equal values have equal ones."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": bytes(value).hex()}
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and value.keys() != {"$bytes"}:
            return {key: _json(each) for key, each in value.items()}
        return {"$map": sorted(([_json(k), _json(v)] for k, v in value.items()), key=repr)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    return value
