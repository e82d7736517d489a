"""Ports, names and addresses: what is asked for; whether it can be had is the daemon's answer."""

from __future__ import annotations

import re

from corten.cli.flags import BadValue
from corten.cli.options.mounts import csv_fields
from corten.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LONG_NETWORK = re.compile(r"\w+=\w+")
_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}\Z", re.ASCII)
_DOMAIN = re.compile(
    r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*\.?\Z", re.ASCII
)
_RESERVED_NETWORKS = ("default", "bridge", "host", "none")
_PROTOCOLS = ("tcp", "udp", "sctp")
_HOST_GATEWAY = "host-gateway"


def read_address(text: str) -> str:
    """An IP address.  Errors: BadValue."""
    import ipaddress

    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise BadValue(f"{text} is not an ip address") from None


def read_search_domain(text: str) -> str:
    """``--dns-search``; a dot stands for none.  Errors: BadValue."""
    domain = text.strip()
    if domain == ".":
        return domain
    if not _DOMAIN.match(domain) or len(domain) > 254 or not re.search("[a-zA-Z]", domain):
        raise BadValue(f"{domain} is not a valid domain")
    return domain


def read_extra_host(text: str) -> str:
    """``--add-host NAME:ADDRESS`` or ``NAME=ADDRESS``, an IPv6 address with or without brackets.

    Errors: BadValue.
    """
    name, separator, address = text.partition("=")
    if not separator:
        name, separator, address = text.partition(":")
    if not separator or not name or ":" in name:
        raise BadValue(f'bad format for add-host: "{text}"')
    if address != _HOST_GATEWAY:
        if len(address) > 2 and address.startswith("[") and address.endswith("]"):
            address = address[1:-1]
        try:
            read_address(address)
        except BadValue:
            raise BadValue(f'invalid IP address in add-host: "{address}"') from None
    return f"{name}:{address}"


def read_link(text: str) -> str:
    """``--link CONTAINER[:ALIAS]``.  Errors: BadValue."""
    if not text:
        raise BadValue("empty string specified for links")
    if text.count(":") > 1:
        raise BadValue(f"bad format for links: {text}")
    return text


def check_mac(text: str) -> str:
    """``--mac-address``.  Errors: InvalidParameter."""
    if not _MAC.match(text.strip()):
        raise InvalidParameter(f"{text} is not a valid mac address")
    return text.strip()


# -- ports ----------------------------------------------------------------------------------------------------------


