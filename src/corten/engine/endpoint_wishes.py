"""What clients ask of connections to networks: read, and checked against the networks; pure functions."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence

from corten.dockerapi.container import ContainerCreate, EndpointIPAMConfig, EndpointSettings, HostConfig, NetworkRate
from corten.engine.container import Container
from corten.engine.endpoint import Endpoint
from corten.engine.network_records import Record
from corten.engine.published import check_ports
from corten.errors import Forbidden, InvalidParameter, NotFound

_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}\Z")
_SYSCTL = re.compile(r"net\.(ipv4|ipv6|mpls)\.[\w.-]*\bIFNAME\b[\w.-]*\Z", re.ASCII)
_INTERFACE = re.compile(r"[^\s/:%]{1,15}\Z")
_IFNAME_OPTION = "com.docker.network.endpoint.ifname"
_SYSCTLS_OPTION = "com.docker.network.endpoint.sysctls"
_SMALLEST_RATE = 1024

_SHARED = "container sharing network namespace with another container or host cannot be connected to any other network"
_PRIVATE = "container cannot be connected to multiple networks with one of the networks in private (none) mode"
_SEVERAL_KINDS = "conflicting options: cannot attach both user-defined and non-user-defined network-modes"


def is_sharing(mode: str) -> bool:
    """Whether a network mode needs no endpoint of the container's own."""
    return mode.startswith("container:")


def wanted_networks(request: ContainerCreate, host: HostConfig) -> dict[str, EndpointSettings]:
    """The networks of a new container by the names that the client used, the one of its network mode first.

    Errors: InvalidParameter.
    """
    mode = host.network_mode
    given = {
        name: settings or EndpointSettings() for name, settings in request.networking_config.endpoints_config.items()
    }
    check_sharing(request, mode)
    if is_sharing(mode):
        if given:
            raise InvalidParameter(_SEVERAL_KINDS)
        return {}
    # "default" in the map is the mode's own network
    own = given.pop(mode, None) or given.pop("default", None) or EndpointSettings()
    if request.mac_address and not own.mac_address:
        own.mac_address = request.mac_address
    return {mode: own, **given}


def check_sharing(request: ContainerCreate, mode: str) -> None:
    """What a container that has another's network cannot have of its own.  Errors: InvalidParameter."""
    host = request.host_config
    if (is_sharing(mode) or mode == "host") and request.mac_address:
        raise InvalidParameter("conflicting options: mac-address and the network mode")
    conflicts = (
        ("hostname and the network mode", request.hostname),
        ("dns and the network mode", host.dns),
        ("custom host-to-IP mapping and the network mode", host.extra_hosts),
        ("port publishing and the container type network mode", host.port_bindings or host.publish_all_ports),
        ("port exposing and the container type network mode", request.exposed_ports),
    )
    for what, given in conflicts if is_sharing(mode) else ():
        if given:
            raise InvalidParameter(f"conflicting options: {what}")


def resolve(
    wanted: dict[str, EndpointSettings], host: HostConfig, find: Callable[[str], Record]
) -> dict[str, Endpoint]:
    """The endpoints of a new container by the names of their networks.

    Errors: InvalidParameter, also for a network that is not there: a create that answers "not found" makes clients
    pull the image.
    """
    found: dict[str, Endpoint] = {}
    for reference, settings in wanted.items():
        try:
            record = find(reference)
        except NotFound as error:
            raise InvalidParameter(error.message) from None
        if record.name in found:
            raise InvalidParameter(f"network {record.name} is given twice")
        check_settings(record, settings)
        found[record.name] = Endpoint(settings=settings, network_id=record.id)
    alone = [name for name in found if name in ("host", "none")]
    if alone and len(found) > 1:
        raise InvalidParameter(f"conflicting options: container cannot be attached to {alone[0]!r} and other networks")
    check_ports(host)
    check_rate(host.network_rate)
    if host.network_rate is not None and host.network_rate.is_set and (alone or is_sharing(host.network_mode)):
        raise InvalidParameter(
            f"conflicting options: a network rate cannot be used with network mode {host.network_mode}: "
            "the container has no interface of its own"
        )
    return found


def check_rate(rate: NetworkRate | None) -> None:
    """Errors: InvalidParameter."""
    for name, value in () if rate is None else (("ingress", rate.ingress), ("egress", rate.egress)):
        if value and value < _SMALLEST_RATE:
            raise InvalidParameter(f"invalid network rate: {name} {value}: at least {_SMALLEST_RATE} bytes a second")
    if rate is not None and rate.burst < 0:
        raise InvalidParameter(f"invalid network rate: burst {rate.burst} is negative")


