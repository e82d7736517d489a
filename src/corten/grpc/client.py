"""The calling role: calls over one connection that exists already."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from corten import __version__
from corten.grpc import metadata, status
from corten.grpc.framing import check_size, prefix
from corten.grpc.link import DEFAULT_LIMITS, Limits, Link
from corten.grpc.metadata import Headers, Metadata
from corten.grpc.status import Code, GrpcError
from corten.grpc.stream import Stream

_NOTHING: Metadata = {}


class ChannelLink(Link):
    is_client = True

    def open(self, headers: Headers) -> Stream:
        """Errors: GrpcError (UNAVAILABLE)."""
        if self._broken is not None:
            raise GrpcError(Code.UNAVAILABLE, self._broken.message)
        try:
            stream = Stream(self, self._h2.get_next_available_stream_id())
            self._streams[stream.id] = stream
            self.send_headers(stream.id, headers)
        except ProtocolError as error:
            self._streams.pop(stream.id, None)
            raise GrpcError(Code.UNAVAILABLE, f"no further call can be made: {error}") from None
        return stream

    def response(self, stream: Stream, headers: dict[str, list[str]]) -> None:
        stream.tell_headers(headers)
        refusal = _refused(headers)
        if refusal is not None:
            self.fail_stream(stream, refusal)

    def fail_stream(self, stream: Stream, error: GrpcError) -> None:
        stream.fail(error)
        self.reset(stream)


def _refused(headers: Metadata) -> GrpcError | None:
    if metadata.first(headers, ":status") != "200":
        if "grpc-status" in headers:
            return None
        return status.of_http(metadata.first(headers, ":status"))
    if not metadata.is_grpc(metadata.first(headers, "content-type")):
        return GrpcError(Code.UNKNOWN, "the other side does not answer with gRPC")
    encoding = metadata.first(headers, "grpc-encoding") or "identity"
    if encoding != "identity":
        return GrpcError(Code.INTERNAL, f"the other side compresses with {encoding[:40]}, which nobody has asked for")
    return None


class Call:
    """A call under way.  Use as a context manager: what has not ended is cancelled."""

    def __init__(self, link: ChannelLink, stream: Stream) -> None:
        self._link = link
        self._stream = stream

    async def __aenter__(self) -> Call:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    async def send(self, message: bytes) -> None:
        """Errors: GrpcError: how the call ended, when it has; RESOURCE_EXHAUSTED for a message that is too large."""
        check_size(message, self._link.limits.message_bytes)
        await self._send(prefix(len(message)) + message)

    async def send_all(self, messages: Sequence[bytes]) -> None:
        """Several small messages at once.  Errors: as ``send``."""
        for message in messages:
            check_size(message, self._link.limits.message_bytes)
        await self._send(b"".join(prefix(len(message)) + message for message in messages))

    @property
    def has_message(self) -> bool:
        """``receive`` would not wait."""
        return self._stream.has_message

    async def half_close(self) -> None:
        """Send no more; the other side can."""
        if not self._stream.ended_here:
            await self._send(b"", last=True)

    async def _send(self, data: bytes, *, last: bool = False) -> None:
        self._raise_end()
        try:
            await self._stream.send(data, last=last)
        except ProtocolError:
            self._raise_end()
            raise GrpcError(Code.UNAVAILABLE, "the call has ended") from None
        self._link.forget_if_done(self._stream)

    def _raise_end(self) -> None:
        """An answer that came while something was still to be sent."""
        if self._stream.ended_there:
            error = self._status()
            raise error if error is not None else GrpcError(Code.CANCELLED, "the other side has ended the call")

    async def headers(self) -> Metadata:
        """The initial metadata.  Errors: GrpcError."""
        while self._stream.headers is None:
            if self._stream.error is not None:
                raise self._stream.error
            await self._stream.changed()
        return self._stream.headers

    async def receive(self) -> bytes | None:
        """The next message; None at the end of a call that ended well.  Errors: GrpcError."""
        message = await self._stream.receive()
        if message is None:
            error = self._status()
            if error is not None:
                raise error
        return message

    def receive_rest(self) -> list[bytes]:
        """Messages that ``receive`` would give without waiting, all of them."""
        return self._stream.receive_rest()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self.receive()) is not None:
            yield message

    @property
    def trailers(self) -> Metadata:
        """What came with the status."""
        return self._stream.trailers or self._stream.headers or {}

    def _status(self) -> GrpcError | None:
        """How the other side says that the call has ended; a response without messages has it in its only headers."""
        found = self.trailers
        if "grpc-status" not in found:
            return GrpcError(Code.UNKNOWN, "the other side ended the call without a status")
        code = status.of_number(metadata.first(found, "grpc-status"))
        if code == Code.OK:
            return None
        details = metadata.first(found, "grpc-status-details-bin")
        try:
            raw = metadata.from_binary(details) if details else b""
        except GrpcError:
            raw = b""
        return GrpcError(code, status.decode_message(metadata.first(found, "grpc-message")), raw)

    def cancel(self) -> None:
        """Nobody wants the answer any more; nothing when the call has ended."""
        if not (self._stream.ended_there and self._stream.ended_here):
            self._stream.fail(GrpcError(Code.CANCELLED, "the call was cancelled"))
            self._link.reset(self._stream, ErrorCodes.CANCEL)


class Channel:
    """A connection whose other side serves; ``transport`` belongs to it, ``early`` has come already."""

    def __init__(self, transport: asyncio.Transport, early: bytes = b"", limits: Limits = DEFAULT_LIMITS) -> None:
        self.link = ChannelLink(limits)
        self.link.attach(transport, early)

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when the connection has ended."""
        return self.link.closed

    def close(self) -> None:
        self.link.close()

    async def stream(self, path: str, sent: Metadata = _NOTHING, *, timeout_s: float | None = None) -> Call:
        """Begin a call.

        timeout_s: told to the other side as its deadline; who waits here sets a limit of their own
        Errors: GrpcError (UNAVAILABLE: the connection has ended).
        """
        headers: Headers = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", f"corten/{__version__}".encode()),
        ]
        if timeout_s is not None:
            headers.append((b"grpc-timeout", metadata.encode_timeout(timeout_s).encode()))
        return Call(self.link, self.link.open(headers + metadata.encode(sent)))

    async def unary(
        self, path: str, request: bytes, sent: Metadata = _NOTHING, *, timeout_s: float | None = None
    ) -> bytes:
        """One request, one response.  Errors: GrpcError."""
        check_size(request, self.link.limits.message_bytes)
        try:
            async with asyncio.timeout(timeout_s), await self.stream(path, sent, timeout_s=timeout_s) as call:
                with contextlib.suppress(GrpcError):  # the answer may come before the request was read; it tells why
                    await call.send(request)
                    await call.half_close()
                response = await call.receive()
                if response is None:
                    raise GrpcError(Code.INTERNAL, f"{path} ended without a response")
                if await call.receive() is not None:
                    raise GrpcError(Code.INTERNAL, f"{path} gave more than one response")
                return response
        except TimeoutError:
            raise GrpcError(Code.DEADLINE_EXCEEDED, f"{path} took longer than {timeout_s} s") from None
