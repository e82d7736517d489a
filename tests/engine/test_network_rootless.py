"""Networks of an ordinary user, from outside and from inside: pasta, slirp4netns, neither."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from network_support import HOST, NEIGHBOUR, OPEN, Lan

from corten.linux import rtnetlink as rt
from corten.linux import rtroutes
from corten.linux.netlink import NETLINK_ROUTE, Connection

pytestmark = [pytest.mark.needs("nf_tables", "userns", "tun")]

UID = 54321
PROGRAM = Path(__file__).with_name("rootless_host.py")


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    made = Lan(tmp_path)

    def world() -> None:
        connection = Connection(NETLINK_ROUTE)
        index = next(link.index for link in rt.links(connection) if link.name == "lan")
        connection.transact([rt.set_up(index)])
        connection.transact([rtroutes.set_default_route(4, NEIGHBOUR, index)])
        connection.close()

    made.host.do(world)
    yield made
    made.close()


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that the user can reach, other than those of tests."""
    with tempfile.TemporaryDirectory() as name:
        shutil.chown(name, UID, UID)
        yield Path(name)


class User:
    """An ordinary user of the host, with a container."""

    def __init__(self, lan: Lan, home: Path, *programs: str) -> None:
        (home / "bin").mkdir()
        for name in programs:
            (home / "bin" / name).symlink_to(shutil.which(name) or "")
        command = [sys.executable, str(PROGRAM), str(home), str(UID)]
        self.process = lan.host.do(
            lambda: subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={"PATH": f"{home}/bin"},
            )
        )
        self.facts = self._hear()

    def _hear(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def do(self, *words: object) -> Any:
        assert self.process.stdin is not None
        print(json.dumps(words), file=self.process.stdin, flush=True)
        return self._hear()

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(20)


@pytest.fixture
def resolver(lan: Lan) -> None:
    """Somebody who answers questions on the host's loopback."""

    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.53", 53))
        return sock

    sock = lan.host.do(listen)
    OPEN.append(sock)

    def run() -> None:
        while True:
            try:
                question, peer = sock.recvfrom(512)
            except OSError:
                return
            if not question:
                return  # shut down
            sock.sendto(b"answer to " + question, peer)

    threading.Thread(target=run, daemon=True).start()


def datagram(lan: Lan, address: str, port: int) -> bytes:
    def ask() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(5)
            sock.connect((address, port))
            sock.send(b"?")
            return sock.recv(100)

    return lan.host.do(ask)


@pytest.mark.parametrize("program", ["pasta", "slirp4netns"])
@pytest.mark.usefixtures("resolver")
def test_a_users_container_reaches_the_world_and_is_reached(lan: Lan, home: Path, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    user = User(lan, home, program)
    facts = user.facts
    assert (facts["program"], facts["lacking"]) == (program, "")
    port = facts["ports"]["tcp"]
    for place, address in ((lan.host, "127.0.0.1"), (lan.host, HOST), (lan.neighbour, HOST), (lan.host, "::1")):
        assert place.ask(address, port) == b"172.31.0.1", "the other side is the gateway, never the container itself"
    assert datagram(lan, "127.0.0.1", facts["ports"]["udp"]) == b"172.31.0.1"
    seen = lan.neighbour.serve(90, b"world")
    assert user.do("ask", "tcp", NEIGHBOUR, 90) == "world"
    assert seen == [HOST]
    lan.host.serve(91, b"of the host's loopback")
    assert user.do("ask", "tcp", "127.0.0.1", 91) == ""
    for gateway in (NEIGHBOUR, "10.0.2.2"):
        assert user.do("ask", "tcp", gateway, 91, "", 0.5) == "", "the way out does not lead to the host's loopback"
    search, server = facts["resolv_conf"].splitlines()
    assert search == "search example.test"
    assert user.do("ask", "udp", server.removeprefix("nameserver "), 53, "name") == "answer to name"
    assert user.end() == 0
    assert lan.host.cannot_reach("127.0.0.1", port)
    assert not (home / "uplink.json").exists()


def test_ports_of_a_user_that_are_taken_or_forbidden(lan: Lan, home: Path) -> None:
    lan.host.serve(8080, b"host")
    user = User(lan, home)
    wanted = {"protocol": "tcp", "port": 80, "host_ports": (8080, 8080)}
    assert user.do("publish", wanted) == "SystemFailure: Bind for 0.0.0.0:8080 failed: port is already allocated"
    assert user.do("publish", wanted | {"host_ports": (80, 80)}) == (
        "SystemFailure: Bind for 0.0.0.0:80 failed: permission denied"
    )
    assert "sctp" in user.do("publish", wanted | {"protocol": "sctp"})
    assert user.do("publish", wanted | {"host_ports": (8081, 8081), "host_address": "127.0.0.1"}) == ""
    assert user.end() == 0


def test_without_a_program_it_is_told_and_nothing_goes_out(lan: Lan, home: Path) -> None:
    user = User(lan, home)
    assert user.facts["lacking"] == (
        "networks without root have no way out: neither pasta (package passt) nor slirp4netns is installed"
    )
    lan.neighbour.serve(90, b"world")
    assert user.do("ask", "tcp", NEIGHBOUR, 90) == ""
    assert user.end() == 0
