"""Containers in networks: start, end, connect, disconnect, a new daemon; the kernel's side only remembers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from network_fakes import Machine
from test_network_dns import question, read, values

from corten.dockerapi.container import EndpointIPAMConfig, EndpointSettings, NetworkRate, PortBinding
from corten.dockerapi.network import IPAM, IPAMConfig
from corten.engine.live import Live
from corten.errors import Conflict, CortenError, Forbidden, InvalidParameter, NotFound, SystemFailure
from corten.network import dns
from corten.network.plans import RatePlan

Scenario = Callable[[Machine], Awaitable[None]]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path).open()


@pytest.fixture
def run(machine: Machine) -> Callable[[Scenario], None]:
    """Run a scenario with two networks of users: back (10.1.0.0/24) and front (10.2.0.0/24)."""

    def go(scenario: Scenario) -> None:
        async def prepared() -> None:
            for name, subnet in (("back", "10.1.0.0/24"), ("front", "10.2.0.0/24")):
                await machine.network(name, ipam=IPAM(config=[IPAMConfig(subnet=subnet)]))
            try:
                await scenario(machine)
            finally:
                machine.endpoints.close()

        asyncio.run(prepared())

    return go


def ports(**bindings: str) -> dict[str, list[PortBinding] | None]:
    """tcp80="8080" for -p 8080:80."""
    return {f"{key[3:]}/{key[:3]}": [PortBinding(host_port=value)] for key, value in bindings.items()}


def address(live: Live, network: str) -> str:
    return live.container.networks[network].ipv4


async def ask(live: Live, machine: Machine, name: str, kind: int = dns.A) -> list[str] | None:
    """What the container's resolver says; None for an unknown name."""
    connected = machine.endpoints._connected[live.container.id]
    assert connected.resolver is not None
    answer, query = connected.resolver.answered(question(name, kind), 65535)
    if query is not None:
        return None
    assert read(answer)["code"] == dns.NO_ERROR
    return sorted(values(answer))


# -- create ---------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"mode": "nosuch"}, "network nosuch not found"),
    ({"mode": "bridge", "networks": {"host": None}}, "cannot be attached to 'host' and other networks"),
    ({"mode": "none", "networks": {"back": None}}, "cannot be attached to 'none' and other networks"),
    ({"mode": "container:x", "networks": {"back": None}}, "cannot attach both user-defined and non-user-defined"),
    ({"networks": {"bridge": EndpointSettings(aliases=["x"])}}, "only supported for user-defined networks"),
    (
        {"networks": {"bridge": EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="172.17.0.9"))}},
        "user specified IP address is supported on user defined networks only",
    ),
    (
        {
            "mode": "chosen",
            "networks": {"chosen": EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="172.19.0.9"))},
        },
        "user specified IP address is supported only when connecting to networks with user configured subnets",
    ),
    (
        {
            "mode": "back",
            "networks": {"back": EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.9.0.1"))},
        },
        "no configured subnet contains IP address 10.9.0.1",
    ),
    (
        {
            "mode": "back",
            "networks": {"back": EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="fd00::1"))},
        },
        "invalid IPv4 address: fd00::1",
    ),
    (
        {
            "mode": "back",
            "networks": {"back": EndpointSettings(ipam_config=EndpointIPAMConfig(ipv6_address="10.1.0.9"))},
        },
        "invalid IPv6 address: 10.1.0.9",
    ),
    (
        {"mode": "back", "networks": {"back": EndpointSettings(ipam_config=EndpointIPAMConfig(link_local_ips=["x"]))}},
        "link-local",
    ),
    ({"mode": "back", "networks": {"back": EndpointSettings(mac_address="02:42:x")}}, "invalid MAC address"),
    ({"mode": "back", "networks": {"back": EndpointSettings(mac_address="01:00:5e:00:00:01")}}, "invalid MAC address"),
    ({"mode": "back", "networks": {"back": EndpointSettings(mac_address="00:00:00:00:00:00")}}, "invalid MAC address"),
    ({"mode": "none", "networks": {"none": EndpointSettings(mac_address="02:42:00:00:00:01")}}, "MAC address cannot"),
    ({"mode": "back", "networks": {"back": EndpointSettings(driver_opts={"x": "y"})}}, "unknown option of an endpoint"),
    (
        {
            "mode": "back",
            "networks": {"back": EndpointSettings(driver_opts={"com.docker.network.endpoint.ifname": "a/b"})},
        },
        "invalid name of an interface",
    ),
    (
        {
            "mode": "back",
            "networks": {"back": EndpointSettings(driver_opts={"com.docker.network.endpoint.sysctls": "kernel.x=1"})},
        },
        "invalid sysctl",
    ),
    ({"mode": "back", "networks": {"BACKID": None}}, "network back is given twice"),
    ({"port_bindings": ports(tcp99999="1")}, "invalid port specification"),
    ({"port_bindings": ports(tcp80="70000")}, "invalid port specification"),
    ({"port_bindings": {"80/tcp": [PortBinding(host_ip="x")]}}, "invalid host IP address"),
    ({"links": ["nosuch:x"]}, "could not get container for nosuch: No such container: nosuch"),
    ({"network_rate": NetworkRate(ingress=5)}, "invalid network rate: ingress 5"),
    ({"network_rate": NetworkRate(egress=-5)}, "invalid network rate: egress -5"),
    ({"network_rate": NetworkRate(egress=5000, burst=-1)}, "burst"),
    ({"mode": "host", "network_rate": NetworkRate(egress=5000)}, "network rate cannot be used with network mode host"),
    ({"mode": "container:x", "network_rate": NetworkRate(egress=5000)}, "network rate cannot be used"),
]


