"""The client's ssh agent for a step: a socket of its own that passes everything on, and goes with the step."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
from collections.abc import Iterator

from corten.errors import Unavailable

_PIECE = 1 << 16
_CONNECTIONS = 64


def connected(path: str) -> socket.socket:
    """A connection to an agent.  Errors: OSError."""
    # by descriptor: the kernel takes 108 bytes of a path, users' runtime directories have more
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(f"/proc/self/fd/{place}")
        except OSError:
            sock.close()
            raise
        return sock
    finally:
        os.close(place)


@contextlib.contextmanager
def forwarded(agent: str, directory: str, mode: int, owner: tuple[int, int]) -> Iterator[str]:
    """The path of a socket in ``directory`` that leads to the agent within the block.

    Errors: Unavailable when there is no agent.
    """
    try:
        connected(agent).close()
    except OSError as error:
        raise Unavailable(f"the ssh agent at {agent} cannot be reached: {error.strerror}") from None
    path = os.path.join(directory, "agent")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listener.bind(f"/proc/self/fd/{parent}/agent")
        finally:
            os.close(parent)
        os.chown(path, *owner)
        os.chmod(path, mode)
        listener.listen(16)
        listener.setblocking(False)
        ended, end = os.pipe2(os.O_CLOEXEC)
        thread = threading.Thread(target=_serve, args=(listener, agent, ended), name="ssh-agent", daemon=True)
        thread.start()
        try:
            yield path
        finally:
            os.close(end)
            thread.join()
            os.close(ended)


def _serve(listener: socket.socket, agent: str, ended: int) -> None:
    """Pass bytes between each client and an agent connection of its own, until the pipe ends."""
    peers: dict[socket.socket, socket.socket] = {}
    with selectors.DefaultSelector() as waiting:
        waiting.register(listener, selectors.EVENT_READ)
        waiting.register(ended, selectors.EVENT_READ)
        try:
            while True:
                for key, _ in waiting.select():
                    if key.fileobj == ended:
                        return
                    if key.fileobj is listener:
                        _accept(listener, agent, peers, waiting)
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj in peers:
                        _pass_on(key.fileobj, peers, waiting)
        finally:
            for sock in peers:
                sock.close()


def _accept(
    listener: socket.socket, agent: str, peers: dict[socket.socket, socket.socket], waiting: selectors.BaseSelector
) -> None:
    try:
        client, _ = listener.accept()
    except OSError:
        return
    try:
        if len(peers) >= 2 * _CONNECTIONS:
            raise OSError("too many connections")
        server = connected(agent)
    except OSError:
        client.close()
        return
    for one, other in ((client, server), (server, client)):
        one.settimeout(10)  # an agent's messages are small: one that does not read them is left
        peers[one] = other
        waiting.register(one, selectors.EVENT_READ)


def _pass_on(sock: socket.socket, peers: dict[socket.socket, socket.socket], waiting: selectors.BaseSelector) -> None:
    other = peers[sock]
    try:
        data = sock.recv(_PIECE)
        if data:
            other.sendall(data)
            return
    except OSError:
        pass
    for each in (sock, other):
        waiting.unregister(each)
        peers.pop(each, None)
        each.close()
