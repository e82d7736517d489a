"""Addresses and routes as netlink messages.

Source: rtnetlink(7).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct

from corten.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Connection,
    Message,
    attribute,
    attributes,
)

_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_IFA_F_NODAD = 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY = 1, 4, 5, 6
_RT_TABLE_MAIN = 254
_RTPROT_BOOT = 3
_RTN_UNICAST = 1
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_ANY = 0, 253, 255

_ADDRESS = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def add_address(index: int, address: str) -> Message:
    """Give an interface "172.18.0.2/16" or "fd00::2/64"; one that it has already is no failure."""
    parsed = ipaddress.ip_interface(address)
    parts = [attribute(_IFA_LOCAL, parsed.ip.packed), attribute(_IFA_ADDRESS, parsed.ip.packed)]
    if parsed.version == 4 and parsed.network.prefixlen < 31:
        parts.append(attribute(_IFA_BROADCAST, parsed.network.broadcast_address.packed))
    if parsed.version == 6:
        # addresses are allocated: nobody else has it, and nothing should wait for the probe
        parts.append(attribute(_IFA_FLAGS, _IFA_F_NODAD))
    body = _ADDRESS.pack(_family(parsed.version), parsed.network.prefixlen, 0, _SCOPE_UNIVERSE, index)
    return Message(
        _RTM_NEWADDR,
        body + b"".join(parts),
        NLM_F_CREATE | NLM_F_EXCL,
        f"add address {address}",
        frozenset({errno.EEXIST}),
    )


def delete_address(index: int, address: str) -> Message:
    parsed = ipaddress.ip_interface(address)
    body = _ADDRESS.pack(_family(parsed.version), parsed.network.prefixlen, 0, 0, index)
    body += attribute(_IFA_LOCAL, parsed.ip.packed)
    return Message(_RTM_DELADDR, body, what=f"delete address {address}", ignored=frozenset({errno.EADDRNOTAVAIL}))


def addresses(connection: Connection, index: int = 0) -> list[str]:
    """All addresses with their prefixes, of one interface or of all."""
    return [address for owner, address in addresses_by_link(connection) if index in (0, owner)]


def addresses_by_link(connection: Connection) -> list[tuple[int, str]]:
    """(index of the interface, address with its prefix) of all."""
    found = []
    for kind, body in connection.dump(Message(_RTM_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0), what="list addresses")):
        if kind == _RTM_NEWADDR:
            _, prefix, _, _, owner = _ADDRESS.unpack_from(body)
            values = dict(attributes(body[_ADDRESS.size :]))
            raw = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
            if raw:
                found.append((owner, f"{ipaddress.ip_address(raw)}/{prefix}"))
    return found


def _route(
    kind: int, flags: int, version: int, destination: str, gateway: str, index: int, what: str, ignored: frozenset[int]
) -> Message:
    prefix, parts = 0, []
    if destination:
        network = ipaddress.ip_network(destination)
        prefix = network.prefixlen
        parts.append(attribute(_RTA_DST, network.network_address.packed))
    if gateway:
        parts.append(attribute(_RTA_GATEWAY, ipaddress.ip_address(gateway).packed))
    if index:
        parts.append(attribute(_RTA_OIF, index))
    scope = _SCOPE_UNIVERSE if gateway or version == 6 else _SCOPE_LINK
    body = _ROUTE.pack(
        *(_family(version), prefix, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT),
        *((scope, _RTN_UNICAST) if flags else (_SCOPE_ANY, 0)),
        0,
    )
    return Message(kind, body + b"".join(parts), flags, what, ignored)


def set_default_route(version: int, gateway: str, index: int) -> Message:
    """The way to everything else: through ``gateway``, or straight out of the interface when there is none."""
    where = f"via {gateway}" if gateway else f"through interface {index}"
    flags = NLM_F_CREATE | NLM_F_REPLACE
    return _route(_RTM_NEWROUTE, flags, version, "", gateway, index, f"set the default route {where}", frozenset())


def delete_default_route(version: int) -> Message:
    return _route(
        _RTM_DELROUTE, 0, version, "", "", 0, "delete the default route", frozenset({errno.ESRCH, errno.ENETUNREACH})
    )


def routes(connection: Connection) -> list[str]:
    """Networks that the main table has a route to, the default route left out."""
    found = []
    request = Message(_RTM_GETROUTE, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0), what="list routes")
    for kind, body in connection.dump(request):
        if kind == _RTM_NEWROUTE:
            prefix, table, sort = body[1], body[4], body[7]
            values = dict(attributes(body[_ROUTE.size :]))
            if table == _RT_TABLE_MAIN and sort == _RTN_UNICAST and _RTA_DST in values:
                found.append(f"{ipaddress.ip_address(values[_RTA_DST])}/{prefix}")
    return found
