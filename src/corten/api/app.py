"""Requests to replies: finds the route, calls its handler, turns errors into responses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from corten import __version__
from corten.api.errors import error_response
from corten.api.http.messages import Limits, Reply, Request, Response
from corten.api.http.wire import Heads
from corten.api.routing import Route, Router
from corten.dockerapi.version import API_VERSION

if TYPE_CHECKING:
    import asyncio

    from corten.api.http.connection import Connection
    from corten.api.http.hijack import RawClient
    from corten.engine.engine import Engine

logger = logging.getLogger(__name__)

COMMON_HEADERS = (
    ("Api-Version", API_VERSION),
    ("Docker-Experimental", "false"),
    ("Ostype", "linux"),
    ("Server", f"Corten/{__version__} (linux)"),
)


class Application:
    """The API of one engine, and everyone who is connected to it."""

    def __init__(self, engine: Engine, router: Router, limits: Limits) -> None:
        self._engine = engine
        self._router = router
        self._logs_access = logger.isEnabledFor(logging.DEBUG)
        self.limits = limits
        self.heads = Heads(COMMON_HEADERS)
        self.connections: set[Connection] = set()
        self.clients: set[RawClient] = set()
        self.adopted: set[asyncio.Task[None]] = set()

    def respond(self, request: Request) -> Response | Callable[[], Coroutine[Any, Any, Reply]]:
        """A response at once, or the work that gives one; it never raises."""
        try:
            route = self._router.find(request)
            request.outlives_client = route.outlives_client
            if route.plain is None:
                return partial(self._answer, route, request)
            response = route.plain(self._engine, request)
        except Exception as error:
            return self.failure(error, request)
        if self._logs_access:
            self._log(request, response)
        return response

    async def _answer(self, route: Route, request: Request) -> Reply:
        try:
            reply = await route.handler(self._engine, request)
        except Exception as error:
            return self.failure(error, request)
        if self._logs_access:
            self._log(request, reply)
        return reply

    def failure(self, error: Exception, request: Request | None) -> Response:
        """The response that tells of ``error``."""
        what = "malformed request" if request is None else f"{request.method} {request.path[:200]}"
        response = error_response(error, what)
        if self._logs_access and request is not None:
            self._log(request, response)
        return response

    @staticmethod
    def _log(request: Request, reply: Reply) -> None:
        status: object = reply.status if isinstance(reply, Response) else type(reply).__name__
        logger.debug("%s %s -> %s", request.method, request.path[:500], status)

    # -- who is connected -------------------------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        self.connections.add(connection)

    def disconnected(self, connection: Connection) -> None:
        self.connections.discard(connection)

    def hijacked(self, connection: Connection, client: RawClient) -> None:
        """The connection's transport belongs to a stream from now on."""
        self.connections.discard(connection)
        self.clients.add(client)
        client.closed.add_done_callback(lambda _: self.clients.discard(client))

    def adopt(self, task: asyncio.Task[None]) -> None:
        """Keep work alive whose client has gone."""
        self.adopted.add(task)
        task.add_done_callback(self.adopted.discard)
