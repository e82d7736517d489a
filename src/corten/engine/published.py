"""Ports of containers as clients write them: exposed, bound to ports of the host, all published."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from corten.dockerapi.container import HostConfig
from corten.errors import InvalidParameter
from corten.network.plans import PortPlan

if TYPE_CHECKING:
    from corten.engine.container import Container

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?\Z")


def _parse_port(text: str) -> tuple[int, int, str]:
    match = _PORT.match(text)
    if match is None or not 0 < int(match[1]) <= int(match[2] or match[1]) < 65536:
        raise InvalidParameter(f"invalid port specification: {text!r}")
    return int(match[1]), int(match[2] or match[1]), match[3] or "tcp"


def check_ports(host: HostConfig) -> None:
    """Errors: InvalidParameter."""
    for text, bindings in host.port_bindings.items():
        _parse_port(text)
        for binding in bindings or ():
            _host_range(binding.host_port)
            if binding.host_ip:
                try:
                    ipaddress.ip_address(binding.host_ip)
                except ValueError:
                    raise InvalidParameter(f"invalid host IP address of a published port: {binding.host_ip}") from None


def _host_range(text: str) -> tuple[int, int]:
    if not text:
        return 0, 0
    first, _, last = text.partition("-")
    try:
        low, high = int(first), int(last or first)
    except ValueError:
        raise InvalidParameter(f"invalid port specification: {text!r}") from None
    if not 0 <= low <= high < 65536:
        raise InvalidParameter(f"invalid port specification: {text!r}")
    return low, high


def exposed_ports(container: Container) -> list[str]:
    """ "80/tcp" of every port that the container exposes or publishes, in order."""
    found: dict[tuple[int, str], None] = {}
    for text in (*container.config.exposed_ports, *container.host_config.port_bindings):
        first, last, protocol = _parse_port(text)
        for port in range(first, last + 1):
            found[port, protocol] = None
    return [f"{port}/{protocol}" for port, protocol in sorted(found)]


def published_ports(container: Container, host_binding: str) -> list[PortPlan]:
    """The ports that the container wants published.

    host_binding: the host address of those that name none
    Errors: InvalidParameter.
    """
    plans = []
    bound = set()
    for text, bindings in container.host_config.port_bindings.items():
        first, last, protocol = _parse_port(text)
        for port in range(first, last + 1):
            bound.add((port, protocol))
            for binding in bindings or ():
                plans.append(
                    PortPlan(
                        protocol=protocol,
                        port=port,
                        host_address=_host_address(binding.host_ip, host_binding),
                        host_ports=_host_range(binding.host_port),
                    )
                )
    if container.host_config.publish_all_ports:
        for text in exposed_ports(container):
            number, _, protocol = text.partition("/")
            if (int(number), protocol) not in bound:
                address = _host_address("", host_binding)
                plans.append(PortPlan(protocol=protocol, port=int(number), host_address=address))
    return plans


def _host_address(text: str, host_binding: str) -> str:
    return text or host_binding
