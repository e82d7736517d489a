"""Messages about links, addresses, routes and traffic, byte by byte where the kernel's headers say so."""

from __future__ import annotations

import errno
import ipaddress
import struct

import pytest

from corten.linux import rtnetlink as rt
from corten.linux import rtroutes, traffic
from corten.linux.netlink import Message, attributes

LINK = struct.Struct("=BxHiII")


def link_parts(message: Message) -> tuple[tuple[int, ...], dict[int, bytes]]:
    return LINK.unpack_from(message.body), dict(attributes(message.body[LINK.size :]))


def test_a_pair_is_made_with_its_other_end_in_a_namespace() -> None:
    message = rt.new_veth("veth1", 7, 33, peer="eth0", mac="02:42:ac:11:00:02", mtu=1400)
    (family, _, index, flags, change), parts = link_parts(message)
    assert (message.kind, message.flags) == (16, 0x600)
    assert (family, index, flags, change) == (0, 0, 1, 1)
    assert parts[3] == b"veth1\0"
    assert struct.unpack("=I", parts[10]) == (7,)
    info = dict(attributes(parts[18]))
    assert info[1] == b"veth\0"
    peer = dict(attributes(info[2]))[1]
    inside = dict(attributes(peer[LINK.size :]))
    assert LINK.unpack_from(peer)[3] == 0, "the end inside is down until it has addresses"
    assert inside[3] == b"eth0\0"
    assert inside[1] == bytes.fromhex("0242ac110002")
    assert struct.unpack("=I", inside[28]) == (33,)
    assert struct.unpack("=I", inside[4]) == struct.unpack("=I", parts[4]) == (1400,)


def test_without_a_size_the_kernel_chooses() -> None:
    assert 4 not in link_parts(rt.new_veth("v", 1, 1, peer="e", mac="02:00:00:00:00:01"))[1]
    assert 4 not in link_parts(rt.new_bridge("b", mac="02:00:00:00:00:01"))[1]


@pytest.mark.parametrize(("hairpin", "isolated"), [(True, False), (False, True)])
def test_options_of_a_bridge_port(hairpin: bool, isolated: bool) -> None:
    _, parts = link_parts(rt.set_bridge_port("v", hairpin=hairpin, isolated=isolated))
    info = dict(attributes(parts[18]))
    options = dict(attributes(info[5]))
    assert info[4] == b"bridge\0"
    assert (options[4], options[33]) == (bytes([hairpin]), bytes([isolated]))


def test_what_may_be_gone_already_is_no_failure() -> None:
    assert errno.ENODEV in rt.delete_link(0, "veth1").ignored
    assert errno.ENODEV in rt.delete_group(9).ignored
    assert errno.ENODEV in rt.disable_bridge_port("veth1").ignored
    assert errno.EADDRNOTAVAIL in rtroutes.delete_address(1, "10.0.0.1/8").ignored


def test_an_ipv4_address_has_its_broadcast() -> None:
    message = rtroutes.add_address(4, "172.18.0.2/16")
    family, prefix, _, scope, index = struct.unpack_from("=BBBBi", message.body)
    parts = dict(attributes(message.body[8:]))
    assert (family, prefix, scope, index) == (2, 16, 0, 4)
    assert parts[2] == ipaddress.ip_address("172.18.0.2").packed
    assert parts[4] == ipaddress.ip_address("172.18.255.255").packed
    assert 4 not in dict(attributes(rtroutes.add_address(4, "10.0.0.0/31").body[8:]))


def test_an_ipv6_address_is_not_probed_for() -> None:
    parts = dict(attributes(rtroutes.add_address(4, "fd00::2/64").body[8:]))
    assert parts[8] == struct.pack("=I", 0x02)
    assert 4 not in parts


def test_default_routes() -> None:
    message = rtroutes.set_default_route(4, "172.18.0.1", 4)
    values = struct.unpack_from("=BBBBBBBBI", message.body)
    parts = dict(attributes(message.body[12:]))
    assert message.flags == 0x500
    assert values[:2] == (2, 0)
    assert values[6] == 0, "through a gateway: everywhere"
    assert parts == {5: bytes([172, 18, 0, 1]), 4: struct.pack("=I", 4)}
    assert struct.unpack_from("=BBBBBBBBI", rtroutes.set_default_route(4, "", 4).body)[6] == 253, (
        "without: on this link"
    )


def test_a_link_as_the_kernel_lists_it() -> None:
    made = link_parts(rt.new_bridge("br0", mac="02:00:00:00:00:01", mtu=9000))[1]
    made |= link_parts(rt.set_alias("br0", "mine"))[1]
    body = LINK.pack(0, 1, 12, 0x1043, 0)
    for kind in (3, 1, 4, 20, 18):
        length = 4 + len(made[kind])
        body += struct.pack("=HH", length, kind) + made[kind] + bytes(-length % 4)
    link = rt._link(body)
    assert link == rt.Link(12, "br0", "bridge", True, "02:00:00:00:00:01", 9000, 0, "mine", 0)


@pytest.mark.parametrize("rate", [10_000, 4_000_000, 500_000_000, 10_000_000_000])
def test_a_rate_beyond_32_bits_is_given_twice(rate: int) -> None:
    burst = max(32768, rate // 100)
    message = traffic.set_rate(3, rate, burst)
    options = dict(attributes(dict(attributes(message.body[20:]))[2]))
    (low,) = struct.unpack_from("=I", options[1], 8)
    limit, ticks, _ = struct.unpack_from("=III", options[1], 24)
    assert low == min(rate, 0xFFFFFFFF)
    assert limit > burst
    assert ticks == min(burst * 10**9 // rate // 64, 0xFFFFFFFF)
    assert (4 in options) == (rate > 0xFFFFFFFF)
    assert struct.unpack("=I", options[6]) == (burst,)


def test_what_arrives_is_sent_through_another_interface() -> None:
    parts = dict(attributes(traffic.send_through(3, 9).body[20:]))
    assert parts[1] == b"u32\0"
    options = dict(attributes(parts[2]))
    assert len(options[5]) == 32, "a selector of one key that matches all"
    action = dict(attributes(dict(attributes(options[7]))[1]))
    assert action[1] == b"mirred\0"
    parameters = struct.unpack("=IIiiiiI", dict(attributes(action[2]))[2])
    assert parameters[5:] == (1, 9)
