"""nftables over netlink: tables, chains, sets, maps and rules as messages of one transaction.

Sources: include/uapi/linux/netfilter/nf_tables.h, nft(8).  Only the expressions that are needed are here; each is a few
bytes, put together by ``rule``.  Registers are the 32-bit ones: a concatenation of keys lies in neighbours.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Sequence

from corten.linux.netlink import (
    NETLINK_NETFILTER,
    NLM_F_APPEND,
    NLM_F_CREATE,
    Connection,
    Message,
    attribute,
    nested,
)

INET = 1
IPV4 = 2
IPV6 = 10

PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)

_SUBSYSTEM = 10
(
    _NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _GETCHAIN, _DELCHAIN, _NEWRULE, _GETRULE, _DELRULE, _NEWSET, _GETSET,
    _DELSET, _NEWSETELEM, _GETSETELEM, _DELSETELEM,
) = range(15)  # fmt: skip

_BATCH = struct.pack(">BBH", 0, 0, _SUBSYSTEM)
BATCH_BEGIN = Message(0x10, _BATCH, what="change the firewall")
BATCH_END = Message(0x11, _BATCH)

DROP, ACCEPT = 0, 1
_JUMP, _RETURN = -3, -5

# data types as nft(8) shows them; a concatenation packs 6 bits each
TYPE_ADDRESS, TYPE_ADDRESS6, TYPE_PROTOCOL, TYPE_SERVICE, TYPE_INTERFACE = 7, 8, 12, 13, 41
_SIZES = {TYPE_ADDRESS: 4, TYPE_ADDRESS6: 16, TYPE_PROTOCOL: 1, TYPE_SERVICE: 2, TYPE_INTERFACE: 16}

_SET_INTERVAL, _SET_MAP = 0x4, 0x8
_ELEMENT_END = 0x1

FIRST = 8  # NFT_REG32_00

META_IIFNAME, META_OIFNAME, META_NFPROTO, META_L4PROTO = 6, 7, 15, 16
_CT_STATE, _CT_STATUS = 0, 2
CT_ESTABLISHED, CT_RELATED = 0x2, 0x4
STATUS_DNAT = 0x20

_RTN_LOCAL = 2

EQUAL, DIFFERENT = 0, 1


def _be(value: int) -> bytes:
    return struct.pack(">I", value & 0xFFFFFFFF)


def _message(
    kind: int, family: int, flags: int, what: str, *parts: bytes, ignored: frozenset[int] = frozenset()
) -> Message:
    body = struct.pack(">BBH", family, 0, 0) + b"".join(parts)
    return Message(_SUBSYSTEM << 8 | kind, body, flags, what, ignored)


# -- objects ----------------------------------------------------------------------------------------------------------


def add_table(table: str, family: int = INET) -> Message:
    return _message(_NEWTABLE, family, NLM_F_CREATE, f"create firewall table {table}", attribute(1, table))


def delete_table(table: str, family: int = INET) -> Message:
    return _message(_DELTABLE, family, 0, f"delete firewall table {table}", attribute(1, table))


def add_chain(table: str, name: str, family: int = INET) -> Message:
    """A chain that others jump to."""
    return _message(
        _NEWCHAIN, family, NLM_F_CREATE, f"create firewall chain {name}", attribute(1, table), attribute(3, name)
    )


def add_base_chain(table: str, name: str, sort: str, hook: int, priority: int, family: int = INET) -> Message:
    """A chain that packets come to; sort is "filter" or "nat"; what no rule decides is accepted."""
    return _message(
        _NEWCHAIN,
        family,
        NLM_F_CREATE,
        f"create firewall chain {name}",
        attribute(1, table),
        attribute(3, name),
        nested(4, attribute(1, _be(hook)), attribute(2, _be(priority))),
        attribute(5, _be(ACCEPT)),
        attribute(7, sort),
    )


def flush_chain(table: str, chain: str, family: int = INET) -> Message:
    """Delete all rules of a chain."""
    return _message(
        _DELRULE, family, 0, f"empty firewall chain {chain}", attribute(1, table), attribute(2, chain),
        ignored=frozenset({errno.ENOENT}),
    )  # fmt: skip


def delete_chain(table: str, chain: str, family: int = INET) -> Message:
    """It must be empty, and nobody may jump to it."""
    return _message(_DELCHAIN, family, 0, f"delete firewall chain {chain}", attribute(1, table), attribute(3, chain))


def _key(types: Sequence[int]) -> tuple[int, int]:
    """(type, bytes) of a key: each part of a concatenation is padded to 32 bits."""
    if len(types) == 1:
        return types[0], _SIZES[types[0]]
    kind = 0
    for part in types:
        kind = kind << 6 | part
    return kind, sum(_SIZES[part] + (-_SIZES[part] % 4) for part in types)


def add_set(
    table: str, name: str, key: Sequence[int], number: int, *, data: Sequence[int] = (), interval: bool = False
) -> Message:
    """A set, or with ``data`` a map.  ``number`` tells the sets of one transaction apart."""
    kind, size = _key(key)
    flags = (_SET_INTERVAL if interval else 0) | (_SET_MAP if data else 0)
    parts = [
        attribute(1, table), attribute(2, name), attribute(3, _be(flags)), attribute(4, _be(kind)),
        attribute(5, _be(size)), attribute(10, _be(number)),
    ]  # fmt: skip
    if key == (TYPE_INTERFACE,):
        # nft(8) reads names backwards unless it is told that they are in the host's order
        parts.append(attribute(13, bytes((0, 4)) + struct.pack("=I", 1)))
    if data:
        data_kind, data_size = _key(data)
        parts += [attribute(6, _be(data_kind)), attribute(7, _be(data_size))]
    return _message(_NEWSET, INET, NLM_F_CREATE, f"create firewall set {name}", *parts)


def delete_set(table: str, name: str, family: int = INET) -> Message:
    """No rule may use it any more, also not one that the same transaction deletes later."""
    return _message(_DELSET, family, 0, f"delete firewall set {name}", attribute(1, table), attribute(2, name))


def flush_set(table: str, name: str, family: int = INET) -> Message:
    """Take all elements out of a set."""
    return _message(_DELSETELEM, family, 0, f"empty firewall set {name}", attribute(1, table), attribute(2, name))


def pack_key(types: Sequence[int], values: Sequence[bytes]) -> bytes:
    """A key or datum of ``values`` in network order, padded as concatenations are."""
    if len(types) == 1:
        return values[0].ljust(_SIZES[types[0]], b"\0")
    return b"".join(
        value.ljust(_SIZES[kind] + (-_SIZES[kind] % 4), b"\0") for kind, value in zip(types, values, strict=True)
    )


def _elements(kind: int, table: str, name: str, elements: Iterable[bytes], flags: int, what: str) -> list[Message]:
    """Split so that no message is longer than an attribute can be (64 KiB)."""
    messages, group, size = [], [], 0
    for element in elements:
        group.append(element)
        size += len(element)
        if size > 48_000:
            messages.append(group)
            group, size = [], 0
    if group:
        messages.append(group)
    return [
        _message(kind, INET, flags, what, attribute(1, table), attribute(2, name), nested(3, *chosen))
        for chosen in messages
    ]


def _element(key: bytes, data: bytes | None, flags: int = 0) -> bytes:
    parts = [nested(1, attribute(1, key))]
    if data is not None:
        parts.append(nested(2, attribute(1, data)))
    if flags:
        parts.append(attribute(3, _be(flags)))
    return nested(1, *parts)


def add_elements(table: str, name: str, elements: Iterable[tuple[bytes, bytes | None]]) -> list[Message]:
    """(key, datum) of each element; None in a set."""
    made = (_element(key, data) for key, data in elements)
    return _elements(_NEWSETELEM, table, name, made, NLM_F_CREATE, f"add to firewall set {name}")


def delete_elements(table: str, name: str, keys: Iterable[bytes]) -> list[Message]:
    """Take elements out of a set; deleting one that is not there fails."""
    made = (_element(key, None) for key in keys)
    return _elements(_DELSETELEM, table, name, made, 0, f"take out of firewall set {name}")


def _bounds(first: bytes, last: bytes) -> list[bytes]:
    """An interval: where it begins, and the first key behind it."""
    after = int.from_bytes(last) + 1
    ends = [_element(first, None)]
    if after < 1 << (8 * len(last)):
        ends.append(_element(after.to_bytes(len(last)), None, _ELEMENT_END))
    return ends


def add_intervals(table: str, name: str, intervals: Iterable[tuple[bytes, bytes]]) -> list[Message]:
    """(first, last) key of each interval; intervals must not overlap."""
    made = (end for first, last in intervals for end in _bounds(first, last))
    return _elements(_NEWSETELEM, table, name, made, NLM_F_CREATE, f"add to firewall set {name}")


def delete_intervals(table: str, name: str, intervals: Iterable[tuple[bytes, bytes]]) -> list[Message]:
    made = (end for first, last in intervals for end in _bounds(first, last))
    return _elements(_DELSETELEM, table, name, made, 0, f"take out of firewall set {name}")


# -- rules ------------------------------------------------------------------------------------------------------------


def add_rule(table: str, chain: str, *expressions: bytes, family: int = INET, userdata: bytes = b"") -> Message:
    """A rule at the end of a chain."""
    return _message(
        _NEWRULE,
        family,
        NLM_F_CREATE | NLM_F_APPEND,
        f"add a rule to firewall chain {chain}",
        attribute(1, table),
        attribute(2, chain),
        nested(4, *expressions),
        attribute(7, userdata) if userdata else b"",
    )


def put_rule(table: str, chain: str, attributes_of_rule: bytes, family: int = INET) -> Message:
    """A rule as ``nftlist.rules`` has read it, at the end of a chain."""
    return _message(
        _NEWRULE,
        family,
        NLM_F_CREATE | NLM_F_APPEND,
        f"put a rule back into firewall chain {chain}",
        attribute(1, table),
        attribute(2, chain),
        attributes_of_rule,
    )


def delete_rule(table: str, chain: str, handle: bytes, family: int = INET) -> Message:
    return _message(
        _DELRULE,
        family,
        0,
        f"delete a rule of firewall chain {chain}",
        attribute(1, table),
        attribute(2, chain),
        attribute(3, handle),
    )


def comment(text: str) -> bytes:
    """What a rule's ``comment`` is to the kernel: user data that nft(8) and iptables-nft(8) show."""
    value = text.encode() + b"\0"
    return bytes((0, len(value))) + value


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(1, attribute(1, name), nested(2, *parts))


