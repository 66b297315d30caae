"""A Twisted application with a replicated counter inside: twistd -noy embedded.tac

The node's file is `node.toml` beside this one, or what RAFT_CONFIG names.
"""

import os

from counter import Counter
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.logger import Logger

from raft.config import read_config
from raft.errors import RaftError
from raft.tap import make_node

log = Logger(namespace="visits")
application = Application("visits")
node = make_node(read_config(os.environ.get("RAFT_CONFIG", "node.toml")), reactor, Counter())
node.setServiceParent(application)


async def count_a_start() -> None:
    leader = await node.when_leader()
    if leader != node.id:
        return
    try:
        total = await node.write(["add", "starts", 1])
        log.info("The cluster was led {total} times; read back: {read}",
                 total=total, read=await node.read("starts"))
    except RaftError as error:
        log.warn("not counted: {error}", error=error)


def started() -> None:
    from twisted.internet.defer import Deferred

    Deferred.fromCoroutine(count_a_start())


reactor.callWhenRunning(started)
