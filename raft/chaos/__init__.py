"""Chaos: a cluster of real processes, everything that may go wrong with it, and a judgement.

`proxy` and `mesh` stand between the nodes, so that each link can be cut, slowed or broken for
itself. `cluster` makes nodes that find each other through it. `faults` is the list of what is done
to them, `storm` draws from it, `clients` write and read meanwhile and note what they were told.
`verdict` holds the cluster to that, once all is healed; `run` puts it together. The command is
`raft chaos`.
"""
