"""Request bodies: their framing on the wire, and the iterator that handlers read.

Framing is parsed here and not by the head parser, because the first byte *after* a body must be known exactly.
Source: RFC 9112 sections 6 and 7.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import Protocol

from corten.errors import InvalidParameter

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\Z")
_LINE_LIMIT = 1024
_TRAILER_LIMIT = 16 * 1024


class BadFraming(InvalidParameter):
    """The body does not follow its own framing: what comes after it cannot be found."""


class Framing(Protocol):
    """Cuts received bytes into the body's payload and what follows it."""

    done: bool

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """(payload pieces, bytes beyond the end).  Errors: BadFraming."""


class LengthFraming:
    """``Content-Length``: so many bytes.  ``left`` is what is still to come."""

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        if len(data) <= self.left:
            self.left -= len(data)
            self.done = self.left == 0
            return [data], b""
        mine, rest = data[: self.left], data[self.left :]
        self.left, self.done = 0, True
        return [mine] if mine else [], rest


class ChunkedFraming:
    """``Transfer-Encoding: chunked``; extensions and trailers are read and dropped, their size is limited."""

    __slots__ = ("_left", "_line", "_state", "_trailer_bytes", "done")

    _SIZE, _DATA, _DATA_END, _TRAILER = range(4)

    def __init__(self) -> None:
        self.done = False
        self._state = self._SIZE
        self._left = 0
        self._line = bytearray()
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        pieces: list[bytes] = []
        position, end = 0, len(data)
        while position < end and not self.done:
            if self._state == self._DATA:
                piece = data[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = self._DATA_END
            else:
                position = self._feed_line(data, position)
        return pieces, data[position:]

    def _feed_line(self, data: bytes, position: int) -> int:
        newline = data.find(b"\n", position)
        stop = len(data) if newline < 0 else newline + 1
        self._line += data[position:stop]
        if len(self._line) > (2 if self._state == self._DATA_END else _LINE_LIMIT):
            raise BadFraming("malformed chunked encoding")
        if newline >= 0:
            if not self._line.endswith(b"\r\n"):
                raise BadFraming("malformed chunked encoding")
            line = bytes(self._line[:-2])
            self._line.clear()
            self._end_line(line)
        return stop

    def _end_line(self, line: bytes) -> None:
        if self._state == self._SIZE:
            match = _CHUNK_SIZE.match(line)
            if match is None:
                raise BadFraming("malformed chunked encoding")
            self._left = int(match[1], 16)
            self._state = self._DATA if self._left else self._TRAILER
        elif self._state == self._DATA_END:
            if line:
                raise BadFraming("malformed chunked encoding")
            self._state = self._SIZE
        else:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > _TRAILER_LIMIT:
                raise BadFraming("trailers are too long")
            self.done = not line


class RequestBody:
    """The body of one request: an async iterator of pieces, or ``read`` for the whole.

    About ``ahead_bytes`` are kept when nobody reads: then ``pause`` is called, and ``resume`` when there is room again.
    ``on_wanted`` is called once, before the first wait for the client (it sends ``100 Continue``).
    """

    __slots__ = (
        "_ahead_bytes",
        "_error",
        "_held",
        "_on_wanted",
        "_pause",
        "_paused",
        "_pieces",
        "_resume",
        "_waiter",
        "framing",
    )

    def __init__(
        self, framing: Framing | None, ahead_bytes: int, pause: Callable[[], None], resume: Callable[[], None]
    ) -> None:
        self.framing = framing
        self._ahead_bytes = ahead_bytes
        self._pause = pause
        self._resume = resume
        self._paused = False
        self._held = 0
        self._pieces: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._on_wanted: Callable[[], None] | None = None

    # -- the connection's side --------------------------------------------------------------------------------------

    @property
    def is_received(self) -> bool:
        """The client has sent all of it."""
        return self.framing is None or self.framing.done

    @property
    def awaits_continue(self) -> bool:
        """The client waits for ``100 Continue`` and nobody has wanted the body so far."""
        return self._on_wanted is not None

    def call_when_wanted(self, on_wanted: Callable[[], None]) -> None:
        self._on_wanted = on_wanted

    def feed(self, data: bytes) -> bytes:
        """Take received bytes; returns what lies beyond the body.  Errors: BadFraming."""
        if self.framing is None or self.framing.done:
            return data
        if self._error is not None:
            return b""
        pieces, rest = self.framing.feed(data)
        self._on_wanted = None  # the client did not wait
        if pieces:
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._pieces.append(piece)
            self._held += len(piece)
        if self._held > self._ahead_bytes and not self._paused:
            self._paused = True
            self._pause()
        self._wake()
        return rest

    def fail(self, error: Exception) -> None:
        """No more bytes will come: readers get ``error`` once they have read what is here."""
        if not self.is_received and self._error is None:
            self._error = error
            self._wake()

    def take(self) -> bytes:
        """What was received and not read so far."""
        taken = b"".join(self._pieces)
        self.drop()
        return taken

    def drop(self) -> None:
        """Forget what was received."""
        self._pieces.clear()
        self._held = 0
        self._let_in()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _let_in(self) -> None:
        if self._paused and self._held <= self._ahead_bytes // 2:
            self._paused = False
            self._resume()

    # -- the handler's side -----------------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """The request has no body."""
        return self.framing is None or (self.framing.done and not self._pieces)

    def __aiter__(self) -> RequestBody:
        return self

    async def __anext__(self) -> bytes:
        """Errors: BadFraming; InvalidParameter when the client ends before the body does."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.is_received:
                raise StopAsyncIteration
            if self._on_wanted is not None:
                on_wanted, self._on_wanted = self._on_wanted, None
                on_wanted()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        piece = self._pieces.popleft()
        self._held -= len(piece)
        self._let_in()
        return piece

    async def read(self, limit: int, timeout_s: float) -> bytes:
        """The whole body.

        limit: bytes; timeout_s: the longest silence of the client.
        Errors: BodyTooLarge, TimeoutError, and those of the iterator.
        """
        if isinstance(self.framing, LengthFraming) and self.framing.left + self._held > limit:
            raise BodyTooLarge(f"request body is larger than {limit} bytes")
        received = bytearray()
        while True:
            if self._pieces or self.is_received:
                piece = await anext(self, None)
            else:
                async with asyncio.timeout(timeout_s):
                    piece = await anext(self, None)
            if piece is None:
                return bytes(received)
            received += piece
            if len(received) > limit:
                raise BodyTooLarge(f"request body is larger than {limit} bytes")


class BodyTooLarge(InvalidParameter):
    """A body that has to be read whole is larger than allowed."""
