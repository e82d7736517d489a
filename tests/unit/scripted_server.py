"""A server on a unix socket that does exactly what a test says, byte by byte."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

Handler = Callable[[socket.socket, bytes], None]


def read_head(connection: socket.socket) -> bytes:
    """Everything up to and with the empty line, and what came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return data
        data += piece
    return data


def read_request(connection: socket.socket, data: bytes) -> tuple[str, bytes]:
    """(request line, decoded body) of a request whose head is in ``data``."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    if headers.get("transfer-encoding") == "chunked":
        while not body.endswith(b"0\r\n\r\n"):
            body += connection.recv(65536)
        decoded = b""
        while True:
            size, _, body = body.partition(b"\r\n")
            if not int(size, 16):
                return lines[0], decoded
            decoded += body[: int(size, 16)]
            body = body[int(size, 16) + 2 :]
    length = int(headers.get("content-length", 0))
    while len(body) < length:
        body += connection.recv(65536)
    return lines[0], body


class ScriptedServer:
    """Each connection goes to the next handler; the last one serves all that follow."""

    def __init__(self, path: Path, handlers: list[Handler]) -> None:
        self.path = path
        self.heads: list[bytes] = []
        self.errors: list[BaseException] = []
        self._handlers = handlers
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(16)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def host(self) -> str:
        return f"unix://{self.path}"

    def _accept(self) -> None:
        count = 0
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            handler = self._handlers[min(count, len(self._handlers) - 1)]
            count += 1
            thread = threading.Thread(target=self._serve, args=(connection, handler), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, handler: Handler) -> None:
        with connection:
            data = read_head(connection)
            if not data:
                return
            self.heads.append(data)
            try:
                handler(connection, data)
            except ConnectionError:
                pass  # the client has left: that is its right
            except BaseException as error:
                self.errors.append(error)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join(5)
        assert not self.errors, self.errors


@contextlib.contextmanager
def serving(path: Path, *handlers: Handler) -> Iterator[ScriptedServer]:
    """A server for the time of a test; errors inside a handler fail it."""
    server = ScriptedServer(path / "s.sock", list(handlers))
    try:
        yield server
    finally:
        server.close()


def answering(answer: bytes) -> Handler:
    """A handler that reads the whole request and sends these bytes."""

    def handle(connection: socket.socket, data: bytes) -> None:
        read_request(connection, data)
        connection.sendall(answer)

    return handle


def ok(body: bytes, *, content_type: str = "application/json", status: str = "200 OK") -> bytes:
    """A complete answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
