"""The replicated SQLite database: equal on every server, durable with what sessions remember."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from zope.interface.verify import verifyObject

from raft.codec import PLAIN
from raft.errors import CommandError, RaftError, StateMachineFailed, from_wire
from raft.interfaces import IOnDiskStateMachine, Value
from raft.machines import sqlite as sqlite_machine
from raft.machines.sqlite import ROWS_LIMIT, SQLiteDatabase
from raft.machines.sqlite_backup import Backup
from raft.replica import Replica
from raft.storage.records import (
    Kind,
    encode,
    encode_commands,
    encode_registration,
    session_id,
    session_payloads,
)

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, x UNIQUE)"
NONCE = b"a client"
TIME_US = 1_700_000_000_000_000


class Node:
    """A replica over a database's directory, and the log so far."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log: list[bytes] = []
        self.start()

    def start(self) -> None:
        self.machine = SQLiteDatabase(self.directory)
        self.replica = Replica(self.machine)
        self.replica.open()

    def restart(self) -> None:
        self.replica.close()
        self.start()

    def command(self, *commands: Value) -> list[Value]:
        start = self.replica.last_applied + 1
        payloads = [PLAIN.encode(command) for command in commands]
        return self.apply(encode_commands(start, 1, TIME_US, payloads), len(payloads))

    def send(self, session: bytes, sequence: int, command: Value) -> Value:
        (payload,) = session_payloads(session, sequence, 0, [PLAIN.encode(command)])
        record = encode(self.replica.last_applied + 1, 1, TIME_US, Kind.SESSION_COMMAND, payload)
        return self.apply(record, 1)[0]

    def register(self) -> bytes:
        index = self.replica.last_applied + 1
        self.apply(encode(index, 1, TIME_US, Kind.REGISTER, encode_registration(NONCE)), 1)
        return session_id(index, NONCE)

    def apply(self, records: bytes, count: int) -> list[Value]:
        start = self.replica.last_applied + 1
        applied = self.replica.apply(records, 0, start, start + count, float("inf"))
        self.log.append(records)
        return [outcome(*each) for each in applied.results]

    def execute(self, sql: str, *parameters: Value) -> Value:
        return self.command(["execute", sql, list(parameters)])[0]

    def query(self, sql: str, *parameters: Value) -> Value:
        return outcome(*self.replica.query(PLAIN.encode(["query", sql, list(parameters)])))

    def rows(self, sql: str = "SELECT * FROM t ORDER BY id") -> Value:
        return self.query(sql)["rows"]  # type: ignore[index,call-overload]


def outcome(code: str, content: bytes) -> Value:
    """Return the result, or the error as an exception."""
    value = msgspec.msgpack.decode(content)
    return from_wire(code, value) if code else value  # type: ignore[return-value]


def reason(error: Value) -> str:
    assert isinstance(error, CommandError), error
    return error.reason


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "db")
    yield node
    node.replica.close()


def test_it_is_an_on_disk_state_machine(tmp_path: Path) -> None:
    verifyObject(IOnDiskStateMachine, SQLiteDatabase(tmp_path))


def test_statements_change_and_queries_answer(node: Node) -> None:
    assert node.execute(TABLE) == {"changes": 0, "rows": []}
    assert node.execute("INSERT INTO t (x) VALUES (?), (?)", "a", b"\0") == {
        "changes": 2,
        "rows": [],
    }
    assert node.execute("UPDATE t SET x = 1.5 WHERE id = 1 RETURNING id, x") == {
        "changes": 1,
        "rows": [[1, 1.5]],
    }
    assert node.query("SELECT id, x FROM t WHERE id = ?", 2) == {
        "columns": ["id", "x"],
        "rows": [[2, b"\0"]],
    }
    named = node.command(["execute", "DELETE FROM t WHERE id = :id", {"id": 1}])
    assert named == [{"changes": 1, "rows": []}]


