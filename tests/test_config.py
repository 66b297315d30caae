"""node.toml: what is accepted, and for each mistake one line that says what to do."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import attrs
import pytest

from raft import addresses
from raft.config import (
    AdvertiseTable,
    LimitsTable,
    ListenTable,
    MemberTable,
    NodeConfig,
    NodeTable,
    TimingsTable,
    load_machine,
    make_machine,
    parse_config,
    read_config,
)
from raft.core.configuration import Configuration, Member
from raft.errors import BadConfiguration
from raft.node.settings import NodeSettings
from raft.settings import shown
from raft.storage.records import SessionLimits
from raft.tap import settings_of

GOOD = """
[node]
id = "n1"
cluster = "shop"
data_directory = "n1-data"
machine = "machines_for_tests:Good"

[listen]
peers = "tcp:7001:interface=127.0.0.1"
clients = "tcp:8001:interface=127.0.0.1"
http = "tcp:9001:interface=127.0.0.1"

[[members]]
id = "n1"
peers = "127.0.0.1:7001"
clients = "127.0.0.1:8001"

[[members]]
id = "n2"
peers = "tcp:127.0.0.1:7002"
clients = "tcp:127.0.0.1:8002"

[[members]]
id = "n3"
peers = "tcp:127.0.0.1:7003"
clients = "tcp:127.0.0.1:8003"
"""

MACHINES = '''
from zope.interface import implementer
from raft.interfaces import IOnDiskStateMachine, IStateMachine

@implementer(IStateMachine)
class Good:
    def apply(self, command, context): ...
    def query(self, query): ...
    def snapshot(self): ...
    def restore(self, chunks): ...

class Bare:
    """Implements nothing."""

@implementer(IOnDiskStateMachine)
class Durable(Good):
    def __init__(self, directory): self.directory = directory
    def open(self): ...
    def begin(self): ...
    def commit(self, last_applied, notes): ...
    def close(self): ...

@implementer(IStateMachine)
class Choosy(Good):
    def __init__(self, directory): ...

number = 7
'''


@pytest.fixture(autouse=True)
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "machines_for_tests.py").write_text(MACHINES)
    (tmp_path / "broken_for_tests.py").write_text('raise RuntimeError("one\\ntwo")\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    # Each test has its own directory, so the module must not stay from the last one.
    monkeypatch.delitem(sys.modules, "machines_for_tests", raising=False)


def good(replace: str = "", by: str = "", add: str = "") -> NodeConfig:
    if replace and replace not in GOOD:
        raise LookupError(f"{replace!r} does not stand in the example")
    return parse_config(GOOD.replace(replace, by) + add if replace else GOOD + add, "node.toml")


def refusal(replace: str = "", by: str = "", add: str = "") -> str:
    """Return the one line that refuses the example so changed."""
    with pytest.raises(BadConfiguration) as caught:
        good(replace, by, add)
    (line,) = caught.value.args
    assert line.startswith("node.toml: ")
    assert "\n" not in line
    return str(line)


def test_what_the_file_says_is_there_and_the_rest_has_defaults() -> None:
    config = good()
    assert config.node.id == "n1"
    assert config.node.data_directory == Path.cwd() / "n1-data"
    assert not config.node.forward
    assert config.timings.heartbeat == 0.06
    assert config.timings.election_timeout == 0.3
    assert config.timings.request_timeout == 3.0
    assert config.limits.command_bytes == 4 * 1024 * 1024
    assert config.limits.uncommitted_bytes == 64 * 1024 * 1024
    assert config.limits.segment_bytes == 16 * 1024 * 1024
    assert not config.listen.allow_plaintext
    assert config.warnings == ()


def test_a_short_address_and_the_endpoint_string_it_stands_for_are_one() -> None:
    assert good().members[0].peers == "tcp:127.0.0.1:7001"


def test_the_first_configuration_is_that_of_the_members() -> None:
    expected = Configuration(
        members=tuple(
            Member(
                id=f"n{n}",
                peer_address=f"tcp:127.0.0.1:700{n}",
                client_address=f"tcp:127.0.0.1:800{n}",
            )
            for n in (1, 2, 3)
        )
    )
    assert good().first_configuration == expected


def test_members_in_another_order_make_the_same_cluster() -> None:
    """M8: the cluster id is derived from the name and the *sorted* first members."""
    start, first, second, third = GOOD.split("[[members]]")
    start = start.replace('id = "n1"', 'id = "n2"')
    turned = f"{start}[[members]]{third}\n[[members]]{first}\n[[members]]{second}"
    other = parse_config(turned, "other.toml")
    assert other.node.id == "n2"
    assert other.cluster_id == good().cluster_id
    assert len(other.cluster_id or "") == 32


@pytest.mark.parametrize(
    ("replace", "by"),
    [
        ('"shop"', '"shop2"'),
        ("127.0.0.1:7003", "127.0.0.1:7004"),
        ('id = "n3"', 'id = "n4"'),
    ],
)
def test_another_name_or_other_members_make_another_cluster(replace: str, by: str) -> None:
    """M8: bootstrapping from different files gives different cluster ids (sc-K1)."""
    assert good(replace, by).cluster_id != good().cluster_id


def test_client_addresses_and_timings_leave_the_cluster_id_as_it_is() -> None:
    """M8: only the name, the ids and the peer addresses are the cluster's."""
    changed = good("127.0.0.1:8003", "127.0.0.1:8004", "[timings]\nheartbeat = 0.05\n")
    assert changed.cluster_id == good().cluster_id


