"""The firewall: one nftables table of our own, whose sets and maps grow and whose rules do not.

    chain guard          prerouting, raw     no container speaks to the host's loopback addresses
    chain published      prerouting, nat     a published port leads to its container
    chain published-own  output, nat         from this host too, its loopback included
    chain forward        forward, filter     the administrator's chain ``user`` first; then: answers, neighbours on one
                                             bridge, published ports, the way out; nothing else comes to a bridge
    chain outgoing       postrouting, nat    what leaves has an address of the host

A packet costs the same whatever the number of containers.  ``user`` is never touched: rules that are put there stay,
and come back with the table when someone deletes it.  Other tables are not ours: ``neighbours.py``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from corten.linux import nftables as nft
from corten.linux import nftexpressions as expr
from corten.linux.netlink import Message
from corten.network.plans import NetworkPlan

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_DESTINATION_NAT, _FILTER, _SOURCE_NAT, _RAW = -100, 0, 100, -300
CHAINS = ("guard", "published", "published-own", "forward", "outgoing")
USER = "user"
_ADDRESS_KEY = {
    4: (nft.TYPE_ADDRESS, nft.TYPE_PROTOCOL, nft.TYPE_SERVICE),
    6: (nft.TYPE_ADDRESS6, nft.TYPE_PROTOCOL, nft.TYPE_SERVICE),
}
_ANY_KEY = (nft.TYPE_PROTOCOL, nft.TYPE_SERVICE)
_TARGET = {4: (nft.TYPE_ADDRESS, nft.TYPE_SERVICE), 6: (nft.TYPE_ADDRESS6, nft.TYPE_SERVICE)}
_PAIR = (nft.TYPE_INTERFACE, nft.TYPE_INTERFACE)
# offsets of (source, destination) and size of an address in the network header
_HEADER = {4: (12, 16, 4), 6: (8, 24, 16)}
_FAMILY = {4: nft.IPV4, 6: nft.IPV6}
_LOOPBACK_FIRST_BYTE = b"\x7f"
_LOOPBACK6 = ipaddress.IPv6Address("::1").packed

# names of the sets and the numbers that rules of the same transaction know them by
SETS = {
    "bridges": 1, "internal": 2, "pairs": 3, "subnets4": 4, "subnets6": 5, "outward4": 6, "outward6": 7,
    "ports4": 8, "ports6": 9, "any4": 10, "any6": 11, "open4": 12, "open6": 13, "routed4": 14, "routed6": 15,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Redirect:
    """A published port: ``host_address`` "" for all addresses of the host."""

    protocol: str
    host_address: str
    host_port: int
    address: str
    port: int

    @property
    def version(self) -> int:
        return ipaddress.ip_address(self.address).version

    @property
    def set_name(self) -> str:
        return f"{'ports' if self.host_address else 'any'}{self.version}"

    @property
    def key(self) -> bytes:
        protocol = bytes([_PROTOCOLS[self.protocol]])
        port = self.host_port.to_bytes(2)
        if not self.host_address:
            return nft.pack_key(_ANY_KEY, (protocol, port))
        address = ipaddress.ip_address(self.host_address).packed
        return nft.pack_key(_ADDRESS_KEY[self.version], (address, protocol, port))

    @property
    def target(self) -> bytes:
        address = ipaddress.ip_address(self.address).packed
        return nft.pack_key(_TARGET[self.version], (address, self.port.to_bytes(2)))


@dataclass(frozen=True, slots=True)
class Opening:
    """A published port that is reached at the sandbox's own address."""

    protocol: str
    address: str
    port: int
    target: None = None

    @property
    def set_name(self) -> str:
        return f"routed{ipaddress.ip_address(self.address).version}"

    @property
    def key(self) -> bytes:
        address = ipaddress.ip_address(self.address)
        parts = (address.packed, bytes([_PROTOCOLS[self.protocol]]), self.port.to_bytes(2))
        return nft.pack_key(_ADDRESS_KEY[address.version], parts)


# -- the table --------------------------------------------------------------------------------------------------------


