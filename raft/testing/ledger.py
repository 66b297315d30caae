"""What clients of the key-value store were told, to be held against what the cluster has.

A write ends in one of three ways, and each promises something about the store afterwards:
acknowledged, it is there; definitely not applied, it is not; unknown, either. Every write has
a key of its own, so that the order of writes does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from attrs import Factory, define

from raft.client import RaftClient
from raft.errors import NotApplied, OutcomeUnknown, Refused, Timeout
from raft.interfaces import Value

PAGE: Final = 10_000


@define
class Ledger:
    """The writes that have ended, by key, and those that have not.

    Attributes:
        acknowledged: must be there.
        unknown: may be there; writes that are still open count as these.
        refused: must not be there.
    """

    acknowledged: dict[str, Value] = Factory(dict)
    unknown: dict[str, Value] = Factory(dict)
    refused: dict[str, Value] = Factory(dict)

    @property
    def count(self) -> int:
        """How many writes were begun."""
        return len(self.acknowledged) + len(self.unknown) + len(self.refused)

    async def write(
        self, client: RaftClient, key: str, value: Value, timeout: float | None = None
    ) -> bool:
        """Write `value` under `key`, once, and note how it ended; True if acknowledged.

        The same may be written again after it was not acknowledged.

        Raises:
            Refused: and its leaves, which no outage explains.
        """
        self.refused.pop(key, None)
        self.unknown[key] = value
        try:
            await client.write(["set", key, value], timeout)
        except Refused:
            self.refused[key] = self.unknown.pop(key)
            raise
        except NotApplied:
            self.refused[key] = self.unknown.pop(key)
            return False
        except Timeout as error:
            if not error.appended:
                self.refused[key] = self.unknown.pop(key)
            return False
        except OutcomeUnknown:
            return False
        self.acknowledged[key] = self.unknown.pop(key)
        return True

    def differences(self, found: Mapping[str, Value]) -> Iterator[str]:
        """Yield a sentence for each key of `found`, or missing from it, that breaks a promise."""
        for key, value in self.acknowledged.items():
            if key not in found:
                yield f"the acknowledged {key!r} is lost"
            elif found[key] != value:
                yield f"{key!r} is {found[key]!r}, acknowledged was {value!r}"
        for key, value in found.items():
            if key in self.refused:
                yield f"{key!r} is there and was definitely not applied"
            elif key not in self.acknowledged and self.unknown.get(key) != value:
                yield f"{key!r} is {value!r} and nobody wrote that"


async def read_everything(client: RaftClient, timeout: float | None = None) -> dict[str, Value]:
    """Return all pairs whose key is text, in pages of one moment each."""
    found: dict[str, Value] = {}
    last: str | None = None
    while True:
        query = ["scan", "", PAGE] if last is None else ["scan", "", PAGE, last]
        pairs: Any = await client.read(query, timeout)
        if not pairs:
            return found
        found.update(pairs)
        last = pairs[-1][0]
