"""HTTP/1.1 over a unix socket, or over TCP with or without TLS: one connection per request, streams both ways.

The standard ``http.client`` pulls in the ``email`` package and costs more time than a whole ``corten ps``; what a
client of one known server needs is small.  Source: RFC 9112.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterable

from corten.client.address import Address
from corten.client.response import GONE, PendingResponse, Reader, Response
from corten.errors import Forbidden, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    Body = bytes | Iterable[bytes] | None

_CONNECT_WITHIN_S = 30.0


def connect(address: Address) -> socket.socket:
    """A connected stream socket.

    Errors: Unavailable when nobody listens or is not who it should be, Forbidden when the socket may not be opened,
    InvalidParameter for a certificate that cannot be used.
    """
    if address.path:
        return connect_unix(address.path)
    if address.tls.on:
        from corten.client.tls import connect as connect_tls  # ssl costs 5 ms that only its users pay

        return connect_tls(address)
    try:
        sock = socket.create_connection((address.host, address.port), timeout=_CONNECT_WITHIN_S)
    except OSError as error:
        raise Unavailable(
            f"Cannot connect to the Corten daemon at {address.text}. Is the daemon running?", errno=error.errno
        ) from error
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock


def connect_unix(path: str) -> socket.socket:
    """As ``connect``, to a unix socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        if error.errno == errno.EACCES:
            raise Forbidden(
                f"permission denied while trying to connect to the Corten daemon socket at unix://{path}"
            ) from error
        raise Unavailable(
            f"Cannot connect to the Corten daemon at unix://{path}. Is the daemon running?",
            errno=error.errno,
        ) from error
    return sock


def is_listening(path: str) -> bool:
    """Whether a daemon answers, asked by connecting: one that was killed leaves its socket behind.

    Errors: Forbidden; Unavailable for any other reason than that nobody is there.
    """
    try:
        connect_unix(path).close()
    except Unavailable as error:
        if error.context.get("errno") not in (errno.ECONNREFUSED, errno.ENOENT):
            raise
        return False
    return True


class Transport:
    """Requests to one daemon.  Safe to share between threads: each request has its own connection.

    path: of its unix socket; empty for TCP
    """

    __slots__ = ("address", "path")

    def __init__(self, address: Address | str) -> None:
        self.address = Address(f"unix://{address}", path=address) if isinstance(address, str) else address
        self.path = self.address.path

    def send(
        self,
        method: str,
        target: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: Body = None,
        upgrade: bool = False,
    ) -> PendingResponse:
        """Send a request; its answer can be waited for later.

        target:  path and query, already encoded
        body:    bytes, or pieces that are sent as they come (chunked); an early refusal ends the sending
        upgrade: ask for the connection itself (``Response.hijack``)

        Errors: as ``connect``.
        """
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.address.host_header}", "User-Agent: corten"]
        lines += [f"{name}: {value}" for name, value in headers]
        lines += ["Connection: Upgrade", "Upgrade: tcp"] if upgrade else ["Connection: close"]
        if isinstance(body, bytes):
            lines.append(f"Content-Length: {len(body)}")
        elif body is not None:
            lines.append("Transfer-Encoding: chunked")
        elif method in ("POST", "PUT"):
            lines.append("Content-Length: 0")
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        sock = connect(self.address)
        reader = Reader(sock)
        try:
            if body is None or isinstance(body, bytes):
                _send(sock, reader, head + (body or b""))
            else:
                _send(sock, reader, head)
                _send_pieces(sock, reader, body)
        except BaseException:
            sock.close()
            raise
        return PendingResponse(reader, has_body=method != "HEAD")

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: Body = None,
        upgrade: bool = False,
    ) -> Response:
        """Send a request and wait for the head of its answer, whatever its status is.

        Errors: as ``send``; DataLoss for an answer that is no HTTP.
        """
        return self.send(method, target, headers=headers, body=body, upgrade=upgrade).wait()


def _send(sock: socket.socket, reader: Reader, data: bytes) -> bool:
    """Send everything while taking in what the daemon answers meanwhile; False when it does not read any more."""
    view = memoryview(data)
    poller = None
    while view:
        try:
            sent = sock.send(view, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if error.errno in GONE:
                return False
            raise
        view = view[sent:]
        if view:
            if poller is None:
                poller = select.poll()
                poller.register(sock, select.POLLIN | select.POLLOUT)
            for _, events in poller.poll():
                if events & select.POLLIN and not reader.fill():
                    return False
    return True


def _send_pieces(sock: socket.socket, reader: Reader, pieces: Iterable[bytes]) -> None:
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    for piece in pieces:
        if not piece:
            continue
        if poller.poll(0) and not reader.fill():
            return
        if _is_refusal(reader.rest()):
            return
        if not _send(sock, reader, b"%x\r\n%b\r\n" % (len(piece), piece)):
            return
    _send(sock, reader, b"0\r\n\r\n")


def _is_refusal(data: bytes) -> bool:
    """An answer has begun and it is not a success: the rest of the body is not wanted."""
    return len(data) >= 12 and data.startswith(b"HTTP/1.") and data[9:10] not in (b"1", b"2")
