"""Where the host has routes to: subnets that no network may have."""

from __future__ import annotations

from corten.linux import rtnetlink, rtroutes
from corten.linux.netlink import NETLINK_ROUTE, Connection
from corten.network import links
from corten.network.addresses import parse_network


def host_subnets(without: str = "") -> list[str]:
    """Destinations of the host's routes, default routes left out, and those that an interface's own addresses make.

    without: the interface
    Errors: SystemFailure.
    """
    try:
        connection = Connection(NETLINK_ROUTE)
    except OSError as error:
        raise links.failure(error, "list routes") from error
    try:
        index = next((link.index for link in rtnetlink.links(connection) if link.name == without), 0) if without else 0
        own = {str(parse_network(address)) for address in rtroutes.addresses(connection, index)} if index else set()
        return [route for route in rtroutes.routes(connection) if route not in own]
    except OSError as error:
        raise links.failure(error, "list routes") from error
    finally:
        connection.close()
