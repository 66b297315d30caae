"""Faults of processes, of their disks, descriptors and clocks."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import socket
from pathlib import Path
from typing import Final

from raft.chaos.stage import Nobody, Stage, tried
from raft.testing.processes import start_process

END_SECONDS: Final = 10.0
"""How long a node may take to end in good order."""

HOUR: Final = 3600.0
JUMPS_SECONDS: Final = (-24 * HOUR, -HOUR, -10.0, 10.0, HOUR, 24 * HOUR)
STRANGERS: Final = 20
STRANGE_BYTES: Final = 20_000


async def kill(stage: Stage, chance: random.Random) -> None:
    """End a process without a word, and start it again after up to 10 T."""
    units, hurry = stage.units(chance, 0.05, 10.0), chance.random() < 0.3
    with stage.taken(chance) as id:
        stage.tell("kill -9", f"kill -9 of {id} for {units:.1f} T")
        stage.kill(id)
        await stage.sleep_units(units)
        stage.start(id)
        if hurry:
            # Once more while it still recovers.
            await stage.sleep(chance.uniform(0.2, 1.0))
            stage.tell("kill -9 in recovery", f"kill -9 of {id} while it starts")
            stage.kill(id)
            stage.start(id)


async def kill_all(stage: Stage, chance: random.Random) -> None:
    """End all processes at once; they start again one after another."""
    ids = stage.free
    if len(ids) < len(stage.cluster.running):
        raise Nobody
    pauses = {id: stage.units(chance, 0.05, 5.0) for id in ids}
    with stage.held(*ids):
        stage.tell("kill -9 of all", "kill -9 of all at once")
        for id in ids:
            stage.kill(id)
        for id in sorted(ids, key=lambda each: pauses[each]):
            await stage.sleep_units(pauses[id] / len(ids))
            stage.start(id)


async def pause(stage: Stage, chance: random.Random) -> None:
    """Let a process stand still for 0.5 to 20 T; its connections stay."""
    units = stage.units(chance)
    with stage.taken(chance) as id:
        stage.tell("SIGSTOP", f"SIGSTOP of {id} for {units:.1f} T")
        stage.cluster.pause(id)
        try:
            await stage.sleep_units(units)
        finally:
            stage.cluster.resume(id)


async def roll(stage: Stage, _chance: random.Random) -> None:
    """End and start every node in good order, one after another."""
    stage.tell("rolling restart", "rolling restart")
    for id in list(stage.free):
        if id not in stage.free:
            continue
        with stage.held(id):
            stage.down.add(id)
            stage.cluster.kill(id, signal.SIGTERM)
            code = await stage.ended(id, END_SECONDS)
            if code is None:
                stage.violated(f"{id} had not ended {END_SECONDS:g} s after SIGTERM")
                stage.cluster.kill(id)
            elif code not in (0, -signal.SIGTERM):
                stage.violated(f"{id} ended with code {code} after SIGTERM")
            stage.start(id)
            await stage.settled([id], END_SECONDS)


async def disk_error(stage: Stage, chance: random.Random) -> None:
    """Let a sync fail: the node must end, and promise nothing."""
    with stage.taken(chance) as id:
        await _injected(stage, id, "fdatasync:error=EIO:when=1", "EIO", chance.uniform(5, 10))


async def disk_full_call(stage: Stage, chance: random.Random) -> None:
    """Let no room be found for new segments for a while."""
    with stage.taken(chance) as id:
        await _injected(stage, id, "fallocate:error=ENOSPC", "ENOSPC", stage.units(chance, 2, 20))


async def _injected(stage: Stage, id: str, injection: str, name: str, units: float) -> None:
    process = stage.cluster.node(id).process
    strace = shutil.which("strace")
    if process is None or strace is None:
        raise Nobody
    stage.tell(name, f"{name} at {injection.partition(':')[0]} of {id} for {units:.1f} T")
    call = injection.partition(":")[0]
    command = [strace, "-f", "-p", str(process.pid), "-o", "/dev/null", "-e", f"trace={call}"]
    tracing = start_process(
        [*command, "-e", f"inject={injection}"], Path(stage.cluster.directory, "strace.log")
    )
    stage.excused.add(id)
    try:
        await stage.sleep_units(units)
    finally:
        tracing.terminate()
        tracing.wait()
        await _forgiven(stage, id)


async def _forgiven(stage: Stage, id: str) -> None:
    """Excuse a node no more, once it answers, perhaps after it has ended and begun again."""
    # It may notice within its next turns, and must then be found excused.
    await stage.sleep(0.5)
    await stage.settled([id], END_SECONDS)
    stage.excused.discard(id)


async def disk_full(stage: Stage, chance: random.Random) -> None:
    """Fill a node's disk up, and clear it again."""
    units = stage.units(chance, 2.0, 20.0)
    with stage.taken(chance) as id:
        if id not in stage.cluster.disks or not await stage.settled([id], 3.0):
            raise Nobody
        stage.tell("disk full", f"the disk of {id} is full for {units:.1f} T")
        # Where its last segment is full as well, it stops.
        stage.excused.add(id)
        stage.cluster.fill_disk(id)
        try:
            await stage.sleep_units(units)
        finally:
            stage.cluster.clear_disk(id)
            await _forgiven(stage, id)


