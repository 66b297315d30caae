"""raft demo: a cluster in this terminal that loses its leader, and no write."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
import tempfile
import time
import unicodedata
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import click
from attrs import Factory, define
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from raft.client import RaftClient
from raft.errors import RaftError
from raft.testing.ledger import Ledger, read_everything
from raft.testing.processes import ProcessCluster

NODES_MOST: Final = 9
AT_ONCE: Final = 1000
"""So many writes are on their way together while the characters are loaded."""

ATTEMPTS: Final = 5
PATIENCE_SECONDS: Final = 30.0
WRITE_EVERY_SECONDS: Final = 0.005
OPEN_MOST: Final = 2000
CALM_SECONDS: Final = 0.3
"""For so long the small writes go on before the kill, and again once they succeed after it."""

ALGORITHMIC: Final = ("CJK UNIFIED IDEOGRAPH-", "HANGUL SYLLABLE ")
SAMPLES: Final = ("SNOWMAN", "GREEK SMALL LETTER PI", "LATIN SMALL LETTER E WITH ACUTE", "RAINBOW")


class Story:
    """What the demo tells, as it happens; plain lines where the output is no terminal."""

    def __init__(self) -> None:
        """Write to the standard output."""
        self.console = Console(highlight=False)

    def chapter(self, title: str) -> None:
        """Begin something new."""
        self._print("")
        self._print(title, "bold")

    def line(self, text: str, style: str = "") -> None:
        """Tell one thing."""
        self._print(f"  {text}", style)

    def progress(self) -> Progress:
        """Return a bar, to be used as a context; it is hidden where there is no terminal."""
        return Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def _print(self, text: str, style: str = "") -> None:
        # Paths may hold brackets, and a command that is cut at column 80 cannot be pasted.
        self.console.print(text, style=style, markup=False, soft_wrap=True)


@define
class Stream:
    """A small stream of writes, one every few milliseconds, that goes on through the kill.

    Attributes:
        begun: how many were issued.
        acknowledged: (when issued, when acknowledged) of each that was, in monotonic seconds.
    """

    reactor: Any
    client: RaftClient
    ledger: Ledger
    begun: int = 0
    acknowledged: list[tuple[float, float]] = Factory(list)
    _open: set[Deferred[None]] = Factory(set)
    _stopped: bool = False

    async def run(self) -> None:
        """Issue writes until `stop`, and wait for the last answers."""
        while not self._stopped:
            if len(self._open) < OPEN_MOST:
                self._begin()
            await deferLater(self.reactor, WRITE_EVERY_SECONDS)
        await gatherResults(list(self._open), consumeErrors=True)

    def _begin(self) -> None:
        write = Deferred.fromCoroutine(self._write())
        self._open.add(write)

        def ended(result: object) -> object:
            self._open.discard(write)
            return result

        write.addBoth(ended)

    def stop(self) -> None:
        """Issue no more."""
        self._stopped = True

    def refused_seconds(self, since: float) -> float | None:
        """Return the time from `since` to the first acknowledgement of a write issued later."""
        return min(
            (end - since for begin, end in self.acknowledged if begin >= since), default=None
        )

    async def _write(self) -> None:
        number, begin = self.begun, time.monotonic()
        self.begun += 1
        if await self.ledger.write(self.client, f"demo write {number}", number, PATIENCE_SECONDS):
            self.acknowledged.append((begin, time.monotonic()))


class Demo:
    """The demo from the first process to the last comparison."""

    def __init__(self, reactor: Any, cluster: ProcessCluster, story: Story) -> None:
        """Show `cluster`, none of whose nodes runs yet."""
        self.reactor = reactor
        self.cluster = cluster
        self.story = story
        self.ledger = Ledger()

    async def run(self) -> None:
        """Tell all of it.

        Raises:
            click.ClickException: something failed; the text says what.
        """
        client = self.cluster.client(timeout_seconds=PATIENCE_SECONDS)
        try:
            await self.start()
            await self.load(client)
            await self.read_back(client)
            killed = await self.lose_the_leader(client)
            await self.verify(client, killed)
        except RaftError as error:
            reason = ": ".join(map(str, error.args)) or str(error)
            raise click.ClickException(f"the demo failed: {reason}") from error
        finally:
            await client.close()

    async def start(self) -> None:
        """Start the processes and wait for a leader."""
        nodes = self.cluster.nodes.values()
        self.story.chapter(f"Starting {len(nodes)} nodes, each a `twistd raft` of its own")
        begin = time.monotonic()
        self.cluster.start_processes()
        for node in nodes:
            pid = node.process.pid if node.process else "?"
            self.story.line(f"{node.id}  process {pid}, clients at {node.address}")
        self.story.line(f"in {self.cluster.directory}")
        leader = await self.cluster.wait_for_leader(PATIENCE_SECONDS)
        self.story.line(
            f"{leader} was elected, {time.monotonic() - begin:.1f} s after the start", "green"
        )

    async def load(self, client: RaftClient) -> None:
        """Write all named characters, in batches; repeat what an outage swallowed."""
        characters = named_characters()
        version = unicodedata.unidata_version
        self.story.chapter(f"Writing {len(characters):,} named characters of Unicode {version}")
        begin = time.monotonic()
        with self.story.progress() as progress:
            bar = progress.add_task("name to code point", total=len(characters))
            for start in range(0, len(characters), AT_ONCE):
                batch = characters[start : start + AT_ONCE]
                await self._write_all(client, batch)
                progress.advance(bar, len(batch))
        seconds = time.monotonic() - begin
        rate = len(characters) / seconds
        self.story.line(
            f"all acknowledged in {seconds:.1f} s, {rate:,.0f} a second: each is on the disks of "
            "a majority",
            "green",
        )

    async def _write_all(self, client: RaftClient, pairs: Sequence[tuple[str, int]]) -> None:
        """Write until all are acknowledged: writing the same again changes nothing."""
        for _ in range(ATTEMPTS):
            writes = [Deferred.fromCoroutine(self.ledger.write(client, *pair)) for pair in pairs]
            ended = await gatherResults(writes, consumeErrors=True)
            pairs = [pair for pair, done in zip(pairs, ended, strict=True) if not done]
            if not pairs:
                return
        raise click.ClickException(f"{len(pairs)} writes were not acknowledged; see the logs")

    async def read_back(self, client: RaftClient) -> None:
        """Read some of the characters linearizably."""
        self.story.chapter("Reading some back: what is read includes every acknowledged write")
        for name in SAMPLES:
            found = await client.read(["get", name])
            expected = ord(unicodedata.lookup(name))
            if found != expected:
                raise click.ClickException(f"{name} is {found!r}, written was {expected!r}")
            self.story.line(f"{name} is U+{expected:04X}")

    async def lose_the_leader(self, client: RaftClient) -> str:
        """Kill the leader while writes go on; tell how long none succeeded; return its id."""
        leader = await self.cluster.wait_for_leader(PATIENCE_SECONDS)
        self.story.chapter(f"Killing the leader, {leader}, with SIGKILL while writes go on")
        stream = Stream(self.reactor, client, self.ledger)
        running = Deferred.fromCoroutine(stream.run())
        try:
            await deferLater(self.reactor, CALM_SECONDS)
            killed_at = time.monotonic()
            self.cluster.kill(leader)

            async def acknowledged() -> float | None:
                return stream.refused_seconds(killed_at)

            refused = await self.cluster.until(
                acknowledged, PATIENCE_SECONDS, "no write was acknowledged after the kill"
            )
            await deferLater(self.reactor, CALM_SECONDS)
            successor = await self.cluster.wait_for_leader(PATIENCE_SECONDS, other_than=leader)
        finally:
            stream.stop()
            await running
        self.story.line(
            f"writes were refused for {refused:.2f} s: from the kill to the acknowledgement of a "
            "write issued after it"
        )
        self.story.line(f"{successor} leads now", "green")
        unknown, definite = len(self.ledger.unknown), len(self.ledger.refused)
        self.story.line(
            f"of {stream.begun:,} small writes {len(stream.acknowledged):,} were acknowledged, "
            f"{definite} definitely not applied, {unknown} cut off with an unknown outcome"
        )
        return leader

    async def verify(self, client: RaftClient, killed: str) -> None:
        """Start the killed node again; hold every node against what was acknowledged."""
        self.story.chapter(f"Starting {killed} again and comparing")
        begin = time.monotonic()
        await self.cluster.restart(killed, PATIENCE_SECONDS)
        statuses = await self.cluster.wait_until_equal(1, PATIENCE_SECONDS)
        self.story.line(f"{killed} has caught up after {time.monotonic() - begin:.1f} s")
        for id, status in statuses.items():
            digest = status["digest"]
            self.story.line(f"{id}  applied up to {status['last_applied']}, digest {digest:x}")
        found = await read_everything(client)
        wrong = list(self.ledger.differences(found))
        if wrong:
            raise click.ClickException(f"{len(wrong)} differences: {'; '.join(wrong[:3])}")
        self.story.line(
            f"all {len(self.ledger.acknowledged):,} acknowledged writes are there, and nothing "
            f"that was refused; all {len(statuses)} nodes have applied the same",
            "green",
        )


@click.command()
@click.option("--exit", "ends", is_flag=True, help="End when all is shown, with exit code 0.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep files, logs and data here; otherwise they are temporary.",
)
@click.option(
    "--nodes",
    type=click.IntRange(3, NODES_MOST),
    default=3,
    show_default=True,
    help="How many nodes; an odd number.",
)
def demo(ends: bool, directory: Path | None, nodes: int) -> None:
    """Run a cluster in this terminal and lose a leader.

    Starts real nodes on this machine, writes to them, kills the leader, and compares what the
    nodes have with what was acknowledged. Then the cluster is yours until Ctrl-C.
    """
    with ExitStack() as stack:
        if directory is None:
            found = stack.enter_context(tempfile.TemporaryDirectory(prefix="raft-demo-"))
            directory = Path(found)
        # Whoever ends this process means the nodes too; the reactor has its own way of hearing.
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _interrupted))
        try:
            cluster = ProcessCluster(directory, nodes)
        except FileExistsError as error:
            raise click.ClickException(
                f"{error.filename} is there already; choose another directory"
            ) from error
        stack.callback(cluster.destroy)
        from twisted.internet import reactor

        Performance(reactor, cluster, Story(), ends).run()


class Performance:
    """The demo in a reactor of its own, and its end: by itself, by failure or by Ctrl-C."""

    def __init__(self, reactor: Any, cluster: ProcessCluster, story: Story, ends: bool) -> None:
        """Perform nothing yet; unless it `ends`, the cluster runs on after the demo."""
        self._reactor = reactor
        self._cluster = cluster
        self._story = story
        self._ends = ends
        self._playing: Deferred[None] = Deferred()
        self._stopping = False
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Run the reactor until all is over and every node is stopped.

        Raises:
            click.Abort: it was interrupted.
            click.ClickException: it failed.
        """
        self._reactor.callWhenRunning(self._begin)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._stop)
        self._reactor.run()
        if self._failure is not None:
            raise self._failure

    async def _play(self) -> None:
        await Demo(self._reactor, self._cluster, self._story).run()
        if not self._ends:
            await invite(self._cluster, self._story)

    def _begin(self) -> None:
        self._playing = Deferred.fromCoroutine(self._play())
        self._playing.addBoth(self._finished)

    def _finished(self, result: object) -> None:
        if self._stopping:
            return
        if isinstance(result, Failure):
            self._failure = result.value
        if self._ends or self._failure:
            self._reactor.stop()

    def _stop(self) -> Deferred[None]:
        self._stopping = True
        if not self._playing.called:
            # What it would say of nodes that are being stopped is misleading.
            self._failure = click.Abort()
            self._playing.cancel()
        return Deferred.fromCoroutine(end(self._cluster, self._story))


