"""The protocol, sans I/O: what goes in, what comes out, and in which order.

Nothing in this package reads a clock, draws a number of its own, touches a file or a
socket, logs or starts a thread. `server.Server` is one Raft server. It has one door:

    outputs = server.step(events, now)

The shell around it gathers what happened in one reactor turn (`events`), passes the
monotonic time, and carries out the `Outputs`, field by field, in their order. The same
state, events and time always give equal Outputs.

**What goes in** is a closed union, `events.Event`: messages of peers, saves that are
done, proposals, reads, and a few requests. **What comes out** is one frozen value,
`outputs.Outputs`; its docstring says what each field asks of the shell.

**Saves go by ticket.** Everything that must be durable leaves in `Outputs.save` under
the next number of one growing sequence. `Saved(n)` says that all up to n is on disk. A
message whose `after` is n leaves only then: a vote, an acknowledgement, and any message
that shows a term. A ticket, unlike an index, cannot be mistaken for the earlier copy of
an entry that was truncated and written again.

**Ranges, not payloads.** The core's log knows terms, sizes and configurations. Payloads
stay in the shell: a proposal comes in as a count, an AppendEntries leaves as a range, and
what arrives is summed up before it gets here.

**Time** comes in as `now` and leaves as `next_deadline`. **Chance** comes in once, as a
`random.Random`.

The rooms follow the chapters of Ongaro's dissertation:

- `server`: Figure 2's state, the front desk, and the only verbs that change the state.
- `elections`: votes, pre-vote, stickiness (3.4, 4.2.3, 9.6).
- `replication`: AppendEntries from both ends, commitment, check-quorum (3.5, 3.6, 6.2).
- `reads`: ReadIndex (6.4). `transfer`: leadership transfer (3.10).
- `membership`: changes of the configuration (4).
- `snapshots`: compaction and InstallSnapshot (5.1). `configuration`: majorities (4.3).
- `log`, `progress`, `roles`: what is kept; `messages`, `events`, `outputs`: what moves.
"""
