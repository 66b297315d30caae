"""What clients asked and what they were told, written down as it happens.

A `Recorder` notes each operation when it begins and again when it ends, in memory and,
if asked, as one JSON object a line in a file. `raft.testing.linearizability` then judges
whether a single copy of the state could have given these answers.

Every operation ends in one of three ways, and which one is the client's whole truth:

- `returned(output)`: done, with this result;
- `refused()`: definitely not done. It must never show any effect;
- `unknown()`: perhaps done, perhaps later. So are those still open at `close`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from attrs import define, frozen

from raft.interfaces import Value


@frozen
class Operation:
    """One thing that one client did.

    Attributes:
        client: who; a client has one operation open at a time.
        op: what: "get", "put" (or "set"), "delete", "cas", "append", or as the model names it.
        key: of what; operations on different keys are independent.
        value: what is written, or None.
        expected: what a cas compares with, or None.
        output: the result, if it returned.
        ok: True: it returned; False: definitely not done; None: unknown.
        call_ns: when it began, in nanoseconds of one monotonic clock.
        return_ns: when it ended; None when `ok` is None.
    """

    client: str
    op: str
    key: str | int | bytes
    value: Value = None
    expected: Value = None
    output: Value = None
    ok: bool | None = None
    call_ns: int = 0
    return_ns: int | None = None

    def to_json(self) -> str:
        """Return one line of JSON; docs/reference/histories.md says what stands in it."""
        line = {
            "client": self.client,
            "op": self.op,
            "key": self.key,
            "value": self.value,
            "expected": self.expected,
            "output": self.output,
            "ok": self.ok,
            "call": self.call_ns,
            "return": self.return_ns,
        }
        return json.dumps(line, default=_bytes_to_json, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Operation:
        """Return the operation in a line of `to_json`; raise ValueError where there is none."""
        try:
            fields = json.loads(line, object_hook=_bytes_from_json)
            times = {"call_ns": fields.pop("call"), "return_ns": fields.pop("return")}
            return cls(**fields, **times)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no operation: {line.strip()[:200]}") from error

    def __str__(self) -> str:
        end = "?" if self.return_ns is None else f"{self.return_ns}"
        asked = [repr(each) for each in (self.expected, self.value) if each is not None]
        told = {True: f"-> {self.output!r}", False: "-> refused", None: "-> unknown"}[self.ok]
        return (
            f"[{self.call_ns} .. {end}] {self.client}:"
            f" {self.op}({', '.join([str(self.key), *asked])}) {told}"
        )


@define
class Open:
    """An operation that has begun; end it once, with one of its three methods."""

    _recorder: Recorder
    _operation: dict[str, Any]

    def returned(self, output: Value = None) -> None:
        """Note that it was done, with this result."""
        self._recorder.end(self, {**self._operation, "output": output, "ok": True})

    def refused(self) -> None:
        """Note that it was definitely not done."""
        self._recorder.end(self, {**self._operation, "ok": False})

    def unknown(self) -> None:
        """Note that it may have been done, or may still be."""
        self._recorder.end(self, {**self._operation, "ok": None})


class Recorder:
    """Writes a history down.

    Attributes:
        operations: those that have ended, in the order of their ends.
    """

    def __init__(
        self, file: IO[str] | None = None, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Record in memory, and into `file` (text, yours to close) as each operation ends."""
        self.operations: list[Operation] = []
        self._file = file
        self._clock_ns = clock_ns
        self._open: dict[int, Open] = {}

    def begin(
        self,
        client: str,
        op: str,
        key: str | int | bytes,
        value: Value = None,
        expected: Value = None,
    ) -> Open:
        """Note that an operation begins, right before it is sent."""
        operation = Open(
            self,
            {
                "client": client,
                "op": op,
                "key": key,
                "value": value,
                "expected": expected,
                "call_ns": self._clock_ns(),
            },
        )
        self._open[id(operation)] = operation
        return operation

    def end(self, operation: Open, facts: dict[str, Any]) -> None:
        """Note the end of an open operation; the methods of `Open` call this."""
        if self._open.pop(id(operation), None) is None:
            raise ValueError(f"{facts['client']}: {facts['op']} {facts['key']} has ended already")
        if facts["ok"] is not None:
            facts["return_ns"] = self._clock_ns()
        done = Operation(**facts)
        self.operations.append(done)
        if self._file is not None:
            self._file.write(done.to_json() + "\n")

    def close(self) -> list[Operation]:
        """Note that the outcome of all that is still open is unknown; return the history."""
        for operation in list(self._open.values()):
            operation.unknown()
        if self._file is not None:
            self._file.flush()
        return self.operations


def read(lines: Iterable[str]) -> Iterator[Operation]:
    """Yield the operations in the lines of a recorder's file; raise ValueError at a bad one."""
    for line in lines:
        if line.strip():
            yield Operation.from_json(line)


def _bytes_to_json(value: object) -> object:
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    raise TypeError(f"{type(value).__name__} is no plain value")


def _bytes_from_json(pairs: dict[str, Any]) -> object:
    return bytes.fromhex(pairs["$bytes"]) if pairs.keys() == {"$bytes"} else pairs
