"""Networks of an ordinary user's engine: names, ports, the daemon's end, and a machine without a way out."""

from __future__ import annotations

import http.client
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import BIN
from users import User

pytestmark = [pytest.mark.needs("userns", "newuidmap", "busybox", "docker", "tun", "nf_tables")]

SUBIDS = (600_000_000, 65_536)


@pytest.fixture
def user(busybox_tar: Path) -> Iterator[User]:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "u").mkdir()
        made = User(place / "u", 54_020, SUBIDS)
        made.archive = made.give(busybox_tar, "busybox.tar")
        yield made
        made.leave()


def prepare(user: User, **environment: str) -> None:
    user.corten("import", "-c", 'CMD ["sh"]', "-c", "ENV PATH=/bin", str(user.archive), "busybox", **environment)


def uplinks(user: User) -> list[int]:
    # it executes itself again as "pasta.avx2" where it can
    return [pid for pid, name in user.processes().items() if name.startswith(("pasta", "passt"))]


def get(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/hostname")
    return connection.getresponse().read().decode()


@pytest.mark.needs("pasta")
def test_names_and_ports_of_a_users_network(user: User) -> None:
    prepare(user)
    user.docker("network", "create", "back")
    serve = ("busybox", "httpd", "-f", "-vv", "-p", "80", "-h", "/etc")
    user.docker("run", "-d", "--name", "web", "-h", "served", "--network", "back", "-p", "127.0.0.1::80", *serve)
    words = ("run", "--rm", "--network", "back", "busybox", "wget", "-qO-", "http://web/hostname")
    assert user.corten(*words).stdout == user.docker(*words).stdout == "served\n"
    port = int(user.corten("port", "web", "80").stdout.rpartition(":")[2])
    assert get(port) == "served\n"
    document = user.inspect("web")["NetworkSettings"]["Networks"]["back"]
    user.wait_until(lambda: f"{document['Gateway']}]:" in user.docker("logs", "web").stderr)
    assert "127.0.0.1" not in user.docker("logs", "web").stderr, "nobody is taken for the container itself"
    uplink = uplinks(user)
    assert len(uplink) == 1
    user.end_daemon()
    assert user.corten("ps", "-q").stdout, "the container has outlived its daemon"
    assert uplinks(user) == uplink
    assert get(port) == "served\n"
    assert user.corten(*words).stdout == "served\n"


def test_without_a_way_out_it_is_told(user: User) -> None:
    programs = user.home / "bin"
    programs.mkdir()
    for name in ("newuidmap", "newgidmap"):
        (programs / name).symlink_to(shutil.which(name) or "")
    without = {"PATH": f"{BIN}:{programs}"}
    prepare(user, **without)
    why = "networks without root have no way out: neither pasta (package passt) nor slirp4netns is installed"
    done = user.corten("run", "--rm", "busybox", "ls", "/sys/class/net", **without)
    assert (done.stdout, done.stderr) == ("lo\n", f"WARNING: {why}: the container has no network\n")
    assert f"WARNING: {why}" in user.corten("info", **without).stderr
    done = user.corten("run", "--rm", "--network", "bridge", "busybox", "true", check=False, **without)
    assert done.returncode == 125
    assert f"network bridge not found: {why}" in done.stderr
    user.corten("network", "create", "back", **without)
    user.corten("run", "-d", "--name", "web", "--network", "back", "busybox", "httpd", "-f", "-h", "/etc", **without)
    done = user.corten("run", "--rm", "--network", "back", "busybox", "wget", "-qO-", "http://web/passwd", **without)
    assert "bob" in done.stdout, "containers of one network see each other"
