"""Published ports: the host's port is taken, the firewall leads it to the container, old connections are forgotten."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence

from corten.errors import CortenError, InvalidParameter
from corten.linux.netlink import Connection
from corten.network import conntrack, links, ports
from corten.network.firewall import Firewall
from corten.network.outside import Outside
from corten.network.plans import EndpointPlan, PortPlan, Published
from corten.network.ruleset import Opening, Redirect
from corten.network.sandbox import Attached

logger = logging.getLogger(__name__)


class Publishing:
    """The published ports of one daemon.  Methods may be called from any thread.

    connections: of NETLINK_NETFILTER, that several threads may use
    forget:      has connections of addresses forgotten, soon
    outside:     where ports are published, when this process is not in the host's network itself
    """

    def __init__(
        self,
        firewall: Firewall,
        connections: Connection,
        forget: Callable[[Iterable[str]], None],
        outside: Outside | None = None,
    ) -> None:
        self._firewall = firewall
        self._connections = connections
        self._forget = forget
        self._outside = outside
        self._ports = ports.Ports(outside.bind if outside is not None else ports.bind)
        self._has_ipv6 = outside.greeting.has_ipv6 if outside is not None else ports.has_ipv6()
        self._lock = threading.Lock()
        self._reservations: dict[str, list[ports.Reservation]] = {}

    def publish(self, attached: Attached) -> None:
        """Publish the ports of an endpoint, all or none.  Errors: InvalidParameter, SystemFailure."""
        plan = attached.plan
        if not plan.ports:
            return
        if self._outside is not None and any(item.protocol == "sctp" for item in plan.ports):
            raise InvalidParameter("without root, ports are passed on by the daemon, which cannot do that for sctp")
        own = _own_addresses(plan)
        translated = _translated(plan)
        versions = self._host_versions(plan, translated)
        bound = [item for item in plan.ports if _wants_host_port(item, plan, versions)]
        taken = self._ports.reserve(bound, versions)
        try:
            if translated[4] and any(_has_loopback(one.published) for one in taken):
                links.let_loopback_out(plan.network.device)
            self._firewall.publish(_rules(plan, taken))
            self._forget_flows([one.published for one in taken])
        except BaseException:
            for reservation in taken:
                reservation.close()
            raise
        for reservation in taken:
            self._pass_on(attached, reservation, own)
        routed = [
            Published(protocol=item.protocol, port=item.port, host_address=item.host_address, host_port=0, versions=())
            for item in plan.ports
            if item not in bound
        ]
        with self._lock:
            self._reservations[plan.id] = taken
        attached.published = (*(reservation.published for reservation in taken), *routed)

    def _host_versions(self, plan: EndpointPlan, translated: dict[int, str]) -> list[int]:
        """IP versions of which a port without a host address is taken on the host."""
        if not any(translated.values()):
            return []
        usual = [version for version in (4, 6) if translated[version] or (version == 6 and self._has_ipv6)]
        return [version for version in usual if version not in plan.network.routed]

    def _pass_on(self, attached: Attached, reservation: ports.Reservation, own: dict[int, str]) -> None:
        """Note the sockets that have to be served: the kernel turns no family into the other, redirects nothing from
        the loopback of IPv6, and nothing that comes to another namespace.
        """
        published = reservation.published
        for version, sock in reservation.sockets.items():
            if published.protocol != "sctp" and (version == 6 or self._outside is not None):
                target = own[version] or own[10 - version]
                attached.proxied.append((published.protocol, sock, (target, published.port)))

    def withdraw(self, attached: Attached) -> None:
        """Give the ports of an endpoint back.  Never raises."""
        plan = attached.plan
        with self._lock:
            taken = self._reservations.pop(plan.id, None)
        if taken is None:
            return
        own = _own_addresses(plan)
        attached.proxied.clear()
        try:
            self._firewall.withdraw(_rules(plan, taken))
            # a connection that goes on would be sent to whoever gets the address next
            self._forget(address for address in own.values() if address)
        except CortenError as error:
            logger.warning("ports of endpoint %s: %s", plan.id[:12], error)
        finally:
            for reservation in taken:
                reservation.close()

    def close(self) -> None:
        """Give all host ports back; redirections stay."""
        with self._lock:
            for reservations in self._reservations.values():
                for reservation in reservations:
                    reservation.close()
            self._reservations.clear()

    def _forget_flows(self, published: list[Published]) -> None:
        """Clients that go on sending datagrams to a port reach this container, not who had the port before."""
        numbers = {item.host_port for item in published if item.protocol == "udp"}
        if not numbers:
            return
        try:
            conntrack.forget(self._connections, udp_ports=numbers)
        except OSError as error:
            logger.warning("flows to published ports: %s", error)


def _own_addresses(plan: EndpointPlan) -> dict[int, str]:
    return {4: plan.ipv4.partition("/")[0], 6: plan.ipv6.partition("/")[0]}


def _translated(plan: EndpointPlan) -> dict[int, str]:
    """The addresses that ports of the host lead to, by IP version; "" for none."""
    return {version: "" if version in plan.network.routed else own for version, own in _own_addresses(plan).items()}


def _wants_host_port(port: PortPlan, plan: EndpointPlan, versions: Sequence[int]) -> bool:
    """Whether a port of the host is taken for it, and it is not reached at the sandbox's address alone."""
    if not port.host_address:
        return bool(versions)
    return (6 if ":" in port.host_address else 4) not in plan.network.routed


def _rules(plan: EndpointPlan, taken: Sequence[ports.Reservation]) -> list[Redirect | Opening]:
    """What the firewall needs for the published ports of an endpoint."""
    own = _own_addresses(plan)
    openings = {
        Opening(item.protocol, own[version], item.port): None
        for version in plan.network.routed
        if own[version]
        for item in plan.ports
        if not item.host_address or (":" in item.host_address) == (version == 6)
    }
    translated = _translated(plan)
    return [*(item for one in taken for item in _redirects(one.published, translated)), *openings]


def _has_loopback(published: Published) -> bool:
    return published.host_address in ("", "0.0.0.0") or published.host_address.startswith("127.")


def _redirects(published: Published, own: dict[int, str]) -> list[Redirect]:
    """What the firewall needs for a port: one for each family that both sides have."""
    asked = published.host_address
    where = "" if asked in ("0.0.0.0", "::") else asked
    return [
        Redirect(published.protocol, where, published.host_port, address, published.port)
        for version, address in own.items()
        if address and (not asked or (":" in asked) == (version == 6))
    ]
