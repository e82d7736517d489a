"""The API on TCP: mutual TLS, and what keeps web pages away.

Whoever may use the API is root on this machine.  So TCP is served to clients with a certificate of our authority only,
unless someone says in so many words that everyone may come.  A browser is a client that anyone's page can steer: its
requests are refused by what it says of itself (``Origin``, ``Sec-Fetch-Site``), and where no certificate proves the
name in ``Host``, a name that we do not know is refused too (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from corten import tls
from corten.api.http.messages import HttpError
from corten.errors import InvalidParameter

logger = logging.getLogger(__name__)

PLAIN_PORT = 2375
TLS_PORT = 2376
_KEEPALIVE_S = 15
_SAME_SITE = frozenset(("same-origin", "none"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpOptions:
    """How TCP is served.

    tls:      with TLS at all
    verify:   only to clients with a certificate that ``ca`` has signed
    ca, cert, key: PEM files
    allow_unauthenticated: serve without ``verify``
    names:    names beside this machine's own that clients may know it by, where TLS does not prove the name
    """

    tls: bool = False
    verify: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    allow_unauthenticated: bool = False
    names: tuple[str, ...] = ()

    @property
    def default_port(self) -> int:
        return TLS_PORT if self.tls else PLAIN_PORT


def parse_tcp_address(text: str, rest: str, default_port: int) -> tuple[str, int]:
    """(host, port) of what follows ``tcp://``; without a host it is localhost.

    Errors: InvalidParameter.
    """
    host, colon, port = rest.rpartition(":")
    if rest.endswith("]") or not colon:
        host, port = rest, ""
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")) or "/" in rest:
        raise InvalidParameter(f"invalid bind address format: {text}: tcp://HOST:PORT is needed")
    host = host.strip("[]") or "localhost"
    if not port:
        return host, default_port
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidParameter(f"invalid bind address format: {text}: invalid port '{port}'")
    return host, int(port)


def tls_context(options: TcpOptions) -> ssl.SSLContext:
    """Errors: InvalidParameter when a certificate or key cannot be used."""
    if options.cert is None or options.key is None:
        raise InvalidParameter("TLS needs a certificate and its key: --tlscert and --tlskey")
    context = tls.server_context(options.cert, options.key)
    if options.verify:
        if options.ca is None:
            raise InvalidParameter("--tlsverify needs the authority of the clients: --tlscacert")
        tls.trust(context, options.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def check_allowed(options: TcpOptions, host: str) -> None:
    """Refuse what would make everyone root, or warn of it.  ``host``: as the user wrote it.

    Errors: InvalidParameter.
    """
    if options.verify:
        return
    if not options.allow_unauthenticated:
        raise InvalidParameter(
            f"refusing to listen on {host} without verifying clients: everyone who can connect would be root on this "
            "machine, and so would every web page that is opened here. Use --tlsverify with --tlscacert, --tlscert "
            "and --tlskey, or ssh to the unix socket; --allow-unauthenticated-tcp serves it nevertheless"
        )
    how = "without verifying its clients" if options.tls else "without encryption and without verifying its clients"
    bar = "!" * 100
    logger.warning("%s", bar)
    logger.warning("the API is served on %s %s: WHOEVER CAN CONNECT IS ROOT ON THIS MACHINE", host, how)
    logger.warning("%s", bar)


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Listening sockets at every address of ``host``.  Errors: OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            set_keepalive(sock)
            if port == 0 and len(sockets) > 1:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            try:
                sock.bind(address)
            except OSError:
                if family != socket.AF_INET6 or len(sockets) < 2:
                    raise
                sockets.pop().close()  # localhost of a machine without IPv6 addresses
                continue
            sock.listen(1024)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def set_keepalive(sock: socket.socket) -> None:
    """Notice clients whose machine has gone; accepted sockets inherit it (tcp(7))."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_S)


class HostGuard:
    """Refuses what a web page made a browser send.

    proven: TLS has proven to the client that it speaks with the server it named
    """

    def __init__(self, names: tuple[str, ...], *, proven: bool) -> None:
        own = socket.gethostname()
        self._names = {"localhost", own.lower(), own.partition(".")[0].lower(), *(name.lower() for name in names)}
        self._proven = proven

    def check(self, headers: Mapping[str, str]) -> None:
        """Errors: HttpError 403."""
        host = headers.get("host", "")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise HttpError(403, f"requests of web pages are refused (origin {origin[:100]})", closes=True)
        if headers.get("sec-fetch-site", "none").lower() not in _SAME_SITE:
            raise HttpError(403, "requests of web pages are refused (cross-site)", closes=True)
        if not self._proven and host and not self._is_known(host):
            raise HttpError(
                403,
                f"the host name {host[:100]} is not one of this daemon's: use its address, or --tcp-name",
                closes=True,
            )

    def _is_known(self, host: str) -> bool:
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        name = name.strip("[]").rstrip(".").lower()
        if name in self._names or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
