"""What rules of nftables are made of: each expression a few bytes, put together by ``nftables.add_rule``.

Only the expressions that are needed are here.  Registers are the 32-bit ones: a concatenation of keys lies in
neighbours.  Source: include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import socket
import struct

from corten.linux.netlink import attribute, nested
from corten.linux.nftables import IPV4, be32

_JUMP = -3

FIRST = 8  # NFT_REG32_00

META_IIFNAME, META_OIFNAME, META_NFPROTO, META_L4PROTO = 6, 7, 15, 16
_CT_STATE, _CT_STATUS = 0, 2
CT_ESTABLISHED, CT_RELATED = 0x2, 0x4
STATUS_DNAT = 0x20

_RTN_LOCAL = 2

EQUAL, DIFFERENT = 0, 1


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(1, attribute(1, name), nested(2, *parts))


def _data(value: bytes) -> bytes:
    return attribute(1, value)


def load_meta(key: int, register: int = FIRST) -> bytes:
    return _expression("meta", attribute(2, be32(key)), attribute(1, be32(register)))


def load_network(offset: int, size: int, register: int = FIRST) -> bytes:
    """Bytes of the network header."""
    return _payload(1, offset, size, register)


def load_transport(offset: int, size: int, register: int = FIRST) -> bytes:
    """Bytes of the transport header: ports are the first two pairs."""
    return _payload(2, offset, size, register)


def _payload(base: int, offset: int, size: int, register: int) -> bytes:
    return _expression(
        "payload",
        attribute(1, be32(register)),
        attribute(2, be32(base)),
        attribute(3, be32(offset)),
        attribute(4, be32(size)),
    )


def compare(value: bytes, operation: int = EQUAL, register: int = FIRST) -> bytes:
    """The rule goes on when the register is (not) equal to a value."""
    return _expression("cmp", attribute(1, be32(register)), attribute(2, be32(operation)), nested(3, _data(value)))


def lookup(name: str, number: int, *, register: int = FIRST, into: int = 0, inverted: bool = False) -> bytes:
    """The rule goes on when the key is (not) in the set; of a map the datum is put ``into`` a register."""
    parts = [attribute(1, name), attribute(2, be32(register)), attribute(4, be32(number))]
    if into:
        parts.append(attribute(3, be32(into)))
    if inverted:
        parts.append(attribute(5, be32(1)))
    return _expression("lookup", *parts)


def is_family(family: int) -> list[bytes]:
    return [load_meta(META_NFPROTO), compare(bytes([family]))]


def interface_key(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def is_interface(key: int, name: str, operation: int = EQUAL) -> list[bytes]:
    """key: META_IIFNAME or META_OIFNAME.  Written as iptables-nft(8) does, which has to be able to read it."""
    return [load_meta(key), compare(name.encode() + b"\0", operation)]


def connection_state(states: int) -> list[bytes]:
    """The packet's connection is in one of the states."""
    return _connection_bits(_CT_STATE, states)


def connection_was_redirected() -> list[bytes]:
    """The connection's destination has been changed (DNAT)."""
    return _connection_bits(_CT_STATUS, STATUS_DNAT)


def _connection_bits(key: int, bits: int) -> list[bytes]:
    mask = struct.pack("=I", bits)
    return [
        _expression("ct", attribute(2, be32(key)), attribute(1, be32(FIRST))),
        _expression(
            "bitwise",
            attribute(1, be32(FIRST)),
            attribute(2, be32(FIRST)),
            attribute(3, be32(4)),
            nested(4, _data(mask)),
            nested(5, _data(bytes(4))),
        ),
        compare(bytes(4), DIFFERENT),
    ]


def destination_is_local() -> list[bytes]:
    """The destination is an address of this host (fib daddr type local)."""
    return [
        _expression("fib", attribute(1, be32(FIRST)), attribute(2, be32(3)), attribute(3, be32(2))),
        compare(struct.pack("=I", _RTN_LOCAL)),
    ]


def verdict(code: int) -> bytes:
    """DROP or ACCEPT."""
    return _expression("immediate", attribute(1, be32(0)), nested(2, nested(2, attribute(1, be32(code)))))


def jump(chain: str) -> bytes:
    return _expression(
        "immediate", attribute(1, be32(0)), nested(2, nested(2, attribute(1, be32(_JUMP)), attribute(2, chain)))
    )


def redirect(family: int, address: int, port: int) -> bytes:
    """Change the destination to what is in two registers (DNAT)."""
    return _expression(
        "nat",
        attribute(1, be32(1)),
        attribute(2, be32(family)),
        attribute(3, be32(address)),
        attribute(5, be32(port)),
    )


def load_value(value: bytes, register: int = FIRST) -> bytes:
    return _expression("immediate", attribute(1, be32(register)), nested(2, _data(value)))


def redirect_port(address: str, protocol: int, port: int, target: int) -> list[bytes]:
    """Packets of a protocol to a port of an IPv4 address go to another port of the same address."""
    packed = socket.inet_aton(address)
    return [
        *is_family(IPV4),
        load_network(16, 4),
        compare(packed),
        load_meta(META_L4PROTO),
        compare(bytes([protocol])),
        load_transport(2, 2),
        compare(port.to_bytes(2)),
        load_value(packed, FIRST),
        load_value(target.to_bytes(2), FIRST + 1),
        redirect(IPV4, FIRST, FIRST + 1),
    ]


def masquerade() -> bytes:
    """Change the source to the address of the interface that the packet leaves by."""
    return _expression("masq")


def counter() -> bytes:
    return _expression("counter", attribute(1, bytes(8)), attribute(2, bytes(8)))
