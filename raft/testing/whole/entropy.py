"""What processes draw from the system: each from a chance of its own, drawn from the seed.

`secrets` is a module: what stands in for it does so in the whole interpreter, for as long as a
world runs. Nothing else runs meanwhile: a world waits for nobody.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define

TOKEN_BYTES = 32
"""What `secrets` gives where it is not told how much."""


@define(eq=False)
class Entropy:
    """What stands in for `secrets`; `chance` is that of the process which is running."""

    chance: random.Random

    def token_bytes(self, nbytes: int | None = None) -> bytes:
        """See `secrets.token_bytes`."""
        return self.chance.randbytes(TOKEN_BYTES if nbytes is None else nbytes)

    def token_hex(self, nbytes: int | None = None) -> str:
        """See `secrets.token_hex`."""
        return self.token_bytes(nbytes).hex()

    def randbits(self, k: int) -> int:
        """See `secrets.randbits`."""
        return self.chance.getrandbits(k)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Stand in for `secrets` within."""
        names = ("token_bytes", "token_hex", "randbits")
        before = {name: getattr(secrets, name) for name in names}
        for name in names:
            setattr(secrets, name, getattr(self, name))
        try:
            yield
        finally:
            for name, function in before.items():
                setattr(secrets, name, function)
