"""What all tests share: skipping, daemons, base images, and the check that nothing is left behind."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import machine
from daemons import Daemon, Dockerd
from machine import BUSYBOX, lacking

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        where = Path(item.fspath).relative_to(HERE).parts[0]
        if where in ("engine", "clients", "faults"):
            item.add_marker(pytest.mark.root)
            # one worker for everything that looks at the machine's mounts and cgroups
            item.add_marker(pytest.mark.xdist_group("machine"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    wanted = [name for marker in item.iter_markers("needs") for name in marker.args]
    if item.get_closest_marker("root"):
        wanted.insert(0, "root")
    lacking(*wanted)


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test that touches the machine, the machine is as it was, and so is the daemon that all share."""
    if not request.node.get_closest_marker("root") or os.geteuid() != 0:
        yield
        return
    name = next((name for name in ("daemon", "networked") if name in request.fixturenames), "")
    shared: Daemon | None = request.getfixturevalue(name) if name else None
    before = machine.machine_state()
    held = shared.state() if shared else {}
    yield
    if shared:
        shared.remove_containers()
    extra = machine.leaked(before)
    assert not extra, f"left behind: {extra}"
    if shared:
        extra = machine.leaked(held, shared.state)
        assert not extra, f"the daemon holds more than before: {extra}"


# -- root file systems and images ---------------------------------------------------------------------

APPLETS = """
" [ ash basename cat chmod chown cp cut date dd df dirname echo env false find grep head hostname httpd id ip
kill ln ls md5sum mkdir mkfifo mknod mount mv nc nslookup ping printf ps pwd readlink rm rmdir sed seq sh
sleep sort stat stty sync tail tar tee test time timeout top touch tr true tty umount uname uniq vi wc wget
which whoami xargs yes
"""


def make_busybox_rootfs(target: Path) -> None:
    (target / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, target / "bin/busybox")
    for name in APPLETS.split():
        (target / "bin" / name).symlink_to("busybox")
    for name in ("dev", "etc", "proc", "root", "sys", "tmp", "var"):
        (target / name).mkdir()
    (target / "tmp").chmod(0o1777)
    (target / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n")
    (target / "etc/group").write_text("root:x:0:\nbob:x:1000:\nextra:x:50:bob\n")


@pytest.fixture(scope="session")
def busybox_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system as a tar."""
    lacking("busybox")
    directory = tmp_path_factory.mktemp("busybox")
    make_busybox_rootfs(directory / "rootfs")
    archive = directory / "busybox.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(directory / "rootfs", arcname=".", filter=owned_by_root)
    return archive


def owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


@pytest.fixture
def busybox_rootfs(tmp_path: Path) -> Path:
    lacking("busybox")
    make_busybox_rootfs(tmp_path / "rootfs")
    return tmp_path / "rootfs"


# -- daemons ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def cgroup_parent() -> Iterator[str]:
    """The parent of this run's containers is gone when all daemons are."""
    yield machine.CGROUP_PARENT
    machine.remove_cgroup_parent()


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory, busybox_tar: Path, cgroup_parent: str) -> Iterator[Daemon]:
    """One daemon with a busybox image for all tests that leave it as they found it."""
    lacking("root", "docker")
    # without a default network, as the dockerd that it is compared with
    made = Daemon(tmp_path_factory.mktemp("daemon"), "--bridge", "none", "--userns-pool", "720000000:65536")
    made.start()
    made.import_busybox(busybox_tar)
    yield made
    made.remove_containers()
    made.stop()


@pytest.fixture(scope="session")
def networked(tmp_path_factory: pytest.TempPathFactory, busybox_tar: Path, cgroup_parent: str) -> Iterator[Daemon]:
    """One daemon with the default network, whose bridge is there, for all tests that leave it as they found it."""
    lacking("root", "docker", "nf_tables")
    made = Daemon(tmp_path_factory.mktemp("networked"))
    made.start()
    made.import_busybox(busybox_tar)
    made.docker("run", "--rm", "busybox", "true")
    yield made
    made.remove_containers()
    made.stop()


@pytest.fixture
def fresh_daemon(tmp_path: Path, busybox_tar: Path, cgroup_parent: str) -> Iterator[Daemon]:
    """A daemon of the test's own, to be killed and started again."""
    lacking("root", "docker")
    made = Daemon(tmp_path / "d")
    made.start()
    made.import_busybox(busybox_tar)
    yield made
    if made.process is not None and made.process.poll() is not None:
        made.start()
    made.remove_containers()
    made.stop()


@pytest.fixture(scope="session")
def dockerd(tmp_path_factory: pytest.TempPathFactory, busybox_tar: Path, cgroup_parent: str) -> Iterator[Dockerd]:
    """Debian's dockerd with the same image, to compare with."""
    lacking("root", "docker", "dockerd")
    made = Dockerd(tmp_path_factory.mktemp("dockerd"))
    try:
        made.start()
        made.import_busybox(busybox_tar)
        yield made
        made.remove_containers()
    finally:
        made.stop()