def check_settings(record: Record, settings: EndpointSettings) -> None:
    """Whether a connection like this can be had in a network.  Errors: InvalidParameter."""
    if record.config_only:
        raise InvalidParameter(f"network {record.name} is a configuration-only network: containers cannot be connected")
    wanted = settings.ipam_config or EndpointIPAMConfig()
    addresses = [(4, wanted.ipv4_address), (6, wanted.ipv6_address)]
    if any(address for _, address in addresses):
        if record.is_predefined:
            raise InvalidParameter("user specified IP address is supported on user defined networks only")
        for version, address in addresses:
            if address:
                _check_address(record, version, address)
    _check_link_local(record, wanted.link_local_ips)
    if settings.aliases and record.is_predefined:
        raise InvalidParameter("network-scoped aliases are only supported for user-defined networks")
    if settings.mac_address:
        if not _MAC.match(settings.mac_address):
            raise InvalidParameter(f"invalid MAC address: {settings.mac_address}")
        if int(settings.mac_address[:2], 16) & 1 or not int(re.sub("[:-]", "", settings.mac_address), 16):
            raise InvalidParameter(f"invalid MAC address: {settings.mac_address}: it is not that of one interface")
        if not record.has_sandboxes or record.driver == "ipvlan":
            raise InvalidParameter(f"a MAC address cannot be set in network {record.name}")
    for name in settings.driver_opts:
        if name not in (_IFNAME_OPTION, _SYSCTLS_OPTION):
            raise InvalidParameter(f"unknown option of an endpoint: {name}")
    interface = interface_name(settings)
    if interface and (not _INTERFACE.match(interface) or interface in (".", "..", "lo", "all", "default")):
        raise InvalidParameter(f"invalid name of an interface: {interface}")
    sysctls(settings)


def _check_link_local(record: Record, addresses: Sequence[str]) -> None:
    if addresses and not record.has_sandboxes:
        raise InvalidParameter(f"link-local addresses cannot be used in network {record.name}")
    for address in addresses:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            raise InvalidParameter(f"invalid link-local address: {address}") from None
        if not parsed.is_link_local:
            raise InvalidParameter(f"invalid link-local address: {address} is not in 169.254.0.0/16 or fe80::/10")
        if parsed.version == 6 and not record.enable_ipv6:
            raise InvalidParameter(f"invalid link-local address: {address}: network {record.name} has no IPv6")


def _check_address(record: Record, version: int, address: str) -> None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        raise InvalidParameter(f"invalid IPv{version} address: {address}") from None
    if parsed.version != version:
        raise InvalidParameter(f"invalid IPv{version} address: {address}")
    if not any(parsed in ipaddress.ip_network(item.subnet) for item in record.ipam.config):
        raise InvalidParameter(
            f"invalid config for network {record.name}: invalid endpoint settings:\n"
            f"no configured subnet contains IP address {address}"
        )
    if all(item.subnet in record.chosen for item in record.ipam.config):
        raise InvalidParameter(
            "user specified IP address is supported only when connecting to networks with user configured subnets"
        )


def check_connectable(container: Container, record: Record) -> None:
    """Errors: Forbidden for a container that cannot have more networks, or not this one."""
    if record.driver == "host":
        raise Forbidden("container cannot be connected to host network")
    if is_sharing(container.host_config.network_mode) or "host" in container.networks:
        raise Forbidden(_SHARED)
    if (record.driver == "null" and container.networks) or ("none" in container.networks and container.is_running):
        raise Forbidden(_PRIVATE)


def link_local(settings: EndpointSettings) -> tuple[str, ...]:
    """The link-local addresses that were asked for, with the prefixes of RFC 3927 and RFC 4291."""
    wanted = settings.ipam_config.link_local_ips if settings.ipam_config is not None else ()
    return tuple(f"{address}/{64 if ':' in address else 16}" for address in wanted)


def interface_name(settings: EndpointSettings) -> str:
    """The name of the interface inside that was asked for, "" for none."""
    return settings.driver_opts.get(_IFNAME_OPTION, "")


def sysctls(settings: EndpointSettings) -> tuple[tuple[str, str], ...]:
    """Kernel parameters of the interface that were asked for, "IFNAME" in their names.  Errors: InvalidParameter."""
    found = []
    for item in filter(None, settings.driver_opts.get(_SYSCTLS_OPTION, "").split(",")):
        name, equals, value = item.partition("=")
        if not equals or not _SYSCTL.match(name) or not value or "\n" in value:
            raise InvalidParameter(f"invalid sysctl of an endpoint: {item}")
        found.append((name, value))
    return tuple(found)
