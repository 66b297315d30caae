"""What a replicated SQL statement may do: nothing that could differ between servers.

Every server runs each statement by itself, and all must come to the same rows. SQLite asks an
*authorizer* about each thing that a statement wants while it is prepared. Allowed is what is
listed here: functions whose result follows from their arguments, tables, indexes, views and
triggers of the one database. Time and chance come from the log, through functions of our own.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from typing import Final

from raft.interfaces import Context

Scalar = None | int | float | str | bytes

LENGTH_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""The longest value and row; part of the contract, for a statement beyond it is refused."""

FORBIDDEN_WORDS: Final = re.compile(r"\b(rollback|deferred)\b", re.IGNORECASE)
"""Words that no statement may hold, not even in a literal: pass such texts as parameters.

OR ROLLBACK would take back the commands before this one, and a deferred constraint would
fail at a moment when it is too late to tell whose command broke it.
"""

FUNCTIONS: Final = frozenset(
    """abs char coalesce concat concat_ws format glob hex ifnull iif instr length like likelihood
    likely lower ltrim max min nullif octet_length printf quote replace round rtrim sign soundex
    substr substring trim typeof unhex unicode unlikely upper zeroblob ceil ceiling floor mod trunc
    avg count group_concat string_agg sum total cume_dist dense_rank first_value lag last_value
    lead nth_value ntile percent_rank rank row_number json json_array json_array_length
    json_each json_extract json_group_array json_group_object json_insert json_object json_patch
    json_quote json_remove json_replace json_set json_tree json_type json_valid -> ->>""".split()
)
"""Functions whose result follows from their arguments."""

DATE_FUNCTIONS: Final = frozenset("date time datetime julianday strftime unixepoch".split())
"""Functions that are such only where the time is given: others stand in for them."""

_RENAMING = frozenset(
    """sqlite_rename_table sqlite_rename_column sqlite_rename_test sqlite_rename_quotefix
    sqlite_drop_column sqlite_fail""".split()
)
"""What SQLite itself calls for ALTER TABLE; nobody else can."""

LOG_FUNCTIONS: Final = frozenset("raft_time raft_index raft_random raft_uuid".split())

_COMMAND_FUNCTIONS = FUNCTIONS | DATE_FUNCTIONS | LOG_FUNCTIONS | _RENAMING

_INSPECTING_PRAGMAS = frozenset(
    """foreign_key_list index_info index_list index_xinfo table_info table_list
    table_xinfo""".split()
)

_WRITING = frozenset(
    (
        sqlite3.SQLITE_CREATE_INDEX,
        sqlite3.SQLITE_CREATE_TABLE,
        sqlite3.SQLITE_CREATE_TRIGGER,
        sqlite3.SQLITE_CREATE_VIEW,
        sqlite3.SQLITE_DELETE,
        sqlite3.SQLITE_DROP_INDEX,
        sqlite3.SQLITE_DROP_TABLE,
        sqlite3.SQLITE_DROP_TRIGGER,
        sqlite3.SQLITE_DROP_VIEW,
        sqlite3.SQLITE_INSERT,
        sqlite3.SQLITE_UPDATE,
        sqlite3.SQLITE_ALTER_TABLE,
        sqlite3.SQLITE_REINDEX,
    )
)
_READING = frozenset((sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE))

Authorizer = Callable[[int, str | None, str | None, str | None, str | None], int]


def may_command(action: int, first: str | None, second: str | None) -> bool:
    """Tell whether a command may do `action`, whose arguments are the authorizer's."""
    if action == sqlite3.SQLITE_FUNCTION:
        return (second or "").lower() in _COMMAND_FUNCTIONS
    return (action in _READING or action in _WRITING) and not _is_ours(first, second)


def may_query(action: int, first: str | None, second: str | None) -> bool:
    """Tell whether a query may do `action`."""
    if action == sqlite3.SQLITE_FUNCTION:
        name = (second or "").lower()
        return name in FUNCTIONS or name in DATE_FUNCTIONS
    if action == sqlite3.SQLITE_PRAGMA:
        return (first or "").lower() in _INSPECTING_PRAGMAS
    return action in _READING and not _is_ours(first, second)


def _is_ours(*names: str | None) -> bool:
    # The table of the replica's notes, which no statement may see.
    return any(name is not None and name.lower().startswith("_raft_") for name in names)


def refuse_other_functions(connection: sqlite3.Connection) -> None:
    """Put one that only fails in the place of each function that is not allowed.

    The authorizer is not asked about the default of a column when a row is inserted, so
    that CURRENT_TIMESTAMP there would be each server's own.
    """

    def refuse(*_: Scalar) -> Scalar:
        raise ValueError("its result is not the same on every server")

    found = connection.execute("SELECT name, narg FROM pragma_function_list WHERE type = 's'")
    for name, count in found.fetchall():
        if name.lower() not in _COMMAND_FUNCTIONS:
            connection.create_function(name, count, refuse)


def add_date_functions(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Put functions that take a time in the place of those that know the present one.

    Returns the connection that calculates for them, to be closed with `connection`.
    """
    calculator = sqlite3.connect(":memory:", isolation_level=None)

    def replaced(name: str) -> Callable[..., Scalar]:
        # The format comes first, then the time.
        time_at = 1 if name == "strftime" else 0

        def call(*arguments: Scalar) -> Scalar:
            if len(arguments) <= time_at:
                raise ValueError("the present time is not the same on every server")
            for argument in arguments[time_at:]:
                text = argument.decode() if isinstance(argument, bytes) else argument
                if isinstance(text, str) and _LOCAL_TIME.search(text):
                    raise ValueError("neither is a time zone")
            places = ",".join("?" * len(arguments))
            (answer,) = calculator.execute(f"SELECT {name}({places})", arguments).fetchone()
            result: Scalar = answer
            return result

        return call

    for name in DATE_FUNCTIONS:
        connection.create_function(name, -1, replaced(name), deterministic=True)
    return calculator


_LOCAL_TIME = re.compile(r"\b(now|localtime|utc)\b", re.IGNORECASE)


def add_log_functions(connection: sqlite3.Connection, context: Callable[[], Context]) -> None:
    """Add `raft_time()` in seconds, `raft_index()`, `raft_random()` and `raft_uuid()`."""

    def signed() -> int:
        return context().random.getrandbits(64) - (1 << 63)

    connection.create_function("raft_time", 0, lambda: context().time)
    connection.create_function("raft_index", 0, lambda: context().index)
    connection.create_function("raft_random", 0, signed)
    connection.create_function("raft_uuid", 0, lambda: str(context().uuid()))
