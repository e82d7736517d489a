"""What is in the firewall: tables, chains, rules and sets as the kernel lists them, and notifications of changes.

Sources: include/uapi/linux/netfilter/nf_tables.h, nfnetlink.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from corten.linux.netlink import Connection, Message, attribute, attributes
from corten.linux.nftables import INET

GROUP = 7  # NFNLGRP_NFTABLES
_SUBSYSTEM = 10
_GETTABLE, _GETCHAIN, _GETRULE, _GETSET = 1, 4, 7, 10
_CHAIN_MESSAGES, _RULE_MESSAGES, _SET_MESSAGES, _ELEMENT_MESSAGES = (3, 5), (6, 8), (9, 11), (12, 14)
_DELTABLE = 2
_EXPRESSIONS, _USERDATA = 4, 7


@dataclass(frozen=True, slots=True)
class Chain:
    """hook: -1 for a chain that only others jump to;  drops: it drops what no rule decides"""

    family: int
    table: str
    name: str
    hook: int = -1
    drops: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """handle: its number, as the kernel writes it;  content: what ``nftables.put_rule`` makes the same rule of"""

    chain: str
    handle: bytes
    userdata: bytes
    content: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """What somebody has changed: kind is "table", "chain", "rule" (name: its chain's), "set" or "element" (its set's).

    port: of the socket that asked for it
    """

    kind: str
    family: int
    table: str
    name: str
    deleted: bool
    port: int


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def tables(connection: Connection, family: int = INET) -> list[str]:
    """Names of the tables of a family.  Errors: OSError; EOPNOTSUPP, EPROTONOSUPPORT or EINVAL without nf_tables."""
    return [_text(values[1]) for values in _dump(connection, _GETTABLE, family, "list firewall tables")]


def chains(connection: Connection, family: int = 0) -> list[Chain]:
    """All chains, of one family or of every.  Errors: OSError."""
    head = struct.pack(">BBH", family, 0, 0)
    found = []
    for _, body in connection.dump(Message(_SUBSYSTEM << 8 | _GETCHAIN, head, what="list firewall chains")):
        values = dict(attributes(body[4:]))
        hook = dict(attributes(values.get(4, b""))).get(1)
        found.append(
            Chain(
                family=body[0],
                table=_text(values.get(1, b"")),
                name=_text(values.get(3, b"")),
                hook=int.from_bytes(hook) if hook else -1,
                drops=values.get(5) == bytes(4),
            )
        )
    return found


def rules(connection: Connection, table: str, chain: str = "", family: int = INET) -> list[Rule]:
    """Rules of a table or of one chain in their order.  Errors: OSError."""
    what = f"list rules of firewall table {table}"
    parts = attribute(1, table) + (attribute(2, chain) if chain else b"")
    found = []
    for values in _dump(connection, _GETRULE, family, what, parts):
        name = _text(values.get(2, b""))
        if _text(values[1]) == table and chain in ("", name):
            content = b"".join(
                attribute(kind | flag, values[kind])
                for kind, flag in ((_EXPRESSIONS, 0x8000), (_USERDATA, 0))
                if kind in values
            )
            found.append(Rule(name, values.get(3, b""), values.get(_USERDATA, b""), content))
    return found


def sets(connection: Connection, table: str, family: int = INET) -> list[str]:
    """Names of the sets and maps of a table.  Errors: OSError."""
    what = f"list sets of firewall table {table}"
    found = _dump(connection, _GETSET, family, what, attribute(1, table))
    return [_text(values.get(2, b"")) for values in found if _text(values[1]) == table]


def _dump(connection: Connection, kind: int, family: int, what: str, parts: bytes = b"") -> list[dict[int, bytes]]:
    """Attributes of everything of a family that names its table."""
    request = Message(_SUBSYSTEM << 8 | kind, struct.pack(">BBH", family, 0, 0) + parts, what=what)
    answers = [(body[0], dict(attributes(body[4:]))) for _, body in connection.dump(request)]
    return [values for answered, values in answers if answered == family and 1 in values]


def change(kind: int, port: int, body: bytes) -> Change | None:
    """What a notification tells; None when it is of no interest here."""
    number = kind & 0xFF
    if kind >> 8 != _SUBSYSTEM:
        return None
    values = dict(attributes(body[4:]))
    for name, messages, field in (
        ("table", (_DELTABLE,), 1),
        ("chain", _CHAIN_MESSAGES, 3),
        ("rule", _RULE_MESSAGES, 2),
        ("set", _SET_MESSAGES, 2),
        ("element", _ELEMENT_MESSAGES, 2),
    ):
        if number in messages:
            return Change(
                name,
                body[0],
                _text(values.get(1, b"")),
                _text(values.get(field, b"")),
                number == messages[-1],
                port,
            )
    return None