def skeleton(table: str) -> list[Message]:
    """Chains, sets and rules, without any element."""
    messages = [nft.add_table(table), nft.add_chain(table, USER)]
    for name, sort, hook, priority in (
        ("guard", "filter", nft.PREROUTING, _RAW),
        ("published", "nat", nft.PREROUTING, _DESTINATION_NAT),
        ("published-own", "nat", nft.OUTPUT, _DESTINATION_NAT),
        ("forward", "filter", nft.FORWARD, _FILTER),
        ("outgoing", "nat", nft.POSTROUTING, _SOURCE_NAT),
    ):
        messages.append(nft.add_base_chain(table, name, sort, hook, priority))
    for name in ("bridges", "internal"):
        messages.append(nft.add_set(table, name, (nft.TYPE_INTERFACE,), SETS[name]))
    messages.append(nft.add_set(table, "pairs", _PAIR, SETS["pairs"]))
    for version, kind in ((4, nft.TYPE_ADDRESS), (6, nft.TYPE_ADDRESS6)):
        for name in (f"subnets{version}", f"outward{version}"):
            messages.append(nft.add_set(table, name, (kind,), SETS[name], interval=True))
        messages.append(nft.add_set(table, f"open{version}", (nft.TYPE_INTERFACE,), SETS[f"open{version}"]))
        messages.append(nft.add_set(table, f"routed{version}", _ADDRESS_KEY[version], SETS[f"routed{version}"]))
        for name, key in ((f"ports{version}", _ADDRESS_KEY[version]), (f"any{version}", _ANY_KEY)):
            messages.append(nft.add_set(table, name, key, SETS[name], data=_TARGET[version]))
    rules = {
        "guard": [[*_from("bridges"), *_destination_is_loopback(), expr.verdict(nft.DROP)]],
        "published": [rule for version in (4, 6) for rule in _redirects(version, own=False)],
        "published-own": [rule for version in (4, 6) for rule in _redirects(version, own=True)],
        "forward": _forward(),
        "outgoing": _masquerade(),
    }
    for chain, lines in rules.items():
        messages += [nft.add_rule(table, chain, *line) for line in lines]
    return messages


def _member(key: int, name: str, *, inverted: bool = False) -> list[bytes]:
    return [expr.load_meta(key), expr.lookup(name, SETS[name], inverted=inverted)]


def _from(name: str) -> list[bytes]:
    return _member(expr.META_IIFNAME, name)


def _to(name: str, *, inverted: bool = False) -> list[bytes]:
    return _member(expr.META_OIFNAME, name, inverted=inverted)


def _destination_is_loopback(operation: int = expr.EQUAL) -> list[bytes]:
    return [
        *expr.is_family(nft.IPV4),
        expr.load_network(_HEADER[4][1], 1),
        expr.compare(_LOOPBACK_FIRST_BYTE, operation),
    ]


def _redirects(version: int, *, own: bool) -> list[list[bytes]]:
    """Local destinations to containers: by address and port, then by port alone.

    A loopback address is only this host's own way: from outside it is never looked up.  That of IPv6 cannot be
    redirected (nothing leaves the host with it as its source): the daemon passes on what comes there (``proxy.py``).
    """
    family, (_, destination, size) = _FAMILY[version], _HEADER[version]
    address_registers = size // 4
    local = [*expr.is_family(family), *expr.destination_is_local()]
    if not own and version == 4:
        local += _destination_is_loopback(expr.DIFFERENT)
    if version == 6:
        local += [expr.load_network(destination, size), expr.compare(_LOOPBACK6, expr.DIFFERENT)]
    first = expr.FIRST

    def port_key(register: int) -> list[bytes]:
        return [expr.load_meta(expr.META_L4PROTO, register), expr.load_transport(2, 2, register + 1)]

    named, every = f"ports{version}", f"any{version}"
    change = expr.redirect(family, first, first + address_registers)
    return [
        [
            *local,
            expr.load_network(destination, size, first),
            *port_key(first + address_registers),
            expr.lookup(named, SETS[named], into=first),
            change,
        ],
        [*local, *port_key(first), expr.lookup(every, SETS[every], into=first), change],
    ]