def _data(value: bytes) -> bytes:
    return attribute(1, value)


def load_meta(key: int, register: int = FIRST) -> bytes:
    return _expression("meta", attribute(2, _be(key)), attribute(1, _be(register)))


def load_network(offset: int, size: int, register: int = FIRST) -> bytes:
    """Bytes of the network header."""
    return _payload(1, offset, size, register)


def load_transport(offset: int, size: int, register: int = FIRST) -> bytes:
    """Bytes of the transport header: ports are the first two pairs."""
    return _payload(2, offset, size, register)


def _payload(base: int, offset: int, size: int, register: int) -> bytes:
    return _expression(
        "payload",
        attribute(1, _be(register)),
        attribute(2, _be(base)),
        attribute(3, _be(offset)),
        attribute(4, _be(size)),
    )


def compare(value: bytes, operation: int = EQUAL, register: int = FIRST) -> bytes:
    """The rule goes on when the register is (not) equal to a value."""
    return _expression("cmp", attribute(1, _be(register)), attribute(2, _be(operation)), nested(3, _data(value)))


def lookup(name: str, number: int, *, register: int = FIRST, into: int = 0, inverted: bool = False) -> bytes:
    """The rule goes on when the key is (not) in the set; of a map the datum is put ``into`` a register."""
    parts = [attribute(1, name), attribute(2, _be(register)), attribute(4, _be(number))]
    if into:
        parts.append(attribute(3, _be(into)))
    if inverted:
        parts.append(attribute(5, _be(1)))
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
        _expression("ct", attribute(2, _be(key)), attribute(1, _be(FIRST))),
        _expression(
            "bitwise",
            attribute(1, _be(FIRST)),
            attribute(2, _be(FIRST)),
            attribute(3, _be(4)),
            nested(4, _data(mask)),
            nested(5, _data(bytes(4))),
        ),
        compare(bytes(4), DIFFERENT),
    ]


