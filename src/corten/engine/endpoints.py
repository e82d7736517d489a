"""Containers in networks: what a start needs, what an end gives back, connect and disconnect while they run."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from corten.config import Config
from corten.dockerapi.container import EndpointSettings, HostConfig, NetworkRate
from corten.engine import network_files
from corten.engine.container import Container, IdMaps
from corten.engine.endpoint import Endpoint, PublishedPort
from corten.engine.endpoint_plans import Planner, ports_of, rate_plan
from corten.engine.endpoint_wishes import check_connectable, check_settings, resolve
from corten.engine.links import DEFAULT, Links
from corten.engine.live import Index, Live
from corten.engine.metrics import Metrics
from corten.engine.network_names import Names, Resolving, Zones
from corten.engine.network_records import Record
from corten.engine.networks import Networks
from corten.engine.runtimes import OWN
from corten.engine.streams import run_blocking
from corten.engine.user_namespaces import donor
from corten.errors import Conflict, CortenError, Forbidden, SystemFailure
from corten.network.plans import PortPlan
from corten.network.proxy import Proxy
from corten.network.resolver import ADDRESS, Budget, Resolver
from corten.network.sandbox import Sandbox

logger = logging.getLogger(__name__)

_DNS_PORT = 53


@dataclass(slots=True)
class Connected:
    """What a running container holds of the network's side."""

    sandbox: Sandbox
    resolver: Resolver | None = None
    proxies: dict[str, list[Proxy]] = field(default_factory=dict)

    def close_proxies(self, endpoint_id: str) -> None:
        for proxy in self.proxies.pop(endpoint_id, ()):
            proxy.close()

    def close(self) -> None:
        if self.resolver is not None:
            self.resolver.close()
        for endpoint_id in list(self.proxies):
            self.close_proxies(endpoint_id)


