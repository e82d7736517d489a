"""/etc/hosts and /etc/resolv.conf of containers, the table of names, ports as clients write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from corten.dockerapi.container import ContainerConfig, HostConfig, PortBinding
from corten.engine import network_files, network_names
from corten.engine.container import Container, Status
from corten.engine.endpoint import Endpoint, PublishedPort, port_map
from corten.engine.inspect import summary
from corten.engine.network_names import Names, Resolving, nameservers, outside_servers
from corten.engine.published import check_ports, exposed_ports, published_ports
from corten.errors import InvalidParameter

HOST = "# made by hand\nnameserver 192.0.2.53\nnameserver 127.0.0.1\nsearch example.org\noptions edns0 trust-ad\n"


def container(mode: str = "bridge", *, hostname: str = "web", domainname: str = "", **host: Any) -> Container:
    exposed = host.pop("exposed", {})
    return Container(
        id="c" * 64,
        name="web",
        created_ns=0,
        image_id="",
        config=ContainerConfig(hostname=hostname, domainname=domainname, exposed_ports=exposed),
        host_config=HostConfig(network_mode=mode, **host),
        driver="",
        networks={"bridge": Endpoint(id="e", ipv4="172.17.0.2/16", ipv6="fd00::2/64")} if mode == "bridge" else {},
    )


@pytest.fixture(autouse=True)
def host_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's resolv.conf is the test's."""
    (tmp_path / "resolv.conf").write_text(HOST)
    monkeypatch.setattr(network_names, "_HOST_FILES", (tmp_path / "resolv.conf", tmp_path / "systemd"))
    return tmp_path


# -- hosts ---------------------------------------------------------------------


def test_hosts_of_a_container() -> None:
    lines = network_files.hosts(container(extra_hosts=["db:10.0.0.9", "above:host-gateway"]), gateway="172.17.0.1")
    assert lines.splitlines()[0] == "127.0.0.1\tlocalhost"
    assert lines.splitlines()[-4:] == ["10.0.0.9\tdb", "172.17.0.1\tabove", "172.17.0.2\tweb", "fd00::2\tweb"]


def test_hosts_with_a_domain_links_and_ipv6_addresses() -> None:
    made = container(domainname="example.org", extra_hosts=["six:fd00::9"])
    lines = network_files.hosts(made, linked=[("172.17.0.9", ["store", "db"])]).splitlines()
    assert "fd00::9\tsix" in lines
    assert "172.17.0.9\tstore db" in lines
    assert "172.17.0.2\tweb.example.org web" in lines


def test_hosts_on_the_hosts_network_are_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_files, "read_text", lambda path: "192.0.2.1\tmachine\n")
    assert network_files.hosts(container("host", extra_hosts=["db:10.0.0.9"])) == "192.0.2.1\tmachine\n10.0.0.9\tdb\n"


