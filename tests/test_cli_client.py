"""raft status and raft kv against scripted nodes.

Most tests parse the command line in this process and await its work in this reactor; the
last ones run the real command.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import utils
from zope.interface import implementer

from raft import errors
from raft.cli import kv, main, running, status
from raft.cli.running import DEFAULT_ENDPOINTS, ENDPOINTS_VARIABLE, Cluster, reason, with_client
from raft.cli.values import to_json
from raft.codec import PLAIN
from raft.interfaces import IClientService
from raft.machines.kv import KeyValueStore
from raft.transport.arguments import pack_results
from raft.transport.clients import ClientListener
from raft.transport.greeting import Identity

pytestmark = pytest.mark.integration


@implementer(IClientService)
class Node:
    """A node with a store of its own, and whatever status the test gives it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = ""
        self.store = KeyValueStore()
        self.said: dict[str, object] = {}
        self.error: errors.RaftError | None = None
        self.is_mute = False
        self.listener: Any = None

    async def start(self) -> None:
        from twisted.internet import reactor

        self.listener = ClientListener(reactor, Identity("c" * 32, self.name, "1"), self)
        port = await self.listener.listen("tcp:0:interface=127.0.0.1")
        self.address = f"tcp:127.0.0.1:{port.getHost().port}"

    def write_batch(self, items: list[bytes], timeout_seconds: float, answer: Any) -> None:
        self._batch(items, answer, lambda each: self.store.apply(each, None))  # type: ignore[arg-type]

    def read_batch(self, items: list[bytes], seconds: float, consistency: str, answer: Any) -> None:
        self._batch(items, answer, self.store.query)

    def _batch(self, items: list[bytes], answer: Any, act: Callable[[Any], Any]) -> None:
        if self.error:
            raise self.error
        if not self.is_mute:
            answer(pack_results([self._item(each, act) for each in items]))

    def _item(self, item: bytes, act: Callable[[Any], Any]) -> Any:
        try:
            return PLAIN.encode(act(PLAIN.decode(item)))
        except errors.CommandError as error:
            return error

    def status(self) -> object:
        return {"id": self.name, **self.said}

    def leader(self) -> object:
        return (self.name, self.address)

    def set_configuration(
        self,
        members: Any,
        timeout_seconds: float,
        replace: bool = False,
        expected_index: int | None = None,
        force: bool = False,
    ) -> object:
        return None

    def get_entry(self, index: int) -> object:
        return {}

    def transfer_leadership(self, target: str | None, timeout_seconds: float) -> object:
        return ""


@pytest_twisted.async_yield_fixture
async def node() -> AsyncIterator[Node]:
    made = Node("n1")
    await made.start()
    yield made
    await made.listener.stop()


@pytest_twisted.async_yield_fixture
async def other() -> AsyncIterator[Node]:
    made = Node("n2")
    await made.start()
    yield made
    await made.listener.stop()


