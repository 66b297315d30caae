"""Histories in files: one operation a line, as JSON; docs/reference/histories.md says how.

What is wrong is told with its file, line and field, and what would be right. Lines are read in
chunks by a fast decoder that knows the shape of a line; only a chunk that it refuses, or that it
may have misread, is looked at line by line, to say what is wrong with it.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import IO, Any, Final

import msgspec
from attrs import frozen

from raft.testing.history import Operation

DEPTH: Final = 100
"""How deep lists and mappings may stand in each other."""

_CHUNK_BYTES = 1 << 20
_SHOWN = 60
_TAKEN = ("client", "op", "key", "call", "return")
_OPTIONAL = ("value", "expected", "output", "ok", "id")


class BadHistory(ValueError):
    """A file holds no history; the text names file, line and field, and what would be right."""


@frozen
class Needs:
    """What a line must say for one kind of operation.

    Attributes:
        fields: those that must be there, in addition to those of every operation.
        returned: those that must be there if it returned.
        output: of which kind the output is: "any", "bool" or "length"; null is always right.
    """

    fields: tuple[str, ...] = ()
    returned: tuple[str, ...] = ()
    output: str = "any"


_READ = Needs(returned=("output",))
_WRITE = Needs(fields=("value",))
_TOLD = Needs(output="bool")

NEEDS: Final[Mapping[str, Needs]] = {
    "get": _READ,
    "read": _READ,
    "put": _WRITE,
    "set": _WRITE,
    "write": _WRITE,
    "delete": _TOLD,
    "cas": Needs(fields=("expected", "value"), output="bool"),
    "append": Needs(fields=("value",), output="length"),
    "acquire": _TOLD,
    "release": _TOLD,
    "enqueue": _WRITE,
    "dequeue": _READ,
}
"""By the name of the operation."""


class _Line(msgspec.Struct, rename={"call_ns": "call", "return_ns": "return"}, gc=False):
    client: str | int
    op: str
    key: str
    call_ns: int
    return_ns: int | None
    value: Any = msgspec.UNSET
    expected: Any = msgspec.UNSET
    output: Any = msgspec.UNSET
    ok: bool | msgspec.UnsetType | None = msgspec.UNSET
    id: int | msgspec.UnsetType = msgspec.UNSET


_DECODER = msgspec.json.Decoder(_Line)


def read_history(file: IO[bytes], name: str, ops: Collection[str]) -> list[Operation]:
    """Return the operations in a file.

    Args:
        file: open for reading bytes.
        name: how complaints call it.
        ops: the operations that the model knows. Where "put" is none of them, all lines may be
            without a key.

    Raises:
        BadHistory: it holds none.
        OSError: it cannot be read.
    """
    reader = _Reader(name, ops)
    while lines := file.readlines(_CHUNK_BYTES):
        reader.add(lines)
    if not reader.operations:
        raise BadHistory(f"{name} holds no operation: give one a line, as JSON")
    reader.keep_last()
    reader.check_clients()
    return reader.operations


class _Reader:
    """Reads chunk after chunk."""

    def __init__(self, name: str, ops: Collection[str]) -> None:
        self.operations: list[Operation] = []
        self._name = name
        self._ops = frozenset(ops)
        self._needs_key = "put" in ops and "read" not in ops
        self._line = 0
        # The line of each operation: an operation itself has no room for it.
        self._lines = array("Q")
        # (position, client, id) of what may stand twice: at its beginning, and at its end.
        self._named: list[tuple[int, str, int]] = []

    def add(self, lines: Sequence[bytes]) -> None:
        """Read a chunk of whole lines."""
        found = self._fast(lines)
        if found is None:
            for line in lines:
                self._line += 1
                if line.strip():
                    self.operations.append(self._slow(line))
                    self._lines.append(self._line)
        else:
            self.operations += found
            self._lines.extend(range(self._line + 1, self._line + len(lines) + 1))
            self._line += len(lines)

    def _fast(self, lines: Sequence[bytes]) -> list[Operation] | None:
        """Return the operations of a chunk in which nothing can be wrong; else None."""
        chunk = b"".join(lines)
        try:
            read = _DECODER.decode_lines(chunk)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if len(read) != len(lines) or b"\\u00" in chunk or _may_repeat(chunk, read):
            return None
        found, named = list[Operation](), list[tuple[int, str, int]]()
        for line in read:
            operation = self._understood(line)
            if operation is None:
                return None
            if line.id is not msgspec.UNSET:
                named.append((len(self.operations) + len(found), operation.client, line.id))
            found.append(operation)
        self._named += named
        return found

    def _understood(self, line: _Line) -> Operation | None:
        """Return the operation of a line in which nothing can be wrong; else None."""
        ok, end, unset = line.ok, line.return_ns, msgspec.UNSET
        if end is None:
            ok = None
        elif ok is unset:
            ok = True
        needs = NEEDS.get(line.op) if line.op in self._ops else None
        if (
            needs is None
            or (line.value is unset and "value" in needs.fields)
            or (line.expected is unset and "expected" in needs.fields)
            or (ok and end is not None and line.call_ns > end)
            or (ok and not _is_output(line.output, needs))
        ):
            return None
        value = None if line.value is unset else line.value
        expected = None if line.expected is unset else line.expected
        output = None if line.output is unset or not ok else line.output
        if _is_nested(value) or _is_nested(expected) or _is_nested(output):
            try:
                value, expected, output = _plain(value), _plain(expected), _plain(output)
            except ValueError:
                return None
        client = line.client if type(line.client) is str else str(line.client)
        return Operation(
            client,
            line.op,
            line.key,
            value,
            expected,
            output,
            None if ok is None else bool(ok),
            line.call_ns,
            None if ok is None else end,
        )

    # -- Line by line ----------------------------------------------------------------------

    def _slow(self, line: bytes) -> Operation:
        """Return the operation of a line, or say what is wrong with it."""
        fields = self._object(line)
        for field in ("client", "op", "call", "return", *(["key"] if self._needs_key else [])):
            if field not in fields:
                raise self._bad(f"there is no {field!r}: {_RIGHT[field]}")
        client, op, key = fields["client"], fields["op"], fields.get("key", "")
        if type(client) is not str and type(client) is not int:
            raise self._wrong("client", client)
        if not isinstance(op, str) or op not in self._ops or op not in NEEDS:
            known = ", ".join(sorted(self._ops & NEEDS.keys()))
            raise self._bad(f"'op' is {_shown(op)}: this model knows {known}")
        key = self._value("key", key)
        if type(key) not in (str, int, bytes):
            raise self._wrong("key", key)
        call, end, ok = self._times(fields)
        self._check_fields(op, fields, ok)
        if "id" in fields:
            if type(fields["id"]) is not int:
                raise self._wrong("id", fields["id"])
            self._named.append((len(self.operations), str(client), fields["id"]))
        return Operation(
            str(client),
            op,
            key,
            self._value("value", fields.get("value")),
            self._value("expected", fields.get("expected")),
            self._value("output", fields.get("output")) if ok else None,
            ok,
            call,
            end,
        )

    def _object(self, line: bytes) -> dict[str, Any]:
        try:
            text = line.decode().rstrip()
        except UnicodeDecodeError as error:
            raise self._bad(
                f"byte {error.start + 1} is no UTF-8 ({error.reason}): write the file as UTF-8"
            ) from None
        if text.startswith("\ufeff"):
            raise self._bad("it begins with a byte order mark: write the file without one")
        try:
            fields = json.loads(
                text, object_pairs_hook=_Fields, parse_constant=_no_constant, parse_int=_whole
            )
        except RecursionError:
            raise self._bad(f"it is nested too deep: at most {DEPTH} levels are read") from None
        except json.JSONDecodeError as error:
            raise self._bad(
                f"column {error.colno} is no JSON ({error.msg}): write one whole object a line"
            ) from None
        except ValueError as error:
            raise self._bad(f"{error}") from None
        if not isinstance(fields, _Fields):
            raise self._bad(f"it is {_shown(fields)}: write one JSON object a line")
        if fields.twice is not None:
            raise self._bad(f"{fields.twice!r} stands twice: keep one of them")
        return fields

    def _times(self, fields: Mapping[str, Any]) -> tuple[int, int | None, bool | None]:
        call, end, ok = fields["call"], fields["return"], fields.get("ok", True)
        if type(call) is not int:
            raise self._wrong("call", call)
        if end is not None and type(end) is not int:
            raise self._wrong("return", end)
        if ok is not None and type(ok) is not bool:
            raise self._wrong("ok", ok)
        if end is None:
            return call, None, None
        if ok and end < call:
            raise self._bad(
                f"'return' is {end}, before 'call', which is {call}: "
                "both are nanoseconds of one clock, and nothing returns before it is called"
            )
        return call, end if ok is not None else None, ok

    def _check_fields(self, op: str, fields: Mapping[str, Any], ok: bool | None) -> None:
        needs = NEEDS[op]
        for field in needs.fields:
            if field not in fields:
                raise self._bad(f"there is no {field!r}: a {op} needs one (null is one)")
        if not ok:
            return
        for field in needs.returned:
            if field not in fields:
                raise self._bad(f"there is no {field!r}: a {op} that returned has one (or null)")
        output = fields.get("output")
        if not _is_output(output, needs):
            raise self._bad(
                f"'output' is {_shown(output)}: that of {op} is "
                + ("true, false or null" if needs.output == "bool" else "a length from 1, or null")
            )

    def _value(self, field: str, value: object) -> Any:
        try:
            return _plain(value)
        except ValueError as error:
            raise self._bad(f"{field!r}: {error}") from None

    def _wrong(self, field: str, value: object) -> BadHistory:
        return self._bad(f"{field!r} is {_shown(value)}: {_RIGHT[field]}")

    def _bad(self, text: str, line: int | None = None) -> BadHistory:
        return BadHistory(f"{self._name}, line {line or self._line}: {text}")

    # -- All together ----------------------------------------------------------------------

    def keep_last(self) -> None:
        """Drop what stands again further down, with the same client and id."""
        if not self._named:
            return
        last = {(client, id): position for position, client, id in self._named}
        dropped = {position for position, client, id in self._named if last[client, id] != position}
        kept = [each for each in range(len(self.operations)) if each not in dropped]
        self.operations = [self.operations[each] for each in kept]
        self._lines = array("Q", [self._lines[each] for each in kept])

    def check_clients(self) -> None:
        """Refuse a client that has two operations open at once.

        An unknown outcome ends nothing and holds up nothing: whoever gave up on one may go on.
        """
        ends: dict[str, int] = {}
        for each in self.operations:
            if each.return_ns is not None:
                if each.call_ns < ends.get(each.client, each.call_ns):
                    self._find_overlap()
                    return
                ends[each.client] = each.return_ns

    def _find_overlap(self) -> None:
        operations = self.operations
        order = sorted(
            (each.client, each.call_ns, each.return_ns, number)
            for number, each in enumerate(operations)
            if each.return_ns is not None
        )
        for before, after in zip(order, islice(order, 1, None), strict=False):
            if before[0] == after[0] and after[1] < before[2]:
                first, second = sorted((before, after), key=lambda each: each[3])
                raise self._bad(
                    f"'client' {second[0]!r} has two operations open at once, this one from "
                    f"{second[1]} to {second[2]} and that of line {self._lines[first[3]]} from "
                    f"{first[1]} to {first[2]}: give each concurrent caller a name of its own",
                    self._lines[second[3]],
                )


_RIGHT: Final = {
    "client": "write a text or a whole number, one for each concurrent caller",
    "op": "write the operation, such as put",
    "key": "write a text, or a whole number",
    "call": "write when it began, in whole nanoseconds",
    "return": "write when it ended, in whole nanoseconds, or null where the outcome is unknown",
    "id": "write a whole number",
    "ok": "write true (it returned), false (definitely not done) or null (unknown)",
}


class _Fields(dict[str, Any]):
    """A JSON object, with a name that stands in it twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.twice = (
            next(name for name in names if names.count(name) > 1)
            if len(self) < len(names)
            else None
        )


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON: write a number, or null")


