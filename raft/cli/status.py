"""raft status: who leads, and how far each node has come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from attrs import frozen
from rich.console import Console
from rich.table import Table
from rich.text import Text
from twisted.internet.defer import DeferredList

from raft.cli.running import Cluster, cluster_options, reason, run
from raft.cli.values import to_json
from raft.client import RaftClient
from raft.errors import RaftError

NO_LEADER = 1


@frozen
class Row:
    """One node: what it says of itself, or why it says nothing."""

    address: str
    id: str = ""
    status: dict[str, Any] | None = None
    error: str = ""

    @property
    def leads(self) -> bool:
        """Whether it answered as the leader."""
        return bool(self.status and self.status.get("role") == "leader")


@click.command()
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(
    endpoints: Sequence[str],
    config: Path | None,
    timeout_seconds: float,
    allow_plaintext: bool,
    as_json: bool,
) -> int:
    """Show who leads, and how far each node has come.

    Asks the nodes that are given and every member they tell of. The exit code is 0 if a
    leader answered, else 1.
    """
    cluster = Cluster.chosen(endpoints, config, timeout_seconds, allow_plaintext)
    return run(cluster, lambda client: show(client, cluster.endpoints, as_json))


async def show(client: RaftClient, endpoints: Sequence[str], as_json: bool) -> int:
    """Ask everyone and print what they say; return the exit code."""
    rows = await gather(client, endpoints)
    if as_json:
        click.echo(as_json_text(rows))
    else:
        # A table for people: where output is no terminal, it must not be cut to 80 columns.
        console = Console(width=None if Console().is_terminal else 200, highlight=False)
        console.print(table(rows))
        for row in rows:
            if row.leads and (said := _switch_text(row.status or {})):
                console.print(Text(said))
        for said in _divergence_texts(rows):
            console.print(Text(said, style="bold red"))
        if held := [row.id for row in rows if (row.status or {}).get("machine_held")]:
            console.print(Text(f"Nothing is applied on {', '.join(held)}: started with --hold."))
        for row in rows:
            if reason_given := (row.status or {}).get("leaderless_reason"):
                console.print(Text(f"{row.id} knows no leader: {reason_given}."))
    return 0 if any(row.leads for row in rows) else NO_LEADER


async def gather(client: RaftClient, endpoints: Sequence[str]) -> list[Row]:
    """Return a row for each node given and for each member that any of them knows.

    All are asked at the same time, members once they are known.
    """
    rows: dict[str, Row] = {}
    asked: set[str] = set()
    wanted: dict[str, str] = dict.fromkeys(endpoints, "")
    while wanted:
        asked.update(wanted)
        found = await ask_all(client, wanted)
        members: dict[str, str] = {}
        for row in found:
            # Two addresses may lead to one node; one that failed may be asked again by name.
            key = row.id or row.address
            if key not in rows or rows[key].status is None:
                rows[key] = row
            members.update(members_of(row))
        answered = {row.id for row in rows.values() if row.status}
        wanted = {
            address: id
            for id, address in members.items()
            if id not in answered and address not in asked
        }
        for id, address in members.items():
            if id not in rows and not address:
                rows[id] = Row("", id, None, "the cluster knows no client address of it")
            elif address in rows and rows[address].status is None:
                # Given by address, did not answer, and is known by name now.
                rows[id] = Row(address, id, None, rows.pop(address).error)
    return sorted(rows.values(), key=lambda row: (row.id == "", row.id, row.address))


async def ask_all(client: RaftClient, wanted: dict[str, str]) -> list[Row]:
    """Ask each address for its status; `wanted` gives the ids that are expected there."""
    answers: Any = await DeferredList(
        [client.status(address) for address in wanted], consumeErrors=True
    )
    rows = []
    for (address, id), (succeeded, answer) in zip(wanted.items(), answers, strict=True):
        if succeeded:
            rows.append(Row(address, str(answer.get("id") or id), answer))
        else:
            answer.trap(RaftError)
            rows.append(Row(address, id, None, reason(answer.value)))
    return rows


def members_of(row: Row) -> dict[str, str]:
    """Return the client addresses of the members that `row` knows, by id."""
    listed = row.status.get("members") if row.status else None
    return {
        str(member["id"]): str(member.get("client_address") or "")
        for member in listed or ()
        if isinstance(member, dict) and "id" in member
    }


def as_json_text(rows: Sequence[Row]) -> str:
    """Return what the nodes say as JSON: the leader's id or null, and a list of nodes."""
    nodes = [
        {"address": row.address, **({"error": row.error} if row.error else {}), **row.status}
        if row.status
        else {"id": row.id or None, "address": row.address, "error": row.error}
        for row in rows
    ]
    leader = next((row.id for row in rows if row.leads), None)
    return to_json({"leader": leader, "nodes": nodes}, indent=2)


def table(rows: Sequence[Row]) -> Table:
    """Return the nodes as a table."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("node", "role", "term", "leader"):
        shown.add_column(heading, no_wrap=True)
    for heading in ("commit", "applied", "last"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("members", overflow="fold")
    shown.add_column("address", no_wrap=True)
    for row in rows:
        shown.add_row(*map(Text, _cells(row)), style=_style(row))
    return shown


def _cells(row: Row) -> list[str]:
    # Text, not str, is what these become: rich would take a "[::1]" for markup.
    if row.status is None:
        return [row.id or "?", "unreachable", *[""] * 5, row.error, row.address]
    columns = ("role", "term", "leader", "commit_index", "last_applied", "last_index")
    said = [str(row.status.get(column, "")) for column in columns]
    return [row.id or "?", *said, _members_text(row), row.address]


def _style(row: Row) -> str:
    if row.status is None:
        return "red"
    return "green" if row.leads else ""


def _switch_text(status: dict[str, Any]) -> str:
    """Return what stands in the way of the machine's next version; nothing where none is to come.

    What an older node does not tell, or tells in another form, is left out.
    """
    spans, waited = status.get("machine_versions"), status.get("switch_waits_for")
    active = status.get("machine_version")
    if not isinstance(spans, list) or not isinstance(waited, list) or not waited:
        return ""
    return (
        f"The machine behaves as version {active}; version {spans[-1]} waits for "
        f"{', '.join(map(str, waited))}."
    )


def _divergence_texts(rows: Sequence[Row]) -> list[str]:
    """Return whose state has diverged, as any node says, and where nobody can tell whose it is."""
    first: dict[str, int] = {}
    disputes: set[str] = set()
    for row in rows:
        said = row.status or {}
        diverged, sides = said.get("diverged"), said.get("disputed")
        for id, index in diverged.items() if isinstance(diverged, dict) else ():
            if isinstance(index, int):
                first[str(id)] = min(index, first.get(str(id), index))
        if isinstance(sides, list) and sides and all(isinstance(side, list) for side in sides):
            disputes.add(" | ".join(", ".join(map(str, side)) for side in sides))
    texts = [
        f"The state of {id} has diverged at entry {index}: keep its data directory to find out "
        "why, remove it and let it join again with empty directories."
        for id, index in sorted(first.items())
    ]
    texts += [
        f"The states of the servers differ ({sides}), and no side is a majority: compare their "
        "data, and remove those that are wrong."
        for sides in sorted(disputes)
    ]
    return texts


def _members_text(row: Row) -> str:
    listed = row.status.get("members") if row.status else None
    names = [
        f"{member['id']}{'' if member.get('voter', True) else ' (learner)'}"
        for member in listed or ()
        if isinstance(member, dict) and "id" in member
    ]
    failure = row.status.get("failure") if row.status else ""
    return f"failed: {failure}" if failure else ", ".join(names)
