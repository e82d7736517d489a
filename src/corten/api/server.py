"""The server: listening sockets, the connections they give, and an orderly end of both."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from corten.api.app import Application
from corten.api.http.connection import Connection
from corten.api.http.messages import Limits
from corten.api.http.tls import TlsServerProtocol
from corten.api.listen import ListenAddress, Listener, listen_all, listen_tcp, parse_host
from corten.api.routes import ROUTES
from corten.api.routes.system import METRICS_ROUTES
from corten.api.routing import Router
from corten.api.tcp import HostGuard, TcpOptions, parse_tcp_address, tls_context
from corten.errors import InvalidParameter

if TYPE_CHECKING:
    from corten.engine.engine import Engine
    from corten.engine.metrics import Metrics

logger = logging.getLogger(__name__)

_WATCH_INTERVAL_S = 1.0
_SCRAPERS = 64


def _default_limits() -> Limits:
    """No more connections than half of the descriptors that this process may have: the other half is for its work."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = Limits()
    return replace(limits, connections=max(16, min(limits.connections, descriptors // 2)))


class Server:
    """Serves the Engine API of ``engine``.

    hosts: addresses, or texts as ``--host`` takes them
    group: group of the unix sockets that are named as texts
    tcp:   how ``tcp://`` is served
    metrics_address: "host:port" where everyone may read the metrics, and nothing else
    """

    def __init__(
        self,
        engine: Engine,
        hosts: Sequence[str | ListenAddress],
        *,
        group: str = "docker",
        limits: Limits | None = None,
        tcp: TcpOptions | None = None,
        metrics_address: str = "",
    ) -> None:
        self._hosts = hosts
        self._group = group
        self._tcp = tcp or TcpOptions()
        self._application = Application(engine, Router(ROUTES), limits or _default_limits())
        self._metrics_address = metrics_address
        self._metrics = Application(engine, Router(METRICS_ROUTES), replace(Limits(), connections=_SCRAPERS))
        self._listeners: list[Listener] = []
        self._servers: list[asyncio.Server] = []
        self._handshaking: set[TlsServerProtocol] = set()
        self._watch: asyncio.TimerHandle | None = None

    def describe(self, metrics: Metrics) -> None:
        """Add what is known at the API's edge to the engine's metrics."""
        self._application.describe(metrics)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._application.connections) + len(self._application.clients)

    @property
    def tcp_addresses(self) -> list[tuple[str, int]]:
        """(address, port) of every TCP socket that is listened on."""
        return [listener.sock.getsockname()[:2] for listener in self._listeners if listener.is_tcp]

    async def start(self) -> None:
        """Listen everywhere; nothing stays open when one address fails.

        Errors: Conflict, InvalidParameter, SystemFailure, as ``api.listen``.
        """
        loop = asyncio.get_running_loop()
        try:
            for address in self._addresses():
                opened = listen_all(address, self._tcp)
                self._listeners += opened
                for listener in opened:
                    factory = self._over_tcp() if listener.is_tcp else self._over_unix
                    self._servers.append(await loop.create_server(factory, sock=listener.sock, backlog=1024))
            if self._metrics_address:
                await self._serve_metrics(self._metrics_address)
        except BaseException:
            self._stop_listening()
            raise
        self._watch = loop.call_later(_WATCH_INTERVAL_S, self._check_connections)

    async def _serve_metrics(self, text: str) -> None:
        """Errors: InvalidParameter, Conflict, SystemFailure."""
        if ":" not in text:
            raise InvalidParameter(f"invalid metrics address '{text}': HOST:PORT is needed")
        host, port = parse_tcp_address(text, text, 0)
        guard = HostGuard((), proven=True)  # a scraper may know this machine by any name, and can change nothing
        for listener in listen_tcp(host, port, text):
            self._listeners.append(listener)
            self._servers.append(
                await asyncio.get_running_loop().create_server(
                    lambda: Connection(self._metrics, guard), sock=listener.sock, backlog=64
                )
            )

    def _over_unix(self) -> Connection:
        return Connection(self._application)

    def _over_tcp(self) -> Callable[[], asyncio.Protocol]:
        """What makes a connection of a TCP socket's client.  Errors: InvalidParameter (certificates)."""
        guard = HostGuard(self._tcp.names, proven=self._tcp.tls)

        def plain() -> Connection:
            return Connection(self._application, guard)

        if not self._tcp.tls:
            return plain
        context = tls_context(self._tcp)
        limits = self._application.limits
        return lambda: TlsServerProtocol(
            context, plain, limits.handshake_timeout_s, under_way=self._handshaking, at_most=limits.handshakes
        )

    def _addresses(self) -> Iterable[ListenAddress]:
        for host in self._hosts:
            if isinstance(host, ListenAddress):
                yield host
            else:
                yield from parse_host(host, self._group, self._tcp)

    def _check_connections(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [*self._application.connections, *self._metrics.connections]:
            connection.check(now)
        for client in list(self._application.clients):
            client.check()
        self._watch = loop.call_later(_WATCH_INTERVAL_S, self._check_connections)

    def _stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        for listener in self._listeners:
            listener.close()
        self._servers.clear()
        self._listeners.clear()

    async def close(self, grace_s: float) -> None:
        """Stop listening, cut endless streams, let other requests finish for ``grace_s`` seconds, cut the rest."""
        self._stop_listening()
        if self._watch is not None:
            self._watch.cancel()
        application = self._application
        for handshake in list(self._handshaking):
            handshake.abort()
        for connection in [*application.connections, *self._metrics.connections]:
            connection.close_when_idle()
        for client in list(application.clients):
            client.transport.close()
        tasks = self._tasks()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            if late:
                logger.warning("%d requests did not end in time", len(late))
        for connection in [*application.connections, *self._metrics.connections]:
            connection.abort()
        for client in list(application.clients):
            client.abort()
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # connection_lost of everyone
        await asyncio.sleep(0)

    def _tasks(self) -> set[asyncio.Task[None]]:
        under_way = {connection.task for connection in self._application.connections if connection.task is not None}
        return under_way | set(self._application.adopted)
