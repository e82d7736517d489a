"""Links as netlink messages; addresses and routes are ``rtroutes``'.

Sources: rtnetlink(7), include/uapi/linux/if_link.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass

from corten.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Connection,
    Message,
    attribute,
    attributes,
    nested,
)

IFF_UP = 0x1
AF_BRIDGE = 7

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWNEIGH = 28

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_GROUP, _IFLA_NET_NS_FD = 18, 20, 27, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER = 1
_IFLA_MACVLAN_MODE = 1
_IFLA_IPVLAN_MODE, _IFLA_IPVLAN_FLAGS = 1, 2
_IFLA_VLAN_ID = 1
_IFLA_BRPORT_STATE, _IFLA_BRPORT_MODE, _IFLA_BRPORT_ISOLATED = 1, 4, 33
_BR_STATE_DISABLED = 0
_NDA_LLADDR = 2
_NUD_NOARP = 0x40
_NTF_MASTER = 0x04

MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}

_LINK = struct.Struct("=BxHiII")


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel lists it; ``kind`` is "bridge", "veth" and so on, "" for hardware.

    master: index of the bridge that it is a port of, 0 without;  alias: what somebody has noted on it
    peer:   index of what it leads to or is made of: the other end, in its namespace; a parent
    """

    index: int
    name: str
    kind: str
    up: bool
    mac: str
    mtu: int
    master: int
    alias: str = ""
    peer: int = 0


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _link_body(index: int, *parts: bytes, up: bool | None = None) -> bytes:
    flags, change = (0, 0) if up is None else (IFF_UP if up else 0, IFF_UP)
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, change) + b"".join(parts)


# -- links ------------------------------------------------------------------------------------------------------------


def new_bridge(name: str, *, mac: str, mtu: int = 0) -> Message:
    """Make a bridge and bring it up."""
    return Message(
        _RTM_NEWLINK,
        _link_body(
            0,
            attribute(_IFLA_IFNAME, name),
            attribute(_IFLA_ADDRESS, mac_bytes(mac)),
            attribute(_IFLA_MTU, mtu) if mtu else b"",
            nested(_IFLA_LINKINFO, attribute(_IFLA_INFO_KIND, "bridge")),
            up=True,
        ),
        NLM_F_CREATE | NLM_F_EXCL,
        f"create bridge {name}",
    )


def new_veth(name: str, bridge: int, namespace: int, *, peer: str, mac: str, mtu: int = 0) -> Message:
    """Make a pair: ``name`` here, up, as a port of the bridge; ``peer`` in the namespace of a descriptor.

    The peer is still down: it can only be brought up once both ends know each other.
    """
    size = attribute(_IFLA_MTU, mtu) if mtu else b""
    peer_body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + b"".join(
        (
            attribute(_IFLA_IFNAME, peer),
            attribute(_IFLA_ADDRESS, mac_bytes(mac)),
            attribute(_IFLA_NET_NS_FD, namespace),
            size,
        )
    )
    return Message(
        _RTM_NEWLINK,
        _link_body(
            0,
            attribute(_IFLA_IFNAME, name),
            attribute(_IFLA_MASTER, bridge),
            size,
            nested(
                _IFLA_LINKINFO,
                attribute(_IFLA_INFO_KIND, "veth"),
                nested(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER | 0x8000, peer_body)),
            ),
            up=True,
        ),
        NLM_F_CREATE | NLM_F_EXCL,
        f"create the link {name} of a sandbox",
    )


def new_sub_link(
    name: str, kind: str, parent: int, namespace: int, *, data: bytes, mac: str = "", mtu: int = 0
) -> Message:
    """Make a macvlan or ipvlan of ``parent`` in the namespace of a descriptor."""
    return Message(
        _RTM_NEWLINK,
        _link_body(
            0,
            attribute(_IFLA_IFNAME, name),
            attribute(_IFLA_LINK, parent),
            attribute(_IFLA_ADDRESS, mac_bytes(mac)) if mac else b"",
            attribute(_IFLA_MTU, mtu) if mtu else b"",
            attribute(_IFLA_NET_NS_FD, namespace),
            nested(_IFLA_LINKINFO, attribute(_IFLA_INFO_KIND, kind), nested(_IFLA_INFO_DATA, data)),
        ),
        NLM_F_CREATE | NLM_F_EXCL,
        f"create a {kind} of the parent interface",
    )


