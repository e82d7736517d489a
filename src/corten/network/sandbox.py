"""A sandbox: the network namespace of a container, held by a descriptor, with its endpoints."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass, field

from corten.linux import nftables as nft
from corten.linux import nftexpressions as expr
from corten.linux import nftlist
from corten.linux import rtnetlink as rt
from corten.linux.netlink import NETLINK_ROUTE, Connection
from corten.network import namespaces
from corten.network.plans import EndpointPlan, Published

_LOOPBACK_INDEX = 1
_TABLE = "corten-names"
# what a namespace of a container begins with; IPv6 comes back for endpoints that have it
_FIRST_SYSCTLS = (("net.ipv6.conf.default.disable_ipv6", "1"),)


@dataclass(slots=True)
class Attached:
    """An endpoint as it is: interface name and index inside, link of the host's side, published ports.

    intermediate: interface of the host that holds back what comes out
    proxied: listening sockets of published ports that the kernel cannot redirect, and where they lead to
    """

    plan: EndpointPlan
    interface: str
    index: int
    host_link: str = ""
    intermediate: str = ""
    published: tuple[Published, ...] = ()
    proxied: list[tuple[str, socket.socket, tuple[str, int]]] = field(default_factory=list)


@dataclass(slots=True)
class Sandbox:
    """A network namespace that lives as long as its descriptor is open or a process is in it.

    namespace:  its descriptor;  routes: an rtnetlink socket inside
    owner:      a descriptor of the user namespace that it belongs to, -1 for the host's
    """

    namespace: int
    routes: Connection
    endpoints: dict[str, Attached] = field(default_factory=dict)
    owner: int = -1

    @property
    def path(self) -> str:
        return self.paths["network"]

    @property
    def paths(self) -> dict[str, str]:
        """The files of the namespaces by kind, as long as this process lives and the sandbox is not closed."""
        held = {"network": self.namespace, **({"user": self.owner} if self.owner >= 0 else {})}
        return {kind: f"/proc/{os.getpid()}/fd/{descriptor}" for kind, descriptor in held.items()}

    @property
    def published(self) -> dict[str, tuple[Published, ...]]:
        """Published ports by endpoint."""
        return {key: attached.published for key, attached in self.endpoints.items() if attached.published}

    def open_sockets(self, address: str, port: int) -> tuple[socket.socket, socket.socket]:
        """(UDP, listening TCP), bound inside; port 0 for one that both can have.  Errors: OSError."""

        def bound() -> tuple[socket.socket, socket.socket]:
            for attempt in range(16):
                datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
                try:
                    datagrams.bind((address, port))
                    stream.bind((address, datagrams.getsockname()[1]))
                    stream.listen(64)
                except OSError:
                    datagrams.close()
                    stream.close()
                    if port or attempt == 15:
                        raise
                    continue
                datagrams.setblocking(False)
                stream.setblocking(False)
                return datagrams, stream
            raise AssertionError

        return namespaces.run_in(self.namespace, bound)

    def new_socket(self, family: int, kind: int) -> socket.socket:
        """A socket inside.  Errors: OSError."""
        return namespaces.run_in(self.namespace, lambda: socket.socket(family, kind | socket.SOCK_CLOEXEC))

    def redirect(self, address: str, port: int, target: int) -> None:
        """Have what is sent inside to a port of an address of the sandbox itself arrive at another port.

        Programs inside can have the port for themselves.  Errors: OSError.
        """

        def change() -> None:
            connection = nft.connect()
            try:
                messages = [nft.delete_table(_TABLE)] if _TABLE in nftlist.tables(connection) else []
                messages += [
                    nft.add_table(_TABLE),
                    nft.add_base_chain(_TABLE, "output", "nat", nft.OUTPUT, -100),
                ]
                for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP):
                    messages.append(
                        nft.add_rule(_TABLE, "output", *expr.redirect_port(address, protocol, port, target))
                    )
                nft.commit(connection, messages)
            finally:
                connection.close()

        namespaces.run_in(self.namespace, change)

    def write_sysctls(self, values: tuple[tuple[str, str], ...]) -> None:
        """Errors: OSError."""

        def write() -> None:
            for name, value in values:
                namespaces.write_sysctl(name, value)

        if values:
            namespaces.run_in(self.namespace, write)

    def free_interface(self, prefix: str) -> str:
        taken = {attached.interface for attached in self.endpoints.values()}
        number = 0
        while f"{prefix}{number}" in taken:
            number += 1
        return f"{prefix}{number}"

    def close(self) -> None:
        """Let go: the kernel takes the namespace away when no process is in it any more."""
        self.routes.close()
        for descriptor in (self.namespace, self.owner):
            if descriptor >= 0:
                os.close(descriptor)
        self.namespace = self.owner = -1


def new(owned: tuple[int, int] | None = None) -> Sandbox:
    """A namespace with nothing but its loopback device, up.

    owned: descriptors of a user namespace and of a network namespace that belongs to it, to be used instead of new ones
    Errors: OSError.
    """

    def prepare() -> Sandbox:
        for name, value in _FIRST_SYSCTLS:
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                namespaces.write_sysctl(name, value)
        routes = Connection(NETLINK_ROUTE)
        try:
            routes.transact([rt.set_up(_LOOPBACK_INDEX)])
            return Sandbox(namespaces.current(), routes) if owned is None else Sandbox(owned[1], routes, owner=owned[0])
        except BaseException:
            routes.close()
            raise

    if owned is None:
        return namespaces.run_in_new(prepare)
    try:
        return namespaces.run_in(owned[1], prepare)
    except BaseException:
        for descriptor in owned:
            os.close(descriptor)
        raise


def of_process(pid: int) -> Sandbox:
    """The namespace of a process that runs.  Errors: OSError when it has ended."""
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Sandbox(namespace, namespaces.run_in(namespace, lambda: Connection(NETLINK_ROUTE)))
    except BaseException:
        os.close(namespace)
        raise