def test_the_cluster_id_is_the_same_in_every_release() -> None:
    """M8: it is written on disks, so a change here would orphan them."""
    assert good().cluster_id == "40a7f78e04a0b868f873bf43e8734814"


def test_a_node_without_members_waits_for_a_leader() -> None:
    config = parse_config(GOOD.split("[[members]]")[0], "node.toml")
    assert config.cluster_id is None
    assert config.first_configuration == Configuration()
    assert config.advertise.peers == "tcp:127.0.0.1:7001"


def test_advertise_comes_from_the_members_before_the_listening_endpoint() -> None:
    config = good("tcp:7001:interface=127.0.0.1", "tcp:0:interface=127.0.0.1")
    assert config.advertise.peers == "tcp:127.0.0.1:7001"


def test_advertise_that_differs_from_the_members_is_a_warning() -> None:
    config = good(add='[advertise]\npeers = "127.0.0.1:7999"\n')
    assert config.advertise.peers == "tcp:127.0.0.1:7999"
    assert len(config.warnings) == 1
    assert "tcp:127.0.0.1:7999" in config.warnings[0]
    assert "tcp:127.0.0.1:7001" in config.warnings[0]


def test_an_even_number_of_voters_is_a_warning() -> None:
    """sc-K10."""
    config = parse_config(GOOD.rpartition("[[members]]")[0], "node.toml")
    assert len(config.members) == 2
    assert "odd" in config.warnings[0]


