"""Run the transcripts in documents: what a reader types, and what he is shown.

A block of a document whose language is `console` is a transcript. A line that begins with "$ "
is a command (one that ends with a backslash goes on in the next line); the lines up to the next
command are what it prints, errors included. In these, "..." stands for any text within a line,
and as a line of its own for any lines; blanks count as one. A command fails if and only if a line
that it prints begins with "raft: ", or `echo $?` follows and says so.

All blocks of a document are one session, in a directory of its own. Comments say what no reader
has to type:

    <!-- transcript: cluster demo 3 -->    three running nodes, as `raft init demo` has them; the
                                           first leads. The cluster before is ended.
    <!-- transcript: kill node2 -->        at once; `stop` in good order, `start` again
    <!-- transcript: run raft kv set a 1 -->  a command that must succeed, whatever it prints
    <!-- transcript: file notes.toml -->   the next block is the content of this file
    <!-- transcript: plain -->             the next block is not executed

`twistd ... raft --config FILE &` starts a node that runs until the document ends; it finds modules
that are files of the document. Documents use
the ports of a plain `raft init`; the session's are others, mapped both ways.
What only looks (`raft status`, `raft kv get` ...) is repeated for a while until it prints what
it should: an election takes its time.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from attrs import Factory, define, frozen
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue

from raft.testing.ports import free_base_port
from raft.testing.processes import PORTS_ABOVE, ProcessCluster, start_process, twistd

DOCUMENTED_BASE_PORT = 7000
PORTS_END = 100
NODES_MOST = 9
LOOK_SECONDS = 15.0
STOP_SECONDS = 10.0
ELECTION_TIMEOUT_SECONDS = 1.0
"""On a busy machine the leader that a document names must stay one."""

LOOKS = (
    *("raft status", "raft member list", "raft read"),
    *("raft kv get", "raft kv scan", "raft kv count"),
)
NODE = re.compile(r"twistd (?P<options>.*--config (?P<file>\S+).*)&$")
DIRECTIVE = re.compile(r"<!-- transcript: (?P<text>.*) -->$")
FENCE = re.compile(r"```(?P<language>\S*)")
CHOOSES_SERVERS = re.compile(r"\s(-e|--endpoint|-c|--config|--to|--from)\b")


@frozen
class Command:
    """What is typed in `line` of the document, and the lines that are shown below it."""

    line: int
    text: str
    shown: tuple[str, ...] = ()


@frozen
class Directive:
    """What is not typed: a verb and its words, and the text of the block that it is about."""

    line: int
    verb: str
    words: tuple[str, ...]
    text: str = ""


Step = Command | Directive


def steps(document: str) -> list[Step]:
    """Return what is to be done, in order; raise ValueError with the line that is unclear."""
    found: list[Step] = []
    waiting: Directive | None = None
    for number, language, lines in pieces(document):
        if directive := DIRECTIVE.match(lines[0]) if language is None else None:
            verb, *words = directive["text"].split()
            if verb not in Session.VERBS:
                raise ValueError(f"line {number}: {verb!r} is none of {', '.join(Session.VERBS)}")
            found.append(Directive(number, verb, tuple(words)))
            waiting = found[-1] if verb in ("file", "plain") else None
        elif language is not None:
            if waiting is not None:
                text = "".join(f"{line}\n" for line in lines)
                found[-1] = Directive(waiting.line, waiting.verb, waiting.words, text)
            elif language == "console":
                found += commands(list(enumerate(lines, start=number + 1)))
            waiting = None
    return found


def pieces(document: str) -> Iterator[tuple[int, str | None, list[str]]]:
    """Yield each fenced block (its first line's number, language and lines) and each other line."""
    lines = iter(enumerate(document.splitlines(), start=1))
    for number, line in lines:
        fence = FENCE.match(line)
        if not fence:
            yield number, None, [line]
            continue
        block = []
        for _, each in lines:
            if each == "```":
                break
            block.append(each)
        else:
            raise ValueError(f"line {number}: the block does not end")
        yield number, fence["language"], block


def commands(block: list[tuple[int, str]]) -> Iterator[Command]:
    """Yield the commands of one block, given as its numbered lines."""
    current: Command | None = None
    for number, line in block:
        if current is not None and current.text.endswith("\\"):
            current = Command(current.line, f"{current.text[:-1].rstrip()} {line.strip()}")
        elif line.startswith("$ "):
            if current is not None:
                yield current
            current = Command(number, line[2:].rstrip())
        elif current is None:
            raise ValueError(f"line {number}: output before the first command")
        else:
            current = Command(current.line, current.text, (*current.shown, line))
    if current is not None:
        yield current


def fits(shown: tuple[str, ...], printed: str) -> bool:
    """Tell whether what was `printed` is what a document shows."""
    pattern = ""
    for line in _lines("\n".join(shown)):
        if line == "...":
            pattern += r"(?:.*\n)*"
        else:
            pattern += ".*".join(map(re.escape, line.split("..."))) + r"\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _lines(printed))) is not None


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.rstrip().splitlines()]


