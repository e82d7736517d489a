"""The network commands of one client against dockerd and against us, in the same order: the answers are the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import Daemon, Dockerd, Engine, OwnHost

pytestmark = [pytest.mark.needs("docker", "dockerd", "busybox", "nf_tables")]

SLEEP = ("busybox", "sleep", "1000")
FIRST = "{{range .IPAM.Config}}{{.Subnet}} {{.IPRange}} {{.Gateway}} {{.AuxiliaryAddresses}} {{end}}"

# "!" where only the exit code is the same: newer dockerds say it in other words than Debian's
COMMANDS = [
    "network ls --format {{.Name}}:{{.Driver}}:{{.Scope}}",
    "network create --subnet 10.5.0.0/24 --gateway 10.5.0.254 --ip-range 10.5.0.128/25 --aux-address a=10.5.0.200 back",
    f"network inspect back --format {FIRST}",
    "network create --attachable --internal --label kind=shown --label bare inside",
    "network inspect inside --format {{.Internal}}:{{.Attachable}}:{{.Labels}}:{{.Driver}}:{{.EnableIPv6}}",
    "network create --ipv6 --subnet 10.6.0.0/24 --subnet fd00:6::/64 --gateway fd00:6::1 both",
    f"network inspect both --format {{{{.EnableIPv6}}}}{FIRST}",
    "network create --subnet 10.6.7.8/24 both2 !",
    "network create --subnet 10.5.0.128/25 over !",
    "network create --subnet 10.7.0.0/24 --gateway 10.8.0.1 out",
    "network create --subnet 10.7.0.0/24 --ip-range 10.8.0.0/25 out",
    "network create --subnet 10.7.0.0/24 --aux-address a=10.8.0.1 out",
    "network create --gateway 10.7.0.1 out",
    "network create --subnet 10.7.0.0 out !",
    "network create --subnet 10.7.0.0/32 out !",
    "network create back",
    "network create host",
    "network create -d host again",
    "network create -d null again",
    "network create -d macvlan -o parent=lo again",
    "network create -d macvlan -o macvlan_mode=nosuch again",
    "network create -d nosuch again !",
    "network create --ipam-driver nosuch again !",
    "network create --config-only form",
    "network create --config-from form made",
    "network inspect form made --format {{.ConfigOnly}}:{{.ConfigFrom.Network}}",
    "network rm form !",
    "network create -o com.docker.network.container_iface_prefix=net -o com.docker.network.driver.mtu=1400 named",
    "run --rm --network named busybox cat /sys/class/net/net0/mtu",
    "network create -o com.docker.network.bridge.host_binding_ipv4=127.0.0.1 bound",
    f"run -d --name local --network bound -p 8055:80 {' '.join(SLEEP)}",
    "port local",
    "ps --filter name=local --format {{.Ports}}",
    f"run -d --name one --network back --ip 10.5.0.130 --network-alias uno {' '.join(SLEEP)}",
    f"run -d --name two {' '.join(SLEEP)}",
    "network connect --alias dos back two",
    "network connect back two",
    "network connect nosuch two",
    "network connect back nosuch",
    "network connect host two !",
    "network connect --ip 10.5.0.130 both two !",
    "network connect --ip 10.5.0.200 inside two !",
    "network connect --ip6 fd00:6::99 both two",
    "inspect two --format {{with .NetworkSettings.Networks.both}}{{.GlobalIPv6Address}}:{{.IPAddress}}{{end}}",
    "exec two ping -c 1 -W 5 -q uno -s 1 !",
    "exec one ping -c 1 -W 5 -q dos !",
    "exec two ip -o -4 addr show scope global up dev eth1 !",
    "network inspect back --format {{len .Containers}}",
    "network rm back !",
    "network disconnect back two",
    "network disconnect back two !",
    "network disconnect -f back nosuch",
    "network disconnect -f nosuch nosuch",
    "network disconnect nosuch two !",
    "run --rm --network back --ip 10.5.0.130 busybox true",
    "run --rm --network back --ip 10.5.0.254 busybox true",
    "run --rm --network back --ip 10.99.0.1 busybox true !",
    "run --rm --ip 172.17.0.99 busybox true",
    "run --rm --network-alias x busybox true !",
    "run --rm --network container:one busybox hostname -i",
    "run --rm --network container:one -p 80:80 busybox true",
    "run --rm --network container:one --dns 192.0.2.1 busybox true",
    "run --rm --network host -p 80:80 busybox true",
    "run --rm --network none busybox ls /sys/class/net",
    "run --rm --network back --dns 192.0.2.1 --dns-search x.test --dns-option ndots:3 busybox wc -l /etc/resolv.conf",
    "run --rm --add-host a:192.0.2.7 busybox grep 192.0.2.7 /etc/hosts",
    "run --rm -p 192.0.2.7:80:80 busybox true !",
    "run --rm -p 8055:80 busybox true !",
    "run -d --name range -p 8100-8102:80-82/udp busybox sleep 1000",
    "port range",
    "port range 81/udp",
    "port range 81/tcp",
    "ps --filter name=range --format {{.Ports}}",
    "network ls --filter label=kind=shown --format {{.Name}}",
    "network ls --filter name=bo --format {{.Name}}",
    "network ls --filter driver=null --format {{.Name}}",
    "network ls --filter type=builtin --format {{.Name}}",
    "network ls --filter type=nosuch !",
    "network rm bridge",
    "network rm nosuch",
    "rm -f one two local range",
    "network prune -f --filter label=kind=other",
    "network rm inside",
    "network rm back both both2 named bound made form !",
    "network ls --format {{.Name}}",
]


@pytest.fixture
def pair(tmp_path: Path, busybox_tar: Path, cgroup_parent: str) -> Iterator[tuple[Dockerd, Daemon]]:
    """Each on a host of its own, so that both find the same subnets free."""
    hosts = [OwnHost(tmp_path / name) for name in ("theirs", "ours")]
    dockerd, daemon = Dockerd(tmp_path / "dockerd", host=hosts[0]), Daemon(tmp_path / "corten", host=hosts[1])
    try:
        for engine in (dockerd, daemon):
            engine.start()
            engine.import_busybox(busybox_tar)
        yield dockerd, daemon
        for engine in (dockerd, daemon):
            engine.remove_containers()
    finally:
        for engine in (dockerd, daemon):
            engine.stop()
        for host in hosts:
            host.close()


def masked(text: str) -> str:
    return re.sub(r"\b[0-9a-f]{12}(?:[0-9a-f]{52})?\b", "<id>", text)


def answer(engine: Engine, command: str) -> tuple[int, str, str]:
    done = engine.docker(*command.removesuffix(" !").split(" "), check=False)
    return done.returncode, masked(done.stdout), masked(done.stderr)


def test_the_commands_answer_alike(pair: tuple[Dockerd, Daemon]) -> None:
    different = []
    for command in COMMANDS:
        theirs, ours = (answer(engine, command) for engine in pair)
        compared = 1 if command.endswith(" !") else 3
        if theirs[:compared] != ours[:compared]:
            different.append(f"{command}\n  dockerd: {theirs}\n  corten:  {ours}")
    assert not different, "\n".join(different)
