"""Ports of the host are really bound, all or none, and what is refused is named as Docker does."""

from __future__ import annotations

import errno
import socket

import pytest

from corten.errors import InvalidParameter, SystemFailure
from corten.network import ports
from corten.network.plans import PortPlan
from corten.network.publishing import _has_loopback, _redirects
from corten.network.ruleset import Redirect


def plan(protocol: str = "tcp", address: str = "127.0.0.1", host_ports: tuple[int, int] = (0, 0)) -> PortPlan:
    return PortPlan(protocol=protocol, port=80, host_address=address, host_ports=host_ports)


def taken(kind: int = socket.SOCK_STREAM) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


@pytest.mark.parametrize(("protocol", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_a_port_is_ours_until_it_is_closed(protocol: str, kind: int) -> None:
    (reservation,) = ports.Ports(ports.bind).reserve([plan(protocol)], [4])
    address = ("127.0.0.1", reservation.published.host_port)

    def have(sock: socket.socket) -> None:
        sock.bind(address)
        if kind == socket.SOCK_STREAM:
            sock.listen()

    with socket.socket(socket.AF_INET, kind) as other, pytest.raises(OSError, match="in use"):
        have(other)
    reservation.close()
    with socket.socket(socket.AF_INET, kind) as other:
        have(other)


def test_random_ports_are_from_the_kernels_range_and_not_the_same_again() -> None:
    first, last = ports.random_range()
    host = ports.Ports(ports.bind)
    seen = []
    for _ in range(3):
        (reservation,) = host.reserve([plan()], [4])
        seen.append(reservation.published.host_port)
        reservation.close()
    assert len(set(seen)) == 3
    assert all(first <= port <= last for port in seen)


def test_the_first_free_port_of_a_range_is_taken() -> None:
    with taken() as sock:
        number = sock.getsockname()[1]
        (reservation,) = ports.Ports(ports.bind).reserve([plan(host_ports=(number, min(number + 50, 65535)))], [4])
        assert number < reservation.published.host_port <= number + 50
        reservation.close()


def test_a_port_that_is_taken_is_named_and_nothing_is_held() -> None:
    with taken() as sock:
        number = sock.getsockname()[1]
        host = ports.Ports(ports.bind)
        with taken() as probe:
            free = probe.getsockname()[1]
        message = f"Bind for 127.0.0.1:{number} failed: port is already allocated"
        with pytest.raises(SystemFailure, match=message) as caught:
            host.reserve([plan(host_ports=(free, free)), plan(host_ports=(number, number))], [4])
        assert caught.value.step == "publish"
        (again,) = host.reserve([plan(host_ports=(free, free))], [4])
        again.close()


def test_an_address_that_the_host_does_not_have() -> None:
    with pytest.raises(SystemFailure, match="cannot assign requested address") as caught:
        ports.Ports(ports.bind).reserve([plan(address="192.0.2.1", host_ports=(8080, 8080))], [4])
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("wrong", [plan(protocol="icmp"), plan(address="nonsense"), plan(address="1.2.3")])
def test_what_cannot_be_published(wrong: PortPlan) -> None:
    with pytest.raises(InvalidParameter):
        ports.Ports(ports.bind).reserve([wrong], [4])


@pytest.mark.parametrize(
    ("host_address", "own", "expected"),
    [
        ("", {4: "172.17.0.2", 6: ""}, [("", "172.17.0.2")]),
        ("", {4: "172.17.0.2", 6: "fd00::2"}, [("", "172.17.0.2"), ("", "fd00::2")]),
        ("127.0.0.1", {4: "172.17.0.2", 6: "fd00::2"}, [("127.0.0.1", "172.17.0.2")]),
        ("::1", {4: "172.17.0.2", 6: ""}, []),
        ("fd99::1", {4: "172.17.0.2", 6: "fd00::2"}, [("fd99::1", "fd00::2")]),
    ],
)
def test_redirections_are_within_a_family(host_address: str, own: dict[int, str], expected: list) -> None:
    published = ports.Published(protocol="tcp", port=80, host_address=host_address, host_port=8080)
    assert _redirects(published, own) == [Redirect("tcp", to, 8080, address, 80) for to, address in expected]


def test_what_is_published_on_the_loopback() -> None:
    def has(address: str) -> bool:
        return _has_loopback(ports.Published(protocol="tcp", port=1, host_address=address, host_port=1))

    assert [has(address) for address in ("", "127.0.0.1", "127.9.9.9", "10.0.0.1", "::1")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_keys_of_redirections() -> None:
    every, one = Redirect("udp", "", 53, "172.17.0.2", 5353), Redirect("tcp", "10.0.0.1", 80, "172.17.0.2", 8080)
    assert (every.set_name, one.set_name) == ("any4", "ports4")
    assert every.key == b"\x11\0\0\0\0\x35\0\0"
    assert one.key == b"\x0a\0\0\x01\x06\0\0\0\0\x50\0\0"
    assert one.target == b"\xac\x11\0\x02\x1f\x90\0\0"
    assert Redirect("tcp", "", 80, "fd00::2", 80).set_name == "any6"
