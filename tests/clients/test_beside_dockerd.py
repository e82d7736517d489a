"""A running dockerd and ours on one host: neither breaks the other's networks, and nothing of ours stays."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import Daemon, Dockerd, Engine, OwnHost

pytestmark = [pytest.mark.needs("docker", "dockerd", "busybox", "nf_tables", "iptables", "curl")]

HOST, NEIGHBOUR = "192.0.2.1", "192.0.2.2"
SERVE = "mkdir /w && hostname > /w/index.html && exec httpd -f -p 80 -h /w"


class Lan:
    """A host, and a machine beside it."""

    def __init__(self, directory: Path) -> None:
        self.host, self.neighbour = OwnHost(directory / "host"), OwnHost(directory / "neighbour")
        self.on(
            self.host, "ip", "link", "add", "lan", "type", "veth", "peer", "name", "eth0", "netns", self.neighbour.pid
        )
        for place, device, address in ((self.host, "lan", HOST), (self.neighbour, "eth0", NEIGHBOUR)):
            self.on(place, "ip", "addr", "add", f"{address}/24", "dev", device)
            self.on(place, "ip", "link", "set", device, "up")
        # dockerd lets its firewall drop what it does not know when it has switched this on itself
        self.on(self.host, "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
        self.on(self.neighbour, "ip", "route", "add", "default", "via", HOST)

    @staticmethod
    def on(place: OwnHost, *command: str) -> str:
        return subprocess.run([*place.enter, *command], capture_output=True, text=True, check=True).stdout

    def ask(self, place: OwnHost, address: str, port: int, wait_s: float = 15) -> str:
        """A page as it is seen from a place, "" when nobody answers in time."""
        deadline = time.monotonic() + wait_s
        while True:
            words = ["curl", "-s", "--max-time", "2", f"http://{address}:{port}/"]
            done = subprocess.run([*place.enter, *words], capture_output=True, text=True, check=False)
            if done.returncode == 0 or time.monotonic() > deadline:
                return done.stdout.strip()
            time.sleep(0.05)

    def close(self) -> None:
        self.host.close()
        self.neighbour.close()


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    made = Lan(tmp_path)
    yield made
    made.close()


def serve(engine: Engine, name: str, port: int) -> None:
    engine.docker("run", "-d", "--name", name, "-h", name, "-p", f"{port}:80", "busybox", "sh", "-c", SERVE)


def test_side_by_side(lan: Lan, tmp_path: Path, busybox_tar: Path, cgroup_parent: str) -> None:
    theirs, ours = Dockerd(tmp_path / "theirs", host=lan.host), Daemon(tmp_path / "ours", host=lan.host)
    try:
        for engine in (theirs, ours):
            engine.start()
            engine.import_busybox(busybox_tar)
        serve(ours, "first", 8001)
        assert lan.ask(lan.neighbour, HOST, 8001) == "first"
        serve(theirs, "docker", 8002)
        serve(ours, "second", 8003)
        expected = {8001: "first", 8002: "docker", 8003: "second"}
        for port, name in expected.items():
            assert lan.ask(lan.neighbour, HOST, port) == name, "beside a policy that drops"
            assert lan.ask(lan.host, "127.0.0.1", port) == name
        through = ("run", "--rm", "busybox", "wget", "-qO-")
        for engine in (theirs, ours):
            for port, name in expected.items():
                assert engine.docker(*through, f"http://{HOST}:{port}/").stdout.strip() == name
        subnets = {
            engine.docker("network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Subnet}}").stdout
            for engine in (theirs, ours)
        }
        assert len(subnets) == 2
        done = ours.docker("run", "--name", "third", "-p", "8002:80", "busybox", "true", check=False)
        assert "port is already allocated" in done.stderr
        ours.docker("network", "create", "mine")
        rules = lan.on(lan.host, "iptables-save")
        ours.remove_containers()
        ours.docker("network", "rm", "mine")
        ours.stop()
        after = lan.on(lan.host, "iptables-save")
        assert "corten" in rules
        assert "corten" not in after
        assert ":FORWARD DROP" in rules
        assert ":FORWARD DROP" in after
        assert lan.ask(lan.neighbour, HOST, 8002) == "docker"
        assert "corten" not in lan.on(lan.host, "nft", "list", "tables")
    finally:
        for engine in (ours, theirs):
            if engine.answers():
                engine.remove_containers()
            engine.stop()
