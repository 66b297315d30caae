"""A replicated SQLite database: commands are statements, run by every server on its own file.

Commands and their results:

- `["execute", sql]` and `["execute", sql, parameters]` run one statement; `{"changes": the rows
  that it and its triggers changed, "rows": what it returned}`.
- `["many", [[sql, parameters], ...]]` runs statements as one transaction; a list of the same.

Queries: `["query", sql]` and `["query", sql, parameters]`; `{"columns": [...], "rows": [...]}`.

Parameters are a list, or a dict for names. What a statement may do is told in
`raft.machines.sqlite_rules`. A command that is refused changes nothing: `CommandError` with
`bad-command` for what is no command, `sql` with SQLite's own error, `too-large` for more than
10,000 rows or 1 MiB returned; queries also with `too-long`.

The database is durable by itself: a batch of commands, how far the log is applied, and what
sessions remember are one transaction. It lives in a directory of its own, as
`database-<generation>.sqlite` in WAL mode; a restored snapshot is the next generation. Other
processes may read the newest one. All servers should run the same version of SQLite: what is
refused, and with which text, is part of the replicated results.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, cast

from zope.interface import implementer

from raft.errors import CommandError, StateMachineFailed
from raft.interfaces import Context, IOnDiskStateMachine, Value
from raft.machines.sqlite_backup import Backup
from raft.machines.sqlite_rules import (
    FORBIDDEN_WORDS,
    LENGTH_LIMIT_BYTES,
    Scalar,
    add_date_functions,
    add_log_functions,
    may_command,
    may_query,
    refuse_other_functions,
)

ROWS_LIMIT: Final = 10_000
"""The most rows that a statement returns."""

ROWS_BYTES: Final = 1024 * 1024
"""The most bytes that they have."""

QUERY_STEPS: Final = 1_000_000
"""How many steps of SQLite's machine a query may take: some tens of milliseconds."""

_STEPS_BETWEEN = 10_000

_READ_NOTES = "SELECT key, value FROM _raft_notes"
_STORE_NOTE = "INSERT OR REPLACE INTO _raft_notes VALUES (?, ?)"
_REMOVE_NOTE = "DELETE FROM _raft_notes WHERE key = ?"
_MAKE_NOTES = (
    "CREATE TABLE IF NOT EXISTS _raft_notes (key BLOB PRIMARY KEY, value BLOB NOT NULL)"
    " WITHOUT ROWID"
)

# Errors that say something about this computer, its disk or its memory, by primary code.
_LOCAL_CODES = frozenset(
    (
        *(sqlite3.SQLITE_INTERNAL, sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY),
        *(sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY),
        *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL),
        *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOTADB),
    )
)

Parameters = list[Scalar] | dict[str, Scalar]
Row = tuple[Scalar, ...]