class Endpoints:
    """The network side of this daemon's containers."""

    def __init__(
        self,
        networks: Networks,
        index: Index,
        config: Config,
        lend: Callable[[IdMaps, str], Awaitable[tuple[int, int]]],
        metrics: Metrics,
    ) -> None:
        """
        lend: for ids and the path of a user namespace, "" for a new one with these ids: (user, network), descriptors of
              the user namespace and of a new network namespace that belongs to it
        """
        self._networks = networks
        self._index = index
        self._lend = lend
        self._metrics = metrics
        self._planner = Planner(networks)
        self.links = Links(index)
        self._root = config.data_root / "containers"
        self._resolving = Resolving(config.dns, config.dns_opts, config.dns_search)
        self._names = Names()
        self._zones = Zones(self._names, self._resolving)
        self._questions = Budget()
        self._connected: dict[str, Connected] = {}

    @property
    def default_mode(self) -> str:
        """The network of containers that ask for none."""
        return self._networks.default_mode

    @property
    def lacking(self) -> str:
        """Why those have no network, "" when nothing is lacking."""
        return self._networks.lacking

    @property
    def table(self) -> str:
        """The name of the firewall's table."""
        return self._networks.plumbing.table

    def find_network(self, reference: str) -> Record:
        """Errors: NotFound, InvalidParameter for an ambiguous prefix."""
        return self._networks.find(reference)

    def resolve(self, wanted: dict[str, EndpointSettings], host: HostConfig) -> dict[str, Endpoint]:
        """The endpoints of a new container by the names of their networks.  Errors: InvalidParameter."""
        self.links.check(host.links)
        return resolve(wanted, host, self._networks.find)

    # -- start and end ------------------------------------------------------------------------------------------------

    async def attach(self, live: Live) -> None:
        """Give a container that is about to start its network.

        Errors: NotFound (a network that is gone), Forbidden (addresses), SystemFailure; nothing is held then.
        """
        container = live.container
        records = self._planner.records(container)
        if any(record.has_sandboxes for record in records.values()):
            with self._metrics.network("allocate"):
                await self._make_sandbox(live, records)
        else:
            if "none" in container.networks and container.host_config.runtime not in ("", OWN):
                # not every runtime sees to the loopback device of a namespace that it makes
                empty = await run_blocking(self._networks.plumbing.sandbox, ())
                self._connected[container.id] = Connected(empty)
            for endpoint in container.networks.values():
                endpoint.id = secrets.token_hex(32)
        for record in records.values():
            self._networks.publish(record, "connect", container=container.id)

    async def _make_sandbox(self, live: Live, records: dict[str, Record]) -> None:
        container = live.container
        for record in records.values():
            await self._networks.ensure(record)
        try:
            plans = self._planner.plans(container, records)
            owned = await self._owned(container)
            sandbox = await run_blocking(self._networks.plumbing.sandbox, list(plans.values()), owned)
        except BaseException as error:
            identity = next((endpoint.id for endpoint in container.networks.values() if endpoint.id), "")
            self._give_back(container)
            if isinstance(error, SystemFailure) and error.step == "publish":
                raise SystemFailure(
                    f"driver failed programming external connectivity on endpoint {container.name} ({identity}): "
                    f"{error.message}",
                    step=error.step,
                    errno=error.errno,
                ) from error
            raise
        connected = self._connected[container.id] = Connected(sandbox)
        try:
            for name in records:
                await self._settle(container, connected, name)
            await self._resolve_names(container, connected, records)
        except BaseException:
            await self.detach(live)
            raise

    async def _owned(self, container: Container) -> tuple[int, int] | None:
        """Namespaces for a container with ids of its own; None for others.  Errors: SystemFailure."""
        if not container.id_maps:
            return None
        giver = donor(container, lambda reference: self._index.find(reference).container)
        return await self._lend(container.id_maps, f"/proc/{giver.state.pid}/ns/user" if giver is not None else "")

    async def _settle(self, container: Container, connected: Connected, name: str) -> None:
        """Note what an endpoint has got, let others find it, pass on what the kernel does not."""
        endpoint = container.networks[name]
        attached = connected.sandbox.endpoints[endpoint.id]
        endpoint.published = [PublishedPort.of(item) for item in attached.published]
        self._names.add(endpoint.network_id, container.id, endpoint.names, endpoint.addresses)
        for protocol, sock, target in attached.proxied:
            proxy = Proxy(target)
            # the reservation keeps the port, the proxy its own descriptor of it
            await proxy.open(protocol, sock.dup())
            connected.proxies.setdefault(endpoint.id, []).append(proxy)
        if name == DEFAULT:
            self._update_parents(container, endpoint)

    async def _resolve_names(self, container: Container, connected: Connected, records: dict[str, Record]) -> None:
        named = {name: record.id for name, record in records.items() if record.resolves_names}
        if connected.resolver is not None:
            connected.resolver.close()
            connected.resolver = None
        if not named:
            return
        outside = any(record.has_sandboxes and not record.internal for record in records.values())
        zone = self._zones.of(container, named, outside=outside, inside=connected.sandbox.new_socket)
        resolver = Resolver(zone, self._questions)

        def sockets() -> tuple[socket.socket, socket.socket]:
            found = connected.sandbox.open_sockets(ADDRESS, 0)
            connected.sandbox.redirect(ADDRESS, _DNS_PORT, found[0].getsockname()[1])
            return found

        try:
            datagrams, stream = await run_blocking(sockets)
        except OSError as error:
            raise SystemFailure(f"cannot serve names in a container: {error}", step="resolver") from error
        await resolver.open(datagrams, stream)
        connected.resolver = resolver

    async def detach(self, live: Live) -> None:
        """A container has ended: give everything back.  Never raises; nothing held is no error."""
        container = live.container
        connected = self._connected.pop(container.id, None)
        ended = [name for name, endpoint in container.networks.items() if endpoint.id]
        if connected is not None:
            connected.close()
            with self._metrics.network("release"):
                await run_blocking(self._networks.plumbing.release, connected.sandbox)
        # only now: somebody who gets its addresses must not meet the old interface
        self._give_back(container)
        for name in ended:
            with contextlib.suppress(CortenError):
                self._networks.publish(self._networks.find(name), "disconnect", container=container.id)

    def forget(self, container: Container) -> None:
        """It does not run, whatever its record says of its endpoints."""
        self._give_back(container)

    def _give_back(self, container: Container) -> None:
        for name, endpoint in container.networks.items():
            self._names.remove(endpoint.network_id, container.id)
            self._planner.release(name, endpoint)
            endpoint.clear()

    # -- while it runs ------------------------------------------------------------------------------------------------

    async def connect(self, live: Live, reference: str, settings: EndpointSettings) -> None:
        """Connect a container, running or not, to one more network.

        Errors: NotFound, InvalidParameter, Forbidden, Conflict.
        """
        container = live.container
        record = self._networks.find(reference)
        check_connectable(container, record)
        if record.name in container.networks:
            raise Forbidden(f"endpoint with name {container.name} already exists in network {record.name}")
        check_settings(record, settings)
        private = container.networks.pop("none", None)
        container.networks[record.name] = Endpoint(settings=settings, network_id=record.id)
        connected = self._connected.get(container.id)
        if connected is not None:
            try:
                with self._metrics.network("connect"):
                    await self._connect_running(container, connected, record)
            except BaseException:
                endpoint = container.networks.pop(record.name)
                if private is not None:
                    container.networks["none"] = private
                self._names.remove(record.id, container.id)
                self._planner.release(record.name, endpoint)
                raise
        self._networks.publish(record, "connect", container=container.id)

    async def _connect_running(self, container: Container, connected: Connected, record: Record) -> None:
        await self._networks.ensure(record)
        records = self._planner.records(container)
        gateway, gateway6 = self._planner.gateways(container, records)
        plan = self._planner.plan(
            container, record, gateway=gateway == record.name, gateway6=gateway6 == record.name, publishes=False
        )
        await run_blocking(self._networks.plumbing.connect, connected.sandbox, plan)
        try:
            await self._settle(container, connected, record.name)
            await self._choose_gateway(container, connected, records)
            if record.resolves_names:
                await self._resolve_names(container, connected, records)
                network_files.use_resolver(self._root / container.id / "resolv.conf", container, self._resolving)
        except BaseException:
            connected.close_proxies(plan.id)
            await run_blocking(self._networks.plumbing.disconnect, connected.sandbox, plan.id)
            raise
        self._change_hosts(container, add=container.networks[record.name].addresses)

    async def _choose_gateway(self, container: Container, connected: Connected, records: dict[str, Record]) -> None:
        """Have the way out lead where it belongs now, and the published ports with it."""
        gateway, gateway6 = self._planner.gateways(container, records)

        def identity(name: str) -> str:
            return container.networks[name].id if name else ""

        plumbing = self._networks.plumbing
        await run_blocking(plumbing.choose_gateway, connected.sandbox, identity(gateway), identity(gateway6))
        publisher = gateway or gateway6
        holders = [name for name, endpoint in container.networks.items() if endpoint.published and name != publisher]
        if not publisher or container.networks[publisher].published:
            return
        wanted = ports_of(container, records[publisher])
        if not wanted:
            return
        for name in holders:
            # the same ports of the host, also those that were any
            wanted = _same_ports(wanted, container.networks[name].published)
            await self._publish(container, connected, name, ())
        await self._publish(container, connected, publisher, wanted)

    async def _publish(self, container: Container, connected: Connected, name: str, ports: Sequence[PortPlan]) -> None:
        endpoint = container.networks[name]
        connected.close_proxies(endpoint.id)
        await run_blocking(self._networks.plumbing.publish, connected.sandbox, endpoint.id, tuple(ports))
        await self._settle(container, connected, name)

    async def disconnect(self, live: Live, reference: str) -> None:
        """Take a container, running or not, out of a network.  Errors: NotFound, Forbidden, Conflict."""
        container = live.container
        record = self._networks.find(reference)
        endpoint = container.networks.get(record.name)
        if endpoint is None:
            raise Forbidden(f"container {container.id} is not connected to network {record.name}")
        if record.driver == "host":
            raise Conflict("container cannot be disconnected from host network or connected to host network")
        connected = self._connected.get(container.id)
        ports = endpoint.published
        if connected is not None and endpoint.id:
            connected.close_proxies(endpoint.id)
            await run_blocking(self._networks.plumbing.disconnect, connected.sandbox, endpoint.id)
        self._names.remove(record.id, container.id)
        self._planner.release(record.name, endpoint)
        del container.networks[record.name]
        if connected is not None:
            self._change_hosts(container, remove=endpoint.addresses)
            await self._rearrange(container, connected, ports)
        self._networks.publish(record, "disconnect", container=container.id)

    async def _rearrange(self, container: Container, connected: Connected, ports: Sequence[PublishedPort]) -> None:
        """One network fewer: the way out, the ports and the resolver lead through those that are left."""
        try:
            records = self._planner.records(container)
            if ports:
                logger.info("ports of container %s move to another network", container.id[:12])
            await self._choose_gateway(container, connected, records)
            await self._resolve_names(container, connected, records)
        except CortenError as error:
            # it is out of the network, which is what was asked for
            logger.error("container %s after a disconnect: %s", container.id[:12], error)

    async def limit(self, container: Container, rate: NetworkRate | None) -> None:
        """Hold every interface of a running container to a rate.  Errors: InvalidParameter, SystemFailure."""
        connected = self._connected.get(container.id)
        if connected is None:
            return
        for endpoint in container.networks.values():
            if endpoint.id in connected.sandbox.endpoints:
                await run_blocking(self._networks.plumbing.limit, connected.sandbox, endpoint.id, rate_plan(rate))

    def renamed(self, container: Container) -> None:
        """Others find the container under its new name."""
        for network_id, endpoint in self._planner.rename(container):
            self._names.add(network_id, container.id, endpoint.names, endpoint.addresses)

    # -- a new daemon -------------------------------------------------------------------------------------------------

    async def adopt(self, lives: Sequence[Live]) -> None:
        """Containers that run since before this daemon: their addresses, names and ports are theirs again."""
        with_sandbox = [live for live in lives if any(endpoint.id for endpoint in live.container.networks.values())]
        if not with_sandbox:
            return
        with self._networks.plumbing.recovering():
            for live in with_sandbox:
                try:
                    await self._adopt(live.container)
                except (CortenError, OSError) as error:
                    logger.error("the network of container %s is not as it was: %s", live.container.id[:12], error)

    async def _adopt(self, container: Container) -> None:
        records = self._planner.records(container)
        if not any(record.has_sandboxes for record in records.values()):
            return
        for record in records.values():
            await self._networks.ensure(record)
        plans, published = self._planner.adopted(container, records)
        sandbox = await run_blocking(self._networks.plumbing.adopt, container.state.pid, plans, published)
        connected = self._connected[container.id] = Connected(sandbox)
        for name in records:
            if container.networks[name].id in sandbox.endpoints:
                await self._settle(container, connected, name)
        await self._resolve_names(container, connected, records)

    # -- files --------------------------------------------------------------------------------------------------------

    def namespaces(self, container: Container) -> dict[str, str]:
        """Those that were prepared for the container, by kind; it makes the others itself."""
        connected = self._connected.get(container.id)
        return connected.sandbox.paths if connected is not None else {}

    def files(self, container: Container) -> tuple[str, str]:
        """(hosts, resolv.conf) of a container that is about to start."""
        resolver = any(
            self._networks.find(name).resolves_names for name in container.networks if name not in ("host", "none")
        )
        gateway = next((item.gateway for item in container.networks.values() if item.gateway), "")
        hosts = network_files.hosts(
            container, linked=self.links.hosts(container), gateway=self._networks.host_gateway or gateway
        )
        return hosts, network_files.resolv_conf(container, self._resolving, resolver=resolver)

    def _change_hosts(self, container: Container, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
        """The addresses of a running container have changed: its own line of each follows."""
        names = network_files.own_names(container)
        if names:
            network_files.change_hosts(self._root / container.id / "hosts", add=add, remove=remove, names=names)

    def _update_parents(self, container: Container, endpoint: Endpoint) -> None:
        """Containers that run and are linked to this one find it at its new address."""
        for parent, names in self.links.parents(container):
            if endpoint.addresses:
                path = self._root / parent.id / "hosts"
                network_files.change_hosts(path, add=endpoint.addresses[:1], replace=True, names=" ".join(names))

    def close(self) -> None:
        """Let go of everything; what runs goes on without names from outside of its own."""
        for connected in self._connected.values():
            connected.close()
            connected.sandbox.close()
        self._connected.clear()


def _same_ports(wanted: Sequence[PortPlan], published: Sequence[PublishedPort]) -> tuple[PortPlan, ...]:
    """Plans for the ports of the host that an endpoint has already."""
    left = list(published)
    found = []
    for plan in wanted:
        same = next(
            (
                item
                for item in left
                if (item.protocol, item.port, item.host_address) == (plan.protocol, plan.port, plan.host_address)
            ),
            None,
        )
        if same is not None:
            left.remove(same)
            plan = replace(plan, host_ports=(same.host_port, same.host_port)) if same.host_port else plan
        found.append(plan)
    return tuple(found)
