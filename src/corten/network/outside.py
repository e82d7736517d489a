"""Sockets of the host's network, for a daemon that lives in a network namespace of its user (``rootless.py``).

The outer process binds them, the daemon gets their descriptors and accepts: it passes on what comes, and a container
sees the gateway of its network as the other side, never its own 127.0.0.1.  One request and one answer at a time, each
one packet of JSON on a SOCK_SEQPACKET pair; the first packet is the greeting of the outer process.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from corten.errors import SystemFailure
from corten.linux import mount
from corten.network import ports

_PACKET = 1 << 16
_RESOLVER = "/etc/resolv.conf"


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the outer process knows.

    program:     what carries the packets ("pasta", "slirp4netns"); "" when nothing does, ``reason`` says why then
    resolv_conf: who is asked for names inside; "" to leave /etc/resolv.conf as it is
    has_ipv6:    the host can listen on IPv6 addresses
    """

    program: str
    reason: str = ""
    resolv_conf: str = ""
    has_ipv6: bool = False


# -- the outer process ------------------------------------------------------------------------------------------------


def serve(channel: socket.socket, greeting: Greeting) -> None:
    """Greet the daemon, then bind what it asks for until it has ended.  Never raises; closes the channel."""
    document = asdict(greeting) | {"has_ipv6": ports.has_ipv6()}
    with channel:
        try:
            channel.sendall(json.dumps(document).encode())
            while request := channel.recv(_PACKET):
                _answer(channel, json.loads(request))
        except OSError:
            return  # it has been killed


def _answer(channel: socket.socket, request: dict[str, object]) -> None:
    try:
        sock = ports.bind(
            str(request["protocol"]), int(str(request["version"])), str(request["address"]), int(str(request["port"]))
        )
    except OSError as error:
        text = error.strerror or str(error)
        channel.sendall(json.dumps({"errno": error.errno or errno.EIO, "text": text}).encode())
        return
    with sock:
        socket.send_fds(channel, [b"{}"], [sock.fileno()])


# -- the daemon -------------------------------------------------------------------------------------------------------


class Outside:
    """The host's network, seen from the daemon.  Methods may be called from any thread.

    channel: belongs to this object from now on
    Errors: SystemFailure when the outer process has ended without a word.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        packet = channel.recv(_PACKET)
        if not packet:
            raise SystemFailure("the process outside the user namespace has ended", step="rootless network")
        self.greeting = Greeting(**json.loads(packet))

    @property
    def lacking(self) -> str:
        """Why there is no way out of this network namespace; "" when there is one."""
        return "" if self.greeting.program else f"networks without root have no way out: {self.greeting.reason}"

    def bind(self, protocol: str, version: int, address: str, port: int) -> socket.socket:
        """As ``ports.bind``, in the host's network.  Errors: OSError."""
        request = {"protocol": protocol, "version": version, "address": address, "port": port}
        with self._lock:
            self._channel.sendall(json.dumps(request).encode())
            packet, descriptors, _, _ = socket.recv_fds(self._channel, _PACKET, 1)
        if descriptors:
            os.set_inheritable(descriptors[0], False)
            return socket.socket(fileno=descriptors[0])
        if not packet:
            raise OSError(errno.EPIPE, "the process that binds ports of the host has ended")
        answer = json.loads(packet)
        raise OSError(answer["errno"], answer["text"])

    def use_resolver(self, directory: Path) -> None:
        """Have /etc/resolv.conf of this mount namespace, if it has one, name servers that can be asked from here.

        Errors: OSError.
        """
        if self.greeting.resolv_conf:
            path = directory / "resolv.conf"
            path.write_text(self.greeting.resolv_conf)
            # the daemon before may have done it: the namespaces live as long as containers run
            if os.path.exists(_RESOLVER) and not os.path.samefile(path, _RESOLVER):
                mount.mount(str(path), _RESOLVER, "", mount.MS_BIND)

    def close(self) -> None:
        self._channel.close()
