"""Networks as the API sees them: make, find, describe, remove.

What containers do with them is ``endpoints``'s.  On the host a network appears when it is first needed, and one that no
running container needs goes with the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from corten.config import Config
from corten.dockerapi.network import IPAM, NetworkCreate, filter_networks
from corten.engine import default_network
from corten.engine.events import Events
from corten.engine.filters import Filters, PruneFilter
from corten.engine.network_records import NetworkTable, Record, check_options, host_record
from corten.engine.network_subnets import Subnets
from corten.engine.streams import run_blocking
from corten.errors import Conflict, CortenError, Forbidden, InvalidParameter, NotFound, NotImplementedYet
from corten.network import host_routes
from corten.network.addresses import Allocator, parse_network
from corten.network.plumbing import Plumbing

if TYPE_CHECKING:
    from corten.engine.live import Index

_MOST = (1 << 64) - 1  # what a counter of addresses shows at most
logger = logging.getLogger(__name__)

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*\Z")
_DRIVERS = ("bridge", "macvlan", "ipvlan")


class Networks:
    """The networks of this daemon.

    host_subnets: where the host has routes to, those of one interface left out
    lacking:      why containers have no network unless they ask for one; "" when nothing is lacking
    """

    def __init__(
        self,
        config: Config,
        table: NetworkTable,
        index: Index,
        events: Events,
        plumbing: Plumbing,
        host_subnets: Callable[[str], list[str]] = host_routes.host_subnets,
        lacking: str = "",
    ) -> None:
        self.lacking = lacking
        self._config = config
        self._table = table
        self._index = index
        self._events = events
        self._records = {record.id: record for record in table.all()}
        for name in ("host", "none"):
            record = host_record(name)
            self._records[record.id] = record
        self.plumbing = plumbing
        self._subnets = Subnets(config, self._records, host_subnets)
        self._allocators: dict[str, list[Allocator]] = {}
        self._made: set[str] = set()
        self._making: dict[str, asyncio.Lock] = {}

    def open(self) -> None:
        """The default network as the configuration wants it; containers are known by now.

        Errors: InvalidParameter, Forbidden, SystemFailure.
        """
        known = self._named(default_network.NAME)
        if self.lacking:
            logger.warning("%s: containers have the network none unless they ask for one", self.lacking)
        if self.default_mode == "none":
            if known is not None:
                del self._records[known.id]
            return
        in_use = any(
            live.container.is_running and default_network.NAME in live.container.networks for live in self._index
        )
        record = default_network.default_network(self._config, known, self._subnets, in_use=in_use)
        self._records[record.id] = record
        self._table.save(record)

    @property
    def default_mode(self) -> str:
        """The network of containers that ask for none."""
        return "none" if self._config.bridge == "none" or self.lacking else default_network.NAME

    @property
    def host_gateway(self) -> str:
        """What "host-gateway" stands for: the host's address in the default network; "" when there is none."""
        if self._config.host_gateway_ip:
            return self._config.host_gateway_ip
        record = self._named(default_network.NAME)
        subnets = record.ipam.config if record is not None else ()
        return next((item.gateway for item in subnets if ":" not in item.gateway), "")

    # -- find ---------------------------------------------------------------------------------------------------------

    def all(self) -> list[Record]:
        return list(self._records.values())

    def find(self, reference: str) -> Record:
        """By id, name, or a prefix of the id that fits one network only.

        Errors: NotFound "network x not found", InvalidParameter for an ambiguous prefix.
        """
        record = self._records.get(reference) or self._named(reference)
        if record is not None:
            return record
        found = [item for key, item in self._records.items() if reference and key.startswith(reference)]
        if len(found) > 1:
            raise InvalidParameter(f"network {reference} is ambiguous ({len(found)} matches found on ID prefix)")
        if not found:
            why = f": {self.lacking}" if self.lacking and reference == default_network.NAME else ""
            raise NotFound(f"network {reference} not found{why}")
        return found[0]

    def _named(self, name: str) -> Record | None:
        return next((record for record in self._records.values() if record.name == name), None)

    # -- create -------------------------------------------------------------------------------------------------------

    async def create(self, request: NetworkCreate) -> dict[str, str]:
        """Errors: InvalidParameter, Conflict (name), Forbidden (subnets), NotFound (driver), SystemFailure."""
        name = request.name
        if not name.strip():
            raise InvalidParameter("invalid name: name is empty")
        if not _NAME.match(name):
            raise InvalidParameter(
                f"invalid name {name!r}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed in the name of a network"
            )
        if name in ("bridge", "host", "none", "default", "container"):
            raise Forbidden(f"operation is not permitted on predefined {name} network")
        if self._named(name) is not None:
            raise Conflict(f"network with name {name} already exists")
        record = self._record(request)
        self._records[record.id] = record
        try:
            if not record.config_only:
                record.plan()
                self.allocators(record)
                await self.ensure(record)
            self._table.save(record)
        except BaseException:
            del self._records[record.id]
            self._table.remove(record.id)
            await self._unmake(record)
            raise
        self.publish(record, "create")
        return {"Id": record.id, "Warning": ""}

    def _record(self, request: NetworkCreate) -> Record:
        if request.ingress:
            raise NotImplementedYet("ingress networks belong to swarm mode, which is not part of this engine")
        if request.scope not in ("", "local"):
            raise InvalidParameter(f"{request.scope} is an invalid scope for a local network")
        source = request
        if request.config_from.network:
            source = self._configured_from(request)
        driver = request.driver or "bridge"
        if driver in ("host", "null"):
            raise Forbidden(f'only one instance of "{driver}" network is allowed')
        if driver not in _DRIVERS and not request.config_only:
            raise NotFound(f'could not find plugin {driver} in v1 plugin registry: plugin "{driver}" not found')
        if source.ipam.driver not in ("", "default"):
            raise InvalidParameter(f"ipam driver {source.ipam.driver!r} is not supported: only default is")
        record = Record(
            id=secrets.token_hex(32),
            name=request.name,
            created_ns=time.time_ns(),
            driver=driver if not request.config_only else "null",
            enable_ipv4=source.enable_ipv4,
            enable_ipv6=source.enable_ipv6,
            internal=source.internal,
            attachable=source.attachable,
            config_only=request.config_only,
            config_from=request.config_from.network,
            options=dict(source.options),
            labels=dict(request.labels),
            ipam=IPAM(driver="default", options=dict(source.ipam.options)),
        )
        if request.config_only:
            record.ipam.config = list(source.ipam.config)
            return record
        record.options = {**self._config.default_network_opts.get(driver, {}), **record.options}
        check_options(driver, record.options)
        record.ipam.config, record.chosen = self._subnets.wanted(driver, source)
        versions = {parse_network(item.subnet).version for item in record.ipam.config}
        record.enable_ipv6 = 6 in versions
        return record

    def _configured_from(self, request: NetworkCreate) -> NetworkCreate:
        base = self.find(request.config_from.network)
        if not base.config_only:
            raise Forbidden(f"{base.name} is not a configuration network")
        if request.options or request.ipam.config:
            raise Forbidden(
                "user specified configurations are not supported if the network depends on a config-only network"
            )
        return NetworkCreate(
            name=request.name,
            driver=request.driver,
            enable_ipv4=base.enable_ipv4,
            enable_ipv6=base.enable_ipv6,
            internal=base.internal,
            attachable=base.attachable,
            options=base.options,
            ipam=base.ipam,
            labels=request.labels,
        )

    # -- on the host --------------------------------------------------------------------------------------------------

    def allocators(self, record: Record) -> list[Allocator]:
        """The addresses of a network's subnets.  Errors: InvalidParameter."""
        if record.id not in self._allocators:
            self._allocators[record.id] = [
                Allocator.parse(
                    item.subnet,
                    ip_range=item.ip_range,
                    gateway=item.gateway,
                    aux=item.auxiliary_addresses.values(),
                )
                for item in record.ipam.config
            ]
        return self._allocators[record.id]

    async def ensure(self, record: Record) -> None:
        """Have the network on the host.  Errors: InvalidParameter, Conflict, SystemFailure."""
        if record.id in self._made or not record.has_sandboxes:
            return
        async with self._making.setdefault(record.id, asyncio.Lock()):
            if record.id not in self._made:
                made = await run_blocking(self.plumbing.create_network, record.plan())
                self._made.add(record.id)
                if made and not record.owns_device:
                    record.owns_device = True
                    self._table.save(record)

    async def _unmake(self, record: Record) -> None:
        self._allocators.pop(record.id, None)
        self._making.pop(record.id, None)
        if record.id in self._made:
            self._made.discard(record.id)
            await self._take_off(record)

    async def _take_off(self, record: Record) -> None:
        """Off the host, with the interface when it is the network's own.  Errors: SystemFailure."""
        plan, keep = record.plan(), not record.owns_device
        await run_blocking(lambda: self.plumbing.remove_network(plan, keep_device=keep))

    # -- describe -----------------------------------------------------------------------------------------------------

    def _containers(self, record: Record) -> dict[str, Any]:
        found = {}
        for live in self._index:
            container = live.container
            endpoint = container.networks.get(record.name)
            # also of one that is about to run
            if endpoint is None or not endpoint.id:
                continue
            found[container.id] = {
                "Name": container.name,
                "EndpointID": endpoint.id,
                "MacAddress": endpoint.mac,
                "IPv4Address": endpoint.ipv4,
                "IPv6Address": endpoint.ipv6,
            }
        return found

    def used(self) -> frozenset[str]:
        """Ids of the networks that some container names, running or not."""
        names = {name for live in self._index for name in live.container.networks}
        return frozenset(record.id for record in self._records.values() if record.name in names)

    async def list(self, filters: Filters) -> list[dict[str, Any]]:
        """Errors: InvalidParameter for an unknown filter."""
        records = sorted(self._records.values(), key=lambda record: record.name)
        return filter_networks([record.document({}) for record in records], filters, self.used())

    async def inspect(self, reference: str, scope: str = "") -> dict[str, Any]:
        record = self.find(reference)
        if scope not in ("", record.scope):
            raise NotFound(f"network {reference} not found")
        return {**record.document(self._containers(record)), "Status": {"IPAM": self._addresses(record)}}

    def _addresses(self, record: Record) -> dict[str, Any]:
        """How many addresses of each subnet are in use, and left."""
        subnets = {}
        for allocator in self.allocators(record):
            used, left = allocator.status()
            subnets[str(allocator.subnet)] = {"IPsInUse": used, "DynamicIPsAvailable": min(left, _MOST)}
        return {"Subnets": subnets} if subnets else {}

    # -- remove -------------------------------------------------------------------------------------------------------

    async def remove(self, reference: str) -> None:
        """Errors: NotFound, Forbidden (predefined, or containers are connected)."""
        record = self.find(reference)
        if record.is_predefined:
            raise Forbidden(f"{record.name} is a pre-defined network and cannot be removed")
        connected = [item["Name"] for item in self._containers(record).values()]
        if connected:
            raise Forbidden(
                f"error while removing network: network {record.name} id {record.id} has active endpoints "
                f"({', '.join(_quoted(connected))})"
            )
        dependent = [
            item.name for item in self._records.values() if item.config_from == record.name and record.config_only
        ]
        if dependent:
            raise Forbidden(f"configuration network {record.name!r} is in use")
        self._table.remove(record.id)
        del self._records[record.id]
        if record.has_sandboxes:
            self._made.add(record.id)  # also what an earlier daemon made
        await self._unmake(record)
        self.publish(record, "destroy")

    async def prune(self, filters: Filters) -> dict[str, Any]:
        """Errors: InvalidParameter for an unknown filter."""
        chosen = PruneFilter(filters)
        used = self.used()
        removed = []
        for record in list(self._records.values()):
            if (
                record.is_predefined
                or record.config_only
                or record.id in used
                or not chosen.takes(record.labels, record.created_ns)
            ):
                continue
            with contextlib.suppress(CortenError):
                await self.remove(record.id)
                removed.append(record.name)
        self._events.publish("network", "prune", "", {"reclaimed": "0"})
        return {"NetworksDeleted": removed or None}

    def publish(self, record: Record, action: str, **attributes: str) -> None:
        """An event of a network."""
        self._events.publish("network", action, record.id, {"name": record.name, "type": record.driver, **attributes})

    # -- life ---------------------------------------------------------------------------------------------------------

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Put the firewall back when somebody deletes it."""
        try:
            sock = self.plumbing.watch()
        except OSError as error:
            logger.warning("changes of the firewall cannot be watched: %s", error)
            return

        def changed() -> None:
            if self.plumbing.look_after():
                loop.run_in_executor(None, self._restore)

        loop.add_reader(sock, changed)

    def _restore(self) -> None:
        try:
            self.plumbing.restore()
        except CortenError as error:
            logger.error("the firewall cannot be put back: %s", error)

    async def close(self, busy: Iterable[str]) -> None:
        """Take networks off the host that no running container needs.

        busy: names of the networks that some do
        """
        with contextlib.suppress(OSError):
            asyncio.get_running_loop().remove_reader(self.plumbing.watch())
        kept = set(busy)
        for record in self._records.values():
            if not record.has_sandboxes or record.name in kept or record.config_only:
                continue
            try:
                # also what a daemon before this one has left
                if record.id in self._made or (record.owns_device and self.plumbing.has_device(record.plan())):
                    await self._take_off(record)
            except CortenError as error:
                logger.warning("network %s: %s", record.name, error)
        self._made.clear()
        await run_blocking(self.plumbing.close)


def _quoted(names: Sequence[str]) -> list[str]:
    return [f'name:"{name}"' for name in names]