def destination_is_local() -> list[bytes]:
    """The destination is an address of this host (fib daddr type local)."""
    return [
        _expression("fib", attribute(1, _be(FIRST)), attribute(2, _be(3)), attribute(3, _be(2))),
        compare(struct.pack("=I", _RTN_LOCAL)),
    ]


def verdict(code: int) -> bytes:
    """DROP or ACCEPT."""
    return _expression("immediate", attribute(1, _be(0)), nested(2, nested(2, attribute(1, _be(code)))))


def jump(chain: str) -> bytes:
    return _expression(
        "immediate", attribute(1, _be(0)), nested(2, nested(2, attribute(1, _be(_JUMP)), attribute(2, chain)))
    )


def redirect(family: int, address: int, port: int) -> bytes:
    """Change the destination to what is in two registers (DNAT)."""
    return _expression(
        "nat",
        attribute(1, _be(1)),
        attribute(2, _be(family)),
        attribute(3, _be(address)),
        attribute(5, _be(port)),
    )


def load_value(value: bytes, register: int = FIRST) -> bytes:
    return _expression("immediate", attribute(1, _be(register)), nested(2, _data(value)))


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


# -- transactions -----------------------------------------------------------------------------------------------------


def connect() -> Connection:
    """A connection to the firewall of the caller's network namespace.  Errors: OSError."""
    return Connection(NETLINK_NETFILTER)


def commit(connection: Connection, messages: Sequence[Message]) -> None:
    """All of it or nothing.  Errors: OSError."""
    if messages:
        connection.batch(BATCH_BEGIN, messages, BATCH_END)
