"""Requests to replies: finds the route, calls its handler, turns errors into responses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from corten import __version__
from corten.api.errors import error_response
from corten.api.http.messages import Client, Limits, Reply, Request, Response, StreamResponse
from corten.api.http.wire import Heads
from corten.api.routing import Route, Router
from corten.dockerapi.version import API_VERSION
from corten.engine.prometheus import Measured

if TYPE_CHECKING:
    import asyncio

    from corten.api.http.connection import Connection
    from corten.engine.engine import Engine
    from corten.engine.metrics import Metrics

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
        self.limits = limits
        self._answered: dict[tuple[str, ...], float] = {}
        self.heads = Heads(COMMON_HEADERS)
        self.connections: set[Connection] = set()
        self.clients: set[Client] = set()
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
        self._note(request, response)
        return response

    async def _answer(self, route: Route, request: Request) -> Reply:
        try:
            reply = await route.handler(self._engine, request)
        except Exception as error:
            return self.failure(error, request)
        self._note(request, reply)
        return reply

    def failure(self, error: Exception, request: Request | None) -> Response:
        """The response that tells of ``error``."""
        what = "malformed request" if request is None else f"{request.method} {request.path[:200]}"
        response = error_response(error, what)
        if request is not None:
            self._note(request, response)
        return response

    def _note(self, request: Request, reply: Reply) -> None:
        """Count a request, and write it to the access log."""
        if isinstance(reply, Response):
            status = str(reply.status)
        else:
            status = "200" if isinstance(reply, StreamResponse) else "101"
        key = (request.method, status)
        self._answered[key] = self._answered.get(key, 0) + 1
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "%s %s %s%s -> %s in %.1f ms, %s",
                request.peer,
                request.method,
                request.path[:500],
                f"?{request.raw_query[:500]}" if request.raw_query else "",
                status,
                (time.perf_counter() - request.begun) * 1000,
                type(reply).__name__,
            )

    def describe(self, metrics: Metrics) -> None:
        """Add what is known here to the engine's metrics."""
        registry = metrics.registry
        registry.add(
            Measured(
                "corten_api_requests_total",
                "Requests to the API that were answered, by status",
                lambda: self._answered,
                ("method", "code"),
                kind="counter",
            )
        )
        registry.add(
            Measured(
                "corten_api_connections",
                "Clients that are connected to the API, by what their connection carries",
                lambda: {("http",): len(self.connections), ("stream",): len(self.clients)},
                ("kind",),
            )
        )

    # -- who is connected -------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        return len(self.connections) + len(self.clients) >= self.limits.connections

    def connected(self, connection: Connection) -> None:
        self.connections.add(connection)

    def disconnected(self, connection: Connection) -> None:
        self.connections.discard(connection)

    def hijacked(self, connection: Connection, client: Client) -> None:
        """The connection's transport belongs to a stream from now on."""
        self.connections.discard(connection)
        self.clients.add(client)
        client.closed.add_done_callback(lambda _: self.clients.discard(client))

    def adopt(self, task: asyncio.Task[None]) -> None:
        """Keep work alive whose client has gone."""
        self.adopted.add(task)
        task.add_done_callback(self.adopted.discard)
