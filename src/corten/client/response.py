"""Answers of the daemon: heads, bodies that are read as they come, and connections that are handed over.

Source: RFC 9112 (messages, chunked coding); Docker Engine API, "Attach to a container" (hijacking).
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator

from corten.errors import DataLoss, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself costs 3 ms at start-up
    from typing import Self

READ_SIZE = 256 * 1024
_LONGEST_HEAD = 256 * 1024
_LONGEST_CHUNK_LINE = 4096
GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)


class Reader:
    """Bytes of a connection, with what was read too far kept."""

    __slots__ = ("_data", "_position", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._data = b""
        self._position = 0

    @property
    def has_data(self) -> bool:
        return self._position < len(self._data)

    def rest(self) -> bytes:
        """What has been received and not been taken; it stays."""
        return self._data[self._position :]

    def fill(self) -> bool:
        """Read more; False at the end of the stream."""
        try:
            piece = self.sock.recv(READ_SIZE)
        except OSError as error:
            if error.errno == errno.ECONNRESET:
                return False
            raise
        self._data = self._data[self._position :] + piece if self.has_data else piece
        self._position = 0
        return bool(piece)

    def take(self, limit: int) -> bytes:
        """Between one and ``limit`` bytes; nothing at the end."""
        if not self.has_data and not self.fill():
            return b""
        start = self._position
        self._position = min(len(self._data), start + limit)
        return self._data[start : self._position] if start or self._position < len(self._data) else self._data

    def line(self, longest: int) -> bytes:
        """Up to and without the next line end.  Errors: DataLoss at the end of the stream."""
        searched = 0
        while True:
            end = self._data.find(b"\n", self._position + searched)
            if end >= 0:
                break
            searched = len(self._data) - self._position
            if searched > longest or not self.fill():
                raise DataLoss("the daemon's answer ended in the middle")
        line = self._data[self._position : end]
        self._position = end + 1
        return line.rstrip(b"\r")


class Response:
    """An answer whose body is read as it comes.

    status, reason: of the status line
    headers:        names in lower case; of repeated ones the last
    """

    __slots__ = ("_chunk_rest", "_is_chunked", "_reader", "_rest", "headers", "reason", "status")

    def __init__(self, reader: Reader, status: int, reason: str, headers: dict[str, str], *, has_body: bool) -> None:
        self._reader = reader
        self.status = status
        self.reason = reason
        self.headers = headers
        self._is_chunked = False
        self._chunk_rest = 0
        self._rest: int | None = None  # None: until the connection is closed
        if not has_body or status in (204, 304) or status < 200:
            self._rest = 0
        elif headers.get("transfer-encoding", "").lower() == "chunked":
            self._is_chunked = True
        elif "content-length" in headers:
            length = headers["content-length"]
            if not (length.isascii() and length.isdigit()):
                raise DataLoss(f"the daemon's answer has a bad length: {length}")
            self._rest = int(length)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For poll: readable when the daemon has sent more, unless ``has_data`` already says so."""
        return self._reader.sock.fileno()

    @property
    def has_data(self) -> bool:
        """Bytes have been received that nobody has read yet."""
        return self._reader.has_data

    def read_some(self, limit: int = READ_SIZE) -> bytes:
        """At least one byte as soon as there is one, nothing at the end.

        Errors: DataLoss when the connection ends before the body does.
        """
        if self._is_chunked:
            return self._read_chunked(limit)
        if self._rest == 0:
            return b""
        piece = self._reader.take(limit if self._rest is None else min(limit, self._rest))
        if self._rest is not None:
            if not piece:
                raise DataLoss("the daemon's answer ended in the middle")
            self._rest -= len(piece)
        return piece

    def _read_chunked(self, limit: int) -> bytes:
        """Gathers the chunks that have come already: a log may have one for each line."""
        pieces: list[bytes] = []
        while limit > 0 and (self._reader.has_data or not pieces):
            if self._chunk_rest == 0 and not self._begin_chunk():
                break
            piece = self._reader.take(min(limit, self._chunk_rest))
            if not piece:
                raise DataLoss("the daemon's answer ended in the middle")
            pieces.append(piece)
            limit -= len(piece)
            self._chunk_rest -= len(piece)
            if self._chunk_rest == 0:
                self._reader.line(2)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _begin_chunk(self) -> bool:
        text = self._reader.line(_LONGEST_CHUNK_LINE).split(b";", 1)[0].strip()
        try:
            self._chunk_rest = int(text, 16)
        except ValueError:
            raise DataLoss(f"the daemon's answer has a bad chunk: {text[:40]!r}") from None
        if self._chunk_rest > 0:
            return True
        while self._reader.line(_LONGEST_HEAD):
            pass  # trailers
        self._is_chunked = False
        self._rest = 0
        return False

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read_some():
            yield piece

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self)

    def lines(self) -> Iterator[bytes]:
        """The body's lines, each as soon as it is complete; line ends are left out."""
        rest = b""
        for piece in self:
            rest += piece
            *complete, rest = rest.split(b"\n")
            yield from complete
        if rest:
            yield rest

    def hijack(self) -> Hijacked:
        """Take the connection over: from now on it is a plain stream both ways."""
        return Hijacked(self._reader.sock, self._reader.rest(), self.headers.get("content-type", ""))

    def close(self) -> None:
        """Give up the connection: the daemon sees that nobody listens any more."""
        self._reader.sock.close()


