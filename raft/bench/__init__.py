"""What `raft bench` is made of: load, and the clusters that it is put on.

`load` keeps operations outstanding and takes their times; `worker` is the process or service
that does so when told, and `loader` who tells it; `inside` puts one into a node's own process;
`facts` reads what the operating system knows; `stand` starts everything and measures a span of
it. `workloads` names what is measured, `measures` by which room, and `rows` makes the figures.
"""
