"""What `raft bench` is made of: load, and the cluster that it is put on.

`load` keeps operations outstanding and takes their times; `worker` is the process or service
that does so when told; `inside` puts one into a node's own process; `facts` reads what the
operating system knows; `cluster` starts everything and measures; `workloads` names what is
measured.
"""
