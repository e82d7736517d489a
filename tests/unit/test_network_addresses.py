"""Subnets and addresses, without a kernel."""

from __future__ import annotations

import ipaddress
import random

import pytest

from corten.errors import Forbidden, InvalidParameter
from corten.network.addresses import (
    DEFAULT_POOLS,
    Allocator,
    check_overlap,
    free_subnet,
    parse_network,
    parse_pools,
)

POOLS = parse_pools(DEFAULT_POOLS)


def test_the_default_pools_are_dockers():
    """Source: libnetwork ipamutils, "local scope default networks": 15 /16 and 16 /20."""
    taken: list[str] = []
    for _ in range(31):
        taken.append(str(free_subnet(POOLS, 4, taken)))
    assert taken[:2] == ["172.17.0.0/16", "172.18.0.0/16"]
    assert taken[14:17] == ["172.31.0.0/16", "192.168.0.0/20", "192.168.16.0/20"]
    with pytest.raises(InvalidParameter, match="all predefined address pools have been fully subnetted"):
        free_subnet(POOLS, 4, taken)


@pytest.mark.parametrize(
    ("taken", "found"),
    [
        (["172.17.4.0/24"], "172.18.0.0/16"),  # something small in it
        (["172.16.0.0/12"], "192.168.0.0/20"),  # it lies in something large
        (["10.0.0.0/8", "fd00::/8"], "172.17.0.0/16"),
        (["172.17.0.0/16", "172.19.0.0/16"], "172.18.0.0/16"),
        (["172.16.0.0/12", "192.168.3.0/24", "192.168.16.1/32"], "192.168.32.0/20"),
    ],
)
def test_what_the_host_has_is_avoided(taken, found):
    assert str(free_subnet(POOLS, 4, taken)) == found


def test_pools_of_both_families():
    pools = parse_pools([("10.10.0.0/16", 24), ("fd00:1::/48", 64)])
    assert str(free_subnet(pools, 4, ["10.10.0.0/24"])) == "10.10.1.0/24"
    assert str(free_subnet(pools, 6, ["fd00:1::/64", "10.10.0.0/16"])) == "fd00:1:0:1::/64"
    with pytest.raises(InvalidParameter, match="does not fit"):
        parse_pools([("10.10.0.0/16", 8)])


def test_a_pool_is_not_walked():
    pools = parse_pools([("fd00::/16", 64)])
    assert str(free_subnet(pools, 6, ["fd00::/17"])) == "fd00:8000::/64"
    with pytest.raises(InvalidParameter, match="fully subnetted"):
        free_subnet(pools, 6, ["fd00::/17", "fd00:8000::/17"])


def test_the_first_free_subnet_whatever_is_taken():
    pools = parse_pools([("10.0.0.0/24", 28)])
    every = list(ipaddress.ip_network("10.0.0.0/24").subnets(new_prefix=28))
    chance = random.Random(1)
    for _ in range(300):
        taken = [
            ipaddress.ip_network(
                (0x0A000000 + chance.randrange(-64, 320), chance.choice([25, 27, 28, 30, 32])), strict=False
            )
            for _ in range(chance.randrange(14))
        ]
        free = [item for item in every if not any(item.overlaps(other) for other in taken)]
        if free:
            assert free_subnet(pools, 4, map(str, taken)) == free[0]
        else:
            with pytest.raises(InvalidParameter):
                free_subnet(pools, 4, map(str, taken))


@pytest.mark.parametrize("subnet", ["10.1.0.0/16", "10.1.2.0/24", "10.0.0.0/8", "0.0.0.0/0"])
def test_overlaps_are_told(subnet):
    with pytest.raises(Forbidden, match="Pool overlaps with other one on this address space"):
        check_overlap(subnet, ["10.1.0.0/16"])


def test_neighbours_do_not_overlap():
    check_overlap("10.2.0.0/16", ["10.1.0.0/16", "10.3.0.0/16", "::/0"])


@pytest.mark.parametrize("text", ["10.1.0.0/33", "10.1.0/24", "", "x", "fd00::/129"])
def test_what_is_no_subnet(text):
    with pytest.raises(InvalidParameter, match="invalid CIDR"):
        parse_network(text)


# -- addresses ---------------------------------------------------------------------


def test_addresses_come_in_turn():
    pool = Allocator.parse("10.0.0.0/29")
    assert str(pool.gateway) == "10.0.0.1"
    assert [pool.take(str(owner)) for owner in range(3)] == ["10.0.0.2/29", "10.0.0.3/29", "10.0.0.4/29"]
    pool.release("10.0.0.2/29")
    # one that has just become free may still be in somebody's neighbour table
    assert [pool.take(str(owner)) for owner in range(3)] == ["10.0.0.5/29", "10.0.0.6/29", "10.0.0.2/29"]
    with pytest.raises(Forbidden) as caught:
        pool.take("more")
    assert str(caught.value) == "no available IPv4 addresses on this network's address pools: 10.0.0.0/29"