def test_many_is_one_transaction(node: Node) -> None:
    node.execute(TABLE)
    insert = "INSERT INTO t (x) VALUES (?)"
    done, refused = node.command(
        ["many", [[insert, [1]], [insert, [2]]]], ["many", [[insert, [3]], [insert, [1]]]]
    )
    assert done == [{"changes": 1, "rows": []}] * 2
    assert reason(refused) == "sql"
    assert node.rows() == [[1, 1], [2, 2]]


def test_a_refused_command_changes_nothing_and_those_beside_it_stand(node: Node) -> None:
    node.execute(TABLE)
    insert = "INSERT INTO t (x) VALUES (?)"
    fail = "INSERT OR FAIL INTO t (x) VALUES (9), (1), (10)"
    results = node.command(
        ["execute", insert, [1]], ["execute", fail], ["execute", insert, [2]], ["nonsense"]
    )
    assert [isinstance(each, RaftError) for each in results] == [False, True, False, True]
    assert "UNIQUE constraint failed" in str(results[1])
    assert node.rows() == [[1, 1], [2, 2]]
    node.restart()
    assert node.rows() == [[1, 1], [2, 2]]


@pytest.mark.parametrize(
    "sql",
    [
        *("SELECT random()", "SELECT RANDOM()", "SELECT hex(randomblob(3))"),
        *("SELECT datetime('now')", "SELECT date()", "SELECT strftime('%s', 'Now')"),
        *("SELECT strftime('%s')", "SELECT julianday('2020-01-01', 'localtime')"),
        *("SELECT CURRENT_TIMESTAMP", "SELECT unixepoch('2020-01-01', 'utc')"),
        *("SELECT changes()", "SELECT total_changes()", "SELECT last_insert_rowid()"),
        *("SELECT sqlite_version()", "SELECT load_extension('x')", "SELECT sin(1)"),
        *("ATTACH ':memory:' AS other", "DETACH main", "PRAGMA user_version = 3"),
        *("PRAGMA writable_schema = ON", "PRAGMA foreign_keys", "ANALYZE", "VACUUM"),
        *("BEGIN", "COMMIT", "SAVEPOINT command", "RELEASE command", "ROLLBACK"),
        *("CREATE TEMP TABLE u (a)", "CREATE TEMP VIEW v AS SELECT 1"),
        *("CREATE VIRTUAL TABLE v USING fts5(a)", "CREATE TABLE _raft_more (a)"),
        *("SELECT * FROM _raft_notes", "DELETE FROM _RAFT_NOTES", "DROP TABLE _raft_notes"),
        *("INSERT OR ROLLBACK INTO t (id) VALUES (1)", "INSERT INTO now_by_itself (a) VALUES (1)"),
        "CREATE TABLE u (a REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)",
        "INSERT INTO random_by_itself (a) VALUES (1)",
        "UPDATE sqlite_master SET sql = ''",
        "SELECT zeroblob(17000000)",
    ],
)
def test_nothing_that_could_differ_between_servers_is_run(node: Node, sql: str) -> None:
    """A command's effects must be the same everywhere; some of these hide in a default."""
    node.execute(TABLE)
    node.execute("CREATE TABLE now_by_itself (a, b DEFAULT CURRENT_TIMESTAMP)")
    node.execute("CREATE TABLE random_by_itself (a, b DEFAULT (random()))")
    before = node.rows("SELECT * FROM sqlite_schema")
    assert reason(node.execute(sql)) == "sql"
    assert node.rows("SELECT * FROM sqlite_schema") == before
    assert node.rows("SELECT count(*) FROM random_by_itself, now_by_itself") == [[0]]
    assert node.execute("INSERT INTO t (x) VALUES ('rollback'), (?)", "ok") != node.execute(
        "INSERT INTO t (x) VALUES (?)", "rollback"
    )


