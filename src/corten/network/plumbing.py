"""Networks and sandboxes as the engine asks for them: plans in, kernel objects out, nothing left when a step fails."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from corten.errors import Conflict, CortenError, NotFound, SystemFailure
from corten.linux import rtnetlink as rt
from corten.linux import rtroutes
from corten.linux.netlink import NETLINK_NETFILTER, NETLINK_ROUTE
from corten.network import attaching, limits, links, sandbox
from corten.network.background import Background
from corten.network.connections import SharedConnection
from corten.network.firewall import Firewall
from corten.network.outside import Outside
from corten.network.plans import EndpointPlan, NetworkPlan, PortPlan, Published, RatePlan
from corten.network.publishing import Publishing
from corten.network.sandbox import Attached, Sandbox
from corten.network.watching import Watcher

logger = logging.getLogger(__name__)


class Plumbing:
    """The networks of one daemon.  Methods are synchronous and may be called from any thread.

    instance:  tells several daemons of a machine apart: "" for the machine's own
    directory: where is written down what has to be put back
    outside:   the host's network, when this process lives in one of its user
    """

    def __init__(self, *, instance: str = "", directory: Path, outside: Outside | None = None) -> None:
        suffix = f"-{sha256(instance.encode()).hexdigest()[:8]}" if instance else ""
        self._notes = directory / "networks.json"
        self._firewall = Firewall(f"corten{suffix}")
        self._forwarding = links.Forwarding()
        self._lock = threading.RLock()
        self._host = SharedConnection(NETLINK_ROUTE)
        # deleting takes the kernel long: nobody else should wait for it
        self._slow = SharedConnection(NETLINK_ROUTE)
        self._connections = SharedConnection(NETLINK_NETFILTER)
        self._background = Background(self._slow, self._connections)
        self._publishing = Publishing(self._firewall, self._connections, self._background.forget, outside)
        self._watcher = Watcher(self._firewall)
        self._indexes: dict[str, int] = {}
        self._plans: dict[str, NetworkPlan] = {}
        self._parents: dict[str, str] = {}
        self._adopted: dict[str, Attached] = {}
        self._read_notes()

    # -- life ---------------------------------------------------------------------------------------------------------

    @property
    def table(self) -> str:
        """The name of the firewall's table."""
        return self._firewall.table

    @contextlib.contextmanager
    def recovering(self) -> Iterator[None]:
        """Networks and sandboxes that are adopted in the block come into the firewall together, at its end."""
        with self._firewall.held():
            yield
        try:
            self._sweep()
        except OSError as error:
            logger.warning("interfaces of an earlier daemon: %s", error)

    def close(self) -> None:
        """Let go: what runs goes on, what nobody uses is given back."""
        self._background.close()
        self._publishing.close()
        self._watcher.close()
        if not self._plans:
            self._stop_forwarding()
            with contextlib.suppress(SystemFailure):
                self._firewall.remove()  # also one that a killed daemon left
        self._firewall.close()
        self._connections.close()
        self._slow.close()
        self._host.close()

    def has_device(self, plan: NetworkPlan) -> bool:
        """Whether the interface of a network is there.  Errors: SystemFailure."""
        name = plan.device or links.dummy_name(plan)
        try:
            return links.find(self._host, name) is not None
        except OSError as error:
            raise links.failure(error, "list interfaces") from error

    def _read_notes(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._forwarding.remember(json.loads(self._notes.read_text())["forwarding"])

    def _write_notes(self) -> None:
        part = self._notes.with_suffix(".part")
        part.write_text(json.dumps({"forwarding": self._forwarding.found}))
        part.replace(self._notes)

    def _passes_on(self) -> bool:
        """Whether a network needs the host to pass packets on."""
        return any(item.driver == "bridge" and not item.internal for item in self._plans.values())

    def _stop_forwarding(self) -> None:
        """As the host had it before, unless others have rules for what passes: somebody relies on it then."""
        self._forwarding.switch_back(keep=self._firewall.has_others())
        self._notes.unlink(missing_ok=True)

    # -- networks -----------------------------------------------------------------------------------------------------

    def create_network(self, plan: NetworkPlan) -> bool:
        """Make what the plan needs on the host, or adopt it; whether an interface was made.

        Errors: InvalidParameter, Conflict, SystemFailure; nothing that was made stays then.
        """
        with self._lock:
            if plan.driver == "bridge":
                existed = links.find(self._host, plan.device) is not None
                self._indexes[plan.id] = links.make_bridge(self._host, plan)
                try:
                    if not plan.internal and self._forwarding.switch_on(ipv6=bool(plan.ipv6)):
                        self._write_notes()
                    self._firewall.add_network(plan)
                except BaseException:
                    del self._indexes[plan.id]
                    if not existed:
                        links.remove(self._host, plan.device)
                    if not self._passes_on():
                        self._stop_forwarding()
                    raise
            else:
                self._indexes[plan.id], made = links.parent_of(self._host, plan)
                existed = not made
                if made:
                    self._parents[plan.id] = made
            self._plans[plan.id] = plan
            return not existed

    def remove_network(self, plan: NetworkPlan, *, keep_device: bool = False) -> None:
        """Take away what was made for it.

        keep_device: the interface was there before the network
        Errors: SystemFailure.
        """
        with self._lock:
            self._plans.pop(plan.id, None)
            self._indexes.pop(plan.id, None)
            if plan.driver == "bridge":
                self._firewall.remove_network(plan.device)
                name = plan.device
            else:
                name = self._parents.pop(plan.id, plan.device or links.dummy_name(plan))
            try:
                if name and not keep_device:
                    links.remove(self._slow, name)
            except OSError as error:
                raise links.failure(error, "remove network") from error
            if not self._passes_on():
                self._stop_forwarding()

    # -- sandboxes ----------------------------------------------------------------------------------------------------

    def sandbox(self, endpoints: Sequence[EndpointPlan], owned: tuple[int, int] | None = None) -> Sandbox:
        """A network namespace with all endpoints up and their ports published.

        owned: descriptors of a user namespace and its network namespace to use instead; they belong to the sandbox
        Errors: NotFound (a network that was not created), InvalidParameter, SystemFailure; nothing stays then.
        """
        try:
            # without an endpoint it is rare, and no reason to keep others ready
            made = self._background.take() if owned is None and endpoints else sandbox.new(owned)
        except OSError as error:
            raise links.failure(error, "network namespace") from error
        try:
            for endpoint in endpoints:
                self.connect(made, endpoint)
        except BaseException:
            self.release(made)
            raise
        return made

    def connect(self, box: Sandbox, endpoint: EndpointPlan) -> None:
        """Add an endpoint.  Errors: as ``sandbox``."""
        if endpoint.id in box.endpoints:
            raise Conflict(f"endpoint {endpoint.id[:12]} is connected already")
        index = self._indexes.get(endpoint.network.id)
        if index is None:
            raise NotFound(f"network {endpoint.network.id[:12]} has not been created")
        attached = Attached(endpoint, endpoint.interface or box.free_interface(endpoint.network.prefix), 0)
        box.endpoints[endpoint.id] = attached
        try:
            attaching.attach(self._host, box, attached, index)
            attaching.configure(box, attached)
            if endpoint.rate is not None:
                limits.apply(self._host, box, attached, endpoint.rate, self.table)
            self._publishing.publish(attached)
        except BaseException as error:
            self.disconnect(box, endpoint.id)
            if isinstance(error, OSError):
                raise links.failure(error, "endpoint") from error
            raise

    def disconnect(self, box: Sandbox, endpoint_id: str) -> None:
        """Take an endpoint away, its ports too; an unknown one is no error.  Never raises."""
        attached = box.endpoints.pop(endpoint_id, None)
        if attached is None:
            return
        self._publishing.withdraw(attached)
        try:
            if attached.host_link:
                names = [attached.host_link, *limits.devices(attached)]
                self._slow.transact([rt.delete_link(0, name) for name in names])
            elif attached.index and box.namespace >= 0:
                box.routes.transact([rt.delete_link(attached.index)])
            if (attached.plan.gateway or attached.plan.gateway6) and box.namespace >= 0:
                attaching.route(box)
        except (OSError, CortenError) as error:
            logger.warning("endpoint %s is not quite gone: %s", endpoint_id[:12], error)

    def choose_gateway(self, box: Sandbox, gateway: str, gateway6: str) -> None:
        """Make two endpoints, by id, those that the default routes lead to; "" for none.  Errors: SystemFailure."""
        for endpoint_id, attached in box.endpoints.items():
            attached.plan = replace(attached.plan, gateway=endpoint_id == gateway, gateway6=endpoint_id == gateway6)
        try:
            attaching.route(box)
        except OSError as error:
            raise links.failure(error, "default route") from error

    def publish(self, box: Sandbox, endpoint_id: str, ports: Sequence[PortPlan]) -> None:
        """Have the published ports of an endpoint be these from now on.

        Errors: NotFound, InvalidParameter, SystemFailure; it has none then.
        """
        attached = box.endpoints.get(endpoint_id)
        if attached is None:
            raise NotFound(f"endpoint {endpoint_id[:12]} is not connected")
        self._publishing.withdraw(attached)
        attached.published = ()
        attached.plan = replace(attached.plan, ports=tuple(ports))
        self._publishing.publish(attached)

    def limit(self, box: Sandbox, endpoint_id: str, rate: RatePlan | None) -> None:
        """Change the limits of an endpoint.  Errors: NotFound, SystemFailure."""
        attached = box.endpoints.get(endpoint_id)
        if attached is None:
            raise NotFound(f"endpoint {endpoint_id[:12]} is not connected")
        try:
            limits.apply(self._host, box, attached, rate or RatePlan(), self.table)
        except OSError as error:
            raise links.failure(error, "limit") from error
        attached.plan = replace(attached.plan, rate=rate)

    def adopt(self, pid: int, endpoints: Sequence[EndpointPlan], published: dict[str, Sequence[Published]]) -> Sandbox:
        """The sandbox of a container that runs since before this daemon.

        Errors: SystemFailure when the process has ended.  Ports that somebody has taken meanwhile are logged.
        """
        try:
            box = sandbox.of_process(pid)
            known, addresses = rt.links(box.routes), rtroutes.addresses_by_link(box.routes)
        except OSError as error:
            raise links.failure(error, "adopt sandbox") from error
        for endpoint in endpoints:
            again = tuple(
                replace(plan, host_ports=(item.host_port, item.host_port))
                for plan, item in zip(endpoint.ports, published.get(endpoint.id, ()), strict=False)
            )
            attached = Attached(replace(endpoint, ports=again), "", 0)
            if not attaching.adopt(box, attached, known, addresses):
                logger.warning("endpoint %s has no interface any more", endpoint.id[:12])
                continue
            box.endpoints[endpoint.id] = attached
            with self._lock:
                self._adopted[limits.intermediate_name(endpoint.id)] = attached
            try:
                self._publishing.publish(attached)
            except CortenError as error:
                logger.error("ports of endpoint %s: %s", endpoint.id[:12], error)
        return box

    def _sweep(self) -> None:
        """Interfaces that hold back what comes out of endpoints: known again, or deleted with their endpoints."""
        with self._lock:
            adopted, self._adopted = self._adopted, {}
        for link in rt.links(self._host):
            if link.kind != "ifb" or link.alias != self.table:
                continue
            if link.name in adopted:
                adopted[link.name].intermediate = link.name
            else:
                self._host.transact([rt.delete_link(link.index)])

    def release(self, box: Sandbox) -> None:
        """Take a sandbox away; ports are free when this returns, the kernel's slow part follows.  Never raises."""
        for attached in box.endpoints.values():
            self._publishing.withdraw(attached)
        if box.endpoints:
            self._background.give_back(box)
        else:
            box.close()

    # -- the firewall, when others change it --------------------------------------------------------------------------

    def watch(self) -> socket.socket:
        """A socket that becomes readable when somebody changes the firewall; then call ``look_after``.

        Errors: OSError.
        """
        return self._watcher.socket

    def look_after(self) -> bool:
        """Read what has changed, without waiting; whether ``restore`` is needed."""
        return self._watcher.look()

    def restore(self) -> bool:
        """Put back what somebody has changed in the firewall's table; whether it was needed.  Errors: SystemFailure."""
        return self._firewall.restore()
