"""The resolver of one sandbox: names of containers from a table, everything else from servers outside.

It serves sockets that were opened inside the sandbox.  Bounded: so many questions of one sandbox, and of all, may be on
their way, and each waits so long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from corten.network import dns

logger = logging.getLogger(__name__)

ADDRESS = "127.0.0.11"
_IN_FLIGHT = 256
_IN_FLIGHT_OF_ALL = 1024
_STREAMS = 64
_TIMEOUT_S = 4.0
_TRIES = 2
_STREAM_BYTES = 65535
_IDLE_S = 10.0
_NOT_NOW = (dns.SERVER_FAILURE, dns.REFUSED, dns.NOT_IMPLEMENTED)

# addresses of a name; None when it is no name of a container
Lookup = Callable[[str], Sequence[str] | None]
# names of an address
ReverseLookup = Callable[[str], Sequence[str]]
# a socket of a family and a kind, made in the sandbox
NewSocket = Callable[[int, int], socket.socket]


@dataclass(frozen=True, slots=True)
class Server:
    """Somebody who knows the rest of the world; ``inside``: asked from the sandbox, and not from the host."""

    address: str
    port: int
    inside: bool = False


@dataclass(frozen=True, slots=True)
class Zone:
    """What one container can ask for.

    servers: where everything else is asked; nobody is asked when there is none
    inside:  makes the sockets that ask servers of the sandbox
    """

    lookup: Lookup
    reverse: ReverseLookup
    servers: Callable[[], Sequence[Server]]
    inside: NewSocket


class Budget:
    """How many questions may be on their way outside at a time: each needs a descriptor of the daemon."""

    def __init__(self, limit: int = _IN_FLIGHT_OF_ALL) -> None:
        self._left = limit

    def take(self) -> bool:
        if not self._left:
            return False
        self._left -= 1
        return True

    def give_back(self) -> None:
        self._left += 1


class Resolver:
    """Serves one sandbox until it is closed."""

    def __init__(self, zone: Zone, budget: Budget, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._zone = zone
        self._budget = budget
        self._timeout_s = timeout_s
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None
        self._asking: set[asyncio.Task[None]] = set()
        self._streams: set[asyncio.Task[None]] = set()

    async def open(self, datagrams: socket.socket, stream: socket.socket) -> None:
        """Serve these sockets, which belong to the resolver from now on."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=datagrams)
        self._server = await asyncio.start_server(self._serve_stream, sock=stream)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
        for task in (*self._asking, *self._streams):
            task.cancel()

    # -- questions ----------------------------------------------------------------------------------------------------

    def answered(self, data: bytes, limit: int = 0) -> tuple[bytes, dns.Query | None]:
        """(answer, None) for what can be said at once, (b"", query) for what has to be asked outside.

        limit: bytes, 0: as many as the client takes in a datagram
        """
        try:
            query = dns.parse(data)
        except dns.BadMessage:
            return dns.refuse_unreadable(data), None
        if dns.operation(query):
            return dns.refuse(query, dns.NOT_IMPLEMENTED), None
        limit = limit or query.datagram_bytes
        if query.kind == dns.PTR:
            address = dns.pointed_address(query.name)
            names = self._zone.reverse(address) if address else ()
            if names:
                return dns.answer_pointer(query, names, limit=limit), None
        addresses = self._zone.lookup(query.name)
        if addresses is not None:
            # of a container all is known: what it does not have is an empty answer, and nobody else's business
            shuffled = random.sample(list(addresses), len(addresses))
            return dns.answer(query, shuffled, limit=limit), None
        return b"", query

    def datagram(self, data: bytes, peer: tuple[str, int]) -> None:
        """A question has come."""
        answer, query = self.answered(data)
        if query is None:
            self._send(answer, peer)
        elif len(self._asking) >= _IN_FLIGHT:
            self._send(dns.refuse(query, dns.SERVER_FAILURE), peer)
        else:
            task = asyncio.get_running_loop().create_task(self._forward_datagram(data, query, peer))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    def _send(self, answer: bytes, peer: tuple[str, int]) -> None:
        if answer and self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(answer, peer)

    async def _forward_datagram(self, data: bytes, query: dns.Query, peer: tuple[str, int]) -> None:
        self._send(await self._ask(data, query, stream=False), peer)

    async def _serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            while len(self._streams) <= _STREAMS:
                async with asyncio.timeout(_IDLE_S):
                    size = int.from_bytes(await reader.readexactly(2))
                    data = await reader.readexactly(size)
                answer, query = self.answered(data, _STREAM_BYTES)
                if query is not None:
                    answer = await self._ask(data, query, stream=True)
                if not answer:
                    break
                writer.write(len(answer).to_bytes(2) + answer)
                async with asyncio.timeout(_IDLE_S):
                    await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._streams.discard(task)
            writer.close()

    # -- outside ------------------------------------------------------------------------------------------------------

    async def _ask(self, data: bytes, query: dns.Query, *, stream: bool) -> bytes:
        """The first server's answer that comes; SERVFAIL when none does, NXDOMAIN when nobody may be asked."""
        servers = list(self._zone.servers())
        if not servers:
            return dns.refuse(query, dns.NAME_ERROR)
        if not self._budget.take():
            return dns.refuse(query, dns.SERVER_FAILURE)
        try:
            for _ in range(_TRIES):
                for server in servers:
                    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                        async with asyncio.timeout(self._timeout_s / _TRIES):
                            answer = await self._ask_server(server, data, query, stream=stream)
                            if answer[3] & 0xF not in _NOT_NOW:
                                return answer
        finally:
            self._budget.give_back()
        return dns.refuse(query, dns.SERVER_FAILURE)

    async def _ask_server(self, server: Server, data: bytes, query: dns.Query, *, stream: bool) -> bytes:
        kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
        loop = asyncio.get_running_loop()
        # an address is looked at here, not resolved: that would ask ourselves
        family, _, _, _, place = socket.getaddrinfo(
            server.address, server.port, type=kind, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )[0]
        if server.inside:
            sock = await loop.run_in_executor(None, self._zone.inside, family, kind)
        else:
            sock = socket.socket(family, kind | socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, place)
        except BaseException:
            sock.close()
            raise
        ask = _ask_stream if stream else _ask_datagram
        return await ask(sock, data, query)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._resolver.datagram(data, addr)

    def error_received(self, exc: Exception) -> None:
        logger.debug("resolver: %s", exc)


class _Answer(asyncio.DatagramProtocol):
    def __init__(self, query: dns.Query, number: int) -> None:
        self._query = query
        self._number = number
        self.received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        mine = dns.with_number(data, self._query.number) if data[:2] == self._number.to_bytes(2) else b""
        if not self.received.done() and dns.is_answer_to(mine, self._query):
            self.received.set_result(mine)

    def error_received(self, exc: Exception) -> None:
        if not self.received.done():
            self.received.set_exception(exc)


async def _ask_datagram(sock: socket.socket, data: bytes, query: dns.Query) -> bytes:
    # a number and a port of our own: an answer that someone guesses must guess both
    number = random.SystemRandom().randrange(1 << 16)
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: _Answer(query, number), sock=sock)
    try:
        transport.sendto(dns.with_number(data, number))
        return await protocol.received
    finally:
        transport.close()


async def _ask_stream(sock: socket.socket, data: bytes, query: dns.Query) -> bytes:
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        writer.write(len(data).to_bytes(2) + data)
        answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
    finally:
        writer.close()
    if not dns.is_answer_to(answer, query):
        raise OSError("an answer to another question")
    return answer