def test_time_and_chance_come_from_the_log(tmp_path: Path) -> None:
    def answers(name: str) -> list[Value]:
        node = Node(tmp_path / name)
        found = [
            node.execute("SELECT raft_time(), raft_index(), datetime(raft_time(), 'unixepoch')"),
            node.execute("SELECT raft_random(), raft_random(), raft_uuid()"),
        ]
        node.replica.close()
        return found

    one, two = answers("one"), answers("two")
    assert one == two
    assert one[0]["rows"] == [[1.7e9, 1, "2023-11-14 22:13:20"]]  # type: ignore[index,call-overload]
    first, second, _ = one[1]["rows"][0]  # type: ignore[index,call-overload]
    assert first != second


def test_the_schema_may_use_what_comes_from_the_log(node: Node) -> None:
    node.execute("CREATE TABLE t (a, at DEFAULT (date(raft_time(), 'unixepoch')))")
    node.execute("CREATE TABLE seen (a, b)")
    seen = "INSERT INTO seen VALUES (new.a, raft_index())"
    node.execute(f"CREATE TRIGGER g AFTER INSERT ON t BEGIN {seen}; END")
    node.execute("INSERT INTO t (a) VALUES (1)")
    assert node.rows("SELECT * FROM t, seen") == [[1, "2023-11-14", 1, 4]]


def test_dates_are_calculated_where_they_are_given(node: Node) -> None:
    assert node.execute(
        "SELECT date('2024-02-28', '+1 day'), strftime('%Y', 0, 'unixepoch'), date(NULL)"
    ) == {"changes": 0, "rows": [["2024-02-29", "1970", None]]}


def test_tables_can_be_altered(node: Node) -> None:
    node.execute(TABLE)
    for sql in (
        *("ALTER TABLE t ADD COLUMN y", "ALTER TABLE t RENAME COLUMN y TO z"),
        *("ALTER TABLE t DROP COLUMN z", "ALTER TABLE t RENAME TO u", "CREATE INDEX i ON u (x)"),
        *("CREATE VIEW v AS SELECT x FROM u", "DROP VIEW v", "REINDEX", "DROP TABLE u"),
        *("CREATE TABLE c (a)", "CREATE TRIGGER g AFTER INSERT ON c BEGIN SELECT 1; END"),
    ):
        assert node.execute(sql) == {"changes": 0, "rows": []}, sql


@pytest.mark.parametrize(
    "command",
    [
        *(None, [], ["execute"], ["execute", 1], ["execute", "SELECT ?", [[1]]]),
        *(
            ["execute", "SELECT 1", 1],
            ["execute", "SELECT ?", []],
            ["execute", "SELECT 1; SELECT 2"],
        ),
        *(["execute", "SELECT ?", [2**64 - 1]], ["many", [1]], ["many", [["SELECT 1", [], 2]]]),
        *(["execute", "SELECT CAST(x'ff' AS TEXT)"], ["execute", "SELECT 1", [], []]),
    ],
    ids=repr,
)
def test_what_is_no_command_is_refused(node: Node, command: Value) -> None:
    assert reason(node.command(command)[0]) == "bad-command"
    assert node.execute("SELECT 1") == {"changes": 0, "rows": [[1]]}


COUNT = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c)"


def test_answers_are_bounded(node: Node) -> None:
    enough = f"{COUNT} SELECT n FROM c LIMIT {ROWS_LIMIT}"
    assert len(node.rows(enough)) == ROWS_LIMIT  # type: ignore[arg-type]
    for ask in (node.query, node.execute):
        assert reason(ask(f"{COUNT} SELECT n FROM c LIMIT {ROWS_LIMIT + 1}")) == "too-large"
        assert reason(ask("SELECT zeroblob(1100000)")) == "too-large"


