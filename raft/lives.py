"""The lives of a data directory: how often a server was started from it, and under which names.

A server that is put back from an old copy of its directory, or runs from a copy beside the
original, is the right server by id and incarnation, and has forgotten what it voted and
acknowledged since. No server can see that in its own directory. But those who spoke with it
remember its last life, and a directory that has gone on from there has that life in its list.
"""

from __future__ import annotations

from attrs import frozen

KEPT = 16
"""So many names are told: after more starts than that nobody can say who came from whom."""

NAME_CHARACTERS = 8


@frozen
class Lives:
    """The starts of one directory; `count` 0 where nothing is known of them.

    Attributes:
        count: how many there were, the present one included.
        names: random names of the last of them, the present one first; `KEPT` at most.
    """

    count: int = 0
    names: tuple[str, ...] = ()

    def begin(self, name: str) -> Lives:
        """Return the lives with one more, called `name`."""
        return Lives(self.count + 1, (name, *self.names)[:KEPT])

    @property
    def last(self) -> Lives:
        """The last start alone: all that `go_on_from` asks of what is known."""
        return Lives(self.count, self.names[:1])

    def go_on_from(self, known: Lives) -> bool:
        """Tell whether these may be of the directory that was last seen with those `known`.

        Where too many starts lie between to tell, they may.
        """
        if not self.count or not known.count:
            return True
        since = self.count - known.count
        if since < 0:
            return False
        return since >= len(self.names) or self.names[since] == known.names[0]
