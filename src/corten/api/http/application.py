"""What a connection needs of the application whose requests it carries."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from corten.api.http.messages import Client, Limits, Reply, Request, Response
from corten.api.http.wire import Heads

if TYPE_CHECKING:
    import asyncio

    from corten.api.http.connection import Connection

Work = Callable[[], Coroutine[Any, Any, Reply]]


class Application(Protocol):
    """Answers requests and knows who is connected."""

    limits: Limits
    heads: Heads

    @property
    def is_full(self) -> bool:
        """No further client is served."""

    def respond(self, request: Request) -> Response | Work:
        """A response that needs no waiting, or the work that gives one; neither raises but for cancellation."""

    def failure(self, error: Exception, request: Request | None) -> Response:
        """The response that tells of ``error``; None stands for what is no request."""

    def connected(self, connection: Connection) -> None: ...

    def disconnected(self, connection: Connection) -> None: ...

    def hijacked(self, connection: Connection, client: Client) -> None:
        """The transport of ``connection`` belongs to ``client`` from now on."""

    def adopt(self, task: asyncio.Task[None]) -> None:
        """Keep work alive whose client has gone."""
