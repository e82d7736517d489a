"""A host and a machine beside it, for tests of networks.

A network namespace of the test's own is the host; another is a machine beside it.  Nothing of the real host changes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from corten.linux import rtnetlink as rt
from corten.linux import rtroutes
from corten.linux.netlink import NETLINK_ROUTE, Connection
from corten.network import namespaces as ns
from corten.network.links import mac_of
from corten.network.plans import EndpointPlan, NetworkPlan, PortPlan, Subnet
from corten.network.plumbing import Plumbing
from corten.network.sandbox import Sandbox

HOST, NEIGHBOUR = "10.99.0.1", "10.99.0.2"
HOST6, NEIGHBOUR6 = "fd99::1", "fd99::2"


def network(number: int = 30, **options) -> NetworkPlan:
    values = {
        "id": f"{number:x}" * 32,
        "device": f"br-{number}",
        "ipv4": (Subnet(f"172.{number}.0.0/16", f"172.{number}.0.1"),),
    }
    return NetworkPlan(**(values | options))


def endpoint(plan: NetworkPlan, last: int, *ports: PortPlan, **options) -> EndpointPlan:
    prefix = plan.ipv4[0].subnet.removesuffix(".0.0/16")
    address = f"{prefix}.0.{last}"
    values = {
        "id": f"{plan.device[-2:]}{last:02d}" * 16,
        "network": plan,
        "mac": mac_of(address),
        "ipv4": f"{address}/16",
        "ports": ports,
    }
    return EndpointPlan(**(values | options))


class Place:
    """A network namespace, and programs in it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def do(self, work):
        return ns.run_in(self.descriptor, work)

    def serve(self, port: int, answer: bytes, family: int = socket.AF_INET) -> list[str]:
        """Answer every connection; the list gets the addresses that they come from."""

        def listen() -> socket.socket:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
            sock.listen(8)
            return sock

        listener = self.do(listen)
        OPEN.append(listener)
        seen: list[str] = []

        def run() -> None:
            while True:
                try:
                    connection, peer = listener.accept()
                except OSError:
                    return
                seen.append(peer[0])
                with connection, contextlib.suppress(OSError):
                    connection.sendall(answer)

        threading.Thread(target=run, daemon=True).start()
        return seen

    def ask(self, address: str, port: int, timeout: float = 20.0) -> bytes | None:
        """What a server says; None when nobody can be reached (on a busy machine packets are sent again)."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def connect() -> bytes | None:
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.settimeout(timeout)
                try:
                    sock.connect((address, port))
                    return sock.recv(100)
                except OSError:
                    return None

        return self.do(connect)

    def cannot_reach(self, address: str, port: int) -> bool:
        return self.ask(address, port, 0.4) is None


OPEN: list[socket.socket] = []


class Lan:
    """A host and a machine beside it."""

    def __init__(self, directory: Path) -> None:
        self.host, self.neighbour = Place(ns.run_in_new(ns.current)), Place(ns.run_in_new(ns.current))
        self.directory = directory
        self.boxes: list[Sandbox] = []
        self.plumbing = self.host.do(lambda: self._wire() or Plumbing(directory=directory))

    def _wire(self) -> None:
        for place in (self.host, self.neighbour):
            place.do(lambda: ns.write_sysctl("net.ipv6.conf.all.disable_ipv6", "0"))
        connection = Connection(NETLINK_ROUTE)
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            ns.write_sysctl(name, "0")  # a new namespace begins with what the machine has
        connection.transact([rt.set_up(1)])
        connection.transact([rt.new_bridge("lan", mac="02:99:00:00:00:01")])
        index = next(link.index for link in rt.links(connection) if link.name == "lan")
        veth = rt.new_veth("ext0", index, self.neighbour.descriptor, peer="eth0", mac="02:99:00:00:00:02")
        connection.transact(
            [veth, rtroutes.add_address(index, f"{HOST}/24"), rtroutes.add_address(index, f"{HOST6}/64")]
        )
        connection.close()

        def other() -> None:
            inside = Connection(NETLINK_ROUTE)
            index = next(link.index for link in rt.links(inside) if link.name == "eth0")
            inside.transact([rt.set_up(1), rt.set_up(index)])
            inside.transact(
                [rtroutes.add_address(index, f"{NEIGHBOUR}/24"), rtroutes.add_address(index, f"{NEIGHBOUR6}/64")]
            )
            inside.transact([rtroutes.set_default_route(4, HOST, index), rtroutes.set_default_route(6, HOST6, index)])
            inside.close()

        self.neighbour.do(other)

    def create(self, plan: NetworkPlan) -> NetworkPlan:
        self.host.do(lambda: self.plumbing.create_network(plan))
        return plan

    def box(self, *endpoints: EndpointPlan):
        made = self.host.do(lambda: self.plumbing.sandbox(endpoints))
        self.boxes.append(made)
        return made, Place(made.namespace)

    def links(self) -> set[str]:
        def names() -> set[str]:
            connection = Connection(NETLINK_ROUTE)
            try:
                return {link.name for link in rt.links(connection)}
            finally:
                connection.close()

        return self.host.do(names)

    def nft(self, *words: str) -> str:
        return self.host.do(lambda: subprocess.run(["nft", *words], capture_output=True, text=True, check=True).stdout)

    def close(self) -> None:
        for sock in OPEN:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        OPEN.clear()
        for box in self.boxes:
            if box.namespace >= 0:
                self.plumbing.release(box)
        self.host.do(self.plumbing.close)
        os.close(self.host.descriptor)
        os.close(self.neighbour.descriptor)


def forwarding(lan: Lan) -> str:
    return lan.host.do(lambda: Path("/proc/sys/net/ipv4/ip_forward").read_text().strip())


def make_pair(*names: str) -> None:
    connection = Connection(NETLINK_ROUTE)
    connection.transact([rt.new_pair(*names)])
    connection.transact([rt.set_up(link.index) for link in rt.links(connection) if link.name in names])
    connection.close()


def needs_links(lan: Lan, *kinds: str) -> None:
    """Skip where the kernel lacks a kind of interface."""
    for kind in kinds:
        more = ["id", "9"] if kind == "vlan" else []
        words = ["ip", "link", "add", "link", "lan", "name", "probe", "type", kind, *more]
        made = lan.host.do(lambda words=words: subprocess.run(words, capture_output=True, text=True, check=False))
        if "Unknown device type" in made.stderr:
            pytest.skip(f"this kernel has no {kind} interfaces")
        lan.host.do(lambda: subprocess.run(["ip", "link", "del", "probe"], check=True))