def _whole(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        raise ValueError(f"a number has {len(digits)} digits: write it as a text") from None


def _may_repeat(chunk: bytes, read: Sequence[_Line]) -> bool:
    """Say whether some name may stand twice in an object, which the decoder does not mind."""
    if any(chunk.count(b'"%s"' % name.encode()) != len(read) for name in _TAKEN):
        return True
    unset = msgspec.UNSET
    return any(
        chunk.count(b'"%s"' % name.encode())
        != len(read) - sum(getattr(each, name) is unset for each in read)
        for name in _OPTIONAL
    )


def _is_output(output: object, needs: Needs) -> bool:
    if output is msgspec.UNSET:
        return not needs.returned
    if output is None or needs.output == "any":
        return True
    if needs.output == "bool":
        return type(output) is bool
    return type(output) is int and output >= 1


def _is_nested(value: object) -> bool:
    return type(value) is dict or type(value) is list


def _plain(value: object, depth: int = 0) -> Any:
    """Return a value of a file as it was recorded, with its bytes; ValueError if there is none."""
    if isinstance(value, dict):
        _check_depth(depth)
        if value.keys() == {"$bytes"}:
            return _bytes(value["$bytes"])
        return {_text(name): _plain(each, depth + 1) for name, each in value.items()}
    if isinstance(value, list):
        _check_depth(depth)
        return [_plain(each, depth + 1) for each in value]
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large: write it as a text")
    return _text(value) if isinstance(value, str) else value


def _check_depth(depth: int) -> None:
    if depth >= DEPTH:
        raise ValueError(f"it is nested too deep: at most {DEPTH} levels are read")


def _bytes(digits: object) -> bytes:
    if isinstance(digits, str):
        try:
            return bytes.fromhex(digits)
        except ValueError:
            pass
    raise ValueError(f"$bytes is {_shown(digits)}: write hexadecimal digits, two for each byte")


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair is no text: write both halves") from None
    return value


def _shown(value: object) -> str:
    """Return a value as JSON, cut off where it is long."""
    if isinstance(value, bytes):
        value = {"$bytes": value[:_SHOWN].hex()}
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
