"""raft recover: go on with the survivor of a cluster that has lost its majority for good."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raft.cli.values import moment, to_json
from raft.errors import BadConfiguration, RaftError
from raft.storage.survey import Plan, Survey, Wreck, look, plan, survey
from raft.storage.survey import recover as carry_out

FAILED = 1

Found = Survey | Wreck | RaftError
"""What a survey tells of one directory."""


@click.command()
@click.option("--survey", "only_survey", is_flag=True, help="Only show what is in each DIR.")
@click.option("--json", "as_json", is_flag=True, help="With --survey: print one JSON object.")
@click.option("--peers", default="", metavar="ADDRESS", help="Where other servers will dial it.")
@click.option("--clients", default="", metavar="ADDRESS", help="Where clients will dial it.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also where the survivors are a majority.")
@click.argument("directories", metavar="DIR...", nargs=-1, required=True)
def recover(
    only_survey: bool,
    as_json: bool,
    peers: str,
    clients: str,
    dry_run: bool,
    yes: bool,
    force: bool,
    directories: Sequence[str],
) -> int:
    """Let the stopped server with the first data directory DIR go on alone.

    For a cluster that has lost a majority of its voters for good, and only then: what the lost
    ones alone had is gone. Name the directories of all other survivors behind it; one that has
    more is not passed over. They are wiped afterwards and join again, as new servers do.
    """
    if only_survey:
        return show(directories, as_json)
    chosen, *others = (survey(directory) for directory in directories)
    intended = plan(
        chosen,
        others,
        peer_address=peers,
        client_address=clients,
        command=shlex.join(["raft", "recover", *directories, *(["--force"] if force else [])]),
        force=force,
    )
    for line in told(intended, others):
        click.echo(line)
    if dry_run:
        click.echo("Nothing is done.")
        return 0
    if not yes:
        if not sys.stdin.isatty():
            raise BadConfiguration("nobody can be asked here: look at --dry-run, then give --yes")
        click.confirm("Recover it?", abort=True)
    carry_out(intended)
    click.echo(
        f"{chosen.identity.server_id} is cluster {intended.note.cluster_id} by itself. Start it; "
        "then wipe the others, and let them join (raft join)."
    )
    return 0


def told(intended: Plan, others: Sequence[Survey]) -> list[str]:
    """Say what a recovery does, and what may be lost by it."""
    found, id = intended.survey, intended.survey.identity.server_id
    gone = sorted(found.configuration.ids - {id})
    alive = {other.identity.server_id for other in others}
    lost = [name for name in gone if name not in alive]
    kept = f"entries {found.committed + 1} to {found.last_index}"
    reached = f"entry {found.last_index} of term {found.last_term}"
    lines = [
        f"{id} has the log up to {reached}, and goes on alone as {intended.note.cluster_id}.",
        f"Lost is whatever only {', '.join(lost) or 'nobody'} had: writes that were answered too.",
    ]
    if found.is_repairing:
        lines.append(
            f"Lost is also what {id} had itself before its log was damaged: up to entry "
            f"{found.lost[1]} of term {found.lost[0]}."
        )
    if found.last_index > found.committed:
        lines.append(f"Kept are {kept}, though some of them may never have been answered.")
    if alive:
        behind = ", ".join(sorted(alive))
        lines.append(f"Wipe {behind} afterwards: no more than {id} has is in their directories.")
    lines.append(f"Never start {', '.join(gone) or 'anybody'} with the old data directory again.")
    return lines


def show(directories: Sequence[str], as_json: bool) -> int:
    """Print what is in each directory; fail where one of them cannot be told."""
    found = list(look(directories))
    if as_json:
        click.echo(to_json({path: as_mapping(each) for path, each in found}, indent=2))
    else:
        console = Console(width=None if Console().is_terminal else 200, highlight=False)
        console.print(table(found))
        for line in remarks(found):
            click.echo(line)
    return 0 if all(isinstance(each, Survey) for _, each in found) else FAILED


def table(found: Sequence[tuple[str, Found]]) -> Table:
    """Return what is in each directory as a table."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    headings = ("server", "incarnation", "term", "last entry", "of term", "committed", "members")
    for heading in headings:
        shown.add_column(heading, no_wrap=True)
    for _, each in found:
        if isinstance(each, Survey):
            members = (
                f"{member.id}" if member.voter else f"({member.id})"
                for member in each.configuration.members
            )
            cells = (
                each.identity.server_id,
                each.identity.incarnation,
                each.hard_state.current_term,
                each.last_index,
                each.last_term,
                f"{each.committed} or more",
                " ".join(members),
            )
            shown.add_row(*(Text(str(cell)) for cell in cells))
    return shown


