"""Namespaces for a container that is going to be started: a user namespace, and a network namespace that belongs to it.

The user namespace is a new one, or that of another container whose namespaces are shared.

The daemon prepares a container's network before its program is there.  It cannot make a user namespace itself, since
that takes a process with one thread: a child of the spawner makes both and sends their descriptors.
"""

from __future__ import annotations

import _signal
import _socket
import json
import os

from corten.errors import SystemFailure
from corten.linux import process as kernel
from corten.runtime import idmap
from corten.shim import protocol
from corten.shim.protocol import Packet


def lend(connection: int, packet: Packet) -> None:
    """The child's whole life.  connection: who wants them"""
    daemon = _socket.socket(fileno=connection)
    try:
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        wanted = json.loads(packet.payload())
        linux = {"uidMappings": wanted["uids"], "gidMappings": wanted["gids"]}
        with idmap.namespace_of(linux, wanted["path"]) as namespace:
            user = namespace()
            kernel.setns(user, kernel.CLONE_NEWUSER)
            kernel.unshare(kernel.CLONE_NEWNET)
            network = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            protocol.send(daemon, {"lent": True}, [user, network])
    except BaseException as error:
        failure = error if not isinstance(error, OSError) else SystemFailure(str(error), step="namespaces")
        protocol.send(daemon, {"error": protocol.describe_error(failure)})
