"""What the engine asks for, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Subnet:
    """subnet: "172.18.0.0/16"; gateway: "172.18.0.1", "" without."""

    subnet: str
    gateway: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """A network as the kernel has to have it.

    driver:       bridge, macvlan or ipvlan
    device:       the bridge's name; of macvlan and ipvlan the parent, "" for one that leads nowhere
    mode:         of macvlan (bridge, private, vepa, passthru) and ipvlan (l2, l3, l3s)
    flag:         of ipvlan: bridge, private, vepa
    internal:     nothing goes out or comes in
    icc:          its sandboxes reach each other
    masquerade:   what goes out has an address of the host
    mtu:          bytes, 0 for the kernel's own choice
    prefix:       what names of interfaces inside begin with; a number follows
    bare:         IP versions of which the bridge has no address: somebody else is the gateway, or nobody
    routed:       IP versions in which addresses of sandboxes are known outside: nothing is masqueraded, published ports
                  are reached at the sandbox's own address
    open:         IP versions in which every port is reached from outside, at the sandbox's own address
    """

    id: str
    driver: str = "bridge"
    device: str = ""
    mode: str = ""
    flag: str = "bridge"
    ipv4: tuple[Subnet, ...] = ()
    ipv6: tuple[Subnet, ...] = ()
    internal: bool = False
    icc: bool = True
    masquerade: bool = True
    mtu: int = 0
    prefix: str = "eth"
    bare: tuple[int, ...] = ()
    routed: tuple[int, ...] = ()
    open: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PortPlan:
    """A port to publish.

    protocol:     tcp, udp or sctp;  port: inside
    host_address: "" for all addresses of the host
    host_ports:   first and last; the first free one is taken; (0, 0) for any
    """

    protocol: str
    port: int
    host_address: str = ""
    host_ports: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A port that has been published; ``versions``: of IP, with which the host answers.

    host_port: 0 for one that is reached at the sandbox's own address alone
    """

    protocol: str
    port: int
    host_address: str
    host_port: int
    versions: tuple[int, ...] = (4,)


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePlan:
    """Bytes a second into (ingress) and out of (egress) a sandbox, 0 for no limit; burst in bytes, 0: one that fits."""

    ingress: int = 0
    egress: int = 0
    burst: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPlan:
    """A sandbox's connection to a network.

    mac, ipv4, ipv6: "02:42:ac:12:00:02", "172.18.0.2/16", "fd00::2/64"; "" for none
    interface:       its name inside, "" for the next free ethN
    gateway:         the default route of the sandbox leads here;  gateway6: that of IPv6
    link_local:      further addresses, of the link alone: "169.254.8.8/16"
    sysctls:         (name, value) with "IFNAME" for the interface: "net.ipv4.conf.IFNAME.log_martians"
    """

    id: str
    network: NetworkPlan
    mac: str
    ipv4: str = ""
    ipv6: str = ""
    link_local: tuple[str, ...] = ()
    interface: str = ""
    ports: tuple[PortPlan, ...] = ()
    rate: RatePlan | None = None
    gateway: bool = True
    gateway6: bool = True
    sysctls: tuple[tuple[str, str], ...] = field(default=())