def _port_range(text: str, what: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    try:
        low, high = _port(first), _port(last or first)
    except ValueError:
        raise InvalidParameter(f"{what}: {text}") from None
    if high < low:
        raise InvalidParameter(f"{what}: {text}")
    return low, high


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise ValueError(text)
    return int(text)


def _protocol(text: str) -> str:
    if text.lower() not in _PROTOCOLS:
        raise InvalidParameter(f"invalid proto: {text}")
    return text.lower()


def _standard_notation(text: str) -> str:
    if "=" not in text:
        return text
    values = {"protocol": "tcp"}
    for field in text.split(","):
        key, equals, value = field.partition("=")
        if not equals or not key:
            raise InvalidParameter(f"invalid publish opts format (should be name=value but got '{field}')")
        values[key] = value
    return f"{values.get('published', '')}:{values.get('target', '')}/{values['protocol']}"


def _split_published(text: str) -> tuple[str, str, str]:
    """(address, host port, container port)."""
    rest, _, container = text.rpartition(":")
    if rest.endswith("]") or not rest:
        return rest.strip("[]"), "", container
    address, _, host = rest.rpartition(":")
    return address.removeprefix("[").removesuffix("]"), host, container


def _publish(text: str) -> list[tuple[str, dict[str, str]]]:
    spec, _, protocol = text.partition("/")
    address, host, container = _split_published(spec)
    if address:
        try:
            read_address(address)
        except BadValue:
            raise InvalidParameter(f"invalid IP address: {address}") from None
    if not container:
        raise InvalidParameter(f"no port specified: {text}<empty>")
    first, last = _port_range(container, "invalid containerPort")
    protocol = _protocol(protocol or "tcp")
    if not host:
        return [(f"{port}/{protocol}", {"HostIp": address, "HostPort": ""}) for port in range(first, last + 1)]
    host_first, host_last = _port_range(host, "invalid hostPort")
    if host_last - host_first != last - first:
        if first != last:
            raise InvalidParameter(f"invalid ranges specified for container and host Ports: {container} and {host}")
        # a range of host ports for one port: the daemon takes the first that is free
        return [(f"{first}/{protocol}", {"HostIp": address, "HostPort": f"{host_first}-{host_last}"})]
    return [
        (f"{first + offset}/{protocol}", {"HostIp": address, "HostPort": str(host_first + offset)})
        for offset in range(last - first + 1)
    ]


def port_bindings(published: list[str]) -> dict[str, list[dict[str, str]]]:
    """``-p [ADDRESS:][HOST:]CONTAINER[/PROTOCOL]`` as ``HostConfig.PortBindings``.

    Errors: InvalidParameter.
    """
    bindings: dict[str, list[dict[str, str]]] = {}
    for text in published:
        for port, binding in _publish(_standard_notation(text)):
            bindings.setdefault(port, []).append(binding)
    return bindings


def exposed_ports(exposed: list[str], published: dict[str, list[dict[str, str]]]) -> dict[str, dict[str, str]]:
    """``Config.ExposedPorts``.  Errors: InvalidParameter."""
    ports: dict[str, dict[str, str]] = {port: {} for port in published}
    for text in exposed:
        if ":" in text:
            raise InvalidParameter(f"invalid port format for --expose: {text}")
        spec, _, protocol = text.partition("/")
        first, last = _port_range(spec, "invalid range format for --expose")
        for port in range(first, last + 1):
            ports[f"{port}/{_protocol(protocol or 'tcp')}"] = {}
    return ports


# -- networks -------------------------------------------------------------------------------------------------------


def is_user_defined(name: str) -> bool:
    return name not in _RESERVED_NETWORKS and not name.startswith("container:")


def read_network(text: str) -> dict[str, Any]:
    """``--network NAME`` or ``--network name=NAME,alias=…,ip=…``.

    Errors: BadValue.
    """
    network: dict[str, Any] = {
        "name": text,
        "aliases": [],
        "links": [],
        "driver": {},
        "ipam": {},
        "mac": "",
        "priority": 0,
    }
    if not text:
        return network
    if not _LONG_NETWORK.search(text) or text.startswith("container:"):
        return network
    network["name"] = ""
    for field in csv_fields(text):
        key, equals, value = (part.strip() for part in field.partition("="))
        key = key.lower()
        if not equals or not key:
            raise BadValue(f"invalid field {field}")
        if key == "name":
            network["name"] = value
        elif key == "alias":
            network["aliases"].append(value)
        elif key == "driver-opt":
            option, _, setting = value.lower().partition("=")
            network["driver"][option] = setting
        elif key == "ip":
            network["ipam"]["IPv4Address"] = read_address(value)
        elif key == "ip6":
            network["ipam"]["IPv6Address"] = read_address(value)
        elif key == "link-local-ip":
            network["ipam"].setdefault("LinkLocalIPs", []).append(read_address(value))
        elif key == "mac-address":
            network["mac"] = value
        elif key == "gw-priority":
            if not re.fullmatch(r"-?[0-9]{1,9}", value, re.ASCII):
                raise BadValue(f"invalid gw-priority ({value}): invalid syntax")
            network["priority"] = int(value)
        else:
            raise BadValue(f"invalid field key {key}")
    if not network["name"]:
        raise BadValue("network name/id is not specified")
    return network


def _endpoint(network: dict[str, Any]) -> dict[str, Any]:
    name = network["name"]
    if not is_user_defined(name):
        if network["aliases"]:
            raise InvalidParameter("network-scoped aliases are only supported for user-defined networks")
        if network["links"]:
            raise InvalidParameter("links are only supported for user-defined networks")
    endpoint: dict[str, Any] = {}
    if network["aliases"]:
        endpoint["Aliases"] = network["aliases"]
    if network["links"]:
        endpoint["Links"] = network["links"]
    if network["driver"]:
        endpoint["DriverOpts"] = network["driver"]
    if network["ipam"]:
        endpoint["IPAMConfig"] = network["ipam"]
    if network["mac"]:
        endpoint["MacAddress"] = check_mac(network["mac"])
    if network["priority"]:
        endpoint["GwPriority"] = network["priority"]
    return endpoint


def endpoints(networks: list[dict[str, Any]], shared: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """``NetworkingConfig.EndpointsConfig``.

    shared: what the options outside ``--network`` say (aliases, links, ipam, mac): it belongs to the first network

    Errors: InvalidParameter.
    """
    networks = networks or [read_network("default")]
    first = networks[0]
    conflicts = (("aliases", "--network-alias", "network alias"), ("mac", "--mac-address", "per-network MAC address"))
    for key, option, what in conflicts:
        if first[key] and shared[key]:
            raise InvalidParameter(f"conflicting options: cannot specify both {option} and {what}")
    for key, option in (("IPv4Address", "--ip"), ("IPv6Address", "--ip6"), ("LinkLocalIPs", "--link-local-ip")):
        if key in first["ipam"] and key in shared["ipam"]:
            raise InvalidParameter(f"conflicting options: cannot specify both {option} and per-network address")
    first = {
        **first,
        "aliases": first["aliases"] or shared["aliases"],
        "links": shared["links"] if is_user_defined(first["name"]) else [],
        "ipam": {**first["ipam"], **shared["ipam"]},
        "mac": first["mac"] or shared["mac"],
    }
    found: dict[str, dict[str, Any]] = {}
    for network in [first, *networks[1:]]:
        if network["name"] in found:
            raise InvalidParameter(f'network "{network["name"]}" is specified multiple times')
        found[network["name"]] = _endpoint(network)
    if len({is_user_defined(name) for name in found}) > 1:
        raise InvalidParameter(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        )
    return {} if len(found) == 1 and not any(found.values()) else found
