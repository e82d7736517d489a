"""Containers with other ids: remapped ones, automatic ranges, and whose files they make."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.linux import mount
from daemons import Daemon

pytestmark = [pytest.mark.needs("docker", "busybox", "userns", "overlayfs", "idmapped layers")]

AUTOMATIC = ("--userns-remap", "auto", "--bridge", "none")
FIRST = 700_000_000
COUNT = 65_536


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory, busybox_tar: Path, cgroup_parent: str) -> Iterator[Daemon]:
    """A daemon whose containers have automatic ranges unless they say otherwise: the docker client knows no auto."""
    pool = f"{FIRST}:{COUNT * 3}"
    made = Daemon(tmp_path_factory.mktemp("pooled"), *AUTOMATIC, "--userns-pool", pool)
    made.start()
    made.import_busybox(busybox_tar)
    yield made
    made.remove_containers()
    made.stop()


@pytest.fixture(autouse=True)
def no_containers(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "pooled" in request.fixturenames:
        request.getfixturevalue("pooled").remove_containers()


def uid_map(daemon: Daemon, name: str) -> list[int]:
    pid = daemon.inspect(name)["State"]["Pid"]
    return [int(number) for number in Path(f"/proc/{pid}/uid_map").read_text().split()]


def test_no_two_containers_share_ids(pooled: Daemon) -> None:
    for name in ("one", "two", "three"):
        pooled.docker("run", "-d", "--name", name, "busybox", "sleep", "1000")
    assert {tuple(uid_map(pooled, name)) for name in ("one", "two", "three")} == {
        (0, FIRST + COUNT * number, COUNT) for number in range(3)
    }
    done = pooled.docker("run", "busybox", "true", check=False)
    assert f"there are no {COUNT} ids left for an automatic user namespace" in done.stderr
    pooled.docker("rm", "-f", "two")
    pooled.docker("run", "-d", "--name", "four", "busybox", "sleep", "1000")
    assert uid_map(pooled, "four")[1] == FIRST + COUNT


# on a copy of /etc that nobody else sees
_DEFAULT = """
import shutil, tempfile
from corten.linux import mount, process
process.unshare(process.CLONE_NEWNS)
mount.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE)
copy = tempfile.mkdtemp()
mount.mount("tmpfs", copy, "tmpfs")
shutil.copytree("/etc", copy, symlinks=True, dirs_exist_ok=True)
tree = mount.clone_tree(copy)
mount.umount2(copy, 0)
mount.attach(tree, "/etc")
open("/etc/subuid", "a").write("other:100000:65536\\n")
import os
os.rmdir(copy)
from corten.engine.user_namespaces import remapped
for _ in range(2):
    print(remapped("default"))