MISTAKES = {
    "missing table": ("[listen]", "[timings]", "", "the table [listen] is missing"),
    "missing key": ('cluster = "shop"', "", "", "node.cluster: missing; add cluster = "),
    "missing member key": (
        'peers = "tcp:127.0.0.1:7002"\n',
        "",
        "",
        "members[2].peers: missing; add peers",
    ),
    "unknown table": ("", "", "[timing]\n", "timing: there is no such key; did you mean timings?"),
    "unknown key": (
        "",
        "",
        "[timings]\nhartbeat = 0.1\n",
        "timings.hartbeat: there is no such key; did you mean heartbeat?",
    ),
    "unknown key, like none": (
        "",
        "",
        "[timings]\nzzz = 1\n",
        "known are heartbeat, election_timeout, request_timeout, clock_drift",
    ),
    "wrong type": (
        "",
        "",
        '[timings]\nelection_timeout = "300ms"\n',
        'election_timeout: expected a number of seconds from 0.002 to 600, got "300ms"; write it',
    ),
    "a number for a text": ('"n1-data"', "7", "", "node.data_directory: expected a text, got 7"),
    "a flag in quotes": ('"n1-data"', '"d"\nforward = "yes"', "", "node.forward: expected true"),
    "a flag for a number": ("", "", "[timings]\nheartbeat = true\n", "got true"),
    "a table for a value": ('"n1-data"', "{}", "", "node.data_directory: expected a text, got {}"),
    "a value for a table": ("", "", "timings = 7\n", "members[3].timings: there is no such key"),
    "one bracket too few": ('[[members]]\nid = "n1"', "[[members]]\nid = 1", "", "members[1].id"),
    "not a number": ("", "", "[timings]\nheartbeat = nan\n", "timings.heartbeat: expected"),
    "drift below 1": ("", "", "[timings]\nclock_drift = 0.9\n", "a factor from 1 to 10, got 0.9"),
    "drift as text": ("", "", "[timings]\nclock_drift = '1.1'\n", "1.1 is generous"),
    "infinite": ("", "", "[timings]\nrequest_timeout = inf\n", "got Infinity"),
    "negative": ("", "", "[timings]\nheartbeat = -0.1\n", "timings.heartbeat: expected"),
    "zero": ("", "", "[timings]\nheartbeat = 0\n", "timings.heartbeat: expected"),
    "huge": ("", "", "[timings]\nheartbeat = 1e300\n", "timings.heartbeat: expected"),
    "huge whole": ("", "", f"[limits]\ncommand_bytes = {10**30}\n", "limits.command_bytes"),
    "fraction": ("", "", "[limits]\ncommand_bytes = 1.5\n", "expected a whole number"),
    "huge factor": ("", "", "[limits]\nsnapshot_factor = 1001\n", "limits.snapshot_factor"),
    "factor in quotes": ("", "", "[limits]\nsnapshot_factor = '4'\n", "expected 0 (never)"),
    "slow rate": ("", "", "[limits]\nsnapshot_bytes_per_second = 9\n", "or at least 65536"),
    "negative whole": ("", "", "[limits]\nsnapshot_entries = -1\n", "limits.snapshot_entries"),
    "digits without end": ("", "", f"[limits]\ncommand_bytes = {'9' * 5000}\n", "node.toml: "),
    "election below two heartbeats": (
        "",
        "",
        "[timings]\nheartbeat = 0.2\nelection_timeout = 0.3\n",
        "timings.election_timeout: 0.3 s is less than 2 heartbeats of 0.2 s",
    ),
    "less uncommitted than one command": (
        "",
        "",
        "[limits]\nuncommitted_bytes = 1024\n",
        "limits.uncommitted_bytes: 1024 is less than one command of limits.command_bytes = 4194304",
    ),
    "id among no members": (
        'id = "n1"\ncluster',
        'id = "n11"\ncluster',
        "",
        "node.id: 'n11' is not among the members n1, n2, n3; did you mean n1?",
    ),
    "id twice": ('id = "n3"', 'id = "n2"', "", "members[3].id: 'n2' stands at members[2].id too"),
    "address twice": (
        "127.0.0.1:7003",
        "127.0.0.1:7002",
        "",
        "members[3].peers: 'tcp:127.0.0.1:7002' stands at members[2].peers too",
    ),
    "one address for peers and clients": (
        "127.0.0.1:8003",
        "127.0.0.1:7003",
        "",
        "members[3].clients: 'tcp:127.0.0.1:7003' stands at members[3].peers too",
    ),
    "listening twice on one port": (
        "tcp:8001:interface",
        "tcp:7001:interface",
        "",
        "listen.clients: the same as listen.peers",
    ),
    "an id that could forge log lines": ('"n3"', '"n3\\n"', "", "members[3].id: expected a name"),
    "plaintext to peers on all interfaces": (
        "tcp:7001:interface=127.0.0.1",
        "tcp:7001",
        "",
        "listen.peers: 'tcp:7001' would carry plaintext beyond this machine",
    ),
    "plaintext on one interface": (
        "tcp:9001:interface=127.0.0.1",
        "tcp:9001:interface=10.0.0.1",
        "",
        "listen.http: 'tcp:9001:interface=10.0.0.1' would carry plaintext",
    ),
    "plaintext to a peer elsewhere": (
        "tcp:127.0.0.1:7002",
        "tcp:10.0.0.2:7002",
        "",
        "members[2].peers: 'tcp:10.0.0.2:7002' would carry plaintext",
    ),
    "no such kind of endpoint": ("tcp:7001:", "tpc:7001:", "", "Unknown endpoint type: 'tpc'"),
    "unknown endpoint argument": ("tcp:7001:interface", "tcp:7001:interfaec", "", "listen.peers: "),
    "port out of range": ("tcp:7001:", "tcp:70010:", "", "'70010' is no port between 0 and 65535"),
    "no port": (
        "tcp:127.0.0.1:7002",
        "tcp:127.0.0.1",
        "",
        "members[2].peers: 'tcp:127.0.0.1' is no usable address",
    ),
    "no host": ("tcp:127.0.0.1:7002", "7002", "", "members[2].peers: '7002' is no usable address"),
    "syntax": ("[listen]", "[listen", "", "node.toml: line 8, column 8: "),
    "key twice": ('id = "n1"\ncluster', 'id = "n1"\nid = "n1"\ncluster', "", "line 4, column "),
    "no such built-in machine": ("machines_for_tests:Good", "eco", "", "did you mean echo?"),
    "no such module": (
        "machines_for_tests:Good",
        "no_such_module_at_all:Good",
        "",
        "node.machine: cannot import no_such_module_at_all (ModuleNotFoundError",
    ),
    "a module that fails": (
        "machines_for_tests:Good",
        "broken_for_tests:Good",
        "",
        "node.machine: cannot import broken_for_tests (RuntimeError: one two)",
    ),
    "no such class": (
        "machines_for_tests:Good",
        "machines_for_tests:God",
        "",
        "the module machines_for_tests has no God; did you mean Good?",
    ),
    "no state machine": (
        "machines_for_tests:Good",
        "machines_for_tests:Bare",
        "",
        "does not implement raft.interfaces.IStateMachine; write @implementer",
    ),
    "no class": (
        "machines_for_tests:Good",
        "machines_for_tests:number",
        "",
        "machines_for_tests:number does not implement",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_named_in_one_line_with_its_remedy(mistake: str) -> None:
    """sc-K11, sc-K12: sc-K4, sc-K9 and the rest: refused at start, with the key and the numbers."""
    replace, by, add, expected = MISTAKES[mistake]
    assert expected in refusal(replace, by, add)


def test_members_as_one_table_are_told_of_the_second_bracket() -> None:
    with pytest.raises(BadConfiguration, match=r"write \[\[members\]\] with two brackets"):
        parse_config(GOOD.split("[[members]]")[0] + '[members]\nid = "n1"\n', "node.toml")


def test_nesting_without_end_is_refused() -> None:
    assert "nested too deeply" in refusal(add="x = " + "[" * 20_000)


def test_nothing_to_advertise_is_an_error_where_listening_names_no_address() -> None:
    text = GOOD.split("[[members]]")[0].replace("tcp:7001:", "tcp:0:")
    with pytest.raises(BadConfiguration, match=r"advertise\.peers: missing, and listen"):
        parse_config(text, "node.toml")


def test_plaintext_beyond_this_machine_is_allowed_when_asked_for() -> None:
    config = good('[[members]]\nid = "n1"', 'allow_plaintext = true\n[[members]]\nid = "n1"')
    assert config.listen.allow_plaintext
    open_wide = GOOD.replace(":interface=127.0.0.1", "").replace("127.0.0.1", "10.0.0.1")
    text = open_wide.replace("[listen]", "[listen]\nallow_plaintext = true")
    assert parse_config(text, "node.toml").listen.peers == "tcp:7001"


@pytest.mark.parametrize("endpoint", ["unix:/run/peers.sock", "tcp:7001:interface=localhost"])
def test_what_stays_on_the_machine_needs_no_leave(endpoint: str) -> None:
    assert good("tcp:7001:interface=127.0.0.1", endpoint).listen.peers == endpoint


def test_a_short_form_of_an_endpoint_is_taken_for_the_whole() -> None:
    assert good("tcp:7001:interface=127.0.0.1", "127.0.0.1:7001") == good()


def test_a_relative_socket_is_refused_since_daemons_change_their_directory() -> None:
    assert "listen.peers: 'run/x' is relative" in refusal(
        "tcp:7001:interface=127.0.0.1", "unix:run/x"
    )


def test_a_relative_data_directory_starts_at_the_file(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(GOOD)
    path.chmod(0o644)
    assert read_config(path).node.data_directory == tmp_path / "n1-data"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"nowhere.toml: cannot be read: No such file"):
        read_config(tmp_path / "nowhere.toml")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="cannot be read: Is a directory"):
        read_config(tmp_path)


def test_a_file_that_anyone_may_write_is_refused(tmp_path: Path) -> None:
    """sc-K8."""
    path = tmp_path / "node.toml"
    path.write_text(GOOD)
    path.chmod(0o666)
    assert path.stat().st_mode & stat.S_IWOTH
    with pytest.raises(BadConfiguration, match="anyone may write to it; run: chmod o-w"):
        read_config(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"\xff\xfe", "byte 0 is not UTF-8"), (b"#" * (1 << 20) + b"#", "larger than 1048576 bytes")],
)
def test_a_file_that_is_no_text_or_too_large_is_refused(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BadConfiguration, match=expected):
        read_config(path)


