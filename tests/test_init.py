"""`raft init`, and how the `raft` command speaks when something is wrong."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from raft.cli import main as cli
from raft.cli.init import HEAD
from raft.config import read_config
from raft.errors import BadConfiguration, InvariantViolated, NotLeader

MACHINE = """
from zope.interface import implementer
from raft.interfaces import IStateMachine

@implementer(IStateMachine)
class Machine:
    def apply(self, command, context): ...
    def query(self, query): ...
    def snapshot(self): ...
    def restore(self, chunks): ...
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files name a machine that is surely there."""
    (tmp_path / "init_machines.py").write_text(MACHINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "init_machines", raising=False)


def init(directory: Path, *options: str) -> int:
    return cli.run(["init", str(directory), "--machine", "init_machines:Machine", *options])


def test_every_file_is_valid_and_all_found_the_same_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """M8: started at once, the nodes agree on the cluster's id and first configuration."""
    assert init(tmp_path / "demo") == 0
    paths = sorted((tmp_path / "demo").iterdir())
    assert [path.name for path in paths] == ["node1.toml", "node2.toml", "node3.toml"]
    configs = [read_config(path) for path in paths]
    assert len({config.cluster_id for config in configs}) == 1
    assert len({config.first_configuration for config in configs}) == 1
    assert [config.node.id for config in configs] == ["node1", "node2", "node3"]
    assert len({config.node.data_directory for config in configs}) == 3
    assert all(config.warnings == () for config in configs)
    out = capsys.readouterr().out
    for path in paths:
        assert f"twistd -n --pidfile= raft --config {path}\n" in out


