"""``corten network`` and what ``run`` says of networks: from words to documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from corten import config
from corten.cli import flags
from corten.cli.commands import network
from corten.cli.options.rate import read_rate
from corten.errors import InvalidParameter


def subnets(*words: str) -> list[dict[str, Any]]:
    options, _ = flags.parse(network.CREATE.flags, [*words, "name"], interspersed=True)
    return network.subnets(options)


def test_ranges_and_gateways_go_with_their_subnet() -> None:
    assert subnets(
        *("--subnet", "10.1.0.0/16", "--subnet", "fd00::/64", "--gateway", "fd00::9", "--gateway", "10.1.0.9"),
        *("--ip-range", "10.1.5.0/24", "--aux-address", "a=10.1.0.3", "--aux-address", "b=fd00::3"),
    ) == [
        {
            "Subnet": "10.1.0.0/16",
            "Gateway": "10.1.0.9",
            "IPRange": "10.1.5.0/24",
            "AuxiliaryAddresses": {"a": "10.1.0.3"},
        },
        {"Subnet": "fd00::/64", "Gateway": "fd00::9", "AuxiliaryAddresses": {"b": "fd00::3"}},
    ]
    assert subnets() == []


@pytest.mark.parametrize(
    "words",
    [
        ("--gateway", "10.1.0.9"),
        ("--subnet", "10.1.0.0/16", "--gateway", "10.2.0.9"),
        ("--subnet", "10.1.0.0/16", "--gateway", "10.1.0.8", "--gateway", "10.1.0.9"),
        ("--subnet", "10.1.0.0/16", "--ip-range", "10.0.0.0/8"),
        ("--subnet", "10.1.0.0/16", "--aux-address", "x=10.2.0.1"),
        ("--subnet", "x", "--gateway", "10.1.0.9"),
    ],
)
def test_what_lies_in_no_subnet(words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidParameter):
        subnets(*words)


@pytest.mark.parametrize(
    ("text", "ingress", "egress", "burst"),
    [
        ("10m", 10 << 20, 10 << 20, 0),
        ("0", 0, 0, 0),
        ("1.5MiB/s", 3 << 19, 3 << 19, 0),
        ("100mbit", 12_500_000, 12_500_000, 0),
        ("8 kbit", 1000, 1000, 0),
        ("ingress=1gbit,egress=512k,burst=64k", 125_000_000, 512 << 10, 64 << 10),
        ("egress=2048", 0, 2048, 0),
    ],
)
def test_rates(text: str, ingress: int, egress: int, burst: int) -> None:
    assert read_rate(text) == {"Ingress": ingress, "Egress": egress, "Burst": burst}


@pytest.mark.parametrize("text", ["", "x", "10x", "-5", "up=5", "ingress", "ingress=x", "ingress=5,", "5mbits"])
def test_bad_rates(text: str) -> None:
    with pytest.raises(flags.BadValue):
        read_rate(text)


# -- flags of the daemon ---------------------------------------------------------------------


def load(tmp_path: Path, *words: str, file: str = "{}") -> config.Config:
    path = tmp_path / "daemon.json"
    path.write_text(file)
    return config.load(["--config-file", str(path), *words])


def test_the_daemons_flags(tmp_path: Path) -> None:
    made = load(
        tmp_path, "--bip", "10.9.0.1/24", "--fixed-cidr", "10.9.0.128/25", "--ipv6", "--fixed-cidr-v6", "fd09::/64",
        "--mtu", "1400", "--icc=false", "--ip", "127.0.0.1", "--ip-masq", "false", "--dns", "192.0.2.1",
        "--dns", "fd00::1",
        "--dns-opt", "rotate", "--dns-search", "a.b", "--host-gateway-ip", "192.0.2.9",
        "--default-network-opt", "bridge=com.docker.network.driver.mtu=1300",
        "--default-network-opt", "bridge=x=y=z", "--default-address-pool", "base=10.20.0.0/16,size=24",
    )  # fmt: skip
    assert (made.bip, made.fixed_cidr, made.ipv6, made.fixed_cidr_v6) == (
        "10.9.0.1/24",
        "10.9.0.128/25",
        True,
        "fd09::/64",
    )
    assert (made.mtu, made.icc, made.ip, made.ip_masq, made.host_gateway_ip) == (
        1400,
        False,
        "127.0.0.1",
        False,
        "192.0.2.9",
    )
    assert (made.dns, made.dns_opts, made.dns_search) == (("192.0.2.1", "fd00::1"), ("rotate",), ("a.b",))
    assert made.default_network_opts == {"bridge": {"com.docker.network.driver.mtu": "1300", "x": "y=z"}}
    assert made.default_address_pools == (("10.20.0.0/16", 24),)


def test_the_daemons_file(tmp_path: Path) -> None:
    made = load(
        tmp_path,
        file='{"dns": ["192.0.2.1"], "dns-opts": ["rotate"], "dns-search": ["a"], "mtu": 1300, "icc": false, '
        '"ipv6": true, "default-network-opts": {"bridge": {"x": "y"}}, '
        '"default-address-pools": [{"base": "10.0.0.0/8", "size": 24}]}',
    )
    assert (made.dns, made.dns_opts, made.dns_search, made.mtu, made.icc, made.ipv6) == (
        ("192.0.2.1",),
        ("rotate",),
        ("a",),
        1300,
        False,
        True,
    )
    assert made.default_network_opts == {"bridge": {"x": "y"}}
    assert made.default_address_pools == (("10.0.0.0/8", 24),)


@pytest.mark.parametrize(
    "words",
    [
        ("--bip", "10.9.0.0/24"), ("--bip", "x"), ("--bip", "10.9.0.1/24", "--bridge", "none"), ("--mtu", "10"),
        ("--fixed-cidr", "10.9.0.0/25"), ("--bip", "10.9.0.1/24", "--fixed-cidr", "fd00::/64"),
        ("--fixed-cidr-v6", "fd00::/64"), ("--ip", "x"), ("--dns", "x"), ("--icc", "perhaps"),
        ("--host-gateway-ip", "x"), ("--default-network-opt", "bridge"), ("--default-network-opt", "bridge=x"),
        ("--default-address-pool", "base=10.0.0.0/8"), ("--default-address-pool", "base=10.0.0.0/24,size=16"),
    ],
)  # fmt: skip
def test_bad_flags_of_the_daemon(tmp_path: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidParameter):
        load(tmp_path, *words)


@pytest.mark.parametrize("file", ['{"mtu": true}', '{"default-network-opts": {"bridge": "x"}}', '{"ip": 5}'])
def test_bad_files_of_the_daemon(tmp_path: Path, file: str) -> None:
    with pytest.raises(InvalidParameter):
        load(tmp_path, file=file)
