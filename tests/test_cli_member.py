"""`raft member` and `raft join`: what they refuse, and what they ask for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from raft.cli import main, member
from raft.cli.running import Cluster
from raft.errors import ConfigurationAbandoned, Timeout

ADDRESSES = ("tcp:127.0.0.1:7004", "tcp:127.0.0.1:8004")
NEWCOMER = {"id": "d", "peer_address": ADDRESSES[0], "client_address": ADDRESSES[1]}
FILE = """
[node]
id = "d"
cluster = "demo"
data_directory = "d-data"
[listen]
peers = "tcp:7004:interface=127.0.0.1"
clients = "tcp:8004:interface=127.0.0.1"
"""
MEMBERS = """
[[members]]
id = "d"
peers = "tcp:127.0.0.1:7004"
clients = "tcp:127.0.0.1:8004"
"""


class Asked:
    """Stands in for a client: keeps what it is asked, and fails as it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.endpoints: tuple[str, ...] = ()
        self.allow_plaintext = False
        self.error: Exception | None = None
        self.answers: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, *arguments, *named.values()))
            if self.error is not None:
                raise self.error
            return self.answers.get(name)

        return call

    def run(self, cluster: Cluster, work: Any) -> int:
        self.endpoints = cluster.endpoints
        self.allow_plaintext = cluster.allow_plaintext
        try:
            work(self).send(None)
        except StopIteration as stopped:
            return int(stopped.value)
        raise AssertionError("it waits")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    made = Asked()
    monkeypatch.setattr(member, "run", made.run)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "d.toml"
    path.write_text(FILE)
    path.chmod(0o644)
    return path


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (("add", "d", *ADDRESSES), ("add", NEWCOMER, 60.0)),
        (("add-learner", "d", *ADDRESSES, "--wait", "5"), ("add_learner", NEWCOMER, 5.0)),
        (("promote", "d"), ("promote", "d", 60.0)),
        (("remove", "d"), ("remove", "d", 60.0)),
        (("replace", "a", "d", *ADDRESSES), ("replace", "a", NEWCOMER, 60.0)),
    ],
)
def test_each_subcommand_is_one_call(
    asked: Asked, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], call: Any
) -> None:
    assert main.run(("member", *arguments)) == 0
    assert asked.calls == [call]
    assert capsys.readouterr().out.startswith("d ")


def test_move_keeps_what_a_member_is(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    """A learner that moves stays one; who moves another configuration moves nothing."""
    asked.answers["leader"] = ("a", "tcp:127.0.0.1:8001")
    members = [{"id": "a", "voter": True}, {"id": "d", "voter": False}]
    asked.answers["status"] = {"members": members, "configuration_index": 7}
    assert main.run(("member", "move", "d", *ADDRESSES)) == 0
    assert asked.calls[-1] == ("set_configuration", [{**NEWCOMER, "voter": False}], 60.0, 7)
    assert capsys.readouterr().out.startswith("d is to be reached at")
    asked.calls.clear()
    assert main.run(("member", "move", "x", *ADDRESSES)) == 1
    assert "members are a, d" in capsys.readouterr().err
    assert "set_configuration" not in [call[0] for call in asked.calls]


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ((), ("add", NEWCOMER, 60.0)),
        (("--learner",), ("add_learner", NEWCOMER, 60.0)),
        (("--replace", "a"), ("replace", "a", NEWCOMER, 60.0)),
    ],
)
def test_join_takes_id_and_addresses_from_the_file(
    asked: Asked,
    file: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    call: Any,
) -> None:
    to = ("--to", "127.0.0.1:8001", "--to", "127.0.0.1:8002")
    assert main.run(("join", "--config", str(file), *to, *options)) == 0
    assert asked.calls == [call]
    assert asked.endpoints == ("127.0.0.1:8001", "127.0.0.1:8002")
    assert not asked.allow_plaintext
    role = "a learner" if "--learner" in options else "a voter"
    assert capsys.readouterr().out == f"d is {role} of the cluster.\n"


def test_join_waits_as_long_as_it_is_told_and_trusts_the_network_that_its_node_does(
    asked: Asked, file: Path
) -> None:
    allowed = FILE.replace(":interface=127.0.0.1", "") + "allow_plaintext = true\n"
    advertised = f'[advertise]\npeers = "{ADDRESSES[0]}"\nclients = "{ADDRESSES[1]}"\n'
    file.write_text(allowed + advertised)
    assert main.run(("join", "--config", str(file), "--to", "10.0.0.1:8001", "--wait", "5")) == 0
    assert asked.calls == [("add", NEWCOMER, 5.0)]
    assert asked.allow_plaintext


def test_the_list_is_the_leader_s(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    """It tells who leads, and whom the leader reaches; a follower may know neither."""
    asked.answers["leader"] = ("b", "tcp:127.0.0.1:8002")
    rows = [
        {
            "id": id,
            "role": role,
            "connected": id != "d",
            "peer_address": f"tcp:[::1]:{port}",
            "client_address": "",
        }
        for id, role, port in (("b", "voter", 1), ("c", "voter", 2), ("d", "learner", 3))
    ]
    asked.answers["status"] = {"members": rows, "configuration_index": 7, "joint": False}
    assert main.run(("member", "list")) == 0
    assert asked.calls == [("leader",), ("status", "tcp:127.0.0.1:8002")]
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert printed == [
        ["member", "role", "connected", "peers", "clients"],
        ["b", "voter,", "leads", "yes", "tcp:[::1]:1"],
        ["c", "voter", "yes", "tcp:[::1]:2"],
        ["d", "learner", "no", "tcp:[::1]:3"],
    ]


def test_join_refuses_a_file_that_founds_a_cluster(
    asked: Asked, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(FILE + MEMBERS)
    assert main.run(("join", "--config", str(file), "--to", "127.0.0.1:8001")) == 1
    assert "[[members]]" in capsys.readouterr().err
    assert main.run(("join", "-c", str(file), "--to", "x", "--learner", "--replace", "a")) == 2
    assert asked.calls == []


def test_what_went_wrong_is_one_line(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    asked.error = ConfigurationAbandoned("d", "it was not heard")
    assert main.run(("member", "promote", "d")) == 1
    assert "because of d: it was not heard" in capsys.readouterr().err
    asked.error = Timeout(True)
    assert main.run(("member", "promote", "d")) == 1
    assert "it may be under way" in capsys.readouterr().err
    asked.error = Timeout(False)
    assert main.run(("member", "promote", "d")) == 1
    assert "under way" not in capsys.readouterr().err
