"""The wire: AMP boxes, the published commands, peers and clients.

Rooms, from the bytes up: `boxes` parses and writes, `arguments` and `commands` publish
the contract, `wire` turns Raft's messages into boxes and back, `greeting` is the handshake
and `connection` what all connections share. `peers` keeps one connection to every other server
(`outgoing`) and takes theirs (`incoming`); `clients` accepts clients and `questions` answers
one of them; `calls` is the other end of that. `endpoints` reads addresses.
"""