def macvlan_data(mode: str) -> bytes:
    return attribute(_IFLA_MACVLAN_MODE, MACVLAN_MODES[mode])


def ipvlan_data(mode: str, flag: str = "bridge") -> bytes:
    return attribute(_IFLA_IPVLAN_MODE, struct.pack("=H", IPVLAN_MODES[mode])) + attribute(
        _IFLA_IPVLAN_FLAGS, struct.pack("=H", IPVLAN_FLAGS[flag])
    )


def new_vlan(name: str, parent: int, number: int) -> Message:
    """Make an 802.1q interface of ``parent`` and bring it up."""
    return Message(
        _RTM_NEWLINK,
        _link_body(
            0,
            attribute(_IFLA_IFNAME, name),
            attribute(_IFLA_LINK, parent),
            nested(
                _IFLA_LINKINFO,
                attribute(_IFLA_INFO_KIND, "vlan"),
                nested(_IFLA_INFO_DATA, attribute(_IFLA_VLAN_ID, struct.pack("=H", number))),
            ),
            up=True,
        ),
        NLM_F_CREATE | NLM_F_EXCL,
        f"create VLAN interface {name}",
    )


def new_dummy(name: str) -> Message:
    """Make an interface that leads nowhere, up: the parent of a network without one."""
    return Message(
        _RTM_NEWLINK,
        _link_body(
            0,
            attribute(_IFLA_IFNAME, name),
            nested(_IFLA_LINKINFO, attribute(_IFLA_INFO_KIND, "dummy")),
            up=True,
        ),
        NLM_F_CREATE | NLM_F_EXCL,
        f"create interface {name}",
    )


def new_pair(name: str, peer: str) -> Message:
    """Make two interfaces that lead to each other, the first up."""
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, peer)
    return Message(
        _RTM_NEWLINK,
        _link_body(
            0,
            attribute(_IFLA_IFNAME, name),
            nested(
                _IFLA_LINKINFO,
                attribute(_IFLA_INFO_KIND, "veth"),
                nested(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER | 0x8000, body)),
            ),
            up=True,
        ),
        NLM_F_CREATE | NLM_F_EXCL,
        f"create interface {name}",
    )


def set_alias(name: str, alias: str) -> Message:
    """Note something on an interface, which ip(8) shows."""
    body = _link_body(0, attribute(_IFLA_IFNAME, name), attribute(_IFLA_IFALIAS, alias.encode()))
    return Message(_RTM_NEWLINK, body, what=f"note something on interface {name}")


def new_intermediate(name: str) -> Message:
    """Make an interface that what arrives at another can be sent through, to be held to a rate there (ifb), up."""
    return Message(
        _RTM_NEWLINK,
        _link_body(
            0,
            attribute(_IFLA_IFNAME, name),
            nested(_IFLA_LINKINFO, attribute(_IFLA_INFO_KIND, "ifb")),
            up=True,
        ),
        NLM_F_CREATE | NLM_F_EXCL,
        f"create interface {name}",
    )


def set_up(index: int, *, up: bool = True) -> Message:
    return Message(_RTM_NEWLINK, _link_body(index, up=up), what="bring an interface up")


