"""Reading TOML tables into frozen attrs values, with errors that help.

A field of such a class names, in its metadata, the reader that turns the TOML value into
the field's: `field(metadata=read_by(as_text))`. A reader raises a ValueError whose text says
what was expected, what was found and what to write; the key is put before it here.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import attrs

from raft import addresses

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Value = TypeVar("Value")
Table = TypeVar("Table", bound=attrs.AttrsInstance)
Reader = Callable[[object], object]


def read_by(read: Reader) -> dict[str, Reader]:
    """Return the metadata of a field that `read` reads."""
    return {"read": read}


def as_text(value: object) -> str:
    """Read a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected a text, got {shown(value)}; put it in quotes")
    return value


def as_name(value: object) -> str:
    """Read a name that is safe in file names, logs and host names."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(
            f"expected a name, got {shown(value)}; use at most 64 letters, digits, '.', '_', '-'"
        )
    return value


def as_flag(value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {shown(value)}; write it without quotes")
    return value


def as_seconds(low: float, high: float) -> Reader:
    """Return the reader of a duration from `low` to `high`, in seconds."""

    def read(value: object) -> float:
        # NaN compares false with everything, so it is refused here too.
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            return float(value)
        raise ValueError(
            f"expected a number of seconds from {low:g} to {high:g}, got {shown(value)}; "
            "write it without a unit, such as 0.3"
        )

    return read


def as_whole(low: int, high: int) -> Reader:
    """Return the reader of a whole number from `low` to `high`, both included."""

    def read(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise ValueError(
            f"expected a whole number from {low} to {high}, got {shown(value)}; "
            "write it without quotes or a unit, such as 4_194_304"
        )

    return read


def as_listening(value: object) -> str:
    """Read an endpoint string to listen on."""
    return _endpoint(addresses.listening, value)


def as_dialled(value: object) -> str:
    """Read an address that others dial, in its one form."""
    return _endpoint(addresses.dialled, value)


def _endpoint(check: Callable[[str], str], value: object) -> str:
    text = as_text(value)
    try:
        return check(text)
    except ValueError as error:
        raise ValueError(f"{error}; got {shown(value)}") from error


def read_section(
    kind: type[Table], toml: Mapping[str, object], name: str, default: object = None
) -> Table:
    """Read the table `name` of the file into an instance of `kind`."""
    value = toml.get(name, default)
    if value is None:
        raise ValueError(f"the table [{name}] is missing")
    return read_table(kind, value, name)


def read_table(kind: type[Table], value: object, where: str) -> Table:
    """Read the table `value`, which stands at `where`, into an instance of `kind`."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a table, got {shown(value)}; write [{where}]")
    fields = attrs.fields_dict(kind)
    refuse_unknown(value, tuple(fields), where)
    arguments: dict[str, object] = {}
    for name, attribute in fields.items():
        key = f"{where}.{name}"
        if name in value:
            arguments[name] = keyed(key, attribute.metadata["read"], value[name])
        elif attribute.default is attrs.NOTHING:
            raise ValueError(f"{key}: missing; add {name} = ... to [{where}]")
    return kind(**arguments)


def keyed(key: str, read: Callable[[Value], object], value: Value) -> object:
    """Let `read` read `value`; name the key where it cannot."""
    try:
        return read(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def refuse_unknown(table: Mapping[str, object], allowed: Iterable[str], where: str) -> None:
    """Refuse a key that is not among `allowed`, and name the nearest that is."""
    for key in table:
        if key not in allowed:
            name = f"{where}.{key}" if where else key
            near = nearest(key, allowed) or f"; known are {', '.join(allowed)}"
            raise ValueError(f"{name}: there is no such key{near}")


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a question after the one of `names` that was perhaps meant, or nothing."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def shown(value: object) -> str:
    """Return `value` on one line, much as it stands in the file, and not too long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
