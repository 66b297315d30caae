"""The wire: AMP boxes, the published commands, peers and clients.

Rooms, from the bytes up: `boxes` parses and writes, `arguments` and `commands` publish
the contract, `wire` turns Raft's messages into boxes and back, `peers` keeps one connection
to every other server, `clients` answers clients' questions, `calls` asks them, `endpoints`
reads addresses, and `admission` bounds who may connect.
"""