async def end(cluster: ProcessCluster, story: Story) -> None:
    """Stop all nodes in good order."""
    if cluster.running:
        story.chapter("Stopping the nodes")
    await cluster.stop()


async def invite(cluster: ProcessCluster, story: Story) -> None:
    """Print what may be tried next."""
    leader = await cluster.wait_for_leader(PATIENCE_SECONDS)
    node = cluster.nodes[leader]
    config = shlex.quote(str(node.config_path))
    raft, twistd = _pasted("raft"), _pasted("twistd")
    story.chapter("The cluster runs on. In another terminal you may try:")
    commands = (
        f"{raft} status --config {config}",
        f"{raft} kv get SNOWMAN --config {config}",
        f"{raft} kv set greeting hello --config {config}",
        f"{raft} kv scan GREEK --limit 5 --config {config}",
        f"kill -9 {node.process.pid if node.process else ''}",
        f"{twistd} -n --pidfile= raft --config {config}",
    )
    for command in commands:
        story.line(command)
    story.chapter("Press Ctrl-C here to end the nodes that were started here")
    story.line(f"The last two commands kill the leader, {leader}, and start it again.")


def _pasted(program: str) -> str:
    """Return how a shell finds `program` of this installation."""
    mine = Path(sys.executable).parent / program
    found = shutil.which(program)
    if found and mine.exists() and Path(found).samefile(mine):
        return program
    return shlex.quote(str(mine))


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def named_characters() -> list[tuple[str, int]]:
    """Return name and code point of each character whose name is no formula."""
    names = ((unicodedata.name(chr(point), ""), point) for point in range(sys.maxunicode + 1))
    return [(name, point) for name, point in names if name and not name.startswith(ALGORITHMIC)]