@pytest.fixture
def raft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command line here: fires with its exit code, output and errors."""

    async def command(*arguments: str) -> tuple[int, str, str]:
        asked: list[Any] = []

        def run(cluster: Cluster, work: running.Work) -> int:
            asked.append((cluster, work))
            return 0

        for module in (kv, status):
            monkeypatch.setattr(module, "run", run)
        code = main.run(arguments)
        if asked:
            code = await with_client(*asked[0])
        out, err = capsys.readouterr()
        return code, out, err

    return command


# -- raft write, raft read -------------------------------------------------------------------------


async def test_any_command_and_query_are_json_in_and_out(raft: Any, node: Node) -> None:
    at = ("-e", node.address)
    assert await raft("write", '["set", "k", {"a": [1.5, null, "ü"]}]', *at) == (0, "null\n", "")
    assert await raft("read", '["get", "k"]', *at) == (0, '{"a": [1.5, null, "ü"]}\n', "")
    assert await raft("read", '["count"]', "--consistency", "local", *at) == (0, "1\n", "")
    node.store.apply(["set", "b", b"\xff\x00"], None)  # type: ignore[arg-type]
    assert await raft("read", '["get", "b"]', *at) == (0, '{"base64": "/wA="}\n', "")


async def test_a_command_may_come_from_standard_input(
    raft: Any, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = ("-e", node.address)
    content = io.TextIOWrapper(io.BytesIO(b'["set", "k",\n "long"]\n'))
    monkeypatch.setattr(sys, "stdin", content)
    assert await raft("write", "-", *at) == (0, "null\n", "")
    assert node.store.query(["get", "k"]) == "long"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'"\xff"')))
    code, _, err = await raft("write", "-", *at)
    assert (code, err) == (
        2,
        "raft: standard input: byte 1 is not UTF-8 (see raft write --help)\n",
    )


@pytest.mark.parametrize("text", ["set k v", "", "[" * 100_000, "[1,", "'a'"])
async def test_what_is_no_json_is_refused_in_one_line(raft: Any, node: Node, text: str) -> None:
    for verb in ("write", "read"):
        code, out, err = await raft(verb, text, "-e", node.address)
        assert (code, out) == (2, "")
        assert "is no JSON" in err
        assert len(err) < 300
        assert err.count("\n") == 1


@pytest.mark.parametrize("text", ['["\\ud800"]', "9" * 30, '["nonsense"]'])
async def test_what_the_machine_cannot_take_is_refused(raft: Any, node: Node, text: str) -> None:
    with pytest.raises(errors.RaftError):
        await raft("write", text, "-e", node.address)


# -- raft kv --------------------------------------------------------------------------------------


async def test_values_are_text(raft: Any, node: Node) -> None:
    at = ("-e", node.address)
    assert await raft("kv", "set", "k", "a value", *at) == (0, "", "")
    assert await raft("kv", "get", "k", *at) == (0, "a value\n", "")
    bounded = ("--consistency", "bounded")
    got = await raft("kv", "get", "k", *bounded, "--max-age", "1", *at)
    assert got == (0, "a value\n", "")
    with pytest.raises(errors.BadCommand, match="give both or neither"):
        await raft("kv", "get", "k", *bounded, *at)
    assert node.store.query(["get", "k"]) == "a value"


async def test_values_are_json_where_asked(raft: Any, node: Node) -> None:
    at = ("-e", node.address, "--json")
    assert await raft("kv", "set", "k", '{"a": [1, null, "ü"]}', *at) == (0, "", "")
    assert await raft("kv", "get", "k", *at) == (0, '{"a": [1, null, "ü"]}\n', "")
    assert node.store.query(["get", "k"]) == {"a": [1, None, "ü"]}
    code, _, err = await raft("kv", "set", "k", "bare", *at)
    assert code == 2
    assert "is no JSON" in err
    assert err.startswith("raft: ")


async def test_a_missing_key_exits_with_one_and_a_line(raft: Any, node: Node) -> None:
    at = ("-e", node.address)
    for verb in ("get", "delete"):
        assert await raft("kv", verb, "k", *at) == (1, "", "raft: there is no key 'k'\n")
    await raft("kv", "set", "k", "v", *at)
    assert await raft("kv", "delete", "k", *at) == (0, "", "")
    assert node.store.query(["count"]) == 0


async def test_cas_stores_only_where_the_value_is_the_expected_one(raft: Any, node: Node) -> None:
    at = ("-e", node.address)
    assert (await raft("kv", "cas", "--absent", "k", "1", *at))[0] == 0
    code, _, err = await raft("kv", "cas", "--absent", "k", "2", *at)
    assert (code, err) == (1, "raft: 'k' holds another value; nothing was changed\n")
    assert (await raft("kv", "cas", "k", "1", "3", *at))[0] == 0
    assert node.store.query(["get", "k"]) == "3"
    assert (await raft("kv", "cas", "k", "1", *at))[0] == 2


async def test_scan_pages_through_all_keys(
    raft: Any, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv, "PAGE", 3)
    context: Any = None
    for number in range(10):
        node.store.apply(["set", f"a{number}", number], context)
    node.store.apply(["set", "b", "x"], context)
    at = ("-e", node.address)
    code, out, _ = await raft("kv", "scan", "a", *at)
    assert (code, out.splitlines()) == (0, [f"a{number}\t{number}" for number in range(10)])
    assert len((await raft("kv", "scan", *at))[1].splitlines()) == 11
    out = (await raft("kv", "scan", "a", "--limit", "4", "--after", "a1", "--json", *at))[1]
    assert [json.loads(line) for line in out.splitlines()] == [[f"a{n}", n] for n in range(2, 6)]
    assert (await raft("kv", "count", *at))[1] == "11\n"


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (errors.Unauthorized("not you"), "not you"),
        (errors.OutcomeUnknown("lost the lead"), "lost the lead"),
        (errors.Timeout(True), "the outcome is unknown"),
    ],
)
async def test_errors_reach_the_caller(node: Node, error: errors.RaftError, word: str) -> None:
    node.error = error
    cluster = Cluster((node.address,))

    async def work(client: Any) -> int:
        await client.write(["set", "k", "v"])
        return 0

    with pytest.raises(type(error), match=word):
        await with_client(cluster, work)


def test_a_time_out_says_what_it_means(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for appended, word in ((True, "read before you write again"), (False, "nobody home")):
        error = errors.Timeout(appended)
        error.__cause__ = errors.NotAppended("nobody home")

        def fail(*_: Any, error: errors.Timeout = error) -> int:
            raise error

        monkeypatch.setattr(kv, "run", fail)
        assert main.run(["kv", "set", "k", "v"]) == 1
        assert word in capsys.readouterr().err


def test_json_has_a_place_for_every_plain_value() -> None:
    value = {b"k": b"text", 1: b"\xff", (1, 2): [None, True, 1.5], "n": {"m": ()}}
    assert json.loads(to_json(value)) == {
        "k": "text",
        "1": {"base64": "/w=="},
        "[1, 2]": [None, True, 1.5],
        "n": {"m": []},
    }


# -- Where to connect ------------------------------------------------------------------------------


def chosen(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found: list[Cluster] = []
    monkeypatch.setattr(kv, "run", lambda cluster, work: found.append(cluster) or 0)
    assert main.run(["kv", "count", *arguments]) == 0
    return found[0]


def test_endpoints_come_from_options_then_variable_then_file_then_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(ENDPOINTS_VARIABLE, raising=False)
    assert chosen([], monkeypatch).endpoints == DEFAULT_ENDPOINTS
    assert main.run(["init", str(tmp_path / "d"), "--base-port", "9000"]) == 0
    path = str(tmp_path / "d" / "node2.toml")
    from_file = chosen(["-c", path], monkeypatch).endpoints
    assert set(from_file) == {f"tcp:127.0.0.1:{port}" for port in (10001, 10002, 10003)}
    monkeypatch.setenv(ENDPOINTS_VARIABLE, "a:1,b:2 c:3")
    assert chosen([], monkeypatch).endpoints == ("a:1", "b:2", "c:3")
    assert chosen(["-e", "d:4", "-e", "e:5"], monkeypatch).endpoints == ("d:4", "e:5")


def test_a_plain_init_is_found_without_options(tmp_path: Path) -> None:
    assert main.run(["init", str(tmp_path / "d")]) == 0
    cluster = Cluster.chosen((), tmp_path / "d" / "node1.toml", 3.0, False)
    assert set(cluster.endpoints) == set(DEFAULT_ENDPOINTS)
    assert not cluster.allow_plaintext


def test_the_innermost_reason_is_told() -> None:
    error = errors.Timeout(False)
    error.__cause__ = errors.NotAppended("it is not there")
    assert reason(error) == "it is not there"
    assert "no leader" in reason(errors.ElectionInProgress())


# -- raft status -----------------------------------------------------------------------------------


def members(*nodes: Node, **more: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [
        {"id": each.name, "client_address": each.address, "voter": True} for each in nodes
    ]
    return rows + [
        {"id": id, "client_address": address, "voter": False} for id, address in more.items()
    ]


def say(node: Node, role: str, known: list[dict[str, object]]) -> None:
    node.said = {
        "role": role,
        "term": 7,
        "leader": "n1",
        "commit_index": 41,
        "last_applied": 40,
        "last_index": 42,
        "members": known,
    }


async def test_every_member_is_asked_and_the_unreachable_are_shown(
    raft: Any, node: Node, other: Node
) -> None:
    gone = Node("n3")
    await gone.start()
    await gone.listener.stop()
    known = members(node, other, n3=gone.address, n4="")
    say(node, "leader", known)
    say(other, "follower", known)
    # Asked through the follower alone: the rest is learnt.
    code, out, err = await raft("status", "-e", other.address)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[1].split()[:7] == ["n1", "leader", "7", "n1", "41", "40", "42"]
    assert lines[2].split()[:2] == ["n2", "follower"]
    assert "n1, n2, n3 (learner), n4 (learner)" in lines[2]
    assert lines[3].split()[:2] == ["n3", "unreachable"]
    assert "refused" in lines[3]
    assert lines[4].split()[:2] == ["n4", "unreachable"]


async def test_a_switch_that_waits_is_told_below_the_table(raft: Any, node: Node) -> None:
    waits: dict[str, Any] = {"machine_version": 1, "machine_versions": [1, 2]}
    say(node, "leader", members(node))
    node.said |= waits | {"switch_waits_for": ["b", "[c]"]}
    _, out, _ = await raft("status", "-e", node.address)
    assert out.splitlines()[-1] == ("The machine behaves as version 1; version 2 waits for b, [c].")
    for nothing in ([], None, "?"):
        node.said |= waits | {"switch_waits_for": nothing}
        assert "machine" not in (await raft("status", "-e", node.address))[1]


async def test_who_has_diverged_is_told_below_the_table(raft: Any, node: Node) -> None:
    """sc-SM4: by whichever node says so; what cannot be read is left out."""
    say(node, "follower", members(node))
    node.said |= {"diverged": {"[c]": 40, "d": "?"}, "disputed": [["a", "b"], ["c", "[d]"]]}
    _, out, _ = await raft("status", "-e", node.address)
    told = " ".join(out.split())
    assert "The state of [c] has diverged at entry 40: keep its data directory" in told
    assert "The states of the servers differ (a, b | c, [d]), and no side is a majority" in told
    for nothing in ({}, [], None, "?", [["a"], 7]):
        node.said |= {"diverged": nothing, "disputed": nothing}
        assert "state" not in (await raft("status", "-e", node.address))[1]


async def test_who_holds_its_machine_is_named_below_the_table(raft: Any, node: Node) -> None:
    say(node, "leader", members(node))
    node.said["machine_held"] = True
    _, out, _ = await raft("status", "-e", node.address)
    assert out.splitlines()[-1] == "Nothing is applied on n1: started with --hold."
    node.said["machine_held"] = False
    assert "--hold" not in (await raft("status", "-e", node.address))[1]


async def test_no_leader_exits_with_one(raft: Any, node: Node) -> None:
    say(node, "follower", members(node))
    code, out, _ = await raft("status", "-e", node.address)
    assert code == 1
    assert "follower" in out


async def test_status_as_json(raft: Any, node: Node, other: Node) -> None:
    await other.listener.stop()
    say(node, "leader", members(node, other))
    # The same node given twice, and one that is down, given by its address.
    at = ("-e", node.address, "-e", node.address.removeprefix("tcp:"), "-e", other.address)
    code, out, _ = await raft("status", "--json", *at)
    assert code == 0
    said = json.loads(out)
    assert said["leader"] == "n1"
    assert [(each["id"], "error" in each) for each in said["nodes"]] == [
        ("n1", False),
        ("n2", True),
    ]
    assert said["nodes"][0]["commit_index"] == 41


async def test_what_a_node_says_is_never_taken_for_markup(raft: Any, node: Node) -> None:
    say(node, "[red]leader[/red]", [{"id": "[::1]", "client_address": ""}])
    _, out, _ = await raft("status", "-e", node.address)
    assert "[red]leader[/red]" in out
    assert "[::1]" in out


async def test_a_status_of_another_version_is_shown_as_far_as_it_goes(
    raft: Any, node: Node
) -> None:
    node.said = {"role": "leader", "members": [{"name": "x"}, 3]}
    code, out, _ = await raft("status", "-e", node.address)
    assert code == 0
    assert out.splitlines()[1].split()[:2] == ["n1", "leader"]


# -- The real command ------------------------------------------------------------------------------


async def process(*arguments: str) -> tuple[int, str, str]:
    line = ["-c", "from raft.cli.main import main; main()", *arguments]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    found: Any = await utils.getProcessOutputAndValue(sys.executable, line, environment)
    out, err, code = found
    return code, out.decode(), err.decode()


@pytest.mark.deadline(60)
async def test_the_command_itself_reads_writes_and_exits(node: Node) -> None:
    say(node, "leader", members(node))
    at = ("-e", node.address)
    assert await process("kv", "set", "k", "v", *at) == (0, "", "")
    assert await process("kv", "get", "k", *at) == (0, "v\n", "")
    code, out, err = await process("status", *at)
    assert (code, err) == (0, "")
    assert "n1" in out


@pytest.mark.deadline(60)
async def test_no_error_of_the_command_itself_is_a_traceback(node: Node) -> None:
    node.is_mute = True
    at = ("-e", node.address, "-t", "0.2")
    code, out, err = await process("kv", "set", "k", "v", *at)
    assert (code, out) == (1, "")
    assert err.startswith("raft: no answer in time; it may be applied")
    assert err.count("\n") == 1
    for arguments in (("-e", "nonsense"), ("-c", "/nowhere/node.toml"), ("-e", "192.0.2.1:1")):
        code, out, err = await process("kv", "get", "k", *arguments)
        assert (code, out) == (1, "")
        assert err.startswith("raft: ")
        assert err.count("\n") == 1
