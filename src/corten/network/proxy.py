"""Published ports that the kernel cannot redirect: IPv6 of the host to a container that has IPv4 alone, and ::1.

Connections and datagrams are passed on by the daemon.  Everything else is the firewall's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time

logger = logging.getLogger(__name__)

_CHUNK = 1 << 16
_FLOWS = 1024
_FLOW_IDLE_S = 90.0


class Proxy:
    """Passes on what comes to one socket."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows: dict[tuple[object, ...], _Flow] = {}

    async def open(self, protocol: str, sock: socket.socket) -> None:
        """Begin; the socket belongs to the proxy from now on."""
        sock.setblocking(False)
        if protocol == "tcp":
            self._server = await asyncio.start_server(self._connected, sock=sock)
        else:
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.create_datagram_endpoint(lambda: _Incoming(self), sock=sock)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._transport is not None:
            self._transport.close()
        for task in self._tasks:
            task.cancel()
        for flow in self._flows.values():
            flow.close()
        self._flows.clear()

    # -- connections --------------------------------------------------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            self._tasks.discard(task)
            return
        try:
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        finally:
            self._tasks.discard(task)
            back.close()
            writer.close()

    # -- datagrams ----------------------------------------------------------------------------------------------------

    def datagram(self, data: bytes, peer: tuple[object, ...]) -> None:
        flow = self._flows.get(peer)
        if flow is None:
            self._forget_idle()
            if len(self._flows) >= _FLOWS:
                return
            flow = self._flows[peer] = _Flow(self, peer, self._target)
        flow.send(data)

    def answer(self, data: bytes, peer: tuple[object, ...]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, peer)

    def _forget_idle(self) -> None:
        now = time.monotonic()
        for peer, flow in list(self._flows.items()):
            if now - flow.used > _FLOW_IDLE_S:
                flow.close()
                del self._flows[peer]


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(_CHUNK):
            target.write(data)
            await target.drain()
        if target.can_write_eof():
            target.write_eof()


class _Incoming(asyncio.DatagramProtocol):
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def datagram_received(self, data: bytes, addr: tuple[object, ...]) -> None:
        self._proxy.datagram(data, addr)


class _Flow:
    """One client of a port: its datagrams leave by a socket of their own, so that answers find the way back."""

    def __init__(self, proxy: Proxy, peer: tuple[object, ...], target: tuple[str, int]) -> None:
        self._proxy = proxy
        self._peer = peer
        self.used = time.monotonic()
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._socket.connect(target)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._readable)

    def send(self, data: bytes) -> None:
        self.used = time.monotonic()
        with contextlib.suppress(OSError):
            self._socket.send(data)

    def _readable(self) -> None:
        with contextlib.suppress(OSError):
            self._proxy.answer(self._socket.recv(65536), self._peer)
            self.used = time.monotonic()

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()