@pytest.mark.parametrize(("wanted", "told"), REFUSED, ids=[told[:40] for _, told in REFUSED])
def test_what_cannot_be_created(run: Any, wanted: dict[str, Any], told: str) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.network("chosen")
        names = {"BACKID": machine.networks.find("back").id}
        networks = {names.get(key, key): value for key, value in (wanted.get("networks") or {}).items()}
        with pytest.raises(InvalidParameter, match=told):
            machine.container("web", **{**wanted, "networks": networks})
        assert not len(machine.index)

    run(scenario)


def test_an_administrators_own_network_mode_is_first(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        settings = EndpointSettings(aliases=["www"])
        live = machine.container("web", "back", {"front": None, "default": settings})
        assert list(live.container.networks) == ["back", "front"]
        assert live.container.networks["back"].settings.aliases == ["www"]

    run(scenario)


# -- start and end ---------------------------------------------------------------------


def test_a_start_and_an_end(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        live = machine.container("web", port_bindings=ports(tcp80="8080"))
        container = await machine.start(live)
        endpoint = container.networks["bridge"]
        [sandbox] = machine.plumbing.sandboxes
        plan = sandbox.endpoints[endpoint.id].plan
        assert (endpoint.ipv4, endpoint.gateway, endpoint.mac) == (
            "172.17.0.2/16",
            "172.17.0.1",
            "02:42:ac:11:00:02",
        )
        assert (plan.ipv4, plan.mac, plan.gateway) == (endpoint.ipv4, endpoint.mac, True)
        assert machine.plumbing.ports == {("tcp", "", 8080)}
        assert [item.host_port for item in endpoint.published] == [8080]
        assert machine.endpoints.namespaces(container) == sandbox.paths
        assert endpoint.document()["IPAddress"] == "172.17.0.2"
        await machine.stop(live)
        assert (endpoint.id, endpoint.ipv4, endpoint.published, endpoint.gateway) == ("", "", [], "")
        assert not machine.plumbing.sandboxes
        assert not machine.plumbing.ports
        assert machine.endpoints.namespaces(container) == {}
        assert machine.told[-2:] == ["network connect bridge", "network disconnect bridge"]
        counts = [
            line
            for line in machine.metrics.registry.text().decode().splitlines()
            if "network_actions_seconds_count" in line
        ]
        assert [line.rpartition("{")[2] for line in counts] == [
            'action="allocate"} 1',
            'action="connect"} 0',
            'action="release"} 1',
        ]

    run(scenario)


@pytest.mark.parametrize("mode", ["host", "none"])
def test_modes_without_a_sandbox(run: Any, mode: str) -> None:
    async def scenario(machine: Machine) -> None:
        live = machine.container("web", mode)
        container = await machine.start(live)
        assert not machine.plumbing.sandboxes
        assert container.networks[mode].id
        assert machine.told[-1] == f"network connect {mode}"
        await machine.stop(live)
        assert not container.networks[mode].id

    run(scenario)


@pytest.mark.parametrize("step", ["create_network", "connect", "publish"])
def test_a_failed_start_gives_everything_back(run: Any, step: str) -> None:
    async def scenario(machine: Machine) -> None:
        live = machine.container("web", "back", {"bridge": None}, port_bindings=ports(tcp80="8080"))
        machine.plumbing.fail[step] = SystemFailure("no", step="publish")
        with pytest.raises(SystemFailure) as caught:
            await machine.endpoints.attach(live)
        if step != "create_network":
            assert "driver failed programming external connectivity on endpoint web (" in str(caught.value)
        assert not machine.plumbing.sandboxes
        assert not machine.plumbing.ports
        assert not any(endpoint.id or endpoint.ipv4 for endpoint in live.container.networks.values())
        assert not any("connect" in line for line in machine.told)
        other = machine.container("other", "back", {"back": _static("10.1.0.2")})
        await machine.start(other)

    run(scenario)


def _static(ipv4: str = "", ipv6: str = "", **fields: Any) -> EndpointSettings:
    return EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address=ipv4, ipv6_address=ipv6), **fields)