@define
class Running:
    """A node that a document started by itself."""

    command: list[str]
    log_path: Path
    process: subprocess.Popen[bytes]


@define
class Session:
    """One document's commands, nodes and ports; nothing of it outlives `close`."""

    VERBS = ("cluster", "kill", "stop", "start", "run", "file", "plain")

    directory: Path
    base_port: int = Factory(lambda: free_base_port(NODES_MOST, PORTS_ABOVE))
    cluster: ProcessCluster | None = None
    nodes: dict[str, Running] = Factory(dict)
    exit_code: int = 0

    def close(self) -> None:
        """Kill every node."""
        for node in self.nodes.values():
            node.process.kill()
            node.process.wait()
        self.nodes.clear()
        if self.cluster is not None:
            self.cluster.destroy()

    async def perform(self, found: list[Step]) -> None:
        """Carry out a document; fail at the first command that does or prints anything else."""
        for step, following in zip(found, [*found[1:], None], strict=True):
            if isinstance(step, Directive):
                await self.direct(step)
            elif NODE.match(step.text):
                self.start_node(step.text)
            else:
                tells_code = isinstance(following, Command) and following.text == "echo $?"
                await self.type(step, may_fail=tells_code)

    async def type(self, command: Command, may_fail: bool = False) -> None:
        """Run one command, a look until it shows what it should; compare what it prints."""
        fails = any(line.startswith("raft: ") for line in command.shown)
        deadline = time.monotonic() + LOOK_SECONDS
        while True:
            printed, code = await self.run(command.text)
            good = fits(command.shown, printed) and (may_fail or fails == bool(code))
            looks = command.text.startswith(LOOKS) and time.monotonic() < deadline
            if good or not looks:
                break
            await pause(0.1)
        self.exit_code = code
        assert good, (
            f"line {command.line}: {command.text}\nexit code {code}; it printed:\n{printed}\n"
            "shown is:\n" + "\n".join(command.shown)
        )

    async def run(self, text: str) -> tuple[str, int]:
        """Run a command line; return what it printed, in the document's ports, and its code."""
        if text == "echo $?":
            return f"{self.exit_code}\n", 0
        if text.startswith("raft init ") and "--base-port" not in text:
            text += f" --base-port {DOCUMENTED_BASE_PORT}"
        environment = dict(os.environ, PATH=f"{self.shims()}{os.pathsep}{os.environ['PATH']}")
        environment.pop("RAFT_ENDPOINTS", None)
        if not CHOOSES_SERVERS.search(text):
            addresses = [f"tcp:127.0.0.1:{self.base_port + 1000 + n}" for n in (1, 2, 3)]
            environment["RAFT_ENDPOINTS"] = " ".join(addresses)
        script = f"exec 2>&1\n{self.to_ports(text)}\n"
        out, _, code = await getProcessOutputAndValue(
            "/bin/sh", ["-c", script], env=environment, path=str(self.directory)
        )
        return self.from_ports(out.decode()), code

    def path_of_modules(self) -> str:
        """Return the setting of PYTHONPATH with which a document's own modules are found."""
        found = filter(None, (str(self.directory), os.environ.get("PYTHONPATH")))
        return f"PYTHONPATH={os.pathsep.join(found)}"

    def shims(self) -> Path:
        """Return a directory with a `raft` that runs the package under test."""
        directory = self.directory.parent / f"{self.directory.name}-bin"
        if not directory.exists():
            directory.mkdir()
            raft = directory / "raft"
            code = shlex.quote("from raft.cli.main import main; main()")
            raft.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {code} "$@"\n')
            raft.chmod(0o755)
        return directory

    def to_ports(self, text: str) -> str:
        """Return `text` with the session's ports in place of the documented ones."""

        def mapped(found: re.Match[str]) -> str:
            above = int(found[0]) - DOCUMENTED_BASE_PORT
            node = above % 1000
            return str(self.base_port + above) if node < PORTS_END and above < 3000 else found[0]

        return re.sub(r"(?<![\d.])[789]\d\d\d(?!\d)", mapped, text)

    def from_ports(self, text: str) -> str:
        """Return `text` with the documented ports in place of the session's."""

        def mapped(found: re.Match[str]) -> str:
            above = int(found[0]) - self.base_port
            in_range = above >= 0 and above % 1000 < PORTS_END and above < 3000
            return str(DOCUMENTED_BASE_PORT + above) if in_range else found[0]

        return re.sub(r"(?<=:)\d{5}(?!\d)", mapped, text)

    # -- What nobody types -------------------------------------------------------------------

    async def direct(self, directive: Directive) -> None:
        """Carry out a comment."""
        match directive.verb, directive.words:
            case "cluster", (name, *size):
                await self.found(name, int(*size or [3]))
            case "file", (name,):
                path = self.directory / name
                is_configuration = path.suffix == ".toml"
                path.write_text(
                    self.to_ports(directive.text) if is_configuration else directive.text
                )
                path.chmod(0o644)
            case "run", _:
                text = " ".join(directive.words)
                printed, code = await self.run(text)
                assert code == 0, f"line {directive.line}: {text}\n{printed}"
            case (("kill" | "stop" | "start"), (id,)):
                await self.signal(directive.verb, id)
            case "plain", ():
                pass
            case _:
                raise ValueError(f"line {directive.line}: {directive.verb} {directive.words}")

    async def found(self, name: str, size: int) -> None:
        """Run a new cluster whose first node leads."""
        self.close()
        settings = {"election_timeout": ELECTION_TIMEOUT_SECONDS}
        self.cluster = ProcessCluster(
            self.directory / name, size, settings=settings, base_port=self.base_port
        )
        leader = await self.cluster.start()
        if leader != "node1":
            client = self.cluster.client()
            try:
                await client.transfer_leadership("node1")
            finally:
                await client.close()
            await self.cluster.wait_for_leader(other_than=leader)

    def start_node(self, text: str) -> None:
        """Start the node of a line that ends with an ampersand."""
        found = NODE.match(text)
        assert found, text
        id = Path(found["file"]).stem
        command = ["/usr/bin/env", self.path_of_modules(), *twistd()]
        command += shlex.split(found["options"])
        log_path = self.directory / f"{id}.log"
        self.nodes[id] = Running(command, log_path, start_process(command, log_path))

    async def signal(self, verb: str, id: str) -> None:
        """Kill, stop or start a node, whoever started it first."""
        if id in self.nodes:
            node = self.nodes[id]
            if verb == "start":
                node.process = start_process(node.command, node.log_path)
                return
            process = node.process
        else:
            assert self.cluster is not None, f"there is no {id}"
            if verb == "start":
                self.cluster.node(id).start()
                return
            started = self.cluster.node(id).process
            assert started is not None, f"{id} does not run"
            process = started
        process.send_signal(signal.SIGKILL if verb == "kill" else signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while process.poll() is None:
            assert time.monotonic() < deadline, f"{id} does not end"
            await pause(0.02)


async def pause(seconds: float) -> None:
    from twisted.internet import reactor

    await deferLater(reactor, seconds)  # type: ignore[arg-type]
