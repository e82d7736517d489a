"""Published ports and the firewall: who reaches what, and what is left when others change it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from network_support import (
    HOST,
    HOST6,
    NEIGHBOUR,
    OPEN,
    Lan,
    Place,
    endpoint,
    network,
)

from corten.errors import InvalidParameter, SystemFailure
from corten.linux import rtroutes
from corten.linux.netlink import NETLINK_ROUTE, Connection
from corten.network import namespaces as ns
from corten.network.plans import NetworkPlan, PortPlan, Published, Subnet

pytestmark = [pytest.mark.needs("nf_tables", "nft")]


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    made = Lan(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("bridge_filter", ["1", "0"], ids=["br_netfilter", "no br_netfilter"])
def test_a_published_port_from_everywhere(lan: Lan, bridge_filter: str) -> None:
    def filter_bridges() -> None:
        for name in ("iptables", "ip6tables"):
            with contextlib.suppress(FileNotFoundError):
                ns.write_sysctl(f"net.bridge.bridge-nf-call-{name}", bridge_filter)

    lan.host.do(filter_bridges)
    plan, other = lan.create(network(30)), lan.create(network(31))
    box, server = lan.box(endpoint(plan, 2, PortPlan(protocol="tcp", port=80, host_ports=(8080, 8080))))
    seen = server.serve(80, b"web")
    _, same_bridge = lan.box(endpoint(plan, 3))
    _, other_bridge = lan.box(endpoint(other, 2))
    assert box.published == {
        endpoint(plan, 2).id: (Published(protocol="tcp", port=80, host_address="", host_port=8080, versions=(4, 6)),)
    }
    assert lan.neighbour.ask(HOST, 8080) == b"web"
    assert seen == [NEIGHBOUR], "the server sees who asks"
    assert lan.host.ask("127.0.0.1", 8080) == b"web"
    assert lan.host.ask("127.9.9.9", 8080) == b"web"
    assert lan.host.ask(HOST, 8080) == b"web"
    assert same_bridge.ask(HOST, 8080) == b"web"
    assert same_bridge.ask("172.30.0.1", 8080) == b"web"
    assert server.ask(HOST, 8080) == b"web", "a container through the host to itself"
    assert other_bridge.ask(HOST, 8080) == b"web"
    assert lan.neighbour.cannot_reach(HOST, 8081)
    lan.plumbing.release(box)
    assert lan.neighbour.cannot_reach(HOST, 8080)


def test_what_is_not_published_is_not_reached(lan: Lan) -> None:
    plan, other = lan.create(network(30)), lan.create(network(31))
    ports = (
        PortPlan(protocol="tcp", port=80, host_ports=(8080, 8080), host_address="127.0.0.1"),
        PortPlan(protocol="tcp", port=82, host_ports=(8082, 8082), host_address=HOST),
    )
    _, server = lan.box(endpoint(plan, 2, *ports))
    for port in (80, 81, 82):
        server.serve(port, b"secret")
    _, stranger = lan.box(endpoint(other, 2))
    assert lan.host.ask("127.0.0.1", 8080) == b"secret"
    assert lan.host.cannot_reach(HOST, 8080)
    assert lan.neighbour.cannot_reach(HOST, 8080)
    assert lan.neighbour.ask(HOST, 8082) == b"secret"
    assert lan.host.cannot_reach("127.0.0.1", 8082)
    # a machine beside the host routes to the containers' own addresses (the neighbour's default route is the host)
    for port in (80, 81, 82):
        assert lan.neighbour.cannot_reach("172.30.0.2", port)
        assert stranger.cannot_reach("172.30.0.2", port)

    def to_loopback() -> None:
        inside = Connection(NETLINK_ROUTE)
        inside.transact([rtroutes.delete_address(1, "127.0.0.1/8")])
        inside.close()
        subprocess.run(["ip", "route", "add", "127.0.0.0/8", "via", HOST, "dev", "eth0"], check=True)
        for name in ("all", "eth0"):
            ns.write_sysctl(f"net.ipv4.conf.{name}.route_localnet", "1")

    lan.neighbour.do(to_loopback)
    assert lan.neighbour.cannot_reach("127.0.0.1", 8080)
    # nor where somebody else has opened the host's loopback addresses (kube-proxy does)
    lan.host.do(lambda: ns.write_sysctl("net.ipv4.conf.all.route_localnet", "1"))
    assert lan.neighbour.cannot_reach("127.0.0.1", 8080)
    lan.host.do(lambda: ns.write_sysctl("net.ipv4.conf.all.route_localnet", "0"))
    # nor from a container, whose bridge lets the host use its loopback addresses
    stranger.do(lambda: ns.write_sysctl("net.ipv4.conf.eth0.route_localnet", "1"))
    stranger.do(lambda: subprocess.run(["ip", "addr", "del", "127.0.0.1/8", "dev", "lo"], check=True))
    stranger.do(lambda: subprocess.run(["ip", "route", "add", "127.0.0.0/8", "via", "172.31.0.1"], check=True))
    lan.host.serve(9000, b"host only")
    assert stranger.ask("172.31.0.1", 9000) == b"host only"
    assert stranger.cannot_reach("127.0.0.1", 9000)


def test_networks_whose_addresses_are_known_outside(lan: Lan) -> None:
    ipv6 = {number: (Subnet(f"fd{number}::/64", f"fd{number}::1"),) for number in (30, 31)}
    routed = lan.create(network(30, ipv6=ipv6[30], routed=(4,)))
    unguarded = lan.create(network(31, ipv6=ipv6[31], open=(4,)))
    ports = (PortPlan(protocol="tcp", port=80, host_ports=(8080, 8080)),)
    first, server = lan.box(endpoint(routed, 2, *ports, ipv6="fd30::2/64"))
    second, other = lan.box(endpoint(unguarded, 2, ipv6="fd31::2/64"))
    for place in (server, other):
        for port in (80, 81):
            place.serve(port, b"here", socket.AF_INET6)
    [published] = first.published[endpoint(routed, 2).id]
    assert (published.host_port, published.versions) == (8080, (6,))
    assert lan.neighbour.ask("172.30.0.2", 80) == b"here"
    assert lan.neighbour.cannot_reach("172.30.0.2", 81), "what is not published"
    assert lan.neighbour.cannot_reach(HOST, 8080), "its host has no port for it"
    assert lan.neighbour.ask(HOST6, 8080) == b"here"
    assert lan.neighbour.cannot_reach("fd30::2", 80)
    assert lan.neighbour.ask("172.31.0.2", 81) == b"here"
    assert lan.neighbour.cannot_reach("fd31::2", 81), "of the other kind it is guarded"
    seen = lan.neighbour.serve(90, b"world")
    assert server.ask(NEIGHBOUR, 90) == other.ask(NEIGHBOUR, 90) == b"world"
    assert seen == ["172.30.0.2", HOST], "one leaves with its own address"
    lan.plumbing.release(first)
    again, server = lan.box(replace(endpoint(routed, 2), id="e" * 64))
    server.serve(80, b"unpublished")
    assert lan.neighbour.cannot_reach("172.30.0.2", 80)
    for box in (again, second):
        lan.plumbing.release(box)


def test_networks_are_apart_and_internal_ones_are_closed(lan: Lan) -> None:
    inner, outer = lan.create(network(30, internal=True)), lan.create(network(31))
    _, one = lan.box(endpoint(inner, 2))
    _, two = lan.box(endpoint(inner, 3))
    _, out = lan.box(endpoint(outer, 2))
    for place in (one, two, out):
        place.serve(80, b"here")
    lan.neighbour.serve(80, b"world")
    assert one.ask("172.30.0.3", 80) == b"here"
    assert one.cannot_reach("172.31.0.2", 80)
    assert one.cannot_reach(NEIGHBOUR, 80)
    assert out.cannot_reach("172.30.0.2", 80)
    assert out.ask(NEIGHBOUR, 80) == b"world"
    # also when it makes itself a route
    one.do(lambda: subprocess.run(["ip", "route", "add", "default", "via", "172.30.0.1"], check=True))
    assert one.cannot_reach(NEIGHBOUR, 80)
    assert one.cannot_reach("172.31.0.2", 80)


def test_without_icc_neighbours_are_apart(lan: Lan) -> None:
    plan = lan.create(network(30, icc=False))
    _, one = lan.box(endpoint(plan, 2))
    _, two = lan.box(endpoint(plan, 3, PortPlan(protocol="tcp", port=80, host_ports=(8080, 8080))))
    two.serve(80, b"two")
    assert one.cannot_reach("172.30.0.3", 80)
    assert lan.host.ask("172.30.0.3", 80) == b"two"
    assert lan.neighbour.ask(HOST, 8080) == b"two"


def test_ports_that_are_taken_are_named_and_nothing_stays(lan: Lan) -> None:
    plan = lan.create(network())
    lan.host.serve(8080, b"a program of the host")
    port = PortPlan(protocol="tcp", port=80, host_ports=(8081, 8081))
    wanted = (port, PortPlan(protocol="tcp", port=80, host_ports=(8080, 8080)))
    with pytest.raises(SystemFailure, match=r"Bind for 0\.0\.0\.0:8080 failed: port is already allocated"):
        lan.box(endpoint(plan, 2, *wanted))
    box, _ = lan.box(endpoint(plan, 2, port))
    with pytest.raises(SystemFailure, match=r"Bind for 0\.0\.0\.0:8081 failed: port is already allocated"):
        lan.box(endpoint(plan, 3, port))
    lan.plumbing.release(box)
    ranged = PortPlan(protocol="tcp", port=80, host_ports=(8080, 8085))
    box, _ = lan.box(endpoint(plan, 3, ranged))
    assert [item.host_port for item in box.published[endpoint(plan, 3).id]] == [8081]
    first, _ = lan.box(endpoint(plan, 4, PortPlan(protocol="udp", port=53)))
    second, _ = lan.box(endpoint(plan, 5, PortPlan(protocol="udp", port=53)))
    ports = [box.published[endpoint(plan, last).id][0].host_port for box, last in ((first, 4), (second, 5))]
    assert len(set(ports)) == 2
    with pytest.raises(SystemFailure, match="cannot assign requested address"):
        lan.box(endpoint(plan, 6, PortPlan(protocol="tcp", port=1, host_address="192.0.2.1", host_ports=(99, 99))))
    with pytest.raises(InvalidParameter, match="invalid host address"):
        lan.box(endpoint(plan, 6, PortPlan(protocol="tcp", port=1, host_address="nonsense")))


def test_datagrams_and_who_answers_after_the_address_is_given_away(lan: Lan) -> None:
    plan = lan.create(network())
    port = PortPlan(protocol="udp", port=53, host_ports=(5353, 5353))

    def answering(place: Place, text: bytes) -> socket.socket:
        sock = place.do(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        OPEN.append(sock)
        sock.bind(("0.0.0.0", 53))

        def run() -> None:
            with contextlib.suppress(OSError):
                while peer := sock.recvfrom(100)[1]:
                    sock.sendto(text, peer)

        threading.Thread(target=run, daemon=True).start()
        return sock

    client = lan.neighbour.do(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    OPEN.append(client)
    client.settimeout(2)
    for text, last in ((b"first", 2), (b"second", 3)):
        box, place = lan.box(endpoint(plan, last, port))
        answering(place, text)
        # the same flow, which the kernel remembers
        client.sendto(b"?", (HOST, 5353))
        assert client.recv(100) == text
        lan.plumbing.release(box)


def test_a_flushed_firewall_comes_back(lan: Lan) -> None:
    plan = lan.create(network())
    port = PortPlan(protocol="tcp", port=80, host_ports=(8080, 8080))
    _, server = lan.box(endpoint(plan, 2, port))
    server.serve(80, b"web")
    watch = lan.host.do(lan.plumbing.watch)
    lan.nft("add", "table", "inet", "theirs")
    assert lan.plumbing.look_after() is False
    lan.nft("flush", "ruleset")
    watch.settimeout(2)
    assert watch.recv(1, socket.MSG_PEEK)
    watch.setblocking(False)
    assert lan.plumbing.look_after() is True
    assert lan.plumbing.restore() is True
    assert lan.plumbing.restore() is False
    assert lan.neighbour.ask(HOST, 8080) == b"web"
    lan.nft("flush", "ruleset")
    # a change puts all of it back too
    lan.box(endpoint(plan, 3, PortPlan(protocol="tcp", port=81, host_ports=(8081, 8081))))
    assert lan.neighbour.ask(HOST, 8080) == b"web"


def test_rules_of_the_administrator_stay_and_come_first(lan: Lan) -> None:
    plan = lan.create(network())
    _, server = lan.box(endpoint(plan, 2, PortPlan(protocol="tcp", port=80, host_ports=(8080, 8080))))
    server.serve(80, b"web")
    lan.nft("add", "rule", "inet", "corten", "user", "ip", "saddr", NEIGHBOUR, "drop")
    assert lan.neighbour.cannot_reach(HOST, 8080)
    lan.create(plan)  # which makes the table anew
    assert "drop" in lan.nft("list", "chain", "inet", "corten", "user")
    lan.nft("flush", "chain", "inet", "corten", "user")
    assert lan.neighbour.ask(HOST, 8080) == b"web"


def hear(lan: Lan) -> bool:
    """What a change by others asks of us, after the kernel has told of it."""
    watch = lan.host.do(lan.plumbing.watch)
    watch.settimeout(2)
    try:
        watch.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    finally:
        watch.setblocking(False)
    return lan.plumbing.look_after()


def test_rules_of_the_administrator_come_back_after_a_flush(lan: Lan) -> None:
    plan = lan.create(network())
    _, server = lan.box(endpoint(plan, 2, PortPlan(protocol="tcp", port=80, host_ports=(8080, 8080))))
    server.serve(80, b"web")
    lan.host.do(lan.plumbing.watch)
    lan.nft("add", "rule", "inet", "corten", "user", "ip", "saddr", NEIGHBOUR, "counter", "drop", "comment", "mine")
    assert hear(lan)
    assert lan.plumbing.restore() is False
    lan.nft("flush", "ruleset")
    assert hear(lan)
    assert lan.plumbing.restore() is True
    assert 'drop comment "mine"' in lan.nft("list", "chain", "inet", "corten", "user")
    assert lan.neighbour.cannot_reach(HOST, 8080)
    assert lan.host.ask("127.0.0.1", 8080) == b"web"


def test_rules_of_the_administrator_outlive_the_networks(lan: Lan) -> None:
    plan = lan.create(network())
    lan.nft("add", "rule", "inet", "corten", "user", "iifname", "@bridges", "tcp", "dport", "25", "drop")
    lan.host.do(lambda: lan.plumbing.remove_network(plan))
    assert "dport 25 drop" in lan.nft("list", "table", "inet", "corten")
    _, server = lan.box(endpoint(lan.create(plan), 2))
    server.serve(25, b"mail")
    _, client = lan.box(endpoint(lan.create(network(31)), 2))
    lan.neighbour.serve(25, b"mail")
    assert client.cannot_reach(NEIGHBOUR, 25)
    lan.nft("flush", "chain", "inet", "corten", "user")
    assert client.ask(NEIGHBOUR, 25) == b"mail"


@pytest.mark.parametrize(
    "damage",
    [
        ("flush", "chain", "inet", "corten", "published"),
        ("flush", "map", "inet", "corten", "any4"),
        ("flush", "set", "inet", "corten", "bridges"),
        ("delete", "element", "inet", "corten", "any4", "{ tcp . 8080 }"),
        ("insert", "rule", "inet", "corten", "forward", "drop"),
    ],
    ids=" ".join,
)
def test_whatever_is_changed_in_the_table_is_put_back(lan: Lan, damage: tuple[str, ...]) -> None:
    plan = lan.create(network())
    _, server = lan.box(endpoint(plan, 2, PortPlan(protocol="tcp", port=80, host_ports=(8080, 8080))))
    server.serve(80, b"web")
    server.serve(81, b"secret")
    lan.host.do(lan.plumbing.watch)
    before = lan.nft("list", "table", "inet", "corten")
    lan.nft(*damage)
    assert lan.nft("list", "table", "inet", "corten") != before
    assert hear(lan)
    assert lan.plumbing.restore() is True
    assert lan.nft("list", "table", "inet", "corten") == before
    assert lan.neighbour.ask(HOST, 8080) == b"web"
    assert lan.neighbour.cannot_reach("172.30.0.2", 81)


def test_a_ruleset_that_is_loaded_anew_with_the_administrators_chain(lan: Lan, tmp_path: Path) -> None:
    """`nft -f` with "flush ruleset" first, as nftables.service does: the table exists again, without what is ours."""
    plan = lan.create(network())
    _, server = lan.box(endpoint(plan, 2, PortPlan(protocol="tcp", port=80, host_ports=(8080, 8080))))
    server.serve(80, b"web")
    lan.host.do(lan.plumbing.watch)
    rules = tmp_path / "rules"
    own = f"ip saddr {NEIGHBOUR} tcp dport 81 drop"
    rules.write_text(f"flush ruleset\ntable inet corten {{\nchain user {{\n{own}\n}}\n}}\n")
    lan.nft("-f", str(rules))
    assert hear(lan)
    assert lan.plumbing.restore() is True
    assert "dport 81 drop" in lan.nft("list", "chain", "inet", "corten", "user")
    assert lan.neighbour.ask(HOST, 8080) == b"web"


def iptables(lan: Lan, *words: str) -> str:
    def run() -> str:
        done = subprocess.run(["iptables-nft", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return lan.host.do(run)


@pytest.mark.needs("iptables")
def test_beside_a_firewall_that_drops_by_policy(lan: Lan) -> None:
    """What Docker and ufw do to the FORWARD chain of iptables-nft."""
    plan = lan.create(network())
    _, server = lan.box(endpoint(plan, 2, PortPlan(protocol="tcp", port=80, host_ports=(8080, 8080))))
    server.serve(80, b"web")
    server.serve(81, b"secret")
    lan.neighbour.serve(7, b"outside")
    lan.host.do(lan.plumbing.watch)
    iptables(lan, "-N", "DOCKER-USER")
    iptables(lan, "-A", "FORWARD", "-j", "DOCKER-USER")
    iptables(lan, "-P", "FORWARD", "DROP")
    assert lan.neighbour.cannot_reach(HOST, 8080)
    assert hear(lan)
    lan.plumbing.restore()
    assert lan.neighbour.ask(HOST, 8080) == b"web"
    assert server.ask(NEIGHBOUR, 7) == b"outside"
    assert lan.neighbour.cannot_reach("172.30.0.2", 81), "our own table still decides"
    rules = iptables(lan, "-S", "FORWARD").splitlines()
    assert rules[1] == "-A FORWARD -j DOCKER-USER", "what was there comes first"
    assert sum("br-30" in line and line.endswith("-j ACCEPT") for line in rules) == 2
    # rules that are written in that chain count
    iptables(lan, "-A", "DOCKER-USER", "-s", NEIGHBOUR, "-j", "DROP")
    assert lan.neighbour.cannot_reach(HOST, 8080)
    iptables(lan, "-F", "DOCKER-USER")
    # and they come back, and leave with the network or the policy
    lan.plumbing.look_after()
    iptables(lan, "-F", "FORWARD")
    assert hear(lan)
    lan.plumbing.restore()
    assert lan.neighbour.ask(HOST, 8080) == b"web"
    other = lan.create(network(31))
    assert "br-31" in iptables(lan, "-S", "FORWARD")
    lan.host.do(lambda: lan.plumbing.remove_network(other))
    assert "br-31" not in iptables(lan, "-S", "FORWARD")
    iptables(lan, "-P", "FORWARD", "ACCEPT")
    lan.plumbing.restore()
    assert "br-30" not in iptables(lan, "-S", "FORWARD")


def test_a_foreign_chain_that_drops_is_told_of(lan: Lan, caplog: pytest.LogCaptureFixture) -> None:
    lan.nft("add", "table", "inet", "mine")
    hook = "{ type filter hook forward priority 10; policy drop; }"
    lan.nft("add", "chain", "inet", "mine", "strict", hook)
    lan.create(network(30))
    lan.create(network(31))
    told = [record.message for record in caplog.records if "mine strict" in record.message]
    assert len(told) == 1
    assert lan.nft("list", "chain", "inet", "mine", "strict").count("accept") == 0


def test_flows_from_before_a_port_was_published_reach_it(lan: Lan) -> None:
    """A client that never stops sending has an entry in the kernel that says: the host itself."""
    plan = lan.create(network())
    lan.box(endpoint(plan, 9, PortPlan(protocol="udp", port=1, host_ports=(9999, 9999))))  # connections are remembered
    client = lan.neighbour.do(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    OPEN.append(client)
    client.settimeout(2)
    taken = lan.host.do(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    OPEN.append(taken)
    taken.bind((HOST, 5353))
    taken.settimeout(2)
    client.sendto(b"early", (HOST, 5353))
    assert taken.recv(10) == b"early"
    taken.close()
    _, place = lan.box(endpoint(plan, 2, PortPlan(protocol="udp", port=53, host_ports=(5353, 5353))))
    server = place.do(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    OPEN.append(server)
    server.bind(("0.0.0.0", 53))
    server.settimeout(2)
    client.sendto(b"late", (HOST, 5353))
    assert server.recv(10) == b"late"


def test_loopback_is_let_out_only_where_a_port_needs_it(lan: Lan) -> None:
    def switch(device: str) -> str:
        return lan.host.do(lambda: Path(f"/proc/sys/net/ipv4/conf/{device}/route_localnet").read_text().strip())

    plan, other = lan.create(network(30)), lan.create(network(31))
    lan.box(endpoint(plan, 2, PortPlan(protocol="tcp", port=80, host_ports=(8080, 8080), host_address="127.0.0.1")))
    lan.box(endpoint(other, 2, PortPlan(protocol="tcp", port=80, host_ports=(8080, 8080), host_address=HOST)))
    assert (switch("br-30"), switch("br-31"), switch("lan")) == ("1", "0", "0")


def test_strict_reverse_path_filters_are_no_obstacle(lan: Lan) -> None:
    def strict() -> None:
        for name in ("all", "default", "lan"):
            ns.write_sysctl(f"net.ipv4.conf.{name}.rp_filter", "1")

    lan.host.do(strict)
    plan = lan.create(network())
    _, server = lan.box(endpoint(plan, 2, PortPlan(protocol="tcp", port=80, host_ports=(8080, 8080))))
    server.serve(80, b"web")
    for place, address in ((lan.neighbour, HOST), (lan.host, "127.0.0.1"), (lan.host, HOST), (server, HOST)):
        assert place.ask(address, 8080) == b"web"


def test_a_range_of_ports_is_published_in_one_step(lan: Lan) -> None:
    plan = lan.create(network())
    ports = [PortPlan(protocol="tcp", port=port, host_ports=(port, port)) for port in range(20000, 20500)]
    box, server = lan.box(endpoint(plan, 2, *ports))
    server.serve(20499, b"last")
    assert lan.neighbour.ask(HOST, 20499) == b"last"
    assert len(box.published[endpoint(plan, 2).id]) == 500
    lan.plumbing.release(box)
    assert "20499" not in lan.nft("list", "table", "inet", "corten")
    with lan.host.do(lambda: socket.create_server((HOST, 20499))):
        pass


def test_rules_do_not_grow_with_networks_and_containers(lan: Lan) -> None:
    def lookups() -> list[str]:
        listing = lan.nft("-s", "list", "table", "inet", "corten")
        return [line for line in listing.splitlines() if "@" in line or "jump" in line]

    plans = [
        NetworkPlan(
            id=f"{number:064x}",
            device=f"br-n{number}",
            ipv4=(Subnet(f"10.{number // 250}.{number % 250}.0/24", f"10.{number // 250}.{number % 250}.1"),),
        )
        for number in range(500)
    ]
    lan.create(plans[0])
    few = lookups()
    for plan in plans[1:]:
        lan.create(plan)
    assert lookups() == few
    # all of it at once, as after a flush
    lan.nft("flush", "ruleset")
    assert lan.plumbing.restore() is True
    assert lookups() == few
    for plan in plans[:20]:
        lan.host.do(lambda plan=plan: lan.plumbing.remove_network(plan))
    assert lookups() == few
    assert 'br-n19"' not in lan.nft("list", "set", "inet", "corten", "bridges")
