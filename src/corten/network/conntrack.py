"""Connections that the kernel remembers: those of an address that is given back are forgotten.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Container, Iterable

from corten.linux.netlink import Connection, Message, attribute, attributes

_SUBSYSTEM = 1
_GET, _DELETE = 1, 2
_TUPLE_ORIGINAL, _TUPLE_REPLY = 1, 2
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_IP_KINDS = (1, 2, 3, 4)  # CTA_IP_V4_SRC … CTA_IP_V6_DST
_NESTED = 0x8000
_GONE = frozenset({errno.ENOENT})


def forget(connection: Connection, *, addresses: Iterable[str] = (), udp_ports: Container[int] = ()) -> int:
    """Delete entries; how many there were.  Errors: OSError.

    The kernel walks through its whole table for it: 10 ms where that is large, however few entries there are.

    connection: of NETLINK_NETFILTER, of the namespace that passes the packets on
    addresses:  all in which one of them takes part
    udp_ports:  flows of datagrams that were sent to one of them: a flow keeps the way that it was given first as
                long as its client goes on sending
    """
    wanted = {ipaddress.ip_address(address).packed for address in addresses}
    doomed = []
    for _, body in connection.dump(
        Message(_SUBSYSTEM << 8 | _GET, struct.pack(">BBH", 0, 0, 0), what="list connections")
    ):
        values = dict(attributes(body[4:]))
        original = values.get(_TUPLE_ORIGINAL, b"")
        protocol, port = _transport(original)
        if wanted & (_parties(original) | _parties(values.get(_TUPLE_REPLY, b""))) or (
            protocol == socket.IPPROTO_UDP and port in udp_ports
        ):
            doomed.append(
                Message(
                    _SUBSYSTEM << 8 | _DELETE,
                    struct.pack(">BBH", body[0], 0, 0) + attribute(_TUPLE_ORIGINAL | _NESTED, original),
                    what="forget a connection",
                    ignored=_GONE,
                )
            )
    connection.transact(doomed)
    return len(doomed)


def _transport(tuple_body: bytes) -> tuple[int, int]:
    """(protocol, destination port)"""
    values = dict(attributes(dict(attributes(tuple_body)).get(_TUPLE_PROTO, b"")))
    return values.get(_PROTO_NUM, b"\0")[0], int.from_bytes(values.get(_PROTO_DST_PORT, b""))


def _parties(tuple_body: bytes) -> set[bytes]:
    addresses = dict(attributes(dict(attributes(tuple_body)).get(_TUPLE_IP, b"")))
    return {value for kind, value in addresses.items() if kind in _IP_KINDS}
