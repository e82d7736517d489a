"""Which hosts may be spoken to, and how: plain HTTP, TLS that is checked or not, whose certificates."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from corten import tls
from corten.errors import InvalidParameter

_HTTPS_PORT = 443
_HTTP_PORT = 80


@dataclass(frozen=True, slots=True)
class Trust:
    """How far a host is trusted.

    plain:   plain HTTP is allowed; verify: its certificate must be good
    authorities: certificate files beside the system's; identity: (certificate, key) files of this client
    """

    plain: bool = False
    verify: bool = True
    authorities: tuple[Path, ...] = ()
    identity: tuple[tuple[Path, Path], ...] = ()

    def context(self) -> ssl.SSLContext:
        """Errors: InvalidParameter naming a file that cannot be used."""
        context = tls.client_context()
        if not self.verify:
            tls.do_not_verify(context)
        for file in self.authorities:
            tls.trust(context, file)
        for certificate, key in self.identity:
            tls.load_pair(context, certificate, key)
        return context


def is_loopback(host: str) -> bool:
    """Whether a host (without port) is this machine, by its name or address alone: nothing is resolved."""
    if host.lower().rstrip(".") == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def netloc_of(url: str) -> str:
    """ "host[:port]" of a URL in lower case, the scheme's own port left out.

    Errors: InvalidParameter for anything that is no plain http(s) URL, and for one with a user in it.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidParameter(f"invalid URL {url[:200]!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise InvalidParameter(f"invalid URL {url[:200]!r}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return host if port in (None, _HTTPS_PORT if parts.scheme == "https" else _HTTP_PORT) else f"{host}:{port}"


def host_of(netloc: str) -> str:
    """The host without its port and brackets."""
    return urlsplit(f"//{netloc}").hostname or netloc


def is_listed(netloc: str, listed: Iterable[str]) -> bool:
    """Whether ``insecure-registries`` names the host: by itself, with its port, or by a range of addresses."""
    host = host_of(netloc)
    address = _address(host)
    for item in listed:
        if item.lower() in (netloc.lower(), host):
            return True
        if address is not None and "/" in item:
            try:
                if address in ipaddress.ip_network(item, strict=False):
                    return True
            except ValueError:
                continue
    return False


def files_of(directory: Path) -> tuple[tuple[Path, ...], tuple[tuple[Path, Path], ...]]:
    """(authorities, identities) of a host's directory below ``certs.d``, as Docker keeps them.

    Errors: InvalidParameter for a certificate without its key and the other way round.
    """
    try:
        names = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return (), ()
    except OSError as error:
        raise InvalidParameter(f"cannot read {directory}: {error.strerror}") from error
    present = set(names)
    identity = []
    for path in names:
        if path.suffix == ".cert":
            key = path.with_suffix(".key")
            if key not in present:
                raise InvalidParameter(f"missing key {key.name} for client certificate {path.name} in {directory}")
            identity.append((path, key))
        elif path.suffix == ".key" and path.with_suffix(".cert") not in present:
            raise InvalidParameter(f"missing client certificate {path.stem}.cert for key {path.name} in {directory}")
    return tuple(path for path in names if path.suffix == ".crt"), tuple(identity)
