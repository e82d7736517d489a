"""A kernel's side of networks that remembers what it was asked for, and the nouns on top of it."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from corten.config import Config
from corten.dockerapi.container import ContainerConfig, ContainerCreate, HostConfig
from corten.dockerapi.network import NetworkCreate
from corten.engine.container import Container, IdMaps, Status
from corten.engine.endpoint_wishes import wanted_networks
from corten.engine.endpoints import Endpoints
from corten.engine.events import Events
from corten.engine.live import Index, Live
from corten.engine.metrics import Metrics
from corten.engine.network_records import NetworkTable
from corten.engine.networks import Networks
from corten.errors import CortenError, NotFound, SystemFailure
from corten.network.plans import EndpointPlan, NetworkPlan, PortPlan, Published, RatePlan
from corten.network.sandbox import Attached

HOST_SUBNETS = ["192.168.16.0/20", "172.18.5.0/24"]


class FakeSandbox:
    def __init__(self, pid: int = 0) -> None:
        self.endpoints: dict[str, Attached] = {}
        self.paths = {"network": "/proc/1/fd/99"}
        self.pid = pid
        self.redirects: list[tuple[str, int, int]] = []
        self.closed = False

    def open_sockets(self, address: str, port: int) -> tuple[socket.socket, socket.socket]:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("127.0.0.1", port))
        stream = socket.create_server(("127.0.0.1", 0))
        return datagrams, stream

    def new_socket(self, family: int, kind: int) -> socket.socket:
        return socket.socket(family, kind)

    def redirect(self, address: str, port: int, target: int) -> None:
        self.redirects.append((address, port, target))

    def close(self) -> None:
        self.closed = True


class FakePlumbing:
    """What is on the "host": networks by id, sandboxes, ports; ``fail`` makes one operation fail once."""

    def __init__(self) -> None:
        self.networks: dict[str, NetworkPlan] = {}
        self.devices: set[str] = set()
        self.sandboxes: list[FakeSandbox] = []
        self.ports: set[tuple[str, str, int]] = set()
        self.gateways: tuple[str, str] = ("", "")
        self.limits: list[tuple[str, RatePlan | None]] = []
        self.fail: dict[str, CortenError] = {}
        self.closed = False

    def _may_fail(self, name: str) -> None:
        error = self.fail.pop(name, None)
        if error is not None:
            raise error

    # -- networks ---------------------------------------------------------------------

    def create_network(self, plan: NetworkPlan) -> bool:
        self._may_fail("create_network")
        self.networks[plan.id] = plan
        made = plan.device not in self.devices
        self.devices.add(plan.device)
        return made

    def remove_network(self, plan: NetworkPlan, *, keep_device: bool = False) -> None:
        self._may_fail("remove_network")
        self.networks.pop(plan.id, None)
        if not keep_device:
            self.devices.discard(plan.device)

    def has_device(self, plan: NetworkPlan) -> bool:
        return plan.device in self.devices

    # -- sandboxes ---------------------------------------------------------------------

    def sandbox(self, endpoints: Sequence[EndpointPlan], owned: tuple[int, int] | None = None) -> FakeSandbox:
        made = FakeSandbox()
        self.sandboxes.append(made)
        try:
            for endpoint in endpoints:
                self.connect(made, endpoint)
        except BaseException:
            self.release(made)
            raise
        return made

    def connect(self, box: FakeSandbox, endpoint: EndpointPlan) -> None:
        self._may_fail("connect")
        if endpoint.network.id not in self.networks:
            raise NotFound(f"network {endpoint.network.id[:12]} has not been created")
        attached = box.endpoints[endpoint.id] = Attached(endpoint, f"eth{len(box.endpoints)}", len(box.endpoints) + 2)
        try:
            self._publish(attached)
        except BaseException:
            del box.endpoints[endpoint.id]
            raise

    def _publish(self, attached: Attached) -> None:
        self._may_fail("publish")
        found = []
        for plan in attached.plan.ports:
            first, last = plan.host_ports if plan.host_ports != (0, 0) else (32768, 60999)
            for port in range(first, last + 1):
                if (plan.protocol, plan.host_address, port) not in self.ports:
                    break
            else:
                self._withdraw(found)
                raise SystemFailure(
                    f"Bind for {plan.host_address or '0.0.0.0'}:{first} failed: port is already allocated",
                    step="publish",
                )
            self.ports.add((plan.protocol, plan.host_address, port))
            found.append(
                Published(protocol=plan.protocol, port=plan.port, host_address=plan.host_address, host_port=port)
            )
        attached.published = tuple(found)

    def _withdraw(self, published: Sequence[Published]) -> None:
        for item in published:
            self.ports.discard((item.protocol, item.host_address, item.host_port))

    def publish(self, box: FakeSandbox, endpoint_id: str, ports: Sequence[PortPlan]) -> None:
        attached = box.endpoints[endpoint_id]
        self._withdraw(attached.published)
        attached.published = ()
        attached.plan = replace(attached.plan, ports=tuple(ports))
        self._publish(attached)

    def disconnect(self, box: FakeSandbox, endpoint_id: str) -> None:
        attached = box.endpoints.pop(endpoint_id, None)
        if attached is not None:
            self._withdraw(attached.published)

    def choose_gateway(self, box: FakeSandbox, gateway: str, gateway6: str) -> None:
        self._may_fail("choose_gateway")
        self.gateways = (gateway, gateway6)

    def limit(self, box: FakeSandbox, endpoint_id: str, rate: RatePlan | None) -> None:
        self._may_fail("limit")
        self.limits.append((endpoint_id, rate))

    @contextlib.contextmanager
    def recovering(self) -> Iterator[None]:
        yield

    def adopt(
        self, pid: int, endpoints: Sequence[EndpointPlan], published: dict[str, Sequence[Published]]
    ) -> FakeSandbox:
        box = FakeSandbox(pid)
        for endpoint in endpoints:
            box.endpoints[endpoint.id] = Attached(endpoint, "eth0", 2, published=tuple(published.get(endpoint.id, ())))
            self.ports |= {(item.protocol, item.host_address, item.host_port) for item in published[endpoint.id]}
        self.sandboxes.append(box)
        return box

    def release(self, box: FakeSandbox) -> None:
        for attached in box.endpoints.values():
            self._withdraw(attached.published)
        box.endpoints.clear()
        self.sandboxes.remove(box)

    # -- life ---------------------------------------------------------------------

    def watch(self) -> socket.socket:
        raise OSError("nothing to watch")

    def close(self) -> None:
        self.closed = True


class Machine:
    """One daemon's networks and endpoints over a fake kernel; ``again`` is the next daemon on the same state."""

    def __init__(
        self, tmp_path: Path, *, plumbing: FakePlumbing | None = None, host: list[str] | None = None, **options: Any
    ) -> None:
        self.directory = tmp_path
        self.options = options
        self.config = Config(data_root=tmp_path / "data", exec_root=tmp_path / "run", hosts=(), **options)
        self.plumbing = plumbing or FakePlumbing()
        self.host = HOST_SUBNETS if host is None else host
        self.index = Index()
        self.events = Events()
        self.database = sqlite3.connect(tmp_path / "state.db", isolation_level=None, check_same_thread=False)
        self.database.execute("PRAGMA synchronous=OFF")
        self.networks = Networks(
            self.config,
            NetworkTable(self.database),
            self.index,
            self.events,
            self.plumbing,  # type: ignore[arg-type]
            lambda without: [subnet for subnet in self.host if subnet != without],
        )
        self.metrics = Metrics()
        self.endpoints = Endpoints(self.networks, self.index, self.config, self.lend, self.metrics)

    async def lend(self, maps: IdMaps, path: str) -> tuple[int, int]:
        raise AssertionError("no container of these tests has ids of its own")

    def open(self) -> Machine:
        self.networks.open()
        return self

    def again(self, **options: Any) -> Machine:
        """Another daemon: the same database and kernel, the containers as they were saved."""
        made = Machine(self.directory, plumbing=self.plumbing, host=self.host, **{**self.options, **options})
        for live in self.index:
            made.index.add(Live(live.container))
        return made.open()

    async def network(self, name: str, **fields: Any) -> str:
        return (await self.networks.create(NetworkCreate(name=name, **fields)))["Id"]

    def container(self, name: str, mode: str = "bridge", networks: dict[str, Any] | None = None, **fields: Any) -> Live:
        """A container's record as ``create`` makes it."""
        config = ContainerConfig(hostname=fields.pop("hostname", name), exposed_ports=fields.pop("exposed", {}))
        host = HostConfig(network_mode=mode, **fields)
        request = ContainerCreate(host_config=host)
        request.networking_config.endpoints_config = networks or {}
        identity = f"{len(self.index):02x}" + name.encode().hex().ljust(62, "0")
        made = Container(
            id=identity,
            name=name,
            created_ns=0,
            image_id="",
            config=config,
            host_config=host,
            driver="",
            networks=self.endpoints.resolve(wanted_networks(request, host), host),
        )
        live = Live(made)
        self.index.add(live)
        (self.config.data_root / "containers" / identity).mkdir(parents=True)
        return live

    async def start(self, live: Live) -> Container:
        container = live.container
        await self.endpoints.attach(live)
        for file, text in zip(("hosts", "resolv.conf"), self.endpoints.files(container), strict=True):
            self.file(live, file).write_text(text)
        container.become(Status.RUNNING)
        container.state.pid = 4711
        return container

    async def stop(self, live: Live) -> None:
        live.container.become(Status.EXITED)
        live.container.state.pid = 0
        await self.endpoints.detach(live)

    def file(self, live: Live, name: str) -> Path:
        return self.config.data_root / "containers" / live.container.id / name

    @property
    def told(self) -> list[str]:
        """Events: "network connect back"."""
        return [
            f"{event['Type']} {event['Action']} {event['Actor']['Attributes'].get('name', '')}".strip()
            for event in self.events._kept
        ]