def set_bridge_port(name: str, *, hairpin: bool, isolated: bool) -> Message:
    """hairpin: frames may go out where they came in; isolated: none go to other isolated ports."""
    options = attribute(_IFLA_BRPORT_MODE, struct.pack("=B", hairpin)) + attribute(
        _IFLA_BRPORT_ISOLATED, struct.pack("=B", isolated)
    )
    data = nested(_IFLA_LINKINFO, attribute(_IFLA_INFO_SLAVE_KIND, "bridge"), nested(_IFLA_INFO_SLAVE_DATA, options))
    return Message(
        _RTM_NEWLINK, _link_body(0, attribute(_IFLA_IFNAME, name), data), what="set options of a bridge port"
    )


def delete_link(index: int, name: str = "") -> Message:
    """By index, or by name when the index is 0; one that is gone already is no failure."""
    body = _link_body(index, attribute(_IFLA_IFNAME, name) if not index else b"")
    return Message(_RTM_DELLINK, body, what=f"delete interface {name or index}", ignored=frozenset({errno.ENODEV}))


def disable_bridge_port(name: str) -> Message:
    """Nothing passes the port any more; one that is gone, down or no port is no failure."""
    state = nested(_IFLA_INFO_SLAVE_DATA, attribute(_IFLA_BRPORT_STATE, struct.pack("=B", _BR_STATE_DISABLED)))
    data = nested(_IFLA_LINKINFO, attribute(_IFLA_INFO_SLAVE_KIND, "bridge"), state)
    return Message(
        _RTM_NEWLINK,
        _link_body(0, attribute(_IFLA_IFNAME, name), data),
        what=f"close the bridge port {name}",
        ignored=frozenset({errno.ENODEV, errno.ENETDOWN, errno.EINVAL, errno.EBUSY, errno.EOPNOTSUPP}),
    )


def set_group(name: str, group: int) -> Message:
    """Put an interface into a group; one that is gone is no failure."""
    return Message(
        _RTM_NEWLINK,
        _link_body(0, attribute(_IFLA_IFNAME, name), attribute(_IFLA_GROUP, group)),
        what=f"put {name} into a group",
        ignored=frozenset({errno.ENODEV}),
    )


def delete_group(group: int) -> Message:
    """Delete all interfaces of a group, which takes hardly longer than to delete one; none is no failure."""
    body = _link_body(0, attribute(_IFLA_GROUP, group))
    return Message(_RTM_DELLINK, body, what="delete a group of interfaces", ignored=frozenset({errno.ENODEV}))


def learn(index: int, mac: str) -> Message:
    """Tell a bridge that an address is behind one of its ports, as long as that exists or something else is learnt."""
    body = struct.pack("=BxxxiHBB", AF_BRIDGE, index, _NUD_NOARP, _NTF_MASTER, 0)
    return Message(
        _RTM_NEWNEIGH,
        body + attribute(_NDA_LLADDR, mac_bytes(mac)),
        NLM_F_CREATE | NLM_F_REPLACE,
        f"teach the bridge {mac}",
    )


def link(connection: Connection, name: str) -> Link:
    """One interface.  Errors: OSError, ENODEV when there is none of this name."""
    request = Message(_RTM_GETLINK, _link_body(0, attribute(_IFLA_IFNAME, name)), what=f"find interface {name}")
    return _link(connection.get(request)[1])


def links(connection: Connection) -> list[Link]:
    """Every interface of the connection's namespace."""
    answers = connection.dump(Message(_RTM_GETLINK, _link_body(0), what="list interfaces"))
    return [_link(body) for kind, body in answers if kind == _RTM_NEWLINK]


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = dict(attributes(body[_LINK.size :]))
    info = dict(attributes(found.get(_IFLA_LINKINFO, b"")))
    return Link(
        index=index,
        name=found[_IFLA_IFNAME].rstrip(b"\0").decode(errors="replace"),
        kind=info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace"),
        up=bool(flags & IFF_UP),
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(found, _IFLA_MTU),
        master=_number(found, _IFLA_MASTER),
        alias=found.get(_IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace"),
        peer=_number(found, _IFLA_LINK),
    )


def _number(found: dict[int, bytes], kind: int) -> int:
    return int(struct.unpack("=I", found[kind])[0]) if kind in found else 0
