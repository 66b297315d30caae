"""Raft for Twisted: a part of your state that survives the loss of a machine.

The public names; nothing else is promised. Three doors, each complete on its own:

- run it: `twistd raft --config node.toml` (`raft.tap`);
- embed it: `RaftService` with an `IStateMachine`, or the nine functions by node name;
- call it: `RaftClient`, or any AMP client with `raft.transport.commands`.

Names are imported when they are first used, so that the command line starts at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raft.api import (
        close_sessions,
        get_entry,
        keep_sessions,
        leader,
        open_session,
        read,
        set_configuration,
        start_node,
        status,
        stop_node,
        test_cluster,
        write,
    )
    from raft.client import RaftClient, SavedSession
    from raft.core.configuration import Configuration, Member
    from raft.errors import CommandError, RaftError
    from raft.interfaces import (
        Context,
        IGradualStateMachine,
        IOnDiskStateMachine,
        IPreparingStateMachine,
        IStateMachine,
        IVersionedStateMachine,
        Value,
    )
    from raft.node.settings import NodeSettings
    from raft.numbering import Numbering, OpenedSession, SessionCall
    from raft.service import RaftService

__all__ = [
    "CommandError",
    "Configuration",
    "Context",
    "IGradualStateMachine",
    "IOnDiskStateMachine",
    "IPreparingStateMachine",
    "IStateMachine",
    "IVersionedStateMachine",
    "Member",
    "NodeSettings",
    "Numbering",
    "OpenedSession",
    "RaftClient",
    "RaftError",
    "RaftService",
    "SavedSession",
    "SessionCall",
    "Value",
    "close_sessions",
    "get_entry",
    "keep_sessions",
    "leader",
    "open_session",
    "read",
    "set_configuration",
    "start_node",
    "status",
    "stop_node",
    "test_cluster",
    "write",
]

_ROOMS = {
    "raft.client": ("RaftClient", "SavedSession"),
    "raft.core.configuration": ("Configuration", "Member"),
    "raft.errors": ("CommandError", "RaftError"),
    "raft.interfaces": (
        *("Context", "IGradualStateMachine", "IOnDiskStateMachine", "IPreparingStateMachine"),
        *("IStateMachine", "IVersionedStateMachine", "Value"),
    ),
    "raft.node.settings": ("NodeSettings",),
    "raft.numbering": ("Numbering", "OpenedSession", "SessionCall"),
    "raft.service": ("RaftService",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'raft' has no attribute {name!r}")
    return getattr(importlib.import_module(_ROOM_OF.get(name, "raft.api")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
