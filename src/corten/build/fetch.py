"""Files from URLs for ADD and for contexts.

A Dockerfile may be a stranger's, and the daemon stands where a stranger does not: only http and https, also after a
redirect, and no address of this machine or of its link (cloud metadata services live there), unless the build runs in
the host's network anyway.  Addresses are checked when they are connected to, so that no name can mean two things.
"""

from __future__ import annotations

import contextlib
import email.utils
import errno
import http.client
import ipaddress
import os
import posixpath
import select
import socket
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from corten import tls
from corten.build.workshop import Cancellation
from corten.errors import Forbidden, InvalidParameter, Unavailable

_MAX_REDIRECTS = 10
_TIMEOUT_S = 60.0
_GLANCE_S = 0.1  # so soon is noticed that a build is cancelled
_CHUNK = 1 << 20
MAX_BYTES = 64 << 30


@dataclass(frozen=True, slots=True)
class Fetched:
    """size: bytes, -1 when the server does not say; modified_ns: 0 when it does not say"""

    url: str
    content_type: str
    size: int
    modified_ns: int
    chunks: Iterator[bytes]


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def file_name(url: str) -> str:
    """The last part of a URL's path.  Errors: InvalidParameter when there is none."""
    path = urllib.parse.urlsplit(url).path
    name = posixpath.basename(path)
    if not name or name in (".", "..") or path.endswith("/"):
        raise InvalidParameter(f"cannot determine filename from url: {url}")
    return urllib.parse.unquote(name).replace("/", "_").replace("\0", "_")


def fetch(url: str, cancellation: Cancellation, *, host_network: bool) -> Fetched:
    """Begin to fetch a URL; the chunks end with its content.

    host_network: addresses of this machine are allowed
    Errors: InvalidParameter (URL, status 4xx), Forbidden (address), Unavailable (network, status 5xx), Cancelled.
    """
    current = url
    for _ in range(_MAX_REDIRECTS + 1):
        cancellation.check()
        connection, response, sock = _request(current, cancellation, host_network=host_network)
        if response.status in (301, 302, 303, 307, 308):
            location = response.getheader("Location") or ""
            response.close()
            connection.close()
            current = urllib.parse.urljoin(current, location)
            if not is_url(current):
                raise Forbidden(f"failed to GET {url}: redirected to {location[:200]!r}, which is no http address")
            continue
        if response.status >= 400:
            response.close()
            connection.close()
            words = f"failed to GET {url} with status {response.status} {response.reason}"
            raise InvalidParameter(words) if response.status < 500 else Unavailable(words)
        length = response.getheader("Content-Length") or ""
        return Fetched(
            current,
            (response.getheader("Content-Type") or "").partition(";")[0].strip().lower(),
            int(length) if length.isascii() and length.isdigit() else -1,
            _modified(response.getheader("Last-Modified") or ""),
            _chunks(url, connection, response, sock, cancellation),
        )
    raise Unavailable(f"failed to GET {url}: more than {_MAX_REDIRECTS} redirects")


def _modified(text: str) -> int:
    try:
        return int(email.utils.parsedate_to_datetime(text).timestamp()) * 10**9
    except (ValueError, TypeError, OverflowError):
        return 0


def _request(
    url: str, cancellation: Cancellation, *, host_network: bool
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse, socket.socket]:
    parts = urllib.parse.urlsplit(url)
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidParameter(f"invalid URL: {url}") from None
    if not host:
        raise InvalidParameter(f"invalid URL: {url}")
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=tls.client_context())
    else:
        connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)

    def connect(address: tuple[str, int], timeout: float, source: object = None) -> socket.socket:
        return _connect(url, address, timeout, cancellation, host_network=host_network)

    connection._create_connection = connect  # type: ignore[attr-defined]  # http.client's way in, unknown to the stubs
    path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + (
        f"?{parts.query}" if parts.query else ""
    )
    try:
        connection.connect()
        sock = connection.sock  # the connection lets go of it when the answer has begun
        with cancellation.calling(lambda: _stop(sock)):
            connection.request("GET", path, headers={"User-Agent": "corten", "Accept-Encoding": "identity"})
            return connection, connection.getresponse(), sock
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        cancellation.check()
        raise Unavailable(f"failed to GET {url}: {error}") from error
    except BaseException:
        connection.close()
        raise


def _connect(
    url: str, address: tuple[str, int], timeout: float, cancellation: Cancellation, *, host_network: bool
) -> socket.socket:
    problem: OSError | None = None
    for family, kind, protocol, _, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        if not host_network and is_ours(str(place[0])):
            raise Forbidden(
                f"failed to GET {url}: {place[0]} is an address of this machine or its link; "
                "it can be reached from a build with the host's network (--network=host)"
            )
        sock = socket.socket(family, kind, protocol)
        try:
            _reach(sock, place, timeout, cancellation)
            sock.settimeout(timeout)
            return sock
        except OSError as error:
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
    raise problem or OSError("the name has no address")


def _reach(sock: socket.socket, place: Any, timeout: float, cancellation: Cancellation) -> None:
    """Connect; a cancelled build does not wait for a host that is silent.  Errors: OSError, Cancelled."""
    sock.setblocking(False)
    code = sock.connect_ex(place)
    deadline = time.monotonic() + timeout
    while code == errno.EINPROGRESS:
        cancellation.check()
        if time.monotonic() > deadline:
            code = errno.ETIMEDOUT
        elif _is_settled(sock):
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _is_settled(sock: socket.socket) -> bool:
    waiting = select.poll()  # not select, whose descriptors end at 1024
    waiting.register(sock, select.POLLOUT)
    return bool(waiting.poll(_GLANCE_S * 1000))


def is_ours(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
        return True
    return _is_local(address)


def _is_local(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an interface of this host has the address: it then can be bound to."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
        return True


def _stop(sock: socket.socket) -> None:
    """Wake whoever waits for it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _chunks(
    url: str,
    connection: http.client.HTTPConnection,
    response: http.client.HTTPResponse,
    sock: socket.socket,
    cancellation: Cancellation,
) -> Iterator[bytes]:
    total = 0
    try:
        with cancellation.calling(lambda: _stop(sock)):
            while True:
                try:
                    chunk = response.read(_CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    cancellation.check()
                    raise Unavailable(f"failed to GET {url}: {error}") from error
                cancellation.check()
                if not chunk:
                    break
                total += len(chunk)
                if total > MAX_BYTES:
                    raise InvalidParameter(f"failed to GET {url}: more than {MAX_BYTES} bytes")
                yield chunk
            if response.length:
                raise Unavailable(f"failed to GET {url}: {response.length} bytes are missing at the end")
    finally:
        response.close()
        connection.close()
