"""One endpoint on the kernel: its link, addresses and routes, in as few messages as possible."""

from __future__ import annotations

import ipaddress

from corten.linux import rtnetlink as rt
from corten.linux import rtroutes
from corten.linux.netlink import Connection, Message
from corten.network import links
from corten.network.sandbox import Attached, Sandbox


def host_link(endpoint_id: str) -> str:
    """The name of the host's end of an endpoint: the same after a restart of the daemon."""
    return f"veth{endpoint_id[:11]}"


def attach(host: Connection, box: Sandbox, attached: Attached, network_index: int) -> None:
    """Make the link, inside still down.  Errors: InvalidParameter, OSError.

    network_index: of the bridge, or of the parent
    """
    plan = attached.plan
    network = plan.network
    if network.driver != "bridge":
        host.transact([links.sub_link(network, attached.interface, network_index, box.namespace, plan.mac)])
        attached.index = rt.link(box.routes, attached.interface).index
        return
    attached.host_link = host_link(plan.id)
    veth = rt.new_veth(
        attached.host_link,
        network_index,
        box.namespace,
        peer=attached.interface,
        mac=plan.mac,
        mtu=network.mtu,
    )
    # what a container sends to its own published port comes back to it
    port = rt.set_bridge_port(attached.host_link, hairpin=True, isolated=not network.icc)
    host.transact([veth, port])
    inside = rt.link(box.routes, attached.interface)
    attached.index = inside.index
    # an address that has just been another container's is behind this port from now on
    host.transact([rt.learn(inside.peer, plan.mac)])


def configure(box: Sandbox, attached: Attached) -> None:
    """Bring the interface up, with its addresses and the routes that lead there.  Errors: OSError."""
    plan = attached.plan
    name = attached.interface
    sysctls = [(key.replace("IFNAME", name), value) for key, value in plan.sysctls]
    if plan.ipv6:
        enabled = [(f"net.ipv6.conf.{name}.disable_ipv6", "0")]
        if plan.network.driver == "bridge":
            # on a bridge the routes are ours to give: a neighbour's advertisements change nothing
            enabled.append((f"net.ipv6.conf.{name}.accept_ra", "0"))
        sysctls = enabled + sysctls
    box.write_sysctls(tuple(sysctls))
    addresses = [
        rtroutes.add_address(attached.index, address) for address in (plan.ipv4, plan.ipv6, *plan.link_local) if address
    ]
    box.routes.transact([rt.set_up(attached.index), *addresses, *default_routes(attached)])


def route(box: Sandbox) -> None:
    """Have the default routes lead to the endpoints whose plans say so.  Errors: OSError."""
    messages = []
    for version in (4, 6):
        if not any(item.plan.gateway if version == 4 else item.plan.gateway6 for item in box.endpoints.values()):
            messages.append(rtroutes.delete_default_route(version))
    for attached in box.endpoints.values():
        messages += default_routes(attached)
    box.routes.transact(messages)


def default_routes(attached: Attached) -> list[Message]:
    """The default routes that lead to an endpoint."""
    plan = attached.plan
    messages = []
    for version, wanted, address, subnets in (
        (4, plan.gateway, plan.ipv4, plan.network.ipv4),
        (6, plan.gateway6, plan.ipv6, plan.network.ipv6),
    ):
        if not wanted or not address or plan.network.internal:
            continue
        gateway = next((item.gateway for item in subnets if item.gateway and _contains(item.subnet, address)), "")
        if plan.network.driver == "ipvlan" and plan.network.mode in ("l3", "l3s"):
            gateway = ""  # the parent's host passes on
        elif not gateway:
            continue
        messages.append(rtroutes.set_default_route(version, gateway, attached.index))
    return messages


def _contains(subnet: str, address: str) -> bool:
    return ipaddress.ip_interface(address).ip in ipaddress.ip_network(subnet)


def adopt(box: Sandbox, attached: Attached, known: list[rt.Link], addresses: list[tuple[int, str]]) -> bool:
    """Find the endpoint's interface in a namespace that an earlier daemon has made; whether it is there.

    known, addresses: what the namespace has
    """
    plan = attached.plan
    own = {ipaddress.ip_interface(address) for address in (plan.ipv4, plan.ipv6) if address}
    holders = {index for index, address in addresses if ipaddress.ip_interface(address) in own}
    # several interfaces may have one MAC address: those of ipvlan have their parent's
    candidates = [link for link in known if link.index in holders]
    if plan.network.driver != "ipvlan":
        candidates += [link for link in known if link.mac == plan.mac]
    if not candidates:
        return False
    attached.interface, attached.index = candidates[0].name, candidates[0].index
    if plan.network.driver == "bridge":
        attached.host_link = host_link(plan.id)
    return True
