"""Tell twistd that there is a `raft` command; the options are loaded only when it is used."""

from twisted.application.service import ServiceMaker

raft = ServiceMaker("raft", "raft.tap", "Run a node of a replicated state machine.", "raft")
