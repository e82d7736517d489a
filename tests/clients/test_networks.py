"""Networks through the API: what people do with the docker client and with ours."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from corten.linux.process import CLONE_NEWNET, setns
from daemons import Daemon

pytestmark = [pytest.mark.needs("docker", "busybox", "nf_tables")]

CLIENTS = ["docker", "corten"]
SERVE = "mkdir /w; hostname > /w/index.html; exec httpd -f -p 80 -h /w"

SERVE6 = SERVE.replace("-p 80", "-p [::]:80")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(address: str, port: int) -> str:
    """A page; waits until somebody listens."""
    deadline = time.monotonic() + 5
    while True:
        connection = http.client.HTTPConnection(address, port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode().strip()
        except (ConnectionError, http.client.BadStatusLine):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        finally:
            connection.close()


def settings(daemon: Daemon, name: str) -> dict:
    return daemon.inspect(name)["NetworkSettings"]


@pytest.fixture
def network(networked: Daemon) -> Iterator[str]:
    networked.docker("network", "create", "--subnet", "10.199.0.0/24", "back")
    yield "back"
    networked.remove_containers()
    networked.docker("network", "rm", "back", check=False)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_container_has_an_address_by_default(networked: Daemon, client: str) -> None:
    done = getattr(networked, client)("run", "--rm", "busybox", "sh", "-c", "ip route; cat /etc/hosts; hostname")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("default via ")
    address = lines[1].split()[-1]
    assert lines[-2].split() == [address, lines[-1]]
    assert json.loads(networked.docker("network", "inspect", "bridge").stdout)[0]["Containers"] == {}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_published_port_answers(networked: Daemon, client: str) -> None:
    port = free_port()
    run = getattr(networked, client)
    run("run", "-d", "--name", "web", "-h", "served", "-p", f"{port}:80", "busybox", "sh", "-c", SERVE)
    assert get("127.0.0.1", port) == get("localhost", port) == "served"
    assert get("::1", port) == "served"
    assert settings(networked, "web")["Ports"] == {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(port)}, {"HostIp": "::", "HostPort": str(port)}]
    }
    # older clients print it without brackets
    ports = run("port", "web").stdout.replace(f"-> :::{port}", f"-> [::]:{port}")
    assert ports == f"80/tcp -> 0.0.0.0:{port}\n80/tcp -> [::]:{port}\n"
    assert f"0.0.0.0:{port}->80/tcp" in run("ps").stdout
    done = run("run", "--name", "second", "-p", f"{port}:80", "busybox", "true", check=False)
    assert done.returncode == 125
    assert f"Bind for 0.0.0.0:{port} failed: port is already allocated" in done.stderr
    assert networked.inspect("second")["State"]["Status"] == "created"
    run("stop", "-t", "0", "web")
    assert settings(networked, "web")["Ports"] == {}
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    run("start", "second")


def test_ports_of_loopback_ranges_and_all(networked: Daemon) -> None:
    networked.docker(
        *(
            "run",
            "-d",
            "--name",
            "web",
            "-p",
            "127.0.0.1::80",
            "-P",
            "--expose",
            "90-91/udp",
            "busybox",
            "sh",
            "-c",
            SERVE,
        )
    )
    ports = settings(networked, "web")["Ports"]
    assert set(ports) == {"80/tcp", "90/udp", "91/udp"}
    [only] = ports["80/tcp"]
    assert only["HostIp"] == "127.0.0.1"
    assert get("127.0.0.1", int(only["HostPort"]))
    assert len({row["HostPort"] for rows in ports.values() for row in rows}) == 3


def test_ports_of_one_kind_of_addresses(networked: Daemon) -> None:
    port, port6 = free_port(), free_port()
    networked.docker(
        *("run", "-d", "--name", "web", "-h", "served", "-p", f"0.0.0.0:{port}:80", "-p", f"[::]:{port6}:80"),
        *("busybox", "sh", "-c", SERVE),
    )
    rows = settings(networked, "web")["Ports"]["80/tcp"]
    assert rows == [{"HostIp": "0.0.0.0", "HostPort": str(port)}, {"HostIp": "::", "HostPort": str(port6)}]
    assert get("127.0.0.1", port) == get("::1", port6) == "served"
    for address, wrong in (("::1", port), ("127.0.0.1", port6)):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as probe:
            assert probe.connect_ex((address, wrong)) != 0


@pytest.mark.parametrize("client", CLIENTS)
def test_neighbours_find_each_other_by_name(networked: Daemon, network: str, client: str) -> None:
    run = getattr(networked, client)
    run("run", "-d", "--name", "web", "--network", network, "--network-alias", "www", "busybox", "sh", "-c", SERVE)
    address = settings(networked, "web")["Networks"][network]["IPAddress"]
    identity = networked.inspect("web")["Id"]
    for name in ("web", "www", identity[:12], "WEB", f"web.{network}"):
        done = run("run", "--rm", "--network", network, "busybox", "wget", "-qO-", f"http://{name}/")
        assert done.stdout.strip() == identity[:12], name
    reverse = run("run", "--rm", "--network", network, "busybox", "nslookup", address).stdout
    assert f"web.{network}" in reverse
    done = run("run", "--rm", "--network", network, "busybox", "nslookup", "nosuch.invalid", check=False)
    assert done.returncode == 1
    networked.docker("rename", "web", "other")
    assert run("run", "--rm", "--network", network, "busybox", "nslookup", "other").returncode == 0
    assert run("run", "--rm", "--network", network, "busybox", "nslookup", "-timeout=1", "web", check=False).returncode


def test_several_containers_share_an_alias(networked: Daemon, network: str) -> None:
    for name in ("one", "two", "six"):
        networked.docker(
            "run", "-d", "--name", name, "--network", network, "--network-alias", "all", "busybox", "sleep", "60"
        )
    done = networked.docker("run", "--rm", "--network", network, "busybox", "nslookup", "all")
    found = {line.split()[-1] for line in done.stdout.splitlines() if line.startswith("Address: ")}
    assert found == {settings(networked, name)["Networks"][network]["IPAddress"] for name in ("one", "two", "six")}


@pytest.mark.parametrize("client", CLIENTS)
def test_connect_and_disconnect_while_it_runs(networked: Daemon, network: str, client: str) -> None:
    run = getattr(networked, client)
    run("run", "-d", "--name", "web", "--network", network, "busybox", "sh", "-c", SERVE)
    run("run", "-d", "--name", "late", "busybox", "sleep", "60")
    assert run("exec", "late", "wget", "-T", "1", "-qO-", "http://web/", check=False).returncode
    run("network", "connect", "--alias", "joined", "--ip", "10.199.0.77", network, "late")
    assert run("exec", "late", "wget", "-qO-", "http://10.199.0.2/").stdout
    assert run("exec", "web", "ping", "-c", "1", "joined").returncode == 0
    found = settings(networked, "late")["Networks"]
    assert set(found) == {"bridge", network}
    assert found[network]["IPAddress"] == "10.199.0.77"
    assert found[network]["Aliases"][0] == "joined"  # older versions of the API add the short id
    done = run("network", "connect", network, "late", check=False)
    assert "already exists in network" in done.stderr
    done = run("network", "rm", network, check=False)
    assert "has active endpoints" in done.stderr
    # what was connected stays connected
    run("restart", "-t", "0", "late")
    assert settings(networked, "late")["Networks"][network]["IPAddress"] == "10.199.0.77"
    run("network", "disconnect", network, "late")
    assert set(settings(networked, "late")["Networks"]) == {"bridge"}
    assert run("exec", "web", "ping", "-c", "1", "-W", "1", "10.199.0.77", check=False).returncode
    assert "not connected" in run("network", "disconnect", network, "late", check=False).stderr
    run("network", "disconnect", "bridge", "late")
    assert settings(networked, "late")["Networks"] == {}
    run("network", "connect", "bridge", "late")
    assert run("exec", "late", "ip", "route").stdout.startswith("default")


def test_internal_networks_have_no_way_out(networked: Daemon) -> None:
    networked.docker("network", "create", "--internal", "closed")
    try:
        networked.docker("run", "-d", "--name", "web", "--network", "closed", "busybox", "sh", "-c", SERVE)
        done = networked.docker(
            "run", "--rm", "--network", "closed", "busybox", "sh", "-c", "wget -qO- http://web; ip route"
        )
        assert len(done.stdout.splitlines()) == 2
        assert "default" not in done.stdout
    finally:
        networked.remove_containers()
        networked.docker("network", "rm", "closed")


def test_questions_of_an_internal_network_stay_inside(networked: Daemon, network: str) -> None:
    networked.docker("network", "create", "--internal", "--subnet", "10.197.0.0/24", "closed")
    gateway = json.loads(networked.docker("network", "inspect", network).stdout)[0]["IPAM"]["Config"][0]["Gateway"]
    ask = ("--dns", gateway, "busybox", "nslookup", "secret.exfil.test")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream:
            upstream.bind((gateway, 53))
            networked.docker("run", "--rm", "--network", "closed", *ask, check=False)
            upstream.setblocking(False)
            with pytest.raises(BlockingIOError):
                upstream.recv(512)
            upstream.settimeout(30)
            networked.docker("run", "-d", "--network", network, *ask)
            assert b"exfil" in upstream.recv(512), "the way that an ordinary network has"
    finally:
        networked.remove_containers()
        networked.docker("network", "rm", "closed")


def test_ports_of_a_routed_network(networked: Daemon) -> None:
    networked.docker(
        *("network", "create", "-o", "com.docker.network.bridge.gateway_mode_ipv4=routed"),
        *("-o", "com.docker.network.container_iface_prefix=net", "known"),
    )
    try:
        networked.docker("run", "-d", "--name", "web", "--network", "known", "-p", "80", "busybox", "sh", "-c", SERVE)
        assert networked.docker("exec", "web", "ls", "/sys/class/net").stdout.split() == ["lo", "net0"]
        found = settings(networked, "web")
        assert found["Ports"] == {"80/tcp": None}
        assert networked.docker("ps", "--format", "{{.Ports}}").stdout == "80/tcp\n"
        assert get(found["Networks"]["known"]["IPAddress"], 80) == networked.inspect("web")["Id"][:12]
    finally:
        networked.remove_containers()
        networked.docker("network", "rm", "known")


def flood(namespace: str, questions: int) -> None:
    """Ask the resolver of a container for what is not there, without waiting for answers."""

    def send() -> None:
        with open(namespace) as file:
            setns(file.fileno(), CLONE_NEWNET)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
                inside.connect(("127.0.0.11", 53))
                for number in range(questions):
                    name = f"x{number}".encode()
                    head = number.to_bytes(2) + b"\1\0\0\1" + bytes(6)
                    with contextlib.suppress(OSError):
                        inside.send(head + bytes([len(name)]) + name + b"\4test\0\0\1\0\1")

    thread = threading.Thread(target=send)
    thread.start()
    thread.join()


def test_a_flood_of_questions_holds_nobody_up(networked: Daemon, network: str) -> None:
    for name in ("loud", "quiet"):
        networked.docker("run", "-d", "--name", name, "--network", network, "busybox", "sleep", "1000")
    flood(settings(networked, "loud")["SandboxKey"], 20_000)
    assert networked.answers()
    done = networked.docker("exec", "quiet", "nslookup", "loud")
    assert settings(networked, "loud")["Networks"][network]["IPAddress"] in done.stdout


def test_both_kinds_of_addresses(networked: Daemon) -> None:
    networked.docker("network", "create", "--ipv6", "--subnet", "fd19:9::/64", "six")
    try:
        networked.docker("run", "-d", "--name", "web", "--network", "six", "-p", "80", "busybox", "sh", "-c", SERVE6)
        found = settings(networked, "web")
        address = found["Networks"]["six"]["GlobalIPv6Address"]
        assert address.startswith("fd19:9::")
        script = f"nslookup -type=aaaa web; wget -qO- http://[{address}]/"
        assert address in networked.docker("run", "--rm", "--network", "six", "busybox", "sh", "-c", script).stdout
        [port] = {row["HostPort"] for row in found["Ports"]["80/tcp"]}
        assert get("::1", int(port)) == get("127.0.0.1", int(port))
    finally:
        networked.remove_containers()
        networked.docker("network", "rm", "six")


def test_links_of_the_default_network(networked: Daemon) -> None:
    networked.docker("run", "-d", "--name", "db", "-e", "SECRET=x", "--expose", "5432", "busybox", "sleep", "60")
    script = "ping -c 1 store > /dev/null && env | grep STORE | sort"
    done = networked.docker("run", "--rm", "--name", "app", "--link", "db:store", "busybox", "sh", "-c", script)
    address = settings(networked, "db")["IPAddress"]
    assert done.stdout.splitlines() == [
        "STORE_ENV_SECRET=x",
        "STORE_NAME=/app/store",
        f"STORE_PORT=tcp://{address}:5432",
        f"STORE_PORT_5432_TCP=tcp://{address}:5432",
        f"STORE_PORT_5432_TCP_ADDR={address}",
        "STORE_PORT_5432_TCP_PORT=5432",
        "STORE_PORT_5432_TCP_PROTO=tcp",
    ]


def test_other_modes(networked: Daemon) -> None:
    networked.docker("run", "-d", "--name", "web", "busybox", "sh", "-c", SERVE)
    done = networked.docker("run", "--rm", "--network", "container:web", "busybox", "wget", "-qO-", "http://127.0.0.1/")
    assert done.stdout
    shared = networked.docker(
        "run", "--rm", "--network", "container:web", "busybox", "sh", "-c", "hostname; hostname -i"
    )
    assert shared.stdout.split() == [networked.inspect("web")["Id"][:12], settings(networked, "web")["IPAddress"]]
    done = networked.docker("run", "--rm", "--network", "host", "-p", "80:80", "busybox", "true")
    assert "Published ports are discarded when using host network mode" in done.stderr
    assert networked.docker("run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net").stdout == "lo\n"
    names = networked.docker("run", "--rm", "--network", "host", "busybox", "ls", "/sys/class/net").stdout
    assert "lo\n" in names
    assert len(names.split()) > 1


def test_host_gateway_and_given_resolvers(networked: Daemon, network: str) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        words = ("run", "-d", "--name", "asks", "--add-host", "above:host-gateway", "busybox", "nc", "above", str(port))
        networked.docker(*words)
        listener.settimeout(5)
        connection, _ = listener.accept()
        connection.close()
    words = (
        "run",
        "--rm",
        "--network",
        network,
        "--dns",
        "192.0.2.9",
        "--dns-search",
        "a.b",
        "--dns-option",
        "timeout:1",
    )
    done = networked.docker(*words, "busybox", "cat", "/etc/resolv.conf")
    assert done.stdout.split() == ["nameserver", "127.0.0.11", "search", "a.b", "options", "timeout:1", "ndots:0"]
    done = networked.docker("run", "--rm", "--dns", "192.0.2.9", "busybox", "cat", "/etc/resolv.conf")
    assert "nameserver 192.0.2.9" in done.stdout


def test_statistics_count_what_passes(networked: Daemon) -> None:
    networked.docker("run", "-d", "--name", "web", "busybox", "sh", "-c", SERVE)
    networked.docker("exec", "web", "ping", "-c", "2", settings(networked, "web")["Gateway"])
    status, body = networked.request("GET", "/containers/web/stats?stream=0&one-shot=1")
    assert status == 200
    counted = json.loads(body)["networks"]["eth0"]
    assert counted["rx_packets"] >= 2
    assert counted["tx_bytes"] >= 2 * 98


def test_events_tell_of_networks(networked: Daemon) -> None:
    begun = time.time()
    networked.docker("network", "create", "told")
    networked.docker("run", "--rm", "--network", "told", "busybox", "true")
    networked.docker("network", "rm", "told")
    events = networked.docker(
        *("events", "--since", f"{begun}", "--until", f"{time.time()}", "--filter", "type=network"),
        *("--format", "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.type}}"),
    )
    assert events.stdout.splitlines() == [
        f"{action} told bridge" for action in ("create", "connect", "disconnect", "destroy")
    ]


MISTAKES = [
    (["network", "create", "bridge"], "predefined bridge network"),
    (["network", "create", "back"], "network with name back already exists"),
    (["network", "create", "in valid"], "invalid name"),
    (["network", "create", "--subnet", "10.199.0.128/25", "x1"], "Pool overlaps with other one on this address space"),
    (["network", "create", "--subnet", "10.1.0.0/33", "x1"], "invalid"),
    (["network", "create", "-d", "nosuch", "x1"], 'plugin "nosuch" not found'),
    (["network", "create", "-o", "com.docker.network.driver.mtu=x", "x1"], "mtu"),
    (["network", "create", "-o", "no.such.option=x", "x1"], "no.such.option"),
    (["network", "create", "-d", "macvlan", "-o", "parent=nosuch0", "x1"], "nosuch0"),
    (["network", "rm", "nosuch"], "nosuch"),
    (["network", "rm", "host"], "pre-defined network and cannot be removed"),
    (["network", "inspect", "nosuch"], "nosuch"),
    (["network", "connect", "nosuch", "web"], "network nosuch not found"),
    (["network", "connect", "back", "nosuch"], "No such container: nosuch"),
    (["network", "connect", "host", "web"], "cannot be connected to host network"),
    (["network", "ls", "--filter", "nosuch=1"], "invalid filter 'nosuch'"),
    (["run", "--rm", "--network", "nosuch", "busybox", "true"], "network nosuch not found"),
    (["run", "--rm", "--network", "back", "--ip", "10.1.2.3", "busybox", "true"], "no configured subnet contains"),
    (["run", "--rm", "--network", "back", "--ip", "10.199.0.1", "busybox", "true"], "Address already in use"),
    (["run", "--rm", "--network", "bridge", "--ip", "172.17.0.9", "busybox", "true"], "user defined networks only"),
    (
        ["run", "--rm", "--network", "bridge", "--network-alias", "x", "busybox", "true"],
        "only supported for user-defined networks",
    ),
    (
        ["run", "--rm", "--network", "back", "-p", "192.0.2.1:80:80", "busybox", "true"],
        "cannot assign requested address",
    ),
    (["run", "--rm", "--link", "nosuch", "busybox", "true"], "nosuch"),
    (["network", "disconnect", "-f", "nosuch", "nosuch"], "network nosuch not found"),
    (["network", "disconnect", "-f", "back", "nosuch"], "endpoint nosuch not found"),
    (["run", "--rm", "--network", "back", "--link-local-ip", "10.0.0.9", "busybox", "true"], "link-local"),
    *(
        (["run", "--rm", "--network", "container:web", *words, "busybox", "true"], f"conflicting options: {told}")
        for words, told in (
            (["-p", "80:80"], "port publishing"),
            (["-P"], "port publishing"),
            (["--expose", "80"], "port exposing"),
            (["--hostname", "x"], "hostname"),
            (["--dns", "192.0.2.1"], "dns"),
            (["--add-host", "x:192.0.2.1"], "custom host-to-IP mapping"),
        )
    ),
]


@pytest.mark.parametrize(("words", "told"), MISTAKES, ids=lambda part: " ".join(part)[:60] if part else "")
def test_mistakes_are_told(networked: Daemon, network: str, words: list[str], told: str) -> None:
    networked.docker("create", "--name", "web", "busybox", "true")
    for run in (networked.docker, networked.corten):
        done = run(*words, check=False)
        assert done.returncode, words
        assert told in done.stderr
        assert "internal" not in done.stderr
    assert networked.docker("network", "ls", "-q", "--filter", "name=x1").stdout == ""


@pytest.mark.parametrize("client", CLIENTS)
def test_a_link_is_a_name_and_can_be_removed(networked: Daemon, client: str) -> None:
    run = getattr(networked, client)
    run("run", "-d", "--name", "db", "busybox", "sleep", "60")
    run("create", "--name", "app", "--link", "db:store", "busybox", "true")
    listed = ["ps", "--no-trunc", "--format", "{{.Names}}", "--filter", "name=db"]
    assert run(*listed).stdout == "db,app/store\n"
    assert networked.inspect("app")["HostConfig"]["Links"] == ["/db:/app/store"]
    assert networked.request("DELETE", "/containers/app/store")[0] == 404
    assert networked.request("DELETE", "/containers/app/store?link=1")[0] == 204
    assert networked.request("DELETE", "/containers/app/store?link=1")[0] == 404
    assert run(*listed).stdout == "db\n"
    assert networked.inspect("app")["HostConfig"]["Links"] is None


def test_filters_formats_and_prune(networked: Daemon, network: str) -> None:
    networked.corten("network", "create", "--label", "kind=test", "--internal", "unused")
    chosen = ("--format", "{{.Name}} {{.Driver}} {{.Internal}}", "--filter", "label=kind=test")
    assert networked.corten("network", "ls", *chosen).stdout == "unused bridge true\n"
    assert networked.corten("network", "ls").stdout == networked.docker("network", "ls").stdout
    ours, theirs = (
        json.loads(run("network", "inspect", network).stdout) for run in (networked.corten, networked.docker)
    )
    for shown in (*ours, *theirs):
        shown.pop("Status", None)  # of clients from API 1.52 on
    assert ours == theirs
    networked.docker("create", "--name", "holds", "--network", network, "busybox")
    assert networked.docker("network", "prune", "-f").stdout == "Deleted Networks:\nunused\n\n"
    assert networked.docker("network", "ls", "-q", "--filter", "type=custom").stdout.count("\n") == 1


def test_a_killed_daemon_leaves_networks_working(fresh_daemon: Daemon) -> None:
    daemon, port = fresh_daemon, free_port()
    daemon.docker("network", "create", "back")
    daemon.docker("run", "-d", "--name", "web", "--network", "back", "-p", f"{port}:80", "busybox", "sh", "-c", SERVE)
    before = settings(daemon, "web")
    page = get("127.0.0.1", port)
    daemon.kill()
    assert get("127.0.0.1", port) == page, "the firewall needs no daemon"
    daemon.start()
    assert settings(daemon, "web") == before
    assert get("127.0.0.1", port) == page
    done = daemon.docker("run", "--rm", "--network", "back", "busybox", "wget", "-qO-", "http://web/")
    assert done.stdout.strip() == page
    assert daemon.docker("exec", "web", "nslookup", "web").returncode == 0
    # its address and its port are still its own
    address = before["Networks"]["back"]["IPAddress"]
    other = daemon.docker("run", "-d", "--network", "back", "busybox", "sleep", "60").stdout.strip()
    assert settings(daemon, other)["Networks"]["back"]["IPAddress"] != address
    done = daemon.docker("run", "--rm", "-p", f"{port}:80", "busybox", "true", check=False)
    assert "already allocated" in done.stderr
    daemon.remove_containers()
    daemon.docker("network", "rm", "back")


def test_a_port_is_free_after_an_exit_that_nobody_saw(fresh_daemon: Daemon) -> None:
    daemon, port = fresh_daemon, free_port()
    daemon.docker("run", "-d", "--name", "short", "-p", f"{port}:80", "busybox", "sleep", "1")
    daemon.kill()
    subprocess.run(["sleep", "1.2"], check=True)
    daemon.start()
    assert settings(daemon, "short")["Ports"] == {}
    daemon.docker("run", "--rm", "-p", f"{port}:80", "busybox", "true")


def test_two_daemons_side_by_side(fresh_daemon: Daemon, networked: Daemon) -> None:
    for daemon in (fresh_daemon, networked):
        daemon.docker("run", "-d", "--name", "web", "-p", "80", "busybox", "sh", "-c", SERVE)
    subnets = {settings(daemon, "web")["Gateway"] for daemon in (fresh_daemon, networked)}
    assert len(subnets) == 2
    for daemon in (fresh_daemon, networked):
        rows = settings(daemon, "web")["Ports"]["80/tcp"]
        assert get("127.0.0.1", int(rows[0]["HostPort"])) == daemon.inspect("web")["Id"][:12]


def test_a_bridge_of_the_administrator_is_used_and_left(networked: Daemon) -> None:
    subprocess.run(["ip", "link", "add", "corten-test0", "type", "bridge"], check=True)
    try:
        option = "com.docker.network.bridge.name=corten-test0"
        networked.docker("network", "create", "-o", option, "--subnet", "10.199.7.0/24", "theirs")
        networked.docker("run", "--rm", "--network", "theirs", "busybox", "ping", "-c", "1", "10.199.7.1")
        networked.docker("network", "rm", "theirs")
        subprocess.run(["ip", "link", "show", "corten-test0"], check=True, stdout=subprocess.DEVNULL)
    finally:
        subprocess.run(["ip", "link", "del", "corten-test0"], check=True)


def test_what_a_killed_daemon_left_goes_with_the_next(fresh_daemon: Daemon) -> None:
    fresh_daemon.docker("network", "create", "back")
    fresh_daemon.docker("run", "--rm", "busybox", "true")
    fresh_daemon.kill()
    fresh_daemon.start()
    # nothing is used any more: the check after the test sees that both bridges are gone
    assert fresh_daemon.docker("network", "ls", "-q", "--filter", "name=back").stdout


def test_ports_with_an_empty_list_of_bindings_are_published_anywhere(networked: Daemon) -> None:
    """As dockerd 28 and later do; 20.10 leaves them unpublished."""
    document = {
        "Image": "busybox", "Cmd": ["sleep", "100"], "ExposedPorts": {"80/tcp": None},
        "HostConfig": {"PortBindings": {"80/tcp": [], "81/udp": None}},
    }  # fmt: skip
    assert networked.request("POST", "/v1.51/containers/create?name=box", document)[0] == 201
    networked.docker("start", "box")
    ports = networked.inspect("box")["NetworkSettings"]["Ports"]
    assert {port: bindings[0]["HostIp"] for port, bindings in ports.items()} == {
        "80/tcp": "0.0.0.0",
        "81/udp": "0.0.0.0",
    }
    networked.docker("rm", "-f", "box")
    status, answer = networked.request("POST", "/v1.52/containers/create?name=box", document)
    assert (status, "empty list of port-bindings: 80/tcp, 81/udp" in answer.decode()) == (201, True)


def test_addresses_that_are_in_use_and_left(networked: Daemon) -> None:
    networked.docker("network", "create", "--subnet", "10.77.0.0/24", "counted")
    networked.docker("run", "-d", "--name", "box", "--network", "counted", "busybox", "sleep", "100")
    shown = json.loads(networked.request("GET", "/networks/counted")[1])
    assert shown["Status"] == {"IPAM": {"Subnets": {"10.77.0.0/24": {"IPsInUse": 4, "DynamicIPsAvailable": 252}}}}
    assert "Status" not in json.loads(networked.request("GET", "/v1.51/networks/counted")[1])
    networked.docker("rm", "-f", "box")
    networked.docker("network", "rm", "counted")
