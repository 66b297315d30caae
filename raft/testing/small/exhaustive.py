"""Everything that can happen to a small cluster: a search, breadth first, over the real core.

A `Model` says how small: how many servers, terms, commands, crashes, messages that arrive twice,
and so on. `explore` then visits every state that any order of events can lead to, and holds each
step against the promises of the protocol. Where one is broken, the way there is among the
shortest, and is told as a story.

The network is a set: a message may arrive at any later moment or never, in any order. Time passes
on each server by itself, from deadline to deadline. A disk is quick, or, as often as the model
says, slow: then anything may happen before a save is done.

`python -m raft.testing.small.exhaustive --minutes 5` searches all models, and then greater ones.
"""

from __future__ import annotations

import click

from raft.testing.small.bounds import DEEPER, MODELS, Bounds, Model, members
from raft.testing.small.search import Counterexample, Explored, Search

__all__ = [
    "DEEPER",
    "MODELS",
    "Bounds",
    "Counterexample",
    "Explored",
    "Model",
    "explore",
    "members",
]


def explore(model: Model, seconds: float | None = None, states: int | None = None) -> Explored:
    """Visit all states of `model`, or those of the first `seconds` or about `states` many."""
    return Search(model).run(seconds, states)


@click.command()
@click.option("--minutes", default=0.0, help="How long to search the greater models, in all.")
@click.option("--model", "name", help="Search this one only.")
@click.option("--states", default=1_000_000, help="How many states of a greater model, at most.")
def main(minutes: float, name: str | None, states: int) -> None:
    """Search the small models to their ends, and the greater ones as far as the time goes.

    Exits with 1 where a promise is broken, and tells the shortest way there.
    """
    known = {model.name: model for model in (*MODELS, *DEEPER)}
    if name is not None and name not in known:
        raise click.BadParameter(f"there is no model {name!r}; there are {', '.join(known)}")
    chosen = [model for model in known.values() if name in (None, model.name)]
    seconds = minutes * 60 / max(1, sum(model in DEEPER for model in chosen))
    failures = 0
    for model in chosen:
        if model in DEEPER and not seconds:
            continue
        bounds = (seconds, states) if model in DEEPER else (None, None)
        explored = explore(model, *bounds)
        click.echo(explored)
        if explored.counterexample is not None:
            failures += 1
            click.echo(explored.counterexample)
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
