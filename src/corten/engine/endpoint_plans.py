"""From a container's record to what the kernel is to have: addresses, gateways, names, ports of each endpoint."""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
from collections.abc import Sequence

from corten.dockerapi.container import EndpointIPAMConfig, NetworkRate
from corten.engine.container import Container
from corten.engine.endpoint import Endpoint
from corten.engine.endpoint_wishes import interface_name, link_local, sysctls
from corten.engine.network_records import Record
from corten.engine.networks import Networks
from corten.engine.published import published_ports
from corten.errors import CortenError, Forbidden
from corten.network.addresses import Allocator
from corten.network.links import mac_of
from corten.network.plans import EndpointPlan, PortPlan, Published, RatePlan


def rate_plan(rate: NetworkRate | None) -> RatePlan | None:
    """None for no limit."""
    if rate is None or not rate.is_set:
        return None
    return RatePlan(ingress=rate.ingress, egress=rate.egress, burst=rate.burst)


class Planner:
    """Plans the endpoints of one daemon's containers."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    def records(self, container: Container) -> dict[str, Record]:
        """The container's networks by name.  Errors: NotFound for one that is gone."""
        records = {}
        for name, endpoint in container.networks.items():
            record = self._networks.find(name)
            endpoint.network_id = record.id
            records[name] = record
        return records

    def plans(self, container: Container, records: dict[str, Record]) -> dict[str, EndpointPlan]:
        """All endpoints of a container that is about to start, the one with its gateway first; addresses are taken.

        Errors: Forbidden, InvalidParameter; what was taken by then is the caller's to give back.
        """
        gateway, gateway6 = self.gateways(container, records)
        ordered = sorted(records, key=lambda name: name != gateway)
        return {
            name: self.plan(
                container,
                records[name],
                gateway=name == gateway,
                gateway6=name == gateway6,
                publishes=name == (gateway or gateway6),
            )
            for name in ordered
        }

    def plan(
        self, container: Container, record: Record, *, gateway: bool, gateway6: bool, publishes: bool
    ) -> EndpointPlan:
        """One endpoint; its addresses are taken.

        publishes: the container's ports lead through this network
        Errors: as ``plans``.
        """
        endpoint = container.networks[record.name]
        settings = endpoint.settings
        wanted = settings.ipam_config or EndpointIPAMConfig()
        endpoint.id = endpoint.id or secrets.token_hex(32)
        for version, address in ((4, wanted.ipv4_address), (6, wanted.ipv6_address)):
            self._take(record, endpoint, version, address)
        endpoint.mac = settings.mac_address.lower().replace("-", ":") or (
            mac_of(endpoint.ipv4.partition("/")[0]) if endpoint.ipv4 else f"02:42:{secrets.token_bytes(4).hex(':')}"
        )
        endpoint.names = names_of(container, record, endpoint)
        return EndpointPlan(
            id=endpoint.id,
            network=record.plan(),
            mac=endpoint.mac,
            ipv4=endpoint.ipv4,
            ipv6=endpoint.ipv6,
            link_local=link_local(settings),
            interface=interface_name(settings),
            ports=ports_of(container, record) if publishes else (),
            rate=rate_plan(container.host_config.network_rate),
            gateway=gateway,
            gateway6=gateway6,
            sysctls=sysctls(settings),
        )

    def _take(self, record: Record, endpoint: Endpoint, version: int, wanted: str) -> None:
        allocators = [item for item in self._networks.allocators(record) if item.subnet.version == version]
        if not allocators:
            return
        if wanted:
            address = ipaddress.ip_address(wanted)
            allocator = next((item for item in allocators if address in item.subnet), allocators[0])
            taken = allocator.take(endpoint.id, wanted)
        else:
            taken, allocator = _first_free(record, allocators, endpoint.id)
        way = str(allocator.gateway) if allocator.gateway is not None and not record.internal else ""
        if version == 4:
            endpoint.ipv4, endpoint.gateway = taken, way
        else:
            endpoint.ipv6, endpoint.gateway6 = taken, way

    def release(self, name: str, endpoint: Endpoint) -> None:
        """Give back the addresses of an endpoint.  Never raises."""
        try:
            allocators = self._networks.allocators(self._networks.find(endpoint.network_id or name))
        except CortenError:
            return
        for address in filter(None, (endpoint.ipv4, endpoint.ipv6)):
            parsed = ipaddress.ip_interface(address).ip
            for allocator in allocators:
                if allocator.used.get(parsed) == endpoint.id:
                    allocator.release(address)

    def gateways(self, container: Container, records: dict[str, Record]) -> tuple[str, str]:
        """Names of the networks whose gateways the container uses (IPv4, IPv6): highest priority, then by name."""
        chosen = []
        for version in (4, 6):
            candidates = [
                (-container.networks[name].settings.gw_priority, name)
                for name, record in records.items()
                if record.has_sandboxes
                and not record.internal
                and any((":" in item.subnet) == (version == 6) for item in record.ipam.config)
            ]
            chosen.append(min(candidates)[1] if candidates else "")
        return chosen[0], chosen[1]

    def adopted(
        self, container: Container, records: dict[str, Record]
    ) -> tuple[list[EndpointPlan], dict[str, Sequence[Published]]]:
        """The endpoints of a container that runs since before this daemon, and their ports; addresses are held."""
        gateway, gateway6 = self.gateways(container, records)
        plans: list[EndpointPlan] = []
        published: dict[str, Sequence[Published]] = {}
        for name, record in records.items():
            endpoint = container.networks[name]
            self._hold(record, endpoint)
            ports = [
                PortPlan(
                    protocol=item.protocol,
                    port=item.port,
                    host_address=item.host_address,
                    host_ports=(item.host_port, item.host_port),
                )
                for item in endpoint.published
            ]
            plan = EndpointPlan(
                id=endpoint.id,
                network=record.plan(),
                mac=endpoint.mac,
                ipv4=endpoint.ipv4,
                ipv6=endpoint.ipv6,
                ports=tuple(ports),
                rate=rate_plan(container.host_config.network_rate),
                gateway=name == gateway,
                gateway6=name == gateway6,
            )
            plans.append(plan)
            published[endpoint.id] = [item.plain() for item in endpoint.published]
        return plans, published

    def _hold(self, record: Record, endpoint: Endpoint) -> None:
        for address in filter(None, (endpoint.ipv4, endpoint.ipv6)):
            for allocator in self._networks.allocators(record):
                if ipaddress.ip_interface(address).ip in allocator.subnet:
                    allocator.hold(endpoint.id, address)

    def rename(self, container: Container) -> list[tuple[str, Endpoint]]:
        """The container has a new name: (network id, endpoint) of those that are found under it."""
        changed = []
        for name, endpoint in container.networks.items():
            if endpoint.id:
                with contextlib.suppress(CortenError):
                    record = self._networks.find(name)
                    endpoint.names = names_of(container, record, endpoint)
                    changed.append((record.id, endpoint))
        return changed


def ports_of(container: Container, record: Record) -> tuple[PortPlan, ...]:
    """What is published when the container's way out leads through a network."""
    return tuple(published_ports(container, record.host_binding)) if record.driver == "bridge" else ()


def names_of(container: Container, record: Record, endpoint: Endpoint) -> list[str]:
    """Under which names others of a network find a container."""
    if not record.resolves_names:
        return []
    names = [container.name, *endpoint.settings.aliases, container.id[:12], container.config.hostname]
    return list(dict.fromkeys(names))


def _first_free(record: Record, allocators: Sequence[Allocator], owner: str) -> tuple[str, Allocator]:
    for allocator in allocators:
        with contextlib.suppress(Forbidden):
            return allocator.take(owner), allocator
    raise Forbidden(
        f"no available IPv{allocators[0].subnet.version} addresses on this network's address pools: "
        f"{record.name} ({record.id})"
    )
