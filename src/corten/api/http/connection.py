"""One client connection: requests answered one after the other, streams flow-controlled, hijacks handed over.

```
 idle ──head complete──▶ busy ──reply sent──▶ idle            busy ──hijack──▶ another protocol has the transport
   ▲  bytes of a next request wait in the buffer               busy ──refused, or client must not go on──▶ closing
   └─────────────────────────────────────────┘
```
While a request is answered, reading goes on so that the client's leaving is seen at once; what arrives is the rest of
its body or pipelined requests, of which no more than ``Limits.ahead_bytes`` are taken.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Protocol

from corten.api.http.application import Application, Work
from corten.api.http.body import BadFraming, LengthFraming, RequestBody
from corten.api.http.head import HeadParser
from corten.api.http.hijack import RawClient, has_hung_up
from corten.api.http.messages import (
    Hijack,
    HttpError,
    Request,
    Response,
    StreamResponse,
    Upgrade,
    WebSocketHijack,
)
from corten.api.http.streaming import LAST_CHUNK, StreamFailure, close_iterator, framed, send_stream
from corten.api.http.websocket import WebSocketClient, handshake
from corten.api.http.wire import BODILESS, CONTINUE
from corten.errors import CortenError, InvalidParameter

logger = logging.getLogger(__name__)

_END = b"\r\n\r\n"
_BURST = 16  # pipelined requests that are answered before other connections get their turn


class Guard(Protocol):
    """Looks at the headers of every request before anyone else does."""

    def check(self, headers: dict[str, str]) -> None:
        """Errors: HttpError for a request that is refused."""


class Connection(asyncio.Protocol):
    """HTTP/1.1 on one transport."""

    def __init__(self, application: Application, guard: Guard | None = None) -> None:
        self._application = application
        self._guard = guard
        self._limits = application.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = HeadParser()
        self._buffer = bytearray()
        self._searched = 0
        self._request: Request | None = None
        self._task: asyncio.Task[None] | None = None
        self._keep_alive = True
        self._skipping = False
        self._closing = False
        self._half_closed = False
        self._endless = False
        self._reading_paused = False
        self._body_held = False
        self._room: asyncio.Future[None] | None = None
        self._more_is_scheduled = False
        self._head_since = 0.0
        self._idle_since = self._loop.time()

    # -- transport --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix"
        is_full = self._application.is_full
        self._application.connected(self)
        if is_full:
            self._refuse(HttpError(503, "too many clients are connected", closes=True))

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._parser.close()
        self._application.disconnected(self)
        if self._room is not None and not self._room.done():
            self._room.set_exception(ConnectionResetError("the client has gone"))
            self._room.exception()  # nobody may be waiting
        self._leave_work()

    def _leave_work(self) -> None:
        """The client does not want the answer any more."""
        request, task = self._request, self._task
        if request is None:
            return
        request.body.fail(InvalidParameter("unexpected EOF: the client left before its request was complete"))
        if task is not None and not task.done():
            if request.outlives_client:
                self._application.adopt(task)
            else:
                task.cancel()

    def pause_writing(self) -> None:
        if self._room is None or self._room.done():
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None
        self._advance()

    async def _drained(self) -> None:
        if self._room is not None:
            await asyncio.shield(self._room)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._request is not None:
            data = self._feed_body(self._request, data)
            if not data:
                return
        self._buffer += data
        if self._request is None:
            self._advance()
        else:
            self._balance()

    def _feed_body(self, request: Request, data: bytes) -> bytes:
        body = request.body
        if body.is_received:
            return data
        try:
            data = body.feed(data)
        except BadFraming as error:
            body.fail(error)
            self._keep_alive = False
            if self._skipping:
                self._close_gently()
            return b""
        if self._skipping:
            body.drop()
            if body.is_received:
                self._next_request()
        return data

    def eof_received(self) -> bool:
        if self._closing:
            return False
        if self._skipping or has_hung_up(self._transport):
            self._transport.abort()
            return False
        # only the sending half was closed: the client may still want its answers
        self._half_closed = True
        if self._endless and self._is_on_network:
            self._transport.abort()
            return False
        if self._request is not None:
            self._request.body.fail(InvalidParameter("unexpected EOF: the request body is incomplete"))
            return True
        self._advance()
        return not self._closing

    @property
    def _is_on_network(self) -> bool:
        """TCP does not tell whether a client has gone or has closed its sending half only; as with dockerd, one that
        reads a stream without an end has gone."""
        handle = self._transport.get_extra_info("socket")
        return handle is not None and handle.family != socket.AF_UNIX

    def _hold_body(self) -> None:
        self._body_held = True
        self._balance()

    def _release_body(self) -> None:
        self._body_held = False
        self._balance()

    def _balance(self) -> None:
        """Read no more than somebody wants: the rest waits in the kernel, and with it the client."""
        pause = self._body_held or len(self._buffer) > self._limits.ahead_bytes
        if pause != self._reading_paused and not self._transport.is_closing():
            self._reading_paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # -- heads ------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Answer what has arrived completely, as far as the client takes the answers."""
        self._answer_arrived()
        self._balance()

    def _answer_arrived(self) -> None:
        self._more_is_scheduled = False
        for _ in range(_BURST):
            if self._request is not None or self._closing or self._room is not None:
                return
            if not self._buffer or not self._begin():
                if self._half_closed and not self._closing:
                    self._end_half_closed()
                return
        if self._buffer and not self._more_is_scheduled:
            self._more_is_scheduled = True
            self._loop.call_soon(self._advance)

    def _end_half_closed(self) -> None:
        """The client sends no more, and what it has sent is answered."""
        if self._buffer:
            self._refuse(HttpError(400, "unexpected EOF: the request is incomplete", closes=True))
        else:
            self._close()

    def _begin(self) -> bool:
        """Take one head from the buffer and start its request; False when more bytes are needed."""
        buffer = self._buffer
        if buffer[0] in b"\r\n" and not self._skip_blank_lines():
            return False
        end = buffer.find(_END, max(0, self._searched - 3))
        if end < 0 or end > self._limits.head_bytes:
            if len(buffer) > self._limits.head_bytes:
                self._refuse(HttpError(431, "request header fields are too large", closes=True))
                return False
            if not self._searched:
                self._head_since = self._loop.time()
            self._searched = len(buffer)
            return False
        end += len(_END)
        head = bytes(buffer) if end == len(buffer) else bytes(buffer[:end])
        del buffer[:end]
        self._searched = 0
        try:
            request = self._parse(head)
        except CortenError as error:
            self._refuse(error)
            return False
        self._request = request
        if buffer and not request.body.is_received:
            rest = self._feed_body(request, bytes(buffer))
            buffer[:] = rest
        self._respond(request)
        return True

    def _skip_blank_lines(self) -> bool:
        """A client may send CRLF before a request line (RFC 9112 section 2.2), though not for ever."""
        stripped = self._buffer.lstrip(b"\r\n")
        if len(self._buffer) - len(stripped) > 64:
            self._refuse(HttpError(400, "malformed request", closes=True))
            return False
        self._buffer[:] = stripped
        return bool(stripped)

    def _parse(self, raw: bytes) -> Request:
        """Errors: HttpError."""
        head = self._parser.parse(raw)
        if self._guard is not None:
            self._guard.check(head.headers)
        self._keep_alive = head.keeps
        body = RequestBody(head.framing, self._limits.ahead_bytes, self._hold_body, self._release_body)
        expectation = head.headers.get("expect")
        if expectation is not None:
            if expectation.lower() != "100-continue":
                raise HttpError(417, f"unknown expectation: {expectation[:60]}", closes=True)
            if head.minor and head.framing is not None:
                body.call_when_wanted(self._send_continue)
        return Request(head.method, head.target, head.minor, head.headers, body, self._limits, self._peer)

    def _send_continue(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(CONTINUE)

    # -- answers ----------------------------------------------------------------------------------------------------

    def _respond(self, request: Request) -> None:
        answer = self._application.respond(request)
        if isinstance(answer, Response):
            self._send(request, answer)
        else:
            self._task = self._loop.create_task(self._work(request, answer))

    async def _work(self, request: Request, work: Work) -> None:
        try:
            reply = await work()
            if isinstance(reply, Response):
                self._task = None
                self._send(request, reply)
            elif isinstance(reply, StreamResponse):
                await self._stream(request, reply)
            elif isinstance(reply, Upgrade):
                self._upgrade(request, reply)
            else:
                self._hand_over(request, reply)
        except Exception:
            logger.exception("connection failed while answering %s %s", request.method, request.path)
            self._transport.abort()
            return
        self._advance()

    def _refuse(self, error: CortenError) -> None:
        """Answer what is no request and close."""
        self._keep_alive = False
        response = self._application.failure(error, None)
        framing = b"Content-Length: %d\r\n" % len(response.body)
        head = self._application.heads.head(
            response.status, response.content_type, response.headers, framing, closes=True
        )
        if not self._transport.is_closing():
            self._transport.write(head + response.body)
        self._close_gently()

    def _keeps(self, request: Request) -> bool:
        """The connection can serve another request after this one."""
        if not self._keep_alive or (self._half_closed and not self._buffer):
            return False
        body = request.body
        if body.is_received:
            return True
        framing = body.framing
        return (
            not body.awaits_continue and isinstance(framing, LengthFraming) and framing.left <= self._limits.skip_bytes
        )

    def _send(self, request: Request, response: Response) -> None:
        if self._transport.is_closing():
            return
        keeps = not response.closes and self._keeps(request)
        body = response.body
        framing = b"" if response.status in BODILESS else b"Content-Length: %d\r\n" % len(body)
        head = self._application.heads.head(
            response.status, response.content_type, response.headers, framing, closes=not keeps
        )
        self._transport.write(head if request.method == "HEAD" or not body else head + body)
        self._finish(request, keeps)

    def _finish(self, request: Request, keeps: bool) -> None:
        body = request.body
        body.drop()
        if not keeps:
            if body.is_received:
                self._close()
            else:
                self._close_gently()
        elif body.is_received:
            self._next_request()
        else:
            self._skipping = True
            self._idle_since = self._loop.time()
            self._release_body()

    def _next_request(self) -> None:
        self._request = self._task = None
        self._skipping = False
        self._idle_since = self._loop.time()
        self._release_body()

    def _close(self) -> None:
        """Close once everything has been sent."""
        self._closing = True
        self._idle_since = self._loop.time()
        self._transport.close()

    def _close_gently(self) -> None:
        """Let the client read our answer although it is still sending: closing at once would reset the connection."""
        self._closing = True
        self._idle_since = self._loop.time()
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof() and not self._half_closed:
            self._transport.write_eof()
        self._buffer.clear()
        self._release_body()
        self._loop.call_later(self._limits.linger_s, self._transport.abort)

    async def _stream(self, request: Request, reply: StreamResponse) -> None:
        chunked = request.http_minor > 0
        keeps = chunked and self._keeps(request)
        framing = b"Transfer-Encoding: chunked\r\n" if chunked else b""
        head = self._application.heads.head(200, reply.content_type, reply.headers, framing, closes=not keeps)
        self._endless = reply.endless
        try:
            if request.method == "HEAD":
                await close_iterator(reply.chunks)
                self._transport.write(head)
            else:
                write, drained = self._transport.write, self._drained
                await send_stream(reply, head, chunked=chunked, write=write, drained=drained)
        except StreamFailure as failure:
            if not self._end_failed_stream(request, reply, failure, chunked=chunked):
                return
        finally:
            self._endless = False
        self._task = None
        if not self._transport.is_closing():
            self._finish(request, keeps)

    def _end_failed_stream(
        self, request: Request, reply: StreamResponse, failure: StreamFailure, *, chunked: bool
    ) -> bool:
        """Tell of the error as well as is still possible; True when the response is complete nevertheless."""
        if self._transport.is_closing():
            return False
        response = self._application.failure(failure.cause, request)
        if not failure.started:
            self._task = None
            self._send(request, response)
            return False
        if reply.on_error is None:
            self._transport.abort()
            return False
        self._transport.write(framed(reply.on_error(failure.cause), chunked=chunked) + (LAST_CHUNK if chunked else b""))
        return True

    def _hand_over(self, request: Request, reply: Hijack | WebSocketHijack) -> None:
        """Give the transport, and the bytes that came early, to the stream's protocol."""
        if self._transport.is_closing():
            reply.sock.close()
            return
        heads = self._application.heads
        client: RawClient
        if isinstance(reply, WebSocketHijack):
            try:
                head = heads.upgraded("", "websocket", handshake(request))
            except HttpError as error:
                reply.sock.close()
                self._task = None
                self._send(request, self._application.failure(error, request))
                return
            client = WebSocketClient(framed=reply.framed, linger_s=self._limits.linger_s)
        else:
            head = heads.upgraded(reply.content_type, "tcp") if request.upgrade else heads.hijacked(reply.content_type)
            framing = None if request.body.is_received else request.body.framing
            client = RawClient(framing, linger_s=self._limits.linger_s)
        early = self._let_go(request, head)
        self._application.hijacked(self, client)
        client.attach(self._transport, reply.sock, early, input_ended=self._half_closed)

    def _let_go(self, request: Request, head: bytes) -> bytes:
        """Write the last head of this protocol; what the client has sent beyond its request."""
        early = request.body.take() + bytes(self._buffer)
        self._closing = True  # as far as HTTP is concerned
        self._request = self._task = None
        self._buffer.clear()
        self._release_body()
        self._transport.write(head)
        return early

    def _upgrade(self, request: Request, reply: Upgrade) -> None:
        """Give the transport to another protocol."""
        if self._transport.is_closing():
            return
        try:
            reply.check()
        except CortenError as error:
            self._task = None
            self._send(request, self._application.failure(error, request))
            return
        early = self._let_go(request, self._application.heads.upgraded("", reply.protocol))
        if self._half_closed:
            self._transport.abort()  # nobody is left to speak with
            return
        self._application.hijacked(self, reply.take(self._transport, early))

    # -- the server's watch -----------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """No request is being answered and none has begun."""
        return self._request is None and not self._buffer

    def check(self, now: float) -> None:
        """End what has taken too long, and what nobody waits for.  ``now`` is the loop's time."""
        if self._closing:
            if now - self._idle_since > self._limits.idle_timeout_s:
                self._transport.abort()  # it does not read its last answer
            return
        if self._skipping:
            if now - self._idle_since > self._limits.body_timeout_s:
                self._transport.abort()
        elif self._request is not None:
            if self._half_closed and (has_hung_up(self._transport) or (self._endless and self._is_on_network)):
                self._transport.abort()
        elif self._searched:  # half a head
            if now - self._head_since > self._limits.header_timeout_s:
                self._refuse(HttpError(408, "the request head took too long", closes=True))
        elif now - self._idle_since > self._limits.idle_timeout_s:
            self._close()

    def close_when_idle(self) -> None:
        """Finish the request under way, then close; streams without an end are cut."""
        self._keep_alive = False
        if self._endless:
            self._transport.abort()
        elif self._request is None:
            self._close()

    def abort(self) -> None:
        """Cut the connection and leave its work."""
        self._transport.abort()

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The work under way."""
        return self._task
