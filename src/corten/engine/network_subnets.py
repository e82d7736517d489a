"""Which subnets a network gets: those that were asked for, or the first free ones of the pools."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping

from corten.config import Config
from corten.dockerapi.network import IPAMConfig, NetworkCreate
from corten.engine.network_records import Record
from corten.errors import InvalidParameter
from corten.network.addresses import (
    DEFAULT_POOLS,
    Allocator,
    Pool,
    check_overlap,
    free_subnet,
    parse_network,
    parse_pools,
)

_ULA_SIZE = 64


def private_pool(seed: str) -> tuple[Pool, ...]:
    """65,536 unique local IPv6 subnets that are this seed's own (RFC 4193 section 3.2)."""
    number = hashlib.sha256(seed.encode()).hexdigest()[:10]
    return parse_pools([(f"fd{number[:2]}:{number[2:6]}:{number[6:10]}::/48", _ULA_SIZE)])


def _machine_id() -> str:
    try:
        with open("/etc/machine-id") as file:
            return file.read().strip()
    except OSError:
        return secrets.token_hex(16)


class Subnets:
    """The subnets of one daemon's networks.

    records:      all networks, by id
    host_subnets: where the host has routes to, those of one interface left out
    """

    def __init__(self, config: Config, records: Mapping[str, Record], host_subnets: Callable[[str], list[str]]) -> None:
        self._records = records
        self.host_subnets = host_subnets
        pools = parse_pools(config.default_address_pools or DEFAULT_POOLS)
        if not any(pool.base.version == 6 for pool in pools):
            pools += private_pool(f"{_machine_id()} {config.data_root}")
        self._pools = pools

    def free(self, version: int, more: Iterable[str] = ()) -> IPAMConfig:
        """One that nobody has, of the pools.

        more: further subnets that are taken
        Errors: InvalidParameter when all are used up, SystemFailure.
        """
        subnet = free_subnet(self._pools, version, [*self._of_networks(), *self.host_subnets(""), *more])
        return IPAMConfig(subnet=str(subnet), gateway=str(subnet[1]))

    def _of_networks(self, driver: str = "") -> list[str]:
        return [
            item.subnet
            for record in self._records.values()
            if not record.config_only and driver in ("", record.driver)
            for item in record.ipam.config
        ]

    def wanted(self, driver: str, request: NetworkCreate) -> tuple[list[IPAMConfig], list[str]]:
        """(all subnets of a new network with their gateways, those that were chosen for the client).

        Errors: InvalidParameter, Forbidden (overlaps), SystemFailure.
        """
        # the host has routes to the subnets of a parent: that is what macvlan and ipvlan are for
        taken = self._of_networks("" if driver == "bridge" else driver)
        if driver == "bridge" and any(item.subnet for item in request.ipam.config):
            taken += self.host_subnets("")
        found: list[IPAMConfig] = []
        for item in request.ipam.config:
            if not item.subnet:
                if item.ip_range or item.gateway or item.auxiliary_addresses:
                    raise InvalidParameter("invalid IPAM config: a subnet is needed for a range or a gateway")
                continue
            found.append(self._checked(item, [*taken, *(other.subnet for other in found)]))
            if driver == "bridge" and parse_network(item.subnet).num_addresses == 1:
                raise InvalidParameter(f"failed to allocate gateway (): No available addresses on subnet {item.subnet}")
        versions = {parse_network(item.subnet).version for item in found}
        if not request.enable_ipv4 and not request.enable_ipv6 and 6 not in versions:
            raise InvalidParameter("IPv4 or IPv6 must be enabled")
        if 4 in versions and not request.enable_ipv4:
            raise InvalidParameter("invalid IPAM config: an IPv4 subnet is given, and IPv4 is not enabled")
        chosen = []
        for version, enabled in ((4, request.enable_ipv4), (6, request.enable_ipv6)):
            if enabled and version not in versions:
                item = self.free(version, (other.subnet for other in found))
                found.append(item)
                chosen.append(item.subnet)
        return sorted(found, key=lambda item: parse_network(item.subnet).version), chosen

    @staticmethod
    def _checked(item: IPAMConfig, taken: list[str]) -> IPAMConfig:
        subnet = str(parse_network(item.subnet))
        check_overlap(subnet, taken)
        allocator = Allocator.parse(
            subnet, ip_range=item.ip_range, gateway=item.gateway, aux=item.auxiliary_addresses.values()
        )
        return IPAMConfig(
            subnet=subnet,
            ip_range=item.ip_range,
            gateway=str(allocator.gateway) if allocator.gateway is not None else "",
            auxiliary_addresses=dict(item.auxiliary_addresses),
        )