def test_a_node_that_joins_founds_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has the ports that it would have had from the beginning, and no first members."""
    assert init(tmp_path / "demo") == 0
    assert init(tmp_path / "demo", "--join", "4") == 0
    assert "raft join --config" in capsys.readouterr().out
    assert len(list((tmp_path / "demo").iterdir())) == 4
    config = read_config(tmp_path / "demo" / "node4.toml")
    assert (config.node.id, config.members, config.cluster_id) == ("node4", (), None)
    assert config.advertise.peers == "tcp:127.0.0.1:7004"
    assert config.advertise.clients == "tcp:127.0.0.1:8004"
    assert config.warnings == ()
    own = ("--join", "5", "--host", "10.0.0.5", "--allow-plaintext")
    assert init(tmp_path / "own", *own) == 0
    text = (tmp_path / "own" / "node5.toml").read_text()
    assert 'peers = "tcp:7001"' in text
    assert "allow_plaintext = true" in text
    two = ("--join", "6", "--host", "10.0.0.5", "--host", "10.0.0.6", "--allow-plaintext")
    assert init(tmp_path / "two", *two) == 2
    assert "give --host once" in capsys.readouterr().err


def test_the_commented_defaults_are_the_defaults(tmp_path: Path) -> None:
    """Taking every "# " off a setting changes nothing."""
    init(tmp_path / "demo")
    path = tmp_path / "demo" / "node1.toml"
    before = read_config(path)
    text, count = re.subn(r"^# (?=\[advertise\]|\w+ = )", "", path.read_text(), flags=re.MULTILINE)
    assert count == 22
    path.write_text(text)
    assert read_config(path) == before


def test_every_line_that_sets_something_is_explained() -> None:
    for line, following in zip(
        HEAD.template.splitlines(), HEAD.template.splitlines()[1:], strict=False
    ):
        if line == "":
            assert following.startswith(("[", "# ", "${advertised}["))
        if line.startswith("[") and following:
            assert following.startswith("# ")


def test_nothing_is_overwritten_and_nothing_else_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "node3.toml").symlink_to("nowhere")
    assert init(tmp_path) == 1
    assert "node3.toml is there already; choose another directory" in capsys.readouterr().err
    assert not list(tmp_path.glob("node[12].toml"))


def test_others_may_not_write_the_files_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        init(tmp_path / "demo")
    finally:
        os.umask(before)
    mode = (tmp_path / "demo" / "node1.toml").stat().st_mode
    assert stat.S_IMODE(mode) == 0o644


def test_nodes_on_hosts_of_their_own_have_the_same_ports(tmp_path: Path) -> None:
    hosts = ["--host", "10.0.0.1", "--host", "10.0.0.2", "--host", "db.example"]
    assert init(tmp_path / "demo", *hosts, "--allow-plaintext", "--base-port", "4000") == 0
    config = read_config(tmp_path / "demo" / "node3.toml")
    assert config.listen.peers == "tcp:4001"
    assert config.listen.allow_plaintext
    assert config.listen.http == "tcp:6001:interface=127.0.0.1"
    assert [member.peers for member in config.members] == [
        "tcp:10.0.0.1:4001",
        "tcp:10.0.0.2:4001",
        "tcp:db.example:4001",
    ]


def test_an_ipv6_loopback_needs_no_leave(tmp_path: Path) -> None:
    assert init(tmp_path / "demo", "--host", "::1") == 0
    config = read_config(tmp_path / "demo" / "node1.toml")
    assert config.listen.peers == r"tcp:7001:interface=\:\:1"
    assert config.advertise.peers == r"tcp:\:\:1:7001"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "10.0.0.1"], "give --allow-plaintext on a network that you trust"),
        (["--host", "::1", "--host", "127.0.0.1"], "--host is given 2 times for 3 nodes"),
        (["--base-port", "63999"], "--base-port 63999 would need port 66002"),
        (["--nodes", "0"], "0 is not in the range"),
        (["--nodes", "many"], "'many' is not a valid integer range"),
        (["--bogus"], "--bogus"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert init(tmp_path / "demo", *options) == 2
    err = capsys.readouterr().err
    assert err.startswith("raft: ")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--machine", "no_such_module_at_all:Machine"], "node.machine: cannot import no_such"),
        (["--cluster", "a b"], "node.cluster: expected a name"),
        (["--host", "a b", "--allow-plaintext"], "is not a host name or an IP address"),
    ],
)
def test_what_no_node_would_accept_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert init(tmp_path / "demo", *options) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err
    assert not (tmp_path / "demo").exists()


def test_a_directory_that_cannot_be_made_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert init(tmp_path / "file" / "demo") == 1
    assert capsys.readouterr().err.startswith("raft: ")


def test_an_unknown_subcommand_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bogus"]) == 2
    assert "No such command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (BadConfiguration("node.toml: no"), 1, "raft: node.toml: no\n"),
        (NotLeader("n2", "tcp:db:8001"), 1, "raft: This node does not lead; ask the leader."),
        (OSError(2, "No such file", "x"), 1, "raft: [Errno 2] No such file: 'x'\n"),
        (click.ClickException("of two\nlines"), 1, "raft: of two lines\n"),
    ],
)
def test_whatever_a_subcommand_raises_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    @click.command()
    def fails() -> None:
        raise error

    monkeypatch.setattr("raft.cli.init.init", fails)
    assert cli.run(["init"]) == code
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert err.count("\n") == 1


def test_an_interrupted_subcommand_ends_as_shells_expect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("raft.cli.init.init", interrupted)
    assert cli.run(["init"]) == 130
    assert capsys.readouterr().err == "\nraft: interrupted\n"


def test_a_table_entry_that_is_no_command_is_our_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "init", ("raft.cli.init:HEAD", ""))  # type: ignore[arg-type]
    with pytest.raises(InvariantViolated, match="is no command"):
        cli.LazyGroup().get_command(click.Context(click.Command("raft")), "init")


def test_the_list_of_subcommands_imports_none_of_them() -> None:
    """Twisted alone would take longer than all the rest of `raft --help`."""
    code = (
        "import sys; from raft.cli.main import COMMANDS, run; run(['--help']); "
        "slow = {'twisted', *(where.partition(':')[0] for where, _ in COMMANDS.values())}; "
        "sys.exit(', '.join(slow & set(sys.modules)) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for name, (_, line) in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", ran.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_subcommand_is_where_the_table_says(name: str) -> None:
    module = cli.COMMANDS[name][0].partition(":")[0]
    if find_spec(module) is None:
        pytest.skip(f"{module} is not part of this version")
    command = cli.LazyGroup().get_command(click.Context(click.Command("raft")), name)
    assert command is not None
    assert command.get_short_help_str()
