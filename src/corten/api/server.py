"""The server: listening sockets, the connections they give, and an orderly end of both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from corten.api.app import Application
from corten.api.http.connection import Connection
from corten.api.http.messages import Limits
from corten.api.listen import ListenAddress, Listener, listen, parse_host
from corten.api.routes import ROUTES
from corten.api.routing import Router

if TYPE_CHECKING:
    from corten.engine.engine import Engine

logger = logging.getLogger(__name__)

_WATCH_INTERVAL_S = 1.0


class Server:
    """Serves the Engine API of ``engine``.

    hosts: addresses, or texts as ``--host`` takes them
    group: group of the unix sockets that are named as texts
    """

    def __init__(
        self,
        engine: Engine,
        hosts: Sequence[str | ListenAddress],
        *,
        group: str = "docker",
        limits: Limits | None = None,
    ) -> None:
        self._hosts = hosts
        self._group = group
        self._application = Application(engine, Router(ROUTES), limits or Limits())
        self._listeners: list[Listener] = []
        self._servers: list[asyncio.Server] = []
        self._watch: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._application.connections) + len(self._application.clients)

    async def start(self) -> None:
        """Listen everywhere; nothing stays open when one address fails.

        Errors: Conflict, InvalidParameter, SystemFailure, as ``api.listen``.
        """
        loop = asyncio.get_running_loop()
        try:
            for address in self._addresses():
                listener = listen(address)
                self._listeners.append(listener)
                self._servers.append(
                    await loop.create_server(lambda: Connection(self._application), sock=listener.sock, backlog=1024)
                )
        except BaseException:
            self._stop_listening()
            raise
        self._watch = loop.call_later(_WATCH_INTERVAL_S, self._check_connections)

    def _addresses(self) -> Iterable[ListenAddress]:
        for host in self._hosts:
            if isinstance(host, ListenAddress):
                yield host
            else:
                yield from parse_host(host, self._group)

    def _check_connections(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._application.connections):
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
        for connection in list(application.connections):
            connection.close_when_idle()
        for client in list(application.clients):
            client.transport.close()
        tasks = self._tasks()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            if late:
                logger.warning("%d requests did not end in time", len(late))
        for connection in list(application.connections):
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