def _forward() -> list[list[bytes]]:
    accept, drop = expr.verdict(nft.ACCEPT), expr.verdict(nft.DROP)
    answers = expr.connection_state(expr.CT_ESTABLISHED | expr.CT_RELATED)
    neighbours = [
        expr.load_meta(expr.META_IIFNAME, expr.FIRST),
        expr.load_meta(expr.META_OIFNAME, expr.FIRST + 4),
        expr.lookup("pairs", SETS["pairs"]),
    ]
    return [
        [expr.jump(USER)],
        [*_from("bridges"), *answers, accept],
        [*_to("bridges"), *answers, accept],
        [*neighbours, accept],
        [*_from("internal"), drop],
        [*_to("internal"), drop],
        [*_to("bridges"), *expr.connection_was_redirected(), accept],
        *(rule for version in (4, 6) for rule in _reached_directly(version)),
        [*_to("bridges"), drop],
        [*_from("bridges"), accept],
    ]


def _reached_directly(version: int) -> list[list[bytes]]:
    """What is let in to the sandboxes' own addresses, because their network says so."""
    family, (_, destination, size) = _FAMILY[version], _HEADER[version]
    routed, behind = f"routed{version}", expr.FIRST + size // 4
    return [
        [*expr.is_family(family), *_to(f"open{version}"), expr.verdict(nft.ACCEPT)],
        [
            *expr.is_family(family),
            expr.load_network(destination, size, expr.FIRST),
            expr.load_meta(expr.META_L4PROTO, behind),
            expr.load_transport(2, 2, behind + 1),
            expr.lookup(routed, SETS[routed]),
            expr.verdict(nft.ACCEPT),
        ],
    ]


def _masquerade() -> list[list[bytes]]:
    rules = [
        # from the host's loopback to a published port: the container must be able to answer
        [
            *expr.is_family(nft.IPV4),
            expr.load_network(_HEADER[4][0], 1),
            expr.compare(_LOOPBACK_FIRST_BYTE),
            *_to("bridges"),
            expr.masquerade(),
        ]
    ]
    for version in (4, 6):
        source, _, size = _HEADER[version]
        subnets, outward = f"subnets{version}", f"outward{version}"
        load = [*expr.is_family(_FAMILY[version]), expr.load_network(source, size)]
        rules += [
            # a container that comes to its neighbour through the host's address must get its answer the same way
            [
                *load,
                expr.lookup(subnets, SETS[subnets]),
                *_to("bridges"),
                *expr.connection_was_redirected(),
                expr.masquerade(),
            ],
            [*load, expr.lookup(outward, SETS[outward]), *_to("bridges", inverted=True), expr.masquerade()],
        ]
    return rules


# -- elements ---------------------------------------------------------------------------------------------------------


def _range(subnet: str) -> tuple[bytes, bytes]:
    network = ipaddress.ip_network(subnet)
    return network.network_address.packed, network[-1].packed


def network_elements(table: str, plan: NetworkPlan, *, add: bool) -> list[Message]:
    name = expr.interface_key(plan.device)
    keys = {"bridges": [name]}
    if plan.internal:
        keys["internal"] = [name]
    if plan.icc:
        keys["pairs"] = [nft.pack_key(_PAIR, (name, name))]
    keys |= {f"open{version}": [name] for version in plan.open}
    messages: list[Message] = []
    for set_name, elements in keys.items():
        if add:
            messages += nft.add_elements(table, set_name, [(key, None) for key in elements])
        else:
            messages += nft.delete_elements(table, set_name, elements)
    change = nft.add_intervals if add else nft.delete_intervals
    for version, subnets in ((4, plan.ipv4), (6, plan.ipv6)):
        ranges = [_range(item.subnet) for item in subnets]
        messages += change(table, f"subnets{version}", ranges)
        if plan.masquerade and not plan.internal and version not in plan.routed:
            messages += change(table, f"outward{version}", ranges)
    return messages


def redirect_elements(table: str, redirects: Iterable[Redirect | Opening], *, add: bool) -> list[Message]:
    by_set: dict[str, list[Redirect | Opening]] = {}
    for item in redirects:
        by_set.setdefault(item.set_name, []).append(item)
    messages: list[Message] = []
    for name, items in by_set.items():
        if add:
            messages += nft.add_elements(table, name, [(item.key, item.target) for item in items])
        else:
            messages += nft.delete_elements(table, name, [item.key for item in items])
    return messages
