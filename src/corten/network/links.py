"""The interfaces of networks on the host: bridges with their gateways, parents of macvlan and ipvlan."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import secrets
from collections.abc import Sequence

from corten.errors import Conflict, InvalidParameter, SystemFailure
from corten.linux import rtnetlink as rt
from corten.linux import rtroutes
from corten.linux.netlink import Connection, Message
from corten.network import namespaces
from corten.network.plans import NetworkPlan

_INTERFACE = re.compile(r"[^\s/:]{1,15}\Z")
_VLAN = re.compile(r"(.+)\.(\d{1,4})\Z")
_LOCAL_MAC = "02:42"
# noted on bridges that are made here
_ALIAS = "corten"
_IPV6 = "/proc/sys/net/ipv6"


def failure(error: OSError, step: str) -> SystemFailure:
    return SystemFailure(error.strerror or str(error), step=step, errno=error.errno or 0)


def by_name(connection: Connection) -> dict[str, rt.Link]:
    return {link.name: link for link in rt.links(connection)}


def find(connection: Connection, name: str) -> rt.Link | None:
    """One interface, if it is there.  Errors: OSError."""
    try:
        return rt.link(connection, name)
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.ERANGE):  # ERANGE: longer than a name can be
            raise
        return None


def mac_of(address: str) -> str:
    """Docker's rule: "02:42" and the bytes of the IPv4 address, so that an address keeps its MAC."""
    return f"{_LOCAL_MAC}:{ipaddress.ip_address(address).packed[-4:].hex(':')}"


def make_bridge(connection: Connection, plan: NetworkPlan) -> int:
    """The index of the plan's bridge, made or adopted, up, with its gateways.

    Errors: InvalidParameter, Conflict (an interface of this name is no bridge), SystemFailure.
    """
    if not _INTERFACE.match(plan.device) or plan.device in (".", ".."):
        raise InvalidParameter(f"invalid bridge name: {plan.device!r}")
    if plan.ipv6 and not os.path.isdir(_IPV6):
        raise SystemFailure("this host has no IPv6", step="bridge", errno=errno.EAFNOSUPPORT)
    wanted = [
        f"{item.gateway}/{ipaddress.ip_network(item.subnet).prefixlen}"
        for item in (*(() if 4 in plan.bare else plan.ipv4), *(() if 6 in plan.bare else plan.ipv6))
        if item.gateway
    ]
    made = False
    try:
        known = find(connection, plan.device)
        if known is None:
            made = True
            mac = f"{_LOCAL_MAC}:{secrets.token_bytes(4).hex(':')}"
            connection.transact([rt.new_bridge(plan.device, mac=mac, mtu=plan.mtu), rt.set_alias(plan.device, _ALIAS)])
            known = rt.link(connection, plan.device)
        elif known.kind != "bridge":
            raise Conflict(f"interface {plan.device} exists and is no bridge")
        _prepare_bridge(plan)
        held = set() if made else set(rtroutes.addresses(connection, known.index))
        # addresses that somebody gave to a bridge of his own are his
        foreign = _foreign(held, wanted) if known.alias == _ALIAS else []
        connection.transact(
            [
                rt.set_up(known.index),
                *(rtroutes.delete_address(known.index, address) for address in foreign),
                *(rtroutes.add_address(known.index, address) for address in wanted if address not in held),
            ]
        )
    except OSError as error:
        if made:
            with contextlib.suppress(OSError):
                remove(connection, plan.device)
        raise failure(error, "bridge") from error
    return known.index


def _foreign(held: set[str], wanted: Sequence[str]) -> list[str]:
    """Addresses that a bridge of an earlier configuration still has; those of the link itself stay."""
    return [item for item in held if item not in wanted and not ipaddress.ip_interface(item).is_link_local]


def _prepare_bridge(plan: NetworkPlan) -> None:
    name = plan.device.replace(".", "/")
    if not plan.ipv6:
        return
    for path, value in ((f"net/ipv6/conf/{name}/accept_ra", "0"), (f"net/ipv6/conf/{name}/disable_ipv6", "0")):
        with contextlib.suppress(FileNotFoundError):
            with open(f"/proc/sys/{path}", "w") as file:
                file.write(value)


def let_loopback_out(device: str) -> None:
    """Let packets from 127.0.0.1 be sent to a bridge: published ports are reached at that address, too.

    It lets packets to 127.0.0.1 in as well; the firewall's chain ``guard`` drops those.  Errors: SystemFailure.
    """
    path = f"/proc/sys/net/ipv4/conf/{device.replace('.', '/')}/route_localnet"
    try:
        with open(path, "r+") as file:
            if file.read().strip() != "1":
                file.seek(0)
                file.write("1")
    except OSError as error:
        raise failure(error, "loopback") from error