@implementer(IOnDiskStateMachine)
class SQLiteDatabase:
    """The machine; the module says what it understands."""

    machine_name = "sqlite"
    machine_version = 1

    def __init__(self, directory: str | Path, query_steps: int = QUERY_STEPS) -> None:
        """Name the directory, which is made when it is opened and belongs to this machine."""
        self._directory = Path(directory)
        self._query_steps = query_steps
        self._generation = 0
        self._database: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._calculator: sqlite3.Connection | None = None
        self._restored: Path | None = None
        self._context: Context | None = None
        # Statements of our own are not asked about, and carry a mark that no one else can
        # write: a prepared statement of ours is never found under a client's text.
        self._mark = f" -- {secrets.token_hex(16)}"
        self._is_own = False
        self._steps = 0

    # The file.

    @property
    def path(self) -> Path:
        """The database's file."""
        return self._path(self._generation)

    def _path(self, generation: int) -> Path:
        return self._directory / f"database-{generation:010}.sqlite"

    def open(self) -> Iterable[tuple[bytes, bytes]]:
        """Open the newest generation, or make the first; return the notes in it."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        generations = sorted(self._directory.glob("database-*.sqlite"))
        self._generation = int(generations[-1].stem.partition("-")[2]) if generations else 1
        # What was being written or read when the process ended, and generations before.
        for leftover in self._directory.iterdir():
            if not leftover.name.startswith(self.path.name):
                leftover.unlink()
        self._connect()
        found = self._own(_READ_NOTES).fetchall()
        return cast("list[tuple[bytes, bytes]]", found)

    def _connect(self) -> None:
        database = self._database = _connection(self.path)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA foreign_keys = ON")
        database.execute(_MAKE_NOTES)
        refuse_other_functions(database)
        self._calculator = add_date_functions(database)
        add_log_functions(database, self._told)
        database.set_authorizer(self._authorize)
        reader = self._reader = _connection(self.path)
        reader.execute("PRAGMA query_only = ON")
        reader.execute("PRAGMA trusted_schema = OFF")
        reader.set_authorizer(
            lambda action, first, second, *_: (
                sqlite3.SQLITE_OK if may_query(action, first, second) else sqlite3.SQLITE_DENY
            )
        )
        reader.set_progress_handler(self._is_too_long, _STEPS_BETWEEN)

    def _told(self) -> Context:
        if self._context is None:
            raise StateMachineFailed("a statement asked for the log's context outside a command")
        return self._context

    def _authorize(self, action: int, first: str | None, second: str | None, *_: object) -> int:
        if self._is_own or may_command(action, first, second):
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    def _own(self, sql: str, parameters: Iterable[Scalar] = ()) -> sqlite3.Cursor:
        self._is_own = True
        try:
            return _open(self._database).execute(sql + self._mark, tuple(parameters))
        except sqlite3.Error as error:
            # Nothing that a client sent can make a statement of our own fail.
            raise StateMachineFailed(f"SQLite says {type(error).__name__}: {error}") from error
        finally:
            self._is_own = False

    def close(self) -> None:
        """Close the database; what is not committed is taken back."""
        for connection in (self._reader, self._database, self._calculator):
            if connection is not None:
                connection.close()
        self._database = self._reader = self._calculator = None

    # Batches.

    def begin(self) -> None:
        """Begin a transaction."""
        self._own("BEGIN IMMEDIATE")

    def commit(self, last_applied: int, notes: Mapping[bytes, bytes | None]) -> None:
        """Store `notes` and end the transaction; after a restore, move to the new file."""
        if self._restored is not None:
            self._move_to(self._restored, notes)
            return
        self._store(notes)
        self._own("COMMIT")

    def _store(self, notes: Mapping[bytes, bytes | None]) -> None:
        for key, value in notes.items():
            if value is None:
                self._own(_REMOVE_NOTE, (key,))
            else:
                self._own(_STORE_NOTE, (key, value))

    def apply(self, command: Value, context: Context) -> Value:
        """Run a command's statements; see the module."""
        match command:
            case ["execute", str(sql), *rest] if len(rest) < 2:
                statements = [(sql, _parameters(rest))]
            case ["many", list(items)]:
                statements = [_statement(item) for item in items]
            case _:
                raise CommandError("bad-command", 'expected ["execute", sql, parameters] or many')
        self._context = context
        self._own("SAVEPOINT command")
        try:
            results: list[Value] = [self._execute(sql, given) for sql, given in statements]
        except StateMachineFailed:
            # SQLite has taken back the whole batch where the disk is full, for example.
            raise
        except BaseException:
            self._own("ROLLBACK TO command")
            self._own("RELEASE command")
            raise
        finally:
            self._context = None
        self._own("RELEASE command")
        return results[0] if command[0] == "execute" else results

    def _execute(self, sql: str, parameters: Parameters) -> Value:
        if FORBIDDEN_WORDS.search(sql):
            raise CommandError("sql", "a statement must not hold the words ROLLBACK and DEFERRED")
        database = _open(self._database)
        before = database.total_changes
        rows, _ = _run(database, sql, parameters)
        return {"changes": database.total_changes - before, "rows": rows}

    # Queries.

    def query(self, query: Value) -> Value:
        """Answer a query from what is committed; see the module."""
        match query:
            case ["query", str(sql), *rest] if len(rest) < 2:
                self._steps = self._query_steps
                rows, columns = _run(_open(self._reader), sql, _parameters(rest))
                return {"columns": columns, "rows": rows}
        raise CommandError("bad-command", 'expected ["query", sql, parameters]')

    def _is_too_long(self) -> bool:
        self._steps -= _STEPS_BETWEEN
        return self._steps < 0

    # Snapshots.

    def snapshot(self) -> Iterator[bytes]:
        """Return the committed database of this moment, copied by SQLite beside all else."""
        name = f"backup-{secrets.token_hex(8)}.tmp"
        return Backup(_connection(self.path, any_thread=True), self._directory / name)

    def restore(self, chunks: Iterator[bytes]) -> None:
        """Take a snapshot's database; it takes the place of this one when it is committed."""
        path = self._path(self._generation + 1).with_suffix(".tmp")
        with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
            file.writelines(chunks)
        # Other bytes than a database's are found out here, while the old one is still there.
        connection = _connection(path)
        try:
            connection.execute("DELETE FROM _raft_notes")
        finally:
            connection.close()
        self._restored = path

    def _move_to(self, restored: Path, notes: Mapping[bytes, bytes | None]) -> None:
        connection = _connection(restored)
        with connection:
            connection.execute("BEGIN")
            connection.executemany(
                _STORE_NOTE,
                [(key, value) for key, value in notes.items() if value is not None],
            )
        # Closing writes the log of the new file into it, so that it is whole by itself.
        connection.close()
        _sync(restored)
        self._restored = None
        self.close()
        old = self.path
        self._generation += 1
        restored.rename(self.path)
        _sync(self._directory)
        self._connect()
        for leftover in self._directory.glob(f"{old.name}*"):
            leftover.unlink()