async def few_descriptors(stage: Stage, chance: random.Random) -> None:
    """Let a node open hardly anything more, and besiege it."""
    units = stage.units(chance, 1.0, 10.0)
    with stage.taken(chance) as id:
        process = stage.cluster.node(id).process
        if process is None or not await stage.settled([id], 3.0) or process.poll() is not None:
            raise Nobody
        open_now = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        stage.tell("descriptors", f"{id} has 3 descriptors left for {units:.1f} T")
        stage.excused.add(id)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (open_now + 3, hard))
        besiegers = [_connected(stage.cluster.node(id).place.port + 1000) for _ in range(20)]
        try:
            await stage.sleep_units(units)
        finally:
            for each in besiegers:
                each.close()
            if process.poll() is None:
                resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (soft, hard))
            await _forgiven(stage, id)


async def wall_clock(stage: Stage, chance: random.Random) -> None:
    """Set a node's wall clock, by seconds or by a day."""
    jump = chance.choice(JUMPS_SECONDS)
    with stage.taken(chance) as id:
        stage.tell("wall clock", f"the wall clock of {id} is set {jump:+.0f} s off")
        stage.cluster.set_clock(id, jump)


async def strangers(stage: Stage, chance: random.Random) -> None:
    """Dial a node's own ports and say nonsense."""
    with stage.taken(chance) as id:
        stage.tell("strangers", f"{STRANGERS} strangers dial {id}")
        place = stage.cluster.node(id).place
        dialled = []
        for number in range(STRANGERS):
            each = _connected(place.port + 1000 * (number % 2))
            try:
                each.send(chance.randbytes(chance.randrange(1, STRANGE_BYTES)))
            except OSError:
                # It is not connected yet: then it is silent, which is another nuisance.
                pass
            dialled.append(each)
        await stage.sleep_units(3.0)
        for each in dialled:
            each.close()


def _connected(port: int) -> socket.socket:
    each = socket.socket()
    each.setblocking(False)
    each.connect_ex(("127.0.0.1", port))
    return each


async def transfer(stage: Stage, _chance: random.Random) -> None:
    """Ask the leader to hand its leadership on."""
    stage.tell("transfer", "the leadership is handed on")
    await tried(stage.client.transfer_leadership(timeout=5.0))


async def all_started(stage: Stage, seconds: float) -> bool:
    """Start every node that is down; tell whether all answer within so many seconds."""
    ids = [id for id in stage.cluster.nodes if id not in stage.damaged]
    for id in ids:
        stage.start(id)
    return await stage.settled(ids, seconds)
