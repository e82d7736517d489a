"""Networks as nouns: create, find, describe, remove, over a kernel that only remembers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from network_fakes import FakePlumbing, Machine

from corten.dockerapi.network import IPAM, ConfigReference, IPAMConfig, NetworkCreate
from corten.errors import (
    Conflict,
    CortenError,
    Forbidden,
    InvalidParameter,
    NotFound,
    NotImplementedYet,
    SystemFailure,
)

PREDEFINED = {"bridge", "host", "none"}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path).open()


def ipam(*subnets: str, **fields: Any) -> IPAM:
    return IPAM(config=[IPAMConfig(subnet=subnet, **fields) for subnet in subnets])


def names(machine: Machine) -> set[str]:
    return {record.name for record in machine.networks.all()}


def subnets(machine: Machine, name: str) -> list[str]:
    return [item.subnet for item in machine.networks.find(name).ipam.config]


# -- the default network ---------------------------------------------------------------------


def test_a_machine_begins_with_three_networks(machine: Machine) -> None:
    documents = {document["Name"]: document for document in asyncio.run(machine.networks.list({}))}
    assert set(documents) == PREDEFINED
    assert {name: documents[name]["Driver"] for name in PREDEFINED} == {
        "bridge": "bridge",
        "host": "host",
        "none": "null",
    }
    bridge = documents["bridge"]
    assert bridge["IPAM"]["Config"] == [{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]
    assert bridge["Options"]["com.docker.network.bridge.default_bridge"] == "true"
    assert bridge["Options"]["com.docker.network.bridge.name"].startswith("corten-")
    assert not machine.plumbing.networks, "nothing is made before a container needs it"


def test_the_default_network_stays_over_restarts(machine: Machine) -> None:
    before = machine.networks.find("bridge")
    again = machine.again()
    assert again.networks.find("bridge").id == before.id
    assert subnets(again, "bridge") == ["172.17.0.0/16"]


def test_a_subnet_that_is_somebody_elses_by_now_is_given_up(machine: Machine) -> None:
    machine.host = ["172.17.3.0/24"]
    assert subnets(machine.again(), "bridge") == ["172.18.0.0/16"]


def test_not_while_containers_have_it(machine: Machine) -> None:
    asyncio.run(machine.start(machine.container("web")))
    machine.host = ["172.17.3.0/24"]
    assert subnets(machine.again(), "bridge") == ["172.17.0.0/16"]


def test_without_a_default_network(tmp_path: Path) -> None:
    machine = Machine(tmp_path, bridge="none").open()
    assert names(machine) == {"host", "none"}
    with pytest.raises(NotFound):
        machine.networks.find("bridge")
    assert names(machine.again(bridge="")) == PREDEFINED


def test_the_flags_of_the_default_network(tmp_path: Path) -> None:
    machine = Machine(
        tmp_path, bridge="mybr0", bip="10.9.0.5/24", fixed_cidr="10.9.0.128/25", ipv6=True, fixed_cidr_v6="fd09::/64",
        mtu=1400, icc=False, ip="127.0.0.1", ip_masq=False,
    ).open()  # fmt: skip
    record = machine.networks.find("bridge")
    plan = record.plan()
    assert (plan.device, plan.mtu, plan.icc, plan.masquerade) == ("mybr0", 1400, False, False)
    assert [(item.subnet, item.gateway) for item in plan.ipv4] == [("10.9.0.0/24", "10.9.0.5")]
    assert [(item.subnet, item.gateway) for item in plan.ipv6] == [("fd09::/64", "fd09::1")]
    assert record.host_binding == "127.0.0.1"
    assert machine.networks.allocators(record)[0].take("a") == "10.9.0.128/24"
    assert machine.networks.host_gateway == "10.9.0.5"
    assert machine.again(host_gateway_ip="192.0.2.9").networks.host_gateway == "192.0.2.9"


def test_ipv6_of_the_default_network_is_this_machines_own(tmp_path: Path) -> None:
    machine = Machine(tmp_path, ipv6=True).open()
    [_, second] = subnets(machine, "bridge")
    assert second.startswith("fd")
    assert second.endswith("/64")
    assert subnets(machine.again(), "bridge")[1] == second


# -- create ---------------------------------------------------------------------


def test_a_network_is_made_and_told(machine: Machine) -> None:
    identity = asyncio.run(machine.network("back", labels={"a": "b"}))
    document = asyncio.run(machine.networks.inspect("back"))
    assert document["Id"] == identity
    assert document["IPAM"] == {
        "Driver": "default",
        "Options": {},
        "Config": [{"Subnet": "172.19.0.0/16", "Gateway": "172.19.0.1"}],
    }, "172.18.0.0/16 is the host's"
    assert (document["Labels"], document["Scope"], document["Containers"]) == ({"a": "b"}, "local", {})
    [plan] = machine.plumbing.networks.values()
    assert plan.device == f"br-{identity[:12]}"
    assert machine.told == ["network create back"]
    assert machine.again().networks.find("back").id == identity


def test_everything_that_can_be_asked_for(machine: Machine) -> None:
    config = IPAMConfig(
        subnet="10.5.0.7/24", ip_range="10.5.0.64/26", gateway="10.5.0.254", auxiliary_addresses={"router": "10.5.0.70"}
    )
    request = NetworkCreate(
        name="back", ipam=IPAM(config=[config, IPAMConfig(subnet="fd05::/64")]), internal=True, attachable=True,
        options={
            "com.docker.network.bridge.name": "mine0", "com.docker.network.driver.mtu": "1400",
            "com.docker.network.bridge.enable_icc": "false", "com.docker.network.bridge.enable_ip_masquerade": "false",
        },
    )  # fmt: skip
    asyncio.run(machine.networks.create(request))
    document = asyncio.run(machine.networks.inspect("back"))
    assert document["EnableIPv6"]
    assert document["IPAM"]["Config"] == [
        {
            "Subnet": "10.5.0.0/24",
            "IPRange": "10.5.0.64/26",
            "Gateway": "10.5.0.254",
            "AuxiliaryAddresses": {"router": "10.5.0.70"},
        },
        {"Subnet": "fd05::/64", "Gateway": "fd05::1"},
    ]
    plan = machine.networks.find("back").plan()
    assert (plan.device, plan.mtu, plan.icc, plan.masquerade, plan.internal) == ("mine0", 1400, False, False, True)
    pool = machine.networks.allocators(machine.networks.find("back"))[0]
    assert [pool.take(str(number)) for number in range(7)][-2:] == ["10.5.0.69/24", "10.5.0.71/24"]


def test_gateway_modes(machine: Machine) -> None:
    mode, inhibit = "com.docker.network.bridge.gateway_mode_ipv", "com.docker.network.bridge.inhibit_ipv4"
    cases: dict[str, tuple[dict[str, str], bool, tuple[tuple[int, ...], ...]]] = {
        "usual": ({f"{mode}4": "nat"}, False, ((), (), ())),
        "mixed": ({f"{mode}4": "routed", f"{mode}6": "nat-unprotected"}, False, ((), (4,), (6,))),
        "closed": ({f"{mode}4": "isolated", f"{mode}6": "isolated"}, True, ((4, 6), (), ())),
        "bare": ({inhibit: "true"}, False, ((4,), (), ())),
    }
    for name, (options, internal, expected) in cases.items():
        asyncio.run(machine.network(name, options=options, internal=internal))
        plan = machine.networks.find(name).plan()
        assert (plan.bare, plan.routed, plan.open) == expected


def test_dual_stack_without_wishes(machine: Machine) -> None:
    asyncio.run(machine.network("six", enable_ipv6=True))
    first, second = subnets(machine, "six")
    assert first == "172.19.0.0/16"
    assert second.startswith("fd")
    asyncio.run(machine.network("only", enable_ipv4=False, enable_ipv6=True))
    [only] = subnets(machine, "only")
    assert only.startswith("fd")
    assert only != second


def test_options_of_all_networks_of_a_driver(tmp_path: Path) -> None:
    mtu = "com.docker.network.driver.mtu"
    machine = Machine(tmp_path, default_network_opts={"bridge": {mtu: "1300"}}).open()
    asyncio.run(machine.network("one"))
    asyncio.run(machine.network("two", options={mtu: "1200"}))
    assert [machine.networks.find(name).plan().mtu for name in ("one", "two")] == [1300, 1200]


def test_configuration_only_networks(machine: Machine) -> None:
    async def scenario() -> None:
        base = NetworkCreate(name="base", config_only=True, ipam=ipam("10.7.0.0/24"), labels={"x": "1"})
        await machine.networks.create(base)
        assert not machine.plumbing.networks
        await machine.network("real", config_from=ConfigReference(network="base"))
        assert subnets(machine, "real") == ["10.7.0.0/24"]
        document = await machine.networks.inspect("real")
        assert (document["ConfigFrom"], document["Labels"]) == ({"Network": "base"}, {})
        with pytest.raises(Forbidden, match="configuration network 'base' is in use"):
            await machine.networks.remove("base")
        with pytest.raises(InvalidParameter, match="configuration-only"):
            machine.container("web", "base")
        with pytest.raises(Forbidden, match="real is not a configuration network"):
            await machine.network("other", config_from=ConfigReference(network="real"))
        with pytest.raises(Forbidden, match="config-only network"):
            await machine.network("other", config_from=ConfigReference(network="base"), ipam=ipam("10.8.0.0/24"))
        await machine.networks.remove("real")
        await machine.networks.remove("base")

    asyncio.run(scenario())


def test_macvlan_has_the_hosts_subnet(machine: Machine) -> None:
    async def scenario() -> None:
        options = {"parent": "eth9", "macvlan_mode": "private"}
        await machine.network("lan", driver="macvlan", options=options, ipam=ipam("192.168.16.0/20"))
        plan = machine.networks.find("lan").plan()
        assert (plan.driver, plan.device, plan.mode) == ("macvlan", "eth9", "private")
        with pytest.raises(Forbidden, match="Pool overlaps"):
            await machine.network("lan2", driver="macvlan", options=options, ipam=ipam("192.168.16.0/24"))

    asyncio.run(scenario())


REFUSED: list[tuple[dict[str, Any], type[CortenError], str]] = [
    ({"name": ""}, InvalidParameter, "name is empty"),
    ({"name": "a/b"}, InvalidParameter, "invalid name"),
    ({"name": "-x"}, InvalidParameter, "invalid name"),
    ({"name": "host"}, Forbidden, "operation is not permitted on predefined host network"),
    ({"name": "bridge"}, Forbidden, "predefined bridge network"),
    ({"name": "back"}, Conflict, "network with name back already exists"),
    ({"driver": "nosuch"}, NotFound, 'plugin "nosuch" not found'),
    ({"driver": "host"}, Forbidden, 'only one instance of "host" network is allowed'),
    ({"driver": "null"}, Forbidden, 'only one instance of "null" network is allowed'),
    ({"scope": "swarm"}, InvalidParameter, "swarm"),
    ({"ingress": True}, NotImplementedYet, "ingress"),
    ({"ipam": IPAM(driver="dhcp")}, InvalidParameter, "dhcp"),
    ({"ipam": ipam("10.5.0.0/24")}, Forbidden, "Pool overlaps with other one on this address space"),
    ({"ipam": ipam("192.168.20.0/24")}, Forbidden, "Pool overlaps"),  # a route of the host's
    ({"ipam": ipam("172.17.0.0/24")}, Forbidden, "Pool overlaps"),  # the default network's
    ({"ipam": ipam("10.8.0.0/24", "10.8.0.128/25")}, Forbidden, "Pool overlaps"),
    ({"ipam": ipam("10.8.0.0/33")}, InvalidParameter, "invalid CIDR"),
    ({"ipam": ipam("10.8.0.0/24", gateway="10.9.0.1")}, InvalidParameter, "no matching subnet"),
    ({"ipam": ipam("10.8.0.0/24", ip_range="10.9.0.0/25")}, InvalidParameter, "ip-range"),
    ({"ipam": ipam("", gateway="10.9.0.1")}, InvalidParameter, "a subnet is needed"),
    ({"enable_ipv4": False}, InvalidParameter, "IPv4 or IPv6 must be enabled"),
    ({"enable_ipv4": False, "enable_ipv6": True, "ipam": ipam("10.8.0.0/24")}, InvalidParameter, "not enabled"),
    ({"options": {"nosuch": "x"}}, InvalidParameter, "nosuch"),
    ({"options": {"com.docker.network.driver.mtu": "x"}}, InvalidParameter, "mtu"),
    ({"options": {"com.docker.network.bridge.enable_icc": "perhaps"}}, InvalidParameter, "perhaps"),
    ({"options": {"com.docker.network.bridge.inhibit_ipv4": "perhaps"}}, InvalidParameter, "perhaps"),
    ({"options": {"com.docker.network.bridge.gateway_mode_ipv4": "x"}}, InvalidParameter, "unknown gateway mode 'x'"),
    ({"options": {"com.docker.network.bridge.gateway_mode_ipv6": "isolated"}}, InvalidParameter, "internal network"),
    ({"options": {"com.docker.network.container_iface_prefix": "a/b"}}, InvalidParameter, "name of an interface"),
    ({"options": {"com.docker.network.container_iface_prefix": "x" * 13}}, InvalidParameter, "name of an interface"),
    ({"ipam": ipam("10.8.0.0")}, InvalidParameter, "invalid CIDR"),
    ({"ipam": ipam("10.8.0.0/32")}, InvalidParameter, "No available addresses"),
    ({"config_from": ConfigReference(network="nosuch")}, NotFound, "network nosuch not found"),
]


@pytest.mark.parametrize(("fields", "kind", "told"), REFUSED, ids=lambda part: str(part)[:50])
def test_what_is_refused_leaves_nothing(
    machine: Machine, fields: dict[str, Any], kind: type[CortenError], told: str
) -> None:
    asyncio.run(machine.network("back", ipam=ipam("10.5.0.0/24")))
    with pytest.raises(kind, match=told):
        asyncio.run(machine.network(**{"name": "more", **fields}))
    assert names(machine) == PREDEFINED | {"back"}
    assert len(machine.plumbing.networks) == 1
    assert names(machine.again()) == PREDEFINED | {"back"}


def test_a_kernel_that_refuses_leaves_nothing(machine: Machine) -> None:
    machine.plumbing.fail["create_network"] = SystemFailure("no", step="bridge")
    with pytest.raises(SystemFailure):
        asyncio.run(machine.network("back"))
    assert names(machine) == names(machine.again()) == PREDEFINED
    asyncio.run(machine.network("back"))
    assert subnets(machine, "back") == ["172.19.0.0/16"], "the subnet is free again"


def test_all_subnets_are_used_up(tmp_path: Path) -> None:
    machine = Machine(tmp_path, default_address_pools=(("10.20.0.0/22", 24),)).open()

    async def scenario() -> None:
        for number in range(3):
            await machine.network(f"n{number}")
        with pytest.raises(InvalidParameter, match="all predefined address pools have been fully subnetted"):
            await machine.network("more")
        await machine.networks.remove("n1")
        await machine.network("more")
        assert subnets(machine, "more") == ["10.20.2.0/24"]

    asyncio.run(scenario())


def test_many_are_made_at_once(machine: Machine) -> None:
    async def scenario() -> None:
        done = await asyncio.gather(
            *(machine.network(f"n{number % 8}") for number in range(16)), return_exceptions=True
        )
        assert sum(isinstance(item, Conflict) for item in done) == 8
        found = [subnets(machine, f"n{number}")[0] for number in range(8)]
        assert len(set(found)) == 8

    asyncio.run(scenario())


# -- find ---------------------------------------------------------------------


def test_by_id_name_and_prefix(machine: Machine) -> None:
    identity = asyncio.run(machine.network("back"))
    for reference in (identity, "back", identity[:12], identity[:6]):
        assert machine.networks.find(reference).id == identity
    for reference in ("", "nosuch", "bac"):
        with pytest.raises(NotFound, match=f"network {reference} not found"):
            machine.networks.find(reference)


def test_a_name_comes_before_a_prefix_and_prefixes_may_be_ambiguous(machine: Machine) -> None:
    async def scenario() -> None:
        identities = [await machine.network(f"n{number}") for number in range(20)]
        first = {identity[0] for identity in identities}
        doubled = next(digit for digit in first if sum(identity[0] == digit for identity in identities) > 1)
        with pytest.raises(InvalidParameter, match=f"network {doubled} is ambiguous"):
            machine.networks.find(doubled)
        identity = await machine.network(doubled)
        assert machine.networks.find(doubled).id == identity

    asyncio.run(scenario())


FILTERS: list[tuple[dict[str, list[str]], set[str]]] = [
    ({}, PREDEFINED | {"back", "front"}),
    ({"driver": ["bridge"]}, {"bridge", "back", "front"}),
    ({"driver": ["null", "host"]}, {"none", "host"}),
    ({"type": ["custom"]}, {"back", "front"}),
    ({"type": ["builtin"]}, PREDEFINED),
    ({"name": ["ack"]}, {"back"}),
    ({"label": ["kind"]}, {"back", "front"}),
    ({"label": ["kind=a"]}, {"back"}),
    ({"label": ["kind=a", "kind=b"]}, set()),
    ({"scope": ["local"]}, PREDEFINED | {"back", "front"}),
    ({"scope": ["swarm"]}, set()),
    ({"dangling": ["true"]}, {"front"}),
    ({"dangling": ["false"]}, PREDEFINED | {"back"}),
    ({"driver": ["bridge"], "label": ["kind=b"]}, {"front"}),
]


@pytest.mark.parametrize(("filters", "found"), FILTERS, ids=[str(filters) for filters, _ in FILTERS])
def test_filters(machine: Machine, filters: dict[str, list[str]], found: set[str]) -> None:
    async def scenario() -> None:
        await machine.network("back", labels={"kind": "a"})
        await machine.network("front", labels={"kind": "b"})
        machine.container("web", "back")
        assert {document["Name"] for document in await machine.networks.list(filters)} == found
        identity = machine.networks.find("back").id
        assert [each["Name"] for each in await machine.networks.list({"id": [identity[:10]]})] == ["back"]

    asyncio.run(scenario())


@pytest.mark.parametrize("filters", [{"nosuch": ["1"]}, {"type": ["x"]}, {"dangling": ["perhaps"]}], ids=str)
def test_bad_filters(machine: Machine, filters: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidParameter, match="invalid filter"):
        asyncio.run(machine.networks.list(filters))


# -- remove ---------------------------------------------------------------------


def test_remove_takes_it_off_the_host(machine: Machine) -> None:
    async def scenario() -> None:
        await machine.network("back")
        await machine.networks.remove("back")
        assert machine.told == ["network create back", "network destroy back"]

    asyncio.run(scenario())
    assert not machine.plumbing.networks
    assert not machine.plumbing.devices
    assert names(machine.again()) == PREDEFINED


@pytest.mark.parametrize("name", sorted(PREDEFINED))
def test_the_predefined_stay(machine: Machine, name: str) -> None:
    with pytest.raises(Forbidden, match=f"{name} is a pre-defined network and cannot be removed"):
        asyncio.run(machine.networks.remove(name))


def test_one_that_containers_run_in_stays(machine: Machine) -> None:
    async def scenario() -> None:
        await machine.network("back")
        live = machine.container("web", "back")
        await machine.start(live)
        with pytest.raises(Forbidden, match=r"error while removing network: network back id [0-9a-f]{64} has active"):
            await machine.networks.remove("back")
        await machine.stop(live)
        await machine.networks.remove("back")
        with pytest.raises(NotFound, match="network back not found"):
            await machine.start(live)

    asyncio.run(scenario())


def test_one_that_a_container_is_about_to_run_in_stays(machine: Machine) -> None:
    """Between the sandbox and the running program there are milliseconds."""

    async def scenario() -> None:
        await machine.network("back")
        live = machine.container("web", "back")
        await machine.endpoints.attach(live)
        with pytest.raises(Forbidden, match="has active endpoints"):
            await machine.networks.remove("back")
        await machine.endpoints.detach(live)
        await machine.networks.remove("back")

    asyncio.run(scenario())


def test_a_device_of_the_administrator_is_left(machine: Machine) -> None:
    machine.plumbing.devices.add("br7")
    asyncio.run(machine.network("back", options={"com.docker.network.bridge.name": "br7"}))
    asyncio.run(machine.networks.remove("back"))
    assert machine.plumbing.devices == {"br7"}


def test_prune(machine: Machine) -> None:
    async def scenario() -> None:
        for name in ("used", "old", "kept"):
            await machine.network(name, labels={"keep": "1"} if name == "kept" else {})
        await machine.network("form", config_only=True)
        machine.container("web", "used")
        assert await machine.networks.prune({"label!": ["keep"]}) == {"NetworksDeleted": ["old"]}
        assert names(machine) == PREDEFINED | {"used", "kept", "form"}
        assert await machine.networks.prune({"until": ["1h"]}) == {"NetworksDeleted": None}
        with pytest.raises(InvalidParameter):
            await machine.networks.prune({"nosuch": ["x"]})
        assert machine.told[-1] == "network prune"

    asyncio.run(scenario())


# -- the end ---------------------------------------------------------------------


def test_what_nobody_runs_in_goes_with_the_daemon(machine: Machine) -> None:
    async def scenario() -> None:
        await machine.network("back")
        await machine.network("idle")
        await machine.start(machine.container("web", "back"))
        await machine.networks.close(["back"])

    asyncio.run(scenario())
    assert {plan.device for plan in machine.plumbing.networks.values()} == {machine.networks.find("back").plan().device}
    assert machine.plumbing.closed


def test_the_next_daemon_takes_off_what_a_killed_one_left(machine: Machine) -> None:
    asyncio.run(machine.network("back"))
    assert machine.plumbing.devices
    again = machine.again()
    asyncio.run(again.networks.close([]))
    assert not machine.plumbing.devices
    assert again.networks.find("back"), "the network itself is kept"


def test_a_network_comes_back_when_it_is_needed(machine: Machine) -> None:
    asyncio.run(machine.network("back"))
    asyncio.run(machine.networks.close([]))
    assert not machine.plumbing.networks
    again = machine.again()
    asyncio.run(again.start(again.container("web", "back")))
    assert len(again.plumbing.networks) == 1


def test_a_firewall_that_cannot_be_watched_is_no_end(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        machine.networks.watch(asyncio.get_running_loop())

    asyncio.run(scenario())
    assert "changes of the firewall cannot be watched" in caplog.text


def test_the_fake_is_like_the_real_one() -> None:
    """What the engine calls has the same parameters on both."""
    import inspect

    from corten.network.plumbing import Plumbing

    for name in (
        "create_network remove_network has_device sandbox connect disconnect publish choose_gateway limit recovering "
        "adopt release watch close"
    ).split():
        real = inspect.signature(getattr(Plumbing, name)).parameters.values()
        fake = inspect.signature(getattr(FakePlumbing, name)).parameters.values()
        assert [(each.name, each.kind) for each in real] == [(each.name, each.kind) for each in fake], name
