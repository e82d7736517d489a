"""The network ``bridge`` that containers have by default, as the daemon's configuration wants it."""

from __future__ import annotations

import hashlib
import secrets
import time

from corten.config import Config
from corten.dockerapi.network import IPAM, IPAMConfig
from corten.engine.network_records import BRIDGE_NAME, Record
from corten.engine.network_subnets import Subnets
from corten.errors import Forbidden
from corten.network.addresses import Allocator, check_overlap, parse_network

NAME = "bridge"
DEVICE = "corten0"


def instance_of(config: Config) -> str:
    """What tells this daemon's interfaces and tables from those of others: "" for the machine's own daemon."""
    if config.is_default_instance:
        return ""
    return hashlib.sha256(str(config.exec_root).encode()).hexdigest()[:8]


def default_network(config: Config, known: Record | None, subnets: Subnets, *, in_use: bool) -> Record:
    """The record of the default network.

    known:  the one of the daemon before
    in_use: containers of an earlier daemon run in it: its subnet stays
    Errors: InvalidParameter, Forbidden (a subnet that overlaps).
    """
    instance = instance_of(config)
    device = config.bridge or (f"corten-{instance}" if instance else DEVICE)
    record = known or Record(id=secrets.token_hex(32), name=NAME, created_ns=time.time_ns(), driver="bridge")
    record.options = {
        "com.docker.network.bridge.default_bridge": "true",
        "com.docker.network.bridge.enable_icc": str(config.icc).lower(),
        "com.docker.network.bridge.enable_ip_masquerade": str(config.ip_masq).lower(),
        "com.docker.network.bridge.host_binding_ipv4": config.ip,
        BRIDGE_NAME: device,
        "com.docker.network.driver.mtu": str(config.mtu),
    }
    kept: dict[int, IPAMConfig] = {
        parse_network(item.subnet).version: item
        for item in record.ipam.config
        if in_use or item.subnet in record.chosen
    }
    found: list[IPAMConfig] = []
    chosen: list[str] = []
    for version, given in ((4, _given(config)), (6, _given6(config))):
        if given is not None:
            found.append(given)
        elif version == 4 or config.ipv6:
            item = kept.get(version)
            if item is None or (not in_use and _is_somebody_elses(item.subnet, device, subnets)):
                item = subnets.free(version, (other.subnet for other in found))
            found.append(item)
            chosen.append(item.subnet)
    record.enable_ipv6 = config.ipv6
    record.ipam, record.chosen = IPAM(config=found), chosen
    return record


def _is_somebody_elses(subnet: str, device: str, subnets: Subnets) -> bool:
    """A subnet that nobody asked for, and to which the host has another route by now."""
    try:
        check_overlap(subnet, subnets.host_subnets(device))
    except Forbidden:
        return True
    return False


def _given(config: Config) -> IPAMConfig | None:
    if not config.bip:
        return None
    return _checked(str(parse_network(config.bip)), config.fixed_cidr, config.bip.partition("/")[0])


def _given6(config: Config) -> IPAMConfig | None:
    return _checked(config.fixed_cidr_v6, "", "") if config.ipv6 and config.fixed_cidr_v6 else None


def _checked(subnet: str, ip_range: str, gateway: str) -> IPAMConfig:
    allocator = Allocator.parse(subnet, ip_range=ip_range, gateway=gateway)
    return IPAMConfig(subnet=str(allocator.subnet), ip_range=ip_range, gateway=str(allocator.gateway))