def remarks(found: Sequence[tuple[str, Found]]) -> list[str]:
    """Return what there is to say of single directories, and of the clusters they belong to."""
    lines = []
    clusters: dict[str, list[str]] = {}
    for path, each in found:
        if isinstance(each, RaftError):
            lines.append(f"raft: {path}: {each}")
            continue
        if isinstance(each, Wreck):
            lines += left_of(path, each)
            continue
        clusters.setdefault(each.identity.cluster_id, []).append(each.identity.server_id)
        if each.is_pending:
            lines.append(f"{path}: a recovery was begun; the next start finishes it")
        if each.is_repairing:
            lines.append(
                f"{path}: the log was damaged, and lacks what it had up to entry {each.lost[1]} of "
                f"term {each.lost[0]}; until others send it, {each.identity.server_id} votes for "
                "nobody who lacks it too, and stands for no election"
            )
        if each.divergence is not None:
            lines.append(
                f"{path}: the state of this server has diverged, since entry "
                f"{each.divergence.index}; it does not serve"
            )
        for note in each.recoveries:
            at = moment(note.recovered_at)
            members = ", ".join(sorted(note.previous_configuration.ids))
            lines.append(
                f"{each.identity.server_id}: recovered {at} as cluster {note.cluster_id}, from "
                f"{note.previous_cluster_id} with {members}, by: {note.command}"
            )
    for cluster, servers in clusters.items():
        lines.append(f"Of cluster {cluster or 'without an id'}: {', '.join(servers)}")
    return lines


def left_of(path: str, found: Wreck) -> list[str]:
    """Say what is left in a damaged directory, and whether the other servers can repair it."""
    id, salvaged = found.identity.server_id, found.salvaged
    good = ", ".join(f"{each.start} to {each.end - 1}" for each in salvaged.stretches)
    lines = [f"raft: {path}: {found.error}", f"{id}: good are entries {good or 'none'}."]
    if salvaged.last is not None:
        lines.append(
            f"{id}: its log went up to entry {salvaged.last[1]} of term {salvaged.last[0]}."
        )
    lines += [f"{id}: damaged is {damage}" for damage in salvaged.damages]
    if found.helpless:
        lines.append(f"{id}: {found.helpless}")
    else:
        lines.append(f"{id}: the others can repair it, with `repair = true` under [node].")
    return lines


def as_mapping(each: Found) -> dict[str, object]:
    """Return what is in a directory as plain values."""
    if isinstance(each, RaftError):
        return {"error": str(each)}
    if isinstance(each, Wreck):
        last_term, last_index = each.salvaged.last or (None, None)
        return {
            "error": str(each.error),
            "server_id": each.identity.server_id,
            "cluster_id": each.identity.cluster_id,
            "good": [[part.start, part.end] for part in each.salvaged.stretches],
            "damages": [
                {"path": damage.path, "offset": damage.offset, "reason": damage.reason}
                for damage in each.salvaged.damages
            ],
            "last_index": last_index,
            "last_term": last_term,
            "can_be_repaired": not each.helpless,
        }
    return {
        "cluster_id": each.identity.cluster_id,
        "server_id": each.identity.server_id,
        "incarnation": each.identity.incarnation,
        "term": each.hard_state.current_term,
        "last_index": each.last_index,
        "last_term": each.last_term,
        "committed": each.committed,
        "snapshot_index": each.snapshot_index,
        "configuration_index": each.configuration_index,
        "members": [
            {"id": member.id, "voter": member.voter, "incarnation": member.incarnation}
            for member in each.configuration.members
        ],
        "joint_with": sorted(each.configuration.outgoing),
        "is_pending": each.is_pending,
        "lost_index": each.lost[1] if each.is_repairing else 0,
        "lost_term": each.lost[0] if each.is_repairing else 0,
        "diverged_index": each.divergence.index if each.divergence else 0,
        "recoveries": [
            {
                "time": note.recovered_at,
                "cluster_id": note.cluster_id,
                "previous_cluster_id": note.previous_cluster_id,
                "previous_members": sorted(note.previous_configuration.ids),
                "command": note.command,
            }
            for note in each.recoveries
        ],
    }