def test_wishes():
    pool = Allocator.parse("10.0.0.0/24", gateway="10.0.0.254", aux=["10.0.0.9"])
    assert pool.take("a", "10.0.0.77") == "10.0.0.77/24"
    for taken in ("10.0.0.77", "10.0.0.254", "10.0.0.9", "10.0.0.0", "10.0.0.255"):
        with pytest.raises(Forbidden, match="Address already in use"):
            pool.take("b", taken)
    with pytest.raises(InvalidParameter, match="no configured subnet contains IP address"):
        pool.take("b", "10.0.1.1")
    with pytest.raises(InvalidParameter, match="invalid IP address: x"):
        pool.take("b", "x")
    pool.release("10.0.0.77/24")
    pool.release("10.0.0.77/24")
    assert pool.take("b", "10.0.0.77") == "10.0.0.77/24"


def test_a_range_is_where_addresses_come_from():
    pool = Allocator.parse("10.0.0.0/16", ip_range="10.0.5.0/30")
    given = {pool.take(str(owner)).partition("/")[0] for owner in range(3)}
    assert given | {str(pool.gateway)} == {f"10.0.5.{last}" for last in range(4)}
    with pytest.raises(Forbidden, match=r"10\.0\.5\.0/30"):
        pool.take("more")
    assert pool.take("static", "10.0.77.7") == "10.0.77.7/16"


@pytest.mark.parametrize(
    "options", [{"ip_range": "10.1.0.0/24"}, {"gateway": "10.1.0.1"}, {"aux": ["fd00::1"]}, {"ip_range": "10.0.0.0/8"}]
)
def test_what_lies_outside(options):
    with pytest.raises(InvalidParameter):
        Allocator.parse("10.0.0.0/24", **options)


@pytest.mark.parametrize("subnet", ["10.0.0.0/31", "10.0.0.4/32", "fd00::/127"])
def test_the_smallest_subnets(subnet):
    pool = Allocator.parse(subnet)
    count = ipaddress.ip_network(subnet).num_addresses
    given = set()
    for owner in range(count - 1):
        given.add(pool.take(str(owner)))
    assert len(given) == count - 1
    with pytest.raises(Forbidden):
        pool.take("more")


def test_ipv6():
    pool = Allocator.parse("fd00::/64")
    assert [pool.take("a"), pool.take("b")] == ["fd00::2/64", "fd00::3/64"]
    assert pool.take("c", "fd00::ffff:ffff:ffff:ffff") == "fd00::ffff:ffff:ffff:ffff/64", "IPv6 has no broadcast"


def test_what_is_held_is_not_given():
    pool = Allocator.parse("10.0.0.0/24")
    pool.hold("old", "10.0.0.2/24")
    assert pool.take("new") == "10.0.0.3/24"
    pool.hold("old", "10.0.0.200/24")
    assert pool.take("new") == "10.0.0.201/24"
    assert pool.used[ipaddress.ip_address("10.0.0.2")] == "old"


def test_a_large_subnet_is_not_walked_for_each_address():
    pool = Allocator.parse("10.0.0.0/8")
    for number in range(2000):
        pool.take(str(number))
    assert pool.take("next") == "10.0.7.210/8"


@pytest.mark.parametrize(
    ("options", "taken", "status"),
    [
        ({}, 0, (3, 253)),  # the network's own, the gateway, broadcast
        ({}, 2, (5, 251)),
        ({"aux": ["10.0.0.9"]}, 1, (5, 251)),
        ({"ip_range": "10.0.0.128/25", "gateway": "10.0.0.1"}, 2, (5, 125)),
    ],
)
def test_how_many_are_left(options, taken, status):
    allocator = Allocator.parse("10.0.0.0/24", **options)
    for number in range(taken):
        allocator.take(f"owner {number}")
    assert allocator.status() == status
    for number in range(allocator.status()[1]):
        allocator.take(f"another {number}")
    assert allocator.status()[1] == 0
    with pytest.raises(Forbidden, match="no available"):
        allocator.take("one too many")


def test_how_many_are_left_of_small_and_large_ones():
    assert Allocator.parse("10.0.0.0/31").status() == (1, 1)
    assert Allocator.parse("fd00::/64").status() == (2, (1 << 64) - 2)
