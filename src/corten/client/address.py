"""Where the daemon listens: the address that was given, ``CORTEN_HOST``, or this user's default socket.

``DOCKER_HOST`` is not read: a machine may run both engines, and ``corten rm`` must never reach Docker's containers
because of a variable that was set for another tool.
"""

from __future__ import annotations

import os

from corten import places
from corten.errors import InvalidParameter

HOST_VARIABLE = "CORTEN_HOST"
TLS_VARIABLE = "CORTEN_TLS"
VERIFY_VARIABLE = "CORTEN_TLS_VERIFY"
CERTIFICATES_VARIABLE = "CORTEN_CERT_PATH"
PLAIN_PORT = 2375
TLS_PORT = 2376


class Tls:
    """How to speak TLS with a daemon on TCP; without ``on`` it is spoken to in the clear.

    verify: the daemon's certificate must be signed by ``ca`` and name its host
    cert, key: how the client proves itself; they are needed with ``verify`` and taken otherwise when they exist
    """

    __slots__ = ("ca", "cert", "key", "on", "verify")

    def __init__(self, *, on: bool = False, verify: bool = False, ca: str = "", cert: str = "", key: str = "") -> None:
        directory = os.environ.get(CERTIFICATES_VARIABLE) or os.path.join(os.path.expanduser("~"), ".docker")
        self.on = on or verify
        self.verify = verify
        self.ca = ca or os.path.join(directory, "ca.pem")
        self.cert = cert or os.path.join(directory, "cert.pem")
        self.key = key or os.path.join(directory, "key.pem")

    @classmethod
    def from_environment(cls) -> Tls:
        """``CORTEN_TLS_VERIFY`` and ``CORTEN_TLS``: anything but nothing is yes; files in ``CORTEN_CERT_PATH``."""
        return cls(on=bool(os.environ.get(TLS_VARIABLE)), verify=bool(os.environ.get(VERIFY_VARIABLE)))


class Address:
    """Where a daemon listens: a unix socket's ``path``, or ``host`` and ``port`` of TCP, with ``tls``."""

    __slots__ = ("host", "path", "port", "text", "tls")

    def __init__(self, text: str, *, path: str = "", host: str = "", port: int = 0, tls: Tls | None = None) -> None:
        self.text = text
        self.path = path
        self.host = host
        self.port = port
        self.tls = tls or Tls()

    @property
    def host_header(self) -> str:
        """What the ``Host`` header says."""
        if self.path:
            return "corten"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def default_host() -> str:
    """The socket that is used when nobody says otherwise."""
    return f"unix://{places.exec_root()}/corten.sock"


def chosen_host(given: str = "") -> str:
    """The address to use; empty when nobody chose one: then it is ``default_host()``, and a daemon may be started."""
    return given or os.environ.get(HOST_VARIABLE, "")


def parse(host: str, tls: Tls | None = None) -> Address:
    """``unix:///path`` (a bare absolute path is taken as one) or ``tcp://host:port``.

    tls: of TCP; without it the environment decides

    Errors: InvalidParameter for every other kind of address.
    """
    if host.startswith("/"):
        return Address(f"unix://{host}", path=host)
    scheme, separator, rest = host.partition("://")
    if not separator:
        raise InvalidParameter(f"invalid host '{host}': unix:///path or tcp://host:port is needed")
    if scheme == "tcp":
        return _tcp(host, rest, tls or Tls.from_environment())
    if scheme != "unix":
        raise InvalidParameter(f"invalid host '{host}': only unix:// and tcp:// addresses are supported")
    if not rest.startswith("/"):
        raise InvalidParameter(f"invalid host '{host}': the path of the socket must be absolute")
    return Address(host, path=rest)


def _tcp(text: str, rest: str, tls: Tls) -> Address:
    host, colon, port = rest.rstrip("/").rpartition(":")
    if not colon or port.endswith("]"):
        host, port = rest.rstrip("/"), str(TLS_PORT if tls.on else PLAIN_PORT)
    bare = host.removeprefix("[").removesuffix("]")
    if (host != f"[{bare}]" and ":" in host) or "/" in host:
        raise InvalidParameter(f"invalid host '{text}': tcp://host:port is needed")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidParameter(f"invalid host '{text}': bad port")
    return Address(text, host=bare or "localhost", port=int(port), tls=tls)
