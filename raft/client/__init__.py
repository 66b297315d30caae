"""The way in from outside: `RaftClient` finds the leader, follows it, and retries what is safe.

Four rooms: `lanes` gathers the requests of a turn into boxes and keeps their order and
deadlines, `links` keeps connections, `route` decides whom to try next and when, and
`client` joins them behind the public API.
"""

from __future__ import annotations

from raft.client.client import RaftClient

__all__ = ["RaftClient"]
