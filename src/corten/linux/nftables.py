"""nftables over netlink: tables, chains, sets, maps and rules as messages of one transaction.

What rules are made of is in ``nftexpressions``.  Sources: include/uapi/linux/netfilter/nf_tables.h, nft(8).
"""

from __future__ import annotations

import errno
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

# data types as nft(8) shows them; a concatenation packs 6 bits each
TYPE_ADDRESS, TYPE_ADDRESS6, TYPE_PROTOCOL, TYPE_SERVICE, TYPE_INTERFACE = 7, 8, 12, 13, 41
_SIZES = {TYPE_ADDRESS: 4, TYPE_ADDRESS6: 16, TYPE_PROTOCOL: 1, TYPE_SERVICE: 2, TYPE_INTERFACE: 16}

_SET_INTERVAL, _SET_MAP = 0x4, 0x8
_ELEMENT_END = 0x1


def be32(value: int) -> bytes:
    """A number as nftables has it."""
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
        nested(4, attribute(1, be32(hook)), attribute(2, be32(priority))),
        attribute(5, be32(ACCEPT)),
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
        attribute(1, table), attribute(2, name), attribute(3, be32(flags)), attribute(4, be32(kind)),
        attribute(5, be32(size)), attribute(10, be32(number)),
    ]  # fmt: skip
    if key == (TYPE_INTERFACE,):
        # nft(8) reads names backwards unless it is told that they are in the host's order
        parts.append(attribute(13, bytes((0, 4)) + struct.pack("=I", 1)))
    if data:
        data_kind, data_size = _key(data)
        parts += [attribute(6, be32(data_kind)), attribute(7, be32(data_size))]
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
        parts.append(attribute(3, be32(flags)))
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


# -- transactions -----------------------------------------------------------------------------------------------------


def connect() -> Connection:
    """A connection to the firewall of the caller's network namespace.  Errors: OSError."""
    return Connection(NETLINK_NETFILTER)


def commit(connection: Connection, messages: Sequence[Message]) -> None:
    """All of it or nothing.  Errors: OSError."""
    if messages:
        connection.batch(BATCH_BEGIN, messages, BATCH_END)