class Hijacked:
    """A connection after the hand-over.

    media_type: ``application/vnd.docker.multiplexed-stream`` when the daemon says that output comes in frames
    """

    __slots__ = ("early", "media_type", "sock")

    def __init__(self, sock: socket.socket, early: bytes, media_type: str) -> None:
        self.sock = sock
        self.early = early
        self.media_type = media_type

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self.sock.fileno()

    def receive(self) -> bytes:
        """What came next, nothing at the end; first what came together with the head of the answer."""
        if self.early:
            early, self.early = self.early, b""
            return early
        try:
            return self.sock.recv(READ_SIZE)
        except OSError as error:
            if error.errno in GONE:
                return b""
            raise

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.receive():
            yield piece

    def send_all(self, data: bytes) -> bool:
        """Send everything; False when the other side does not read any more."""
        try:
            self.sock.sendall(data, socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno in GONE:
                return False
            raise
        return True

    def send_some(self, data: bytes | memoryview) -> int:
        """Send what can be sent without waiting; -1 when the other side does not read any more."""
        try:
            return self.sock.send(data, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in GONE:
                return -1
            raise

    def end_input(self) -> None:
        """There will be no more input; output goes on."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno not in GONE:
                raise

    def close(self) -> None:
        self.sock.close()


class PendingResponse:
    """The answer to a request that has been sent."""

    __slots__ = ("_has_body", "_reader")

    def __init__(self, reader: Reader, *, has_body: bool) -> None:
        self._reader = reader
        self._has_body = has_body

    def fileno(self) -> int:
        return self._reader.sock.fileno()

    def wait(self, timeout_s: float | None = None) -> Response:
        """The answer, when its head has come.

        Errors: TimeoutError when its first byte has not come in time (the request still stands); DataLoss for an
        answer that is no HTTP.
        """
        reader = self._reader
        if timeout_s is not None and not reader.has_data:
            poller = select.poll()
            poller.register(reader.sock, select.POLLIN)
            if not poller.poll(timeout_s * 1000):
                raise TimeoutError("the daemon has not answered")
        try:
            return self._read_head()
        except (DataLoss, ConnectionError) as error:
            problem = getattr(reader.sock, "problem", "")
            reader.sock.close()
            if problem:
                raise Unavailable(problem) from error
            raise
        except BaseException:
            reader.sock.close()
            raise

    def _read_head(self) -> Response:
        reader = self._reader
        while True:
            status_line = reader.line(_LONGEST_HEAD).decode("latin-1")
            version, _, rest = status_line.partition(" ")
            code, _, reason = rest.partition(" ")
            if not version.startswith("HTTP/1.") or not (len(code) == 3 and code.isdigit()):
                raise DataLoss(f"the daemon's answer is not HTTP: {status_line[:80]!r}")
            headers: dict[str, str] = {}
            size = 0
            while line := reader.line(_LONGEST_HEAD):
                size += len(line)
                if size > _LONGEST_HEAD:
                    raise DataLoss("the daemon's answer has a head that is too long")
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.strip().lower()] = value.strip()
            if code != "100":
                return Response(reader, int(code), reason, headers, has_body=self._has_body)

    def close(self) -> None:
        self._reader.sock.close()
