"""What handlers receive and return: a request; a response, complete or streamed; a connection that is taken over."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from corten.api.http.body import RequestBody
from corten.api.http.query import Query
from corten.errors import CortenError

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
TAR = "application/x-tar"

REASONS = {
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "No Content",
    206: "Partial Content",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Request Entity Too Large",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    417: "Expectation Failed",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
    507: "Insufficient Storage",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one connection may take.

    head_bytes:       request line and headers together
    json_bytes:       a body that is read whole
    ahead_bytes:      a body's bytes, or pipelined ones, that are received before somebody wants them
    skip_bytes:       the rest of an unwanted body that is read and dropped to keep the connection
    header_timeout_s: from the first byte of a head to its last
    body_timeout_s:   silence within a body that is read whole; time for the rest of one that nobody wants
    idle_timeout_s:   between requests
    linger_s:         how long a client gets to read our last bytes before the connection is closed
    handshake_timeout_s: TLS, from the connection to the end of its handshake
    handshakes:       TLS handshakes that may be under way at once
    connections:      clients at once, streams included; further ones are told so and closed
    """

    head_bytes: int = 64 * 1024
    json_bytes: int = 4 * 1024 * 1024
    ahead_bytes: int = 256 * 1024
    skip_bytes: int = 256 * 1024
    header_timeout_s: float = 30.0
    body_timeout_s: float = 60.0
    idle_timeout_s: float = 600.0
    linger_s: float = 2.0
    handshake_timeout_s: float = 10.0
    handshakes: int = 256
    connections: int = 4096


class HttpError(CortenError):
    """A request that is refused as HTTP, before or beside what it asks for.

    closes: the connection cannot be used any further
    """

    def __init__(
        self, status: int, message: str, *, closes: bool = False, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.closes = closes
        self.headers = headers


class Request:
    """One request.

    headers: lower-case names; of repeated ones the values joined with ", "
    path:    as sent, without query, still percent-encoded
    version: the API version of the path prefix, e.g. (1, 47)
    params:  what the route's template captured, decoded
    outlives_client: its work is done to the end although the client has gone
    begun:   when its head had come, on the clock of ``time.perf_counter``
    peer:    who asks, for logs
    """

    __slots__ = (
        "_query",
        "begun",
        "body",
        "headers",
        "http_minor",
        "limits",
        "method",
        "outlives_client",
        "params",
        "path",
        "peer",
        "raw_query",
        "version",
    )

    def __init__(
        self,
        method: str,
        target: str,
        http_minor: int,
        headers: dict[str, str],
        body: RequestBody,
        limits: Limits,
        peer: str = "unix",
    ) -> None:
        self.begun = time.perf_counter()
        self.peer = peer
        self.method = method
        self.path, _, self.raw_query = target.partition("?")
        self.http_minor = http_minor
        self.headers = headers
        self.body = body
        self.limits = limits
        self.version: tuple[int, ...] = ()
        self.params: dict[str, str] = {}
        self.outlives_client = False
        self._query: Query | None = None

    @property
    def query(self) -> Query:
        """Errors: InvalidParameter for a bad escape."""
        if self._query is None:
            self._query = Query.parse(self.raw_query)
        return self._query

    @property
    def upgrade(self) -> str:
        """The protocol that the client wants to change to, in lower case, or nothing.

        Some clients leave out ``Connection: Upgrade``; dockerd does not look for it either.
        """
        return self.headers.get("upgrade", "").strip().lower()


@dataclass(slots=True)
class Response:
    """A complete response.  ``closes``: no other request can come on this connection."""

    status: int = 200
    body: bytes = b""
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    closes: bool = False


@dataclass(slots=True)
class StreamResponse:
    """A response whose end is not known at its beginning.

    chunks:    what is sent, each piece at once; an error before the first becomes an ordinary error response
    at_once:   send the head before there is anything to say
    endless:   it may last for ever: cut when the server shuts down
    on_error:  what to append when ``chunks`` fails after the head was sent; without it the connection is cut, so that
               the client notices
    """

    chunks: AsyncIterator[bytes]
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    at_once: bool = False
    endless: bool = False
    on_error: Callable[[Exception], bytes] | None = None


@dataclass(slots=True)
class Hijack:
    """The connection turns into a raw stream, joined with ``sock`` until one of both ends.

    sock:         non-blocking stream socket; owned from here on
    content_type: what the stream is made of
    """

    sock: socket.socket
    content_type: str


@dataclass(slots=True)
class WebSocketHijack:
    """The connection turns into a WebSocket whose binary messages are joined with ``sock``.

    framed: ``sock`` carries Docker's 8-byte frames, of which a browser gets the payloads
    """

    sock: socket.socket
    framed: bool


class Client(Protocol):
    """Whoever has taken a connection over.  ``closed`` is done when the connection has ended."""

    transport: asyncio.Transport
    closed: asyncio.Future[None]

    def check(self) -> None:
        """Called from time to time: notice a client that has gone."""

    def abort(self) -> None:
        """Cut the connection."""


@dataclass(slots=True)
class Upgrade:
    """The connection changes to another protocol, which has the transport for itself.

    protocol: as it is called in the headers
    take:     called when the head has been written, with what the client has sent already
    check:    called before that, in the same turn of the loop; its error is the answer instead
    """

    protocol: str
    take: Callable[[asyncio.Transport, bytes], Client]
    check: Callable[[], None] = lambda: None


Reply = Response | StreamResponse | Hijack | WebSocketHijack | Upgrade
