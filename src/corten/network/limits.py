"""Rates of endpoints: what goes into a sandbox and what comes out of it is held back on the host's side.

What comes out arrives at the host's end of the link; the kernel holds back only what leaves an interface.  So it is
sent through an interface of its own (ifb), which the container cannot reach.  Where the kernel has none, and for links
without an end on the host (macvlan, ipvlan), the interface inside is limited: a container with CAP_NET_ADMIN can lift
that.
"""

from __future__ import annotations

import errno

from corten.errors import InvalidParameter
from corten.linux import rtnetlink as rt
from corten.linux import traffic
from corten.linux.netlink import Connection, Message
from corten.network.plans import RatePlan
from corten.network.sandbox import Attached, Sandbox

_SMALLEST_BURST = 32 * 1024
_LACKS = frozenset({errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL, errno.ENODEV})


def intermediate_name(endpoint_id: str) -> str:
    """The interface on the host that what comes out of an endpoint is sent through."""
    return f"ifb{endpoint_id[:11]}"


def devices(attached: Attached) -> list[str]:
    """Interfaces of the host that have to be taken away with an endpoint."""
    return [attached.intermediate] if attached.intermediate else []


def apply(host: Connection, box: Sandbox, attached: Attached, rate: RatePlan, mark: str) -> None:
    """Hold an endpoint to a rate from now on.

    mark: noted on interfaces that are made, so that a later daemon knows them
    Errors: InvalidParameter (the driver cannot), OSError.
    """
    if attached.host_link:
        index = rt.link(host, attached.host_link).index
        host.transact([_rate(index, rate.ingress, rate.burst)])
        if not rate.egress:
            _let_out(host, attached, index)
            box.routes.transact([traffic.delete_rate(attached.index)])
        elif not _hold_outside(host, attached, index, rate, mark):
            box.routes.transact([_rate(attached.index, rate.egress, rate.burst)])
        return
    if rate.ingress:
        raise InvalidParameter(f"the {attached.plan.network.driver} driver cannot limit what comes in")
    box.routes.transact([_rate(attached.index, rate.egress, rate.burst)])


def _hold_outside(host: Connection, attached: Attached, index: int, rate: RatePlan, mark: str) -> bool:
    """Whether the kernel can."""
    name = intermediate_name(attached.plan.id)
    try:
        if not attached.intermediate:
            host.transact([rt.new_intermediate(name), rt.set_alias(name, mark)])
            attached.intermediate = name
        other = rt.link(host, name).index
        host.transact([_rate(other, rate.egress, rate.burst)])
        host.transact([traffic.add_ingress(index)])
        host.transact([traffic.send_through(index, other)])
    except OSError as error:
        _let_out(host, attached, index)
        if error.errno not in _LACKS:
            raise
        return False
    return True


def _let_out(host: Connection, attached: Attached, index: int) -> None:
    if attached.intermediate:
        host.transact([traffic.delete_ingress(index)])
        host.transact([rt.delete_link(0, attached.intermediate)])
        attached.intermediate = ""


def _rate(index: int, rate: int, burst: int) -> Message:
    if not rate:
        return traffic.delete_rate(index)
    return traffic.set_rate(index, rate, burst or max(_SMALLEST_BURST, rate // 100))