def test_a_query_reads_only_and_not_for_ever(node: Node) -> None:
    node.execute(TABLE)
    for sql in (
        *("DELETE FROM t", "DROP TABLE t", "PRAGMA user_version = 1", "ATTACH 'x' AS y", "BEGIN"),
        *("SELECT * FROM _raft_notes", "SELECT load_extension('x')", "PRAGMA query_only = OFF"),
    ):
        assert reason(node.query(sql)) == "sql"
    assert reason(node.query(f"{COUNT} SELECT count(*) FROM c")) == "too-long"
    # Each query has all of its steps.
    for _ in range(3):
        assert node.rows(f"{COUNT} SELECT count(*) FROM (SELECT n FROM c LIMIT 20000)") == [[20000]]
    assert node.rows("PRAGMA table_info(t)")


def test_a_restart_goes_on_where_the_last_batch_ended(node: Node) -> None:
    """S5: neither is a command run again, nor is a copy of it."""
    session = node.register()
    node.send(session, 1, ["execute", TABLE])
    first = node.send(session, 2, ["execute", "INSERT INTO t (x) VALUES (raft_uuid()) RETURNING x"])
    digest, applied = node.replica.digest, node.replica.last_applied
    node.restart()
    assert (node.replica.digest, node.replica.last_applied) == (digest, applied)
    assert node.send(session, 2, ["execute", "SELECT 'other'"]) == first
    assert node.rows("SELECT count(*) FROM t") == [[1]]
    assert node.replica.last_time_us == TIME_US


def test_a_session_that_a_snapshot_brings_again_is_stored_again(node: Node, tmp_path: Path) -> None:
    """S5: the notes of before go with the old file; a copy must not run after the next start."""
    other = Node(tmp_path / "other")
    for each in (node, other):
        session = each.register()
        each.send(session, 1, ["execute", TABLE])
        result = each.send(session, 2, ["execute", "INSERT INTO t (x) VALUES (1)"])
    other.send(session, 3, ["execute", "INSERT INTO t (x) VALUES (2)"])
    node.replica.restore(*other.replica.snapshot())
    other.replica.close()
    node.restart()
    assert node.send(session, 2, ["execute", "INSERT INTO t (x) VALUES (3)"]) == result
    assert node.rows("SELECT x FROM t") == [[1], [2]]