print(*(line for file in ("passwd", "subuid", "subgid") for line in open(f"/etc/{file}") if "dockremap" in line))
"""


def test_the_user_of_the_default_is_made() -> None:
    """As dockerd: the first daemon that needs it makes dockremap, with ids that nobody has."""
    done = subprocess.run([sys.executable, "-c", _DEFAULT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == lines[1]
    passwd, subuid, subgid = (line.strip() for line in lines[2:5])
    assert passwd.startswith("dockremap:x:")
    assert passwd.endswith(":/bin/false")
    for text in (subuid, subgid):
        name, first, count = text.split(":")
        assert (name, count) == ("dockremap", "65536")
        assert f"'hostID': {first}," in lines[0]
    assert int(subuid.split(":")[1]) >= 165_536
    with pytest.raises(KeyError):
        pwd.getpwnam("dockremap")


def test_ids_inside_and_outside(pooled: Daemon) -> None:
    script = "id -u; touch /mine; chown bob /mine; mknod /n b 8 0 || echo refused; cat /proc/self/gid_map; sleep 1000"
    pooled.docker("run", "-d", "--name", "box", "-v", "kept:/v", "busybox", "sh", "-c", f"touch /v/x; {script}")
    box = pooled.inspect("box")
    assert os.stat(f"/proc/{box['State']['Pid']}").st_uid == uid_map(pooled, "box")[1]
    assert pooled.docker("exec", "-u", "bob", "box", "id", "-u").stdout == "1000\n"
    owners = pooled.docker("exec", "box", "stat", "-c", "%u %n", "/mine", "/v/x", "/etc/hosts").stdout
    assert owners == "1000 /mine\n0 /v/x\n0 /etc/hosts\n"
    # on disk files keep the ids that containers see: nothing has to be changed when another range sees them
    assert os.stat(f"{box['GraphDriver']['Data']['UpperDir']}/mine").st_uid == 1000
    assert (pooled.data_root / "volumes/kept/_data/x").stat().st_uid == 0
    logs = pooled.docker("logs", "box").stdout
    assert logs.startswith("0\nrefused\n")
    done = pooled.docker("run", "--rm", "-u", "70000", "busybox", "true", check=False)
    assert "not all of these ids are mapped" in done.stderr


def test_a_volume_has_the_same_owners_for_all(pooled: Daemon) -> None:
    pooled.docker("run", "--rm", "-v", "shared:/v", "busybox", "sh", "-c", "echo kept > /v/f; chown bob:extra /v/f")
    pooled.docker("run", "-d", "--name", "first", "busybox", "sleep", "1000")  # takes the range that the other had
    for more in ((), ("--userns", "host")):
        shown = pooled.docker("run", "--rm", *more, "-v", "shared:/v", "busybox", "stat", "-c", "%U:%G", "/v/f").stdout
        assert shown == "bob:extra\n"


def test_a_bind_that_is_mapped_on_request(pooled: Daemon) -> None:
    """Root of the container is root of this directory, and of no other."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o700)
        script = "id -u; touch /b/x; chown bob:extra /b/x; mkdir /b/d; stat -c %u:%g /b /b/x"
        for words in (["-v", f"{name}:/b:idmap"], ["--mount", f"type=bind,src={name},dst=/b,idmap"]):
            done = pooled.corten("run", "--rm", *words, "busybox", "sh", "-c", script)
            assert done.stdout == "0\n0:0\n1000:50\n"
            status = (Path(name) / "x").stat()
            assert (status.st_uid, status.st_gid) == (1000, 50)
            (Path(name) / "x").unlink()
            (Path(name) / "d").rmdir()
        done = pooled.docker("run", "--rm", "-v", f"{name}:/b:idmap,ro", "busybox", "touch", "/b/x", check=False)
        assert "Read-only file system" in done.stderr
        plain = pooled.docker("run", "--rm", "-v", f"{name}:/b", "busybox", "ls", "/b", check=False)
        assert "Permission denied" in plain.stderr
        own = pooled.docker("run", "--rm", "--userns", "host", "-v", f"{name}:/b:idmap", "busybox", "touch", "/b/y")
        assert own.returncode == 0
        assert (Path(name) / "y").stat().st_uid == 0
        refused = pooled.docker("run", "--rm", "-v", "/proc:/b:idmap", "busybox", "true", check=False)
        assert refused.returncode == 125
        assert "/proc" in refused.stderr


