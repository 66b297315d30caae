"""How fast boxes are parsed and written: ours beside stock AMP, in one run.

`python benchmarks/boxes.py` prints boxes a second for three shapes of AppendEntries and
for a batch of writes, each as the median of several rounds, and then questions a second of
one connection over loopback, 32 outstanding, against a listener in the same process.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.testing import StringTransport
from twisted.protocols import amp
from zope.interface import implementer

from raft.core.messages import AppendEntries, Entries
from raft.interfaces import IClientService
from raft.transport import commands, wire
from raft.transport.arguments import pack_array, pack_commands, pack_result
from raft.transport.boxes import BoxParser, encode_box

READ_BYTES = 65536
ROUNDS = 5
MESSAGE = AppendEntries(3, 1_000_000, 3, Entries(1_000_001), 999_990, 123_456)


class Sink:
    """Takes the boxes of stock AMP's parser."""

    count = 0

    def startReceivingBoxes(self, sender: object) -> None:
        """Nothing to start."""

    def ampBoxReceived(self, box: object) -> None:
        self.count += 1

    def stopReceivingBoxes(self, reason: object) -> None:
        """Nothing to stop."""


def stock_parse(stream: list[bytes]) -> int:
    sink = Sink()
    protocol = amp.BinaryBoxProtocol(sink)
    protocol.makeConnection(StringTransport())
    for chunk in stream:
        protocol.dataReceived(chunk)
    return sink.count


def our_parse(stream: list[bytes]) -> int:
    sink = Sink()
    parser = BoxParser()
    for chunk in stream:
        parser.feed(chunk, sink.ampBoxReceived)
    return sink.count


def our_decode(stream: list[bytes]) -> int:
    messages: list[Any] = []
    parser = BoxParser()
    for chunk in stream:
        parser.feed(chunk, lambda box: messages.append(wire.decode(box)))
    return len(messages)


def stock_write(records: bytes) -> int:
    arguments = {
        "term": MESSAGE.term,
        "prev_log_index": MESSAGE.prev_log_index,
        "prev_log_term": MESSAGE.prev_log_term,
        "leader_commit": MESSAGE.leader_commit,
        "sequence": MESSAGE.sequence,
        "records": records,
    }
    for _ in range(1000):
        box = commands.AppendEntries.makeArguments(arguments, None)
        box[b"_command"] = b"AppendEntries"
        box.serialize()
    return 1000


def our_write(records: bytes) -> int:
    for _ in range(1000):
        wire.encode(MESSAGE, records)
    return 1000


def rate(measured: Callable[[Any], int], argument: Any) -> float:
    """Return the median of boxes a second."""
    rates = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        count = measured(argument)
        rates.append(count / (time.perf_counter() - began))
    return statistics.median(rates)


def stream_of(box: bytes) -> list[bytes]:
    joined = box * max(20, min(5000, 20_000_000 // len(box)))
    return [joined[at : at + READ_BYTES] for at in range(0, len(joined), READ_BYTES)]


def compare() -> None:
    shapes = {
        "heartbeat": wire.encode(MESSAGE),
        "one entry of 100 B": wire.encode(MESSAGE, bytes(133)),
        "1,000 entries of 100 B": wire.encode(MESSAGE, bytes(133_000)),
        "batch of 64 writes of 80 B": encode_box(
            [
                (b"_ask", b"1f"),
                (b"_command", b"Write"),
                (b"commands", pack_commands([bytes(80)] * 64)),
            ]
        ),
    }
    print(f"{'parse':28} {'stock AMP':>12} {'ours':>12} {'ratio':>6} {'ours, as messages':>18}")
    for name, box in shapes.items():
        stream = stream_of(box)
        slow, fast = rate(stock_parse, stream), rate(our_parse, stream)
        decoded = "" if "batch" in name else f"{rate(our_decode, stream):18,.0f}"
        print(f"{name:28} {slow:12,.0f} {fast:12,.0f} {fast / slow:6.1f} {decoded}")
    print(f"{'write':28} {'stock AMP':>12} {'ours':>12} {'ratio':>6}")
    for name, size_bytes in (("heartbeat", 0), ("1,000 entries of 100 B", 133_000)):
        slow, fast = rate(stock_write, bytes(size_bytes)), rate(our_write, bytes(size_bytes))
        print(f"{name:28} {slow:12,.0f} {fast:12,.0f} {fast / slow:6.1f}")


@implementer(IClientService)
class Nothing:
    """Answers every write at once."""

    result = pack_result(b"\xc3")

    def write_batch(self, commands: list[bytes], timeout_seconds: float, answer: Any) -> None:
        answer(pack_array([self.result] * len(commands)))

    def read_batch(
        self, queries: list[bytes], timeout_seconds: float, consistency: str, answer: Any
    ) -> None:
        answer(pack_array([self.result] * len(queries)))

    def status(self) -> object:
        return {}

    def leader(self) -> object:
        return ("", "")

    def set_configuration(self, members: object, timeout_seconds: float) -> object:
        return None

    def get_entry(self, index: int) -> object:
        return {}

    def transfer_leadership(self, target: str | None, timeout_seconds: float) -> object:
        return ""


def over_loopback(batch: int, total: int) -> None:
    """Print questions a second, 32 outstanding, each with `batch` commands."""
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred, DeferredList

    from raft.transport.clients import ClientListener
    from raft.transport.dialling import dial
    from raft.transport.greeting import Identity

    async def run() -> None:
        listener = ClientListener(reactor, Identity("c", "a", "i"), Nothing())
        port = await listener.listen("tcp:0:interface=127.0.0.1")
        client = await dial(reactor, f"127.0.0.1:{port.getHost().port}")
        left = total

        async def ask() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await client.write_batch([bytes(80)] * batch, 5000)

        began = time.perf_counter()
        await DeferredList([Deferred.fromCoroutine(ask()) for _ in range(32)])
        questions = total / (time.perf_counter() - began)
        print(
            f"loopback, {batch:3} a box: {questions:10,.0f} questions/s "
            f"{questions * batch:12,.0f} commands/s"
        )
        client.close()
        await listener.stop()

    running.addCallback(lambda _: Deferred.fromCoroutine(run()))


running: Any = None


def main() -> None:
    global running
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred

    compare()
    sys.stdout.flush()
    running = Deferred()
    over_loopback(1, 20_000)
    over_loopback(64, 5_000)
    running.addErrback(lambda failure: failure.printTraceback())
    running.addBoth(lambda _: reactor.stop())
    reactor.callWhenRunning(running.callback, None)
    reactor.run()


if __name__ == "__main__":
    main()
