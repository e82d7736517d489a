"""One client connection: requests one after the other, answers from memory at once, files by ``sendfile``.

```
 idle ──head──▶ known answer, still true: sent at once ──▶ idle
   └──────────▶ busy (a task: handler, then its reply) ──▶ idle, or closing when the rest of a body was not wanted
```
The answer to a manifest's GET or HEAD is remembered under the exact bytes of its head (``known.Known``): whatever could
change it (credentials, ranges, conditions) is in there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING

from corten.api.http.body import BadFraming, LengthFraming, RequestBody
from corten.api.http.head import Head, HeadParser
from corten.api.http.messages import HttpError, Request
from corten.api.http.wire import CONTINUE
from corten.errors import CortenError, InvalidParameter
from corten.registry.server.failures import Refusal
from corten.registry.server.replies import AnyReply, ChunkReply, FileReply, Reply, refused

if TYPE_CHECKING:
    from corten.registry.server.service import Service

logger = logging.getLogger(__name__)

_END = b"\r\n\r\n"
_SMALL_FILE = 64 << 10  # read and sent with its head
_PIECE = 4 << 20  # of a file, for which a client gets ``stall_s``
_BODILESS = (204, 304)
_CAPITAL_A, _CAPITAL_Z = ord("A"), ord("Z")


class Connection(asyncio.Protocol):
    """HTTP/1.1 on one transport."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._limits = service.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = HeadParser()
        self._buffer = bytearray()
        self._searched = 0
        self._body: RequestBody | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._draining = False
        self._room: asyncio.Future[None] | None = None
        self._body_held = False
        self._only_asks = False
        self.peer = ""
        # watched from outside (``look``): since when it waits, how much has come since
        self._since = time.monotonic()
        self._received = 0

    # -- transport ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix"
        self._service.connected(self)
        if self._service.is_full:
            self._send_now(refused(Refusal("TOOMANYREQUESTS", "too many clients are connected", status=503)), "GET")
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._parser.close()
        self._service.disconnected(self)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self._body is not None:
            self._body.fail(ConnectionResetError("the client left before its request was complete"))
        elif self._task is not None and self._only_asks:
            self._task.cancel()  # changes are finished, also for a client that has gone

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None
        if self._task is None and not self._closing:
            if not self._transport.is_reading():
                self._transport.resume_reading()
            self._advance()

    def eof_received(self) -> bool:
        if self._body is not None and not self._body.is_received:
            return False
        return self._task is not None  # a client that asked and closed its half still gets the answer

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        self._service.received(len(data))
        if self._closing:
            return
        body = self._body
        if body is not None and not body.is_received:
            try:
                data = body.feed(data)
            except BadFraming as error:
                body.fail(error)
                self._draining = True
                return
            if self._draining:
                body.drop()
                return
        if data:
            self._buffer += data
            if self._task is None:
                self._advance()
            if len(self._buffer) > self._limits.ahead_bytes:
                self._transport.pause_reading()

    # -- requests -----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        # a client that does not read gets no further answers: _room is there until there is room again
        while self._task is None and self._buffer and self._room is None and not self._closing:
            if not _CAPITAL_A <= self._buffer[0] <= _CAPITAL_Z:
                # TLS, most often: a client that tries it first should not wait for what cannot come
                self._refuse(Refusal("UNKNOWN", "this is no HTTP", status=400, closes=True))
                return
            end = self._buffer.find(_END, max(0, self._searched - 3))
            if end < 0:
                self._searched = len(self._buffer)
                if self._searched > self._limits.head_bytes:
                    self._refuse(Refusal("UNKNOWN", "request head is too large", status=431, closes=True))
                return
            if end > self._limits.head_bytes:
                self._refuse(Refusal("UNKNOWN", "request head is too large", status=431, closes=True))
                return
            head = bytes(self._buffer[: end + 4])
            del self._buffer[: end + 4]
            self._searched = 0
            known = self._service.known.answer(head, self.peer)
            if known is not None:
                self._transport.write(known)
            else:
                self._begin(head)
        self._since = time.monotonic()

    def _begin(self, raw: bytes) -> None:
        try:
            head = self._parser.parse(raw)
        except HttpError as error:
            self._refuse(Refusal("UNKNOWN", str(error), status=error.status, closes=True))
            return
        body = RequestBody(head.framing, self._limits.ahead_bytes, self._hold_body, self._let_body)
        request = Request(head.method, head.target, head.minor, head.headers, body, self._limits, self.peer)
        expected = head.headers.get("expect")
        if expected is not None:
            if expected.lower() != "100-continue":
                self._refuse(Refusal("UNKNOWN", "unsupported expectation", status=417, closes=True))
                return
            body.call_when_wanted(lambda: self._transport.write(CONTINUE))
        self._body = body if head.framing is not None else None
        if self._buffer and self._body is not None:
            data, self._buffer = bytes(self._buffer), bytearray()
            try:
                self._buffer += body.feed(data)
            except BadFraming as error:
                self._refuse(Refusal("UNKNOWN", str(error), status=400, closes=True))
                return
        self._only_asks = head.method in ("GET", "HEAD")
        self._task = self._loop.create_task(self._serve(request, head, raw))

    def _hold_body(self) -> None:
        self._body_held = True
        if not self._closing:
            self._transport.pause_reading()

    def _let_body(self) -> None:
        self._body_held = False
        self._since, self._received = time.monotonic(), 0
        if not self._closing:
            self._transport.resume_reading()

    async def _serve(self, request: Request, head: Head, raw: bytes) -> None:
        reply: AnyReply = await self._reply_of(request)
        sent = 0
        try:
            keeps = head.keeps and not reply.closes and self._wants_rest()
            reply.closes = not keeps
            if keeps and not head.minor:
                reply.headers += (("Connection", "keep-alive"),)  # what HTTP/1.0 has to be told
            if isinstance(reply, Reply) and reply.stays is not None and keeps and head.framing is None:
                self._service.known.keep(raw, reply, head.method == "HEAD")
            sent = await self._send(reply, request)
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            keeps = False
            self._transport.abort()
        except Exception:
            # the promised length cannot be kept: only a cut connection tells the client
            keeps = False
            logger.exception("%s %s", request.method, request.path)
            self._transport.abort()
        finally:
            self._service.served(request, reply, sent)
        self._end(keeps)

    async def _reply_of(self, request: Request) -> AnyReply:
        try:
            return await self._service.handle(request)
        except Refusal as refusal:
            return refused(refusal)
        except asyncio.CancelledError:
            return Reply(503, closes=True)
        except ConnectionResetError:
            return Reply(400, closes=True)
        except InvalidParameter as error:
            return refused(Refusal("UNKNOWN", str(error), status=400, closes=isinstance(error, BadFraming)))
        except (OSError, CortenError) as error:
            return refused(self._service.failed(request, error))
        except Exception:
            logger.exception("%s %s", request.method, request.path)
            return refused(Refusal("UNKNOWN", "internal error"))

    def _wants_rest(self) -> bool:
        """Whether what is left of the request's body is small enough to be read and dropped."""
        body = self._body
        if body is None or body.is_received:
            return True
        framing = body.framing
        return (
            not body.awaits_continue
            and isinstance(framing, LengthFraming)
            and framing.left <= self._limits.skip_bytes
            and not self._closing
        )

    def _end(self, keeps: bool) -> None:
        """The answer is sent: the next request, or the end."""
        self._task = None
        body, self._body = self._body, None
        if self._closing:
            return
        if not keeps:
            self._linger(body)
            return
        if body is not None and not body.is_received:
            # _wants_rest: dropped as it comes, in a task of its own so that the limits of waiting hold
            self._body = body
            self._task = self._loop.create_task(self._skip(body))
            return
        if self._body_held:
            self._let_body()
        elif not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()
        self._advance()

    async def _skip(self, body: RequestBody) -> None:
        with contextlib.suppress(InvalidParameter, ConnectionError):
            async for _ in body:
                pass
        self._end(keeps=body.is_received)

    def _linger(self, body: RequestBody | None) -> None:
        """Close, but let the client read our last bytes first: one that still sends would get a reset instead."""
        if body is None or body.is_received:
            self._close()
            return
        self._draining, self._body = True, body
        body.drop()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._loop.call_later(self._limits.linger_s, self._close)

    # -- answers ------------------------------------------------------------------------------------------------------

    async def _send(self, reply: AnyReply, request: Request) -> int:
        """Bytes of the body that were sent.  Errors: ConnectionError, TimeoutError."""
        head = self._service.heads.reply(reply)
        bodiless = request.method == "HEAD" or reply.status in _BODILESS
        try:
            if self._closing:
                raise ConnectionResetError
            if bodiless:
                self._transport.write(head)
                return 0
            if isinstance(reply, Reply):
                self._transport.write(head + reply.body)
            elif isinstance(reply, FileReply):
                await self._send_file(head, reply)
            else:
                self._transport.write(head)
                await self._send_chunks(reply)
            await self._drained()
        finally:
            if isinstance(reply, FileReply):
                reply.file.close()
        return reply.length

    async def _send_file(self, head: bytes, reply: FileReply) -> None:
        start, left = reply.start, reply.length
        if left <= _SMALL_FILE:
            content = os.pread(reply.file.fileno(), left, start)
            if len(content) != left:
                raise OSError("the file is shorter than it was")
            self._transport.write(head + content)
            return
        self._transport.write(head)
        while left:
            count = min(_PIECE, left)
            async with asyncio.timeout(self._limits.body_timeout_s):
                sent = await self._loop.sendfile(self._transport, reply.file, start, count)
            if not sent:
                raise OSError("the file is shorter than it was")
            start += sent
            left -= sent

    async def _send_chunks(self, reply: ChunkReply) -> None:
        left = reply.length
        async with contextlib.aclosing(reply.chunks):
            async for chunk in reply.chunks:
                left -= len(chunk)
                if self._closing:
                    raise ConnectionResetError
                self._transport.write(chunk)
                await self._drained()
        if left:
            raise OSError(f"{left} bytes of the content are missing")

    async def _drained(self) -> None:
        if self._room is not None:
            async with asyncio.timeout(self._limits.body_timeout_s):
                await asyncio.shield(self._room)

    def _send_now(self, reply: Reply, method: str) -> None:
        self._transport.write(self._service.heads.reply(reply) + (b"" if method == "HEAD" else reply.body))

    def _refuse(self, refusal: Refusal) -> None:
        self._buffer.clear()
        reply = refused(refusal)
        reply.closes = True
        self._send_now(reply, "GET")
        self._draining = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._closing = True
        self._loop.call_later(self._limits.linger_s, self._close)

    def _close(self) -> None:
        self._closing = True
        self._transport.close()

    # -- from outside -------------------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Cut what waits too long: for a request, for its head, for its body."""
        waited = now - self._since
        if self._task is None:
            limit = self._limits.header_timeout_s if self._buffer else self._limits.idle_timeout_s
            if waited <= limit:
                return
            if self._transport.get_write_buffer_size():
                self._transport.abort()  # closing would wait for somebody who does not read
            else:
                self._close()
        elif self._body is not None and not self._body.is_received and not self._body_held:
            if waited > self._limits.body_timeout_s:
                if self._received < self._service.slow_bytes:
                    self._transport.abort()
                self._since, self._received = now, 0
        else:
            self._since = now

    def close_when_idle(self) -> None:
        """Finish the request under way, if any, and no other."""
        if self._task is None:
            self._close()

    def abort(self) -> None:
        self._transport.abort()

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The request under way."""
        return self._task
