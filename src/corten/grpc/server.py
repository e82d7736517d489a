"""The serving role: calls that come over a connection, each in a task of its own, each with a deadline.

A handler gets the call; it ends well when it returns.  A ``CortenError`` becomes its status, any other exception is
logged and told as INTERNAL without its text.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from corten.errors import CortenError
from corten.grpc import metadata, status
from corten.grpc.framing import check_size, prefix
from corten.grpc.link import DEFAULT_LIMITS, Limits, Link
from corten.grpc.metadata import Headers, Metadata
from corten.grpc.status import Code, GrpcError
from corten.grpc.stream import Stream

logger = logging.getLogger(__name__)

Handler = Callable[["ServerCall"], Awaitable[None]]
_ACCEPTED = (b"grpc-accept-encoding", b"identity")
_NOTHING: Metadata = {}
# seconds of silence
_IDLE_S = 600.0
_ASKED_AFTER_S = 60.0
_GONE_S = 300.0


class ServerCall:
    """One call of a client.

    metadata: all headers of the request, by lower-case name
    """

    def __init__(self, link: ServerLink, stream: Stream, path: str, headers: dict[str, list[str]]) -> None:
        self.path = path
        self.metadata: Metadata = headers
        self.trailers: dict[str, list[str]] = {}  # what goes with the status
        self._link = link
        self._stream = stream
        self._has_begun = False

    @property
    def stream_id(self) -> int:
        return self._stream.id

    @property
    def refused(self) -> GrpcError | None:
        """Why what the client sends cannot be taken."""
        return self._stream.refused

    async def receive(self) -> bytes | None:
        """The next message; None when the client sends no more.  Errors: GrpcError (the client has gone)."""
        return await self._stream.receive()

    async def send(self, message: bytes) -> None:
        """Errors: GrpcError (RESOURCE_EXHAUSTED: too large; the client has gone)."""
        check_size(message, self._link.limits.message_bytes)
        self.begin()
        await self._stream.send(prefix(len(message)) + message)

    def begin(self, initial: Metadata = _NOTHING) -> None:
        """Send the response's headers, which the first message does otherwise."""
        if self._has_begun or self._stream.error is not None:
            return
        self._has_begun = True
        headers: Headers = [(b":status", b"200"), (b"content-type", b"application/grpc"), _ACCEPTED]
        self._link.send_headers(self._stream.id, headers + metadata.encode(initial))

    def finish(self, error: GrpcError | None) -> None:
        """Send the status; the call is over."""
        stream = self._stream
        if stream.error is not None or stream.ended_here:
            return
        headers: Headers = [(b"grpc-status", b"%d" % (error.code if error else 0))]
        if error is not None:
            headers.append((b"grpc-message", status.encode_message(error.message).encode()))
            if error.details:
                headers.append((b"grpc-status-details-bin", metadata.binary(error.details).encode()))
        headers += metadata.encode(self.trailers)
        if not self._has_begun:
            headers = [(b":status", b"200"), (b"content-type", b"application/grpc"), _ACCEPTED, *headers]
        self._link.finish(stream, headers)


def unary(work: Callable[[bytes, ServerCall], Awaitable[bytes]]) -> Handler:
    """A handler of one request and one response."""

    async def handle(call: ServerCall) -> None:
        request = await call.receive()
        if request is None:
            raise GrpcError(Code.INTERNAL, "a request without a message")
        await call.send(await work(request, call))

    return handle


