"""Ports of the host: taken by really binding them, so that nobody else gets what is published, and errors are true."""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from corten.errors import InvalidParameter, SystemFailure
from corten.network.plans import PortPlan, Published

_KINDS = {
    "tcp": (socket.SOCK_STREAM, 0),
    "udp": (socket.SOCK_DGRAM, 0),
    "sctp": (socket.SOCK_STREAM, 132),
}
# (protocol, version of IP, address or "" for all, port)
Binder = Callable[[str, int, str, int], socket.socket]
_IN_USE = frozenset({errno.EADDRINUSE})
_NO_SCTP = frozenset({errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EAFNOSUPPORT})


@dataclass(slots=True)
class Reservation:
    """A port that is ours as long as its sockets are open: one for each family of addresses.

    sockets: by IP version; of TCP they listen only where somebody has to accept (``proxy.py``)
    """

    published: Published
    sockets: dict[int, socket.socket]

    def close(self) -> None:
        for sock in self.sockets.values():
            sock.close()
        self.sockets.clear()


def random_range() -> tuple[int, int]:
    """Where the kernel takes ports for clients: those for containers come from there too, as Docker's do."""
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        return int(first), int(last)
    except (OSError, ValueError):
        return 49153, 65535


def has_ipv6() -> bool:
    """Whether the host can listen on IPv6 addresses."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


class Ports:
    """The published ports of one daemon.  Methods may be called from any thread.

    binder: makes the sockets, as ``bind``
    """

    def __init__(self, binder: Binder) -> None:
        self._bind = binder
        self._lock = threading.Lock()
        self._last_random = 0

    def reserve(self, plans: Sequence[PortPlan], versions: Sequence[int]) -> list[Reservation]:
        """Take a host port for each plan, all or none.

        versions: IP versions on which ports without a host address are published
        Errors: InvalidParameter (an address that is none), SystemFailure: "Bind for 0.0.0.0:80 failed: port is already
        allocated".
        """
        taken: list[Reservation] = []
        try:
            for plan in plans:
                taken.append(self._reserve(plan, versions))
        except BaseException:
            for reservation in taken:
                reservation.close()
            raise
        return taken

    def _reserve(self, plan: PortPlan, versions: Sequence[int]) -> Reservation:
        if plan.protocol not in _KINDS:
            raise InvalidParameter(f"invalid protocol of a published port: {plan.protocol}")
        if plan.host_address:
            try:
                versions = [ipaddress.ip_address(plan.host_address).version]
            except ValueError:
                raise InvalidParameter(f"invalid host address of a published port: {plan.host_address}") from None
        failure: OSError | None = None
        for port in self._candidates(plan):
            try:
                sockets = self._bind_all(plan, port, versions)
            except OSError as error:
                failure = error
                if error.errno not in _IN_USE:
                    break
                continue
            published = Published(
                protocol=plan.protocol,
                port=plan.port,
                host_address=plan.host_address,
                host_port=port,
                versions=tuple(versions),
            )
            return Reservation(published, sockets)
        raise _refused(plan, failure)

    def _bind_all(self, plan: PortPlan, port: int, versions: Sequence[int]) -> dict[int, socket.socket]:
        sockets: dict[int, socket.socket] = {}
        try:
            for version in versions:
                try:
                    sockets[version] = self._bind(plan.protocol, version, plan.host_address, port)
                except OSError as error:
                    # a host without SCTP has no program that could have the port: it is redirected all the same
                    if plan.protocol != "sctp" or error.errno not in _NO_SCTP:
                        raise
        except BaseException:
            for sock in sockets.values():
                sock.close()
            raise
        return sockets

    def _candidates(self, plan: PortPlan) -> Iterator[int]:
        first, last = plan.host_ports
        if first:
            yield from range(first, last + 1)
            return
        first, last = random_range()
        count = last - first + 1
        for _ in range(count):
            with self._lock:
                # not the one that has just been freed: clients may still speak to it
                self._last_random = max(self._last_random, first - 1) + 1
                if self._last_random > last:
                    self._last_random = first
                port = self._last_random
            yield port


def _refused(plan: PortPlan, failure: OSError | None) -> SystemFailure:
    where = f"{plan.host_address or '0.0.0.0'}:{plan.host_ports[0]}"
    if failure is None or failure.errno in _IN_USE:
        reason = "port is already allocated"
        if plan.host_ports == (0, 0):
            where, reason = plan.host_address or "0.0.0.0", "all ports are allocated"
    else:
        reason = f"{(failure.strerror or str(failure)).lower()}"
    return SystemFailure(
        f"Bind for {where} failed: {reason}",
        step="publish",
        errno=(failure.errno or 0) if failure else errno.EADDRINUSE,
    )


def bind(protocol: str, version: int, address: str, port: int) -> socket.socket:
    """A socket that holds a port of the host.  Errors: OSError."""
    kind, number = _KINDS[protocol]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, number)
    try:
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol != "udp":
            # connections of a program that has ended still wait for their time to pass
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        if protocol == "tcp":
            # two that are only bound may share a port: it is ours once it listens
            sock.listen(128)
    except BaseException:
        sock.close()
        raise
    return sock