@pytest.mark.parametrize("name", ["kv", "echo", "sqlite", "stack"])
def test_the_built_in_machines_are_there(name: str) -> None:
    assert callable(load_machine(name))


def test_a_durable_machine_gets_a_directory_of_its_own_and_nothing_is_made_yet(
    tmp_path: Path,
) -> None:
    path = tmp_path / "node.toml"
    config = parse_config(GOOD.replace(":Good", ":Durable"), path)
    machine = make_machine(config)
    assert machine.directory == str(config.node.data_directory / "machine")  # type: ignore[attr-defined]
    assert not config.node.data_directory.exists()
    assert make_machine(parse_config(GOOD, path))


def test_a_machine_that_cannot_be_made_is_told_of_in_one_line(tmp_path: Path) -> None:
    config = parse_config(GOOD.replace(":Good", ":Choosy"), tmp_path / "node.toml")
    with pytest.raises(BadConfiguration) as caught:
        make_machine(config)
    assert str(caught.value).startswith(
        f"{tmp_path}/node.toml: node.machine: machines_for_tests:Choosy cannot be made (TypeError: "
    )
    assert "a class that implements IOnDiskStateMachine gets its directory" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("db:7001", "tcp:db:7001"),
        ("DB.Example:7001", "tcp:db.example:7001"),
        ("tcp:db:07001", "tcp:db:7001"),
        ("tcp:host=db:port=7001", "tcp:db:7001"),
        ("[::1]:7001", r"tcp:\:\:1:7001"),
        (r"tcp:\:\:1:7001", r"tcp:\:\:1:7001"),
        ("unix:/run/raft.sock", "unix:/run/raft.sock"),
        ("unix:path=/run/raft.sock", "unix:/run/raft.sock"),
        (r"unix:/run/a\:b", r"unix:/run/a\:b"),
    ],
)
def test_an_address_has_one_form(given: str, expected: str) -> None:
    assert addresses.dialled(given) == expected
    assert addresses.dialled(expected) == expected


