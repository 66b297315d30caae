"""The way in from outside: `RaftClient` finds the leader, follows it, and repeats what it may.

`batches` are what leaves as one box. `lanes` gather the requests of a turn into them and keep
their order and deadlines; `numbered` is the lane of writes within a session, and `meanings`
tells what an answer says of a copy that was sent. `session` opens, keeps and ends the session.
`links` keeps connections, `probes` finds those that hang, `search` and `route` decide whom to
ask next and when, `recording` writes histories, and `client` joins them behind the public API.
"""

from __future__ import annotations

from raft.client.client import RaftClient
from raft.client.session import SavedSession

__all__ = ["RaftClient", "SavedSession"]
