"""Values as they are printed: JSON has neither bytes nor keys that are no text."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any


def to_json(value: Any, indent: int | None = None) -> str:
    """Write a plain value as JSON; bytes as text where they are UTF-8, else in base64."""
    return json.dumps(_shaped(value), ensure_ascii=False, indent=indent)


def _shaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {_key(key): _shaped(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_shaped(each) for each in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode("ascii")}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _key(key: Any) -> str:
    if isinstance(key, bytes):
        return key.decode("utf-8", "backslashreplace")
    return key if isinstance(key, str) else json.dumps(_shaped(key), ensure_ascii=False)


def moment(seconds: int) -> str:
    """Return a wall clock's seconds since 1970 as people read them; a clock may say anything."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} seconds after 1970"
