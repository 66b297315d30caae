"""What callers give, checked before anything is done with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from raft.errors import BadCommand, BadConfiguration
from raft.transport.arguments import BadValue, pack_members, pack_plain, unpack_members
from raft.transport.endpoints import require_private

MemberLike = Mapping[str, object] | attrs.AttrsInstance
"""A `raft.core.configuration.Member`, or a mapping of its fields of which only `id` is required."""

MEMBER_KEYS: Final = frozenset({"id", "incarnation", "peer_address", "client_address", "voter"})

LONGEST_SECONDS: Final = 86_400.0
"""The longest time-out, which is also the longest that a node takes."""


def checked_timeout(seconds: float) -> float:
    """Return a call's time-out in seconds; raise `BadCommand` where it is none."""
    if isinstance(seconds, int | float) and 0 < seconds <= LONGEST_SECONDS:
        return seconds
    raise BadCommand(
        f"timeout is {seconds!r}; give a number of seconds above 0, at most {LONGEST_SECONDS:g}"
    )


def checked_setting(name: str, seconds: float) -> float:
    """Return the client's setting `name`; raise `BadConfiguration` where it is no time-out."""
    try:
        return checked_timeout(seconds)
    except BadCommand as error:
        raise BadConfiguration(f"{name}: {error.args[0]}") from error


def checked_addresses(endpoints: str | Iterable[str], allow_plaintext: bool) -> list[str]:
    """Return the addresses to begin with, one or several.

    Raises:
        BadConfiguration: there are none, or one is no address or refused without encryption.
    """
    addresses = [endpoints] if isinstance(endpoints, str) else list(endpoints)
    if not addresses:
        raise BadConfiguration("endpoints is empty: give the address of at least one node")
    for address in addresses:
        require_private(address, allow_plaintext)
    return addresses


def packed_members(members: Iterable[MemberLike]) -> bytes:
    """Return members as the wire has them.

    Raises:
        BadConfiguration: one of them is no member; the text names the key.
    """
    maps = [dict(each) if isinstance(each, Mapping) else attrs.asdict(each) for each in members]
    for fields in maps:
        unknown = sorted(set(fields) - MEMBER_KEYS, key=str)
        if unknown:
            raise BadConfiguration(
                f"a member has the unknown key {unknown[0]!r}; known are {sorted(MEMBER_KEYS)}"
            )
    try:
        return pack_members(unpack_members(pack_plain(maps)))
    except (BadValue, TypeError) as error:
        raise BadConfiguration(f"members: {error}; give each at least an id") from error