def test_a_restored_file_is_durable_before_it_has_its_name_and_the_old_one_goes(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N1: after a loss of power it is the old one or the new one, whole."""
    other = Node(tmp_path / "other")
    node.execute(TABLE)
    other.execute(TABLE)
    other.execute("INSERT INTO t (x) VALUES (7)")
    synced: list[tuple[str, list[str]]] = []

    def names() -> list[str]:
        return sorted(path.name for path in node.directory.glob("database-??????????.*"))

    monkeypatch.setattr(sqlite_machine, "_sync", lambda path: synced.append((path.name, names())))
    node.replica.restore(*other.replica.snapshot())
    other.replica.close()
    old, new = "database-0000000001.sqlite", "database-0000000002"
    (first, at_first), (second, at_second) = synced
    assert (first, second) == (f"{new}.tmp", node.directory.name)
    assert [name for name in at_first if "-wal" not in name and "-shm" not in name] == [
        old,
        f"{new}.tmp",
    ]
    assert {old, f"{new}.sqlite"} <= set(at_second)
    assert node.rows("SELECT x FROM t") == [[7]]


def test_a_batch_that_is_not_committed_is_lost_whole(node: Node) -> None:
    """S5."""
    session = node.register()
    node.execute(TABLE)
    node.machine._own = broken(node.machine._own, "COMMIT")  # type: ignore[method-assign]
    with pytest.raises(StateMachineFailed, match="OSError"):
        node.send(session, 1, ["execute", "INSERT INTO t (x) VALUES (1)"])
    with pytest.raises(StateMachineFailed):
        node.execute("SELECT 1")
    node.restart()
    assert node.rows() == []
    assert node.send(session, 1, ["execute", "INSERT INTO t (x) VALUES (1)"]) == {
        "changes": 1,
        "rows": [],
    }


def broken(call: Callable[..., sqlite3.Cursor], at: str) -> Callable[..., sqlite3.Cursor]:
    def own(sql: str, *rest: object) -> sqlite3.Cursor:
        if sql == at:
            raise OSError(5, "no disk")
        return call(sql, *rest)

    return own


def test_a_damaged_file_stops_this_node_alone(node: Node) -> None:
    """sc-SM2."""
    node.execute(TABLE)
    node.command(
        *(["execute", "INSERT INTO t (x) VALUES (?)", ["x" * 5000 + str(n)]] for n in range(50))
    )
    node.replica.close()
    path = node.machine.path
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(StateMachineFailed):
        start_and_insert(node)


def start_and_insert(node: Node) -> None:
    node.start()
    node.execute("INSERT INTO t (x) VALUES (1)")


def test_a_full_disk_stops_this_node_alone(node: Node) -> None:
    """sc-SM2: it says nothing about the command, which other servers have applied."""
    node.execute(TABLE)
    node.machine._own("PRAGMA max_page_count = 5")
    with pytest.raises(StateMachineFailed, match="SQLITE_FULL"):
        node.execute("INSERT INTO t (x) VALUES (zeroblob(100000))")
    node.restart()
    assert node.rows() == []


def test_files_are_private_and_leftovers_are_removed(tmp_path: Path) -> None:
    directory = tmp_path / "db"
    node = Node(directory)
    node.execute(TABLE)
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    node.replica.close()
    for name in ("backup-1.tmp", "database-0000000000.sqlite", "database-0000000002.tmp"):
        (directory / name).write_bytes(b"junk")
    node.start()
    assert {path.name.partition(".sqlite")[0] for path in directory.iterdir()} == {
        "database-0000000001"
    }
    node.replica.close()


# Snapshots.


def fill(node: Node, count: int = 300) -> None:
    node.execute(TABLE)
    for start in range(0, count, 100):
        node.command(
            *(
                ["execute", "INSERT INTO t (x) VALUES (?)", [f"{n:2000}"]]
                for n in range(start, start + 100)
            )
        )


def test_a_snapshot_is_of_one_moment_while_commands_go_on(node: Node, tmp_path: Path) -> None:
    """N2: and the restored database has nothing of what came later."""
    session = node.register()
    fill(node)
    before = node.rows("SELECT count(*), sum(length(x)) FROM t")
    meta, chunks = node.replica.snapshot()
    taken = [next(chunks)]
    node.execute("DELETE FROM t WHERE id > 10")
    node.execute("CREATE TABLE later (a)")
    node.send(session, 1, ["execute", "INSERT INTO later VALUES (1)"])
    taken += chunks
    assert not list(node.directory.glob("backup-*"))
    other = Node(tmp_path / "other")
    other.execute(TABLE)
    other.replica.restore(meta, taken)
    assert other.rows("SELECT count(*), sum(length(x)) FROM t") == before
    assert other.replica.last_applied == meta.index
    for _ in range(2):
        assert other.rows("SELECT name FROM sqlite_schema WHERE name = 'later'") == []
        other.restart()
    # The log behind the snapshot leads to the same state, sessions included.
    entries = b"".join(node.log[-3:])
    other.replica.apply(entries, deadline=float("inf"))
    assert other.replica.digest == node.replica.digest
    assert other.send(session, 1, ["execute", "DROP TABLE later"]) == {"changes": 1, "rows": []}
    assert other.rows("SELECT * FROM later") == [[1]]
    assert len(list(other.directory.glob("database-*.sqlite"))) == 1
    other.replica.close()


def test_a_snapshots_moment_is_that_of_the_call(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N2: however late the thread that copies gets its turn."""

    class LateThread:
        def __init__(
            self, target: Callable[..., None], args: tuple[object, ...], **_: object
        ) -> None:
            self.run = lambda: target(*args)

        def start(self) -> None:
            return None

        def join(self, seconds: float | None = None) -> None:
            if seconds is not None:
                self.run()

        def is_alive(self) -> bool:
            return False

    monkeypatch.setattr("raft.machines.sqlite_backup.Thread", LateThread)
    fill(node, 100)
    meta, chunks = node.replica.snapshot()
    node.execute("DELETE FROM t")
    other = Node(tmp_path / "other")
    other.replica.restore(meta, list(chunks))
    assert other.rows("SELECT count(*) FROM t") == [[100]]
    other.replica.close()


@pytest.mark.parametrize("pieces", [0, 1, 3])
def test_a_snapshot_that_is_given_up_leaves_no_file(node: Node, pieces: int) -> None:
    fill(node, 100)
    _, chunks = node.replica.snapshot()
    for _ in range(pieces):
        next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    del chunks
    assert not list(node.directory.glob("backup-*"))
    node.execute("DELETE FROM t")
    _, chunks = node.replica.snapshot()
    assert sum(map(len, chunks)) > 0


def test_a_backup_that_fails_says_so(tmp_path: Path) -> None:
    """sc-S13: the snapshot has failed, the node has not."""
    source = sqlite3.connect(tmp_path / "db", isolation_level=None, check_same_thread=False)
    source.execute("CREATE TABLE t (a)")
    backup = Backup(source, tmp_path / "missing" / "backup")
    with pytest.raises(OSError, match="unable to open"):
        list(backup)
    assert list(backup) == []


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_what_is_no_database_is_not_restored(node: Node, content: bytes) -> None:
    fill(node, 100)
    meta, chunks = node.replica.snapshot()
    head = next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    with pytest.raises(StateMachineFailed):
        node.replica.restore(meta, [head, content])
    node.restart()
    assert node.rows("SELECT count(*) FROM t") == [[100]]


# Ends at any moment.


class Recorder:
    """Copies the directory at every step that the machine takes by itself."""

    def __init__(self, node: Node, copies: Path) -> None:
        self.node = node
        self.copies = copies
        self.taken: list[Path] = []
        own = node.machine._own
        execute = node.machine._execute

        def copying_own(sql: str, parameters: tuple[object, ...] = ()) -> sqlite3.Cursor:
            self.copy()
            return own(sql, parameters)  # type: ignore[arg-type]

        def copying_execute(*arguments: object) -> Value:
            self.copy()
            return execute(*arguments)  # type: ignore[arg-type]

        node.machine._own = copying_own  # type: ignore[method-assign]
        node.machine._execute = copying_execute  # type: ignore[method-assign]

    def copy(self) -> None:
        self.taken.append(self.copies / str(len(self.taken)))
        shutil.copytree(self.node.directory, self.taken[-1])


def test_after_an_end_between_any_two_steps_the_log_is_applied_once(
    node: Node, tmp_path: Path
) -> None:
    """S5, sc-F26: what was not committed is applied again, and what was is not."""
    session = node.register()
    node.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
    begun = node.replica.last_applied
    recorder = Recorder(node, tmp_path / "copies")
    for number in range(4):
        insert = ["execute", "INSERT INTO t (x) VALUES (?)", [number]]
        payloads = session_payloads(
            session, 2 * number, max(0, 2 * number - 3), [PLAIN.encode(insert)] * 2
        )
        start = node.replica.last_applied + 1
        # Each batch holds its commands twice.
        records = encode_commands(start, 1, TIME_US, payloads * 2, Kind.SESSION_COMMAND)
        node.apply(records, 4)
    wanted, digest = node.rows(), node.replica.digest
    assert wanted == [[number + 1, number // 2] for number in range(8)]
    log = b"".join(node.log[-4:])
    reached = set()
    assert len(recorder.taken) > 40
    for copy in recorder.taken:
        other = Node(copy)
        reached.add(other.replica.last_applied)
        offset = 0
        for _ in range(other.replica.last_applied - begun):
            offset += 33 + int.from_bytes(log[offset + 4 : offset + 8], "little")
        other.replica.apply(log, offset, deadline=float("inf"))
        assert other.rows() == wanted
        assert other.replica.digest == digest
        other.replica.close()
    assert reached == {begun + 4 * number for number in range(4)}


KILLED = """
import os, sys
from pathlib import Path
from raft.machines import sqlite
steps, target, source, kept = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], 0
def stepping(call):
    def stepped(*arguments, **named):
        global kept
        kept += 1
        if kept == steps:
            os._exit(9)
        return call(*arguments, **named)
    return stepped
machine = sqlite.SQLiteDatabase(target)
machine.open()
for name in ("_sync", "_connection"):
    setattr(sqlite, name, stepping(getattr(sqlite, name)))
Path.rename, Path.unlink = stepping(Path.rename), stepping(Path.unlink)
machine.begin()
machine.restore(iter([Path(source).read_bytes()]))
machine.commit(9, {b"0": b"new"})
"""


def test_after_an_end_while_it_is_restored_it_is_the_old_one_or_the_new_one(
    tmp_path: Path,
) -> None:
    """S5, N6: never a mixture, and never nothing."""
    new = Node(tmp_path / "new")
    new.execute("CREATE TABLE new (a)")
    _, chunks = new.replica.snapshot()
    next(chunks)
    source = tmp_path / "source"
    source.write_bytes(b"".join(chunks))
    new.replica.close()
    found = []
    for steps in range(1, 20):
        target = tmp_path / str(steps)
        old = Node(target)
        old.execute("CREATE TABLE old (a)")
        old.replica.close()
        arguments = [sys.executable, "-c", KILLED, str(steps), str(target), str(source)]
        ended = subprocess.run(arguments, env=os.environ, check=False, timeout=60)
        machine = SQLiteDatabase(target)
        notes = dict(machine.open())
        is_new = notes == {b"0": b"new"}
        tables = machine.query(
            ["query", "SELECT name FROM sqlite_schema WHERE name != '_raft_notes'"]
        )
        assert tables["rows"] == [["new" if is_new else "old"]]  # type: ignore[index,call-overload]
        assert len(list(target.glob("database-*.sqlite"))) == 1
        machine.close()
        found.append(is_new)
        if ended.returncode == 0:
            break
        assert ended.returncode == 9
    assert found == sorted(found)
    assert found[0] is False
    assert found[-1] is True
    assert len(found) > 5


def test_servers_that_are_fed_in_other_slices_have_the_same_rows(tmp_path: Path) -> None:
    """I7: whatever restarts and snapshots come between."""
    dice = random.Random(5)
    one = Node(tmp_path / "one")
    one.execute(TABLE)
    for _ in range(60):
        number = dice.randrange(12)
        one.command(
            dice.choice(
                [
                    ["execute", "INSERT INTO t (x) VALUES (?)", [number]],
                    ["execute", "DELETE FROM t WHERE x = ?", [number]],
                    [
                        "execute",
                        "UPDATE OR IGNORE t SET x = raft_random() % 20 WHERE id < ?",
                        [number],
                    ],
                    [
                        "many",
                        [
                            ["INSERT INTO t VALUES (?, 99)", [number]],
                            ["DELETE FROM t WHERE id = 3"],
                        ],
                    ],
                    ["execute", "nonsense"],
                ]
            )
        )
    two = Node(tmp_path / "two")
    log = b"".join(one.log)
    while two.replica.last_applied < one.replica.last_applied:
        offset = 0
        for _ in range(two.replica.last_applied):
            offset += 33 + int.from_bytes(log[offset + 4 : offset + 8], "little")
        two.replica.apply(log, offset, deadline=-1.0)
        if dice.random() < 0.2:
            two.restart()
    assert two.rows() == one.rows()
    assert two.replica.digest == one.replica.digest
    one.replica.close()
    two.replica.close()
