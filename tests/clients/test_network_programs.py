"""Networks as Debian's programs see them from inside of containers: iperf3, dig, curl, redis.

The image is made of the machine's own packages: the programs and the libraries that they load.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import Daemon
from machine import BUSYBOX

pytestmark = [pytest.mark.needs("docker", "busybox", "nf_tables", "iperf3", "dig", "curl", "redis-cli")]

# in Debian one file is the server and its checker, by the name that it is called
PROGRAMS = {
    "iperf3": "iperf3", "dig": "dig", "curl": "curl", "redis-cli": "redis-cli", "redis-server": "redis-check-rdb",
}  # fmt: skip


@pytest.fixture(scope="module")
def programs(networked: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    archive = tmp_path_factory.mktemp("programs") / "image.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(BUSYBOX, "bin/sh")
        directory = tarfile.TarInfo("tmp")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(directory)
        for name, file in PROGRAMS.items():
            path = Path(shutil.which(file) or "").resolve()
            tar.add(path, f"bin/{name}")
            loaded = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
            for library in re.findall(r"(/\S+) \(0x", loaded):
                tar.add(Path(library).resolve(), library.removeprefix("/"))
    networked.docker("import", "-c", "ENV PATH=/bin", str(archive), "programs")
    networked.docker("network", "create", "--ipv6", "--subnet", "10.198.0.0/24", "--subnet", "fd98::/64", "tools")
    yield "tools"
    networked.remove_containers()
    networked.docker("network", "rm", "tools")
    networked.docker("rmi", "programs")


@pytest.fixture(autouse=True)
def no_containers(networked: Daemon) -> Iterator[None]:
    yield
    networked.remove_containers()


def run(daemon: Daemon, *words: str, network: str = "tools") -> str:
    return daemon.docker("run", "--rm", "--network", network, "programs", *words, timeout=90).stdout


def until(daemon: Daemon, name: str, *words: str) -> None:
    """Wait for a command in a container to succeed."""
    deadline = time.monotonic() + 30
    while daemon.docker("exec", name, *words, check=False).returncode:
        assert time.monotonic() < deadline, words
        time.sleep(0.05)


def test_dig(networked: Daemon, programs: str) -> None:
    def dig(*words: str) -> list[str]:
        return sorted(run(networked, "dig", "+short", "+tries=1", "+time=10", *words).split())

    for name in ("one", "two"):
        words = ("run", "-d", "--name", name, "--network", programs, "--network-alias", "all")
        networked.docker(*words, "busybox", "sleep", "999")
    networked.docker("network", "create", "apart")
    networked.docker("run", "-d", "--name", "stranger", "--network", "apart", "busybox", "sleep", "999")
    found = {name: networked.inspect(name)["NetworkSettings"]["Networks"]["tools"] for name in ("one", "two")}
    four = sorted(item["IPAddress"] for item in found.values())
    six = sorted(item["GlobalIPv6Address"] for item in found.values())
    assert dig("all") == dig("all.tools") == dig("+tcp", "ALL") == dig("+bufsize=4096", "all", "A") == four
    assert dig("all", "AAAA") == six
    assert dig("-x", found["one"]["IPAddress"]) == dig("-x", found["one"]["GlobalIPv6Address"]) == ["one.tools."]
    assert dig("one", "MX") == []
    full = run(networked, "dig", "+tries=1", "+time=10", "one")
    assert "status: NOERROR" in full
    assert "SERVER: 127.0.0.11#53" in full
    networked.docker("network", "create", "--internal", "closed")
    try:
        closed = run(networked, "dig", "+tries=1", "+time=10", "stranger", network="closed")
        assert "status: NXDOMAIN" in closed, "names of other networks are nobody's business"
    finally:
        networked.docker("rm", "-f", "stranger")
        networked.docker("network", "rm", "apart", "closed")


def test_redis_and_curl(networked: Daemon, programs: str) -> None:
    words = ("run", "-d", "--name", "db", "--network", programs, "-p", "6379")
    networked.docker(*words, "programs", "redis-server", "--save", "", "--protected-mode", "no")
    ask = ("redis-cli", "-h", "db", "--raw")
    until(networked, "db", *ask, "ping")
    assert run(networked, *ask, "set", "key", "kept") == "OK\n"
    assert run(networked, *ask, "get", "key") == "kept\n"
    port = networked.docker("port", "db", "6379").stdout.split()[-1].rpartition(":")[2]
    # the same server through the host: from a stranger by the gateway of his network, and by itself
    gateway = networked.inspect("db")["NetworkSettings"]["Networks"]["tools"]["Gateway"]
    through = ("redis-cli", "-h", gateway, "-p", port, "get", "key")
    assert run(networked, *through) == networked.docker("exec", "db", *through).stdout == "kept\n"
    request = ("curl", "-s", "-g", "--http0.9", "--data", "x")
    for address in ("127.0.0.1", "[::1]"):
        done = networked.run([*request, f"http://{address}:{port}/"], check=False)
        assert done.returncode in (0, 52), f"{address}: redis closes what is no redis: {done}"


def test_iperf3_and_a_rate(networked: Daemon, programs: str) -> None:
    networked.docker("run", "-d", "--name", "server", "--network", programs, "programs", "iperf3", "-s")

    def rate(*words: str) -> float:
        """Bytes a second that have arrived."""
        measure = ("iperf3", "-c", "server", "-t", "2", "-O", "1", "-J", *words)
        report = json.loads(run(networked, *measure))
        assert "error" not in report, report
        return (report["end"].get("sum_received") or report["end"]["sum"])["bits_per_second"] / 8

    until(networked, "server", "sh", "-c", "grep -q :1451 /proc/net/tcp6")
    assert rate() > 10e6
    assert rate("-6") > 10e6
    assert rate("-u", "-b", "8M") > 0.5e6
    networked.corten("update", "--network-rate", "ingress=2000000", "server")
    assert rate() < 2.2e6, "kept within a tenth"
    assert networked.inspect("server")["HostConfig"]["NetworkRate"]["Ingress"] == 2_000_000
    networked.corten("update", "--network-rate", "0", "server")
    assert rate() > 10e6