def test_files_of_the_machine_stay_closed(pooled: Daemon, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        secret = directory / "secret"
        secret.write_text("of root alone")
        secret.chmod(0o600)
        script = "cat /m/secret; touch /m/new; echo tried"
        done = pooled.docker("run", "--rm", "-v", f"{name}:/m", "busybox", "sh", "-c", script)
        assert done.stdout == "tried\n"
        assert done.stderr.count("Permission denied") == 2
        assert sorted(os.listdir(name)) == ["secret"]


def test_copies_keep_the_owners_that_the_container_sees(pooled: Daemon, tmp_path: Path) -> None:
    pooled.docker("run", "-d", "--name", "box", "busybox", "sh", "-c", "touch /f; chown bob:extra /f; sleep 1000")
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("x")
    os.chown(source / "file", 1000, 50)
    pooled.docker("cp", "-a", str(source), "box:/copied")
    assert pooled.docker("exec", "box", "stat", "-c", "%u:%g", "/copied/file", "/copied").stdout == "1000:50\n0:0\n"
    archive = tmp_path / "archive"
    archive.write_bytes(pooled.request("GET", "/containers/box/archive?path=/f")[1])
    with tarfile.open(archive) as tar:
        assert [(entry.uid, entry.gid) for entry in tar] == [(1000, 50)]
    archive.write_bytes(pooled.request("GET", "/containers/box/export")[1])
    with tarfile.open(archive) as tar:
        assert [(entry.uid, entry.gid) for entry in tar if entry.name == "f"] == [(1000, 50)]
    pooled.docker("commit", "box", "kept")
    assert pooled.docker("run", "--rm", "kept", "stat", "-c", "%u:%g", "/f").stdout == "1000:50\n"


def test_the_machine_as_an_image(pooled: Daemon) -> None:
    script = "id -u; stat -c %u /usr; touch /usr/mine && echo made"
    assert pooled.docker("run", "--rm", "host", "sh", "-c", script).stdout == "0\n0\nmade\n"
    assert not Path("/usr/mine").exists()


def test_who_shares_a_namespace_shares_the_ids(pooled: Daemon) -> None:
    pooled.docker("run", "-d", "--name", "one", "--ipc", "shareable", "busybox", "sleep", "1000")
    for option in ("--network", "--pid", "--ipc"):
        pooled.docker("run", "-d", "--name", "two", option, "container:one", "busybox", "sleep", "1000")
        assert uid_map(pooled, "two") == uid_map(pooled, "one")
        pooled.docker("rm", "-f", "two")


def test_the_next_daemon_knows_the_ranges(pooled: Daemon) -> None:
    pooled.docker("run", "-d", "--name", "one", "busybox", "sleep", "1000")
    pooled.kill()
    pooled.start()
    pooled.docker("run", "-d", "--name", "two", "busybox", "sleep", "1000")
    assert uid_map(pooled, "one") != uid_map(pooled, "two")
    assert pooled.docker("exec", "one", "id", "-u").stdout == "0\n"


def test_what_the_machines_ids_are_needed_for(pooled: Daemon) -> None:
    for options in (("--privileged",), ("--pid", "host"), ("--network", "host")):
        done = pooled.docker("run", "--rm", *options, "busybox", "true", check=False)
        assert "user namespace" in done.stderr
        pooled.docker("run", "--rm", *options, "--userns", "host", "busybox", "true")
    pooled.docker("create", "--name", "made", "--userns", "host", "busybox")
    assert pooled.inspect("made")["HostConfig"]["UsernsMode"] == "host"
    assert "name=userns" in pooled.docker("info", "-f", "{{.SecurityOptions}}").stdout


def test_sizes(pooled: Daemon) -> None:
    done = pooled.corten("run", "--rm", "--userns", "auto:size=70", "busybox", "cat", "/proc/self/uid_map")
    assert done.stdout.split() == ["0", str(FIRST), "70"]
    done = pooled.corten("run", "--rm", "--userns", "auto:size=none", "busybox", "true", check=False)
    assert "invalid user namespace mode: auto:size=none" in done.stderr


@pytest.mark.needs("nf_tables")
def test_remapped_with_a_network(tmp_path: Path, busybox_tar: Path, cgroup_parent: str) -> None:
    """``userns-remap``: the same ids for all, and network namespaces that belong to them."""
    made = Daemon(tmp_path, "--userns-remap", "daemon")
    with granted(f"daemon:{FIRST}:{COUNT}\n", tmp_path):
        made.start()
        try:
            made.import_busybox(busybox_tar)
            root = made.data_root / f"{FIRST}.{FIRST}"
            assert made.docker("info", "-f", "{{.DockerRootDir}}").stdout.strip() == str(root)
            assert (root / "containers").is_dir()
            ports = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
            script = f"cat /proc/self/uid_map; ls /sys/class/net; ip link set lo down; cat {ports}"
            done = made.docker("run", "--rm", "--cap-add", "NET_ADMIN", "busybox", "sh", "-c", script)
            assert done.stdout.split() == ["0", str(FIRST), str(COUNT), "eth0", "lo", "0"]
            made.docker("run", "-d", "--name", "peer", "--ipc", "shareable", "busybox", "httpd", "-f", "-h", "/etc")
            address = made.inspect("peer")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
            done = made.docker("run", "--rm", "busybox", "wget", "-qO-", f"http://{address}/passwd")
            assert done.stdout.startswith("root:")
            done = made.docker("run", "--rm", "--ipc", "container:peer", "busybox", "ls", "/sys/class/net")
            assert done.stdout.split() == ["eth0", "lo"]
        finally:
            made.remove_containers()
            made.stop()


@contextlib.contextmanager
def granted(lines: str, directory: Path) -> Iterator[None]:
    """Subordinate ids that daemons find in the files while the block runs; the files stay as they are."""
    file = directory / "granted"
    file.write_text(lines)
    with contextlib.ExitStack() as stack:
        for path in ("/etc/subuid", "/etc/subgid"):
            if not Path(path).exists():
                pytest.skip(f"{path} is missing")
            mount.mount(str(file), path, "", mount.MS_BIND)
            stack.callback(mount.umount2, path, mount.MNT_DETACH)
        yield
