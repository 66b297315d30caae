"""The shell around the core: one server's turns, its records, its callers, its snapshots.

`shell.Shell` gathers what happens in a reactor turn, steps the core once, and carries the
Outputs out. `records` keeps the bytes of recent entries, `writes` and `reads` those who
wait for an answer, `snapshots` moves snapshots to disk and to peers.
"""
