"""A container's connection to a network, as the engine remembers it."""

from __future__ import annotations

import ipaddress
from typing import Any

from msgspec import Struct, field

from corten.dockerapi.container import EndpointSettings
from corten.network.plans import Published


class PublishedPort(Struct, frozen=True):
    """A port of the host that leads to the container; ``versions``: of IP."""

    protocol: str
    port: int
    host_address: str
    host_port: int
    versions: tuple[int, ...] = (4,)

    @classmethod
    def of(cls, item: Published) -> PublishedPort:
        return cls(item.protocol, item.port, item.host_address, item.host_port, item.versions)

    def plain(self) -> Published:
        return Published(
            protocol=self.protocol,
            port=self.port,
            host_address=self.host_address,
            host_port=self.host_port,
            versions=self.versions,
        )


class Endpoint(Struct, kw_only=True):
    """settings: as asked for; the rest is what it has while the container runs.

    network_id:     of the network that the name meant when it was last looked for
    ipv4, ipv6:     with prefixes: "172.18.0.2/16"
    names:          under which the others of the network find it
    """

    settings: EndpointSettings = field(default_factory=EndpointSettings)
    network_id: str = ""
    id: str = ""
    mac: str = ""
    ipv4: str = ""
    ipv6: str = ""
    gateway: str = ""
    gateway6: str = ""
    names: list[str] = field(default_factory=list)
    published: list[PublishedPort] = field(default_factory=list)

    def clear(self) -> None:
        """The container has ended: everything that it had is given back."""
        self.id = self.mac = self.ipv4 = self.ipv6 = self.gateway = self.gateway6 = ""
        self.published = []

    @property
    def addresses(self) -> list[str]:
        """Without prefixes."""
        return [item.partition("/")[0] for item in (self.ipv4, self.ipv6) if item]

    def document(self) -> dict[str, Any]:
        """``EndpointSettings`` of inspect."""
        settings = self.settings
        wanted = settings.ipam_config
        ipv4, prefix = _split(self.ipv4)
        ipv6, prefix6 = _split(self.ipv6)
        return {
            "IPAMConfig": _given(wanted) if wanted is not None else None,
            "Links": settings.links or None,
            "Aliases": settings.aliases or None,
            "MacAddress": self.mac or settings.mac_address,
            "DriverOpts": settings.driver_opts or None,
            "GwPriority": settings.gw_priority,
            "NetworkID": self.network_id,
            "EndpointID": self.id,
            "Gateway": self.gateway,
            "IPAddress": ipv4,
            "IPPrefixLen": prefix,
            "IPv6Gateway": self.gateway6,
            "GlobalIPv6Address": ipv6,
            "GlobalIPv6PrefixLen": prefix6,
            "DNSNames": self.names or None,
        }


def _given(wanted: Any) -> dict[str, Any]:
    document: dict[str, Any] = {}
    if wanted.ipv4_address:
        document["IPv4Address"] = wanted.ipv4_address
    if wanted.ipv6_address:
        document["IPv6Address"] = wanted.ipv6_address
    if wanted.link_local_ips:
        document["LinkLocalIPs"] = wanted.link_local_ips
    return document


def _split(address: str) -> tuple[str, int]:
    if not address:
        return "", 0
    parsed = ipaddress.ip_interface(address)
    return str(parsed.ip), parsed.network.prefixlen


def port_map(endpoints: list[Endpoint], exposed: list[str]) -> dict[str, list[dict[str, str]] | None]:
    """``NetworkSettings.Ports``: null for ports that are exposed and not published."""
    found: dict[str, list[dict[str, str]] | None] = dict.fromkeys(exposed)
    for endpoint in endpoints:
        for item in endpoint.published:
            rows = found.setdefault(f"{item.port}/{item.protocol}", None) or []
            if not item.host_port:
                continue  # it is reached at the container's own address
            rows += [{"HostIp": address, "HostPort": str(item.host_port)} for address in shown_addresses(item)]
            found[f"{item.port}/{item.protocol}"] = rows
    return found


def shown_addresses(item: PublishedPort) -> list[str]:
    """Host addresses as clients see them: one for each family where none was asked for."""
    if item.host_address:
        return [item.host_address]
    return [{4: "0.0.0.0", 6: "::"}[version] for version in item.versions]