@pytest.mark.parametrize(
    "given",
    [
        *("", ":", "db", "db:", ":7001", "db:0", "db:65536", "db:-1", "db:x", "tcp:db", "unix:"),
        *("unix:x", "udp:db:1", "tcp:a b:1", "tcp:a\nb:1", "tcp:ä:1", "[::1]", "tcp:db:\u0663"),
    ],
)
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        addresses.dialled(given)


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("tcp:7001:interface=10.0.0.1", "tcp:10.0.0.1:7001"),
        ("tcp:7001", None),
        ("tcp:7001:interface=0.0.0.0", None),
        ("tcp:0:interface=10.0.0.1", None),
        ("unix:/run/raft.sock", "unix:/run/raft.sock"),
        ("systemd:domain=INET:index=0", None),
    ],
)
def test_the_address_to_dial_follows_from_a_concrete_endpoint(
    listen: str, expected: str | None
) -> None:
    assert addresses.derived(listen) == expected


def test_a_long_value_is_cut_in_the_error() -> None:
    assert len(shown("x" * 1000)) == 80


def test_reading_a_configuration_installs_no_reactor() -> None:
    """A process that parses a file has not chosen its reactor yet: twistd does that later."""
    code = "import sys, raft.config; sys.exit('twisted.internet.reactor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def documented() -> dict[str, dict[str, str]]:
    """Return what the reference says: for each table, the default of each key."""
    page = Path(__file__).parent.parent / "docs" / "reference" / "configuration.md"
    found: dict[str, dict[str, str]] = {}
    for section in page.read_text().split("\n## ")[1:]:
        table = section.partition("\n")[0].strip("[]")
        rows = re.findall(r"^\| `(\w+)` \| (.*?) ?\| .+ \|$", section, re.MULTILINE)
        found[table] = {key: default.strip("`") for key, default in rows}
    return found


def test_the_limits_of_sessions_are_those_of_any_node_unless_the_file_says_others() -> None:
    """S3: a leader writes them into the log only where they differ from what holds."""
    assert settings_of(good()).session_limits == NodeSettings("", "", "").session_limits
    told = "[limits]\nsessions = 7\nsession_timeout = 90.5\n"
    told += "session_results = 9\nsession_result_bytes = 0\n"
    found = settings_of(good(add=told)).session_limits
    assert found == SessionLimits(90_500_000, 7, 9, 0)


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("node", NodeTable),
        ("listen", ListenTable),
        ("advertise", AdvertiseTable),
        ("members", MemberTable),
        ("timings", TimingsTable),
        ("limits", LimitsTable),
    ],
)
def test_the_reference_has_every_key_with_its_default(
    table: str, kind: type[attrs.AttrsInstance]
) -> None:
    said = documented()[table]
    assert list(said) == list(attrs.fields_dict(kind))
    for name, attribute in attrs.fields_dict(kind).items():
        if attribute.default is attrs.NOTHING:
            assert said[name] == ""
        elif attribute.default:
            assert tomllib.loads(f"x = {said[name]}") == {"x": attribute.default}


def test_the_smallest_file_of_the_reference_is_one() -> None:
    page = Path(__file__).parent.parent / "docs" / "reference" / "configuration.md"
    (example,) = re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    assert parse_config(example, "node.toml").node.id == "node1"