def test_lines_change_in_place(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1\tlocalhost\n10.0.0.1\tweb\n10.0.0.2\tweb www\n")
    network_files.change_hosts(path, names="web", add=["10.0.0.9", "10.0.0.1"], remove=["10.0.0.2"])
    assert path.read_text() == "127.0.0.1\tlocalhost\n10.0.0.1\tweb\n10.0.0.2\tweb www\n10.0.0.9\tweb\n"
    network_files.change_hosts(path, names="web", add=["10.0.0.5"], replace=True)
    assert path.read_text() == "127.0.0.1\tlocalhost\n10.0.0.2\tweb www\n10.0.0.5\tweb\n"
    network_files.change_hosts(path, names="web", remove=["10.0.0.5"])
    assert path.read_text() == "127.0.0.1\tlocalhost\n10.0.0.2\tweb www\n"
    network_files.change_hosts(tmp_path / "nosuch", names="web", add=["10.0.0.1"])
    assert not (tmp_path / "nosuch").exists()


def test_what_a_container_wrote_there_is_kept_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(b"10.0.0.1 caf\xe9\n")
    network_files.change_hosts(path, names="web", add=["10.0.0.9"])
    assert path.read_bytes() == b"10.0.0.1 caf\xe9\n10.0.0.9\tweb\n"


# -- resolv.conf ---------------------------------------------------------------------


NO_WISHES = Resolving()


def resolv(made: Container, resolving: Resolving = NO_WISHES, *, resolver: bool = False) -> list[str]:
    return network_files.resolv_conf(made, resolving, resolver=resolver).splitlines()


def test_the_hosts_servers_that_a_container_reaches() -> None:
    assert resolv(container()) == [
        "# made by hand",
        "search example.org",
        "nameserver 192.0.2.53",
        "options edns0 trust-ad",
    ]


def test_the_daemons_resolver() -> None:
    assert resolv(container("back"), resolver=True) == [
        "# made by hand",
        "search example.org",
        "nameserver 127.0.0.11",
        "options edns0 trust-ad ndots:0",
    ]


def test_wishes_of_the_client() -> None:
    made = container(dns=["192.0.2.1", "192.0.2.2"], dns_search=["a.b", "c.d"], dns_options=["timeout:1"])
    own = ["# made by hand", "nameserver 192.0.2.1", "nameserver 192.0.2.2", "search a.b c.d", "options timeout:1"]
    assert resolv(made) == own
    assert resolv(made, resolver=True) == [
        "# made by hand",
        "nameserver 127.0.0.11",
        "search a.b c.d",
        "options timeout:1 ndots:0",
    ]
    assert resolv(container(dns_options=["ndots:3"]), resolver=True)[-1] == "options ndots:3"
    assert not any(line.startswith("search") for line in resolv(container(dns_search=["."])))


def test_wishes_of_the_daemon_come_second() -> None:
    resolving = Resolving(["198.51.100.1"], ["rotate"], ["corp"])
    assert resolv(container(), resolving)[1:] == ["nameserver 198.51.100.1", "search corp", "options rotate"]
    made = container(dns=["192.0.2.1"], dns_search=["a.b"], dns_options=["timeout:1"])
    assert resolv(made, resolving) == resolv(made)


def test_a_host_with_a_resolver_of_its_own(host_files: Path) -> None:
    """systemd-resolved: its stub is on the host's loopback, what it asks is in another file."""
    (host_files / "resolv.conf").write_text("nameserver 127.0.0.53\noptions edns0\n")
    (host_files / "systemd").write_text("nameserver 192.0.2.99\n")
    assert resolv(container()) == ["nameserver 192.0.2.99"]


def test_a_host_without_servers(host_files: Path) -> None:
    (host_files / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    assert resolv(container()) == ["nameserver 8.8.8.8", "nameserver 8.8.4.4"]
    assert outside_servers(["127.0.0.1"], "") == ["127.0.0.1"], "who asks for it gets it"


def test_servers_of_a_file() -> None:
    text = "nameserver 10.0.0.1 # x\n nameserver fd00::1\nnameserver fe80::1%eth0\nnameserver x\nnameserver\n"
    text += "#nameserver 192.0.2.7\n"
    assert nameservers(text) == ["10.0.0.1", "fd00::1", "fe80::1%eth0"]


# -- names ---------------------------------------------------------------------


def test_the_table_of_names() -> None:
    table = Names()
    table.add("n1", "a", ["Web", "all"], ["10.0.0.2", "fd00::2"])
    table.add("n1", "b", ["db", "all"], ["10.0.0.3"])
    table.add("n2", "a", ["web"], ["10.1.0.2"])
    assert table.addresses("n1", "web") == ["10.0.0.2", "fd00::2"]
    assert table.addresses("n1", "all") == ["10.0.0.2", "fd00::2", "10.0.0.3"]
    assert table.addresses("n2", "db") is None
    assert table.names("n1", "fd00::2") == ["web"]
    table.add("n1", "a", ["new"], ["10.0.0.9"])
    assert table.addresses("n1", "web") is None
    assert table.addresses("n1", "all") == ["10.0.0.3"]
    assert table.names("n1", "10.0.0.2") == []
    for network, owner in (("n1", "a"), ("n1", "a"), ("n1", "b"), ("n2", "a"), ("n3", "x")):
        table.remove(network, owner)
    assert [table._entries, table._forward, table._reverse] == [{}, {}, {}], "of networks that are gone nothing is kept"


def test_names_of_a_thousand_neighbours_cost_no_more_than_of_one() -> None:
    """What is done for one container is independent of how many there are: counted, not timed."""
    touched = 0

    class Counting(dict):
        def __setitem__(self, key: Any, value: Any) -> None:
            nonlocal touched
            touched += 1
            super().__setitem__(key, value)

    table = Names()
    for number in range(1000):
        table.add("n", str(number), [f"c{number}", "all"], [f"10.0.{number >> 8}.{number & 255}"])
    table._forward["n"] = Counting(table._forward["n"])
    table._forward["n"]["c5"] = Counting(table._forward["n"]["c5"])
    touched = 0
    table.add("n", "5", ["c5"], ["10.9.0.1"])
    assert touched <= 2


# -- ports ---------------------------------------------------------------------


def bound(**ports: list[PortBinding] | None) -> HostConfig:
    return HostConfig(port_bindings={key.replace("_", "/"): value for key, value in ports.items()})


def test_exposed_ports_in_order() -> None:
    made = container(exposed={"8000-8002/tcp": {}, "53/udp": {}, "80": {}}, port_bindings={"443/tcp": None})
    assert exposed_ports(made) == ["53/udp", "80/tcp", "443/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]


def test_published_ports() -> None:
    bindings = {
        "80/tcp": [PortBinding(host_port="8080"), PortBinding(host_ip="127.0.0.1", host_port="9000-9010")],
        "53/udp": [PortBinding(host_ip="0.0.0.0")],
        "90/tcp": None,
    }
    made = container(port_bindings=bindings, publish_all_ports=True, exposed={"80/tcp": {}, "91/sctp": {}})
    found = [(item.protocol, item.port, item.host_address, item.host_ports) for item in published_ports(made, "")]
    assert found == [
        ("tcp", 80, "", (8080, 8080)),
        ("tcp", 80, "127.0.0.1", (9000, 9010)),
        ("udp", 53, "0.0.0.0", (0, 0)),
        ("sctp", 91, "", (0, 0)),
    ]
    addresses = {item.host_address for item in published_ports(made, "192.0.2.1")}
    assert addresses == {"192.0.2.1", "127.0.0.1", "0.0.0.0"}


@pytest.mark.parametrize(
    "host",
    [
        bound(x_tcp=[]), bound(**{"0_tcp": []}), bound(**{"70000_tcp": []}), bound(**{"80_icmp": []}),
        bound(**{"90-80_tcp": []}), bound(**{"80_tcp": [PortBinding(host_port="x")]}),
        bound(**{"80_tcp": [PortBinding(host_port="9-8")]}), bound(**{"80_tcp": [PortBinding(host_port="-1")]}),
        bound(**{"80_tcp": [PortBinding(host_port="65536")]}), bound(**{"80_tcp": [PortBinding(host_ip="localhost")]}),
        bound(**{"80_tcp": [PortBinding(host_ip="fd00::g")]}),
    ],
    ids=lambda host: str(host.port_bindings)[:60],
)  # fmt: skip
def test_bad_ports(host: HostConfig) -> None:
    with pytest.raises(InvalidParameter):
        check_ports(host)


def test_the_map_of_ports() -> None:
    endpoint = Endpoint(
        published=[
            PublishedPort("tcp", 80, "", 8080, (4, 6)),
            PublishedPort("tcp", 80, "127.0.0.1", 9000),
            PublishedPort("udp", 53, "", 5353, (4,)),
        ]
    )
    assert port_map([endpoint], ["80/tcp", "90/tcp"]) == {
        "80/tcp": [
            {"HostIp": "0.0.0.0", "HostPort": "8080"},
            {"HostIp": "::", "HostPort": "8080"},
            {"HostIp": "127.0.0.1", "HostPort": "9000"},
        ],
        "53/udp": [{"HostIp": "0.0.0.0", "HostPort": "5353"}],
        "90/tcp": None,
    }


def test_ports_of_the_list() -> None:
    made = container(exposed={"80/tcp": {}, "90/udp": {}})
    made.networks["bridge"].published = [PublishedPort("tcp", 80, "", 8080, (4, 6))]
    made.become(Status.RUNNING)
    assert summary(made, 0)["Ports"] == [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 90, "Type": "udp"},
    ]