def remove(connection: Connection, name: str) -> None:
    """Delete an interface; nothing of this name is no error.  Errors: OSError."""
    connection.transact([rt.delete_link(0, name)])


def parent_of(connection: Connection, plan: NetworkPlan) -> tuple[int, str]:
    """(index, name of an interface that was made for it) of the parent of a macvlan or ipvlan network.

    "eth0.50" is made as VLAN 50 of eth0 when it does not exist; without a parent one that leads nowhere is made.
    Errors: InvalidParameter, SystemFailure.
    """
    _check_mode(plan)
    if plan.device == "lo":
        raise InvalidParameter(f"loopback interface is not a valid {plan.driver} parent link")
    known = by_name(connection)
    name = plan.device or dummy_name(plan)
    if name in known:
        return known[name].index, name if not plan.device else ""
    try:
        if not plan.device:
            _make_dead_end(connection, name)
        else:
            vlan = _VLAN.match(name)
            if vlan is None or vlan[1] not in known:
                raise InvalidParameter(f"parent interface {name} was not found on the host")
            number = int(vlan[2])
            if not 1 <= number <= 4094:
                raise InvalidParameter(f"vlan id must be between 1-4094, received: {number}")
            connection.transact([rt.new_vlan(name, known[vlan[1]].index, number)])
        return by_name(connection)[name].index, name
    except OSError as error:
        raise failure(error, "parent interface") from error


def _make_dead_end(connection: Connection, name: str) -> None:
    try:
        connection.transact([rt.new_dummy(name)])
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        # a kernel without the dummy driver: an interface whose other end nobody uses
        peer = f"{name}p"
        connection.transact([rt.new_pair(name, peer)])
        connection.transact([rt.set_up(by_name(connection)[peer].index)])


def dummy_name(plan: NetworkPlan) -> str:
    return f"dm-{plan.id[:11]}"


def _check_mode(plan: NetworkPlan) -> None:
    """Errors: InvalidParameter."""
    if plan.driver == "macvlan" and plan.mode not in ("", *rt.MACVLAN_MODES):
        raise InvalidParameter(
            f"requested macvlan mode '{plan.mode}' is not valid, 'bridge' mode is the macvlan driver default"
        )
    if plan.driver == "ipvlan" and plan.mode not in ("", *rt.IPVLAN_MODES):
        raise InvalidParameter(
            f"requested ipvlan mode '{plan.mode}' is not valid, 'l2' mode is the ipvlan driver default"
        )
    if plan.driver == "ipvlan" and plan.flag not in rt.IPVLAN_FLAGS:
        raise InvalidParameter(f"requested ipvlan flag '{plan.flag}' is not valid, 'bridge' is the default")


def sub_link(plan: NetworkPlan, name: str, parent: int, namespace: int, mac: str) -> Message:
    """The message that makes a macvlan or ipvlan inside a namespace."""
    if plan.driver == "macvlan":
        data = rt.macvlan_data(plan.mode or "bridge")
        return rt.new_sub_link(name, "macvlan", parent, namespace, data=data, mac=mac, mtu=plan.mtu)
    data = rt.ipvlan_data(plan.mode or "l2", plan.flag)
    return rt.new_sub_link(name, "ipvlan", parent, namespace, data=data, mtu=plan.mtu)


class Forwarding:
    """The host's switch for passing packets on, on while a network needs it."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def switch_on(self, *, ipv6: bool) -> bool:
        """Whether anything has become known.  Errors: SystemFailure."""
        before = len(self._found)
        names = ["net.ipv4.ip_forward"] + (["net.ipv6.conf.all.forwarding"] if ipv6 else [])
        for name in names:
            if name in self._found:
                continue
            try:
                with open(f"/proc/sys/{name.replace('.', '/')}") as file:
                    value = file.read().strip()
                if value != "1":
                    namespaces.write_sysctl(name, "1")
                self._found[name] = value
            except OSError as error:
                raise failure(error, "switch forwarding on") from error
        return len(self._found) > before

    @property
    def found(self) -> dict[str, str]:
        """What the host had, to be kept by whatever outlives this process."""
        return dict(self._found)

    def remember(self, found: dict[str, str]) -> None:
        """What an earlier process had found."""
        self._found.update(found)

    def switch_back(self, *, keep: bool) -> None:
        """As the host had it before; ``keep``: forget what that was."""
        for name, value in self._found.items():
            if value != "1" and not keep:
                with contextlib.suppress(OSError):
                    namespaces.write_sysctl(name, value)
        self._found.clear()
