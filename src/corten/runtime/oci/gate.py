"""Where the init of a created container waits for "start": the socket ``start.sock`` in its directory.

Source: runtime-spec runtime.md, "Start".
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from corten.errors import SystemFailure
from corten.runtime.handshake import Channel
from corten.runtime.state import GATE


def make(directory: str) -> socket.socket:
    """The listening socket, for init."""
    gate = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _reached(directory) as short:
            gate.bind(f"{short}/{GATE}")
        gate.listen(1)
    except BaseException:
        gate.close()
        raise
    return gate


def reach(directory: str) -> Channel:
    """The handshake with the init that waits.  Errors: SystemFailure when nobody waits there any more."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _reached(directory) as short:
            connection.connect(f"{short}/{GATE}")
    except OSError:
        connection.close()
        raise SystemFailure("container init ended before it was started", step="start") from None
    return Channel(connection)


def remove(directory: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{directory}/{GATE}")


@contextlib.contextmanager
def _reached(directory: str) -> Iterator[str]:
    """A short path: that of a socket has room for 107 bytes (unix(7))."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
