"""Whole nodes on one seed in virtual time: real services, logs, connections and clients.

What a machine, an operating system and a network are is simulated here, and nothing above them:
`RaftService` with its write-ahead log, its AMP connections, sessions and snapshots, and
`RaftClient`, run as they do in a process. Run it with `python -m raft.testing.whole --seed N`.
"""