def _open(connection: sqlite3.Connection | None) -> sqlite3.Connection:
    if connection is None:
        raise StateMachineFailed("the database is not open")
    return connection


def _connection(path: Path, any_thread: bool = False) -> sqlite3.Connection:
    # SQLite would make the file with the modes that the umask leaves.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(
        path, timeout=1.0, isolation_level=None, check_same_thread=not any_thread
    )
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LENGTH_LIMIT_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    return connection


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _statement(item: Value) -> tuple[str, Parameters]:
    match item:
        case [str(sql), *rest] if len(rest) < 2:
            return sql, _parameters(rest)
    raise CommandError("bad-command", "each of many must be [sql, parameters]")


def _parameters(rest: list[Value]) -> Parameters:
    given = rest[0] if rest else []
    if isinstance(given, (list, dict)):
        values = given.values() if isinstance(given, dict) else given
        if all(each is None or isinstance(each, (int, float, str, bytes)) for each in values):
            return cast("Parameters", given)
    raise CommandError("bad-command", "parameters must be a list or dict of plain scalars")


def _run(
    connection: sqlite3.Connection, sql: str, parameters: Parameters
) -> tuple[list[Value], list[Value]]:
    """Return the rows and names of columns of one statement; raise `CommandError`."""
    try:
        cursor = connection.execute(sql, parameters)
        try:
            columns: list[Value] = [column[0] for column in cursor.description or ()]
            return _rows(cursor), columns
        finally:
            cursor.close()
    except sqlite3.Error as error:
        raise _refusal(error) from error
    except (sqlite3.Warning, ValueError, TypeError, OverflowError) as error:
        raise CommandError("bad-command", "not one statement, or not its parameters") from error


def _rows(cursor: Iterable[Row]) -> list[Value]:
    rows: list[Value] = []
    size = 0
    for row in cursor:
        rows.append(cast("Value", list(row)))
        size += sum(len(each) if isinstance(each, (str, bytes)) else 9 for each in row)
        if len(rows) > ROWS_LIMIT or size > ROWS_BYTES:
            raise CommandError("too-large", f"more than {ROWS_LIMIT} rows or {ROWS_BYTES} bytes")
    return rows


def _refusal(error: sqlite3.Error) -> Exception:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return CommandError("bad-command", "not one statement, or not its parameters")
    if code & 0xFF in _LOCAL_CODES:
        return StateMachineFailed(f"SQLite says {error.sqlite_errorname}: {error}")
    if code & 0xFF == sqlite3.SQLITE_INTERRUPT:
        return CommandError("too-long", "the query takes too many steps; add an index or a limit")
    return CommandError("sql", f"{error.sqlite_errorname}: {error}")