def test_ports_that_are_taken(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        first = machine.container("one", port_bindings=ports(tcp80="8080"))
        second = machine.container("two", port_bindings=ports(tcp81="8080"))
        await machine.start(first)
        with pytest.raises(
            SystemFailure, match=r"endpoint two .*Bind for 0.0.0.0:8080 failed: port is already allocated"
        ):
            await machine.start(second)
        await machine.stop(first)
        await machine.start(second)

    run(scenario)


def test_addresses_that_are_taken(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        first = machine.container("one", "back", {"back": _static("10.1.0.9")})
        second = machine.container("two", "back", {"back": _static("10.1.0.9")})
        await machine.start(first)
        with pytest.raises(Forbidden, match="Address already in use"):
            await machine.start(second)
        assert not any(endpoint.id for endpoint in second.container.networks.values())
        await machine.stop(first)
        await machine.start(second)
        assert address(second, "back") == "10.1.0.9/24"

    run(scenario)


def test_a_full_network(tmp_path: Path) -> None:
    async def scenario() -> None:
        machine = Machine(tmp_path).open()
        await machine.network("tiny", ipam=IPAM(config=[IPAMConfig(subnet="10.3.0.0/30")]))
        first, second = machine.container("one", "tiny"), machine.container("two", "tiny")
        await machine.start(first)
        with pytest.raises(
            Forbidden, match=r"no available IPv4 addresses on this network's address pools: tiny \([0-9a-f]{64}\)"
        ):
            await machine.start(second)
        await machine.stop(first)
        await machine.start(second)
        machine.endpoints.close()

    asyncio.run(scenario())


def test_several_networks_and_priorities(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.network("closed", internal=True)
        wanted = {"back": None, "front": EndpointSettings(gw_priority=5), "closed": EndpointSettings(gw_priority=9)}
        live = machine.container("web", "bridge", wanted, port_bindings=ports(tcp80="8080"))
        await machine.start(live)
        [sandbox] = machine.plumbing.sandboxes
        plans = [attached.plan for attached in sandbox.endpoints.values()]
        assert plans[0].network.id == machine.networks.find("front").id, "the way out is eth0"
        assert [plan.gateway for plan in plans] == [True, False, False, False]
        assert [bool(plan.ports) for plan in plans] == [True, False, False, False]
        assert live.container.networks["closed"].gateway == "", "an internal network leads nowhere"

    run(scenario)


def test_every_wish_of_an_endpoint_reaches_the_kernel(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        options = {
            "com.docker.network.endpoint.ifname": "lan0",
            "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.mtu=1400",
        }
        settings = _static("10.1.0.77", mac_address="02-42-AA-BB-CC-DD", driver_opts=options)
        rate = NetworkRate(ingress=10_000, egress=20_000, burst=3)
        live = machine.container("web", "back", {"back": settings}, network_rate=rate)
        await machine.start(live)
        [attached] = machine.plumbing.sandboxes[0].endpoints.values()
        plan = attached.plan
        assert (plan.ipv4, plan.mac, plan.interface) == ("10.1.0.77/24", "02:42:aa:bb:cc:dd", "lan0")
        assert plan.sysctls == (("net.ipv4.conf.IFNAME.log_martians", "1"), ("net.ipv6.conf.IFNAME.mtu", "1400"))
        assert plan.rate == RatePlan(ingress=10_000, egress=20_000, burst=3)

    run(scenario)


def test_dual_stack_and_ipv6_alone(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.network("six", enable_ipv6=True, ipam=IPAM(config=[IPAMConfig(subnet="fd00:6::/64")]))
        await machine.network("only", enable_ipv4=False, ipam=IPAM(config=[IPAMConfig(subnet="fd00:7::/64")]))
        both = machine.container("both", "six", {"six": _static(ipv6="fd00:6::99")})
        await machine.start(both)
        document = both.container.networks["six"].document()
        assert (document["GlobalIPv6Address"], document["GlobalIPv6PrefixLen"]) == ("fd00:6::99", 64)
        assert document["IPv6Gateway"] == "fd00:6::1"
        assert document["IPAddress"]
        alone = machine.container("alone", "only", port_bindings=ports(tcp80="8080"))
        await machine.start(alone)
        [plan] = [attached.plan for attached in machine.plumbing.sandboxes[1].endpoints.values()]
        assert (plan.ipv4, plan.ipv6, plan.gateway, plan.gateway6) == ("", "fd00:7::2/64", False, True)
        assert plan.ports, "ports lead through IPv6 when there is nothing else"
        assert plan.mac.startswith("02:42:")

    run(scenario)


# -- rates ---------------------------------------------------------------------


def test_rates_change_while_it_runs(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        live = machine.container("web", "back", {"front": None})
        await machine.endpoints.limit(live.container, NetworkRate(egress=5000))
        assert machine.plumbing.limits == [], "it does not run"
        await machine.start(live)
        await machine.endpoints.limit(live.container, NetworkRate(egress=5000))
        identities = {endpoint.id for endpoint in live.container.networks.values()}
        assert {endpoint_id for endpoint_id, _ in machine.plumbing.limits} == identities
        assert [rate for _, rate in machine.plumbing.limits] == [RatePlan(egress=5000)] * 2
        await machine.endpoints.limit(live.container, NetworkRate())
        assert [rate for _, rate in machine.plumbing.limits[2:]] == [None, None]

    run(scenario)


# -- names ---------------------------------------------------------------------


def test_neighbours_are_found_by_all_their_names(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        web = machine.container("web", "back", {"back": EndpointSettings(aliases=["WWW", "all"])}, hostname="served")
        other = machine.container("other", "back", {"back": EndpointSettings(aliases=["all"])})
        stranger = machine.container("stranger", "front")
        for live in (web, other, stranger):
            await machine.start(live)
        own = address(web, "back").partition("/")[0]
        for name in ("web", "www", "served", "Web", web.container.id[:12], "web.back", "served.back"):
            assert await ask(other, machine, name) == [own], name
        assert await ask(other, machine, "all") == sorted(
            item.partition("/")[0] for item in (own, address(other, "back"))
        )
        assert await ask(other, machine, "web", dns.AAAA) == []
        assert await ask(other, machine, f"{'.'.join(reversed(own.split('.')))}.in-addr.arpa", dns.PTR) == ["web.back"]
        for name in ("web", "web.back"):
            assert await ask(stranger, machine, name) is None, "another network"
        assert await ask(other, machine, "stranger") is None
        await machine.stop(web)
        assert await ask(other, machine, "web") is None
        assert await ask(other, machine, "all") == [address(other, "back").partition("/")[0]]

    run(scenario)


def test_the_default_network_has_no_names(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        live = machine.container("web")
        await machine.start(live)
        assert machine.endpoints._connected[live.container.id].resolver is None
        assert "127.0.0.11" not in machine.file(live, "resolv.conf").read_text()

    run(scenario)


def test_the_resolver_answers_on_its_sockets(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        live = machine.container("web", "back")
        await machine.start(live)
        [(resolver, port, target)] = machine.plumbing.sandboxes[0].redirects
        assert (resolver, port) == ("127.0.0.11", 53)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", target))
            await loop.sock_sendall(client, question("web"))
            answer = await asyncio.wait_for(loop.sock_recv(client, 512), 5)
        assert values(answer) == [address(live, "back").partition("/")[0]]

    run(scenario)


def test_a_renamed_container_is_found_under_its_new_name(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        live = machine.container("web", "back")
        await machine.start(live)
        machine.index.rename(live, "new")
        machine.endpoints.renamed(live.container)
        assert await ask(live, machine, "new")
        assert live.container.networks["back"].document()["DNSNames"][0] == "new"
        live.container.config.hostname = "h"
        machine.endpoints.renamed(live.container)
        assert await ask(live, machine, "web") is None

    run(scenario)


def test_links_of_a_users_network_are_names_of_one_container(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        store = machine.container("db", "back")
        await machine.start(store)
        live = machine.container("web", "back", {"back": EndpointSettings(links=["db:store"])})
        other = machine.container("other", "back")
        for one in (live, other):
            await machine.start(one)
        assert await ask(live, machine, "store") == [address(store, "back").partition("/")[0]]
        assert await ask(other, machine, "store") is None

    run(scenario)


# -- connect and disconnect ---------------------------------------------------------------------


def test_connect_while_it_runs(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        neighbour, live = machine.container("db", "back"), machine.container("web", hostname="served")
        for one in (neighbour, live):
            await machine.start(one)
        await machine.endpoints.connect(live, "back", _static("10.1.0.50", aliases=["late"]))
        assert address(live, "back") == "10.1.0.50/24"
        assert await ask(neighbour, machine, "late") == ["10.1.0.50"]
        assert await ask(live, machine, "db") == [address(neighbour, "back").partition("/")[0]]
        assert "10.1.0.50\tserved\n" in machine.file(live, "hosts").read_text()
        assert "nameserver 127.0.0.11\n" in machine.file(live, "resolv.conf").read_text()
        assert machine.told[-1] == "network connect back"
        await machine.endpoints.disconnect(live, "back")
        assert list(live.container.networks) == ["bridge"]
        assert await ask(neighbour, machine, "late") is None
        assert "10.1.0.50" not in machine.file(live, "hosts").read_text()
        assert "172.17.0.2\tserved\n" in machine.file(live, "hosts").read_text()
        await machine.start(machine.container("next", "back", {"back": _static("10.1.0.50")}))

    run(scenario)


def test_a_file_that_the_container_has_changed_is_its_own(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        live = machine.container("web")
        await machine.start(live)
        machine.file(live, "resolv.conf").write_text("nameserver 192.0.2.1\n")
        hosts = machine.file(live, "hosts")
        before = hosts.stat().st_ino
        hosts.write_text(hosts.read_text() + "192.0.2.7 mine\n")
        await machine.endpoints.connect(live, "back", EndpointSettings())
        assert machine.file(live, "resolv.conf").read_text() == "nameserver 192.0.2.1\n"
        assert "192.0.2.7 mine\n" in hosts.read_text()
        assert hosts.stat().st_ino == before, "the container sees this file, and no other one"
        hosts.unlink()
        other = machine.file(live, "other")
        other.write_text("10.1.0.2\tweb\n")
        hosts.symlink_to(other)
        await machine.endpoints.disconnect(live, "back")
        assert other.read_text() == "10.1.0.2\tweb\n", "a link is not followed"

    run(scenario)


def test_connect_and_disconnect_while_it_does_not_run(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        live = machine.container("web")
        await machine.endpoints.connect(live, "back", _static("10.1.0.50"))
        assert not machine.plumbing.sandboxes
        await machine.start(live)
        assert address(live, "back") == "10.1.0.50/24"
        await machine.stop(live)
        await machine.endpoints.disconnect(live, "bridge")
        await machine.start(live)
        assert list(live.container.networks) == ["back"]

    run(scenario)


def test_what_was_connected_is_connected_again_after_a_restart(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        live = machine.container("web")
        await machine.start(live)
        await machine.endpoints.connect(live, "back", EndpointSettings(aliases=["again"]))
        await machine.stop(live)
        await machine.start(live)
        assert set(live.container.networks) == {"bridge", "back"}
        assert await ask(live, machine, "again")

    run(scenario)


def test_ports_move_with_the_way_out(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        live = machine.container("web", "back", {"front": None}, port_bindings=ports(tcp80="8080", tcp81=""))
        await machine.start(live)
        networks = live.container.networks
        before = {(item.port, item.host_port) for item in networks["back"].published}
        assert len(before) == 2
        assert machine.plumbing.ports == {("tcp", "", port) for _, port in before}
        await machine.endpoints.disconnect(live, "back")
        assert machine.plumbing.gateways == (networks["front"].id, "")
        assert 8080 in {item.host_port for item in networks["front"].published}
        assert len(machine.plumbing.ports) == 2
        await machine.endpoints.connect(live, "back", EndpointSettings(gw_priority=7))
        assert machine.plumbing.gateways == (networks["back"].id, "")
        assert networks["front"].published == []
        assert {item.port for item in networks["back"].published} == {80, 81}
        assert len(machine.plumbing.ports) == 2

    run(scenario)


def test_random_ports_stay_the_same_when_they_move(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        blocker = machine.container("blocker", port_bindings=ports(tcp80=""))
        live = machine.container("web", "back", port_bindings=ports(tcp80=""))
        for one in (blocker, live):
            await machine.start(one)
        [before] = live.container.networks["back"].published
        await machine.stop(blocker)
        await machine.endpoints.connect(live, "front", EndpointSettings(gw_priority=7))
        [after] = live.container.networks["front"].published
        assert after.host_port == before.host_port

    run(scenario)


def test_a_container_that_leaves_none(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        live = machine.container("web", "none")
        with pytest.raises(NotFound):
            await machine.endpoints.connect(live, "nosuch", EndpointSettings())
        with pytest.raises(InvalidParameter):
            await machine.endpoints.connect(live, "back", _static("10.9.9.9"))
        assert list(live.container.networks) == ["none"], "what fails changes nothing"
        await machine.endpoints.connect(live, "back", EndpointSettings())
        assert list(live.container.networks) == ["back"]

    run(scenario)


@pytest.mark.parametrize("step", ["connect", "choose_gateway", "publish"])
def test_a_failed_connect_gives_everything_back(run: Any, step: str) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.network("closed", internal=True)
        live = machine.container("web", "closed", port_bindings=ports(tcp80="8080"))
        await machine.start(live)
        machine.plumbing.fail[step] = SystemFailure("no", step=step)
        with pytest.raises(SystemFailure):
            await machine.endpoints.connect(live, "back", _static("10.1.0.50"))
        assert list(live.container.networks) == ["closed"]
        assert len(machine.plumbing.sandboxes[0].endpoints) == 1
        assert not machine.plumbing.ports
        assert await ask(live, machine, "web.back") is None
        await machine.endpoints.connect(live, "back", _static("10.1.0.50"))
        assert machine.plumbing.ports == {("tcp", "", 8080)}, "there is a way out now"

    run(scenario)


CANNOT: list[tuple[str, str, type[CortenError], str]] = [
    ("bridge", "host", Forbidden, "container cannot be connected to host network"),
    ("host", "back", Forbidden, "cannot be connected to any other network"),
    ("container:other", "back", Forbidden, "cannot be connected to any other network"),
    ("bridge", "none", Forbidden, "private"),
    ("back", "back", Forbidden, "endpoint with name web already exists in network back"),
    ("none", "back", Forbidden, "private"),
    ("bridge", "nosuch", NotFound, "network nosuch not found"),
]


@pytest.mark.parametrize(("mode", "network", "kind", "told"), CANNOT)
def test_what_cannot_be_connected(run: Any, mode: str, network: str, kind: type[CortenError], told: str) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.start(machine.container("other"))
        live = machine.container("web", mode)
        if not mode.startswith("container:"):
            await machine.start(live)
        before = list(live.container.networks)
        with pytest.raises(kind, match=told):
            await machine.endpoints.connect(live, network, EndpointSettings())
        assert list(live.container.networks) == before

    run(scenario)


def test_what_cannot_be_disconnected(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        live, bare = machine.container("web"), machine.container("bare", "host")
        with pytest.raises(Forbidden, match="is not connected to network back"):
            await machine.endpoints.disconnect(live, "back")
        with pytest.raises(NotFound):
            await machine.endpoints.disconnect(live, "nosuch")
        with pytest.raises(Conflict, match="cannot be disconnected from host network"):
            await machine.endpoints.disconnect(bare, "host")

    run(scenario)


def test_a_rearrangement_that_fails_does_not_undo_a_disconnect(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(machine: Machine) -> None:
        live = machine.container("web", "back", {"front": None})
        await machine.start(live)
        machine.plumbing.fail["choose_gateway"] = SystemFailure("no", step="route")
        await machine.endpoints.disconnect(live, "back")
        assert list(live.container.networks) == ["front"]

    run(scenario)
    assert "after a disconnect: no" in caplog.text


# -- links of the default network ---------------------------------------------------------------------


def test_links(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        store = machine.container("db", exposed={"5432/tcp": {}, "53/udp": {}}, hostname="dbhost")
        store.container.config.env = ["SECRET=x", "PATH=/bin"]
        web = machine.container("web", links=["db:my-store"])
        with pytest.raises(Conflict, match="Cannot link to a non running container: /db AS /web/my-store"):
            machine.endpoints.files(web.container)
        await machine.start(store)
        await machine.start(web)
        assert "172.17.0.2\tmy-store dbhost db\n" in machine.file(web, "hosts").read_text()
        assert machine.endpoints.links.environment(web.container) == [
            "MY_STORE_NAME=/web/my-store",
            "MY_STORE_PORT=udp://172.17.0.2:53",
            "MY_STORE_PORT_53_UDP=udp://172.17.0.2:53",
            "MY_STORE_PORT_53_UDP_ADDR=172.17.0.2",
            "MY_STORE_PORT_53_UDP_PORT=53",
            "MY_STORE_PORT_53_UDP_PROTO=udp",
            "MY_STORE_PORT_5432_TCP=tcp://172.17.0.2:5432",
            "MY_STORE_PORT_5432_TCP_ADDR=172.17.0.2",
            "MY_STORE_PORT_5432_TCP_PORT=5432",
            "MY_STORE_PORT_5432_TCP_PROTO=tcp",
            "MY_STORE_ENV_SECRET=x",
        ]
        # the other one comes back at another address: this one goes on finding it
        await machine.stop(store)
        await machine.start(store)
        assert address(store, "bridge") == "172.17.0.4/16"
        text = machine.file(web, "hosts").read_text()
        assert "172.17.0.4\tmy-store dbhost db\n" in text
        assert "172.17.0.2\t" not in text

    run(scenario)


# -- a new daemon ---------------------------------------------------------------------


def test_the_next_daemon_goes_on_with_what_runs(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        live = machine.container("web", "back", {"front": None}, port_bindings=ports(tcp80="8080"))
        await machine.start(live)
        before = [endpoint.document() for endpoint in live.container.networks.values()]
        again = machine.again()
        [adopted] = list(again.index)
        await again.endpoints.adopt([adopted])
        try:
            assert [endpoint.document() for endpoint in adopted.container.networks.values()] == before
            assert again.plumbing.sandboxes[-1].pid == 4711
            assert [item.host_port for item in adopted.container.networks["back"].published] == [8080]
            assert await ask(adopted, again, "web")
            second = again.container("two", "back")
            await again.start(second)
            assert address(second, "back") != address(adopted, "back")
            with pytest.raises(Forbidden, match="Address already in use"):
                await again.start(again.container("three", "back", {"back": _static(before[0]["IPAddress"])}))
        finally:
            again.endpoints.close()

    run(scenario)


def test_one_whose_network_is_damaged_does_not_keep_the_others(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(machine: Machine) -> None:
        bad, good = machine.container("bad", "front"), machine.container("good", "back")
        for live in (bad, good):
            await machine.start(live)
        again = machine.again()
        del again.networks._records[again.networks.find("front").id]
        await again.endpoints.adopt(list(again.index))
        assert good.container.id in again.endpoints._connected
        assert bad.container.id not in again.endpoints._connected
        again.endpoints.close()

    run(scenario)
    assert "is not as it was: network front not found" in caplog.text


def test_a_start_that_nobody_finished_holds_nothing(run: Any) -> None:
    async def scenario(machine: Machine) -> None:
        live = machine.container("web", "back", {"back": _static("10.1.0.9")})
        await machine.endpoints.attach(live)
        machine.endpoints.forget(live.container)
        assert not live.container.networks["back"].id
        await machine.start(machine.container("other", "back", {"back": _static("10.1.0.9")}))

    run(scenario)