class ServerLink(Link):
    """A connection whose other side calls ``handlers``, by path: "/package.Service/Method"."""

    def __init__(self, handlers: Mapping[str, Handler], limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(limits)
        self._handlers = handlers
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def request(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        stream = Stream(self, stream_id)
        self._streams[stream_id] = stream
        if len(self._streams) > self.limits.streams:
            self.reset(stream, ErrorCodes.REFUSED_STREAM)
            return
        found = metadata.decode(headers)
        refusal = _refused(found)
        if refusal is not None:
            self.finish(stream, refusal)
            return
        path = metadata.first(found, ":path")
        call = ServerCall(self, stream, path, found)
        try:
            handler, seconds = self._found(path, found)
        except GrpcError as error:
            call.finish(error)
            return
        task = asyncio.get_running_loop().create_task(self._run(call, handler, seconds), name=f"grpc {path[:100]}")
        self._tasks[stream_id] = task
        task.add_done_callback(lambda task: self._ended_task(task, call))

    def _ended_task(self, task: asyncio.Task[None], call: ServerCall) -> None:
        self._tasks.pop(call.stream_id, None)
        if task.cancelled():  # it may never have begun
            call.finish(call.refused or GrpcError(Code.CANCELLED, "the call was cancelled"))

    @staticmethod
    async def _run(call: ServerCall, handler: Handler, seconds: float | None) -> None:
        error: GrpcError | None = None
        try:
            async with asyncio.timeout(seconds):
                await handler(call)
        except CortenError as failure:
            error = status.of_error(failure)
        except TimeoutError:
            error = GrpcError(Code.DEADLINE_EXCEEDED, "the call's deadline has passed")
        except Exception:
            logger.exception("%s failed", call.path[:200])
            error = GrpcError(Code.INTERNAL, "internal error; the daemon's log has the details")
        call.finish(error)

    def _found(self, path: str, headers: Metadata) -> tuple[Handler, float | None]:
        handler = self._handlers.get(path)
        if handler is None:
            raise GrpcError(Code.UNIMPLEMENTED, f"unknown method {path[:200]}")
        encoding = metadata.first(headers, "grpc-encoding") or "identity"
        if encoding != "identity":
            raise GrpcError(Code.UNIMPLEMENTED, f"messages compressed with {encoding[:40]} are not supported")
        return handler, metadata.decode_timeout(metadata.first(headers, "grpc-timeout"))

    def check(self) -> None:
        """Who makes no call for long is let go; who waits for an answer is asked whether it is still there."""
        silent = self._loop.time() - self.heard
        if not self._streams and silent > _IDLE_S:
            self.close()
        elif self._streams and silent > _GONE_S:
            self._fail_all(GrpcError(Code.UNAVAILABLE, "the client does not answer"))
            self.transport.abort()
        elif self._streams and silent > _ASKED_AFTER_S and self._broken is None:
            self._h2.ping(b"corten  ")
            self.flush()

    def finish(self, stream: Stream, headers: Headers) -> None:
        """Send the last headers of a stream.  A client that still sends is told that nobody listens (RFC 9113, 8.1)."""
        try:
            self.send_headers(stream.id, headers, last=True)
        except ProtocolError as error:
            logger.debug("a status was not sent: %s", error)
        stream.ended_here = True
        if not stream.ended_there:
            stream.fail(GrpcError(Code.CANCELLED, "the call is over"))
            self.reset(stream, ErrorCodes.NO_ERROR)
        self.forget_if_done(stream)

    def stream_failed(self, stream: Stream) -> None:
        task = self._tasks.get(stream.id)
        if task is not None:
            task.cancel()

    def fail_stream(self, stream: Stream, error: GrpcError) -> None:
        stream.refused = error
        self.stream_failed(stream)


def _refused(headers: Metadata) -> Headers | None:
    """The answer to a request that is not gRPC."""
    if metadata.first(headers, ":method") != "POST":
        return [(b":status", b"405"), (b"allow", b"POST")]
    if not metadata.is_grpc(metadata.first(headers, "content-type")):
        return [(b":status", b"415")]
    return None


def serve(
    transport: asyncio.Transport, handlers: Mapping[str, Handler], early: bytes = b"", limits: Limits = DEFAULT_LIMITS
) -> ServerLink:
    """Answer calls on a transport, which belongs to the result; ``early``: bytes that have come already."""
    link = ServerLink(handlers, limits)
    link.attach(transport, early)
    return link
